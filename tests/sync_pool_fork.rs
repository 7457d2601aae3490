//! A forked child may use the pools of its parent, whatever the parent's other threads were in the middle of.
//!
//! The test forks, so it does that in a process of its own: it runs itself again. (What is not tested, because it is out of the pool's
//! reach: a child that has threads of its own while `thread_local`'s lock was held at the fork.)
#![cfg(unix)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{Ager, AgerConfig, PoolConfig, SyncPool};

const CASE: &str = "CENOTE_TEST_CASE";
const FORKS: usize = 100;
/// How long a child may take for what takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// A number, and its complement: an object that was moved by half would show.
type Object = Box<(u64, u64)>;

static POOL: SyncPool<Object> =
    SyncPool::with_config(|| Box::new((7, !7)), PoolConfig::new().period(Duration::from_millis(1)));
static OVER: AtomicBool = AtomicBool::new(false);

fn check(object: &Object) {
    assert_eq!(object.0, !object.1);
}

fn use_pool(rounds: usize, at_once: usize) {
    let mut held = Vec::with_capacity(at_once);
    for _ in 0..rounds {
        for _ in 0..at_once {
            let object = POOL.take();
            check(&object);
            held.push(object);
        }
        held.drain(..).for_each(|object| POOL.put(object));
        drop(POOL.get());
    }
}

/// All that there is, on the one thread of a child.
fn in_the_child(ager: &mut Option<Ager>) {
    // Its thread is the parent's alone, and may have been anywhere at the fork.
    drop(ager.take());
    use_pool(20, 70);
    let before = POOL.stats();
    POOL.age();
    use_pool(20, 70);
    POOL.age();
    POOL.age();
    while let Some(object) = POOL.try_take() {
        check(&object);
    }
    POOL.put(Box::new((1, !1)));
    assert_eq!(POOL.take().0, 1, "what is put can be taken");
    POOL.put(Box::new((2, !2)));
    POOL.clear();
    use_pool(1, 200);
    let after = POOL.stats();
    assert!(after.hits > before.hits && after.made >= before.made, "{before:?} {after:?}");
    use_pool(50, 3);
}

fn fork_once(turn: usize) {
    // So that the forking thread's shard has something that others may be taking at this moment.
    use_pool(1 + turn % 3, 20 + turn % 50);
    let config =
        AgerConfig { period: Duration::from_millis(1), memory_pressure: None, ..AgerConfig::default() };
    let mut ager = Some(Ager::spawn(config).watch(&POOL));
    thread::sleep(Duration::from_micros(700 + 13 * turn as u64));
    // SAFETY: the child uses the pool and malloc, which are made for that, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let fine = catch_unwind(AssertUnwindSafe(|| in_the_child(&mut ager))).is_ok();
        // SAFETY: ends the process.
        unsafe { libc::_exit(if fine { 0 } else { 1 }) }
    }
    let began = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a local variable.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if began.elapsed() < DEADLINE => thread::sleep(Duration::from_micros(200)),
            0 => {
                // SAFETY: our child, which has not been waited for.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, &mut status, 0);
                }
                panic!("child {turn} hangs");
            }
            ended => {
                assert_eq!(ended, child);
                assert!(
                    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
                    "child {turn} ended with status {status:#x}"
                );
                return;
            }
        }
    }
}

/// In the parent this does nothing; in the process that the parent starts it forks.
#[test]
fn the_case_that_the_parent_asked_for() {
    if std::env::var_os(CASE).is_none() {
        return;
    }
    let beginning = AtomicUsize::new(0);
    thread::scope(|scope| {
        for at_once in [1, 40, 300] {
            let beginning = &beginning;
            scope.spawn(move || {
                beginning.fetch_add(1, Ordering::Relaxed);
                while !OVER.load(Ordering::Relaxed) {
                    use_pool(10, at_once);
                }
            });
        }
        // Steals, and now and then lets time pass.
        scope.spawn(|| {
            while !OVER.load(Ordering::Relaxed) {
                let stolen: Vec<Object> = std::iter::from_fn(|| POOL.try_take()).take(100).collect();
                stolen.iter().for_each(check);
            }
        });
        scope.spawn(|| {
            while !OVER.load(Ordering::Relaxed) {
                POOL.age();
                thread::yield_now();
            }
        });
        while beginning.load(Ordering::Relaxed) < 3 {
            thread::yield_now();
        }
        let forks = catch_unwind(|| (0..FORKS).for_each(fork_once));
        OVER.store(true, Ordering::Relaxed);
        if let Err(panic) = forks {
            std::panic::resume_unwind(panic);
        }
    });
    println!("case passed");
}

#[test]
fn a_child_that_is_forked_in_the_middle_of_other_threads_operations_uses_the_pool_and_does_not_hang() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture", "--test-threads=1"])
        .env(CASE, "fork")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("case passed"), "{}\n{out}\n{err}", output.status);
}
