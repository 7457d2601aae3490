//! What does one get and put of a boxed object cost, with the guard, alone and beside a second thread?
//!
//! `cargo bench -p cenote-benches --bench get_put`
//!
//! The time is the wall time of a pair: with two threads, each does as many as the report counts, at once.

use std::time::Duration;

use cenote_benches::contenders::{
    Bounded, Cenote, Contender, LockFree, Malloc, MutexVec, ObjectPool, Opool, PoolsharkGlobal,
    PoolsharkLocal, RegexAutomata, ShardedSlab, ThreadLocal, Unbounded,
};
use cenote_benches::wall_time;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};

fn run<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, threads: usize) {
    let contender = C::new();
    group.bench_function(C::NAME, |bencher| {
        bencher.iter_custom(|pairs| wall_time(threads, pairs, &|| contender.get_put()));
    });
}

fn get_put(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("get_put, threads: {threads}"));
        // All samples of one length: a short one would be mostly the start of its threads.
        group.sampling_mode(SamplingMode::Flat);
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        run::<Cenote>(&mut group, threads);
        run::<ThreadLocal>(&mut group, threads);
        run::<Malloc>(&mut group, threads);
        run::<MutexVec>(&mut group, threads);
        run::<Bounded>(&mut group, threads);
        run::<Unbounded>(&mut group, threads);
        run::<ObjectPool>(&mut group, threads);
        run::<Opool>(&mut group, threads);
        run::<LockFree>(&mut group, threads);
        run::<RegexAutomata>(&mut group, threads);
        run::<ShardedSlab>(&mut group, threads);
        run::<PoolsharkLocal>(&mut group, threads);
        run::<PoolsharkGlobal>(&mut group, threads);
        group.finish();
    }
}

criterion_group!(benches, get_put);
criterion_main!(benches);
