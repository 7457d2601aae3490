//! The depot: where magazines wait for the next thread that needs one.
//!
//! # Roles
//!
//! A magazine in the depot is of one of three ages, numbered from 0 to 2. Which number is for which [`Role`] depends on
//! the [turn](Turn): at the next turn each role's number is that of the role before, so that aging costs one exchange, however
//! much there is. What is expired must have been taken out by then: its number becomes that of the fresh. Empty magazines,
//! with their blanks, have a number of their own.
//!
//! # Places
//!
//! For each age there are lines of places for one magazine each. A magazine goes in by one exchange (Release) and comes out
//! by another (Acquire), as it is: the thread that takes it out is its one owner, and nobody looks into a magazine of another
//! owner, so no epoch guards it and nothing is copied. Each shard has a preferred line, where it looks first: so threads that
//! each give and take by bursts do not meet on a cache line. A line also counts its objects, on the same cache line.
//!
//! A magazine that finds no place goes onto a [`Stack`] behind, one for each age.
//!
//! # Whether there is anything
//!
//! `some` says by age whether there may be a magazine: a thread that starves looks there and nowhere else.
//!
//! ```text
//!   a thread that gives                a thread that finds nothing
//!   the magazine into its place        some = false
//!   some, if it is false: = true       looks again; found: some = true
//! ```
//!
//! Each side writes, then reads what the other wrote, in sequential consistency: so either the thread that gives sees
//! `false` and sets it, or the other finds the magazine at the second look. It is a hint all the same: for a
//! moment between the two it may say no of a magazine that is there.

use std::ptr;

use super::magazine::{Block, Generation, Magazine};
use super::stack::{List, Stack};
use crate::primitive::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use crate::primitive::fence;

/// Lines of places for each age, a power of two, since the number of a thread is any number.
const LINES: usize = if cfg!(cenote_loom) { 1 } else { 4 };
/// As many as leave room for the count on a cache line.
const PLACES: usize = if cfg!(cenote_loom) { 1 } else { 7 };

/// Ages of objects.
const AGES: usize = 3;
/// The number of empty magazines, which follows those of the ages.
const EMPTY: usize = AGES;

/// After so many turns the count begins again: a multiple of three.
const TURNS: u32 = 3 << 30;

/// What a magazine in the depot is for, this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Put before the generation before: waiting to be dropped.
    Expired = 0,
    /// Put in the generation before.
    Victim = 1,
    /// Put in this generation.
    Fresh = 2,
}

impl From<Generation> for Role {
    fn from(generation: Generation) -> Self {
        match generation {
            Generation::Fresh => Role::Fresh,
            Generation::Victim => Role::Victim,
        }
    }
}

/// Which number is for which role. The owner of a depot keeps it, and has it before there is a depot.
#[derive(Debug)]
pub(super) struct Turn(AtomicU32);

impl Turn {
    #[cfg(not(cenote_loom))]
    pub(super) const fn new() -> Self {
        Turn(AtomicU32::new(0))
    }

    #[cfg(cenote_loom)]
    pub(super) fn new() -> Self {
        Turn(AtomicU32::new(0))
    }

    pub(super) fn get(&self) -> u32 {
        // Relaxed: a turn that is missed makes an object a generation older or younger than it is.
        self.0.load(Ordering::Relaxed)
    }

    /// The next turn, unless another thread has done it meanwhile. What is expired must have been taken out.
    pub(super) fn pass(&self, from: u32) -> bool {
        let to = (from + 1) % TURNS;
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A cache line.
#[repr(align(64))]
struct Line {
    places: [AtomicPtr<Block>; PLACES],
    /// The objects in the places. A thread adds before it gives and subtracts after it has taken, so it is never too low.
    objects: AtomicUsize,
}

/// See the head of the file.
pub(super) struct Depot {
    /// By age, then the empty ones.
    lines: [[Line; LINES]; AGES + 1],
    behind: [Stack; AGES],
    /// The objects behind, by age; never too few.
    objects_behind: [AtomicUsize; AGES],
    some: [AtomicBool; AGES],
}

impl Line {
    fn new() -> Self {
        Line {
            places: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            objects: AtomicUsize::new(0),
        }
    }

    /// Puts a magazine into a free place.
    fn give(&self, magazine: Magazine) -> Result<(), Magazine> {
        let objects = magazine.objects();
        let mut counted = false;
        let block = magazine.into_raw();
        for place in &self.places {
            // Relaxed: the exchange decides.
            if !place.load(Ordering::Relaxed).is_null() {
                continue;
            }
            if !counted && objects > 0 {
                counted = true;
                self.objects.fetch_add(objects, Ordering::Relaxed);
            }
            // Sequentially consistent: see the head of the file. It also gives the magazine away (Release).
            if place.compare_exchange(ptr::null_mut(), block, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
        if counted {
            self.objects.fetch_sub(objects, Ordering::Relaxed);
        }
        // SAFETY: it went nowhere.
        match unsafe { Magazine::from_raw(block) } {
            Some(magazine) => Err(magazine),
            None => Ok(()),
        }
    }

    fn take(&self) -> Option<Magazine> {
        self.places.iter().find_map(|place| self.take_from(place))
    }

    fn take_from(&self, place: &AtomicPtr<Block>) -> Option<Magazine> {
        // Sequentially consistent: the second look must not come before the flag was cleared.
        if place.load(Ordering::SeqCst).is_null() {
            return None;
        }
        // Acquire: what is in the magazine.
        let block = place.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: the exchange took it out, for us alone.
        let magazine = unsafe { Magazine::from_raw(block) }?;
        if !magazine.is_empty() {
            self.objects.fetch_sub(magazine.objects(), Ordering::Relaxed);
        }
        Some(magazine)
    }
}

impl Depot {
    pub(super) fn new() -> Self {
        Depot {
            lines: std::array::from_fn(|_| std::array::from_fn(|_| Line::new())),
            behind: std::array::from_fn(|_| Stack::new()),
            objects_behind: std::array::from_fn(|_| AtomicUsize::new(0)),
            some: std::array::from_fn(|_| AtomicBool::new(false)),
        }
    }

    fn age(turn: u32, role: Role) -> usize {
        (turn as usize + role as usize) % AGES
    }

    /// The lines of an age, the preferred one first.
    fn lines(&self, age: usize, preferred: usize) -> impl Iterator<Item = &Line> {
        (0..LINES).map(move |line| &self.lines[age][preferred.wrapping_add(line) % LINES])
    }

    // ── giving ──

    /// Gives a magazine with objects away.
    pub(super) fn push(&self, turn: u32, role: Role, magazine: Magazine, preferred: usize) {
        let age = Self::age(turn, role);
        let mut magazine = magazine;
        for line in self.lines(age, preferred) {
            match line.give(magazine) {
                Ok(()) => return self.announce(age),
                Err(back) => magazine = back,
            }
        }
        self.objects_behind[age].fetch_add(magazine.objects(), Ordering::Relaxed);
        self.behind[age].push(magazine);
        fence::full();
        self.announce(age);
    }

    fn announce(&self, age: usize) {
        #[cfg(cenote_loom)]
        fence::full(); // loom takes the exchange for no more than acquire and release
        // See the head of the file. Most often it is true, and is read only.
        if !self.some[age].load(Ordering::SeqCst) {
            self.some[age].store(true, Ordering::SeqCst);
        }
    }

    /// Keeps an empty magazine for a thread that needs one. Gives it back if there is no place.
    pub(super) fn push_empty(&self, magazine: Magazine, preferred: usize) -> Result<(), Magazine> {
        debug_assert!(magazine.is_empty());
        self.lines(EMPTY, preferred)
            .try_fold(magazine, |magazine, line| match line.give(magazine) {
                Ok(()) => Err(()),
                Err(back) => Ok(back),
            })
            .map_or(Ok(()), Err)
    }

    // ── taking ──

    /// A magazine without objects, perhaps with blanks.
    pub(super) fn pop_empty(&self, preferred: usize) -> Option<Magazine> {
        let mut empty = self.lines(EMPTY, preferred).find_map(Line::take)?;
        empty.set_generation(Generation::Fresh);
        Some(empty)
    }

    /// A hint: whether there is no magazine of any age. Cheaper than to ask for each role.
    #[inline]
    pub(super) fn seems_empty(&self) -> bool {
        // Each load multiplies the executions of a model, and what this decides is decided again for each role.
        !cfg!(cenote_loom) && !self.some.iter().any(|some| some.load(Ordering::Relaxed))
    }

    /// A hint: whether there may be a magazine for this role.
    pub(super) fn has(&self, turn: u32, role: Role) -> bool {
        self.some[Self::age(turn, role)].load(Ordering::Relaxed)
    }

    /// A magazine of this role, from the preferred line if there is one.
    pub(super) fn pop(&self, turn: u32, role: Role, preferred: usize) -> Option<Magazine> {
        let age = Self::age(turn, role);
        if !self.some[age].load(Ordering::Relaxed) {
            return None;
        }
        let mut magazine = match self.find(age, preferred) {
            Some(magazine) => magazine,
            None => {
                // See the head of the file.
                self.some[age].swap(false, Ordering::SeqCst);
                #[cfg(cenote_loom)]
                fence::full();
                let magazine = self.find(age, preferred)?;
                self.some[age].store(true, Ordering::SeqCst);
                magazine
            }
        };
        magazine.set_generation(if role == Role::Fresh { Generation::Fresh } else { Generation::Victim });
        Some(magazine)
    }

    fn find(&self, age: usize, preferred: usize) -> Option<Magazine> {
        self.lines(age, preferred).find_map(Line::take).or_else(|| {
            let magazine = self.behind[age].pop()?;
            self.objects_behind[age].fetch_sub(magazine.objects(), Ordering::Relaxed);
            Some(magazine)
        })
    }

    /// What is expired at this turn. If the turn is over by now, fresh objects may be among it.
    pub(super) fn take_expired(&self, turn: u32) -> List {
        self.take_age(Self::age(turn, Role::Expired))
    }

    /// Everything, the empty magazines included.
    pub(super) fn take_everything(&self) -> List {
        let mut all = self.take_all();
        all.append(self.take_empty());
        all
    }

    /// Everything that holds objects.
    fn take_all(&self) -> List {
        (0..AGES).fold(List::new(), |mut all, age| {
            all.append(self.take_age(age));
            all
        })
    }

    /// The empty magazines.
    pub(super) fn take_empty(&self) -> List {
        self.take_lines(EMPTY)
    }

    fn take_lines(&self, age: usize) -> List {
        let mut list = List::new();
        for line in &self.lines[age] {
            line.places
                .iter()
                .filter_map(|place| line.take_from(place))
                .for_each(|magazine| list.push(magazine));
        }
        list
    }

    fn take_age(&self, age: usize) -> List {
        let mut list = self.take_lines(age);
        let behind = self.behind[age].take_all();
        self.objects_behind[age].fetch_sub(behind.objects(), Ordering::Relaxed);
        list.append(behind);
        list
    }

    // ── counting ──

    /// The objects that wait, and are not expired. Consistent only while nobody changes it.
    pub(super) fn waiting(&self, turn: u32) -> usize {
        self.count(Self::age(turn, Role::Fresh)) + self.count(Self::age(turn, Role::Victim))
    }

    /// All objects. Consistent only while nobody changes it.
    pub(super) fn objects(&self) -> usize {
        (0..AGES).map(|age| self.count(age)).sum()
    }

    fn count(&self, age: usize) -> usize {
        // Relaxed: numbers to look at.
        let in_lines = self.lines[age].iter().map(|line| line.objects.load(Ordering::Relaxed));
        in_lines.sum::<usize>() + self.objects_behind[age].load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    fn magazine(objects: usize) -> Magazine {
        let mut magazine = Magazine::new();
        for number in 1..=objects {
            magazine.push(ptr::without_provenance_mut(number)).unwrap();
        }
        magazine
    }

    fn empty(mut magazine: Magazine) -> usize {
        std::iter::from_fn(|| magazine.pop()).count()
    }

    #[test]
    fn a_magazine_grows_one_role_older_each_turn_and_is_counted_wherever_it_lies() {
        let (depot, turn) = (Depot::new(), Turn::new());
        let sizes = 1 + LINES * PLACES;
        for size in 0..sizes {
            depot.push(turn.get(), Role::Fresh, magazine(1 + size % 30), size);
        }
        let all = depot.objects();
        assert_eq!(depot.waiting(turn.get()), all);
        assert!(depot.pop(turn.get(), Role::Victim, 0).is_none());
        assert!(turn.pass(turn.get()));
        assert!(depot.pop(turn.get(), Role::Fresh, 0).is_none());
        let victim = depot.pop(turn.get(), Role::Victim, 3).unwrap();
        assert_eq!(victim.generation(), Generation::Victim);
        let taken = empty(victim);
        assert_eq!(depot.waiting(turn.get()), all - taken);
        assert!(turn.pass(turn.get()));
        assert_eq!(depot.waiting(turn.get()), 0);
        let mut expired = depot.take_expired(turn.get());
        assert_eq!((expired.objects(), depot.objects()), (all - taken, 0));
        let dropped: usize = std::iter::from_fn(|| expired.pop()).map(empty).sum();
        assert_eq!(dropped, all - taken);
        assert!(!turn.pass(turn.get() + 1), "another thread's turn");
    }

    #[test]
    fn empty_magazines_are_kept_as_far_as_there_are_places() {
        let depot = Depot::new();
        let kept = (0..100).take_while(|at| depot.push_empty(Magazine::new(), *at).is_ok()).count();
        assert_eq!(kept, LINES * PLACES);
        assert!(depot.pop_empty(7).is_some());
        let mut rest = depot.take_empty();
        assert_eq!(std::iter::from_fn(|| rest.pop()).count(), kept - 1);
    }
}
