//! Each object is at any moment in a caller's hands, in the pool, or dropped exactly once: under random load, with threads
//! that are born and end, objects that change threads, aging, panics and re-entrance. See [`conservation`] for what
//! is checked, and when.
//!
//! `CENOTE_STRESS_OPS` says how many gets and puts, in all, and `CENOTE_STRESS_SEED` with which seed; a failure prints the
//! seed.

mod conservation;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cenote::SyncPool;
use conservation::{Plan, operations, race, run};

fn plan(seed: u64) -> Plan {
    let seed = match std::env::var("CENOTE_STRESS_SEED") {
        Ok(text) => text.parse().expect("CENOTE_STRESS_SEED is a number"),
        Err(_) => seed,
    };
    // Each of the six tests does its share.
    Plan {
        seed,
        operations: operations(2_000_000) / 6,
        threads: 4,
        period: None,
        max_idle: None,
        panics: true,
    }
}

#[test]
fn small_objects_are_each_in_one_place_and_dropped_once() {
    run::<0>(plan(1));
}

#[test]
fn small_objects_that_age_by_use_are_each_in_one_place_and_dropped_once() {
    run::<0>(Plan { period: Some(Duration::from_millis(1)), ..plan(2) });
}

#[test]
fn objects_of_forty_bytes_are_each_in_one_place_and_dropped_once() {
    run::<32>(Plan { period: Some(Duration::from_millis(5)), ..plan(3) });
}

#[test]
fn objects_too_large_for_a_shard_are_each_in_one_place_and_dropped_once() {
    run::<300>(Plan { period: Some(Duration::from_millis(5)), ..plan(4) });
}

#[test]
fn with_no_panics_and_many_threads_objects_are_each_in_one_place_and_dropped_once() {
    run::<0>(Plan { threads: 24, panics: false, ..plan(5) });
}

#[test]
fn with_a_limit_to_what_is_idle_objects_are_each_in_one_place_and_dropped_once() {
    let period = Some(Duration::from_millis(5));
    run::<0>(Plan { period, max_idle: Some(20), ..plan(6) });
    run::<32>(Plan { max_idle: Some(0), ..plan(7) });
    run::<300>(Plan { period, max_idle: Some(600), ..plan(8) });
}

/// Shards lie in blocks, of which the first holds one, and the next ones two, four, ...: the panic must not end the walk.
#[test]
fn a_pool_that_is_dropped_drops_the_objects_of_every_thread_also_if_one_of_them_panics() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            if !thread::panicking() {
                resume_unwind(Box::new("as planned"));
            }
        }
    }
    const THREADS: usize = 16;
    let pool: SyncPool<Panics> = SyncPool::new(|| Panics);
    let all_have_put = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                pool.put(Panics);
                pool.put(Panics);
                all_have_put.wait();
            });
        }
    });
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool))).is_err());
    assert_eq!(DROPPED.load(Ordering::Relaxed), 2 * THREADS);
}

#[test]
fn a_shard_that_is_stolen_from_and_aged_all_the_time_has_one_visitor_at_a_time() {
    race::run(Duration::from_micros(operations(2_000_000) / 2).min(Duration::from_secs(30)));
}
