//! The memory that the calls of a pool may use to keep requests for further attempts.

use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicUsize, Ordering};

/// Bytes that are free yet.
#[derive(Debug)]
pub(in crate::grpc) struct Budget {
    free: AtomicUsize,
}

impl Budget {
    pub(in crate::grpc) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Budget { free: AtomicUsize::new(bytes) })
    }

    fn try_take(&self, bytes: usize) -> bool {
        // Relaxed, here and below: it is a number, and nothing is read by it.
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }
}

/// What one call has taken of a budget. Its drop returns it.
#[derive(Debug)]
pub(in crate::grpc) struct Share {
    budget: Arc<Budget>,
    taken: usize,
}

impl Share {
    pub(in crate::grpc) fn new(budget: Arc<Budget>) -> Self {
        Share { budget, taken: 0 }
    }

    /// Whether the call may keep so many more bytes.
    pub(in crate::grpc) fn grow(&mut self, bytes: usize) -> bool {
        let has_room = self.budget.try_take(bytes);
        self.taken += if has_room { bytes } else { 0 };
        has_room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.budget.free.fetch_add(self.taken, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_take_no_more_than_the_budget_and_a_call_that_ends_returns_its_share() {
        let budget = Budget::new(100);
        let [mut one, mut other] = [(); 2].map(|()| Share::new(Arc::clone(&budget)));
        assert!(one.grow(60));
        assert!(!other.grow(41), "there are 40 left");
        assert!(other.grow(40) && other.grow(0));
        assert!(!one.grow(1));
        drop(one);
        assert!(other.grow(60));
        drop(other);
        assert_eq!(budget.free.load(Ordering::Relaxed), 100);
    }
}
