//! How often does a slow factory run, when each millisecond a generation passes?
//!
//! `cargo bench -p cenote-benches --bench expensive_new`
//!
//! An operation is 100 gets and 100 puts, as in Go's `BenchmarkPoolExpensiveNew`; the factory sleeps 1 ms. With nothing
//! else done there are thousands of operations a tick; with 32 KiB allocated and freed beside each get, as Go's benchmark
//! does, fewer. The objects are held all at once, so each thread's first hundred have to be made; they are not counted.

use std::time::Duration;

use cenote_benches::Cenote;
use cenote_benches::expensive::expensive_new;

fn main() {
    println!(
        "{:>7} {:>12} {:>11} {:>7} {:>6} {:>10}",
        "threads", "beside a get", "operations", "ticks", "made", "made/op"
    );
    for beside in [0, 32 << 10] {
        for threads in [1, 2] {
            for _ in 0..3 {
                let outcome = expensive_new::<Cenote>(threads, beside, Duration::from_secs(1));
                println!(
                    "{threads:>7} {:>12} {:>11} {:>7} {:>6} {:>10.5}",
                    format!("{} KiB", beside >> 10),
                    outcome.operations,
                    outcome.ticks,
                    outcome.made,
                    outcome.made_per_operation(),
                );
            }
        }
    }
}
