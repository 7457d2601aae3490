//! A thread that uses a pool while generations of many objects pass.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::pools::Pool;

/// What is pooled.
pub type Object = Box<[u8; 64]>;

const PAUSE: Duration = Duration::from_millis(3);

/// The times in ns of batches of 64 gets and puts of `worked_on` over `time`, and how many
/// generations passed meanwhile. Another thread puts so many objects into `aged` and ages it, again
/// and again.
pub fn batches<P: Pool<Object>>(
    worked_on: &P,
    aged: Option<(&P, usize)>,
    time: Duration,
) -> (Histogram<u64>, usize) {
    let over = AtomicBool::new(false);
    let ticks = AtomicUsize::new(0);
    let mut times = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds in order");
    thread::scope(|s| {
        if let Some((pool, objects)) = aged {
            let (over, ticks) = (&over, &ticks);
            s.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    (0..objects).for_each(|_| pool.put(Box::new([0; 64])));
                    pool.age();
                    ticks.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            });
        }
        let start = Instant::now();
        let mut now = start;
        while now - start < time {
            for _ in 0..64 {
                black_box(&mut worked_on.get()[0]);
            }
            let then = std::mem::replace(&mut now, Instant::now());
            times.saturating_record((now - then).as_nanos() as u64);
        }
        over.store(true, Ordering::Relaxed);
    });
    (times, ticks.into_inner())
}
