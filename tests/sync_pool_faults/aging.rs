//! `clear` and `age` reach what parked threads have, also while another thread looks into the
//! shards.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::parked::beside_parked;

type Pool = SyncPool<Box<usize>>;

const PARKED: usize = 6;
/// As many as a thread keeps to itself.
const EACH: usize = 46;
/// What a thief may have in its hands at the moment of a `clear`: one magazine, and the object that
/// it takes.
const IN_HAND: usize = 31;

/// Has `empty` called beside parked threads and a thief. Fails if the pool then holds more than
/// `most` objects.
#[track_caller]
fn empties_the_pool_beside_a_thief(empty: impl Fn(&Pool), most: usize) {
    empties_the_pool_beside_a_thief_and_then(empty, |_| (), most);
}

/// As above, with a second part for which the thief has ended.
#[track_caller]
fn empties_the_pool_beside_a_thief_and_then(empty: impl Fn(&Pool), then: impl Fn(&Pool), most: usize) {
    let began = Instant::now();
    let (mut rounds, mut stolen) = (0, 0);
    while began.elapsed() < Duration::from_millis(700) || rounds < 20 {
        let pool: Pool = SyncPool::new(|| unreachable!("nobody gets"));
        let idle = beside_parked(
            PARKED,
            |number| (0..EACH).for_each(|_| pool.put(Box::new(number))),
            || {
                let (began, over) = (AtomicBool::new(false), AtomicBool::new(false));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while !over.load(Relaxed) {
                            drop(pool.try_take());
                            began.store(true, Relaxed);
                        }
                    });
                    while !began.load(Relaxed) {
                        thread::yield_now();
                    }
                    empty(&pool);
                    over.store(true, Relaxed);
                });
                then(&pool);
                pool.stats().idle
            },
        );
        assert!(idle <= most, "round {rounds}: {idle} objects of parked threads are left");
        rounds += 1;
        stolen += pool.stats().stolen;
    }
    assert!(stolen >= rounds / 2, "the thief was idle: {stolen} thefts in {rounds} rounds");
}

#[test]
fn clear_leaves_nothing_of_parked_threads_beside_a_thief() {
    empties_the_pool_beside_a_thief(SyncPool::clear, IN_HAND);
}

#[test]
fn two_ages_leave_nothing_of_parked_threads_beside_a_thief() {
    // What the thief had in its hands at the first `age` may be a victim after the second.
    let two_ages = |pool: &Pool| (0..2).for_each(|_| pool.age());
    empties_the_pool_beside_a_thief(two_ages, 2 * IN_HAND);
}

/// What the first `age` has passed over would be a victim after the second.
#[test]
fn an_age_reaches_parked_threads_beside_a_thief() {
    empties_the_pool_beside_a_thief_and_then(SyncPool::age, SyncPool::age, IN_HAND);
}

#[test]
fn drain_leaves_nothing_of_parked_threads_beside_a_thief() {
    empties_the_pool_beside_a_thief(|pool| drop(pool.drain()), IN_HAND);
}

#[test]
fn two_threads_that_clear_at_once_leave_nothing_of_parked_threads() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        let pool: Pool = SyncPool::new(|| unreachable!("nobody gets"));
        beside_parked(
            PARKED,
            |number| (0..EACH).for_each(|_| pool.put(Box::new(number))),
            || {
                thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| pool.clear());
                    }
                });
                assert_eq!(pool.stats().idle, 0);
                assert_eq!(pool.stats().cleared as usize, PARKED * EACH);
            },
        );
    }
}
