//! How objects go: by age, by `clear`, and with the pool.

use std::thread;

use cenote::SyncPool;

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
