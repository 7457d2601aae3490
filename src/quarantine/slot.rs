//! Who may look at the object of a slot, in one word.
//!
//! ```text
//! 63                                                            0
//! |        generation        |          users           | phase |
//! ```
//!
//! | phase | who may touch the object | left by |
//! |---|---|---|
//! | free | nobody; the one who has reserved the slot | `publish` |
//! | open | the owner and the users, who share it | `release`, which also raises the generation |
//! | quarantined | the users who were inside | `reopen` or `retire`, by the recycler |
//! | retired | the users who were inside; nobody after them | nothing |
//!
//! The owner is a user from the first moment on. A user enters by adding itself to the word if the generation is the one that it knows and the phase is open: one
//! compare-and-swap, so that no release can come between the look and the step. From the release on nobody enters; who is
//! inside leaves by one subtraction. When the recycler sees no users in a word whose phase is quarantined, none will come any
//! more, and the object is its own.

use crate::primitive::atomic::{AtomicU64, Ordering};

/// How the word is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    generation_bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    Open,
    Quarantined,
    Retired,
}

const PHASE_BITS: u32 = 2;
const ONE_USER: u64 = 1 << PHASE_BITS;

/// Why a user may not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Released,
    Quarantined,
    Reused,
    Retired,
    Unknown,
    TooManyUsers,
}

impl Layout {
    pub(super) const fn new(generation_bits: u32) -> Self {
        Layout { generation_bits }
    }

    /// The generation that a slot never has while it is open.
    pub(super) const fn top(self) -> u64 {
        (1 << self.generation_bits) - 1
    }

    const fn shift(self) -> u32 {
        64 - self.generation_bits
    }

    const fn max_users(self) -> u64 {
        (1 << (self.shift() - PHASE_BITS)) - 1
    }

    fn word(self, generation: u64, phase: Phase) -> u64 {
        generation << self.shift() | phase as u64
    }

    fn generation(self, word: u64) -> u64 {
        word >> self.shift()
    }

    fn users(self, word: u64) -> u64 {
        word >> PHASE_BITS & self.max_users()
    }

    fn phase(word: u64) -> Phase {
        match word & 3 {
            0 => Phase::Free,
            1 => Phase::Open,
            2 => Phase::Quarantined,
            _ => Phase::Retired,
        }
    }

    /// Whether a user that knows this generation may enter.
    fn look(self, word: u64, generation: u64) -> Result<(), Refusal> {
        let now = self.generation(word);
        match Layout::phase(word) {
            Phase::Open if now == generation => match self.users(word) < self.max_users() {
                true => Ok(()),
                false => Err(Refusal::TooManyUsers),
            },
            _ if now <= generation => Err(Refusal::Unknown),
            Phase::Retired => Err(Refusal::Retired),
            Phase::Free if now == generation + 1 => Err(Refusal::Released),
            Phase::Quarantined if now == generation + 1 => Err(Refusal::Quarantined),
            _ => Err(Refusal::Reused),
        }
    }
}

/// The word of a slot.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new(layout: Layout, generation: u64) -> Self {
        Word(AtomicU64::new(layout.word(generation, Phase::Free)))
    }

    pub(super) fn generation(&self, layout: Layout) -> u64 {
        // Relaxed: asked by the one who holds the slot, or of a slot that nobody holds.
        layout.generation(self.0.load(Ordering::Relaxed))
    }

    /// The holder of a reserved slot becomes its owner, inside, and lets others in. Returns the generation.
    pub(super) fn publish(&self, layout: Layout) -> u64 {
        let generation = self.generation(layout);
        // Release: who enters sees the object as the holder left it. A plain store: nobody else changes the word of a free slot.
        self.0.store(layout.word(generation, Phase::Open) + ONE_USER, Ordering::Release);
        generation
    }

    #[inline]
    pub(super) fn enter(&self, layout: Layout, generation: u64) -> Result<(), Refusal> {
        // Relaxed: the swap decides.
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            layout.look(word, generation)?;
            // Acquire: pairs with the Release of `publish`.
            let swap =
                self.0.compare_exchange_weak(word, word + ONE_USER, Ordering::Acquire, Ordering::Relaxed);
            match swap {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// A user leaves. Returns whether it was the last one of a slot that is no longer open.
    #[inline]
    pub(super) fn leave(&self, layout: Layout) -> bool {
        // Release: pairs with the Acquire of `is_empty`, for what the user did to the object.
        let before = self.0.fetch_sub(ONE_USER, Ordering::Release);
        Layout::phase(before) != Phase::Open && layout.users(before) == 1
    }

    /// Closes the slot, if it is open in this generation: nobody enters from now on. The owner leaves in the same step.
    pub(super) fn release(&self, layout: Layout, generation: u64, leaves: bool) -> Result<(), Refusal> {
        // Relaxed: the swap decides.
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            match layout.look(word, generation) {
                Ok(()) | Err(Refusal::TooManyUsers) => {}
                Err(refusal) => return Err(refusal),
            }
            let users = layout.users(word) - u64::from(leaves);
            let next = layout.word(generation + 1, Phase::Quarantined) | users << PHASE_BITS;
            // Release: pairs with the Acquire of `is_empty`, for what the owner did to the object.
            match self.0.compare_exchange_weak(word, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Whether nobody is inside. Asked of a slot in quarantine, the answer `true` is for good.
    pub(super) fn is_empty(&self, layout: Layout) -> bool {
        // Acquire: pairs with the Release of the last to leave, and through the chain of subtractions with all before it.
        layout.users(self.0.load(Ordering::Acquire)) == 0
    }

    /// The quarantine is over: the slot is free again. Nobody is inside, and nobody can enter, so nobody else changes the word.
    pub(super) fn reopen(&self, layout: Layout) {
        let generation = self.generation(layout);
        // Relaxed: the next holder gets the slot through the pool's lock.
        self.0.store(layout.word(generation, Phase::Free), Ordering::Relaxed);
    }

    /// The slot is never used again. Somebody may be inside, and leave meanwhile.
    pub(super) fn retire(&self) {
        // Relaxed: it only makes later answers more exact.
        self.0.fetch_or(Phase::Retired as u64, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout::new(40);

    #[test]
    fn a_user_is_told_what_became_of_its_object() {
        use Phase::*;
        let cases = [
            ((5, Open), 5, Ok(())),
            ((6, Quarantined), 5, Err(Refusal::Quarantined)),
            ((6, Free), 5, Err(Refusal::Released)),
            ((6, Open), 5, Err(Refusal::Reused)),
            ((7, Quarantined), 5, Err(Refusal::Reused)),
            ((7, Free), 5, Err(Refusal::Reused)),
            ((6, Retired), 5, Err(Refusal::Retired)),
            ((9, Retired), 5, Err(Refusal::Retired)),
            // Made up, or of another table.
            ((5, Free), 5, Err(Refusal::Unknown)),
            ((5, Quarantined), 5, Err(Refusal::Unknown)),
            ((5, Open), 6, Err(Refusal::Unknown)),
            ((5, Retired), LAYOUT.top(), Err(Refusal::Unknown)),
        ];
        for ((generation, phase), known, expected) in cases {
            assert_eq!(
                LAYOUT.look(LAYOUT.word(generation, phase), known),
                expected,
                "{generation} {phase:?} {known}"
            );
        }
    }

    #[test]
    fn the_word_has_room_for_each_split() {
        for bits in [8, 24, 40, 48] {
            let layout = Layout::new(bits);
            let word = Word::new(layout, layout.top() - 1);
            assert_eq!(word.publish(layout), layout.top() - 1);
            assert_eq!(word.enter(layout, layout.top() - 1), Ok(()));
            assert_eq!(word.release(layout, layout.top() - 1, true), Ok(()));
            assert_eq!(word.generation(layout), layout.top());
            assert!(!word.is_empty(layout));
            assert!(word.leave(layout));
            assert!(word.is_empty(layout));
        }
    }

    #[test]
    fn one_user_too_many_is_refused_and_the_slot_can_still_be_released() {
        let layout = Layout::new(54);
        let word = Word::new(layout, 0);
        let generation = word.publish(layout);
        for _ in 1..layout.max_users() {
            word.enter(layout, generation).unwrap();
        }
        assert_eq!(word.enter(layout, generation), Err(Refusal::TooManyUsers));
        assert_eq!(word.release(layout, generation, false), Ok(()));
        let last = (0..layout.max_users()).map(|_| word.leave(layout)).collect::<Vec<_>>();
        assert_eq!(last.iter().filter(|last| **last).count(), 1);
        assert!(last[last.len() - 1]);
    }

    #[test]
    fn a_second_release_finds_the_first() {
        let word = Word::new(LAYOUT, 3);
        let generation = word.publish(LAYOUT);
        assert_eq!(word.release(LAYOUT, generation, true), Ok(()));
        assert_eq!(word.release(LAYOUT, generation, false), Err(Refusal::Quarantined));
        word.reopen(LAYOUT);
        assert_eq!(word.release(LAYOUT, generation, false), Err(Refusal::Released));
        word.publish(LAYOUT);
        assert_eq!(word.release(LAYOUT, generation, false), Err(Refusal::Reused));
        assert_eq!(word.release(LAYOUT, generation + 1, true), Ok(()));
        word.retire();
        assert_eq!(word.enter(LAYOUT, generation + 1), Err(Refusal::Retired));
    }
}
