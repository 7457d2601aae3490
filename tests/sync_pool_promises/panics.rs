//! Callers' code that panics: the panic goes to the caller, the object at hand is dropped, the pool works on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cenote::{OwnedPooled, SyncPool};

use crate::census::{Census, Counted, Mood};

/// What the panic said, or the test fails.
fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("the panic was swallowed") };
    panic.downcast::<&str>().map_or_else(|_| String::from("?"), |words| words.to_string())
}

#[test]
fn a_panicking_factory_leaves_the_pool_usable() {
    let pool: SyncPool<i32> = SyncPool::new(|| panic!("no objects today"));
    assert_eq!(panic_of(|| pool.get()), "no objects today");
    assert_eq!(panic_of(|| pool.take()), "no objects today");
    assert_eq!(panic_of(|| pool.get_or_else(|| panic!("nor so"))), "nor so");
    assert_eq!(pool.stats(), SyncPool::<i32>::default().stats(), "as it was");

    let shared = Arc::new(pool);
    assert_eq!(panic_of(|| shared.get_owned()), "no objects today");
    assert_eq!(Arc::strong_count(&shared), 1);

    assert_eq!(*shared.get_or_else(|| 7), 7);
    assert_eq!(*shared.get(), 7);
}

fn fragile(object: &mut Counted<'_>) -> bool {
    assert!(object.mood == Mood::Calm, "cannot be reset");
    true
}

#[test]
fn a_panicking_hook_drops_the_object_and_does_not_keep_it() {
    let census = Census::new();
    let pool = SyncPool::with_recycle(|| census.object(), fragile);

    let mut guard = pool.get();
    guard.mood = Mood::Unwanted;
    assert_eq!(panic_of(|| drop(guard)), "cannot be reset");
    assert_eq!(census.dropped(), 1);

    let object = census.moody(Mood::Unwanted);
    assert_eq!(panic_of(|| pool.put(object)), "cannot be reset");
    assert_eq!(census.dropped(), 2);

    assert_eq!((pool.stats().kept, pool.stats().idle), (0, 0));
    drop(pool.get());
    assert_eq!((pool.stats().idle, census.alive()), (1, 1));
}

#[test]
fn a_panicking_hook_lets_an_owned_guard_go() {
    static CENSUS: Census = Census::new();
    let pool = Arc::new(SyncPool::with_recycle(|| CENSUS.object(), fragile));
    let mut guard = pool.get_owned();
    guard.mood = Mood::Unwanted;
    assert_eq!(panic_of(|| drop(guard)), "cannot be reset");
    assert_eq!(CENSUS.alive(), 0);
    assert_eq!(Arc::strong_count(&pool), 1);
}

#[test]
fn a_refused_object_that_panics_leaves_the_pool_usable() {
    let census = Census::new();
    let pool =
        SyncPool::with_recycle(|| census.object(), |object: &mut Counted<'_>| object.mood == Mood::Calm);
    assert_eq!(panic_of(|| pool.put(census.moody(Mood::Explosive))), "the object explodes");
    assert_eq!((pool.stats().refused, pool.stats().kept), (1, 0));
    drop(pool.get());
    assert_eq!((pool.stats().idle, census.alive()), (1, 1));
}

/// Fills a pool with 100 objects of which one panics in its drop, lets `end` drop them, and looks.
fn one_of_a_hundred_explodes(end: impl FnOnce(&SyncPool<Counted<'static>>), census: &'static Census) {
    let pool: SyncPool<Counted<'static>> = SyncPool::new(|| unreachable!("nobody asks"));
    for i in 0..100 {
        pool.put(census.moody(if i == 42 { Mood::Explosive } else { Mood::Calm }));
    }
    assert_eq!(panic_of(|| end(&pool)), "the object explodes");
    assert_eq!((census.dropped(), pool.stats().idle), (100, 0), "the others are dropped all the same");

    pool.put(census.object());
    assert!(pool.try_take().is_some());
}

#[test]
fn a_panicking_drop_while_aging_does_not_leak_the_rest() {
    static CENSUS: Census = Census::new();
    one_of_a_hundred_explodes(
        |pool| {
            pool.age();
            pool.age();
        },
        &CENSUS,
    );
}

#[test]
fn a_panicking_drop_while_clearing_does_not_leak_the_rest() {
    static CENSUS: Census = Census::new();
    one_of_a_hundred_explodes(SyncPool::clear, &CENSUS);
}

#[test]
fn a_pool_that_panics_in_its_end_does_not_leak_the_object_being_detached() {
    static CENSUS: Census = Census::new();
    let pool = Arc::new(SyncPool::new(|| CENSUS.object()));
    let guard = pool.get_owned();
    pool.put(CENSUS.moody(Mood::Explosive));
    drop(pool);
    // The guard is the last owner: to detach from it ends the pool.
    assert_eq!(panic_of(|| OwnedPooled::detach(guard)), "the object explodes");
    assert_eq!((CENSUS.made(), CENSUS.alive()), (2, 0));
}
