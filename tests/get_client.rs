//! The process-wide pool. Each case needs a process of its own: the test runs itself again, with the case's name in a
//! variable.

mod support;

use std::process::{Command, Output};
use std::sync::Barrier;
use std::thread;

use cenote::grpc::{ClientPool, Error, get_client, init_client};
use cenote_proto::greeter_client::GreeterClient;
use support::*;

const CASE: &str = "CENOTE_TEST_CASE";
const TARGET: &str = "CENOTE_TARGET";

/// Runs `case` in a child process with `target` in the environment.
fn in_a_process_of_its_own(case: &str, target: Option<&str>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture"])
        .env(CASE, case)
        .env_remove(TARGET);
    if let Some(target) = target {
        child.env(TARGET, target);
    }
    let Output { status, stdout, stderr } = child.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && out.contains("case passed"), "{case}: {status}\n{out}\n{err}");
}

/// In the parent this does nothing; in a child it is the case.
#[test]
fn the_case_that_the_parent_asked_for() {
    let Ok(case) = std::env::var(CASE) else { return };
    match case.as_str() {
        "race" => {
            let barrier = Barrier::new(64);
            let address = |pool: &'static ClientPool| std::ptr::from_ref(pool).addr();
            let pools: Vec<usize> = thread::scope(|scope| {
                let threads: Vec<_> = (0..64)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            let pool = get_client();
                            pool.put(pool.take());
                            address(pool)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(pools.iter().all(|pool| *pool == pools[0]));
            let stats = get_client().stats();
            assert_eq!(
                stats.made + stats.reused + stats.shared,
                64,
                "all 64 went through this pool: {stats:?}"
            );
            assert_eq!(stats.made, stats.alive);
        }
        "default" => {
            let text = format!("{:?}", get_client());
            assert!(text.contains("http://127.0.0.1:5000"), "{text}");
        }
        "environment" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let reply = runtime.block_on(GreeterClient::new(get_client().get()).say_hello(hello("ada")));
            assert_eq!(reply.unwrap().into_inner().message, "tonic: hello, ada");
        }
        "bad environment" => {
            let conn = get_client().get();
            assert!(conn.state().is_usable());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let status = runtime.block_on(GreeterClient::new(conn).say_hello(hello("ada"))).unwrap_err();
            assert_eq!(status.code(), tonic::Code::FailedPrecondition);
            assert!(matches!(cause(&status), Error::InvalidTarget { target, .. } if target == "ftp://x:1"));
            assert!(status.message().contains("ftp"), "{}", status.message());
        }
        "init first" => {
            let pool = ClientPool::new("http://127.0.0.1:7").unwrap();
            drop(pool.get());
            init_client(pool).unwrap();
            assert_eq!(get_client().stats().made, 1);
            let late = ClientPool::new("http://127.0.0.1:8").unwrap();
            let refused = init_client(late).unwrap_err();
            assert!(refused.to_string().contains("exists already"));
            assert!(format!("{:?}", refused.into_pool()).contains("127.0.0.1:8"));
            assert!(format!("{:?}", get_client()).contains("127.0.0.1:7"));
        }
        "init late" => {
            get_client();
            assert!(init_client(ClientPool::new("http://127.0.0.1:7").unwrap()).is_err());
        }
        other => panic!("no such case: {other}"),
    }
    println!("case passed");
}

#[test]
fn sixty_four_threads_that_race_for_the_first_call_build_one_pool() {
    in_a_process_of_its_own("race", None);
}

#[test]
fn without_a_word_the_target_is_port_5000_on_this_machine() {
    in_a_process_of_its_own("default", None);
}

#[test]
fn the_environment_names_the_target() {
    let server = TonicServer::start();
    in_a_process_of_its_own("environment", Some(&server.target()));
}

#[test]
fn a_bad_environment_fails_the_calls_and_panics_nowhere() {
    in_a_process_of_its_own("bad environment", Some("ftp://x:1"));
}

#[test]
fn init_client_before_the_first_call_sets_the_pool_once() {
    in_a_process_of_its_own("init first", Some("http://127.0.0.1:9"));
}

#[test]
fn init_client_after_the_first_call_gives_the_pool_back() {
    in_a_process_of_its_own("init late", None);
}
