//! A factory so slow that what counts is how often it runs, while generations pass.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::pools::{Pool, Pools};

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Operations of all threads.
    pub operations: usize,
    /// Calls of the factory, but for the first hundred of each thread.
    pub made: usize,
    /// Generations that passed.
    pub ticks: usize,
}

impl Outcome {
    /// Calls of the factory for each operation.
    pub fn made_per_operation(&self) -> f64 {
        self.made as f64 / self.operations as f64
    }
}

/// As `BenchmarkPoolExpensiveNew` of Go: an operation is 100 gets and 100 puts, and beside each get `beside` bytes are
/// allocated and freed (Go's garbage is what makes its pools age). Here a tick comes each millisecond.
pub fn expensive_new<P: Pools>(threads: usize, beside: usize, time: Duration) -> Outcome {
    const HELD: usize = 100;

    let made = AtomicUsize::new(0);
    let make = || {
        made.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
        Box::new(42)
    };
    let pool = P::Pool::<Box<u64>>::new();
    let operations = AtomicUsize::new(0);
    let warm = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let mut ticks = 0;
    let mut made_before = 0;
    thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                let mut held = Vec::with_capacity(HELD);
                let mut mine = 0;
                while !over.load(Ordering::Relaxed) {
                    held.extend((0..HELD).map(|_| {
                        if beside > 0 {
                            black_box(Vec::<u8>::with_capacity(beside));
                        }
                        pool.take_or_else(make)
                    }));
                    held.drain(..).for_each(|object| pool.put(object));
                    if mine == 0 {
                        warm.fetch_add(1, Ordering::Release);
                        // Not counted before all are warm, nor aged.
                        while warm.load(Ordering::Acquire) <= threads {
                            thread::yield_now();
                        }
                    }
                    mine += 1;
                }
                operations.fetch_add(mine - 1, Ordering::Relaxed);
            });
        }
        while warm.load(Ordering::Acquire) < threads {
            thread::yield_now();
        }
        made_before = made.load(Ordering::Relaxed);
        warm.fetch_add(1, Ordering::Release);
        let start = Instant::now();
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(1));
            pool.age();
            ticks += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    Outcome { operations: operations.into_inner(), made: made.load(Ordering::Relaxed) - made_before, ticks }
}
