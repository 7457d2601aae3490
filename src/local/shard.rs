//! One thread's nodes, behind a lock that is biased towards that thread.
//!
//! # Protocol
//!
//! Two words decide which thread may touch the nodes: `busy`, written by the owner alone, and `claim`, written by remote
//! threads.
//!
//! ```text
//!  the owner                               a remote thread
//!  busy = 1                                claim: CLAIMED set by an exchange, once for all remote threads
//!  light fence                             heavy fence
//!  claim == 0 ?                            busy == 0 ?
//!    yes: inside                             yes: inside
//!    no:  the cold path                      no:  the owner is inside or about to enter: wait a little, or
//!  busy = 0 (Release)                             give up
//!                                          CLAIMED cleared (Release)
//! ```
//!
//! * Each side writes its word, passes its fence, and reads the other's. The fences are a pair (see
//!   [`fence`](crate::primitive::fence)), so at least one sees the other, and at most one is inside.
//! * The owner's load of `claim` is Acquire: it sees what the last remote thread did. A relaxed load would do on x86,
//!   but is a race by the memory model: loom reports it.
//! * An owner that finds a claim leaves: its operation goes to the depot instead. So it need not wait. (Only before a miss it
//!   does, for about a microsecond: an object may cost much more to make.)
//! * The bit [`SYMMETRIC`] in `claim` says that the owner does not rely on the heavy fence: it takes the cold path each
//!   time and passes a full fence there, and so does a remote thread. One word that is zero is all that a hit looks at.
//!   Once the process has the heavy fence the owner clears the bit, by an exchange that fails while the shard is claimed: a
//!   remote thread chooses its fence by the bit that its own exchange has seen.
//! * A remote thread that gives up on a busy owner may leave a request ([`RETIRE`]): the owner meets it at its next
//!   operation, on the cold path, and serves it.
//! * A claim carries the [`generation`](fence::generation) of its process. In a forked child a claim of the parent's is
//!   nobody's: the owner, if it is the thread that forked, or the next thread that claims takes over, and abandons what the
//!   parent's thread may have been in the middle of. Shards whose owners were busy at the fork stay out of reach in the child.
//! * Inside, no code of a user runs, nothing is allocated, and nothing can panic. (An object that is taken or put by value
//!   is moved inside: a copy of bytes.)
//!
//! The owner of a shard is the thread that has its [number](crate::primitive::thread): what a dead owner did last happens
//! before what its heir does first.

use std::ptr::{self, NonNull};

use super::magazine::{CAPACITY, Generation, Magazine};
use super::rack::{Node, Rack, no_nodes};
use super::search::Looks;
use crate::primitive::UnsafeCell;
use crate::primitive::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::primitive::{fence, spin_loop};

/// A remote thread is inside, or waits for the owner to leave.
const CLAIMED: u32 = 1;
/// The owner does not rely on the heavy fence: both sides pass full fences.
const SYMMETRIC: u32 = 2;
/// The owner is asked to send what it has away, as victims of aging.
const RETIRE: u32 = 4;
/// The rest of the word: the generation of the process that claimed.
const GENERATION: u32 = 3;

fn this_generation() -> u32 {
    fence::generation() << GENERATION
}

/// Whether a claim is that of a thread of the parent process.
fn is_of_another_process(claim: u32) -> bool {
    claim & CLAIMED != 0 && claim >> GENERATION != this_generation() >> GENERATION
}

/// Of [`Shard::word`]: the low bits count the objects, the next ones the blanks. Together they are at most [`PLACES`].
const COUNT_BITS: u32 = 5;
const _: () = assert!(PLACES < 1 << COUNT_BITS);
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const OBJECT: u64 = 1;
const BLANK: u64 = 1 << COUNT_BITS;
const BLANKS: u64 = COUNT << COUNT_BITS;
/// One hit more.
const HIT: u64 = 1 << (2 * COUNT_BITS);

/// How many nodes a shard holds in itself: as many as a magazine, so that what overflows fills one.
pub(super) const PLACES: usize = CAPACITY;

/// Turns of a spinning wait for a remote thread.
const WAIT: u32 = if cfg!(cenote_loom) { 0 } else { 100 };

/// Cold operations of an owner between two looks at the clock.
const LOOKS: u64 = if cfg!(cenote_loom) { 1 } else { 8 };

/// What the owner writes in each hit comes first, with the first places, on one cache line. The beginning of a shard is
/// aligned by [`CachePadded`](crossbeam_utils::CachePadded).
#[repr(C)]
pub(super) struct Shard {
    /// 1 while the owner is inside or looks whether it may be. Written by the owner alone.
    busy: AtomicU32,
    /// See the protocol. Zero: the owner may enter.
    claim: AtomicU32,
    /// Three numbers in one word, so that a hit writes one word for all: objects and blanks in `places`, see [`Rack`], and the
    /// hits. Written by the thread that is inside; for others a hint.
    word: AtomicU64,
    /// Touched by the thread that is inside.
    stock: UnsafeCell<Stock>,
    /// The objects in `spare`, for others: a hint.
    spare_objects: AtomicU32,
    /// Whether there are magazines, which may hold blanks, for others: a hint.
    has_magazines: AtomicU32,
    /// The number of the thread that owns the shard.
    owner: u32,
    /// Objects that moved into `places` other than by a put, or were hits elsewhere; counted before `word` changes. Written
    /// by the thread that is inside.
    moved_in: AtomicU64,
    /// Objects that moved out of `places` other than by a hit; counted after `word` has changed. Written by the thread that is
    /// inside.
    moved_out: AtomicU64,
    /// The shard that was made before this one. Set before it is published.
    next: AtomicPtr<Shard>,
    /// Written by the owner in every cold operation, so apart from what others read.
    private: Private,
}

/// The owner's notes.
#[derive(Debug)]
#[repr(C, align(64))]
struct Private {
    /// Objects that were made by the owner.
    made: AtomicU64,
    /// Objects that the owner's hook has refused.
    refused: AtomicU64,
    /// Cold operations.
    visits: AtomicU64,
    /// Odd while the owner is in a [trade](super::trade).
    trades: AtomicU32,
    /// How often the owner has found the shard by a walk.
    adoptions: AtomicU32,
    /// How the owner searches.
    looks: Looks,
    /// Where the owner's next search begins; null: with the first shard.
    cursor: AtomicPtr<Shard>,
}

#[repr(C)]
struct Stock {
    /// Fresh objects, and blanks.
    places: [Node; PLACES],
    /// What does not fit `places`, or victims that came from the depot and are used one by one. Often without objects, but
    /// kept for its memory and its blanks.
    spare: Option<Magazine>,
    /// Has no objects: kept for its memory and its blanks, to take the place of `spare` when that leaves.
    empty: Option<Magazine>,
}

// SAFETY: the nodes are touched by one thread at a time (the protocol above), and may move to another one.
unsafe impl Sync for Shard {}
// SAFETY: as above.
unsafe impl Send for Shard {}

/// A panic cannot leave a shard half-changed: nothing inside can panic.
impl std::panic::UnwindSafe for Shard {}
impl std::panic::RefUnwindSafe for Shard {}

/// The owner, inside. Leaves when it is dropped.
pub(super) struct Inside<'a>(&'a Shard);

/// A remote thread that has claimed the shard but does not know yet whether the owner is out.
pub(super) struct Claim<'a> {
    shard: &'a Shard,
    /// Whether the owner relies on the heavy fence.
    needs_heavy_fence: bool,
    /// The claim of a thread of the parent process, which may have moved half of what is in the shard.
    inherited: Option<u32>,
}

/// A remote thread, inside. Leaves when it is dropped.
pub(super) struct Claimed<'a>(Claim<'a>);

/// Everything that a shard held: by age, and blanks.
#[derive(Debug)]
pub(super) struct Contents {
    /// With the objects of `spare` alone if they are older than the others.
    pub(super) spare: Option<Magazine>,
    pub(super) places: [Node; PLACES],
    pub(super) objects: usize,
    pub(super) nodes: usize,
    pub(super) empty: Option<Magazine>,
}

impl Shard {
    pub(super) fn new(owner: u32) -> Self {
        let claim = if fence::is_asymmetric() { 0 } else { SYMMETRIC };
        Shard {
            busy: AtomicU32::new(0),
            claim: AtomicU32::new(claim),
            word: AtomicU64::new(0),
            stock: UnsafeCell::new(Stock { places: no_nodes(), spare: None, empty: None }),
            spare_objects: AtomicU32::new(0),
            has_magazines: AtomicU32::new(0),
            owner,
            moved_in: AtomicU64::new(0),
            moved_out: AtomicU64::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            private: Private {
                made: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                visits: AtomicU64::new(0),
                trades: AtomicU32::new(0),
                adoptions: AtomicU32::new(0),
                looks: Looks::new(),
                cursor: AtomicPtr::new(ptr::null_mut()),
            },
        }
    }

    /// Hints to the owner itself, which are true unless a remote thread is at work: whether objects, blanks, and free places are in
    /// `places`.
    pub(super) fn has_objects(&self) -> bool {
        self.word.load(Ordering::Relaxed) & COUNT != 0
    }

    pub(super) fn has_blanks(&self) -> bool {
        self.word.load(Ordering::Relaxed) & BLANKS != 0
    }

    pub(super) fn has_place(&self) -> bool {
        self.nodes() < PLACES
    }

    /// About how many objects are in here.
    pub(super) fn hint(&self) -> usize {
        self.objects() + self.spare_objects.load(Ordering::Relaxed) as usize
    }

    /// Whether there may be anything in here, blanks and empty magazines included.
    pub(super) fn may_hold_anything(&self) -> bool {
        self.nodes() > 0 || self.has_magazines.load(Ordering::Relaxed) != 0
    }

    /// A hint: whether a remote thread is at work in here.
    pub(super) fn is_claimed(&self) -> bool {
        // Acquire: if a claimer has left, what it took is seen to be in the depot.
        self.claim.load(Ordering::Acquire) & CLAIMED != 0
    }

    /// Waits for a remote thread to leave, for a microsecond or so. Returns whether there is a time to wait: a model tries all
    /// schedules, and would only try the same twice.
    pub(super) fn wait_for_claimer(&self) -> bool {
        // The owner looks again when it enters.
        let mut turns = 0;
        while turns < WAIT && self.is_claimed() {
            spin_loop();
            turns += 1;
        }
        WAIT > 0
    }

    /// A hint: whether the owner is at work in here at this moment.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) != 0
    }

    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    /// Where in the depot the owner looks first.
    pub(super) fn preferred_line(&self) -> usize {
        self.owner as usize
    }

    pub(super) fn next(&self) -> *mut Shard {
        // Relaxed: it was set before the shard was published.
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn set_next(&self, next: *mut Shard) {
        self.next.store(next, Ordering::Relaxed);
    }

    /// Where the owner's next search begins.
    pub(super) fn cursor(&self) -> *mut Shard {
        self.private.cursor.load(Ordering::Relaxed)
    }

    pub(super) fn set_cursor(&self, shard: *mut Shard) {
        self.private.cursor.store(shard, Ordering::Relaxed);
    }

    pub(super) fn hits(&self) -> u64 {
        self.word.load(Ordering::Relaxed) >> (2 * COUNT_BITS)
    }

    /// The objects that were put here. While a thread is inside this may be too low, and never too high: a put counts
    /// nothing, and what was put follows from the objects that are here, and those that came and went.
    pub(super) fn puts(&self) -> u64 {
        // Acquire: `word` as it was after that, and `moved_in` as it was before what `word` says.
        let moved_out = self.moved_out.load(Ordering::Acquire);
        let word = self.word.load(Ordering::Acquire);
        let moved_in = self.moved_in.load(Ordering::Relaxed);
        ((word & COUNT) + (word >> (2 * COUNT_BITS)) + moved_out).saturating_sub(moved_in)
    }

    pub(super) fn made(&self) -> u64 {
        self.private.made.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.private.refused.load(Ordering::Relaxed)
    }

    // ── the owner ──

    /// The owner goes in, by the one path that is fast. `None` says to try [`enter`](Self::enter).
    #[inline(always)]
    pub(super) fn enter_fast(&self) -> Option<Inside<'_>> {
        // Relaxed, both: the owner's own word. Threads that claim read it behind their fence.
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        let inside = Inside(self);
        fence::light();
        (self.claim.load(Ordering::Acquire) == 0).then_some(inside)
    }

    /// The owner goes in. `None` if a remote thread is inside, or if this comes from a signal handler in the middle of
    /// another operation of the owner's.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        if self.is_busy() {
            return None;
        }
        // Relaxed: a guess, which spares an owner that needs a fence the attempt without one.
        let fast = if self.claim.load(Ordering::Relaxed) == 0 { self.enter_fast() } else { None };
        fast.or_else(|| self.enter_cold())
    }

    fn enter_cold(&self) -> Option<Inside<'_>> {
        self.busy.store(1, Ordering::Relaxed);
        let inside = Inside(self);
        fence::light();
        let mut claim = self.claim.load(Ordering::Acquire);
        if is_of_another_process(claim) {
            // Only after a fork: see the protocol. The claimer does not exist in this process.
            self.abandon();
            claim &= SYMMETRIC;
            self.claim.store(claim, Ordering::Relaxed);
        }
        if claim & SYMMETRIC != 0 {
            fence::full();
            claim = self.claim.load(Ordering::Acquire);
            if claim & CLAIMED == 0 && fence::is_asymmetric() {
                // From the exchange on remote threads use the heavy fence, and find `busy` set. Acquire: what the last of
                // them did. Release: that the process has the heavy fence.
                let switched = claim & !SYMMETRIC;
                claim = self
                    .claim
                    .compare_exchange(claim, switched, Ordering::AcqRel, Ordering::Acquire)
                    .map_or_else(|now| now, |_| switched);
            }
        }
        // With a claim or a request `inside` is dropped here: the owner leaves.
        (claim & (CLAIMED | RETIRE) == 0).then_some(inside)
    }

    /// The owner is on a cold path. Whether it should look at the clock: now and then is enough, since a look costs
    /// as much as a miss.
    pub(super) fn visit(&self) -> bool {
        let visits = self.private.visits.load(Ordering::Relaxed);
        self.private.visits.store(visits.wrapping_add(1), Ordering::Relaxed);
        visits.is_multiple_of(LOOKS)
    }

    pub(super) fn count_made(&self) {
        // The owner alone writes it.
        self.private.made.store(self.private.made.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The owner has found the shard by a walk. Returns how often so far.
    pub(super) fn adopt(&self) -> u32 {
        let adoptions = self.private.adoptions.load(Ordering::Relaxed).saturating_add(1);
        self.private.adoptions.store(adoptions, Ordering::Relaxed);
        adoptions
    }

    /// The owner begins a trade. False if it is in one, which this one is a part of then.
    pub(super) fn begin_trade(&self) -> bool {
        let trades = self.trades();
        let is_outermost = trades.is_multiple_of(2);
        if is_outermost {
            self.private.trades.store(trades.wrapping_add(1), Ordering::Relaxed);
        }
        is_outermost
    }

    /// The owner ends its trade.
    pub(super) fn end_trade(&self) {
        // Release: a thread that finds it ended finds all that was done in it.
        self.private
            .trades
            .store(self.private.trades.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// How often the owner has begun or ended a trade; odd: it is in one.
    pub(super) fn trades(&self) -> u32 {
        self.private.trades.load(Ordering::Acquire)
    }

    pub(super) fn looks(&self) -> &Looks {
        &self.private.looks
    }

    pub(super) fn count_refused(&self) {
        self.private.refused.store(self.private.refused.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether the owner has been asked to retire what it has.
    pub(super) fn is_asked_to_retire(&self) -> bool {
        self.claim.load(Ordering::Relaxed) & RETIRE != 0
    }

    /// The owner serves the request: everything moves out. `None` if a remote thread is inside, or if this comes from a
    /// signal handler.
    pub(super) fn retire_own(&self) -> Option<Contents> {
        if self.is_busy() {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        let inside = Inside(self);
        // A full fence serves in both modes; this is a cold path.
        fence::full();
        if self.claim.load(Ordering::Acquire) & CLAIMED != 0 {
            return None;
        }
        let contents = self.take_contents();
        self.claim.fetch_and(!RETIRE, Ordering::Relaxed);
        drop(inside);
        Some(contents)
    }

    /// Forgets what is in here: a claimer may have moved half of it.
    fn abandon(&self) {
        self.set_counts(0, 0);
        self.stock_mut(|stock| {
            std::mem::forget((stock.spare.take(), stock.empty.take()));
            self.publish_hints(stock);
        });
    }

    // ── remote threads ──

    /// One claimer at a time; `None` if there is one. What the owner is doing is not known before a fence.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let claim = self.claim.load(Ordering::Relaxed);
        let is_inherited = is_of_another_process(claim);
        if claim & CLAIMED != 0 && !is_inherited {
            return None;
        }
        let claimed = claim & (SYMMETRIC | RETIRE) | CLAIMED | this_generation();
        // Acquire: what the last claimer did, and whether the process has the heavy fence.
        self.claim.compare_exchange(claim, claimed, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Claim {
            shard: self,
            needs_heavy_fence: claim & SYMMETRIC == 0,
            inherited: is_inherited.then_some(claim),
        })
    }

    /// Asks the owner to retire what it has at its next operation.
    pub(super) fn ask_to_retire(&self) {
        self.claim.fetch_or(RETIRE, Ordering::Relaxed);
    }

    // ── the thread that is inside, owner or not ──

    #[inline(always)]
    fn stock_mut<R>(&self, work: impl FnOnce(&mut Stock) -> R) -> R {
        // SAFETY: called by the thread that is inside only, of which there is one at a time, and never from within `work`.
        self.stock.with_mut(|stock| work(unsafe { &mut *stock }))
    }

    #[inline(always)]
    fn objects(&self) -> usize {
        // Relaxed: a thread that is inside comes after the thread that was inside before.
        (self.word.load(Ordering::Relaxed) & COUNT) as usize
    }

    #[inline(always)]
    fn nodes(&self) -> usize {
        let word = self.word.load(Ordering::Relaxed);
        ((word & COUNT) + ((word & BLANKS) / BLANK)) as usize
    }

    fn set_counts(&self, objects: usize, nodes: usize) {
        let word = self.word.load(Ordering::Relaxed);
        let before = (word & COUNT) as usize;
        self.count_moves(objects.saturating_sub(before), 0);
        let hits = word & !(HIT - 1);
        // Release: with the objects that moved in, their count is visible.
        let counts = (nodes - objects) as u64 * BLANK + objects as u64;
        self.word.store(hits | counts, Ordering::Release);
        self.count_moves(0, before.saturating_sub(objects));
    }

    fn count_moves(&self, moved_in: usize, moved_out: usize) {
        if moved_in > 0 {
            let before = self.moved_in.load(Ordering::Relaxed);
            self.moved_in.store(before.wrapping_add(moved_in as u64), Ordering::Relaxed);
        }
        if moved_out > 0 {
            let before = self.moved_out.load(Ordering::Relaxed);
            // Release: `word` has changed before.
            self.moved_out.store(before.wrapping_add(moved_out as u64), Ordering::Release);
        }
    }

    /// Works on the nodes that lie in the shard itself.
    fn with_rack<R>(&self, places: &mut [Node; PLACES], work: impl FnOnce(&mut Rack<'_>) -> R) -> R {
        let mut rack = Rack { places, objects: self.objects(), nodes: self.nodes() };
        let result = work(&mut rack);
        self.set_counts(rack.objects, rack.nodes);
        result
    }

    /// A hit that the fast path has not counted.
    fn count_hit(&self) {
        self.count_moves(1, 0);
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word.wrapping_add(HIT), Ordering::Release);
    }

    fn publish_hints(&self, stock: &Stock) {
        let objects = stock.spare.as_ref().map_or(0, Magazine::objects);
        self.spare_objects.store(objects as u32, Ordering::Relaxed);
        let has_magazines = stock.spare.is_some() || stock.empty.is_some();
        self.has_magazines.store(has_magazines.into(), Ordering::Relaxed);
    }

    /// Everything moves out, the magazines' memory too: what is not used for a generation is not kept.
    fn take_contents(&self) -> Contents {
        self.stock_mut(|stock| {
            let contents = Contents {
                spare: stock.spare.take(),
                places: stock.places,
                objects: self.objects(),
                nodes: self.nodes(),
                empty: stock.empty.take(),
            };
            self.set_counts(0, 0);
            self.publish_hints(stock);
            contents
        })
    }

    /// As [`Claimed::take_all`], of a shard that nobody else can reach any more.
    ///
    /// # Safety
    ///
    /// No other thread may be inside, nor come in meanwhile.
    pub(super) unsafe fn empty(&self) -> Contents {
        self.take_contents()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        match self.inherited {
            // Release: the owner, or the next claimer, sees what was done.
            None => self.shard.claim.fetch_and(SYMMETRIC | RETIRE, Ordering::Release),
            // The next one is to find it as we did.
            Some(claim) => self.shard.claim.swap(claim, Ordering::Release),
        };
    }
}

impl<'a> Claim<'a> {
    pub(super) fn needs_heavy_fence(&self) -> bool {
        self.needs_heavy_fence
    }

    /// Goes in if the owner is out. To be called after the fence that follows the claim: before it the answer means nothing.
    pub(super) fn enter(mut self) -> Result<Claimed<'a>, Self> {
        // Acquire: what the owner did before it left.
        match self.shard.busy.load(Ordering::Acquire) {
            0 => {
                if self.inherited.take().is_some() {
                    self.shard.abandon();
                }
                Ok(Claimed(self))
            }
            _ => Err(self),
        }
    }

    /// As `enter`, and keeps the claim for another attempt.
    pub(super) fn enter_again(claim: &mut Option<Self>) -> Option<Claimed<'a>> {
        claim.take()?.enter().map_err(|busy| *claim = Some(busy)).ok()
    }

    pub(super) fn shard(&self) -> &'a Shard {
        self.shard
    }
}

impl Claimed<'_> {
    pub(super) fn shard(&self) -> &Shard {
        self.0.shard
    }

    /// Takes everything.
    pub(super) fn take_all(&self) -> Contents {
        self.0.shard.take_contents()
    }

    /// Takes half of the objects, those that have been here for the longest time, as far as there is room for them among
    /// others of their generation. An owner that comes back finds the other half.
    pub(super) fn take_half(&self, into: &mut Magazine) {
        let shard = self.0.shard;
        shard.stock_mut(|stock| {
            let (spare, places) = (stock.spare.as_ref().map_or(0, Magazine::objects), shard.objects());
            let most = (spare + places).div_ceil(2);
            match &mut stock.spare {
                Some(spare)
                    if !spare.is_empty() && (into.is_empty() || into.generation() == spare.generation()) =>
                {
                    into.set_generation(spare.generation());
                    spare.give_oldest(into, most);
                }
                _ if into.is_empty() || into.generation() == Generation::Fresh => {
                    into.set_generation(Generation::Fresh);
                    shard.with_rack(&mut stock.places, |from| into.with(|to| from.give_oldest(to, most)));
                }
                _ => {}
            }
            shard.publish_hints(stock);
        });
    }
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: a thread that finds the owner out sees what it did.
        self.0.busy.store(0, Ordering::Release);
    }
}

impl Inside<'_> {
    /// Takes the node whose object was put last, if it lies in the shard itself. Fails beside blanks.
    #[inline(always)]
    pub(super) fn pop(self) -> Option<NonNull<()>> {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        // One comparison for two questions: there are objects, and no blanks. So it is where guards alone are used.
        let counts = word & (BLANKS | COUNT);
        if counts.wrapping_sub(1) >= PLACES as u64 {
            return None;
        }
        let node = shard.stock_mut(|stock| {
            // SAFETY: the count is at most `PLACES`, and nodes are not null.
            unsafe { NonNull::new_unchecked(*stock.places.as_ptr().add(counts as usize - 1)) }
        });
        shard.word.store(word.wrapping_add(HIT - OBJECT), Ordering::Relaxed);
        Some(node)
    }

    /// As `pop`. Beside blanks the last of these fills the gap.
    pub(super) fn pop_any(&self) -> Option<Node> {
        let shard = self.0;
        let node = shard.stock_mut(|stock| {
            let mut rack = Rack { places: &mut stock.places, objects: shard.objects(), nodes: shard.nodes() };
            rack.pop()
        })?;
        let word = shard.word.load(Ordering::Relaxed);
        shard.word.store(word.wrapping_add(HIT - OBJECT), Ordering::Relaxed);
        Some(node)
    }

    /// Puts a node with an object into the shard itself, if there is a free place. Fails beside blanks. Returns whether it
    /// has put it.
    #[inline(always)]
    pub(super) fn push(self, node: Node) -> bool {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        // One comparison for two questions: there is a free place, and there are no blanks.
        let counts = word & (BLANKS | COUNT);
        if counts >= PLACES as u64 {
            return false;
        }
        // SAFETY: the count is below `PLACES`.
        shard.stock_mut(|stock| unsafe { *stock.places.as_mut_ptr().add(counts as usize) = node });
        shard.word.store(word + OBJECT, Ordering::Relaxed);
        true
    }

    /// As `push`. Beside blanks the first of these makes way.
    pub(super) fn push_any(&self, node: Node) -> Result<(), Node> {
        let shard = self.0;
        shard.stock_mut(|stock| {
            let mut rack = Rack { places: &mut stock.places, objects: shard.objects(), nodes: shard.nodes() };
            rack.push(node)
        })?;
        let word = shard.word.load(Ordering::Relaxed);
        shard.word.store(word + OBJECT, Ordering::Relaxed);
        Ok(())
    }

    /// Moves out the object that was put last, if it lies in the shard itself; its node stays as a blank. Returns whether it has
    /// called `read`.
    #[inline(always)]
    pub(super) fn take_value(self, read: impl FnOnce(Node)) -> bool {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        let objects = (word & COUNT) as usize;
        if objects == 0 {
            return false;
        }
        // SAFETY: the count is at most `PLACES`.
        shard.stock_mut(|stock| read(unsafe { *stock.places.as_ptr().add(objects - 1) }));
        shard.word.store(word.wrapping_add(HIT + BLANK - OBJECT), Ordering::Relaxed);
        true
    }

    /// Moves an object into the next blank, if there is one in the shard itself. Returns whether it has called `write`.
    #[inline(always)]
    pub(super) fn put_value(self, write: impl FnOnce(Node)) -> bool {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        if word & BLANKS == 0 {
            return false;
        }
        // SAFETY: objects and blanks together are at most `PLACES`, and there is a blank.
        shard.stock_mut(|stock| write(unsafe { *stock.places.as_ptr().add((word & COUNT) as usize) }));
        shard.word.store(word + OBJECT - BLANK, Ordering::Relaxed);
        true
    }

    /// Makes sure that objects lie in the shard itself, which has none or few, out of the spare magazine. False if there are
    /// none, or only victims.
    pub(super) fn fill(&self) -> bool {
        let shard = self.0;
        if shard.objects() == 0 {
            shard.stock_mut(|stock| {
                let Some(spare) = &mut stock.spare else { return };
                if spare.generation() == Generation::Fresh && !spare.is_empty() {
                    shard.with_rack(&mut stock.places, |places| {
                        spare.with(|spare| spare.give_newest(places, PLACES));
                    });
                    shard.publish_hints(stock);
                }
            });
        }
        shard.objects() > 0
    }

    /// Takes a node out of the spare magazine: a victim, which is used one by one.
    pub(super) fn pop_victim(&self) -> Option<Node> {
        let shard = self.0;
        shard.stock_mut(|stock| {
            let node = stock.spare.as_mut()?.pop()?;
            shard.publish_hints(stock);
            shard.count_hit();
            Some(node)
        })
    }

    /// Takes in a magazine with objects: fresh ones go into the shard itself, and what does not fit becomes the spare magazine.
    /// Returns a magazine that is left over.
    pub(super) fn stock(&self, mut magazine: Magazine) -> Option<Magazine> {
        let shard = self.0;
        shard.stock_mut(|stock| {
            if magazine.generation() == Generation::Fresh {
                shard.with_rack(&mut stock.places, |places| {
                    magazine.with(|magazine| magazine.give_newest(places, PLACES));
                });
            }
            let left = match &mut stock.spare {
                None => {
                    stock.spare = Some(magazine);
                    None
                }
                Some(spare) => {
                    if spare.is_empty() {
                        std::mem::swap(spare, &mut magazine);
                    }
                    if magazine.is_empty() && stock.empty.is_none() {
                        stock.empty = Some(magazine);
                        None
                    } else {
                        Some(magazine)
                    }
                }
            };
            shard.publish_hints(stock);
            left
        })
    }

    /// Takes as many fresh objects out of a magazine as there is room for, in the shard itself and in the spare magazine.
    pub(super) fn restock(self, from: &mut Magazine) {
        let shard = self.0;
        shard.stock_mut(|stock| {
            shard.with_rack(&mut stock.places, |places| from.with(|from| from.give_newest(places, PLACES)));
            if let Some(spare) = &mut stock.spare
                && spare.generation() == Generation::Fresh
            {
                from.with(|from| spare.with(|spare| from.give_newest(spare, CAPACITY)));
            }
            shard.publish_hints(stock);
        });
    }

    /// Makes sure that the shard itself has room for an object: the spare magazine takes over those that it has, and gives
    /// blanks for them as far as it has any. If it is full, or old, it leaves, and `empty` takes its place. Fails
    /// if `empty` is needed and is not there.
    pub(super) fn make_room(&self, empty: &mut Option<Magazine>) -> Result<Option<Magazine>, NeedsEmpty> {
        let shard = self.0;
        if shard.objects() < PLACES {
            return Ok(None);
        }
        shard.stock_mut(|stock| {
            let takes_more = |spare: &mut Magazine| {
                spare.is_empty() || (!spare.is_full() && spare.generation() == Generation::Fresh)
            };
            let mut leaving = None;
            if !stock.spare.as_mut().is_some_and(takes_more) {
                let Some(empty) = empty.take().or_else(|| stock.empty.take()) else { return Err(NeedsEmpty) };
                leaving = stock.spare.replace(empty);
            }
            if let Some(spare) = &mut stock.spare {
                spare.set_generation(Generation::Fresh);
                shard.with_rack(&mut stock.places, |places| {
                    spare.with(|spare| places.give_oldest(spare, CAPACITY));
                });
            }
            shard.publish_hints(stock);
            Ok(leaving)
        })
    }

    /// Makes sure that there is a free place for a node, where there is room for an object: blanks move into the other
    /// magazines. One that finds no room there is returned.
    pub(super) fn make_place(&self) -> Option<Node> {
        let shard = self.0;
        if shard.nodes() < PLACES {
            return None;
        }
        shard.stock_mut(|stock| {
            shard.with_rack(&mut stock.places, |places| {
                for magazine in [&mut stock.spare, &mut stock.empty].into_iter().flatten() {
                    magazine.with(|magazine| places.give_blanks(magazine));
                }
                if places.nodes == PLACES { places.pop_blank() } else { None }
            })
        })
    }

    /// Makes sure that there are blanks in the shard itself, out of the other magazines, if there are any.
    pub(super) fn bring_blanks(&self) {
        let shard = self.0;
        if shard.has_blanks() {
            return;
        }
        shard.stock_mut(|stock| {
            shard.with_rack(&mut stock.places, |places| {
                for magazine in [&mut stock.spare, &mut stock.empty].into_iter().flatten() {
                    magazine.with(|magazine| magazine.give_blanks(places));
                }
            });
        });
    }

    /// Takes a blank out of the shard itself.
    pub(super) fn pop_blank(self) -> Option<Node> {
        let shard = self.0;
        let word = shard.word.load(Ordering::Relaxed);
        if word & BLANKS == 0 {
            return None;
        }
        let last = shard.nodes() - 1;
        shard.word.store(word - BLANK, Ordering::Relaxed);
        Some(shard.stock_mut(|stock| stock.places[last]))
    }

    /// Keeps a blank, wherever there is room for it.
    pub(super) fn push_blank(self, blank: Node) -> Result<(), Node> {
        let shard = self.0;
        let nodes = shard.nodes();
        if nodes < PLACES {
            shard.stock_mut(|stock| stock.places[nodes] = blank);
            shard.word.store(shard.word.load(Ordering::Relaxed) + BLANK, Ordering::Relaxed);
            return Ok(());
        }
        shard.stock_mut(|stock| {
            let push = |magazine: &mut Option<Magazine>, blank| match magazine {
                Some(magazine) => magazine.with(|rack| rack.push_blank(blank)),
                None => Err(blank),
            };
            push(&mut stock.spare, blank).or_else(|blank| push(&mut stock.empty, blank))
        })
    }
}

/// A shard can make room if it is given an empty magazine.
#[derive(Debug)]
pub(super) struct NeedsEmpty;
