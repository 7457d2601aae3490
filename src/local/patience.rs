//! How long a remote thread waits for an owner that is at work in its shard, or for another remote thread.

use crate::primitive::{nap, spin_loop, yield_now};

/// Turns of a spinning wait, of yielding,
/// and of naps of 50 us. A thread that is running is out within nanoseconds. One that is not may be the caller itself,
/// in a signal handler, so there is an end to it.
const SPINS: u32 = if cfg!(cenote_loom) { 1 } else { 64 };
const YIELDS: u32 = if cfg!(cenote_loom) { 0 } else { 16 };
const NAPS: u32 = if cfg!(cenote_loom) { 0 } else { 100 };

/// Whether to wait for a thread that is at work in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitForOwner {
    /// Aging by hand: the caller wants to see it done.
    Briefly,
    /// Aging by use: the caller has come for an object.
    No,
}

/// Turns of waiting.
struct Patience(u32);

impl Patience {
    fn new(wait: WaitForOwner) -> Self {
        Patience(match wait {
            WaitForOwner::Briefly => 0,
            WaitForOwner::No => SPINS + YIELDS + NAPS,
        })
    }

    /// Waits one turn. False if there are none left.
    fn wait(&mut self) -> bool {
        match self.0 {
            turn if turn < SPINS => spin_loop(),
            turn if turn < SPINS + YIELDS => yield_now(),
            turn if turn < SPINS + YIELDS + NAPS => nap(),
            _ => return false,
        }
        self.0 += 1;
        true
    }
}

/// Tries again and again, as long as there is time to wait.
pub(super) fn retry<T>(wait: WaitForOwner, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let mut patience = Patience::new(wait);
    loop {
        match attempt() {
            None if patience.wait() => {}
            result => return result,
        }
    }
}
