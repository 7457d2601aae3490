//! When a generation of a pool ends.
//!
//! Two drivers end generations: an [`AgingClock`], which an operation of the pool reads when it is
//! on a slow path, and an [`Ager`], a background thread that also reaches the pools that nobody
//! uses.
//!
//! On `wasm32-unknown-unknown` there is neither a clock nor a thread: no generation expires there,
//! and a pool ages only by calls of `age`.

#[cfg(not(cenote_loom))]
mod ager;

#[cfg(not(cenote_loom))]
pub(crate) use self::ager::sealed;
#[cfg(not(cenote_loom))]
pub use self::ager::{Ageable, Ager, AgerConfig};

use std::time::Duration;

use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::clock;

/// How long a generation lasts in a pool without a period of its own.
pub(crate) const DEFAULT_PERIOD: Duration = Duration::from_secs(60);

/// Reports the end of each period to exactly one caller.
pub(crate) struct AgingClock {
    /// `None`: a generation never expires by itself.
    period: Option<Duration>,
    /// When the current generation ends, in milliseconds of the [clock]; 0 before the first call.
    ends: AtomicU64,
}

impl AgingClock {
    #[cfg(not(cenote_loom))]
    pub(crate) const fn new(period: Option<Duration>) -> Self {
        AgingClock { period, ends: AtomicU64::new(0) }
    }

    #[cfg(cenote_loom)]
    pub(crate) fn new(period: Option<Duration>) -> Self {
        AgingClock { period, ends: AtomicU64::new(0) }
    }

    /// Whether the generation has expired. One caller gets `true` for each generation, and the next
    /// one begins at that moment. The first call begins the first generation.
    pub(crate) fn expired(&self) -> bool {
        let Some(period) = self.period else { return false };
        let now = clock::now_ms();
        // Relaxed throughout: the exchange alone decides, and it publishes nothing else.
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
    fn without_a_period_it_never_expires() {
        let clock = AgingClock::new(None);
        assert!(!(0..10).any(|_| clock.expired()));
    }

    #[test]
    fn the_first_call_begins_a_generation_and_one_caller_sees_its_end() {
        clock::stop_at(5_000);
        let clock = AgingClock::new(Some(Duration::from_secs(10)));
        assert!(!clock.expired());
        clock::stop_at(14_999);
        assert!(!clock.expired());
        clock::stop_at(15_000);
        assert!(clock.expired());
        assert!(!clock.expired());
        clock::stop_at(24_999);
        assert!(!clock.expired());
        clock::stop_at(60_000);
        assert!(clock.expired(), "several periods without a call count as one");
        assert!(!clock.expired());
    }

    #[test]
    fn a_period_longer_than_the_clock_can_count_never_ends() {
        clock::stop_at(1);
        let clock = AgingClock::new(Some(Duration::MAX));
        assert!(!clock.expired());
        clock::stop_at(u64::MAX - 1);
        assert!(!clock.expired());
    }
}
