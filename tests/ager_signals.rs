//! The ager's thread takes no signal from the program.
#![cfg(target_os = "linux")]

use std::mem::MaybeUninit;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};
use std::{fs, thread};

use cenote::{Ager, AgerConfig, SyncPool};

const CASE: &str = "CENOTE_TEST_CASE";

/// Waits until the ager's thread sleeps in its loop: pthread_create starts a thread with all
/// signals blocked, and sets the mask that it inherits a moment later.
fn wait_for_the_agers_thread() {
    let sleeps = || {
        fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.contains("Name:\tcenote-ager\n") && status.contains("State:\tS")
        })
    };
    let began = Instant::now();
    while !sleeps() {
        assert!(began.elapsed() < Duration::from_secs(5), "the ager's thread does not sleep");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Does nothing in the test run. The process that the next test starts runs it, and may be killed.
#[test]
fn the_case_that_the_parent_asked_for() {
    if std::env::var_os(CASE).is_none() {
        return;
    }
    static POOL: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    // A process with one thread and the ager's: the test harness has others, which take signals.
    // SAFETY: the child starts one thread, which glibc and musl allow, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: the calls take pointers to local variables; an alarm ends a child that hangs.
        unsafe {
            libc::alarm(10);
            let ager = Ager::spawn(AgerConfig::default()).watch(&POOL);
            wait_for_the_agers_thread();
            let mut set = MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), null_mut());
            libc::kill(libc::getpid(), libc::SIGTERM);
            let limit = libc::timespec { tv_sec: 5, tv_nsec: 0 };
            let got = libc::sigtimedwait(set.as_ptr(), null_mut(), &limit);
            // The mask of this thread is the program's own matter: the ager has not changed it.
            let mut mask = MaybeUninit::uninit();
            libc::pthread_sigmask(libc::SIG_BLOCK, null(), mask.as_mut_ptr());
            let others_open = libc::sigismember(mask.as_ptr(), libc::SIGUSR1) == 0;
            drop(ager);
            libc::_exit(if got == libc::SIGTERM && others_open { 0 } else { 1 });
        }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local variable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(!libc::WIFSIGNALED(status), "killed by signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0);
    println!("case passed");
}

#[test]
fn a_signal_that_the_main_thread_waits_for_is_not_delivered_to_the_agers_thread() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture", "--test-threads=1"])
        .env(CASE, "signal")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("case passed"), "{}\n{out}\n{err}", output.status);
}
