//! An ager that was made before a fork, in the child.
//!
//! Each test that forks does so in a process of its own: it runs this file again for one case.
#![cfg(unix)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{Ager, AgerConfig, PoolConfig, SyncPool};

const CASE: &str = "CENOTE_TEST_CASE";
const FORKS: usize = 100;
/// How many seconds a child may take for what takes milliseconds.
const DEADLINE: u32 = 20;

type Object = Box<u64>;
type Pool = SyncPool<Object>;

const fn pool() -> Pool {
    SyncPool::with_config(|| Box::new(0), PoolConfig::new().age_by_hand())
}

static BEFORE: Pool = pool();
static AFTER: Pool = pool();
static LATER: Pool = pool();

fn every(period: Duration) -> AgerConfig {
    AgerConfig { period, memory_pressure: None, memory_share: None, ..AgerConfig::default() }
}

const OFTEN: Duration = Duration::from_millis(1);

/// Whether the pools are empty in time, after 100 objects each.
fn are_emptied(pools: &[&Pool]) -> bool {
    for pool in pools {
        (0..100).for_each(|i| pool.put(Box::new(i)));
    }
    let began = Instant::now();
    while pools.iter().any(|pool| pool.stats().idle > 0) {
        if began.elapsed() > Duration::from_secs(10) {
            return false;
        }
        thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Runs `child` in a forked process, which an alarm ends if it hangs. Its result must be `true`.
fn fork(what: &str, child: impl FnOnce() -> bool) {
    // SAFETY: the child does what glibc and musl allow in the child of a process with threads:
    // it allocates memory and starts a thread. It ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: sets an alarm.
        unsafe { libc::alarm(DEADLINE) };
        let fine = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!fine)) }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local variable.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(!libc::WIFSIGNALED(status), "{what}: ended by signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "{what}");
}

/// The ager that a busy parent has while it forks: its thread ages all the time, and others add
/// pools that are soon gone.
fn with_a_busy_ager(body: impl FnOnce(&Arc<Ager>) + Send) {
    let over = AtomicBool::new(false);
    let added = AtomicUsize::new(0);
    let ager = Arc::new(Ager::spawn(every(Duration::ZERO)).watch(&BEFORE));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let short_lived = Arc::new(pool());
                    ager.add(Arc::downgrade(&short_lived)).unwrap();
                    short_lived.put(Box::new(1));
                    added.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(20));
                }
            });
        }
        while added.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
        // Ends the threads also if the body panics.
        let result = scope.spawn(|| body(&ager)).join();
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn a_child_adds() {
    with_a_busy_ager(|ager| {
        for turn in 0..FORKS {
            thread::sleep(Duration::from_micros(13 * turn as u64));
            fork("a child that adds", || {
                ager.add(&AFTER).is_ok() && are_emptied(&[&BEFORE, &AFTER]) && {
                    // The thread runs already.
                    ager.add(&LATER).is_ok() && are_emptied(&[&BEFORE, &AFTER, &LATER])
                }
            });
        }
    });
}

fn threads_of_a_child_add_at_once() {
    with_a_busy_ager(|ager| {
        for _ in 0..FORKS / 5 {
            fork("a child whose threads add", || {
                let pools = [&AFTER, &LATER];
                let adders = pools.map(|pool| {
                    let ager = Arc::clone(ager);
                    thread::spawn(move || ager.add(pool).is_ok())
                });
                adders.into_iter().all(|adder| adder.join().unwrap())
                    && are_emptied(&[&BEFORE, &AFTER, &LATER])
                    // By now the threads have their names.
                    && are_agers(1)
            });
        }
    });
}

/// Whether so many threads of this process are agers, where the system tells. The kernel lists a
/// thread a moment longer than it runs.
fn are_agers(expected: usize) -> bool {
    let count = || {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
        Some(tasks.flatten().filter_map(name).filter(|name| name == "cenote-ager\n").count())
    };
    (0..1000).any(|_| {
        let holds = count().is_none_or(|agers| agers == expected);
        thread::sleep(Duration::from_millis(u64::from(!holds)));
        holds
    })
}

fn a_child_drops() {
    let crowd: Vec<_> = (0..1000).map(|_| Arc::new(pool())).collect();
    for turn in 0..FORKS {
        // The thread is most likely in the middle of a round, and may hold a lock.
        let mut ager = Some(Ager::spawn(every(Duration::ZERO)).watch(&BEFORE));
        for pool in &crowd {
            ager = ager.map(|ager| ager.watch(Arc::downgrade(pool)));
        }
        thread::sleep(Duration::from_micros(13 * turn as u64));
        fork("a child that drops", || {
            drop(ager.take());
            true
        });
        fork("a child that adds, then drops", || {
            let added = ager.take().unwrap().watch(&AFTER);
            let aged = are_emptied(&[&BEFORE, &AFTER]);
            drop(added);
            aged && are_agers(0)
        });
    }
}

fn a_grandchild_adds() {
    let ager = Ager::spawn(every(OFTEN)).watch(&BEFORE);
    fork("the child", || {
        let added = ager.add(&AFTER).is_ok() && are_emptied(&[&BEFORE, &AFTER]);
        fork("the grandchild", || ager.add(&LATER).is_ok() && are_emptied(&[&BEFORE, &AFTER, &LATER]));
        added && are_emptied(&[&BEFORE, &AFTER])
    });
    assert!(are_emptied(&[&BEFORE]), "the parent's ager goes on");
}

fn a_daemon_watches() {
    let mut ager = Ager::spawn(every(OFTEN)).watch(&BEFORE);
    // SAFETY: forks; the parent ends in it by `_exit`, the child keeps its directory and its
    // output.
    #[allow(deprecated, reason = "macOS prefers launchd")]
    let result = unsafe { libc::daemon(1, 1) };
    assert_eq!(result, 0, "daemon: {}", std::io::Error::last_os_error());
    // SAFETY: the alarm ends this process if it hangs.
    unsafe { libc::alarm(DEADLINE) };
    ager = ager.watch(&AFTER);
    assert!(are_emptied(&[&BEFORE, &AFTER]));
    drop(ager);
}

/// Does nothing in the test run. In the processes that the other tests start it runs a case.
#[test]
fn the_case_that_the_parent_asked_for() {
    let Some(case) = std::env::var_os(CASE) else { return };
    match case.to_str() {
        Some("a child adds") => a_child_adds(),
        Some("threads of a child add at once") => threads_of_a_child_add_at_once(),
        Some("a child drops") => a_child_drops(),
        Some("a grandchild adds") => a_grandchild_adds(),
        Some("a daemon watches") => a_daemon_watches(),
        _ => panic!("no such case: {case:?}"),
    }
    println!("case passed");
}

#[track_caller]
fn run(case: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("case passed"), "{}\n{out}\n{err}", output.status);
}

#[test]
fn an_add_in_a_child_starts_the_ager_again_for_the_pools_of_the_parent_too() {
    run("a child adds");
}

#[test]
fn threads_of_a_child_that_add_at_once_start_one_thread() {
    run("threads of a child add at once");
}

#[test]
fn a_child_may_drop_the_ager_of_its_parent() {
    run("a child drops");
}

#[test]
fn a_grandchild_starts_the_ager_again_and_its_elders_agers_go_on() {
    run("a grandchild adds");
}

#[test]
fn a_daemon_ages_what_was_watched_before_it_became_one() {
    run("a daemon watches");
}
