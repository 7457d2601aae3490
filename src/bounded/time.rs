//! Time as the pool keeps it: nanoseconds of the monotonic clock, in one word.

use std::time::Duration;

/// A point in time, or [`NEVER`](Time::NEVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(u64);

impl Time {
    pub(super) const NEVER: Time = Time(u64::MAX);

    pub(super) fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Far away is `NEVER`.
    pub(super) fn after(self, pause: Duration) -> Self {
        Time(self.0.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(super) fn before(self, pause: Duration) -> Self {
        match self.is_never() {
            true => self,
            false => Time(self.0.saturating_sub(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))),
        }
    }

    /// Zero if `earlier` is later.
    pub(super) fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn is_never(self) -> bool {
        self == Time::NEVER
    }
}
