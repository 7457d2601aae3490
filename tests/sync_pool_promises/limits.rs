//! `max_idle`: what an idle pool retains at most.

use std::sync::Barrier;
use std::thread;

use cenote::{PoolConfig, SyncPool};

use crate::census::Census;

/// What a thread keeps to itself of objects as large as a pointer, and smaller.
const OWN: usize = 60;

/// And a magazine.
const MAGAZINE: usize = 30;

#[test]
fn a_burst_leaves_no_more_than_the_limit_and_what_the_thread_keeps() {
    for limit in [0, 1, 15, 16, 64, 511, 512, 1000] {
        let census = Census::new();
        let pool = SyncPool::with_config(|| census.object(), PoolConfig::new().max_idle(limit));
        let burst: Vec<_> = (0..3000).map(|_| pool.take()).collect();
        burst.into_iter().for_each(|object| pool.put(object));
        let stats = pool.stats();
        assert!(stats.idle <= limit + OWN, "{limit}: {stats:?}");
        assert!(stats.idle + MAGAZINE > limit, "room for no magazine more: {limit}: {stats:?}");
        assert_eq!((stats.shed + stats.aged) as usize, census.dropped());
        assert_eq!((stats.made, stats.kept), (3000, 3000));
        assert_eq!(stats.kept, stats.shed + stats.aged + stats.idle as u64);
        drop(pool);
        assert_eq!(census.alive(), 0);
    }
}

#[test]
fn without_a_limit_everything_is_kept() {
    let pool: SyncPool<usize> = SyncPool::default();
    (0..3000).for_each(|i| pool.put(i));
    assert_eq!((pool.stats().idle, pool.stats().shed), (3000, 0));
}

#[test]
fn a_put_beyond_the_limit_drops_no_more_than_eight() {
    fn check<T: Send>(object: impl Fn() -> T, dropped: impl Fn() -> usize) {
        let pool = SyncPool::with_config(&object, PoolConfig::new().max_idle(32));
        let (mut most, mut seen) = (0, dropped());
        for _ in 0..2000 {
            pool.put(object());
            let now = dropped();
            most = most.max(now - std::mem::replace(&mut seen, now));
        }
        assert!((1..=8).contains(&most), "{most} objects were dropped by one put");
        assert!(pool.stats().idle <= 32 + OWN + MAGAZINE, "{:?}", pool.stats());
    }
    let census = Census::new();
    // 16 bytes or so; too large for a shard, and a few or one for a magazine.
    check(|| census.object(), || census.dropped());
    check(|| (census.object(), [0u8; 50]), || census.dropped());
    check(|| (census.object(), [0u8; 120]), || census.dropped());
    check(|| (census.object(), [0u8; 180]), || census.dropped());
    check(|| (census.object(), [0u8; 4000]), || census.dropped());
}

#[test]
fn the_limit_holds_for_all_threads_together() {
    const THREADS: usize = 4;
    let pool = SyncPool::with_config(|| 0_usize, PoolConfig::new().max_idle(100));
    let all_have_taken = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let burst: Vec<_> = (0..1000).map(|_| pool.take()).collect();
                all_have_taken.wait();
                burst.into_iter().for_each(|object| pool.put(object));
            });
        }
    });
    // Who looks for room at the same moment as another may find it twice.
    let stats = pool.stats();
    assert!(stats.idle <= 100 + THREADS * (OWN + MAGAZINE), "{stats:?}");
    assert_eq!(stats.kept, stats.hits + stats.shed + stats.aged + stats.idle as u64);
}

#[test]
fn aging_makes_room_for_what_comes_after() {
    let pool = SyncPool::with_config(|| 0_usize, PoolConfig::new().max_idle(1000).age_by_hand());
    for _ in 0..3 {
        (0..2000).for_each(|i| pool.put(i));
        assert!((1000 - MAGAZINE..=1000 + OWN).contains(&pool.stats().idle), "{:?}", pool.stats());
        pool.age();
        pool.age();
        assert_eq!(pool.stats().idle, 0);
    }
}

#[test]
fn a_burst_after_a_burst_that_has_grown_old_leaves_no_more_than_the_limit() {
    for limit in [64, 512, 1024, 1500] {
        let config = PoolConfig::new().max_idle(limit).age_by_hand();
        let pool = SyncPool::with_config(|| 0_usize, config);
        (0..2 * limit).for_each(|i| pool.put(i));
        pool.age();
        (0..2 * limit).for_each(|i| pool.put(i));
        assert!(pool.stats().idle <= limit + OWN, "{limit}: {:?}", pool.stats());
    }
}

#[test]
fn aging_keeps_what_there_is_room_for_as_victims() {
    let pool = SyncPool::with_config(|| 0_usize, PoolConfig::new().max_idle(20).age_by_hand());
    (0..10).for_each(|i| pool.put(i));
    pool.age();
    assert_eq!((pool.stats().idle, pool.stats().aged), (10, 0));
    assert!(pool.try_take().is_some());
}
