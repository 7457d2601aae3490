//! How often the process searches other threads' shards: each search that finds something to take costs a process-wide
//! barrier, which interrupts every running thread.
//!
//! One budget is shared by all pools, as the barrier is. So that a pool that searches all the time does not keep the others from
//! finding anything, each pool has a few searches of its own from time to time.

/// Searches that the process may make at once.
const MOST: u64 = 64;

/// How many it is given back for each millisecond: with 0.2 to 2 us a barrier, at most some percent of its time.
const EACH_MS: u64 = 16;

/// A pool may search so many times in so many ms, whatever the others do.
const OWN: u64 = 4;
const OWN_MS: u64 = 10;

/// The searches left, in the low bits, and when the last ones were given back, in ms of the coarse clock.
const LEFT_BITS: u32 = 8;

/// One search less, if there is one left at this time.
fn spend(state: u64, now_ms: u64) -> Option<u64> {
    let (left, given) = (state & ((1 << LEFT_BITS) - 1), state >> LEFT_BITS);
    let passed = now_ms.saturating_sub(given);
    let left = (left + passed.saturating_mul(EACH_MS)).min(MOST);
    // A clock that goes back gives nothing.
    let now = now_ms.max(given);
    Some(now << LEFT_BITS | left.checked_sub(1)?)
}

/// As `spend`, of a pool's own searches: how many there were, in the low bits, since when.
fn spend_own(state: u64, now_ms: u64) -> Option<u64> {
    let (spent, since) = (state & ((1 << LEFT_BITS) - 1), state >> LEFT_BITS);
    if now_ms.saturating_sub(since) >= OWN_MS {
        return Some(now_ms << LEFT_BITS | 1);
    }
    (spent < OWN).then_some(state + 1)
}

#[cfg(not(cenote_loom))]
mod imp {
    use crate::primitive::atomic::{AtomicU64, Ordering};
    use crate::primitive::clock;

    /// Shared by all pools, as the barrier is.
    static STATE: AtomicU64 = AtomicU64::new(super::MOST);

    /// Whether a pool may search now, which the caller then does; `own` is what the pool has spent of its own.
    pub(in crate::local) fn may_search(own: &AtomicU64) -> bool {
        let now = clock::now_ms();
        // Relaxed: nothing but the numbers.
        let spend = |state: &AtomicU64, spend: fn(u64, u64) -> Option<u64>| {
            state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| spend(state, now)).is_ok()
        };
        spend(own, super::spend_own) || spend(&STATE, super::spend)
    }
}

#[cfg(cenote_loom)]
mod imp {
    pub(in crate::local) fn may_search(_own: &crate::primitive::atomic::AtomicU64) -> bool {
        true
    }
}

pub(super) use self::imp::may_search;

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_a_few_searches_of_its_own_from_time_to_time() {
        let mut state = 0;
        for (now_ms, expected) in [(100, OWN), (100, 0), (109, 0), (110, OWN), (90, 0), (500, OWN)] {
            let granted: Vec<u64> =
                std::iter::successors(spend_own(state, now_ms), |state| spend_own(*state, now_ms)).collect();
            assert_eq!(granted.len() as u64, expected, "at {now_ms} ms");
            state = granted.last().copied().unwrap_or(state);
        }
    }

    #[test]
    fn a_burst_is_granted_at_once_and_then_so_many_each_millisecond() {
        let mut state = MOST;
        for (now_ms, expected) in
            [(0, MOST), (0, 0), (1, EACH_MS), (1, 0), (3, 2 * EACH_MS), (2, 0), (3, 0), (1000, MOST)]
        {
            let granted = std::iter::successors(spend(state, now_ms), |state| spend(*state, now_ms));
            let granted: Vec<u64> = granted.collect();
            assert_eq!(granted.len() as u64, expected, "at {now_ms} ms");
            state = granted.last().copied().unwrap_or(state);
        }
    }
}
