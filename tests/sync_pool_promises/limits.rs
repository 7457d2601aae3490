//! `max_idle`: what an idle pool retains at most.

use std::sync::Barrier;
use std::thread;

use cenote::{PoolConfig, SyncPool};

use crate::census::Census;

/// What a thread keeps to itself of objects as large as a pointer, and smaller.
const OWN: usize = 32;

#[test]
fn a_burst_leaves_no_more_than_the_limit_and_what_the_thread_keeps() {
    for limit in [0, 1, 15, 16, 64, 511, 512, 1000] {
        let census = Census::new();
        let pool = SyncPool::with_config(|| census.object(), PoolConfig::new().max_idle(limit));
        let burst: Vec<_> = (0..3000).map(|_| pool.take()).collect();
        burst.into_iter().for_each(|object| pool.put(object));
        let stats = pool.stats();
        assert!(stats.idle <= limit + OWN, "{limit}: {stats:?}");
        assert!(stats.idle + 16 > limit, "whole magazines, rounded down: {limit}: {stats:?}");
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
        assert!(pool.stats().idle <= 32 + OWN + 16, "{:?}", pool.stats());
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
    // Who looks for room at the same time as another may find it twice.
    let stats = pool.stats();
    assert!(stats.idle <= 100 + THREADS * (OWN + 16), "{stats:?}");
    assert_eq!(stats.kept, stats.hits + stats.shed + stats.aged + stats.idle as u64);
}

#[test]
fn ageing_makes_room_for_what_comes_after() {
    let pool = SyncPool::with_config(|| 0_usize, PoolConfig::new().max_idle(1000).age_by_hand());
    for _ in 0..3 {
        (0..2000).for_each(|i| pool.put(i));
        assert!((985..=1000 + OWN).contains(&pool.stats().idle), "{:?}", pool.stats());
        pool.age();
        pool.age();
        assert_eq!(pool.stats().idle, 0);
    }
}
