//! Where `membarrier(2)` is refused, as it is by the seccomp filters of some containers, a pool is as right as elsewhere.
//!
//! A filter cannot be taken off, so each case runs in a process of its own: the test runs itself again.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod conservation;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use cenote::SyncPool;
use conservation::{Plan, operations, race, run};

/// For a child, which takes seconds.
const DEADLINE: Duration = Duration::from_secs(300);
const CASE: &str = "CENOTE_TEST_CASE";

/// From here on each thread of the process gets `EPERM` for the system call.
fn refuse_membarrier() {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let mut filter = [
        // The number of the call; foreign architectures do not occur in our own process.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_membarrier as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the pointer is to a program that lives across the call, which copies it.
    let refused = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (set, all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        libc::syscall(libc::SYS_seccomp, set, all_threads, &raw const program)
    };
    assert_eq!(refused, 0, "seccomp: {}", std::io::Error::last_os_error());
    assert_eq!(membarrier_error(), Some(libc::EPERM));
}

/// Why `membarrier(MEMBARRIER_CMD_QUERY)` fails, if it does.
fn membarrier_error() -> Option<i32> {
    // SAFETY: takes no pointer, and changes nothing.
    match unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) } {
        -1 => std::io::Error::last_os_error().raw_os_error(),
        _ => None,
    }
}

fn run_conservation() {
    let operations = operations(600_000) / 3;
    let plan = Plan { seed: 11, operations, threads: 4, period: None, max_idle: None, panics: true };
    run::<0>(plan);
    run::<300>(Plan { seed: 12, period: Some(Duration::from_millis(2)), ..plan });
    run::<0>(Plan { seed: 13, threads: 16, period: Some(Duration::from_millis(1)), ..plan });
}

/// 20 objects in the shard of a thread that lives and waits, while `look` looks. It says how many of them are left for the
/// owner.
fn with_a_parked_owner(pool: &SyncPool<Box<u64>>, look: impl FnOnce() -> usize) {
    let (full, looked) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let owner = scope.spawn(|| {
            (0..20).for_each(|n| pool.put(Box::new(n)));
            full.wait();
            looked.wait();
            let mut left: Vec<u64> = std::iter::from_fn(|| pool.try_take()).map(|n| *n).collect();
            left.sort_unstable();
            left.dedup();
            left.len()
        });
        full.wait();
        let expected = look();
        looked.wait();
        assert_eq!(owner.join().unwrap(), expected, "{:?}", pool.stats());
    });
}

/// In the parent this does nothing; in a child it is the case.
#[test]
fn the_case_that_the_parent_asked_for() {
    let Ok(case) = std::env::var(CASE) else { return };
    // What hangs fails, and does not hold up the parent.
    if case.starts_with("refused from the start") {
        assert_eq!(membarrier_error(), Some(libc::EPERM));
    }
    thread::spawn(|| {
        thread::sleep(DEADLINE);
        eprintln!("no end after {DEADLINE:?}");
        std::process::exit(3);
    });
    match case.as_str() {
        "refused from the start" => run_conservation(),
        "refused from the start, parked owner" => {
            let pool: SyncPool<Box<u64>> = SyncPool::new(|| Box::new(0));
            with_a_parked_owner(&pool, || {
                assert!(pool.try_take().is_some(), "stolen from a thread that waits");
                assert_eq!(pool.stats().stolen, 1);
                pool.age();
                pool.age();
                assert_eq!(pool.stats().idle, 0, "{:?}", pool.stats());
                0
            });
        }
        "refused from the start, race" => race::run(Duration::from_millis(700)),
        "refused later" => {
            run::<0>(Plan {
                seed: 10,
                operations: 50_000,
                threads: 4,
                period: None,
                max_idle: None,
                panics: true,
            });
            refuse_membarrier();
            run_conservation();
        }
        "refused in the middle" => thread::scope(|scope| {
            let work = scope.spawn(run_conservation);
            thread::sleep(Duration::from_millis(100));
            refuse_membarrier();
            work.join().unwrap();
        }),
        "refused later, parked owner" => {
            let pool: SyncPool<Box<u64>> = SyncPool::new(|| Box::new(0));
            with_a_parked_owner(&pool, || {
                if membarrier_error().is_some() {
                    // Refused already, by the machine that the test runs on.
                    return 20;
                }
                refuse_membarrier();
                assert!(pool.try_take().is_none(), "the shard is out of reach without a barrier");
                pool.age();
                assert_eq!(pool.stats().idle, 20, "{:?}", pool.stats());
                20
            });
        }
        other => panic!("no such case: {other}"),
    }
    println!("case passed");
}

fn in_a_process_of_its_own(case: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture", "--test-threads=1"])
        .env(CASE, case);
    if case.starts_with("refused from the start") {
        // The crate asks for the barrier before `main`, so the filter must be there before the program.
        // SAFETY: the closure makes system calls alone, and allocates only to say that one failed.
        unsafe {
            child.pre_exec(|| {
                refuse_membarrier();
                Ok(())
            });
        }
    }
    let output = child.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains("case passed"),
        "{case}: {}\n{out}\n{err}",
        output.status
    );
}

#[test]
fn with_the_barrier_refused_from_the_start_objects_are_each_in_one_place_and_dropped_once() {
    in_a_process_of_its_own("refused from the start");
}

#[test]
fn with_the_barrier_refused_from_the_start_a_shard_has_one_visitor_at_a_time() {
    in_a_process_of_its_own("refused from the start, race");
}

#[test]
fn with_the_barrier_refused_from_the_start_the_shards_of_waiting_threads_are_in_reach() {
    in_a_process_of_its_own("refused from the start, parked owner");
}

#[test]
fn with_the_barrier_refused_after_the_first_use_objects_are_each_in_one_place_and_dropped_once() {
    in_a_process_of_its_own("refused later");
}

#[test]
fn with_the_barrier_refused_amid_work_objects_are_each_in_one_place_and_dropped_once() {
    in_a_process_of_its_own("refused in the middle");
}

#[test]
fn with_the_barrier_refused_after_the_first_use_a_shard_is_given_up_and_its_owner_keeps_all() {
    in_a_process_of_its_own("refused later, parked owner");
}
