//! Ways to get an object, and the guards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use cenote::{OwnedPooled, Pooled, SyncPool};

use crate::census::Census;

#[test]
fn a_pool_in_a_static_serves_every_caller() {
    static BUFS: SyncPool<Vec<u8>> = SyncPool::new(|| Vec::with_capacity(100));

    fn write() {
        BUFS.get().push(7);
    }
    write();
    thread::spawn(write).join().unwrap();

    assert_eq!(*BUFS.get(), [7, 7], "both wrote to the one object");
    assert_eq!(BUFS.stats().made, 1);
}

#[test]
fn closures_in_a_static_need_no_annotation() {
    static BUFS: SyncPool<Vec<u8>> = SyncPool::with_recycle(
        || vec![1; 8],
        |buf| {
            buf.clear();
            buf.capacity() <= 64
        },
    );
    BUFS.get().push(2);
    assert!(BUFS.get().is_empty(), "the hook cleared it");
    assert_eq!(BUFS.stats().made, 1);
}

#[test]
fn a_default_pool_makes_default_values() {
    let pool: SyncPool<String> = SyncPool::default();
    assert_eq!(pool.take(), "");
}

#[test]
fn a_guard_gives_its_object_back_when_it_is_dropped() {
    let pool = SyncPool::new(|| 1);
    let mut guard = pool.get();
    *guard += 1;
    assert_eq!(pool.stats().kept, 0);
    drop(guard);
    assert_eq!((pool.stats().kept, pool.stats().idle), (1, 1));
    assert_eq!(pool.try_take(), Some(2));
}

#[test]
fn a_guard_gives_its_object_back_while_a_panic_unwinds() {
    let pool = SyncPool::new(|| 1);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = pool.get();
        *guard = 5;
        panic!("the holder's");
    }));
    assert!(panic.is_err());
    assert_eq!(pool.try_take(), Some(5));
}

#[test]
fn two_guards_never_hold_the_same_object() {
    let pool = SyncPool::new(|| Box::new(0));
    pool.put(Box::new(1));
    let (a, b) = (pool.get(), pool.get());
    assert!(!std::ptr::eq(&**a, &**b));
    assert_eq!((**a, **b), (1, 0));
}

#[test]
fn a_detached_object_stays_out() {
    let census = Census::new();
    let pool = SyncPool::new(|| census.object());
    let object = Pooled::detach(pool.get());
    assert_eq!((pool.stats().kept, pool.stats().idle), (0, 0));
    assert_eq!(census.dropped(), 0);
    drop(object);
    assert_eq!(census.dropped(), 1);
}

#[test]
fn an_owned_guard_crosses_threads() {
    let pool = Arc::new(SyncPool::new(|| vec![0u8; 4]));
    let mut guard = pool.get_owned();
    thread::spawn(move || guard[0] = 9).join().unwrap();
    assert_eq!(pool.try_take(), Some(vec![9, 0, 0, 0]));
}

#[test]
fn an_owned_guard_keeps_its_pool_and_the_last_one_takes_it_along() {
    static CENSUS: Census = Census::new();
    let pool = Arc::new(SyncPool::new(|| CENSUS.object()));
    pool.put(CENSUS.object());
    let first = pool.get_owned();
    let last = pool.get_owned();
    drop(pool);
    drop(first);
    assert_eq!(CENSUS.dropped(), 0);
    drop(last);
    assert_eq!((CENSUS.made(), CENSUS.alive()), (2, 0));
}

#[test]
fn a_detached_owned_object_stays_out_and_lets_go_of_the_pool() {
    let pool = Arc::new(SyncPool::new(|| 3));
    let object = OwnedPooled::detach(pool.get_owned());
    assert_eq!(object, 3);
    assert_eq!(Arc::strong_count(&pool), 1);
    assert_eq!((pool.stats().kept, pool.stats().idle), (0, 0));
}

#[test]
fn get_or_else_takes_a_closure_that_captures() {
    static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    let (expected, name) = (4096, String::from("consumed"));
    let buf = BUFS.get_or_else(move || {
        drop(name);
        Vec::with_capacity(expected)
    });
    assert!(buf.capacity() >= expected);
    drop(buf);
    // A hit does not ask.
    drop(BUFS.get_or_else(|| unreachable!("one is idle")));
    assert!(BUFS.take_or_else(|| unreachable!("one is idle")).is_empty());
    assert_eq!((BUFS.stats().made, BUFS.stats().hits), (1, 2));
}

#[test]
fn the_factory_may_be_a_closure_that_captures() {
    let size = 12;
    let pool = SyncPool::new(|| vec![1u8; size]);
    assert_eq!(pool.get().len(), 12);
}

#[test]
fn a_guard_reads_and_shows_as_its_object() {
    let pool = Arc::new(SyncPool::new(|| String::from("deep")));
    let mut guard = pool.get();
    let mut owned = pool.get_owned();
    guard.push('!');
    owned.push('?');
    // What the object can be borrowed as, the guard can.
    let (bytes, text): (&[u8], &str) = (guard.as_ref(), owned.as_ref());
    assert_eq!((bytes, text), (b"deep!".as_slice(), "deep?"));
    let text: &mut str = guard.as_mut();
    text.make_ascii_uppercase();
    let text: &mut str = owned.as_mut();
    text.make_ascii_lowercase();
    assert_eq!((guard.as_str(), owned.as_str()), ("DEEP!", "deep?"));
    assert_eq!(format!("{guard} {owned}"), "DEEP! deep?");
    assert!(format!("{guard:?}").contains("\"DEEP!\""));
    assert!(format!("{owned:?}").contains("\"deep?\""));
}

#[test]
fn debug_shows_the_counts_of_a_pool_whose_parts_have_no_debug() {
    struct Mute;
    let pool = SyncPool::new(|| Mute);
    let guards: Vec<_> = (0..7).map(|_| pool.get()).collect();
    drop(guards);
    drop(pool.get());
    let shown = format!("{pool:?}");
    for part in ["SyncPool", "made: 7", "hits: 1", "idle: 7"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}
