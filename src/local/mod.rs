//! Per-thread shards of nodes, and the depot that they trade with.
//!
//! ```text
//!   thread A                thread B              any thread
//!  ┌───────────────┐       ┌─────────┐          ┌──────────────────────────┐
//!  │ up to 30      │       │         │  trade   │ depot: magazines         │
//!  │ spare: up to  │◀─────▶│  ...    │◀────────▶│ fresh   victim   expired │
//!  │   30 more     │       │         │          │ empty                    │
//!  └───────────────┘       └─────────┘          └──────────────────────────┘
//!   biased lock                                   exchanges
//! ```
//!
//! Nothing here knows what is pooled: a [`Node`] is a pointer to an object's memory, and [`Objects`] says how the object is
//! dropped and the memory freed. So objects stay where they were made, pointers travel, and this is compiled once.
//!
//! * **put** and **take** work on the own [shard](shard): a few plain loads and stores. A shard that overflows sends its spare
//!   [magazine](magazine) to the [depot](depot), one that runs empty gets one from there, so that objects that are put on one
//!   thread and taken on another travel a magazine at a time. Nodes whose object was taken by value stay as
//!   [blanks](rack) for the next put by value, and travel back in empty magazines.
//! * **take** looks in this order: own shard, the depot's fresh magazines, its victims, and at last the other threads'
//!   shards. See [`search`].
//! * **age**: see [`generations`].
//! * An owner that finds its shard claimed uses the depot for that operation: it never waits.
//! * No object is made, reset or dropped inside a shard, under a claim, or while pinned: a factory, a hook or a `Drop` may use
//!   the pool, take long or panic. An operation drops at most [`DROPS`] objects besides its own, and none if it is called
//!   by such a drop, so drops do not nest.
//! * A pool that must account for each node works by [trades](trade) where `take_own` and `put_own` do not serve it.

mod budget;
#[cfg(all(test, cenote_loom))]
pub(crate) mod census;
mod depot;
mod dispose;
mod generations;
mod magazine;
#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
pub(crate) mod models;
mod patience;
mod rack;
#[cfg(all(test, cenote_shuttle))]
mod schedules;
mod search;
mod shard;
mod stack;
mod trade;

use std::ptr::{self, NonNull};
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub(crate) use self::dispose::{Drain, Objects};
pub(crate) use self::rack::Node;
pub(crate) use self::trade::{Batch, Trade};

use self::depot::{Depot, Role, Turn};
use self::magazine::{Generation, Magazine};
use self::shard::{Inside, NeedsEmpty, Shard};
use crate::aging::AgingClock;
use crate::primitive::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::primitive::thread::{self, Dropping, Id};
use crate::stats::Stats;

/// How many objects besides its own one operation drops, at most.
const DROPS: usize = if cfg!(cenote_loom) { 1 } else { 8 };

/// How often a thread looks for its shard by a walk before its table grows for it.
const ADOPTIONS: u32 = 256;

/// How a pool keeps its objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// How long a generation lasts while the pool is in use; `None`: aging is by hand alone.
    pub(crate) period: Option<Duration>,
    /// How many objects may wait in the depot; `None`: any number.
    pub(crate) max_idle: Option<usize>,
    /// Whether an object is so expensive that the other shards are searched at each miss.
    pub(crate) is_expensive: bool,
    /// Whether takes and puts drop objects that have expired or find no room.
    pub(crate) drops_in_use: bool,
}

/// All that a pool holds. See the module's head for the protocol.
///
/// What every operation reads comes first, and what cold paths write often, the counters, last.
#[repr(C)]
pub(crate) struct Store {
    id: Id,
    objects: Objects,
    policy: Policy,
    cold: Cold,
}

#[repr(C)]
struct Cold {
    /// The shard that was made last; each leads to the one before. They live until the store is dropped.
    shards: AtomicPtr<Shard>,
    shard_count: AtomicU32,
    /// When all shards were searched last, in ms of the coarse clock, less what does not fit.
    last_search: AtomicU32,
    /// Of the [budget] for searches, what the pool has spent of its own.
    searches: AtomicU64,
    /// Made when it is first needed.
    depot: AtomicPtr<Depot>,
    turn: Turn,
    clock: AgingClock,
    /// [Trades](trade) of threads without a shard: those under way, and how many have begun.
    strangers: AtomicU32,
    /// Whether the store is [closed](Store::close).
    is_closed: AtomicBool,
    counters: Counters,
}

/// Where a take finds its object.
enum Found {
    /// Objects lie in the thread's own shard now.
    InShard,
    /// The hit is counted.
    Node(NonNull<()>),
    Nothing,
}

/// What a put needs room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// A node with an object.
    Node,
    /// An object, in a blank.
    Value,
}

/// Events off the hot path, counted by the thread that sees them. Relaxed: nothing follows from them.
struct Counters {
    /// What threads without a shard made and refused, and hits and puts that bypassed the shards.
    made: AtomicU64,
    refused: AtomicU64,
    hits: AtomicU64,
    puts: AtomicU64,
    /// The most that a snapshot has shown as kept.
    kept: AtomicU64,
    stolen: AtomicU64,
    shed: AtomicU64,
    aged: AtomicU64,
    cleared: AtomicU64,
    drained: AtomicU64,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

macro_rules! new_store {
    ($objects:expr, $policy:expr) => {
        Store {
            id: Id::new(),
            objects: $objects,
            policy: $policy,
            cold: Cold {
                shards: AtomicPtr::new(ptr::null_mut()),
                shard_count: AtomicU32::new(0),
                last_search: AtomicU32::new(0),
                searches: AtomicU64::new(0),
                depot: AtomicPtr::new(ptr::null_mut()),
                turn: Turn::new(),
                clock: AgingClock::new($policy.period),
                strangers: AtomicU32::new(0),
                is_closed: AtomicBool::new(false),
                counters: Counters {
                    made: AtomicU64::new(0),
                    hits: AtomicU64::new(0),
                    puts: AtomicU64::new(0),
                    kept: AtomicU64::new(0),
                    stolen: AtomicU64::new(0),
                    refused: AtomicU64::new(0),
                    shed: AtomicU64::new(0),
                    aged: AtomicU64::new(0),
                    cleared: AtomicU64::new(0),
                    drained: AtomicU64::new(0),
                },
            },
        }
    };
}

impl Store {
    /// # Safety
    ///
    /// Every node that is put must be one that `objects` can drop and free, on any thread, as long as the store lives.
    #[cfg(not(cenote_loom))]
    pub(crate) const unsafe fn new(objects: Objects, policy: Policy) -> Self {
        new_store!(objects, policy)
    }

    /// # Safety
    ///
    /// As without loom.
    #[cfg(cenote_loom)]
    pub(crate) unsafe fn new(objects: Objects, policy: Policy) -> Self {
        new_store!(objects, policy)
    }

    // ── hot ──

    /// The calling thread's shard, if its table leads there.
    #[inline(always)]
    fn shard(&self) -> Option<&Shard> {
        // SAFETY: under this store's id only `adopt` inserts, and what it inserts lives as long as the store.
        thread::find(&self.id).map(|shard| unsafe { shard.cast::<Shard>().as_ref() })
    }

    /// A node with an object that the pool holds. `None` if it has none, or none that can be reached without waiting for
    /// a thread that is at work on it.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<NonNull<()>> {
        self.take_own().or_else(|| self.take_cold())
    }

    /// Keeps a node and its object.
    #[inline(always)]
    pub(crate) fn put(&self, node: Node) {
        if !self.put_own(node) {
            self.put_cold(node);
        }
    }

    /// As `take`, by the one path that is fast.
    #[inline(always)]
    pub(crate) fn take_own(&self) -> Option<NonNull<()>> {
        self.shard()?.enter_fast()?.pop()
    }

    /// As `put`, by the one path that is fast. Returns whether the node was kept.
    #[inline(always)]
    pub(crate) fn put_own(&self, node: Node) -> bool {
        match self.shard().and_then(Shard::enter_fast) {
            Some(inside) => inside.push(node),
            None => false,
        }
    }

    /// As `take`, but the object is moved out by `read`, and the pool keeps the node. Returns false, without a call, if there
    /// is none.
    #[inline(always)]
    pub(crate) fn take_value(&self, mut read: impl FnMut(Node)) -> bool {
        if let Some(shard) = self.shard()
            && let Some(inside) = shard.enter_fast()
            && inside.take_value(&mut read)
        {
            return true;
        }
        self.take_value_cold(read)
    }

    /// As `put`, but the object is moved by `write` into a node that the thread has at hand, or into one that `make` allocates.
    /// `write` is called once.
    #[inline(always)]
    pub(crate) fn put_value(&self, write: impl Fn(Node), make: impl Fn() -> Node) {
        if let Some(shard) = self.shard()
            && let Some(inside) = shard.enter_fast()
            && inside.put_value(&write)
        {
            return;
        }
        self.put_value_cold(write, make);
    }

    // ── cold: the same where the owner passes a fence, where blanks are in the way, and where the shard must trade ──

    #[cold]
    #[inline(never)]
    fn take_cold(&self) -> Option<NonNull<()>> {
        let own = self.own();
        // A look at the number of objects spares a miss the way in.
        let pop = || NonNull::new(own.filter(|shard| shard.has_objects())?.enter()?.pop_any()?);
        pop().or_else(|| match self.stock_up(own) {
            Found::InShard => pop(),
            Found::Node(node) => Some(node),
            Found::Nothing => None,
        })
    }

    #[cold]
    #[inline(never)]
    fn put_cold(&self, node: Node) {
        let own = self.own();
        let Err(node) = push_any(own, node) else { return };
        // Nothing is dropped before the node is in its place: a panic would lose it.
        let leaving = self.make_room(own, For::Node);
        let elsewhere = push_any(own, node).err().map(|node| self.magazine_of(node, own));
        self.end_put(own, leaving, elsewhere);
    }

    #[cold]
    #[inline(never)]
    fn take_value_cold(&self, mut read: impl FnMut(Node)) -> bool {
        let own = self.own();
        let take = |read: &mut dyn FnMut(Node)| {
            let shard = own.filter(|shard| shard.has_objects());
            shard.and_then(Shard::enter).is_some_and(|inside| inside.take_value(read))
        };
        take(&mut read)
            || match self.stock_up(own) {
                Found::InShard => take(&mut read),
                Found::Node(node) => {
                    read(node.as_ptr());
                    self.put_blank(node.as_ptr());
                    true
                }
                Found::Nothing => false,
            }
    }

    #[cold]
    #[inline(never)]
    fn put_value_cold(&self, write: impl Fn(Node), make: impl Fn() -> Node) {
        let own = self.own();
        let put = || {
            let shard = own.filter(|shard| shard.has_blanks());
            shard.and_then(Shard::enter).is_some_and(|inside| inside.put_value(&write))
        };
        if put() {
            return;
        }
        // As in `put_cold`.
        let leaving = self.make_room(own, For::Value);
        let mut elsewhere = None;
        if !put() {
            let node = make();
            write(node);
            elsewhere = push_any(own, node).err().map(|node| self.magazine_of(node, own));
        }
        self.end_put(own, leaving, elsewhere);
    }

    /// The object is in the shard, and a magazine had to leave for it, or it is in a magazine of its own.
    fn end_put(&self, own: Option<&Shard>, leaving: Option<Magazine>, elsewhere: Option<Magazine>) {
        let mut dropped = 0;
        match (leaving, elsewhere) {
            (Some(leaving), Some(elsewhere)) => {
                // A drop that panics must not lose the other one, so nothing is dropped.
                let preferred = preferred_line(own);
                self.keep(Role::Fresh, elsewhere, preferred);
                self.keep(leaving.generation().into(), leaving, preferred);
            }
            (Some(magazine), None) | (None, Some(magazine)) => dropped = self.give(magazine, own, DROPS),
            (None, None) => {}
        }
        self.pass_time(own, DROPS - dropped);
    }

    // ── slow ──

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        // Acquire: the shard itself.
        let first = self.cold.shards.load(Ordering::Acquire);
        // SAFETY: shards live as long as the store.
        std::iter::successors(unsafe { first.as_ref() }, |shard| unsafe { shard.next().as_ref() })
    }

    fn depot(&self) -> Option<&Depot> {
        // SAFETY: the depot lives as long as the store. Acquire: what is in it.
        unsafe { self.cold.depot.load(Ordering::Acquire).as_ref() }
    }

    fn make_depot(&self) -> &Depot {
        if let Some(depot) = self.depot() {
            return depot;
        }
        let new = Box::into_raw(Box::new(Depot::new()));
        let null = ptr::null_mut();
        match self.cold.depot.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as in `depot`.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: nobody else has seen ours, and the other one is as in `depot`.
                unsafe {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }

    /// The calling thread's shard. `None` in a late thread-local destructor.
    fn own(&self) -> Option<&Shard> {
        let shard = self.shard().or_else(|| self.adopt())?;
        self.serve_request(shard);
        Some(shard)
    }

    /// The calling thread sends away what its shard holds, if another thread has asked it to.
    fn serve_request(&self, own: &Shard) {
        if own.is_asked_to_retire()
            && let Some(contents) = own.retire_own()
        {
            self.retire(contents, own.preferred_line());
        }
    }

    /// The shard of the calling thread's number, or a new one.
    #[cold]
    fn adopt(&self) -> Option<&Shard> {
        if !thread::assign(&self.id) {
            return None;
        }
        let current = thread::current()?;
        let known = current
            .may_own_more
            .then(|| self.shards().find(|shard| shard.owner() == current.number))
            .flatten();
        let shard = known.unwrap_or_else(|| self.make_shard(current.number));
        // A pool that comes again and again is worth a larger table, and one that lives for a few hundred operations is not.
        thread::insert(&self.id, NonNull::from(shard).cast(), shard.adopt() > ADOPTIONS);
        Some(shard)
    }

    fn make_shard(&self, owner: u32) -> &Shard {
        let new = match thread::take_kept() {
            Some(memory) => {
                let memory = memory.cast::<CachePadded<Shard>>();
                // SAFETY: what is kept are shards, see `drop`; nobody else has this one.
                unsafe { memory.write(CachePadded::new(Shard::new(owner))) };
                memory
            }
            None => Box::into_raw(Box::new(CachePadded::new(Shard::new(owner)))),
        };
        // The padding follows the shard.
        let new = new.cast::<Shard>();
        let mut last = self.cold.shards.load(Ordering::Relaxed);
        loop {
            // SAFETY: it lives as long as the store from here on.
            let shard = unsafe { &*new };
            shard.set_next(last);
            // Release: the shard itself.
            match self.cold.shards.compare_exchange_weak(last, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    self.cold.shard_count.fetch_add(1, Ordering::Relaxed);
                    return shard;
                }
                Err(now) => last = now,
            }
        }
    }

    /// Finds objects for a take: in the spare magazine, in the depot, or in another thread's shard.
    fn stock_up(&self, own: Option<&Shard>) -> Found {
        self.pass_time(own, DROPS);
        let (found, met_claim) = self.find(own);
        match own {
            // Its objects may be on their way to the depot.
            Some(shard) if met_claim && matches!(found, Found::Nothing) && shard.wait_for_claimer() => {
                self.find(own).0
            }
            _ => found,
        }
    }

    /// Also returns whether the own shard was claimed.
    fn find(&self, own: Option<&Shard>) -> (Found, bool) {
        let mut met_claim = false;
        if let Some(shard) = own.filter(|shard| shard.hint() > 0 || shard.is_claimed()) {
            match shard.enter() {
                None => met_claim = true,
                Some(inside) => match find_inside(&inside) {
                    Found::Nothing => {}
                    found => return (found, false),
                },
            }
        }
        let elsewhere = self.pop_depot(own).or_else(|| self.search(own));
        (elsewhere.map_or(Found::Nothing, |magazine| self.stock(magazine, own)), met_claim)
    }

    /// A magazine with objects that waits in the depot.
    fn pop_depot(&self, own: Option<&Shard>) -> Option<Magazine> {
        let depot = self.depot().filter(|depot| !depot.seems_empty())?;
        let (turn, preferred) = (self.cold.turn.get(), preferred_line(own));
        depot.pop(turn, Role::Fresh, preferred).or_else(|| depot.pop(turn, Role::Victim, preferred))
    }

    /// Finds an object for a take in a magazine that has some, and stocks the calling thread's shard with the others.
    fn stock(&self, mut magazine: Magazine, own: Option<&Shard>) -> Found {
        let (found, left) = match own.and_then(Shard::enter) {
            Some(inside) => {
                let left = inside.stock(magazine);
                (find_inside(&inside), left)
            }
            None => {
                add(&self.cold.counters.hits, 1);
                (magazine.pop().and_then(NonNull::new).map_or(Found::Nothing, Found::Node), Some(magazine))
            }
        };
        if let Some(left) = left {
            self.keep(left.generation().into(), left, preferred_line(own));
        }
        found
    }

    /// Makes room in the calling thread's shard. Returns a magazine that has left it.
    fn make_room(&self, own: Option<&Shard>, room: For) -> Option<Magazine> {
        let shard = own?;
        let preferred = shard.preferred_line();
        let mut empty = None;
        let (leaving, blank) = loop {
            let Some(inside) = shard.enter() else { break (None, None) };
            match inside.make_room(&mut empty) {
                Ok(leaving) => {
                    let blank = match room {
                        For::Node => inside.make_place(),
                        For::Value => {
                            inside.bring_blanks();
                            None
                        }
                    };
                    break (leaving, blank);
                }
                Err(NeedsEmpty) => {
                    drop(inside);
                    empty = Some(self.pop_empty(preferred));
                }
            }
        };
        if let Some(unused) = empty {
            self.push_empty(unused, preferred);
        }
        if let Some(blank) = blank {
            self.objects.free(blank);
        }
        leaving
    }

    /// A magazine with one node that is put past the shards.
    fn magazine_of(&self, node: Node, own: Option<&Shard>) -> Magazine {
        let mut magazine = self.pop_empty(preferred_line(own));
        if magazine.nodes() == magazine::CAPACITY
            && let Some(blank) = magazine.pop_blank()
        {
            self.objects.free(blank);
        }
        let pushed = magazine.push(node);
        debug_assert!(pushed.is_ok(), "it had room");
        add(&self.cold.counters.puts, 1);
        magazine
    }

    // ── blanks ──

    /// A node without an object, if there is one at hand.
    pub(crate) fn take_blank(&self) -> Option<Node> {
        self.shard().filter(|shard| shard.has_blanks())?.enter()?.pop_blank()
    }

    /// Keeps a node whose object was moved out, or frees it.
    pub(crate) fn put_blank(&self, blank: Node) {
        let kept = match self.shard().and_then(Shard::enter) {
            Some(inside) => inside.push_blank(blank),
            None => Err(blank),
        };
        if let Err(blank) = kept {
            self.objects.free(blank);
        }
    }

    // ── the depot ──

    /// Gives a magazine to the depot, whether there is room for it or not: without room it is expired.
    fn keep(&self, role: Role, magazine: Magazine, preferred: usize) {
        let role = if self.has_room(&magazine) { role } else { Role::Expired };
        self.push(role, magazine, preferred);
    }

    fn push(&self, role: Role, magazine: Magazine, preferred: usize) {
        if magazine.is_empty() {
            return self.push_empty(magazine, preferred);
        }
        self.make_depot().push(self.cold.turn.get(), role, magazine, preferred);
    }

    /// Whether the objects of a magazine may wait in the depot. Of two threads that ask at the same time both may.
    fn has_room(&self, magazine: &Magazine) -> bool {
        self.policy.max_idle.is_none_or(|limit| {
            let waiting = self.depot().map_or(0, |depot| depot.waiting(self.cold.turn.get()));
            waiting + magazine.objects() <= limit
        })
    }

    /// A put gives a magazine to the depot. Returns how many objects it dropped for want of room, `most` at most.
    fn give(&self, magazine: Magazine, own: Option<&Shard>, most: usize) -> usize {
        if self.has_room(&magazine) {
            self.push(magazine.generation().into(), magazine, preferred_line(own));
            return 0;
        }
        self.shed(magazine, own, most)
    }

    /// There is no room for these: a few are dropped, the others stay with the thread if it has room for them, or else
    /// are soon dropped by the operations that follow.
    fn shed(&self, mut over: Magazine, own: Option<&Shard>, most: usize) -> usize {
        let preferred = preferred_line(own);
        let dropping = self.policy.drops_in_use.then(Dropping::begin).flatten();
        let Some(_dropping) = dropping else {
            self.push(Role::Expired, over, preferred);
            return 0;
        };
        let mut rest = over.split_off(most);
        if rest.generation() == Generation::Fresh
            && let Some(inside) = own.and_then(Shard::enter)
        {
            inside.restock(&mut rest);
        }
        self.push(Role::Expired, rest, preferred);
        let dropped = over.objects();
        add(&self.cold.counters.shed, dropped);
        self.objects.dispose(over);
        dropped
    }

    /// A magazine without objects.
    fn pop_empty(&self, preferred: usize) -> Magazine {
        self.depot().and_then(|depot| depot.pop_empty(preferred)).unwrap_or_else(Magazine::new)
    }

    /// Keeps the memory of a magazine, and its blanks unless the pool has a limit, or frees it.
    fn push_empty(&self, mut magazine: Magazine, preferred: usize) {
        if self.policy.max_idle.is_some() {
            self.objects.free_blanks(&mut magazine);
        }
        let kept = match self.depot() {
            Some(depot) => depot.push_empty(magazine, preferred),
            None => Err(magazine),
        };
        if let Err(mut magazine) = kept {
            self.objects.free_blanks(&mut magazine);
        }
    }

    // ── counters ──

    pub(crate) fn count_made(&self) {
        match self.shard() {
            Some(shard) => shard.count_made(),
            None => add(&self.cold.counters.made, 1),
        }
    }

    #[cold]
    pub(crate) fn count_refused(&self) {
        match self.shard() {
            Some(shard) => shard.count_refused(),
            None => add(&self.cold.counters.refused, 1),
        }
    }

    /// The counters, added up shard by shard. Waits for nobody.
    pub(crate) fn stats(&self) -> Stats {
        let Counters { made, refused, hits, puts, kept, stolen, shed, aged, cleared, drained } =
            &self.cold.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = Stats {
            made: read(made),
            hits: read(hits),
            kept: read(puts),
            stolen: read(stolen),
            refused: read(refused),
            shed: read(shed),
            aged: read(aged),
            cleared: read(cleared),
            drained: read(drained),
            idle: self.depot().map_or(0, Depot::objects),
        };
        for shard in self.shards() {
            stats.made += shard.made();
            stats.refused += shard.refused();
            stats.hits += shard.hits();
            stats.kept += shard.puts();
            stats.idle += shard.hint();
        }
        // What a thread that is inside a shard has not counted yet was counted by an earlier snapshot, perhaps.
        stats.kept = stats.kept.max(kept.fetch_max(stats.kept, Ordering::Relaxed));
        stats
    }
}

/// Finds an object in the magazines of the calling thread's shard, which has none at hand.
fn find_inside(inside: &Inside<'_>) -> Found {
    if inside.fill() {
        Found::InShard
    } else {
        inside.pop_victim().and_then(NonNull::new).map_or(Found::Nothing, Found::Node)
    }
}

/// Where in the depot a thread looks first.
fn preferred_line(own: Option<&Shard>) -> usize {
    own.map_or(0, Shard::preferred_line)
}

fn push_any(own: Option<&Shard>, node: Node) -> Result<(), Node> {
    match own.filter(|shard| shard.has_place()).and_then(Shard::enter) {
        Some(inside) => inside.push_any(node),
        None => Err(node),
    }
}

impl Drop for Store {
    /// All memory of the store is freed before the first object is dropped, so that an object whose drop panics keeps nothing
    /// else from being freed.
    fn drop(&mut self) {
        let mut all = dispose::Disposal::new(&self.objects);
        let number = thread::number_if_any();
        let mut next = self.cold.shards.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: `&mut self`: nobody else has the store, and so a shard of it.
            let (shard, contents) = unsafe { (&*next, (*next).empty()) };
            all.push_contents(contents);
            let current = std::mem::replace(&mut next, shard.next());
            // SAFETY: `make_shard` made it as a box or took it from here, and nobody follows an old table entry: see `thread`.
            unsafe {
                if Some(shard.owner()) != number || !thread::keep(current.cast(), free_shard) {
                    free_shard(current.cast());
                }
            }
        }
        let depot = self.cold.depot.load(Ordering::Relaxed);
        if !depot.is_null() {
            // SAFETY: `make_depot` made it as a box, and nobody else has the store.
            let depot = unsafe { Box::from_raw(depot) };
            all.append(depot.take_everything());
        }
        let _dropping = Dropping::begin();
        all.dispose();
    }
}

/// # Safety
///
/// It is a shard that was made as a box, is empty, and is not used again.
unsafe fn free_shard(shard: *mut ()) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(shard.cast::<CachePadded<Shard>>()) });
}
