//! What the counters say while threads work, and when they rest.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{PoolConfig, Pooled, Stats, SyncPool};

/// Every object that was kept has one later fate. To be called while no thread is at work.
#[track_caller]
pub(crate) fn assert_each_has_one_fate(stats: &Stats) {
    let Stats { hits, shed, aged, cleared, drained, idle, .. } = *stats;
    assert_eq!(stats.kept, hits + shed + aged + cleared + drained + idle as u64, "{stats:?}");
}

fn counters(stats: &Stats) -> [(&'static str, u64); 9] {
    let Stats { made, hits, stolen, kept, refused, shed, aged, cleared, drained, .. } = *stats;
    [
        ("made", made),
        ("hits", hits),
        ("stolen", stolen),
        ("kept", kept),
        ("refused", refused),
        ("shed", shed),
        ("aged", aged),
        ("cleared", cleared),
        ("drained", drained),
    ]
}

/// Four threads do all that a pool can do, each at a pace of its own, while this one looks.
fn no_counter_falls(pool: &SyncPool<usize>) {
    let over = AtomicBool::new(false);
    let mut snapshots = 0;
    thread::scope(|scope| {
        for (number, at_once) in [3, 20, 70, 400].into_iter().enumerate() {
            let over = &over;
            scope.spawn(move || {
                let mut round = number;
                while !over.load(Relaxed) {
                    round += 1;
                    let guards: Vec<_> = (0..at_once).map(|_| pool.get()).collect();
                    let out: Vec<_> = (0..at_once).map(|_| pool.take()).collect();
                    drop(guards);
                    out.into_iter().for_each(|object| pool.put(object));
                    match round % 64 {
                        1 => drop(Pooled::detach(pool.get())),
                        2 => pool.put(usize::MAX),
                        3 => drop(pool.attach(1)),
                        17 if number == 0 => pool.clear(),
                        33 if number == 1 => drop(pool.drain()),
                        49 if number == 2 => pool.age(),
                        _ => {}
                    }
                }
            });
        }
        let began = Instant::now();
        let mut last = pool.stats();
        let mut fallen = None;
        while fallen.is_none() && began.elapsed() < Duration::from_millis(800) {
            let now = pool.stats();
            let pairs = counters(&last).into_iter().zip(counters(&now));
            fallen = pairs.into_iter().find(|(before, after)| after.1 < before.1);
            last = now;
            snapshots += 1;
        }
        over.store(true, Relaxed);
        assert_eq!(fallen, None, "after {snapshots} snapshots");
    });
    assert!(snapshots > 100);
    let stats = pool.stats();
    assert!(counters(&stats).iter().all(|(name, count)| *count > 0 || *name == "shed"), "{stats:?}");
    assert_each_has_one_fate(&stats);
    pool.clear();
    assert_each_has_one_fate(&pool.stats());
    assert_eq!(pool.stats().idle, 0);
}

/// The hook refuses one value, which the threads above put now and then.
const CONFIG: PoolConfig<usize> =
    PoolConfig::new().recycle(|object| *object != usize::MAX).period(Duration::from_millis(1));

#[test]
fn no_counter_falls_while_threads_work_and_each_object_has_one_fate() {
    no_counter_falls(&SyncPool::with_config(|| 0, CONFIG));
}

#[test]
fn no_counter_falls_while_threads_exceed_a_limit_and_each_object_has_one_fate() {
    let pool: SyncPool<usize> = SyncPool::with_config(|| 0, CONFIG.max_idle(100));
    no_counter_falls(&pool);
    assert!(pool.stats().shed > 0, "{:?}", pool.stats());
}
