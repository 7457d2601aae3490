//! Objects and the threads that put them: parked, ended, many, and in a chain.

use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::census::Census;

/// More than one thread keeps for itself, so that some lie in the depot.
const MANY: usize = 100;

/// Few enough that they stay with the thread that put them.
const FEW: usize = 20;

/// Takes so many objects out of a pool that nobody else uses at this time. The tests beside this one search other threads'
/// shards all the time, and the process has one budget for that: so an object that lies with another thread may take a
/// moment to be found.
fn take_all<T: Send>(pool: &SyncPool<T>, count: usize) -> Vec<T> {
    let mut out = Vec::new();
    let start = Instant::now();
    while out.len() < count && start.elapsed() < Duration::from_secs(10) {
        match pool.try_take() {
            Some(object) => out.push(object),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(pool.try_take().is_none());
    out
}

/// Has a thread run `before` and sleep, runs `meanwhile`, and lets the thread go.
fn while_parked(before: impl FnOnce() + Send, meanwhile: impl FnOnce()) {
    thread::scope(|s| {
        // Both ends of this thread are in here: a failed assertion drops them and wakes the other.
        let (wake, woken) = mpsc::channel::<()>();
        let (park, parked) = mpsc::channel();
        s.spawn(move || {
            before();
            park.send(()).unwrap();
            woken.recv().ok();
        });
        parked.recv().unwrap();
        meanwhile();
        drop(wake);
    });
}

#[test]
fn aging_reaches_the_objects_of_a_parked_thread() {
    for count in [FEW, MANY] {
        let census = Census::new();
        let pool = SyncPool::new(|| census.object());
        while_parked(
            || (0..count).for_each(|_| pool.put(census.object())),
            || {
                pool.age();
                assert_eq!(census.dropped(), 0);
                pool.age();
                assert_eq!(census.dropped(), count);
            },
        );
    }
}

#[test]
fn clearing_reaches_the_objects_of_a_parked_thread() {
    let census = Census::new();
    let pool = SyncPool::new(|| census.object());
    while_parked(
        || (0..MANY).for_each(|_| pool.put(census.object())),
        || {
            pool.clear();
            assert_eq!(census.dropped(), MANY);
        },
    );
}

#[test]
fn each_object_of_a_parked_thread_can_be_taken_by_another() {
    for count in [1, FEW, MANY] {
        for victims in [false, true] {
            let pool: SyncPool<usize> = SyncPool::default();
            while_parked(
                || (0..count).for_each(|i| pool.put(i)),
                || {
                    if victims {
                        pool.age();
                    }
                    let mut out = take_all(&pool, count);
                    out.sort_unstable();
                    assert_eq!(out, Vec::from_iter(0..count));
                },
            );
        }
    }
}

#[test]
fn a_thread_that_ends_leaves_its_objects_to_others() {
    let pool: Arc<SyncPool<usize>> = Arc::default();
    for count in [1, FEW, MANY] {
        let theirs = Arc::clone(&pool);
        thread::spawn(move || (0..count).for_each(|i| theirs.put(i))).join().unwrap();
        let mut out = take_all(&pool, count);
        out.sort_unstable();
        assert_eq!(out, Vec::from_iter(0..count));
    }
}

#[test]
fn aging_reaches_the_objects_of_a_thread_that_ended() {
    static CENSUS: Census = Census::new();
    static POOL: SyncPool<crate::census::Counted<'static>> = SyncPool::new(|| CENSUS.object());
    thread::spawn(|| (0..MANY).for_each(|_| POOL.put(CENSUS.object()))).join().unwrap();
    POOL.age();
    POOL.age();
    assert_eq!(CENSUS.dropped(), MANY);
}

#[test]
fn threads_that_come_one_after_the_other_pass_their_objects_on() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    for _ in 0..2_000 {
        thread::spawn(|| POOL.get().push(1)).join().unwrap();
    }
    // One would do, but other tests' threads come and go meanwhile: so one may find itself with the shard of a dead one that
    // has searched the others too often of late.
    assert!(POOL.stats().made <= 100, "{:?}", POOL.stats());
}

#[test]
fn short_lived_threads_do_not_accumulate_objects() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    const AT_ONCE: usize = 8;
    for _ in 0..100 {
        let all_hold_one = Arc::new(Barrier::new(AT_ONCE));
        let batch = [(); AT_ONCE].map(|()| {
            let all_hold_one = Arc::clone(&all_hold_one);
            thread::spawn(move || {
                let held = POOL.get();
                all_hold_one.wait();
                drop(held);
            })
        });
        batch.into_iter().for_each(|thread| thread.join().unwrap());
    }
    let stats = POOL.stats();
    assert_eq!(stats.idle as u64, stats.made, "all came back");
    assert!(stats.made >= AT_ONCE as u64);
    // A get may pass by a shard that is busy, and find another object too few; then there is one more for good.
    assert!(stats.made <= 8 * AT_ONCE as u64, "{stats:?} after 800 threads");
}

#[test]
fn objects_that_are_freed_on_another_thread_are_used_again() {
    const TURNS: usize = 50_000;
    const IN_FLIGHT: usize = 8;

    let pool = SyncPool::new(|| vec![0u8; 64]);
    let (send, receive) = mpsc::sync_channel(IN_FLIGHT);
    thread::scope(|s| {
        let pool = &pool;
        s.spawn(move || (0..TURNS).for_each(|_| send.send(pool.get()).unwrap()));
        assert_eq!(receive.iter().map(drop).count(), TURNS);
    });
    let stats = pool.stats();
    assert_eq!(stats.kept, TURNS as u64);
    // A miss needs both the producer's shard and the depot to be empty: then all there are lie in the channel, with
    // the consumer, or in a batch on its way.
    assert!(stats.made <= 100, "{stats:?}");
}

#[test]
fn objects_that_are_freed_far_away_come_home_one_at_a_time_too() {
    let pool = SyncPool::new(|| 0);
    let (there, come) = mpsc::channel();
    let (back, answer) = mpsc::channel();
    thread::scope(|s| {
        s.spawn(move || {
            for guard in come {
                drop(guard);
                if back.send(()).is_err() {
                    break;
                }
            }
        });
        let lap = |_| {
            there.send(pool.get()).unwrap();
            answer.recv().unwrap();
        };
        (0..22_000).for_each(lap);
        drop(there);
    });
    // At first each is fetched out of the other thread's shard. When that would be too often new ones are made; soon there
    // are as many as that thread keeps to itself, and a magazine: then they travel by magazines. However long it goes on, there
    // are never more.
    assert!(pool.stats().made <= 60 + 30 + 1, "{:?}", pool.stats());
    assert!(pool.stats().stolen >= 1, "{:?}", pool.stats());
}
