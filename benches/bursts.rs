//! What do bursts cost: more puts at once than a thread keeps to itself, and more gets than there were puts?
//!
//! `cargo bench -p cenote-benches --bench bursts`
//!
//! As Go's `BenchmarkPoolOverflow` and `BenchmarkPoolStarvation`. The time is the wall time of 100 puts (67) and 100 gets:
//! with two threads, each does as many bursts as the report counts, at once. Who gives its objects out under a guard alone
//! does not take part.

use std::time::Duration;

use cenote_benches::holders::{Bounded, Cenote, Holder, MutexVec, ObjectPool, ThreadLocal, Unbounded};
use cenote_benches::{bursts, wall_time};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};

struct Bench<'a, 'c> {
    group: &'a mut BenchmarkGroup<'c, WallTime>,
    threads: usize,
    starving: bool,
}

impl Bench<'_, '_> {
    fn run<H: Holder>(&mut self) {
        let pool = H::new();
        let threads = self.threads;
        let starving = self.starving;
        self.group.bench_function(H::NAME, |bencher| {
            bencher.iter_custom(|turns| {
                if starving {
                    wall_time(threads, turns, &|| bursts::starvation(&pool))
                } else {
                    wall_time(threads, turns, &|| bursts::overflow(&pool))
                }
            });
        });
    }
}

fn bursts(criterion: &mut Criterion) {
    for (name, starving) in [("overflow", false), ("starvation", true)] {
        for threads in [1, 2] {
            let mut group = criterion.benchmark_group(format!("{name}, threads: {threads}"));
            group
                .sampling_mode(SamplingMode::Flat)
                .sample_size(20)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1));
            let mut bench = Bench { group: &mut group, threads, starving };
            bench.run::<Cenote>();
            bench.run::<ThreadLocal>();
            bench.run::<MutexVec>();
            bench.run::<Bounded>();
            bench.run::<Unbounded>();
            bench.run::<ObjectPool>();
            group.finish();
        }
    }
}

criterion_group!(benches, bursts);
criterion_main!(benches);
