//! Does a thread feel it when a generation of 100,000 objects passes?
//!
//! `cargo bench -p cenote-benches --bench ticks`
//!
//! One thread times batches of 64 gets and puts. Beside it another thread puts so many objects and calls `age`, again and
//! again: on a pool of its own, which shows what the machine's noise and the memory traffic alone do, or on the same pool. Each
//! tick drops what the one before the last had put. No wait of the first thread may grow with the number of objects.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;
use hdrhistogram::Histogram;

type Pool = SyncPool<Box<[u8; 64]>>;

const TIME: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(3);

fn pool() -> Pool {
    SyncPool::new(|| Box::new([0; 64]))
}

/// Times of batches in ns, and how many ticks there were meanwhile.
fn batches(worked_on: &Pool, aged: Option<(&Pool, usize)>) -> (Histogram<u64>, usize) {
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
        while now - start < TIME {
            for _ in 0..64 {
                std::hint::black_box(&mut worked_on.get()[0]);
            }
            let then = std::mem::replace(&mut now, Instant::now());
            times.saturating_record((now - then).as_nanos() as u64);
        }
        over.store(true, Ordering::Relaxed);
    });
    (times, ticks.into_inner())
}

fn main() {
    println!("ns a batch of 64 gets and puts\n");
    println!(
        "{:<40} {:>6} {:>7} {:>7} {:>8} {:>9} {:>10}",
        "", "ticks", "p50", "p99", "p99.9", "p99.99", "longest"
    );
    for _ in 0..2 {
        let quiet = pool();
        report("no ticks", batches(&quiet, None));
        for objects in [1_000, 100_000] {
            let (own, other) = (pool(), pool());
            report(&format!("ticks over {objects} elsewhere"), batches(&own, Some((&other, objects))));
            let shared = pool();
            report(&format!("ticks over {objects} in this pool"), batches(&shared, Some((&shared, objects))));
        }
    }
}

fn report(name: &str, (times, ticks): (Histogram<u64>, usize)) {
    let at = |quantile| times.value_at_quantile(quantile);
    println!(
        "{name:<40} {ticks:>6} {:>7} {:>7} {:>8} {:>9} {:>10}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        times.max()
    );
}
