//! Counters. Each thread counts its hits in its own shard, beside the objects it moves, so counting shares no cache
//! line; a snapshot adds the shards up.

/// What a [`SyncPool`](crate::SyncPool) has done so far, and how many objects it holds.
///
/// Every object that was kept has one later fate: `kept == hits + shed + aged + cleared + drained + idle`, in a snapshot that is
/// made while no thread is at work. All but `idle` only grow, from one snapshot to the next, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Objects that the pool's factory made, or the closure of a `get_or_else`.
    pub made: u64,
    /// Gets that were served with an object that the pool held.
    pub hits: u64,
    /// Of the hits, those that found the object in another thread's shard.
    pub stolen: u64,
    /// Objects that came back and were kept.
    pub kept: u64,
    /// Objects that came back and were dropped because the recycle hook said no.
    pub refused: u64,
    /// Objects that a put dropped because more waited than [`PoolConfig::max_idle`](crate::PoolConfig::max_idle) allows.
    pub shed: u64,
    /// Objects that were dropped because nobody used them for two generations, or some time after there was no room for
    /// them.
    pub aged: u64,
    /// Objects that were dropped by `clear`.
    pub cleared: u64,
    /// Objects that `drain` took out.
    pub drained: u64,
    /// Objects that the pool holds now.
    pub idle: usize,
}
