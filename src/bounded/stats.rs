//! A snapshot of a pool's counts.

/// What a pool holds now, taken under one lock: `size` is the sum of the five counts that follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BoundedStats {
    /// Objects that count against the limit.
    pub(super) size: usize,
    /// Objects that the pool holds, ready for a caller.
    pub(super) idle: usize,
    /// Objects that callers have.
    pub(super) leased: usize,
    /// Creations that run.
    pub(super) creating: usize,
    /// Objects that are being checked or reset for a caller.
    pub(super) checking: usize,
    /// Objects that are being closed.
    pub(super) closing: usize,
    /// Callers that wait for an object.
    pub(super) waiting: usize,
    /// The limit.
    pub(super) max_size: usize,
}
