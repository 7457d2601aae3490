//! One address: its connections, and the waiters for their streams.
//!
//! # Protocol
//!
//! * `list` holds the connections that may take streams. It changes only with `slow` held; a get reads it under a shard of the
//!   reader's own, and takes a stream of a connection with one compare-exchange, bounded by that connection's limit.
//! * A get that finds none joins `slow.queue`, in order. `waiting` mirrors the queue's length: while it is not zero a get queues up too,
//!   so no waiter is overtaken.
//! * **No wake-up is lost**: a get that joins stores `waiting` and then looks for room (in `serve`); the return of a stream lowers
//!   `streams` and then looks at `waiting`. All four are SeqCst, so at least one of the two sees the other.
//! * Whatever may have made room (a stream that came back, a connection that became Ready, a limit that rose) ends in
//!   [`serve`](Address::serve): under the lock it hands streams to the waiters in front and adds connections for those that
//!   are left; the waiters are notified, and the connections dialed, after the lock is released, because that runs foreign code.
//! * A connection leaves the list permanently when it is lost, failed, grown old or not needed. Its streams go on; its socket closes
//!   with the last of them, because each holds the [`Member`].
//! * The group calls [`changed`](Watcher::changed) with no lock held, in no order; what it finds under the lock counts.
//!
//! # How many connections
//!
//! For `n` streams as many as their limits require, and up to one a core if each has [`SPREAD_AT`] or more: a connection
//! is driven by one task, so that on one core they would only cost system calls. Until the server has announced its limit, the
//! first connection is dialed alone, so a burst does not overshoot; then all that are needed at once, at the gate's pace.

use std::collections::VecDeque;

use crossbeam_utils::CachePadded;
use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::builder::{Config, Overflow};
use super::member::{Member, Slot};
use super::waiter::{Pending, Waiter};
use crate::grpc::config::Settings;
use crate::grpc::conn::shared::Shared;
use crate::grpc::conn::{ClientConn, ConnectivityState};
use crate::grpc::error::Error;
use crate::grpc::group::{Group, Watcher};
use crate::grpc::link::slots::ASSUMED;
use crate::grpc::sizing::{SPREAD_AT, needed};
use crate::primitive::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use crate::primitive::{Arc, Mutex, PoisonError, Weak};

/// Up to so many connections are all looked at for the one with the fewest streams; of more, two at random.
const LOOK_AT_ALL: usize = 8;

/// Windows of the keeper's over which demand is remembered: together they are one ttl.
pub(super) const WINDOWS: usize = 4;

/// An address that nobody has asked for in so many ttls is forgotten, its warm connections too.
const UNUSED: u32 = 10;

pub(super) struct Address {
    /// Its key in the pool's map: the name, and the authority that it has for itself.
    pub(super) key: Arc<str>,
    /// As it was given, or found.
    pub(super) name: Arc<str>,
    pub(super) config: Arc<Config>,
    pub(super) settings: Arc<Settings>,
    pub(super) group: Arc<Group>,
    list: ShardedLock<Vec<Arc<Member>>>,
    slow: Mutex<Slow>,
    /// Streams under way on all connections, and the most that they have been since the keeper looked last. On a line of
    /// their own: each get and each drop writes here.
    streams: CachePadded<Streams>,
    /// Mirror of `slow.queue.len()`.
    waiting: AtomicUsize,
    /// Mirror of `list.len()`.
    connections: AtomicUsize,
    /// Whether the last thing heard from there was a failure to connect.
    failing: AtomicBool,
    /// Sets of addresses that this is in: they keep it connected.
    pub(super) sets: AtomicUsize,
    /// A connection was added that is not Ready yet, because of [`SPREAD_AT`]: no other for the same reason.
    spreading: AtomicBool,
    /// What the server has last said that it takes, within the configuration's limit; 0 until then. That it takes nothing for
    /// now says nothing of how many connections are needed.
    known_limit: AtomicU32,
}

struct Streams {
    now: AtomicU32,
    peak: AtomicU32,
}

struct Slow {
    queue: VecDeque<Arc<Waiter>>,
    /// Entries of `queue` that nobody waits for any more. Below zero for a moment, when one has been taken out before it was
    /// counted.
    gone: isize,
    /// Out of the list, with streams that may still run.
    retired: Vec<Weak<Member>>,
    closed: bool,
    /// Streams and waiters at most, in the last windows.
    demand: [u32; WINDOWS],
    last_used: Instant,
    /// Whether that is so long ago that no connection is kept for its own sake.
    forgotten: bool,
}

/// What to do when the lock is released.
#[derive(Default)]
struct Later {
    granted: Vec<(Arc<Waiter>, Slot)>,
    failed: Vec<Arc<Waiter>>,
    dial: Vec<ClientConn>,
    discard: Option<Arc<Member>>,
    nudge: Vec<Arc<Waiter>>,
    /// Connections whose last handle this may be.
    released: Vec<Arc<Member>>,
}

/// What a get has come to.
pub(super) enum Got {
    Slot(Slot),
    Pending(Pending),
}

impl Address {
    pub(super) fn new(key: Arc<str>, name: Arc<str>, settings: Settings, config: Arc<Config>) -> Arc<Self> {
        let group = Group::new(settings.tuning.backoff, None);
        let address = Arc::new(Address {
            key,
            name,
            config,
            settings: Arc::new(settings),
            group,
            list: ShardedLock::new(Vec::new()),
            slow: Mutex::new(Slow {
                queue: VecDeque::new(),
                gone: 0,
                retired: Vec::new(),
                closed: false,
                demand: [0; WINDOWS],
                last_used: Instant::now(),
                forgotten: false,
            }),
            streams: CachePadded::new(Streams { now: AtomicU32::new(0), peak: AtomicU32::new(0) }),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            sets: AtomicUsize::new(0),
            spreading: AtomicBool::new(false),
            known_limit: AtomicU32::new(0),
        });
        let this = Arc::downgrade(&address);
        address.group.watch(this);
        address
    }

    // ── get ──

    /// A stream, or a place in the queue for one.
    pub(super) fn get(self: &Arc<Self>) -> Result<Got, Error> {
        match self.try_get() {
            Some(slot) => {
                self.consider_spreading(&slot);
                Ok(Got::Slot(slot))
            }
            None => self.get_slowly(),
        }
    }

    /// A stream, if one is free and nobody waits for it.
    #[inline]
    pub(super) fn try_get(&self) -> Option<Slot> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.pick()
    }

    /// A stream of the Ready connection that has the fewest.
    #[inline]
    fn pick(&self) -> Option<Slot> {
        let list = read(&self.list);
        match list.as_slice() {
            [] => None,
            [only] if only.is_ready() => only.try_take(),
            few if few.len() <= LOOK_AT_ALL => least(few.iter()),
            many => {
                let two = [0; 2].map(|_| &many[fastrand::usize(..many.len())]);
                least(two.into_iter()).or_else(|| least(many.iter()))
            }
        }
    }

    /// Another connection beside those that have room, if their streams are reason for one. For a caller that has taken one, with no lock
    /// held.
    #[inline]
    pub(super) fn consider_spreading(self: &Arc<Self>, slot: &Slot) {
        if slot.member().streams() > SPREAD_AT
            && self.connections.load(Ordering::Relaxed) < self.config.spread
            && !self.spreading.load(Ordering::Relaxed)
        {
            self.spread();
        }
    }

    #[cold]
    fn spread(self: &Arc<Self>) {
        self.locked(|slow, later| {
            let list = read(&self.list).clone();
            let busy = |member: &Arc<Member>| member.is_ready() && member.streams() >= SPREAD_AT;
            if !slow.closed && list.len() < self.config.spread && list.iter().all(busy) {
                self.spreading.store(true, Ordering::Relaxed);
                later.dial.push(self.add());
            }
        });
    }

    #[cold]
    pub(super) fn get_slowly(self: &Arc<Self>) -> Result<Got, Error> {
        self.locked(|slow, later| {
            if slow.closed {
                return Err(Error::Closed);
            }
            slow.last_used = Instant::now();
            slow.forgotten = false;
            let queued = slow.queued();
            if queued == 0
                && let Some(slot) = self.pick_under_lock()
            {
                return Ok(Got::Slot(slot));
            }
            if queued >= self.room_to_come() {
                match self.config.overflow {
                    Overflow::Wait => {}
                    Overflow::Fail => return Err(Error::Exhausted { target: Arc::clone(&self.name) }),
                    Overflow::Unpooled => {
                        let member = Arc::new(self.make(false));
                        slow.retire(&member);
                        later.dial.push(member.conn.clone());
                        return Ok(Got::Slot(member.take_unpooled()));
                    }
                }
            }
            let waiter = Waiter::new();
            slow.queue.push_back(Arc::clone(&waiter));
            self.serve_into(slow, later);
            Ok(Got::Pending(Pending::new(Arc::clone(self), waiter)))
        })
    }

    /// As `pick`, where a second connection for the sake of a core must wait.
    fn pick_under_lock(&self) -> Option<Slot> {
        least(read(&self.list).iter())
    }

    /// How many waiters may expect a stream of a connection that is not Ready yet.
    fn room_to_come(&self) -> usize {
        let list = read(&self.list);
        let to_come = list.iter().filter(|member| member.is_on_its_way()).count()
            + self.config.size.saturating_sub(list.len());
        to_come.saturating_mul(self.limit() as usize)
    }

    /// What a connection takes, as far as that is known.
    fn limit(&self) -> u32 {
        match self.known_limit.load(Ordering::Relaxed) {
            0 => self.config.capped(ASSUMED),
            known => known,
        }
    }

    // ── the queue ──

    /// Under the lock, and what must not be done under it, after.
    fn locked<R>(self: &Arc<Self>, change: impl FnOnce(&mut Slow, &mut Later) -> R) -> R {
        let mut later = Later::default();
        let result = change(&mut self.slow.lock(), &mut later);
        self.carry_out(later);
        result
    }

    /// Hands out what there is, in order, and sees to what is missing.
    fn serve(self: &Arc<Self>) {
        self.locked(|slow, later| self.serve_into(slow, later));
    }

    fn serve_into(self: &Arc<Self>, slow: &mut Slow, later: &mut Later) {
        // Before the look for room: see the head of this file.
        self.waiting.store(slow.queue.len(), Ordering::SeqCst);
        while let Some(waiter) = slow.next() {
            match self.pick_under_lock() {
                Some(slot) => later.granted.push((waiter, slot)),
                None => {
                    slow.put_back(waiter);
                    break;
                }
            }
        }
        self.waiting.store(slow.queue.len(), Ordering::SeqCst);
        self.add_what_is_missing(slow, later);
    }

    fn add_what_is_missing(self: &Arc<Self>, slow: &Slow, later: &mut Later) {
        if slow.closed {
            return;
        }
        let list = read(&self.list);
        let coming = list.iter().filter(|member| member.is_on_its_way()).count();
        let here = list.len();
        let none_allowed =
            list.iter().any(|member| member.is_ready() && member.was_ready() && member.limit() == 0);
        drop(list);
        let waiting = slow.queued();
        let wanted = match self.known_limit.load(Ordering::Relaxed) {
            // A server that takes nothing now will not take more for being asked twice.
            _ if none_allowed => 0,
            // One at a time, until a server has announced its limit.
            0 => usize::from(waiting > 0),
            limit => waiting.div_ceil(limit as usize),
        };
        let most = self.config.size.saturating_sub(here);
        let kept = self.kept(slow).saturating_sub(here);
        for _ in 0..wanted.saturating_sub(coming).max(kept).min(most) {
            later.dial.push(self.add());
        }
    }

    /// How many there should be, used or not.
    fn kept(&self, slow: &Slow) -> usize {
        let in_set = self.sets.load(Ordering::Relaxed) > 0;
        if slow.forgotten { 0 } else { self.config.min_idle.max(usize::from(in_set)) }
    }

    fn carry_out(self: &Arc<Self>, later: Later) {
        for (waiter, slot) in later.granted {
            waiter.grant(slot);
        }
        if let Some(member) = later.discard {
            let error = member.conn.shared.failure().unwrap_or(Error::Closed);
            member.conn.shared.discard();
            for waiter in later.failed {
                waiter.fail(error.clone());
            }
        }
        drop(later.released);
        for waiter in later.nudge {
            waiter.nudge();
        }
        if !later.dial.is_empty() && Handle::try_current().is_ok() {
            for conn in later.dial {
                conn.connect();
            }
        }
    }

    /// Dials the connections that were added where there was no runtime, or whose runtime has ended.
    pub(super) fn dial_what_is_due(&self) -> Result<(), Error> {
        let due: Vec<_> = read(&self.list)
            .iter()
            .filter(|member| member.is_on_its_way() && member.conn.state() == ConnectivityState::Idle)
            .map(|member| member.conn.clone())
            .collect();
        due.iter().try_for_each(|conn| conn.shared.dial())
    }

    /// A waiter in the queue has given up.
    pub(super) fn waiter_left(&self) {
        let mut slow = self.slow.lock();
        slow.gone += 1;
        if slow.gone > slow.queue.len() as isize / 2 {
            let before = slow.queue.len();
            slow.queue.retain(|waiter| !waiter.is_gone());
            slow.gone -= (before - slow.queue.len()) as isize;
            self.waiting.store(slow.queue.len(), Ordering::SeqCst);
        }
    }

    /// A stream was taken. Relaxed here and in `released`: nothing follows from one number having its value when another has its.
    #[inline]
    pub(super) fn began(&self) {
        let now = self.streams.now.fetch_add(1, Ordering::Relaxed) + 1;
        if now > self.streams.peak.load(Ordering::Relaxed) {
            self.streams.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// A stream came back.
    #[inline]
    pub(super) fn released(self: &Arc<Self>, member: &Arc<Member>, last: bool) {
        self.streams.now.fetch_sub(1, Ordering::Relaxed);
        // SeqCst: see the head of this file.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve();
        } else if last && self.connections.load(Ordering::Relaxed) > self.config.max_idle {
            self.let_go_of_idle(member);
        }
    }

    #[cold]
    fn let_go_of_idle(self: &Arc<Self>, member: &Arc<Member>) {
        self.locked(|slow, later| {
            let idle = |other: &&Arc<Member>| other.was_ready() && other.streams() == 0;
            let most = self.config.max_idle.max(self.kept(slow));
            if read(&self.list).iter().filter(idle).count() > most {
                later.released.extend(self.remove(slow, member.id));
            }
        });
    }

    // ── connections ──

    fn make(self: &Arc<Self>, pooled: bool) -> Member {
        let joined = self.group.join(|membership, closed| {
            let settings = if closed { Err(Error::Closed) } else { Ok(Arc::clone(&self.settings)) };
            Shared::new(settings, Some(membership))
        });
        Member::new(self, joined, pooled, self.config.ttl)
    }

    /// One more in the list. Under the lock; to be dialed after it.
    fn add(self: &Arc<Self>) -> ClientConn {
        let member = Arc::new(self.make(true));
        let conn = member.conn.clone();
        let mut list = write(&self.list);
        list.push(member);
        self.connections.store(list.len(), Ordering::Relaxed);
        conn
    }

    /// Out of the list, under the lock. What it returns is to be dropped after it.
    #[must_use]
    fn remove(&self, slow: &mut Slow, id: u64) -> Option<Arc<Member>> {
        let mut list = write(&self.list);
        let place = list.iter().position(|member| member.id == id)?;
        let member = list.swap_remove(place);
        self.connections.store(list.len(), Ordering::Relaxed);
        drop(list);
        slow.retire(&member);
        Some(member)
    }

    fn on_change(self: &Arc<Self>, id: u64) {
        self.locked(|slow, later| {
            let found = read(&self.list).iter().find(|member| member.id == id).cloned();
            let Some(member) = found else { return };
            match member.conn.state() {
                ConnectivityState::Ready => {
                    if let Some(limit) = member.conn.shared.stream_limit() {
                        let limit = self.config.capped(limit);
                        member.open(limit);
                        if limit > 0 {
                            self.known_limit.store(limit, Ordering::Relaxed);
                        }
                    }
                    self.failing.store(false, Ordering::Relaxed);
                    self.spreading.store(false, Ordering::Relaxed);
                }
                ConnectivityState::Connecting => return,
                // Its dial was given up with its runtime; the waiters dial on their own.
                ConnectivityState::Idle if member.conn.shared.is_untried() => {
                    later.nudge.extend(slow.queue.iter().cloned());
                }
                // Lost, perhaps before anybody here heard that it was Ready.
                ConnectivityState::Idle => {
                    later.released.extend(self.remove(slow, id));
                    self.spreading.store(false, Ordering::Relaxed);
                }
                ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                    later.discard = self.remove(slow, id);
                    self.spreading.store(false, Ordering::Relaxed);
                    let usable = |other: &Arc<Member>| other.is_ready() || other.is_on_its_way();
                    if !read(&self.list).iter().any(usable) {
                        self.failing.store(true, Ordering::Relaxed);
                        later.failed.extend(std::iter::from_fn(|| slow.next()));
                    }
                }
            }
            self.serve_into(slow, later);
            later.released.push(member);
        });
    }

    // ── what the keeper and others ask ──

    /// Has a connection, if there should be one, and one that is dialed.
    pub(super) fn warm(self: &Arc<Self>) {
        self.serve();
        // Where there is no runtime there is nothing to be done about it.
        let _ = self.dial_what_is_due();
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn is_ready(&self) -> bool {
        read(&self.list).iter().any(|member| member.is_ready())
    }

    /// Streams under way, and waiters for one.
    pub(super) fn load(&self) -> usize {
        self.streams.now.load(Ordering::Relaxed) as usize + self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.slow.lock().queued()
    }

    /// The connections of the list, and those that run out.
    pub(super) fn members(&self) -> (Vec<Arc<Member>>, Vec<Arc<Member>>) {
        let slow = self.slow.lock();
        let list = read(&self.list).clone();
        let retired = slow.retired.iter().filter_map(Weak::upgrade).collect();
        drop(slow);
        (list, retired)
    }

    /// How many connections `streams` need.
    fn needed(&self, streams: u32) -> usize {
        needed(streams, self.limit(), self.config.spread).min(self.config.size)
    }

    /// The keeper's round, each `ttl / WINDOWS`: lets go of what demand does not need any more, and of what has grown old once
    /// there is another in its place. False: nobody has use for the address any more.
    pub(super) fn look_after(self: &Arc<Self>) -> bool {
        // Dials that were begun elsewhere may have ended with their runtime.
        let _ = self.dial_what_is_due();
        let now = Instant::now();
        self.locked(|slow, later| {
            if slow.closed {
                return false;
            }
            let list = read(&self.list).clone();
            let now_under_way = self.streams.now.load(Ordering::Relaxed);
            let peak = self.streams.peak.swap(now_under_way, Ordering::Relaxed).max(now_under_way);
            let streams = peak.saturating_add(slow.queued() as u32);
            slow.demand.rotate_right(1);
            slow.demand[0] = streams;
            slow.retired.retain(|member| member.strong_count() > 0);
            if streams > 0 || self.sets.load(Ordering::Relaxed) > 0 || !slow.retired.is_empty() {
                slow.last_used = now;
            }
            let unused = now.duration_since(slow.last_used);
            let ttl = self.config.ttl;
            slow.forgotten = unused > ttl.saturating_mul(UNUSED);
            let kept = self.kept(slow);
            let for_windows =
                |windows: &[u32]| self.needed(windows.iter().copied().max().unwrap_or(0)).max(kept);
            let (now_and_before, lately) = (for_windows(&slow.demand), for_windows(&slow.demand[..2]));
            self.replace(&list, now_and_before, lately, now, slow, later);
            later.released.extend(list);
            // The one that was on its way may have been let go.
            self.spreading
                .store(read(&self.list).iter().any(|member| member.is_on_its_way()), Ordering::Relaxed);
            let empty = self.connections.load(Ordering::Relaxed) == 0 && slow.queued() == 0;
            !(empty && slow.retired.is_empty() && kept == 0 && unused >= ttl)
        })
    }

    /// Lets go of young connections above `needed`, and renews old ones as far as they were needed `lately`. One that has grown
    /// old stays until there is a Ready one in its place, unless `size` leaves no room for both.
    fn replace(
        self: &Arc<Self>,
        list: &[Arc<Member>],
        needed: usize,
        lately: usize,
        now: Instant,
        slow: &mut Slow,
        later: &mut Later,
    ) {
        let (mut old, mut young): (Vec<_>, Vec<_>) =
            list.iter().partition(|member| member.due.is_some_and(|due| due <= now));
        let ready = young.iter().filter(|member| member.is_ready()).count();
        let mut keep_old = lately.saturating_sub(ready).min(old.len());
        // No more than there are to be renewed: what waiters need beyond, `add_what_is_missing` knows better.
        let mut more = lately.saturating_sub(young.len()).min(old.len());
        let room = self.config.size.saturating_sub(young.len() + keep_old);
        if more > 0 && room == 0 && keep_old > 0 {
            keep_old -= 1;
            more = 1;
        } else {
            more = more.min(room);
        }
        // Those with the fewest streams go first; what is not Ready yet, before.
        let by_use = |member: &&Arc<Member>| (member.is_ready(), member.streams());
        old.sort_by_key(by_use);
        young.sort_by_key(by_use);
        let surplus = young.len().saturating_sub(needed);
        for member in old.iter().take(old.len() - keep_old).chain(young.iter().take(surplus)) {
            later.released.extend(self.remove(slow, member.id));
        }
        for _ in 0..more {
            later.dial.push(self.add());
        }
    }

    /// No more streams; those that run have the configuration's grace.
    pub(super) fn close(self: &Arc<Self>) {
        for member in self.empty() {
            member.conn.close();
        }
    }

    /// No more streams; those that run go on. The waiters fail. Returns the connections, including those that
    /// were running out.
    pub(super) fn empty(self: &Arc<Self>) -> Vec<Arc<Member>> {
        let (waiters, members) = {
            let mut slow = self.slow.lock();
            slow.closed = true;
            let waiters: Vec<_> = std::iter::from_fn(|| slow.next()).collect();
            self.waiting.store(0, Ordering::SeqCst);
            let mut members: Vec<_> = slow.retired.drain(..).filter_map(|member| member.upgrade()).collect();
            members.append(&mut write(&self.list));
            self.connections.store(0, Ordering::Relaxed);
            (waiters, members)
        };
        for waiter in waiters {
            waiter.fail(Error::Closed);
        }
        members
    }
}

impl Slow {
    fn retire(&mut self, member: &Arc<Member>) {
        // Not left to the keeper alone, which may come by once in a year.
        if self.retired.len() == self.retired.capacity() {
            self.retired.retain(|member| member.strong_count() > 0);
            self.retired.reserve(self.retired.len() + 1);
        }
        self.retired.push(Arc::downgrade(member));
    }

    /// How many wait.
    fn queued(&self) -> usize {
        self.queue.len().saturating_add_signed(-self.gone)
    }

    /// The first in the queue that still waits.
    fn next(&mut self) -> Option<Arc<Waiter>> {
        while let Some(waiter) = self.queue.pop_front() {
            if waiter.take() {
                return Some(waiter);
            }
            self.gone -= 1;
        }
        None
    }

    fn put_back(&mut self, waiter: Arc<Waiter>) {
        // A waiter that has left in the meantime was not in the queue, and did not count.
        if waiter.put_back() {
            self.queue.push_front(waiter);
        }
    }
}

pub(super) fn read<T>(lock: &ShardedLock<T>) -> ShardedLockReadGuard<'_, T> {
    // Nothing under these locks can panic.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &ShardedLock<T>) -> ShardedLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A stream of the Ready one that has the fewest of them.
#[inline]
fn least<'a>(members: impl Iterator<Item = &'a Arc<Member>> + Clone) -> Option<Slot> {
    loop {
        let open = members.clone().filter(|member| member.is_ready());
        let (best, streams) = open
            .map(|member| (member, member.streams()))
            .filter(|(member, streams)| *streams < member.limit())
            .min_by_key(|(_, streams)| *streams)?;
        match best.try_take() {
            Some(slot) => return Some(slot),
            // Somebody else took the last one.
            None if streams < best.limit() => {}
            None => return None,
        }
    }
}

impl Watcher for Address {
    fn changed(self: Arc<Self>, member: u64) {
        self.on_change(member);
    }
}
