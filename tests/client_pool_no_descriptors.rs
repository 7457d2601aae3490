//! A process that has no descriptors left for another socket: callers share the connections that there are.

#![cfg(target_os = "linux")]

mod support;

use std::env;
use std::process::Command;
use std::time::Duration;

use cenote::grpc::{ClientPool, ConnectivityState, DialPhase, Error};
use cenote_proto::greeter_client::GreeterClient;
use support::{TonicServer, cause, hello, slow_hello};

const TARGET: &str = "CENOTE_TEST_TARGET";

/// So many files may be open in the child.
const FILES: u64 = 64;

/// In the child: runs `test` against the parent's server, with few descriptors. In the parent: starts the child.
fn with_few_descriptors(name: &str, test: impl AsyncFnOnce(String)) {
    if let Ok(target) = env::var(TARGET) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let limit = libc::rlimit { rlim_cur: FILES, rlim_max: FILES };
        // SAFETY: the pointer is to a limit that lives until the call returns.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        return runtime.block_on(test(target));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server =
        runtime.block_on(async { TonicServer::start_with(|server| server.max_concurrent_streams(2)) });
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(TARGET, server.target())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Takes all descriptors but `left`.
fn exhaust(left: usize) -> Vec<std::fs::File> {
    let mut files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    files.truncate(files.len() - left);
    files
}

#[test]
fn two_hundred_callers_share_what_there_is_and_no_call_fails() {
    with_few_descriptors("two_hundred_callers_share_what_there_is_and_no_call_fails", async |target| {
        let pool = ClientPool::new(target).unwrap();
        for _ in 0..2 {
            let callers: Vec<_> = (0..200)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        for _ in 0..5 {
                            let request = slow_hello("ada", Duration::from_millis(2));
                            GreeterClient::new(pool.get()).say_hello(request).await.unwrap();
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
        }
        let stats = pool.stats();
        assert!(stats.failed_dials > 0 && stats.peak_open < FILES as usize, "{stats:?}");
        assert_eq!(stats.lent, 0, "{stats:?}");
    });
}

#[test]
fn a_shortage_is_no_outage_and_over_when_there_are_descriptors_again() {
    with_few_descriptors(
        "a_shortage_is_no_outage_and_over_when_there_are_descriptors_again",
        async |target| {
            let pool = ClientPool::new(target.clone()).unwrap();
            let ready = pool.get();
            GreeterClient::new((*ready).clone()).say_hello(hello("ada")).await.unwrap();
            let files = exhaust(0);
            // Where there is nothing to share, a call says what is missing, and one that is patient waits for it.
            let other = ClientPool::new(target.clone()).unwrap();
            let status = GreeterClient::new(other.get()).say_hello(hello("ada")).await.unwrap_err();
            let Error::Dial { phase: DialPhase::Connect, source, .. } = cause(&status) else {
                panic!("{status:?}")
            };
            assert!(source.to_string().contains("Too many open files"), "{source}");
            let patient = ClientPool::builder(target).wait_for_ready(true).build().unwrap();
            let waiting = tokio::spawn({
                let conn = patient.get_owned();
                async move { GreeterClient::new(conn).say_hello(hello("ada")).await.map(drop) }
            });
            tokio::time::sleep(Duration::from_millis(450)).await;
            let dials = patient.stats().dials;
            assert!((2..8).contains(&dials), "{dials} attempts in 450 ms");
            // The others are not disturbed by it.
            let held: Vec<_> = (0..10).map(|_| pool.get_owned()).collect();
            for conn in held {
                GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
            }
            assert_eq!(ready.state(), ConnectivityState::Ready);
            drop(files);
            waiting.await.unwrap().unwrap();
            GreeterClient::new(other.get()).say_hello(hello("ada")).await.unwrap();
        },
    );
}
