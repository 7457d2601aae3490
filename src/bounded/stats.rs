//! A snapshot of a pool's counts.

/// What a pool holds now and what it has done, taken under one lock: `size` is the sum of the five counts that
/// follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BoundedStats {
    /// Objects that count against the limit.
    pub size: usize,
    /// Objects that the pool holds, ready for a caller.
    pub idle: usize,
    /// Objects that callers have, or that have been handed to a waiter which has not run yet.
    pub leased: usize,
    /// Creations that run.
    pub creating: usize,
    /// Objects that are being checked or reset.
    pub checking: usize,
    /// Objects that are being closed.
    pub closing: usize,
    /// Callers that wait for an object.
    pub waiting: usize,
    /// The limit.
    pub max_size: usize,
    /// Objects created so far.
    pub created: u64,
    /// Creations that failed so far.
    pub create_failures: u64,
    /// Objects closed so far.
    pub closed: u64,
    /// Gets that were served without waiting.
    pub direct: u64,
    /// Gets that were served after they had waited.
    pub waited: u64,
    /// Gets that timed out.
    pub timed_out: u64,
}
