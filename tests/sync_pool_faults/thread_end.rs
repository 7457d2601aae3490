//! The first use of a pool in the last moments of a thread.

use std::cell::Cell;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use cenote::SyncPool;

use crate::alone::alone;
use crate::stats::assert_each_has_one_fate;

/// Panics of the process, caught ones included: where panics abort each of them is the end.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static POOL: SyncPool<Box<usize>> = SyncPool::new(|| Box::new(0));

type Last = Cell<Option<fn()>>;

/// Runs a function when its thread ends.
struct AtTheEnd(Last);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

thread_local! {
    static FIRST: AtTheEnd = const { AtTheEnd(Cell::new(None)) };
    static SECOND: AtTheEnd = const { AtTheEnd(Cell::new(None)) };
    static OTHERS: thread_local::ThreadLocal<u8> = const { thread_local::ThreadLocal::new() };
}

/// Calls every function of a pool, with enough objects for the depot and the stack behind it.
fn use_pool() {
    for objects in [1, 70, 1500] {
        let out: Vec<_> = (0..objects).map(|_| POOL.take()).collect();
        out.into_iter().for_each(|object| POOL.put(object));
        let out: Vec<_> = (0..objects).map(|_| POOL.get()).collect();
        drop(out);
        drop(POOL.try_take());
        POOL.age();
    }
    POOL.clear();
    let own = Arc::new(SyncPool::new(|| Box::new(1)));
    drop((own.get_owned(), own.get_owned()));
    drop(POOL.attach(Box::new(1)));
    assert!(POOL.stats().kept > 0);
}

fn run(life: fn()) {
    thread::spawn(life).join().unwrap();
}

#[test]
fn the_first_use_in_a_late_thread_local_destructor_raises_no_panic() {
    alone(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Relaxed);
            usual(info);
        }));
        for _ in 0..3 {
            run(|| FIRST.with(|first| first.0.set(Some(use_pool))));
            // Two destructors use the pool, one after what the other has made is gone.
            run(|| {
                FIRST.with(|first| first.0.set(Some(use_pool)));
                SECOND.with(|second| second.0.set(Some(use_pool)));
            });
            // The thread-locals of another crate end first.
            run(|| {
                FIRST.with(|first| first.0.set(Some(use_pool)));
                OTHERS.with(|others| {
                    others.get_or(|| 1);
                });
            });
            // The first destructor makes a thread-local with another one.
            run(|| {
                FIRST.with(|first| {
                    first.0.set(Some(|| {
                        SECOND.with(|second| second.0.set(Some(use_pool)));
                        use_pool();
                    }));
                });
            });
        }
        assert_eq!(PANICS.load(Relaxed), 0);
        let stats = POOL.stats();
        assert_each_has_one_fate(&stats);
        assert!(stats.kept > 12 * 2 * 1571, "{stats:?}");
        // What the threads have left is within reach.
        POOL.clear();
        assert_eq!(POOL.stats().idle, 0);
    });
}
