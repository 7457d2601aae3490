//! What the connections of one pool have in common: the gate, the limit of sockets, the counters, the list.
//!
//! A connection reports its end to the group, and a socket its close, so that the pool can account for each.
//! Every member ends in one of two ways, once: **discarded**, for a reason, or **released**, when its last handle
//! is dropped. No lock of the group is held while a connection's own lock is taken, or one is dropped.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use tokio::sync::Semaphore;

use super::conn::ClientConn;
use super::conn::membership::{Elsewhere, Membership, Pool, Why};
use super::conn::shared::Shared;
use super::counters::{Counters, bump};
use super::options::Backoff;
use super::server::Server;
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::{Arc, Mutex, OnceLock, Weak};

pub(crate) struct Group {
    /// What its connections have learned of their server.
    pub(crate) server: Arc<Server>,
    pub(crate) counters: Arc<Counters>,
    limit: Option<Limit>,
    members: Mutex<Members>,
    /// The pool, if it has a say in what its members do.
    watcher: OnceLock<Weak<dyn Watcher>>,
    /// Mirror of `members.closed`, for each put.
    closed: AtomicBool,
}

/// Called with no lock held.
pub(crate) trait Watcher: Send + Sync {
    /// The state of a member, or its limit of streams, has changed.
    fn changed(self: Arc<Self>, member: u64);

    /// See [`Pool::elsewhere`].
    fn elsewhere(self: Arc<Self>, tried: &[u64], why: Why) -> Option<Elsewhere> {
        let _ = (tried, why);
        None
    }
}

struct Limit {
    connections: NonZeroUsize,
    /// One permit a socket, from its dial to its close.
    sockets: Arc<Semaphore>,
}

#[derive(Default)]
struct Members {
    /// Connections that may be lent. An entry is removed by its connection, so it points at nothing only while that is on its
    /// way.
    list: BTreeMap<u64, Weak<Shared>>,
    /// Connections that are lent no more, but not gone: calls may run on their old sockets, and `close` cuts those, too.
    retired: BTreeMap<u64, Weak<Shared>>,
    last_id: u64,
    closed: bool,
}

/// The members of a group, while its lock is held.
pub(crate) struct Locked<'a> {
    group: &'a Arc<Group>,
    members: &'a mut Members,
    /// Those that may be lent, by age.
    pub(crate) alive: &'a [(u64, Arc<Shared>)],
}

impl Group {
    pub(crate) fn new(redial: Backoff, limit: Option<NonZeroUsize>) -> Arc<Self> {
        let limit = limit.map(|connections| Limit {
            connections,
            sockets: Arc::new(Semaphore::new(connections.get().min(Semaphore::MAX_PERMITS))),
        });
        Arc::new(Group {
            server: Arc::new(Server::new(redial)),
            counters: Arc::default(),
            limit,
            closed: AtomicBool::new(false),
            members: Mutex::new(Members::default()),
            watcher: OnceLock::new(),
        })
    }

    /// At most once.
    pub(crate) fn watch(&self, watcher: Weak<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// How many members there may be that can be lent.
    pub(crate) fn most(&self) -> usize {
        self.limit.as_ref().map_or(usize::MAX, |limit| limit.connections.get())
    }

    /// Runs `decide` on the members, under the lock.
    pub(crate) fn locked<R>(self: &Arc<Self>, decide: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        // Before the lock, so that it is dropped after: the last handle of a connection, perhaps.
        let mut alive = Vec::new();
        let mut members = self.members.lock();
        alive.extend(members.list.iter().filter_map(|(id, member)| Some((*id, member.upgrade()?))));
        decide(&mut Locked { group: self, members: &mut members, alive: &alive })
    }

    /// Makes a member. `make` gets its membership, and whether the pool is closed.
    pub(crate) fn join(
        self: &Arc<Self>,
        make: impl FnOnce(Membership, bool) -> Arc<Shared>,
    ) -> (u64, ClientConn) {
        self.join_locked(&mut self.members.lock(), make)
    }

    fn join_locked(
        self: &Arc<Self>,
        members: &mut Members,
        make: impl FnOnce(Membership, bool) -> Arc<Shared>,
    ) -> (u64, ClientConn) {
        members.last_id += 1;
        let id = members.last_id;
        let membership = Membership {
            id,
            pool: Arc::clone(self) as Arc<dyn Pool>,
            server: Arc::clone(&self.server),
            counters: Arc::clone(&self.counters),
            sockets: self.limit.as_ref().map(|limit| Arc::clone(&limit.sockets)),
        };
        let shared = make(membership, members.closed);
        members.list.insert(id, Arc::downgrade(&shared));
        bump(&self.counters.made);
        self.counters.alive.fetch_add(1, Ordering::Relaxed);
        (id, ClientConn::from_shared(shared))
    }

    /// A caller gives a broken member back. Returns whether that was its last handle: then the member is
    /// lent no more.
    pub(crate) fn give_up(&self, conn: &Shared, id: u64) -> bool {
        let mut members = self.members.lock();
        let last = conn.callers.remove() == 0;
        if last {
            members.retire(id);
        }
        last
    }

    /// How many callers all members have, those included that are lent no more.
    pub(crate) fn callers(&self) -> usize {
        let conns = self.members.lock().all();
        conns.iter().map(|conn| conn.callers.now() as usize).sum()
    }

    /// A put at the moment of the close may not see it. Its connection stays in the stock, closed like all
    /// members, until the next get discards it.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on members are made closed; those there are are returned.
    pub(crate) fn close(&self) -> Vec<ClientConn> {
        let mut members = self.members.lock();
        members.closed = true;
        self.closed.store(true, Ordering::Release);
        members.all().into_iter().map(ClientConn::from_shared).collect()
    }
}

impl Locked<'_> {
    pub(crate) fn join(&mut self, make: impl FnOnce(Membership, bool) -> Arc<Shared>) -> (u64, ClientConn) {
        self.group.join_locked(self.members, make)
    }

    /// The member is lent no more.
    pub(crate) fn retire(&mut self, id: u64) {
        self.members.retire(id);
    }
}

impl Members {
    /// To be dropped after the lock is released.
    fn all(&self) -> Vec<Arc<Shared>> {
        self.list.values().chain(self.retired.values()).filter_map(Weak::upgrade).collect()
    }

    fn retire(&mut self, id: u64) {
        if let Some(member) = self.list.remove(&id) {
            self.retired.insert(id, member);
        }
    }
}

impl Pool for Group {
    fn changed(&self, member: u64) {
        if let Some(watcher) = self.watcher.get().and_then(Weak::upgrade) {
            watcher.changed(member);
        }
    }

    /// It no longer counts against the limit.
    fn shut_down(&self, member: u64) {
        self.members.lock().retire(member);
    }

    fn forget(&self, member: u64) {
        let mut members = self.members.lock();
        members.list.remove(&member);
        members.retired.remove(&member);
    }

    fn elsewhere(&self, tried: &[u64], why: Why) -> Option<Elsewhere> {
        self.watcher.get().and_then(Weak::upgrade)?.elsewhere(tried, why)
    }
}
