//! What a get finds in the shards of parked threads, when, and what it leaves there.

use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::parked::{Sleeper, beside_parked, beside_parked_then};

/// The documentation says some 10 ms. The rest is for a coarse clock, and for a machine that does
/// other things, too.
const SOON: Duration = Duration::from_millis(40);

/// Fails unless most of the waits were short.
#[track_caller]
fn assert_most_are_short(mut waits: Vec<Duration>) {
    waits.sort_unstable();
    assert!(waits[waits.len() / 2] <= SOON, "{waits:?}");
}

/// How long `try_take` returns `None` while a parked thread has an object.
fn wait_for_object(pool: &SyncPool<usize>) -> Duration {
    let began = Instant::now();
    while pool.try_take().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", pool.stats());
        thread::yield_now();
    }
    began.elapsed()
}

#[test]
fn the_first_get_of_a_thread_finds_a_parked_threads_object_at_once() {
    for _ in 0..20 {
        let pools: [SyncPool<usize>; 4] = Default::default();
        let put = |_| pools.iter().for_each(|pool| pool.put(7));
        beside_parked(1, put, || {
            assert_eq!(pools[0].try_take(), Some(7));
            assert_eq!(pools[1].try_get().as_deref(), Some(&7));
            assert_eq!(pools[2].take(), 7);
            assert_eq!(*pools[3].get(), 7);
        });
        assert!(pools.iter().all(|pool| pool.stats().made == 0));
    }
}

/// Measures how long this thread waits for an object that a parked thread puts after `misses`
/// misses of this thread.
fn waits_after_misses(misses: usize, rounds: usize) -> Vec<Duration> {
    let round = || {
        let pool: SyncPool<usize> = SyncPool::default();
        after_misses(&pool, misses, 1, 0, || wait_for_object(&pool))
    };
    (0..rounds).map(|_| round()).collect()
}

/// Parks some threads, each with an empty shard. After `misses` misses of this thread the `owner`
/// among them wakes, puts a 7, and sleeps again. Then `find` runs. What this thread has made stays
/// out until `find` returns.
fn after_misses<R>(
    pool: &SyncPool<usize>,
    misses: usize,
    threads: usize,
    owner: usize,
    find: impl FnOnce() -> R,
) -> R {
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..threads).map(|_| Sleeper::spawn(scope)).collect();
        for sleeper in &sleepers {
            sleeper.run(|| {
                pool.put(7);
                assert_eq!(pool.try_take(), Some(7));
            });
        }
        let out: Vec<_> = (0..misses).map(|_| pool.take()).collect();
        assert_eq!(pool.stats().made, misses as u64);
        sleepers[owner].run(|| pool.put(7));
        let found = find();
        drop(out);
        found
    })
}

#[test]
fn a_parked_threads_object_is_found_soon_after_a_burst_of_300_misses() {
    assert_most_are_short(waits_after_misses(300, 11));
}

#[test]
fn a_parked_threads_object_is_found_soon_after_a_burst_of_100_000_misses() {
    assert_most_are_short(waits_after_misses(100_000, 3));
}

/// Two other threads steal from each other all the time, and spend the searches of the process.
#[test]
fn a_parked_threads_object_is_found_soon_while_all_searches_of_the_process_are_spent() {
    let (busy, over) = (SyncPool::<usize>::default(), std::sync::atomic::AtomicBool::new(false));
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(relaxed) {
                    drop((0..5).map(|_| busy.get()).collect::<Vec<_>>());
                    while busy.try_take().is_some() {}
                }
            });
        }
        let waits = std::panic::catch_unwind(|| waits_after_misses(300, 11));
        over.store(true, relaxed);
        assert_most_are_short(waits.unwrap());
    });
}

#[test]
fn the_factory_is_not_called_for_long_beside_a_parked_threads_object() {
    let round = |_| {
        let pool: SyncPool<usize> = SyncPool::default();
        after_misses(&pool, 300, 1, 0, || {
            let (began, mut out) = (Instant::now(), Vec::new());
            while !out.contains(&7) {
                assert!(began.elapsed() < Duration::from_secs(10), "{:?}", pool.stats());
                out.clear();
                out.extend((0..10).map(|_| pool.take()));
            }
            began.elapsed()
        })
    };
    assert_most_are_short((0..11).map(round).collect());
}

#[test]
fn the_one_object_of_forty_parked_threads_is_found_soon_whichever_thread_has_it() {
    const THREADS: usize = 40;
    let round = |owner| {
        let pool: SyncPool<usize> = SyncPool::default();
        after_misses(&pool, 300, THREADS, owner, || wait_for_object(&pool))
    };
    assert_most_are_short((0..THREADS).step_by(4).map(round).collect());
}

/// A search looks at a few shards only. One miss after the other reaches them all.
#[test]
fn a_thread_that_misses_for_the_first_time_finds_the_one_object_of_forty_parked_threads_soon() {
    const THREADS: usize = 40;
    let round = |owner| {
        let pool: SyncPool<usize> = SyncPool::default();
        after_misses(&pool, 0, THREADS, owner, || wait_for_object(&pool))
    };
    assert_most_are_short((0..THREADS).step_by(4).map(round).collect());
}

#[test]
fn the_owner_of_a_shard_finds_objects_of_its_own_after_a_thief_was_there() {
    /// One thief leaves at least so many of the objects that a thread keeps to itself.
    const LEFT: usize = 5;
    for objects in [2 * LEFT, 16, 30, 46] {
        let pool: SyncPool<usize> = SyncPool::new(|| unreachable!("there are objects"));
        beside_parked_then(
            1,
            |_| (0..objects).for_each(|object| pool.put(object)),
            || {
                assert!(pool.try_take().is_some());
                assert_eq!(pool.stats().stolen, 1);
            },
            |_| {
                let out: Vec<_> = (0..LEFT).map(|_| pool.take()).collect();
                assert_eq!(pool.stats().stolen, 1, "of {objects} the owner has {out:?}, but not its own");
            },
        );
    }
}

#[test]
fn a_thief_finds_the_objects_of_every_one_of_many_parked_threads() {
    const THREADS: usize = 24;
    for each in [1, 20] {
        let pool: SyncPool<usize> = SyncPool::default();
        let mut found = vec![0; THREADS];
        beside_parked(
            THREADS,
            |number| (0..each).for_each(|_| pool.put(number)),
            || {
                let began = Instant::now();
                while found.iter().sum::<usize>() < THREADS * each {
                    assert!(began.elapsed() < Duration::from_secs(10), "{found:?}");
                    match pool.try_take() {
                        Some(number) => found[number] += 1,
                        None => thread::sleep(Duration::from_millis(1)),
                    }
                }
            },
        );
        assert_eq!(found, [each; THREADS]);
        assert_eq!(pool.stats().idle, 0);
    }
}
