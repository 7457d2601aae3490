//! What the connections of one pool have in common: the gate, the limit of sockets, the counters, the list.
//!
//! A connection tells the group of its end and a socket of its close, so that the pool can account for each.
//! Every member ends in one of two ways, once: **discarded**, for a reason, or **released**, when its last handle
//! is dropped. No lock of the group is held while a connection's own lock is taken, or one is dropped.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;

use tokio::sync::Semaphore;

use super::conn::ClientConn;
use super::conn::membership::{Membership, Pool};
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
    /// Who wants to know when a member's state or limit has changed.
    watcher: OnceLock<Weak<dyn Watcher>>,
    /// Mirror of `members.closed`, for each put.
    closed: AtomicBool,
}

/// Told of its members' changes, with no lock held.
pub(crate) trait Watcher: Send + Sync {
    fn changed(self: Arc<Self>, member: u64);
}

struct Limit {
    connections: NonZeroUsize,
    /// One permit a socket, from its dial to its close.
    sockets: Arc<Semaphore>,
}

#[derive(Default)]
struct Members {
    /// Connections that are not shut down. An entry is removed by its connection, so it points at nothing only
    /// while that is on its way.
    list: BTreeMap<u64, Member>,
    /// Connections that are shut down, but not gone: calls may run on their old sockets, and `close` cuts those, too.
    shut_down: BTreeMap<u64, Weak<Shared>>,
    last_id: u64,
    /// The member that was shared last; the next in turn is shared next.
    cursor: u64,
    closed: bool,
}

struct Member {
    conn: Weak<Shared>,
    /// How many have it out of the pool. This and `stocked` are kept only where the pool is limited: only there it can
    /// be more than one.
    out: usize,
    /// Whether the stock has a handle of it. (Ageing may have dropped that since.)
    stocked: bool,
}

/// What becomes of a connection that comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Return {
    Keep,
    Discard,
    /// Others still have it, or the stock does.
    LetGo,
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

    /// Makes a member, unless there are as many as may be. `make` gets its membership, and whether the pool is closed.
    pub(crate) fn try_join(
        self: &Arc<Self>,
        make: impl FnOnce(Membership, bool) -> Arc<Shared>,
    ) -> Option<ClientConn> {
        let mut members = self.members.lock();
        if self.limit.as_ref().is_some_and(|limit| members.list.len() >= limit.connections.get()) {
            return None;
        }
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
        members.list.insert(id, Member { conn: Arc::downgrade(&shared), out: 1, stocked: false });
        bump(&self.counters.made);
        self.counters.alive.fetch_add(1, Ordering::Relaxed);
        Some(ClientConn::from_shared(shared))
    }

    /// The member left the pool's stock for one more caller.
    #[inline]
    pub(crate) fn check_out(&self, id: u64) {
        if self.limit.is_some() {
            self.note_out(id);
        }
    }

    fn note_out(&self, id: u64) {
        if let Some(member) = self.members.lock().list.get_mut(&id) {
            member.stocked = false;
            member.out += 1;
        }
    }

    /// A caller gives the member back. One that is broken is discarded by the last who had it, and from then on
    /// handed to nobody.
    ///
    /// More may come back than went out, when a user puts clones.
    #[inline]
    pub(crate) fn check_in(&self, id: u64, broken: bool) -> Return {
        self.give_back(id, 1, broken)
    }

    /// The member was found broken in the pool's stock.
    pub(crate) fn found_broken(&self, id: u64) -> Return {
        self.give_back(id, 0, true)
    }

    #[inline]
    fn give_back(&self, id: u64, returned: usize, broken: bool) -> Return {
        match self.limit {
            Some(_) => self.note_back(id, returned, broken),
            None if broken => Return::Discard,
            None => Return::Keep,
        }
    }

    fn note_back(&self, id: u64, returned: usize, broken: bool) -> Return {
        let sound = if broken { Return::Discard } else { Return::Keep };
        let mut members = self.members.lock();
        let Some(member) = members.list.get_mut(&id) else { return sound };
        member.out = member.out.saturating_sub(returned);
        if returned == 0 {
            member.stocked = false;
        }
        if member.out > 0 || (member.stocked && !broken) {
            return Return::LetGo;
        }
        match broken {
            true => {
                let member = members.list.remove(&id);
                members.shut_down.extend(member.map(|member| (id, member.conn)));
            }
            false => member.stocked = true,
        }
        sound
    }

    /// Another member each time, in turn, checked out.
    pub(crate) fn share_next(&self) -> Option<(u64, ClientConn)> {
        let mut members = self.members.lock();
        let Members { list, cursor, .. } = &mut *members;
        let after = list.range((Bound::Excluded(*cursor), Bound::Unbounded));
        // An upgrade that succeeds is moved out, so no connection is dropped under the lock.
        let found = after.chain(list.iter()).find_map(|(id, member)| Some((*id, member.conn.upgrade()?)));
        let Some((id, shared)) = found else {
            // All are being dropped by other threads, which will not find their entries any more.
            list.clear();
            return None;
        };
        *cursor = id;
        if let Some(member) = list.get_mut(&id) {
            member.out += 1;
        }
        Some((id, ClientConn::from_shared(shared)))
    }

    pub(crate) fn members(&self) -> usize {
        self.members.lock().list.len()
    }

    /// Who has put a connection into the stock at the moment of the close may not be told: that one lies there, closed like all
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
        let conns = members.list.values().map(|member| &member.conn).chain(members.shut_down.values());
        conns.filter_map(Weak::upgrade).map(ClientConn::from_shared).collect()
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
        let mut members = self.members.lock();
        if let Some(entry) = members.list.remove(&member) {
            members.shut_down.insert(member, entry.conn);
        }
    }

    fn forget(&self, member: u64) {
        let mut members = self.members.lock();
        members.list.remove(&member);
        members.shut_down.remove(&member);
    }
}
