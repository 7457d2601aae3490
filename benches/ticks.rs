//! Does a thread feel it when a generation of 100,000 objects passes?
//!
//! `cargo bench -p cenote-benches --bench ticks`
//!
//! One thread times batches of 64 gets and puts. Beside it another thread puts so many objects and calls `age`, again and
//! again: on a pool of its own, which shows what the machine's noise and the memory traffic alone do, or on the same pool. Each
//! tick drops what the one before the last had put. No wait of the first thread may grow with the number of objects.

use std::time::Duration;

use cenote::SyncPool;
use cenote_benches::pools::Pool;
use cenote_benches::ticks::{Object, batches};
use hdrhistogram::Histogram;

const TIME: Duration = Duration::from_secs(2);

fn pool() -> SyncPool<Object> {
    Pool::new()
}

fn main() {
    println!("ns a batch of 64 gets and puts\n");
    println!(
        "{:<40} {:>6} {:>7} {:>7} {:>8} {:>9} {:>10}",
        "", "ticks", "p50", "p99", "p99.9", "p99.99", "longest"
    );
    for _ in 0..2 {
        let quiet = pool();
        report("no ticks", batches(&quiet, None, TIME));
        for objects in [1_000, 100_000] {
            let (own, other) = (pool(), pool());
            report(&format!("ticks over {objects} elsewhere"), batches(&own, Some((&other, objects)), TIME));
            let shared = pool();
            report(
                &format!("ticks over {objects} in this pool"),
                batches(&shared, Some((&shared, objects)), TIME),
            );
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
