//! `ClientConn` and `ClientPool` against a server of another make: grpc C-core, by way of Python's `grpcio`.
//!
//! The tests make a virtual environment of their own and install `grpcio` into it. Where that cannot be done they say so
//! and pass, unless `CENOTE_REQUIRE_PEERS` is set.

mod peers;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cenote::grpc::{ClientConn, ClientPool, ConnectivityState};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use peers::{Peer, no_call_fails_while, run, until_state};
use support::{hello, slow_hello};
use tokio::time::sleep;
use tonic::Code;

const GRPCIO: &str = "grpcio==1.80.0";

/// The Python of the virtual environment, which is made once for all tests and kept for later runs.
fn make_environment() -> Result<PathBuf, String> {
    let dir = peers::workshop().join(GRPCIO.replace("==", "-"));
    let python = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let works = || run(Command::new(&python).args(["-c", "import grpc"]));
    if works().is_err() {
        let system = if cfg!(windows) { "python" } else { "python3" };
        run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&dir))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg(GRPCIO))?;
        works()?;
    }
    Ok(python)
}

/// `None` where there is no grpcio, after having said so.
fn start(port: u16, options: &[&str]) -> Option<Peer> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = peers::found(GRPCIO, PYTHON.get_or_init(make_environment).as_ref())?;
    let script = peers::source("greeter.py");
    Some(Peer::start(Command::new(python).arg(script).arg(port.to_string()).args(options)))
}

#[tokio::test]
async fn calls_and_streams_work_and_a_status_is_passed_on() {
    let Some(server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    assert_eq!(client.say_hello(hello("ada")).await.unwrap().into_inner().message, "grpcio: hello, ada");
    assert_eq!(client.say_hello(hello("nobody")).await.unwrap_err().code(), Code::NotFound);
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 100, pause_ms: 0 };
    let mut stream = client.stream_hello(request).await.unwrap().into_inner();
    for i in 0..100 {
        assert_eq!(stream.message().await.unwrap().unwrap().message, format!("{i}: hello, ada"));
    }
    assert!(stream.message().await.unwrap().is_none());
    assert_eq!(conn.state(), ConnectivityState::Ready);
    conn.close();
    assert_eq!(client.say_hello(hello("ada")).await.unwrap_err().code(), Code::Cancelled);
}

#[tokio::test]
async fn a_graceful_stop_is_idle_at_once_and_the_open_call_completes() {
    let Some(mut server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    client.say_hello(hello("ada")).await.unwrap();
    let call =
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(500))).await });
    sleep(Duration::from_millis(100)).await;
    server.say("stop");
    until_state(&conn, ConnectivityState::Idle).await;
    assert!(!call.is_finished());
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_call_fails_while_connections_grow_old_and_are_told_to_go_away() {
    let options = ["grpc.max_connection_age_ms=50", "grpc.max_connection_age_grace_ms=5000"];
    let Some(server) = start(0, &options) else { return };
    let pool = ClientPool::builder(server.target()).max_connections(2).build().unwrap();
    no_call_fails_while(&pool, sleep(Duration::from_secs(1))).await;
    let stats = pool.stats();
    assert!(stats.dials > 4, "{stats:?}");
    assert_eq!(stats.discarded.total(), 0, "{stats:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_is_found_again_when_it_is_back() {
    let Some(server) = start(0, &[]) else { return };
    let pool = ClientPool::new(server.target()).unwrap();
    let call = || async { GreeterClient::new(pool.get()).say_hello(hello("ada")).await };
    call().await.unwrap();
    let conn = (*pool.get()).clone();
    assert_eq!(conn.state(), ConnectivityState::Ready);
    let port = server.kill();
    until_state(&conn, ConnectivityState::Idle).await;
    assert_eq!(call().await.unwrap_err().code(), Code::Unavailable);
    let Some(_server) = start(port, &[]) else { return };
    let back = Instant::now();
    call().await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    let stats = pool.stats();
    assert_eq!(stats.made, stats.discarded.total() + stats.released + stats.alive, "{stats:?}");
}
