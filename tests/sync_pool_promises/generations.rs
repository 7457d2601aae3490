//! How objects go: by age, by `clear`, and with the pool.

use std::thread;
use std::time::{Duration, Instant};

use cenote::{PoolConfig, SyncPool};

use crate::census::Census;

#[test]
fn clear_drops_what_is_idle_and_leaves_what_is_held() {
    let census = Census::new();
    let pool = SyncPool::new(|| census.object());
    let held = pool.get();
    for _ in 0..100 {
        pool.put(census.object());
    }
    pool.age(); // so that some are victims
    for _ in 0..100 {
        pool.put(census.object());
    }
    pool.clear();
    assert_eq!((census.dropped(), census.alive()), (200, 1));
    assert_eq!((pool.stats().cleared, pool.stats().idle), (200, 0));
    drop(held);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn a_victim_that_is_used_is_young_again() {
    let pool: SyncPool<&str> = SyncPool::default();
    pool.put("used");
    for _ in 0..10 {
        pool.age();
        drop(pool.get_or_else(|| unreachable!("it is used in each generation")));
    }
    assert_eq!(pool.stats().aged, 0);
}

#[test]
fn only_the_unused_grow_old() {
    let pool: SyncPool<usize> = SyncPool::default();
    (0..200).for_each(|i| pool.put(i));
    // Three at once are in use in each generation; all others are not.
    for _ in 0..20 {
        pool.age();
        let _in_use = [(); 3].map(|()| pool.get_or_else(|| unreachable!("three stay")));
    }
    // Those that travelled in a batch with one in use were granted a generation more, not twenty.
    assert_eq!(pool.stats().idle, 3);
    assert_eq!(pool.stats().aged, 197);
}

#[test]
fn dropping_the_pool_drops_what_it_holds() {
    let census = Census::new();
    let pool = SyncPool::new(|| census.object());
    let fill = || (0..50).for_each(|_| pool.put(census.object()));
    thread::scope(|s| {
        s.spawn(fill);
        fill();
    });
    pool.age();
    fill();
    assert_eq!(census.alive(), 150);
    drop(pool);
    assert_eq!(census.alive(), 0);
}

#[test]
fn what_travels_with_a_used_object_does_not_grow_young_with_it() {
    let census = Census::new();
    let pool = SyncPool::new(|| census.object());
    thread::scope(|s| {
        // More than a thread keeps to itself, so that some lie with the thread and some in the depot.
        s.spawn(|| (0..100).for_each(|_| pool.put(census.object()))).join().unwrap();
        pool.age();
        // One is fetched here, by whatever batch it comes in; the other 99 are untouched.
        let used = s.spawn(|| pool.take()).join().unwrap();
        pool.age();
        assert_eq!((census.dropped(), pool.stats().aged), (99, 99));
        drop(used);
    });
}

#[test]
fn a_pool_in_use_shrinks_by_itself_and_no_operation_drops_more_than_eight() {
    let census = Census::new();
    let config = PoolConfig::new().period(Duration::from_millis(1));
    let pool = SyncPool::with_config(|| census.object(), config);
    (0..2000).for_each(|_| pool.put(census.object()));
    let (mut most, mut seen) = (0, 0);
    let mut look = || {
        let dropped = census.dropped();
        most = most.max(dropped - std::mem::replace(&mut seen, dropped));
    };
    let start = Instant::now();
    // In use are 50 at once, more than a thread keeps to itself.
    while pool.stats().idle > 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", pool.stats());
        let mut in_use = Vec::new();
        for _ in 0..50 {
            in_use.push(pool.take());
            look();
        }
        for object in in_use {
            pool.put(object);
            look();
        }
    }
    assert!((1..=8).contains(&most), "{most} objects were dropped by one operation");
    assert_eq!(pool.stats().made, 0, "the 50 stayed");
}

#[test]
fn by_hand_means_by_hand() {
    let pool: SyncPool<usize> = SyncPool::with_config(usize::default, PoolConfig::new().age_by_hand());
    (0..200).for_each(|i| pool.put(i));
    thread::sleep(Duration::from_millis(5));
    for _ in 0..100 {
        let all: Vec<_> = (0..200).map(|_| pool.take()).collect();
        all.into_iter().for_each(|i| pool.put(i));
    }
    assert_eq!((pool.stats().aged, pool.stats().made), (0, 0));
}
