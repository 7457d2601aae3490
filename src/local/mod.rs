//! Per-thread shards of objects, and the depot that they trade with.
//!
//! ```text
//!   thread A                thread B              any thread
//!  ┌───────────────┐       ┌─────────┐          ┌──────────────────────┐
//!  │ up to 16      │       │         │  trade   │ depot: magazines     │
//!  │ spare: up to  │◀─────▶│  ...    │◀────────▶│ fresh  victim  due   │
//!  │   32 more     │       │         │          │                      │
//!  └───────────────┘       └─────────┘          └──────────────────────┘
//!   biased lock                                   lock-free stacks
//! ```
//!
//! * **put** and **take** work on the own [shard](shard): a few plain loads and stores. A shard that overflows sends its spare
//!   magazine to the depot, one that runs empty gets one from there, so that objects which are put on one thread and taken
//!   on another travel a [magazine](magazine) at a time.
//! * **take** looks in this order: own shard, the depot's fresh magazines, its victims, and at last the other threads'
//!   shards, of which it takes a part of the first that has something. That costs a process-wide barrier, so the
//!   shards' lengths are looked at first, and a thread may do so many searches a millisecond, no more.
//! * **age**: what is victim falls due, what is fresh becomes victim, and what lies in shards becomes victim, too, shard by
//!   shard, those of parked and of dead threads included. The depot's three stacks change roles by one exchange of
//!   `turn`, however much they hold. A shard whose owner is at work on it, and does not leave within a moment, is asked
//!   to retire its objects at its next operation. An object on its way between two places meanwhile may live one
//!   generation longer or shorter; it is one that is being used.
//! * Ageing is driven by hand, and by use: whoever is on a slow path looks at the [aging clock](crate::aging), and the one who
//!   finds a generation over lets it pass. What is due by hand is dropped there and then. What is due by use is
//!   dropped by those who come along a slow path, a few objects each; the next generation waits until all are.
//! * An owner that finds its shard claimed uses the depot for that operation: it never waits.
//! * No object is made, reset or dropped inside a shard or while pinned for longer than it takes to move it out: a factory,
//!   a hook or a `Drop` may use the pool, take long or panic.

mod depot;
mod magazine;
#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models;
#[cfg(all(test, cenote_shuttle))]
mod schedules;
mod shard;

use std::time::Duration;

use crossbeam_utils::CachePadded;

use self::depot::{Depot, Role};
use self::magazine::{Generation, List, Magazine};
use self::shard::{Claim, Shard};
use crate::aging::AgingClock;
use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::thread_map::ThreadMap;
use crate::primitive::{fence, spin_loop, yield_now};
use crate::stats::Stats;

/// How many objects that are due by use one operation drops, at most.
const DROPS: usize = 8;

/// How long ageing waits for a busy owner: turns of a spinning wait, then of yielding. An owner that is running is out
/// within nanoseconds; one that was preempted inside is not worth waiting for.
const SPINS: u32 = if cfg!(cenote_loom) { 1 } else { 64 };
const YIELDS: u32 = if cfg!(cenote_loom) { 0 } else { 4 };

/// Whether ageing waits for an owner that is busy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// A moment: who ages by hand wants to see it done.
    Some,
    /// Not at all: who ages by use has come for an object.
    None,
}

/// All that a pool holds. See the module's head for the protocol.
///
/// In this order: each operation reads the beginning of `shards`, which must not share a cache line with what is written
/// all the time; and the lines of the depot leave a gap that has room for the smaller ones.
#[repr(C)]
pub(crate) struct Cache<T: Send> {
    /// Each on cache lines of its own: two owners never write to the same line.
    shards: ThreadMap<CachePadded<Shard<T>>>,
    tide: AgingClock,
    /// Whether an object is dear: then the other shards are searched at each miss.
    dear: bool,
    depot: Depot<T>,
    tallies: Tallies,
}

/// Events off the hot path, counted by whoever sees them. Relaxed: nothing follows from them.
struct Tallies {
    made: AtomicU64,
    /// Hits that bypassed the shards.
    hits: AtomicU64,
    stolen: AtomicU64,
    refused: AtomicU64,
    shed: AtomicU64,
    aged: AtomicU64,
    cleared: AtomicU64,
}

fn add(tally: &AtomicU64, count: usize) {
    tally.fetch_add(count as u64, Ordering::Relaxed);
}

macro_rules! new_cache {
    ($dear:expr, $period:expr, $most:expr) => {
        Cache {
            shards: ThreadMap::new(),
            depot: Depot::new($most),
            tide: AgingClock::new($period),
            tallies: Tallies {
                made: AtomicU64::new(0),
                hits: AtomicU64::new(0),
                stolen: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                shed: AtomicU64::new(0),
                aged: AtomicU64::new(0),
                cleared: AtomicU64::new(0),
            },
            dear: $dear,
        }
    };
}

impl<T: Send> Cache<T> {
    /// At most `most` objects wait in the depot, if that is said.
    #[cfg(not(cenote_loom))]
    pub(crate) const fn new(dear: bool, period: Option<Duration>, most: Option<usize>) -> Self {
        new_cache!(dear, period, most)
    }

    #[cfg(cenote_loom)]
    pub(crate) fn new(dear: bool, period: Option<Duration>, most: Option<usize>) -> Self {
        new_cache!(dear, period, most)
    }

    // ── hot ──

    /// An object that the pool holds; `None` if it has none, or none that can be reached without waiting for
    /// a thread that is at work on it.
    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        if let Some(shard) = self.shards.get()
            && let Some(inside) = shard.enter()
            && let Some(object) = inside.pop()
        {
            return Some(object);
        }
        self.take_slow()
    }

    /// Keeps an object.
    #[inline]
    pub(crate) fn put(&self, object: T) {
        let Some(shard) = self.shards.get() else { return self.put_slow(object) };
        let Some(inside) = shard.enter() else { return self.put_slow(object) };
        if let Err(object) = inside.push(object) {
            self.put_slow(object);
        }
    }

    // ── slow ──

    #[cold]
    fn own(&self) -> Option<&Shard<T>> {
        let shard = match self.shards.get() {
            Some(shard) => shard,
            None => self.shards.get_or_insert(|index| CachePadded::new(Shard::new(index)))?,
        };
        if shard.is_asked_to_retire() {
            let (mut spare, mut rest) = (Magazine::new(), Magazine::new());
            shard.retire_own(&mut spare, &mut rest);
            self.retire(spare, shard.home());
            self.retire(rest, shard.home());
        }
        Some(shard)
    }

    #[cold]
    #[inline(never)]
    fn take_slow(&self) -> Option<T> {
        let own = self.own();
        self.pass_time(own, DROPS);
        // Also what lies in the shard itself: this may be the first visit of a thread that has taken a shard over.
        if let Some(object) = own
            .filter(|shard| shard.hint() > 0)
            .and_then(|shard| shard.enter()?.pop().or_else(|| shard.enter()?.pop_spare()))
        {
            return Some(object);
        }
        let home = own.map_or(0, Shard::home);
        let waiting = self.depot.pop(Role::Fresh, home).or_else(|| self.depot.pop(Role::Victim, home));
        let mut magazine = Some(waiting.or_else(|| self.steal(own))?);
        let object = match own.and_then(Shard::enter) {
            Some(inside) => inside.refill(&mut magazine),
            None => {
                add(&self.tallies.hits, 1);
                magazine.as_mut().and_then(Magazine::pop)
            }
        };
        match magazine {
            None => {}
            Some(blank) if blank.len() == 0 => self.depot.push_blank(blank, home),
            Some(rest) => self.keep(rest.generation().into(), rest, home),
        }
        object
    }

    /// To the depot, and due if there is no room.
    fn keep(&self, role: Role, magazine: Magazine<T>, home: usize) {
        if let Err(over) = self.depot.push(role, magazine, home) {
            self.fall_due(over, home);
        }
    }

    /// A put gives to the depot. Says how many objects it dropped for want of room.
    fn give(&self, magazine: Magazine<T>, own: Option<&Shard<T>>) -> usize {
        let role = magazine.generation().into();
        match self.depot.push(role, magazine, own.map_or(0, Shard::home)) {
            Ok(()) => 0,
            Err(over) => self.shed(over, own),
        }
    }

    /// There is no room for these: a few are dropped, the others stay with the thread if it has room for them, or else
    /// are soon dropped by those who come along.
    fn shed(&self, mut over: Magazine<T>, own: Option<&Shard<T>>) -> usize {
        let mut rest = over.split_off(over.len().min(DROPS));
        if rest.generation() == Generation::Fresh
            && let Some(inside) = own.and_then(Shard::enter)
        {
            inside.restock(&mut rest);
        }
        self.fall_due(rest, own.map_or(0, Shard::home));
        let dropped = over.len();
        add(&self.tallies.shed, dropped);
        drop(over);
        dropped
    }

    /// To the depot, one generation older.
    fn retire(&self, magazine: Magazine<T>, home: usize) {
        let role = match magazine.generation() {
            Generation::Fresh => Role::Victim,
            Generation::Victim => Role::Due,
        };
        self.keep(role, magazine, home);
    }

    fn fall_due(&self, magazine: Magazine<T>, home: usize) {
        let pushed = self.depot.push(Role::Due, magazine, home);
        debug_assert!(pushed.is_ok(), "there is room for any number of those");
    }

    #[cold]
    #[inline(never)]
    fn put_slow(&self, object: T) {
        let own = self.own();
        let dropped = self.put_beyond(object, own);
        self.pass_time(own, DROPS - dropped);
    }

    /// Says how many objects were dropped for want of room.
    fn put_beyond(&self, mut object: T, own: Option<&Shard<T>>) -> usize {
        let mut empty = None;
        if let Some(shard) = own {
            // The first time without a magazine at hand; nothing is allocated inside.
            for _ in 0..2 {
                let Some(inside) = shard.enter() else { break };
                object = match inside.push(object) {
                    Ok(()) => return 0,
                    Err(object) => object,
                };
                let Some(inside) = shard.enter() else { break };
                match inside.push_spare(object, &mut empty) {
                    Ok(None) => return 0,
                    Ok(Some(leaving)) => return self.give(leaving, own),
                    Err(back) => object = back,
                }
                empty = Some(self.depot.pop_blank(shard.home()));
            }
        }
        // The shard is claimed, or there is none: straight to the depot.
        let mut magazine = empty.unwrap_or_else(Magazine::new);
        // An empty magazine has room for one.
        let _ = magazine.push(object);
        self.give(magazine, own)
    }

    /// A part of what another thread holds.
    fn steal(&self, own: Option<&Shard<T>>) -> Option<Magazine<T>> {
        if !self.dear && own.is_some_and(|own| !own.may_search()) {
            return None;
        }
        self.search(own)
    }

    fn search(&self, own: Option<&Shard<T>>) -> Option<Magazine<T>> {
        let others =
            || self.shards.iter().filter(|shard| own.is_none_or(|own| !std::ptr::eq(own, &***shard)));
        if others().all(|shard| shard.hint() == 0) {
            return None;
        }
        let mut loot = Magazine::new();
        for shard in others().filter(|shard| shard.hint() > 0) {
            let Some(claim) = shard.claim() else { continue };
            // One barrier each: most often the first shard that has something is free.
            if seldom_fence().is_err() {
                break;
            }
            if let Ok(claimed) = claim.enter() {
                claimed.take_some(&mut loot);
            }
            if loot.len() > 0 {
                add(&self.tallies.stolen, 1);
                return Some(loot);
            }
        }
        None
    }

    // ── the passing of time ──

    /// One generation passes. The objects whose time is up are dropped here.
    pub(crate) fn age(&self) {
        let due = loop {
            let turn = self.depot.turn();
            let due = self.depot.take_due(turn);
            self.depot.drop_blanks();
            if self.depot.pass(turn) {
                break due;
            }
            // Another was quicker: its turn is not ours.
            self.reprieve(due);
        };
        self.retire_shards(Patience::Some);
        let turn = self.depot.turn();
        let retired = self.depot.take_due(turn);
        if self.depot.turn() == turn {
            self.drop_all([due, retired], &self.tallies.aged);
        } else {
            self.reprieve(retired);
            self.drop_all([due], &self.tallies.aged);
        }
    }

    /// What was taken as due when the turn was over already: somebody may have put it just now.
    fn reprieve(&self, mut list: List<T>) {
        while let Some(magazine) = list.pop() {
            self.keep(Role::Victim, magazine, 0);
        }
    }

    /// On a slow path: drops a few objects that are due, at most so many, or if there are none lets a generation pass
    /// when it is over.
    fn pass_time(&self, own: Option<&Shard<T>>, most: usize) {
        let look = own.is_none_or(Shard::visit);
        if look && let Some(own) = own {
            own.give_searches();
        }
        let home = own.map_or(0, Shard::home);
        if self.depot.has(Role::Due) {
            if most > 0
                && let Some(mut magazine) = self.depot.pop(Role::Due, home)
            {
                let rest = magazine.split_off(magazine.len().min(most));
                self.fall_due(rest, home);
                add(&self.tallies.aged, magazine.len());
                drop(magazine);
            }
        } else if look && self.tide.expired() && self.depot.pass(self.depot.turn()) {
            self.retire_shards(Patience::None);
        }
    }

    /// Drops all that the pool holds, of every thread.
    pub(crate) fn clear(&self) {
        self.retire_shards(Patience::Some);
        self.depot.drop_blanks();
        self.drop_all(self.depot.take_all(), &self.tallies.cleared);
    }

    fn drop_all<const N: usize>(&self, lists: [List<T>; N], tally: &AtomicU64) {
        // Counted before the first drop: an object's drop may look, or panic; then the lists drop the rest.
        add(tally, lists.iter().map(List::count).sum());
        for mut list in lists {
            while let Some(magazine) = list.pop() {
                drop(magazine);
            }
        }
    }

    /// Makes victims of what lies in the shards.
    ///
    /// All are claimed first and share one barrier; an owner that is at work meets the claim and goes to the depot.
    fn retire_shards(&self, patience: Patience) {
        let mut claims: Vec<Claim<'_, T>> = Vec::new();
        for shard in self.shards.iter().filter(|shard| shard.hint() > 0) {
            claims.extend(shard.claim());
        }
        if claims.is_empty() {
            return;
        }
        if seldom_fence().is_err() {
            // Nobody may go in now, but the owners can do it by themselves.
            claims.into_iter().for_each(Claim::ask_to_retire);
            return;
        }
        for mut claim in claims {
            let home = claim.home();
            let (mut spare, mut rest) = (Magazine::new(), Magazine::new());
            // An owner that has been asked before, and has not come since, will not be out in a moment: it sleeps, or
            // was lost in a fork.
            let most = match patience {
                Patience::Some if !claim.has_asked() => SPINS + YIELDS,
                _ => 0,
            };
            let mut turns = 0;
            loop {
                match claim.enter() {
                    Ok(claimed) => {
                        claimed.take_all(&mut spare, &mut rest);
                        break;
                    }
                    Err(busy) if turns < most => claim = busy,
                    Err(busy) => {
                        busy.ask_to_retire();
                        break;
                    }
                }
                turns += 1;
                if turns < SPINS { spin_loop() } else { yield_now() }
            }
            self.retire(spare, home);
            self.retire(rest, home);
        }
    }

    // ── for models ──

    #[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
    fn give_for_models(&self, objects: impl IntoIterator<Item = T>) {
        let mut magazine = Magazine::new();
        for object in objects {
            assert!(magazine.push(object).is_ok());
        }
        self.give(magazine, None);
    }

    #[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
    fn take_from_depot_for_models(&self) -> Option<Magazine<T>> {
        self.depot.pop(Role::Fresh, 0)
    }

    #[cfg(all(test, cenote_loom))]
    fn leave_for_models(&self) {
        self.shards.leave();
    }

    #[cfg(all(test, cenote_loom))]
    fn ask_all_to_retire_for_models(&self) {
        for shard in self.shards.iter() {
            if let Some(claim) = shard.claim() {
                claim.ask_to_retire();
            }
        }
    }

    // ── counters ──

    pub(crate) fn count_made(&self) {
        add(&self.tallies.made, 1);
    }

    pub(crate) fn count_refused(&self) {
        add(&self.tallies.refused, 1);
    }

    /// The counters, added up shard by shard. Waits for nobody.
    pub(crate) fn stats(&self) -> Stats {
        let Tallies { made, hits, stolen, refused, shed, aged, cleared } = &self.tallies;
        let read = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
        let mut stats = Stats {
            made: read(made),
            hits: read(hits),
            kept: 0,
            stolen: read(stolen),
            refused: read(refused),
            shed: read(shed),
            aged: read(aged),
            cleared: read(cleared),
            idle: self.depot.count(),
        };
        for shard in self.shards.iter() {
            shard.add_to(&mut stats);
        }
        // Not counted: it follows from where the objects are now, or went.
        stats.kept = stats.hits + stats.shed + stats.aged + stats.cleared + stats.idle as u64;
        stats
    }
}

impl<T: Send> Drop for Cache<T> {
    /// By way of the depot, which is dropped next, so that an object whose drop panics keeps none of the others, of whichever thread, from being dropped.
    fn drop(&mut self) {
        for shard in self.shards.iter() {
            let (mut spare, mut rest) = (Magazine::new(), Magazine::new());
            // SAFETY: `&mut self`: nobody else has the pool.
            unsafe { shard.empty(&mut spare, &mut rest) };
            self.fall_due(spare, shard.home());
            self.fall_due(rest, shard.home());
        }
    }
}

/// The fence of those who visit another thread's shard, after the claim.
fn seldom_fence() -> Result<(), fence::Unordered> {
    if fence::is_asymmetric() {
        fence::heavy()
    } else {
        fence::full();
        Ok(())
    }
}
