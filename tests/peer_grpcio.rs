//! `ClientConn` and `ClientPool` against a server of another make: grpc C-core, by way of Python's `grpcio`.
//!
//! The tests make a virtual environment of their own and install `grpcio` into it. Where that cannot be done they say so
//! and pass, unless `CENOTE_REQUIRE_PEERS` is set.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cenote::grpc::{ClientConn, ClientPool, ConnectivityState};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::{hello, slow_hello};
use tonic::Code;

const GRPCIO: &str = "grpcio==1.80.0";

/// The Python of the virtual environment, which is made once for all tests and kept for later runs.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(make_environment) {
        Ok(python) => Some(python),
        Err(why) if std::env::var_os("CENOTE_REQUIRE_PEERS").is_some() => panic!("a peer is missing: {why}"),
        Err(why) => {
            // Past the test harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "skipped, there is no {GRPCIO} here: {why}");
            None
        }
    }
}

fn make_environment() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(GRPCIO.replace("==", "-"));
    let python = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let works = |python: &Path| run(Command::new(python).args(["-c", "import grpc"]));
    if works(&python).is_ok() {
        return Ok(python);
    }
    let system = if cfg!(windows) { "python" } else { "python3" };
    run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&dir))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg(GRPCIO))?;
    works(&python)?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}: {text}", output.status))
}

struct Grpcio {
    child: Child,
    stdin: Option<ChildStdin>,
    port: u16,
}

impl Grpcio {
    /// `None` where there is no grpcio, after having said so.
    fn start(port: u16, options: &[&str]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/greeter.py");
        let mut child = Command::new(python()?)
            .arg(script)
            .arg(port.to_string())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the server said {line:?}"));
        Some(Grpcio { child, stdin, port })
    }

    fn target(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn stop_gracefully(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"stop\n").unwrap();
    }

    fn kill(mut self) -> u16 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.port
    }
}

impl Drop for Grpcio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until_state(conn: &ClientConn, wanted: ConnectivityState) {
    let start = Instant::now();
    while conn.state() != wanted {
        assert!(start.elapsed() < Duration::from_secs(20), "{} instead of {wanted}", conn.state());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn calls_and_streams_work_and_a_status_is_passed_on() {
    let Some(server) = Grpcio::start(0, &[]) else { return };
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
    let Some(mut server) = Grpcio::start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    client.say_hello(hello("ada")).await.unwrap();
    let call =
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(500))).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop_gracefully();
    until_state(&conn, ConnectivityState::Idle).await;
    assert!(!call.is_finished());
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_call_fails_while_connections_grow_old_and_are_told_to_go_away() {
    let options = ["grpc.max_connection_age_ms=50", "grpc.max_connection_age_grace_ms=5000"];
    let Some(server) = Grpcio::start(0, &options) else { return };
    let pool = ClientPool::builder(server.target()).max_connections(2).build().unwrap();
    let start = Instant::now();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while start.elapsed() < Duration::from_secs(1) {
                    GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let stats = pool.stats();
    assert!(stats.dials > 4, "{stats:?}");
    assert_eq!(stats.discarded.total(), 0, "{stats:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_is_found_again_when_it_is_back() {
    let Some(server) = Grpcio::start(0, &[]) else { return };
    let pool = ClientPool::new(server.target()).unwrap();
    let call = || async { GreeterClient::new(pool.get()).say_hello(hello("ada")).await };
    call().await.unwrap();
    let conn = (*pool.get()).clone();
    assert_eq!(conn.state(), ConnectivityState::Ready);
    let port = server.kill();
    until_state(&conn, ConnectivityState::Idle).await;
    assert_eq!(call().await.unwrap_err().code(), Code::Unavailable);
    let Some(_server) = Grpcio::start(port, &[]) else { return };
    let back = Instant::now();
    call().await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    let stats = pool.stats();
    assert_eq!(stats.made, stats.discarded.total() + stats.released + stats.alive, "{stats:?}");
}
