//! The promises that Go's own tests hold `sync.Pool` to, asked of [`SyncPool`].
//!
//! Go may let the scheduler move a goroutine between two calls and a collection may come at any time, so its tests
//! leave room for that. Here a generation passes when a test says so, and the counts are exact.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

#[test]
fn an_empty_pool_without_a_factory_has_nothing() {
    let pool: SyncPool<&str> = SyncPool::default();
    assert_eq!(pool.try_take(), None);
}

#[test]
fn two_objects_come_back_in_some_order_and_then_none() {
    let pool: SyncPool<&str> = SyncPool::default();
    pool.put("a");
    pool.put("b");

    let first = pool.try_take().expect("two were put");
    let second = pool.try_take().expect("one is left");
    assert_eq!(BTreeSet::from([first, second]), BTreeSet::from(["a", "b"]));
    assert_eq!(pool.try_take(), None);
}

/// One object alone; as many as stay with the thread that put them; and so many that some go to the depot.
const SOME: [usize; 3] = [1, 20, 100];

#[test]
fn an_object_survives_one_generation() {
    for count in SOME {
        let pool: SyncPool<&str> = SyncPool::default();
        (0..count).for_each(|_| pool.put("c"));
        pool.age();
        assert!((0..count).all(|_| pool.try_take() == Some("c")));
        assert_eq!(pool.try_take(), None);
    }
}

#[test]
fn an_object_unused_for_two_generations_is_gone() {
    for count in SOME {
        let pool: SyncPool<&str> = SyncPool::default();
        (0..count).for_each(|_| pool.put("c"));
        pool.age();
        pool.age();
        assert_eq!(pool.try_take(), None);
        assert_eq!(pool.stats().aged, count as u64);
    }
}

#[test]
fn the_factory_is_asked_on_a_miss_and_only_then() {
    let calls = AtomicUsize::new(0);
    let pool = SyncPool::new(|| calls.fetch_add(1, Relaxed) + 1);

    assert_eq!(pool.take(), 1);
    assert_eq!(pool.take(), 2);
    pool.put(42);
    assert_eq!(pool.take(), 42);
    assert_eq!(pool.take(), 3);
    assert_eq!(calls.load(Relaxed), 3);
    assert_eq!(pool.stats().made, 3);
}

/// Counts its drops.
struct Finalised<'a>(&'a AtomicUsize);

impl Drop for Finalised<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

const RELEASED: usize = 100;

/// Puts [`RELEASED`] objects, takes and puts them all once more if they are to be `drained`, and lets their time
/// run out, three times over with the same pool.
fn release(drained: bool) {
    let dropped = AtomicUsize::new(0);
    let pool = SyncPool::new(|| -> Finalised<'_> { unreachable!("nobody asks for more than was put") });
    for round in 1..=3 {
        for _ in 0..RELEASED {
            pool.put(Finalised(&dropped));
        }
        if drained {
            let out: Vec<_> = (0..RELEASED).map(|_| pool.take()).collect();
            assert!(pool.try_take().is_none());
            out.into_iter().for_each(|object| pool.put(object));
        }
        pool.age();
        assert_eq!(dropped.load(Relaxed), (round - 1) * RELEASED, "a victim is not dropped yet");
        pool.age();
        assert_eq!(dropped.load(Relaxed), round * RELEASED);
    }
}

#[test]
fn what_was_put_is_released() {
    release(false);
}

#[test]
fn what_was_put_taken_and_put_again_is_released() {
    release(true);
}

#[test]
fn ten_threads_see_nothing_but_what_was_put() {
    const THREADS: usize = 10;
    const TURNS: usize = 1_000_000;

    // Two words that belong together: a get that did not come after the whole of its put would see them torn.
    let whole = |pair: [usize; 2]| pair[1] == !pair[0];
    let pool: SyncPool<[usize; 2]> = SyncPool::default();
    thread::scope(|s| {
        for thread in 0..THREADS {
            let pool = &pool;
            s.spawn(move || {
                for turn in 0..TURNS {
                    let value = thread * TURNS + turn;
                    pool.put([value, !value]);
                    // Another thread may have been quicker; then there is nothing to look at.
                    if let Some(pair) = pool.try_take() {
                        assert!(whole(pair), "{pair:?} was never put");
                    }
                }
            });
        }
    });

    let stats = pool.stats();
    assert_eq!(stats.kept, (THREADS * TURNS) as u64);
    assert_eq!(stats.kept, stats.hits + stats.idle as u64);
    let left: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
    assert_eq!(left.len(), stats.idle);
    assert!(left.into_iter().all(whole));
}

#[test]
fn nine_consumers_get_each_of_the_producers_objects_exactly_once() {
    const CONSUMERS: usize = 9;
    const ITEMS: usize = 2_000_000;

    let pool: SyncPool<usize> = SyncPool::default();
    let seen: Vec<AtomicU8> = (0..ITEMS).map(|_| AtomicU8::new(0)).collect();
    let taken = AtomicUsize::new(0);
    let all_put = AtomicBool::new(false);
    // A lost object would keep the consumers waiting; after this they give up and the counts tell.
    let patience = Instant::now() + Duration::from_secs(60);

    let take_one = || {
        let item = pool.try_take()?;
        seen[item].fetch_add(1, Relaxed);
        taken.fetch_add(1, Relaxed);
        Some(())
    };
    thread::scope(|s| {
        for _ in 0..CONSUMERS {
            s.spawn(|| {
                while taken.load(Relaxed) < ITEMS {
                    if take_one().is_some() {
                        continue;
                    }
                    if all_put.load(Relaxed) && (pool.stats().idle == 0 || Instant::now() > patience) {
                        break;
                    }
                    thread::yield_now();
                }
            });
        }
        for item in 0..ITEMS {
            pool.put(item);
            // The owner competes for its own objects, too.
            if item % 10 == 0 {
                take_one();
            }
        }
        all_put.store(true, Relaxed);
    });
    // Consumers that saw nothing idle left while a batch was in another's hands may have gone home early.
    while take_one().is_some() {}

    let wrong = seen.iter().filter(|times| times.load(Relaxed) != 1).count();
    assert_eq!(wrong, 0, "objects that were lost or handed out twice");
    assert_eq!(taken.load(Relaxed), ITEMS);
    assert_eq!(pool.stats().made, 0);
}
