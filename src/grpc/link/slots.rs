//! The streams that one socket may carry at once: what the server's SETTINGS_MAX_CONCURRENT_STREAMS says.
//!
//! hyper counts, too: it queues requests above the limit. But when the server sends GOAWAY, hyper drops
//! its queue and does not report whether a request had been sent. So no more requests than the server
//! allows are given to hyper; the others wait here, in order, and can be sent elsewhere.
//!
//! tokio's semaphore does the waiting; ours is the limit that moves. When it falls below what is out, the difference is a
//! **debt**: places that come back are not given out again until it is paid.
//!
//! One gap remains, of a moment: a call that is dropped gives its place back here before hyper has sent the stream's reset and
//! counts it as gone.

use tokio::sync::Semaphore;

use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a server may be assumed to take until it has said so (gRPC and hyper agree).
pub(in crate::grpc) const ASSUMED: u32 = 100;

#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    /// The current limit. Changes under `debt`'s lock only.
    limit: AtomicU32,
    /// Whether there is a debt, for `give_back` to pass by the lock. Changes under that lock only.
    in_debt: AtomicBool,
    /// Places that are out above the limit.
    debt: Mutex<usize>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Slots {
            free: Semaphore::new(ASSUMED as usize),
            limit: AtomicU32::new(ASSUMED),
            in_debt: AtomicBool::new(false),
            debt: Mutex::new(0),
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// To be given back with [`give_back`](Self::give_back).
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        self.free.try_acquire().map(|permit| permit.forget()).is_ok()
    }

    /// Waits in order. Cancel safe.
    pub(crate) async fn take(&self) {
        // The semaphore is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
    }

    #[inline]
    pub(crate) fn give_back(&self) {
        // Acquire: pairs with the Release of `set_limit`. Who reads an old `false` here gives a place back that a debt made
        // at this moment would have taken: one call too many, for which hyper's own count stands.
        if self.in_debt.load(Ordering::Acquire) && self.pay() {
            return;
        }
        self.free.add_permits(1);
    }

    #[cold]
    fn pay(&self) -> bool {
        let mut debt = self.debt.lock();
        let owed = *debt > 0;
        if owed {
            *debt -= 1;
            self.in_debt.store(*debt > 0, Ordering::Release);
        }
        owed
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        let mut debt = self.debt.lock();
        let before = places(self.limit.swap(limit, Ordering::Relaxed));
        let now = places(limit);
        if now < before {
            let fewer = before - now;
            *debt += fewer - self.free.forget_permits(fewer);
        } else {
            let more = now - before;
            let paid = more.min(*debt);
            *debt -= paid;
            self.free.add_permits(more - paid);
        }
        self.in_debt.store(*debt > 0, Ordering::Release);
    }
}

/// No more than a semaphore can count.
fn places(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::task::noop_waker_ref;
    use proptest::prelude::*;

    use super::*;

    fn free(slots: &Slots) -> usize {
        slots.free.available_permits()
    }

    #[test]
    fn a_limit_that_falls_below_what_is_out_is_made_good_by_what_comes_back() {
        let slots = Slots::new();
        for _ in 0..10 {
            assert!(slots.try_take());
        }
        slots.set_limit(3);
        for left in (3..10).rev() {
            slots.give_back();
            assert!(!slots.try_take(), "with {left} out");
        }
        slots.give_back();
        assert!(slots.try_take());
        assert!(!slots.try_take());
    }

    #[test]
    fn who_waits_at_a_limit_of_none_goes_in_order_when_it_rises() {
        let slots = Slots::new();
        slots.set_limit(0);
        let (mut first, mut second) = (Box::pin(slots.take()), Box::pin(slots.take()));
        let mut cx = std::task::Context::from_waker(noop_waker_ref());
        assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
        slots.set_limit(1);
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(first.as_mut().poll(&mut cx).is_ready());
        drop(second);
        slots.give_back();
        assert!(slots.take().now_or_never().is_some(), "who left the queue is not in the way");
    }

    proptest! {
        #[test]
        fn there_are_never_more_places_than_the_limit_and_none_is_lost(
            steps in proptest::collection::vec((0..3, prop_oneof![Just(0), 0..200u32, Just(u32::MAX)]), 0..200),
        ) {
            let slots = Slots::new();
            let mut out = 0;
            for (step, limit) in steps {
                match step {
                    0 => out += usize::from(slots.try_take()),
                    1 if out > 0 => {
                        slots.give_back();
                        out -= 1;
                    }
                    1 => {}
                    _ => slots.set_limit(limit),
                }
                prop_assert_eq!(free(&slots), places(slots.limit()).saturating_sub(out));
            }
        }
    }
}
