//! What a pool of connections counts.

use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Events, each counted where it happens. Relaxed throughout: they are read for reports, nothing follows from
/// one having another value than the next.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) made: AtomicU64,
    /// Made, and neither discarded nor released. Counted by itself, so that the sum can be checked.
    pub(crate) alive: AtomicUsize,
    /// Taken out of the stock, and not handed out.
    pub(crate) passed_over: AtomicU64,
    pub(crate) shared: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) failed_dials: AtomicU64,
    pub(crate) discarded_on_get: DiscardCounters,
    pub(crate) discarded_on_put: DiscardCounters,
    open: AtomicUsize,
    peak_open: AtomicUsize,
}

/// Discards, by the state that was the reason.
#[derive(Debug, Default)]
pub(crate) struct DiscardCounters {
    pub(crate) transient_failure: AtomicU64,
    pub(crate) shutdown: AtomicU64,
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn peak_open(&self) -> usize {
        self.peak_open.load(Ordering::Relaxed)
    }
}

/// One open socket of a pool, for as long as this lives.
pub(crate) struct OpenSocket(Arc<Counters>);

impl OpenSocket {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        let now = counters.open.fetch_add(1, Ordering::Relaxed) + 1;
        counters.peak_open.fetch_max(now, Ordering::Relaxed);
        OpenSocket(Arc::clone(counters))
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
