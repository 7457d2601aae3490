//! Connections in memory. With tokio's clock paused a test waits for nothing but timers, and these are at once where they
//! should be: hours cost nothing, and what is measured is exact.

use std::future::{Ready, ready};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use cenote::grpc::{ClientConn, ClientConnBuilder, ConnectivityState, DialPhase, Error};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Code, Response, Status};

use super::frames::{FOREVER, Wire};

/// The server's ends of what a connection dials.
pub struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

/// Makes pipes, as long as the server is there.
#[derive(Clone)]
pub struct PipeConnector {
    server: mpsc::UnboundedSender<DuplexStream>,
    capacity: usize,
}

/// A server, and the way to it. When it is dropped, dials are refused.
pub fn in_memory() -> (ClientConnBuilder, Pipes) {
    in_memory_with_capacity(64 << 10)
}

/// With so many bytes that are written before the other side reads.
pub fn in_memory_with_capacity(capacity: usize) -> (ClientConnBuilder, Pipes) {
    let (connector, server) = pipes(capacity);
    (ClientConn::builder("in.memory:1").connector(connector), server)
}

/// The same for what is no single connection.
pub fn pipes(capacity: usize) -> (PipeConnector, Pipes) {
    let (server, dialled) = mpsc::unbounded_channel();
    (PipeConnector { server, capacity }, Pipes(dialled))
}

impl Pipes {
    /// The next dial, and nothing said on it.
    pub async fn dialled(&mut self) -> DuplexStream {
        timeout(FOREVER, self.0.recv()).await.ok().flatten().expect("a dial")
    }

    /// The next dial, with these settings told and the client's preface read.
    pub async fn accept(&mut self, settings: &[(u16, u32)]) -> Wire<DuplexStream> {
        Wire::over(self.dialled().await, settings).await
    }

    /// The next dial, hung up on: when that was.
    pub async fn hang_up(&mut self) -> Instant {
        drop(self.dialled().await);
        Instant::now()
    }

    /// Whether nothing has been dialled that was not taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl tower::Service<http::Uri> for PipeConnector {
    type Response = DuplexStream;
    type Error = io::Error;
    type Future = Ready<io::Result<DuplexStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(self.capacity);
        let refused = |_| io::ErrorKind::ConnectionRefused.into();
        ready(self.server.send(theirs).map(|()| ours).map_err(refused))
    }
}

/// By another name than `in.memory`.
pub fn in_memory_for(target: &str) -> (ClientConnBuilder, Pipes) {
    let (server, dialled) = mpsc::unbounded_channel();
    let connector = PipeConnector { server, capacity: 64 << 10 };
    (ClientConn::builder(target).connector(connector), Pipes(dialled))
}

/// With a dial that takes so long.
pub fn in_memory_after(delay: Duration) -> (ClientConnBuilder, Pipes) {
    let (server, dialled) = mpsc::unbounded_channel();
    let pipes = PipeConnector { server, capacity: 64 << 10 };
    let connector = tower::service_fn(move |uri| {
        let mut pipes = pipes.clone();
        async move {
            tokio::time::sleep(delay).await;
            tower::Service::call(&mut pipes, uri).await
        }
    });
    (ClientConn::builder("in.memory:1").connector(connector), Pipes(dialled))
}

/// Waits until the client has closed its end.
pub async fn hung_up(end: &mut DuplexStream) {
    timeout(FOREVER, tokio::io::copy(end, &mut tokio::io::sink())).await.expect("a close").unwrap();
}

/// A call under way.
pub type Call = JoinHandle<Result<Response<HelloReply>, Status>>;

pub fn call(conn: &ClientConn, request: impl tonic::IntoRequest<HelloRequest>) -> Call {
    let mut client = GreeterClient::new(conn.clone());
    let request = request.into_request();
    tokio::spawn(async move { client.say_hello(request).await })
}

pub async fn outcome(call: Call) -> Result<String, Status> {
    let result = timeout(FOREVER, call).await.expect("an outcome").unwrap();
    result.map(|reply| reply.into_inner().message)
}

pub async fn reply(call: Call) -> String {
    outcome(call).await.unwrap()
}

pub async fn failure(call: Call) -> Status {
    outcome(call).await.unwrap_err()
}

/// A call that is made now and answered at once.
pub async fn served(conn: &ClientConn, wire: &mut Wire<DuplexStream>) {
    let call = call(conn, super::hello("ada"));
    let (stream, _) = wire.request().await;
    wire.answer(stream, "served").await;
    assert_eq!(reply(call).await, "served");
}

/// How far the dial was that failed, and with what.
#[track_caller]
pub fn dial_failure(status: &Status) -> (DialPhase, Option<io::ErrorKind>) {
    assert_eq!(status.code(), Code::Unavailable);
    match super::cause(status) {
        Error::Dial { phase, source, .. } => {
            (*phase, source.downcast_ref::<io::Error>().map(io::Error::kind))
        }
        other => panic!("{other:?}"),
    }
}

/// Lets everything happen that needs no time.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The states that a connection goes through, and when each began, by the clock of the test.
pub struct States {
    seen: Arc<Mutex<Vec<(Duration, ConnectivityState)>>>,
    task: JoinHandle<()>,
}

impl States {
    /// From now on. It is a handle of the connection, as long as it lives.
    pub fn of(conn: &ClientConn) -> Self {
        let mut state = conn.state();
        let seen = Arc::new(Mutex::new(vec![(Duration::ZERO, state)]));
        let (conn, recorded, start) = (conn.clone(), Arc::clone(&seen), Instant::now());
        let task = tokio::spawn(async move {
            loop {
                state = conn.wait_for_state_change(state).await;
                recorded.lock().unwrap().push((start.elapsed(), state));
            }
        });
        States { seen, task }
    }

    pub fn seen(&self) -> Vec<ConnectivityState> {
        self.seen.lock().unwrap().iter().map(|(_, state)| *state).collect()
    }

    /// When the last change was.
    pub fn last_change(&self) -> Duration {
        self.seen.lock().unwrap().last().unwrap().0
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Equal, but for the grain of tokio's timers.
#[track_caller]
pub fn assert_about(measured: Duration, expected: Duration) {
    assert!(measured.abs_diff(expected) <= Duration::from_millis(5), "{measured:?}, not {expected:?}");
}
