//! Peers of other makes, each a process of its own: what the tests against them share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cenote::grpc::{ClientConn, ClientPool, ConnectivityState};
use cenote_proto::greeter_client::GreeterClient;

use crate::support::hello;

/// What a peer needs, if it is there. If not, says so, for a test that is skipped; but where `CENOTE_REQUIRE_PEERS`
/// is set that is a failure.
pub fn found<'a, T>(peer: &str, outcome: Result<&'a T, &String>) -> Option<&'a T> {
    match outcome {
        Ok(found) => Some(found),
        Err(why) if std::env::var_os("CENOTE_REQUIRE_PEERS").is_some() => panic!("a peer is missing: {why}"),
        Err(why) => {
            // Past the test harness, which would keep it to itself, and in one line: tests run beside each other.
            let line = format!("skipped, there is no {peer} here: {}\n", why.trim().replace('\n', " "));
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}

/// Runs a command to its end, and fails as it does.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}: {text}", output.status))
}

/// Where peers are made, and kept for later runs.
pub fn workshop() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A file below `tests/peers`.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(path)
}

/// Builds a package of the Go module `grpc_go` with the first `go` that can: one may be too old.
pub fn go_program(package: &str, name: &str) -> Result<PathBuf, String> {
    let program = workshop().join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let places = ["go".to_owned(), "/usr/local/go/bin/go".to_owned()];
    let mut failures = Vec::new();
    for go in std::env::var("GO").into_iter().chain(places) {
        let mut build = Command::new(go);
        build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(package);
        match run(build.current_dir(source("grpc_go"))) {
            Ok(()) => return Ok(program),
            Err(why) => failures.push(why),
        }
    }
    Err(failures.join("; "))
}

/// A server's process, on a loopback port; gone with its handle, and by the end of its standard input with the test.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub port: u16,
}

impl Peer {
    /// One that prints its port when it serves.
    pub fn start(command: &mut Command) -> Self {
        let mut peer = Self::start_at(0, command);
        let line = peer.line();
        peer.port = line.parse().unwrap_or_else(|_| panic!("the server said {line:?}"));
        peer
    }

    /// One that was told its port.
    pub fn start_at(port: u16, command: &mut Command) -> Self {
        // Its own group, so that it goes with all its children.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Peer { child, stdin, stdout: BufReader::new(stdout), port }
    }

    pub fn target(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// The answer to a line.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// At once, with its sockets. The port is free then.
    pub fn kill(self) -> u16 {
        self.port
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: no memory is involved; the group is our child's, which has not been waited for.
        #[cfg(unix)]
        unsafe {
            libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn until_state(conn: &ClientConn, wanted: ConnectivityState) {
    let start = Instant::now();
    while conn.state() != wanted {
        assert!(start.elapsed() < Duration::from_secs(20), "{} instead of {wanted}", conn.state());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Four callers call without a pause until `what` is over, and all calls must succeed; how many they were.
pub async fn no_call_fails_while(pool: &ClientPool, what: impl Future<Output = ()>) -> u64 {
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (pool, over) = (pool.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.load(Ordering::Relaxed) {
                    GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    what.await;
    over.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    calls
}
