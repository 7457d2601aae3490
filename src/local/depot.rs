//! The depot: where magazines wait for the next thread that needs one.
//!
//! # Roles
//!
//! A magazine in the depot is of one of three ages, kept apart by a number from 0 to 2. Which number is for which [`Role`] depends on
//! `turn`: at the next turn each role's number is that of the role before, so that ageing costs one exchange, however
//! much there is. What is due must have gone by then: its number becomes that of the fresh.
//!
//! # Places
//!
//! In front are a few places for one full magazine each. A magazine goes in by one exchange (Release) and comes out by another
//! (Acquire), as it is: who takes it out is its one owner, and nobody looks into one that is not his own, so no epoch guards
//! it and nothing is copied. The low bits of the pointer tell its age. The places lie in lines, and each shard has a home
//! among them, where it looks first: so threads that each give and take by bursts do not meet on a cache line.
//!
//! Empty magazines come back the same way, from those who take to those who give, or else the memory of each would be
//! allocated on one thread and freed on another. They have an age of their own, and make way for all others.
//!
//! What does not find a place, or is not full, goes onto a [`Stack`] behind, one for each age. A fresh magazine drives an older
//! one out of its place.
//!
//! # Whether there is anything
//!
//! `some` tells by age whether there may be a magazine: a thread that starves looks there and nowhere else.
//!
//! ```text
//!   who gives                          who finds nothing
//!   the magazine into its place        some = false
//!   some, if it is false: = true       looks again; found: some = true
//! ```
//!
//! Each side writes, then reads what the other wrote, in sequential consistency: so either the one who gives sees
//! `false` and sets it, or the other finds the magazine at the second look. It is a hint all the same: for a
//! moment between the two it may say no of a magazine that is there.

use std::ptr;

use super::magazine::{Block, Generation, List, Magazine, Stack};
use crate::primitive::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::primitive::fence;

/// Lines of places, a power of two, since a home is any number.
const LINES: usize = if cfg!(cenote_loom) { 1 } else { 4 };
const PLACES: usize = if cfg!(cenote_loom) { 1 } else { 8 };

/// The age of empty magazines.
const BLANK: usize = 3;

const UNLIMITED: u32 = u32::MAX;

/// After so many turns the count begins again: a multiple of three.
const TURNS: u32 = 3 << 30;

/// What a magazine in the depot is for, this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Put before the generation before: waiting to be dropped.
    Due = 0,
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

/// A cache line's worth.
#[repr(align(64))]
struct Line<T>([AtomicPtr<Block<T>>; PLACES]);

/// See the head of the file.
#[repr(C)]
pub(super) struct Depot<T> {
    front: [Line<T>; LINES],
    behind: [Stack<T>; 3],
    some: [AtomicBool; 3],
    /// Below [`TURNS`].
    turn: AtomicU32,
    /// Objects that may wait here, the due ones apart; or [`UNLIMITED`].
    limit: u32,
    /// Objects in `behind`, by age: never too few. Kept only if there is a limit, since all threads write it.
    counts: [AtomicU32; 3],
}

const fn limit(most: Option<usize>) -> u32 {
    match most {
        Some(objects) if objects < UNLIMITED as usize => objects as u32,
        _ => UNLIMITED,
    }
}

macro_rules! new_depot {
    ($most:expr, $lines:expr) => {
        Depot {
            front: $lines,
            behind: [Stack::new(), Stack::new(), Stack::new()],
            some: [AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false)],
            turn: AtomicU32::new(0),
            limit: limit($most),
            counts: [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)],
        }
    };
}

impl<T> Depot<T> {
    /// With room for so many objects, or any number.
    #[cfg(not(cenote_loom))]
    pub(super) const fn new(most: Option<usize>) -> Self {
        new_depot!(most, [const { Line([const { AtomicPtr::new(ptr::null_mut()) }; PLACES]) }; LINES])
    }

    #[cfg(cenote_loom)]
    pub(super) fn new(most: Option<usize>) -> Self {
        let line = || Line(std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())));
        new_depot!(most, std::array::from_fn(|_| line()))
    }

    // ── roles ──

    pub(super) fn turn(&self) -> u32 {
        // Relaxed: a turn that is missed makes an object a generation older or younger than it is.
        self.turn.load(Ordering::Relaxed)
    }

    /// The next turn, unless another has done it meanwhile. What is due must have been taken out.
    pub(super) fn pass(&self, from: u32) -> bool {
        let to = (from + 1) % TURNS;
        self.turn.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn age(turn: u32, role: Role) -> usize {
        (turn as usize + role as usize) % 3
    }

    fn is_limited(&self) -> bool {
        self.limit != UNLIMITED
    }

    // ── giving ──

    /// Gives a magazine away; one that is empty is dropped. Fails if there is no room for it.
    pub(super) fn push(&self, role: Role, magazine: Magazine<T>, home: usize) -> Result<(), Magazine<T>> {
        if magazine.len() == 0 {
            return Ok(());
        }
        let turn = self.turn();
        if self.is_limited() && role != Role::Due && !self.has_room(turn, magazine.len()) {
            return Err(magazine);
        }
        let age = Self::age(turn, role);
        let mut magazine = magazine;
        if role == Role::Fresh && magazine.is_full() {
            match self.place(magazine, age, home) {
                Ok(()) => return Ok(()),
                Err(back) => magazine = back,
            }
        }
        self.stack(magazine, age);
        Ok(())
    }

    /// Whether so many objects more may wait. Who asks at the same time as another may be told the same.
    fn has_room(&self, turn: u32, more: usize) -> bool {
        let waits = |role| {
            let age = Self::age(turn, role);
            // Relaxed: a number to compare with.
            self.count_front(|there| there == age) + self.counts[age].load(Ordering::Relaxed) as usize
        };
        waits(Role::Fresh) + waits(Role::Victim) + more <= self.limit as usize
    }

    fn stack(&self, magazine: Magazine<T>, age: usize) {
        if self.is_limited() {
            self.counts[age].fetch_add(magazine.len() as u32, Ordering::Relaxed);
        }
        self.behind[age].push(magazine);
        fence::full();
        self.announce(age);
    }

    fn announce(&self, age: usize) {
        // See the head of the file. Most often it is true, and is read only.
        if !self.some[age].load(Ordering::SeqCst) {
            self.some[age].store(true, Ordering::SeqCst);
        }
    }

    /// Into a free place, or else one with an older magazine.
    fn place(&self, magazine: Magazine<T>, age: usize, home: usize) -> Result<(), Magazine<T>> {
        let tagged = magazine.into_tagged(age);
        let is = |age| move |there: *mut Block<T>| !there.is_null() && Magazine::age_of(there) == age;
        let older = |there| !is(age)(there);
        let there = self.replace(<*mut _>::is_null, tagged, home);
        let there = there.or_else(|| self.replace(is(BLANK), tagged, home));
        let Some(there) = there.or_else(|| self.replace(older, tagged, home)) else {
            // SAFETY: it went nowhere.
            return unsafe { Magazine::from_tagged(tagged) }.map_or(Ok(()), |(magazine, _)| Err(magazine));
        };
        #[cfg(cenote_loom)]
        fence::full(); // loom takes the exchange for no more than acquire and release
        self.announce(age);
        // SAFETY: the exchange took it out, for us alone.
        match unsafe { Magazine::from_tagged(there) } {
            None => {}
            Some((blank, BLANK)) => drop(blank),
            Some((older, age)) => self.stack(older, age),
        }
        Ok(())
    }

    /// Puts a magazine into the first place whose content will do, and takes that out.
    fn replace(
        &self,
        will_do: impl Fn(*mut Block<T>) -> bool,
        tagged: *mut Block<T>,
        home: usize,
    ) -> Option<*mut Block<T>> {
        self.places(home).find_map(|place| {
            // Relaxed: the exchange decides.
            let there = place.load(Ordering::Relaxed);
            // Sequentially consistent: see the head of the file. It also takes the older one out (Acquire), and gives
            // ours away (Release).
            will_do(there)
                .then(|| place.compare_exchange(there, tagged, Ordering::SeqCst, Ordering::Relaxed).ok())?
        })
    }

    /// All places, those at home first.
    fn places(&self, home: usize) -> impl Iterator<Item = &AtomicPtr<Block<T>>> {
        (0..LINES).flat_map(move |line| &self.front[home.wrapping_add(line) % LINES].0)
    }

    /// Keeps an empty magazine for who needs one, if there is a place for it.
    pub(super) fn push_blank(&self, magazine: Magazine<T>, home: usize) {
        debug_assert_eq!(magazine.len(), 0);
        let tagged = magazine.into_tagged(BLANK);
        if self.replace(<*mut _>::is_null, tagged, home).is_none() {
            // SAFETY: it went nowhere.
            drop(unsafe { Magazine::from_tagged(tagged) });
        }
    }

    // ── taking ──

    /// An empty magazine.
    pub(super) fn pop_blank(&self, home: usize) -> Magazine<T> {
        let mut blank = self.places(home).find_map(|place| Self::take_out(place, BLANK));
        if let Some(blank) = &mut blank {
            blank.set_generation(Generation::Fresh);
        }
        blank.unwrap_or_else(Magazine::new)
    }

    /// Frees the empty magazines.
    pub(super) fn drop_blanks(&self) {
        for place in self.places(0) {
            drop(Self::take_out(place, BLANK));
        }
    }

    /// A hint: whether there may be a magazine for this role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.some[Self::age(self.turn(), role)].load(Ordering::Relaxed)
    }

    /// A magazine of this role, from the own line if there is one.
    pub(super) fn pop(&self, role: Role, home: usize) -> Option<Magazine<T>> {
        let age = Self::age(self.turn(), role);
        if !self.some[age].load(Ordering::Relaxed) {
            return None;
        }
        let mut magazine = match self.find(age, home) {
            Some(magazine) => magazine,
            None => {
                // See the head of the file.
                self.some[age].swap(false, Ordering::SeqCst);
                #[cfg(cenote_loom)]
                fence::full();
                let magazine = self.find(age, home)?;
                self.some[age].store(true, Ordering::SeqCst);
                magazine
            }
        };
        magazine.set_generation(if role == Role::Fresh { Generation::Fresh } else { Generation::Victim });
        Some(magazine)
    }

    fn find(&self, age: usize, home: usize) -> Option<Magazine<T>> {
        let mut places = self.places(home);
        places.find_map(|place| Self::take_out(place, age)).or_else(|| {
            let magazine = self.behind[age].pop()?;
            if self.is_limited() {
                self.counts[age].fetch_sub(magazine.len() as u32, Ordering::Relaxed);
            }
            Some(magazine)
        })
    }

    fn take_out(place: &AtomicPtr<Block<T>>, age: usize) -> Option<Magazine<T>> {
        // Sequentially consistent: the second look must not come before the flag was cleared.
        let there = place.load(Ordering::SeqCst);
        if there.is_null() || Magazine::age_of(there) != age {
            return None;
        }
        // Acquire: what is in it. If the block has left meanwhile, and come back or another in its stead, it is as good; but
        // then what was loaded above does not point at it.
        let taken =
            place.compare_exchange(there, ptr::null_mut(), Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: the exchange took it out, for us alone.
        unsafe { Magazine::from_tagged(taken) }.map(|(magazine, _)| magazine)
    }

    /// What is due at this turn. If the turn is over by now, fresh ones may be among it.
    pub(super) fn take_due(&self, turn: u32) -> List<T> {
        self.take_age(Self::age(turn, Role::Due))
    }

    /// Everything, by age.
    pub(super) fn take_all(&self) -> [List<T>; 3] {
        [0, 1, 2].map(|age| self.take_age(age))
    }

    fn take_age(&self, age: usize) -> List<T> {
        // In front first: from there to behind is a way that they may go meanwhile.
        let front: List<T> = self.places(0).filter_map(|place| Self::take_out(place, age)).collect();
        let mut list = self.behind[age].take_all();
        if self.is_limited() {
            self.counts[age].fetch_sub(list.count() as u32, Ordering::Relaxed);
        }
        list.append(front);
        list
    }

    // ── counting ──

    /// How many objects there are: consistent only while nobody changes it.
    pub(super) fn count(&self) -> usize {
        self.count_front(|age| age != BLANK) + self.behind.iter().map(Stack::count).sum::<usize>()
    }

    /// The objects in front of some ages: magazines there are full.
    fn count_front(&self, counts: impl Fn(usize) -> bool) -> usize {
        // Relaxed: only looked at.
        let there = self.places(0).map(|place| place.load(Ordering::Relaxed));
        let counted = there.filter(|there| !there.is_null() && counts(Magazine::age_of(*there)));
        counted.count() * Magazine::<T>::CAPACITY
    }
}

impl<T> Drop for Depot<T> {
    /// An array drops its other elements when the drop of one panics, and so does a list.
    fn drop(&mut self) {
        self.drop_blanks();
        drop(self.take_all());
    }
}
