//! The keeper: one task a pool, which comes by each address four times in a `ttl`.
//!
//! It runs on the runtime of the get that found none, holds no pool alive, and ends with it. When its runtime
//! ends, or there is no address left, the next get starts another.

use tokio::time::sleep;

use super::Inner;
use super::address::WINDOWS;
use crate::grpc::runtime;
use crate::primitive::atomic::Ordering;
use crate::primitive::{Arc, Weak};

/// Makes sure that there is one, where there is a runtime.
#[cold]
pub(super) fn start(inner: &Arc<Inner>) {
    let Ok(runtime) = runtime::current() else { return };
    if !inner.kept.swap(true, Ordering::AcqRel) {
        let guard = Guard(Arc::downgrade(inner));
        drop(runtime.spawn(keep(guard, inner.config.ttl / WINDOWS as u32)));
    }
}

/// Says that there is no keeper any more, should its runtime end.
struct Guard(Weak<Inner>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.kept.store(false, Ordering::Release);
        }
    }
}

async fn keep(mut guard: Guard, period: std::time::Duration) {
    let Some(mut closed) = guard.0.upgrade().map(|inner| inner.closed.subscribe()) else { return };
    loop {
        tokio::select! {
            () = sleep(period) => {}
            // Closed, or gone: the sender is in the pool.
            _ = closed.wait_for(|closed| *closed) => return,
        }
        let Some(inner) = guard.0.upgrade() else { return };
        if !inner.look_after() {
            // It has said so itself, under the lock; meanwhile there may be another keeper.
            guard.0 = Weak::new();
            return;
        }
    }
}
