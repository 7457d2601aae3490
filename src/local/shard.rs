//! One thread's objects, behind a lock that is biased towards that thread.
//!
//! # Protocol
//!
//! Two words decide who may touch the objects: `busy`, written by the owner alone, and `claim`, written by others.
//!
//! ```text
//!  the owner                               anyone else
//!  busy = 1                                claim: CLAIMED set by an exchange, once for all others
//!  light fence                             heavy fence
//!  claim == 0 ?                            busy == 0 ?
//!    yes: inside                             yes: inside
//!    no:  the cold way                       no:  the owner is inside or about to enter: wait a little, or
//!  busy = 0 (Release)                             give up
//!                                          CLAIMED cleared (Release)
//! ```
//!
//! * Each side writes its word, passes its fence, and reads the other's. The fences are a pair (see
//!   [`fence`](crate::primitive::fence)), so at least one sees the other, and at most one is inside.
//! * The owner's load of `claim` is Acquire: it sees what the last claimer did. A relaxed one would do on x86,
//!   but is a race by the model: loom shows it.
//! * The owner meets a claim by leaving: its operation goes to the depot instead. So it never waits.
//! * `claim` also says, by its bit [`SYMMETRIC`], that there is no heavy fence here: then the owner takes the cold way each
//!   time, where it passes a full fence. One word that is zero is all that a hit looks at.
//! * A claimer that gives up on a busy owner may leave a request ([`RETIRE`]): the owner meets it at its next
//!   operation, the cold way, and serves it.
//! * A claim carries the [`generation`](fence::generation) of its process. In a forked child a claim of the parent's is
//!   nobody's: the owner, who is the thread that forked, takes over, and abandons what the claimer may have been in the
//!   middle of. Other threads' shards that were busy at the fork stay out of reach in the child.
//! * Inside, no code of a user runs, nothing is allocated, and nothing can panic.
//!
//! Owners are told apart by [`ThreadMap`](crate::primitive::thread_map::ThreadMap): a dead owner's last operation happens
//! before its heir's first.

use std::mem::MaybeUninit;
use std::ptr;

use super::magazine::{Generation, Magazine, capacity};
use crate::primitive::UnsafeCell;
use crate::primitive::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::primitive::{clock, fence};
use crate::stats::Stats;

/// Somebody else is inside, or waits for the owner to leave.
const CLAIMED: u32 = 1;
/// There is no heavy fence: both sides pass full ones. Set at birth, or never.
const SYMMETRIC: u32 = 2;
/// The owner is asked to send what it has away, as a victim of ageing.
const RETIRE: u32 = 4;
/// The rest of the word: the claimer's generation.
const GENERATION: u32 = 3;

fn this_generation() -> u32 {
    fence::generation() << GENERATION
}

/// Of [`Shard::word`]: the number of objects is at most 16.
const LEN_BITS: u32 = 8;
const LEN: u64 = (1 << LEN_BITS) - 1;
/// One hit more.
const HIT: u64 = 1 << LEN_BITS;

/// Visits of the slow paths between two looks at the clock.
const LOOKS: u64 = 8;

/// Searches of the other shards that an owner may do at once, and how many it is given back for each millisecond: so they
/// take a small part of its time, and of the others'.
const SEARCHES: u32 = 64;
const SEARCHES_PER_MS: u64 = 8;

/// Bytes in a shard for objects.
const BYTES: usize = 128;
const MOST: usize = if cfg!(cenote_loom) { 2 } else { 16 };
const ALIGN: usize = 16;

/// How many `T` a shard holds in itself: as many as fit 128 bytes, at most 16; none that needs to be aligned
/// to more than 16 bytes.
pub(super) const fn inline<T>() -> usize {
    if align_of::<T>() > ALIGN {
        return 0;
    }
    match size_of::<T>() {
        0 => MOST,
        size => {
            let fit = BYTES / size;
            if fit > MOST { MOST } else { fit }
        }
    }
}

#[repr(align(16))]
struct Places([MaybeUninit<u8>; BYTES]);

#[repr(C)]
pub(super) struct Shard<T> {
    /// 1 while the owner is inside or looks whether it may be. Written by the owner alone.
    busy: AtomicU32,
    /// See the protocol. Zero: the owner may enter.
    claim: AtomicU32,
    /// Two numbers in one word, so that a hit writes one word for both. The low [`LEN_BITS`]: how many of `places` hold
    /// objects, the first ones. The rest: the hits. Written by whoever is inside; for others a hint.
    word: AtomicU64,
    /// Searches of the other shards that the owner may do now, up to [`SEARCHES`]. The owner's.
    searches: AtomicU32,
    /// When it was given some, in ms of the clock, less what does not fit. The owner's.
    given: AtomicU32,
    /// Visits of the slow paths. The owner's.
    visits: AtomicU64,
    /// The objects in `spare`, for others: a hint.
    spare_len: AtomicU32,
    /// Where in the depot the owner looks first.
    home: u32,
    /// Touched by whoever is inside.
    stock: UnsafeCell<Stock<T>>,
}

struct Stock<T> {
    /// Fresh objects.
    places: Places,
    /// What does not fit `places`, or victims that came from the depot and are used one by one. Often empty, but kept
    /// for its memory.
    spare: Option<Magazine<T>>,
    /// Has no objects: kept for its memory, to take the place of `spare` when that leaves.
    blank: Option<Magazine<T>>,
}

// SAFETY: the objects are touched by one thread at a time (the protocol above), so `T: Send` is enough.
unsafe impl<T: Send> Sync for Shard<T> {}
// SAFETY: a shard owns its objects.
unsafe impl<T: Send> Send for Shard<T> {}

/// The owner, inside. Leaves when it is dropped.
pub(super) struct Inside<'a, T>(&'a Shard<T>);

/// Somebody else, who has claimed the shard but does not know yet whether the owner is out.
pub(super) struct Claim<'a, T>(&'a Shard<T>);

/// Somebody else, inside. Leaves when it is dropped.
pub(super) struct Claimed<'a, T>(Claim<'a, T>);

impl<T> Shard<T> {
    /// The shard that was made as the `index`th of its pool.
    pub(super) fn new(index: usize) -> Self {
        let claim = if fence::is_asymmetric() { 0 } else { SYMMETRIC };
        Shard {
            busy: AtomicU32::new(0),
            claim: AtomicU32::new(claim),
            word: AtomicU64::new(0),
            spare_len: AtomicU32::new(0),
            searches: AtomicU32::new(SEARCHES),
            given: AtomicU32::new(0),
            visits: AtomicU64::new(0),
            home: index as u32,
            stock: UnsafeCell::new(Stock {
                places: Places([MaybeUninit::uninit(); BYTES]),
                spare: None,
                blank: None,
            }),
        }
    }

    /// About how many objects are in here.
    pub(super) fn hint(&self) -> usize {
        self.filled() + self.spare_len.load(Ordering::Relaxed) as usize
    }

    pub(super) fn home(&self) -> usize {
        self.home as usize
    }

    /// Adds this shard's share to a snapshot.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        stats.hits += self.word.load(Ordering::Relaxed) >> LEN_BITS;
        stats.idle += self.hint();
    }

    // ── the owner ──

    /// The owner goes in. `None` if somebody else is inside, or if this comes from a signal handler in the middle of
    /// another operation of the owner's.
    #[inline(always)]
    pub(super) fn enter(&self) -> Option<Inside<'_, T>> {
        // Relaxed, both: the owner's own word. Those who claim read it behind their fence.
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        fence::light();
        if self.claim.load(Ordering::Acquire) != 0 {
            return self.enter_cold();
        }
        Some(Inside(self))
    }

    #[cold]
    #[inline(never)]
    fn enter_cold(&self) -> Option<Inside<'_, T>> {
        let inside = Inside(self);
        let mut claim = self.claim.load(Ordering::Acquire);
        if claim & CLAIMED != 0 && claim >> GENERATION != this_generation() >> GENERATION {
            // Only after a fork: see the protocol. The claimer does not exist in this process.
            self.abandon();
            claim &= SYMMETRIC;
            self.claim.store(claim, Ordering::Relaxed);
        }
        if claim & SYMMETRIC != 0 {
            fence::full();
            claim = self.claim.load(Ordering::Acquire);
        }
        // With a claim or a request `inside` is dropped here: the owner leaves.
        (claim & (CLAIMED | RETIRE) == 0).then_some(inside)
    }

    /// Whether the owner may search the other shards now, which it then does. A search costs those that it looks at a cache
    /// miss, and what it takes things from a barrier; where all starve it finds little.
    pub(super) fn may_search(&self) -> bool {
        let searches = self.searches.load(Ordering::Relaxed);
        self.searches.store(searches.saturating_sub(1), Ordering::Relaxed);
        searches > 0
    }

    /// The owner looks at the clock: time has passed for new searches.
    pub(super) fn give_searches(&self) {
        let searches = self.searches.load(Ordering::Relaxed);
        if searches < SEARCHES {
            let now = clock::now_ms() as u32;
            let passed = now.wrapping_sub(self.given.load(Ordering::Relaxed));
            let given = (u64::from(passed) * SEARCHES_PER_MS).min(SEARCHES.into()) as u32;
            self.given.store(now, Ordering::Relaxed);
            self.searches.store((searches + given).min(SEARCHES), Ordering::Relaxed);
        }
    }

    /// The owner visits a slow path. Whether it should look at the clock: now and then is enough, since a look costs
    /// as much as a miss.
    pub(super) fn visit(&self) -> bool {
        let visits = self.visits.load(Ordering::Relaxed);
        self.visits.store(visits.wrapping_add(1), Ordering::Relaxed);
        visits.is_multiple_of(LOOKS)
    }

    /// Whether the owner has been asked to retire what it has.
    pub(super) fn is_asked_to_retire(&self) -> bool {
        self.claim.load(Ordering::Relaxed) & RETIRE != 0
    }

    /// The owner serves the request: everything moves into the two magazines, which must be empty. Nothing happens if
    /// somebody else is inside.
    pub(super) fn retire_own(&self, spare: &mut Magazine<T>, rest: &mut Magazine<T>) {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return;
        }
        self.busy.store(1, Ordering::Relaxed);
        let inside = Inside(self);
        // A full fence serves in both modes; this is the cold way.
        fence::full();
        if self.claim.load(Ordering::Acquire) & CLAIMED == 0 {
            self.stock_mut(|stock| self.give_all(stock, spare, rest));
            self.claim.fetch_and(!RETIRE, Ordering::Relaxed);
        }
        drop(inside);
    }

    /// Forgets what is in here: somebody may have moved half of it.
    fn abandon(&self) {
        self.set_filled(0);
        self.spare_len.store(0, Ordering::Relaxed);
        self.stock_mut(|stock| std::mem::forget(stock.spare.take()));
    }

    // ── others ──

    /// One claimer at a time; `None` if there is one. What the owner is doing is not known before a fence.
    pub(super) fn claim(&self) -> Option<Claim<'_, T>> {
        let claim = self.claim.load(Ordering::Relaxed);
        if claim & CLAIMED != 0 {
            return None;
        }
        let claimed = claim & (SYMMETRIC | RETIRE) | CLAIMED | this_generation();
        // Acquire: what the last claimer did.
        self.claim.compare_exchange(claim, claimed, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Claim(self))
    }

    #[inline(always)]
    fn stock_mut<R>(&self, work: impl FnOnce(&mut Stock<T>) -> R) -> R {
        // SAFETY: called by those who are inside only, of whom there is one at a time, and never from within `work`.
        self.stock.with_mut(|stock| work(unsafe { &mut *stock }))
    }

    #[inline(always)]
    fn place(stock: &mut Stock<T>, index: usize) -> *mut T {
        // SAFETY: called with `index < inline::<T>()`, which lies within the bytes; they are aligned for `T`.
        unsafe { stock.places.0.as_mut_ptr().cast::<T>().add(index) }
    }

    /// How many objects are in `places`, told to the one who is inside.
    #[inline(always)]
    fn filled(&self) -> usize {
        // Relaxed: whoever was inside before happens before.
        (self.word.load(Ordering::Relaxed) & LEN) as usize
    }

    #[inline(always)]
    fn set_filled(&self, len: usize) {
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word & !LEN | len as u64, Ordering::Relaxed);
    }

    /// A hit that takes nothing out of `places`.
    fn count_hit(&self) {
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word.wrapping_add(HIT), Ordering::Relaxed);
    }

    fn tell_spare(&self, stock: &Stock<T>) {
        self.spare_len.store(stock.spare.as_ref().map_or(0, Magazine::len) as u32, Ordering::Relaxed);
    }

    /// Moves the objects in `places` behind those in `to`, which must be fresh or empty, the oldest first.
    fn pour(&self, stock: &mut Stock<T>, to: &mut Magazine<T>, most: usize) {
        let filled = self.filled();
        let moved = filled.min(most).min(capacity::<T>() - to.len());
        if moved == 0 {
            return; // also for types that do not lie in `places` at all
        }
        // SAFETY: the first `filled` places hold objects, of which the first `moved` move to places that are free; the rest
        // closes the gap. Each object is in one place after.
        unsafe {
            let from = Self::place(stock, 0);
            ptr::copy_nonoverlapping(from, to.objects().add(to.len()), moved);
            ptr::copy(from.add(moved), from, filled - moved);
        }
        to.set_len(to.len() + moved);
        self.set_filled(filled - moved);
    }

    /// Moves objects from the end of `from`, which must be fresh, into `places`, as many as fit.
    fn fill(&self, stock: &mut Stock<T>, from: &mut Magazine<T>) {
        let filled = self.filled();
        let moved = from.len().min(inline::<T>() - filled);
        if moved == 0 {
            return; // also for types that do not lie in `places` at all
        }
        let rest = from.len() - moved;
        // SAFETY: the last `moved` objects of `from` move to places that are free. Each object is in one place after.
        unsafe { ptr::copy_nonoverlapping(from.objects().add(rest), Self::place(stock, filled), moved) };
        from.set_len(rest);
        self.set_filled(filled + moved);
    }
}

impl<T> Shard<T> {
    /// Moves everything into the two magazines, which must be empty. A shard that is dropped without this leaks what lies in
    /// it.
    ///
    /// # Safety
    ///
    /// Nobody else may be inside, nor come in meanwhile.
    pub(super) unsafe fn empty(&self, spare: &mut Magazine<T>, rest: &mut Magazine<T>) {
        self.stock_mut(|stock| self.give_all(stock, spare, rest));
    }

    fn give_all(&self, stock: &mut Stock<T>, spare: &mut Magazine<T>, rest: &mut Magazine<T>) {
        if let Some(own) = &mut stock.spare {
            std::mem::swap(own, spare);
        }
        self.pour(stock, rest, usize::MAX);
        self.tell_spare(stock);
    }
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        // Release: the owner, or the next claimer, sees what was done.
        self.0.claim.fetch_and(SYMMETRIC | RETIRE, Ordering::Release);
    }
}

impl<'a, T> Claim<'a, T> {
    /// Goes in if the owner is out. To be called after the heavy fence that follows the claim (the full one, where there
    /// is no heavy one): before it the answer means nothing.
    pub(super) fn enter(self) -> Result<Claimed<'a, T>, Self> {
        // Acquire: what the owner did before it left.
        match self.0.busy.load(Ordering::Acquire) {
            0 => Ok(Claimed(self)),
            _ => Err(self),
        }
    }

    pub(super) fn home(&self) -> usize {
        self.0.home()
    }

    /// Whether the owner has been asked to retire what it has, and has not come since.
    pub(super) fn has_asked(&self) -> bool {
        self.0.is_asked_to_retire()
    }

    /// Gives up, and asks the owner to retire what it has at its next operation.
    pub(super) fn ask_to_retire(self) {
        self.0.claim.fetch_or(RETIRE, Ordering::Relaxed);
    }
}

impl<T> Claimed<'_, T> {
    /// Takes everything. The magazines must be empty.
    pub(super) fn take_all(self, spare: &mut Magazine<T>, rest: &mut Magazine<T>) {
        let shard = self.0.0;
        shard.stock_mut(|stock| shard.give_all(stock, spare, rest));
    }

    /// Takes the spare magazine's objects, or without those the others. The magazine must be empty.
    pub(super) fn take_some(self, into: &mut Magazine<T>) {
        let shard = self.0.0;
        shard.stock_mut(|stock| {
            match &mut stock.spare {
                Some(spare) if spare.len() > 0 => std::mem::swap(spare, into),
                _ => shard.pour(stock, into, usize::MAX),
            }
            shard.tell_spare(stock);
        });
    }
}

impl<T> Drop for Inside<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: who finds the owner out sees what it did.
        self.0.busy.store(0, Ordering::Release);
    }
}

impl<'a, T> Inside<'a, T> {
    /// The object that was put last, if it lies in the shard itself.
    #[inline(always)]
    pub(super) fn pop(self) -> Option<T> {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        let filled = ((word & LEN) as usize).checked_sub(1)?;
        shard.word.store(word.wrapping_add(HIT - 1), Ordering::Relaxed);
        // SAFETY: the place holds an object, and does not any more.
        Some(shard.stock_mut(|stock| unsafe { Shard::place(stock, filled).read() }))
    }

    /// Puts an object into the shard itself, if there is room.
    #[inline(always)]
    pub(super) fn push(self, object: T) -> Result<(), T> {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        let filled = (word & LEN) as usize;
        if filled >= inline::<T>() {
            return Err(object);
        }
        // SAFETY: a place below the limit, with no object in it.
        shard.stock_mut(|stock| unsafe { Shard::place(stock, filled).write(object) });
        shard.word.store(word + 1, Ordering::Relaxed);
        Ok(())
    }

    /// As `pop`, but out of the spare magazine when the shard itself is empty. Fresh ones refill the shard.
    pub(super) fn pop_spare(self) -> Option<T> {
        let shard = self.0;
        shard.stock_mut(|stock| {
            let mut spare = stock.spare.take()?;
            let object = spare.pop();
            if spare.generation() == Generation::Fresh {
                shard.fill(stock, &mut spare);
            }
            stock.spare = Some(spare);
            shard.tell_spare(stock);
            if object.is_some() {
                shard.count_hit();
            }
            object
        })
    }

    /// Takes in a magazine's objects, of which one is for the caller. `None` is returned with an empty magazine.
    /// What does not fit is left in it.
    pub(super) fn refill(self, taken: &mut Option<Magazine<T>>) -> Option<T> {
        let shard = self.0;
        let object = taken.as_mut()?.pop()?;
        shard.count_hit();
        shard.stock_mut(|stock| {
            let Some(magazine) = taken else { return };
            if magazine.generation() == Generation::Fresh {
                shard.fill(stock, magazine);
            }
            match &mut stock.spare {
                None => stock.spare = taken.take(),
                Some(spare) => {
                    if spare.len() == 0 {
                        std::mem::swap(spare, magazine);
                    }
                    if magazine.len() == 0 && stock.blank.is_none() {
                        stock.blank = taken.take();
                    }
                }
            }
            shard.tell_spare(stock);
        });
        Some(object)
    }

    /// Takes as many fresh objects of a magazine's as there is room for, in the shard itself and in the spare magazine.
    pub(super) fn restock(self, from: &mut Magazine<T>) {
        let shard = self.0;
        shard.stock_mut(|stock| {
            shard.fill(stock, from);
            if let Some(spare) = &mut stock.spare
                && spare.generation() == Generation::Fresh
            {
                spare.append(from);
                shard.tell_spare(stock);
            }
        });
    }

    /// Puts an object where the shard itself has no room: into the spare magazine, which takes over what the shard
    /// holds. If that is full, or old, it is the one that leaves, and `empty` takes its place. Fails if `empty` is needed and
    /// is not there.
    pub(super) fn push_spare(
        self,
        object: T,
        empty: &mut Option<Magazine<T>>,
    ) -> Result<Option<Magazine<T>>, T> {
        let shard = self.0;
        shard.stock_mut(|stock| {
            let takes_more = |spare: &Magazine<T>| {
                spare.len() == 0 || (spare.len() < capacity::<T>() && spare.generation() == Generation::Fresh)
            };
            if empty.is_none() && !stock.spare.as_ref().is_some_and(takes_more) {
                *empty = stock.blank.take();
            }
            let (mut spare, leaving) = match (stock.spare.take(), empty.take()) {
                (Some(spare), unused) if takes_more(&spare) => {
                    *empty = unused;
                    (spare, None)
                }
                (spare, Some(empty)) => (empty, spare),
                (spare, None) => {
                    stock.spare = spare;
                    return Err(object);
                }
            };
            spare.set_generation(Generation::Fresh);
            shard.pour(stock, &mut spare, capacity::<T>());
            let filled = shard.filled();
            // Room for one is in the shard, which was full and has poured something, or else in the magazine.
            if filled < inline::<T>() {
                // SAFETY: a place below the limit, with no object in it.
                unsafe { Shard::place(stock, filled).write(object) };
                shard.set_filled(filled + 1);
            } else {
                let pushed = spare.push(object);
                debug_assert!(pushed.is_ok());
            }
            stock.spare = Some(spare);
            shard.tell_spare(stock);
            Ok(leaving)
        })
    }
}
