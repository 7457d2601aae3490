//! Other crates of the process that use `crossbeam_epoch`, too.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

use cenote::SyncPool;

use crate::alone::alone;
use crate::counting::live;

/// The depot has fewer places than these objects need. The other magazines go to the stack behind
/// it, whose memory is reclaimed by epochs.
const OBJECTS: usize = 1500;

fn bursts(pool: &SyncPool<usize>, count: usize) {
    for _ in 0..count {
        let out: Vec<_> = (0..OBJECTS).map(|_| pool.take()).collect();
        out.into_iter().for_each(|object| pool.put(object));
    }
}

#[test]
fn a_strangers_pin_does_not_keep_the_memory_of_a_pool() {
    alone(|| {
        let pool: SyncPool<usize> = SyncPool::default();
        bursts(&pool, 20);
        thread::scope(|scope| {
            let (pinned, is_pinned) = mpsc::channel();
            let (end, ends) = mpsc::channel::<()>();
            scope.spawn(move || {
                let _guard = crossbeam_epoch::pin();
                pinned.send(()).unwrap();
                let _ = ends.recv();
            });
            is_pinned.recv().unwrap();
            let before = live();
            // Some 3,000 magazines of 256 bytes go to the stack behind the depot's places.
            bursts(&pool, 150);
            let grown = live() - before;
            assert!(grown < 128 << 10, "{grown} bytes more");
            drop(end);
        });
    });
}

thread_local! {
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn an_operation_of_a_pool_runs_no_closure_that_a_stranger_has_deferred() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    static RAN_IN_POOL: AtomicUsize = AtomicUsize::new(0);
    static OVER: AtomicBool = AtomicBool::new(false);
    let defer = || {
        let guard = crossbeam_epoch::pin();
        for _ in 0..10 {
            guard.defer(|| {
                RAN.fetch_add(1, Relaxed);
                RAN_IN_POOL.fetch_add(usize::from(IN_POOL.get()), Relaxed);
            });
        }
        // Moves the closures to the queue of all threads.
        guard.flush();
    };
    alone(move || {
        let pool: SyncPool<usize> = SyncPool::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !OVER.load(Relaxed) {
                    defer();
                    thread::yield_now();
                }
            });
            for _ in 0..60 {
                defer();
                IN_POOL.set(true);
                bursts(&pool, 1);
                IN_POOL.set(false);
            }
            OVER.store(true, Relaxed);
        });
        assert!(RAN.load(Relaxed) > 0, "the stranger's own pins run its closures");
        assert_eq!(RAN_IN_POOL.load(Relaxed), 0);
    });
}
