//! What Go's benchmarks of its pool do, done to any [`Holder`].

use std::hint::black_box;

use crate::holders::{Holder, make};

/// `BenchmarkPool`: one put and one get.
#[inline]
pub fn pair(pool: &impl Holder) {
    pool.put(black_box(make()));
    black_box(pool.try_take());
}

/// `BenchmarkPoolOverflow`: 100 puts, then 100 gets.
#[inline]
pub fn overflow(pool: &impl Holder) {
    (0..100).for_each(|_| pool.put(black_box(make())));
    (0..100).for_each(|_| {
        black_box(pool.try_take());
    });
}

/// `BenchmarkPoolStarvation`: 67 puts, then 100 gets, a third of which find nothing.
#[inline]
pub fn starvation(pool: &impl Holder) {
    (0..67).for_each(|_| pool.put(black_box(make())));
    (0..100).for_each(|_| {
        black_box(pool.try_take());
    });
}
