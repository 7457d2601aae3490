//! The recycle hook.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cenote::{Pooled, SyncPool};

use crate::census::{Census, Counted, Mood};

#[test]
fn a_refused_object_is_dropped_and_counted() {
    let census = Census::new();
    let pool =
        SyncPool::with_recycle(|| census.object(), |object: &mut Counted<'_>| object.mood != Mood::Unwanted);
    pool.get().mood = Mood::Unwanted;
    assert_eq!((census.dropped(), census.alive()), (1, 0));
    assert_eq!((pool.stats().refused, pool.stats().kept, pool.stats().idle), (1, 0, 0));

    drop(pool.get());
    assert_eq!((census.dropped(), census.alive()), (1, 1));
    assert_eq!((pool.stats().refused, pool.stats().kept, pool.stats().idle), (1, 1, 1));
}

#[test]
fn the_hook_sees_each_object_that_comes_back_once() {
    // An object counts the hook's visits itself: a hook captures nothing.
    let pool = Arc::new(SyncPool::with_recycle(
        || 0,
        |visits: &mut i32| {
            *visits += 1;
            true
        },
    ));
    drop(pool.get());
    assert_eq!(*pool.get(), 1, "after a guard");
    drop(pool.get_owned());
    assert_eq!(pool.take(), 3, "after a second guard, and an owned one");
    pool.put(100);
    pool.age();
    assert_eq!(pool.take(), 101, "an object from outside; growing old is no visit");
}

#[test]
fn the_hook_does_not_see_what_stays_out() {
    static VISITS: AtomicUsize = AtomicUsize::new(0);
    let pool = SyncPool::with_recycle(
        || 0,
        |_: &mut i32| {
            VISITS.fetch_add(1, Relaxed);
            true
        },
    );
    let taken = (Pooled::detach(pool.get()), pool.take());
    drop(pool.get_or_else(|| taken.0 + taken.1));
    assert_eq!(VISITS.load(Relaxed), 1, "only the last one came back");
    pool.clear();
    drop(pool);
    assert_eq!(VISITS.load(Relaxed), 1);
}
