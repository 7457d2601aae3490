//! The keeper: one task a pool, which comes by each address four times in a `ttl`.
//!
//! It runs on the runtime of whoever asked last when there was none, and holds no pool alive. When its runtime ends, or
//! there is no address left, the next get starts another.

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::Inner;
use super::address::WINDOWS;
use crate::primitive::atomic::Ordering;
use crate::primitive::{Arc, Weak};

/// Makes sure that there is one, where there is a runtime.
#[cold]
pub(super) fn start(inner: &Arc<Inner>) {
    let Ok(runtime) = Handle::try_current() else { return };
    if !inner.kept.swap(true, Ordering::AcqRel) {
        let guard = Guard(Arc::downgrade(inner));
        drop(runtime.spawn(keep(guard, inner.config.ttl / WINDOWS as u32)));
    }
}

struct Guard(Weak<Inner>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.kept.store(false, Ordering::Release);
        }
    }
}

async fn keep(guard: Guard, period: std::time::Duration) {
    loop {
        sleep(period).await;
        let Some(inner) = guard.0.upgrade() else { return };
        if !inner.look_after() {
            return;
        }
    }
}
