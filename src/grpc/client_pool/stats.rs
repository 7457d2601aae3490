//! A snapshot of a pool's counters.

use crate::grpc::counters::{Counters, read};
use crate::stats::Stats;

/// What a [`ClientPool`](super::ClientPool) has done so far, and what it has now.
///
/// Every connection is accounted for: while no other thread is inside the pool,
/// `made == discarded.total() + released + alive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientPoolStats {
    /// Connections made. One is made without I/O; its sockets are counted in `dials`.
    pub made: u64,
    /// Gets that were served with a connection that the pool held.
    pub reused: u64,
    /// Gets for which the pool held no connection, and that got one that other callers had.
    pub shared: u64,
    /// Connections that the pool closed because they were broken.
    pub discarded: Discards,
    /// Connections whose last handle is gone: aged, cleared, or dropped by a caller. Their sockets are closed.
    pub released: u64,
    /// Connections that are neither discarded nor released.
    pub alive: u64,
    /// Handles that the pool holds now. It has as many handles of a shared connection as that has had
    /// callers at once, so this may be more than `alive`.
    pub idle: usize,
    /// Handles that guards have now.
    pub lent: usize,
    /// Sockets that are open now.
    pub open: usize,
    /// The most sockets that were open at once.
    pub peak_open: usize,
    /// Attempts to connect.
    pub dials: u64,
    /// Of these, those that failed, or found a server that does not serve.
    pub failed_dials: u64,
}

/// Discarded connections, by where they were found and in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discards {
    /// In TransientFailure, when a get took it.
    pub get_transient_failure: u64,
    /// In Shutdown, when a get took it.
    pub get_shutdown: u64,
    /// In TransientFailure, when it came back.
    pub put_transient_failure: u64,
    /// In Shutdown, when it came back.
    pub put_shutdown: u64,
}

impl Discards {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.get_transient_failure + self.get_shutdown + self.put_transient_failure + self.put_shutdown
    }
}

impl ClientPoolStats {
    pub(super) fn read(stock: &Stats, callers: usize, counters: &Counters) -> Self {
        let Counters { discarded_on_get, discarded_on_put, .. } = counters;
        let discarded = Discards {
            get_transient_failure: read(&discarded_on_get.transient_failure),
            get_shutdown: read(&discarded_on_get.shutdown),
            put_transient_failure: read(&discarded_on_put.transient_failure),
            put_shutdown: read(&discarded_on_put.shutdown),
        };
        let released = read(&counters.released);
        ClientPoolStats {
            made: read(&counters.made),
            reused: stock.hits.saturating_sub(read(&counters.passed_over)),
            shared: read(&counters.shared),
            discarded,
            released,
            alive: counters.alive() as u64,
            idle: stock.idle,
            lent: callers.saturating_sub(stock.idle),
            open: counters.open(),
            peak_open: counters.peak_open(),
            dials: read(&counters.dials),
            failed_dials: read(&counters.failed_dials),
        }
    }
}
