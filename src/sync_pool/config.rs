//! [`PoolConfig`]: what a pool does beside taking and giving.

use std::fmt;
use std::time::Duration;

use crate::aging::DEFAULT_PERIOD;

/// Options of a [`SyncPool`](super::SyncPool), for [`SyncPool::with_config`](super::SyncPool::with_config). Plain data, and
/// `const`, so that it may stand in a `static`.
///
/// ```
/// use std::time::Duration;
/// use cenote::{PoolConfig, SyncPool};
///
/// static BUFS: SyncPool<Vec<u8>> = SyncPool::with_config(
///     Vec::new,
///     PoolConfig::new()
///         .recycle(|buf: &mut Vec<u8>| {
///             buf.clear();
///             true
///         })
///         .period(Duration::from_secs(10)),
/// );
/// ```
#[must_use]
pub struct PoolConfig<T> {
    pub(super) recycle: Option<fn(&mut T) -> bool>,
    pub(super) period: Option<Duration>,
    pub(super) max_idle: Option<usize>,
    pub(super) drops_in_use: bool,
}

impl<T> PoolConfig<T> {
    /// The defaults: no recycle hook, a generation of 60 s, no limit to what is idle, and what has expired is dropped by the
    /// operations that follow.
    pub const fn new() -> Self {
        PoolConfig { recycle: None, period: Some(DEFAULT_PERIOD), max_idle: None, drops_in_use: true }
    }

    /// A hook that resets each object before it is kept, or refuses it: see
    /// [`SyncPool::with_recycle`](super::SyncPool::with_recycle). Default: none. A hook that captures is set by
    /// [`SyncPool::recycle_with`](super::SyncPool::recycle_with).
    pub const fn recycle(mut self, recycle: fn(&mut T) -> bool) -> Self {
        self.recycle = Some(recycle);
        self
    }

    /// How long a generation lasts while the pool is in use; an object that is not used for two of them is dropped. Counted in
    /// milliseconds, at least one. Default: 60 s.
    pub const fn period(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// How many idle objects the threads share, at most: those that wait in the depot, beside the few that each thread keeps to
    /// itself (at most 60: see [`SyncPool`](super::SyncPool#what-is-kept-in-memory)). What
    /// comes back beyond that is dropped, by the put that brings it and those that follow it, at most 8 objects
    /// each; and when a generation ends, what the threads had to themselves counts, too. Threads that put at
    /// the same moment may exceed it by a few. Default: no limit.
    ///
    /// ```
    /// use cenote::{PoolConfig, SyncPool};
    ///
    /// let pool = SyncPool::with_config(|| vec![0u8; 4096], PoolConfig::new().max_idle(64));
    /// let burst: Vec<_> = (0..1000).map(|_| pool.get()).collect();
    /// drop(burst);
    /// assert!(pool.stats().idle <= 64 + 60);
    /// ```
    pub const fn max_idle(mut self, objects: usize) -> Self {
        self.max_idle = Some(objects);
        self
    }

    /// No get, put or drop of a guard drops an object but one that the recycle hook refuses: what has expired, and what finds no
    /// room under [`max_idle`](Self::max_idle), waits for [`SyncPool::age`](super::SyncPool::age),
    /// [`clear`](super::SyncPool::clear) or an [`Ager`](crate::Ager).
    ///
    /// For objects whose `Drop` takes a lock that callers of the pool may hold. Something must age the pool then, or it keeps
    /// all that it ever had. Default: off.
    ///
    /// ```
    /// use cenote::{PoolConfig, SyncPool};
    ///
    /// let pool = SyncPool::with_config(|| vec![0u8; 4096], PoolConfig::new().max_idle(64).no_drops_in_use());
    /// let burst: Vec<_> = (0..1000).map(|_| pool.get()).collect();
    /// drop(burst);
    /// assert_eq!(pool.stats().idle, 1000);
    /// pool.age();
    /// assert!(pool.stats().idle <= 64 + 60);
    /// ```
    pub const fn no_drops_in_use(mut self) -> Self {
        self.drops_in_use = false;
        self
    }

    /// No generation passes but by [`SyncPool::age`](super::SyncPool::age).
    pub const fn age_by_hand(mut self) -> Self {
        self.period = None;
        self
    }
}

impl<T> Default for PoolConfig<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for PoolConfig<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for PoolConfig<T> {}

impl<T> fmt::Debug for PoolConfig<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolConfig")
            .field("recycle", &self.recycle.is_some())
            .field("period", &self.period)
            .field("max_idle", &self.max_idle)
            .field("drops_in_use", &self.drops_in_use)
            .finish()
    }
}
