//! When a generation is over: a period of a coarse clock, looked at by those who are on a slow path anyway, or the
//! word of a [background thread](Ager).

#[cfg(not(cenote_loom))]
mod ager;

#[cfg(not(cenote_loom))]
pub(crate) use self::ager::sealed;
#[cfg(not(cenote_loom))]
pub use self::ager::{Ageable, Ager, AgerConfig};

use std::time::Duration;

use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::clock;

/// How long a generation of a pool lasts that was not told otherwise.
pub(crate) const DEFAULT_PERIOD: Duration = Duration::from_secs(60);

/// Tells each period's end to one caller.
pub(crate) struct Tide {
    /// `None`: never.
    period: Option<Duration>,
    /// When this generation ends, in ms of the clock; 0 before the first look.
    ends: AtomicU64,
}

impl Tide {
    #[cfg(not(cenote_loom))]
    pub(crate) const fn new(period: Option<Duration>) -> Self {
        Tide { period, ends: AtomicU64::new(0) }
    }

    #[cfg(cenote_loom)]
    pub(crate) fn new(period: Option<Duration>) -> Self {
        Tide { period, ends: AtomicU64::new(0) }
    }

    /// Whether a generation is over. True for one caller each time; the next generation begins with that.
    pub(crate) fn turns(&self) -> bool {
        let Some(period) = self.period else { return false };
        let now = clock::now_ms();
        // Relaxed throughout: the exchange alone decides, and nothing else is published by it.
        let ends = self.ends.load(Ordering::Relaxed);
        if now < ends {
            return false;
        }
        let period = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let next = now.saturating_add(period.max(1));
        self.ends.compare_exchange(ends, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && ends != 0
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    #[test]
    fn without_a_period_it_never_turns() {
        let tide = Tide::new(None);
        assert!(!(0..10).any(|_| tide.turns()));
    }

    #[test]
    fn the_first_look_begins_a_generation_and_its_end_is_told_once() {
        clock::stop_at(5_000);
        let tide = Tide::new(Some(Duration::from_secs(10)));
        assert!(!tide.turns());
        clock::stop_at(14_999);
        assert!(!tide.turns());
        clock::stop_at(15_000);
        assert!(tide.turns());
        assert!(!tide.turns());
        clock::stop_at(24_999);
        assert!(!tide.turns());
        clock::stop_at(60_000);
        assert!(tide.turns(), "periods that nobody looked at count once");
        assert!(!tide.turns());
    }

    #[test]
    fn a_period_beyond_what_the_clock_can_count_never_ends() {
        clock::stop_at(1);
        let tide = Tide::new(Some(Duration::MAX));
        assert!(!tide.turns());
        clock::stop_at(u64::MAX - 1);
        assert!(!tide.turns());
    }
}
