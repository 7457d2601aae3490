//! Forked children use the pools of their parent.

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::alone::alone;
use crate::counting::{allocate_slowly, live};

/// How many seconds a child may take for what takes less than one.
const DEADLINE: u32 = 20;

static POOL: SyncPool<Box<usize>> = SyncPool::new(|| Box::new(0));

/// Runs `child` in a forked process, which an alarm ends if it hangs. Fails if the child does.
fn fork(child: impl FnOnce()) {
    // SAFETY: the child uses pools and the allocator, which are made for that, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: sets an alarm.
        unsafe { libc::alarm(DEADLINE) };
        let result = catch_unwind(AssertUnwindSafe(child));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local variable.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(!libc::WIFSIGNALED(status), "a child was ended by signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "a child has failed");
}

/// Bursts go beyond what a thread keeps to itself, and the largest beyond the places of the depot.
fn burst(objects: usize) {
    let out: Vec<_> = (0..objects).map(|_| POOL.take()).collect();
    out.into_iter().for_each(|object| POOL.put(object));
}

fn first_use() {
    drop(POOL.get());
    burst(200);
    POOL.age();
    burst(20);
    let before = POOL.stats();
    POOL.put(POOL.take());
    assert_eq!(POOL.stats().hits, before.hits + 1);
    let own: SyncPool<usize> = SyncPool::default();
    own.put(1);
    assert_eq!(own.try_take(), Some(1));
}

/// Runs `body` while other threads run `others` again and again.
fn beside_others(threads: usize, others: impl Fn() + Sync, body: impl FnOnce() + Send) {
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    others();
                    rounds.fetch_add(1, Relaxed);
                }
            });
        }
        while rounds.load(Relaxed) < threads {
            thread::yield_now();
        }
        // The others end also if the body panics.
        let result = scope.spawn(body).join();
        over.store(true, Relaxed);
        if let Err(panic) = result {
            panic::resume_unwind(panic);
        }
    });
}

/// Threads that use the pool and end.
fn come_and_go() {
    let small = || thread::Builder::new().stack_size(64 << 10);
    let brief: Vec<_> = (0..2).map(|_| small().spawn(|| drop(POOL.get())).unwrap()).collect();
    brief.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_child_of_a_thread_that_never_used_a_pool_makes_its_first_get_while_threads_come_and_go() {
    alone(|| {
        beside_others(3, come_and_go, || {
            let (began, mut forks) = (Instant::now(), 0);
            while began.elapsed() < Duration::from_secs(2) || forks < 50 {
                // Each fork is made by a new thread, which has no number.
                thread::scope(|scope| scope.spawn(|| fork(first_use)).join().unwrap());
                forks += 1;
            }
            println!("{forks} forks");
        });
    });
}

#[test]
fn a_childs_child_uses_the_pools_of_both() {
    static OF_CHILD: SyncPool<usize> = SyncPool::new(|| 0);
    alone(|| {
        beside_others(2, come_and_go, || {
            for _ in 0..20 {
                fork(|| {
                    burst(100);
                    OF_CHILD.put(7);
                    fork(|| {
                        assert_eq!(OF_CHILD.try_take(), Some(7));
                        first_use();
                        burst(2000);
                    });
                    first_use();
                    assert_eq!(OF_CHILD.try_take(), Some(7));
                });
            }
        });
    });
}

/// What the depot unlinks is freed later, when no thread looks at it any more. Threads that exist
/// in the parent alone do not count in the child.
#[test]
fn a_child_that_is_forked_amid_depot_trades_gives_its_memory_back() {
    const OBJECTS: usize = 1500;
    alone(|| {
        beside_others(
            2,
            || {
                allocate_slowly();
                burst(OBJECTS);
            },
            || {
                for _ in 0..12 {
                    fork(|| {
                        (0..10).for_each(|_| burst(OBJECTS));
                        let before = live();
                        // In each burst some 20 magazines of 256 bytes find no place and go to the
                        // stack behind.
                        (0..100).for_each(|_| burst(OBJECTS));
                        let grown = live() - before;
                        assert!(grown < 128 << 10, "{grown} bytes more after 2,000 trades");
                    });
                }
            },
        );
    });
}
