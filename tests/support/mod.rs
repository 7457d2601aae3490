//! Servers for the tests: each on a loopback port of its own, each gone with its handle.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its share")]

pub mod authority;
pub mod blackhole;
pub mod frames;
pub mod health;
pub mod kinds;
pub mod memory;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

/// What a server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub accepted: AtomicUsize,
    pub open: AtomicUsize,
    pub peak_open: AtomicUsize,
    pub calls: AtomicUsize,
    /// Handlers that were dropped before they answered: the client reset the stream.
    pub cancelled: AtomicUsize,
    /// Clients that have no more to say in a chat, or whose stream was reset.
    pub chats_over: AtomicUsize,
    /// Greetings at once.
    pub running: AtomicUsize,
    pub peak_running: AtomicUsize,
    /// The same, for each connection.
    running_on: Mutex<HashMap<usize, usize>>,
    peak_on_one: AtomicUsize,
}

impl Seen {
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
    pub fn peak_open(&self) -> usize {
        self.peak_open.load(Ordering::SeqCst)
    }
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
    pub fn peak_running(&self) -> usize {
        self.peak_running.load(Ordering::SeqCst)
    }
    /// The most greetings that ran at once on one connection.
    pub fn peak_on_one(&self) -> usize {
        self.peak_on_one.load(Ordering::SeqCst)
    }
    pub fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
pub struct Greeting {
    seen: Arc<Seen>,
    name: &'static str,
}

/// The service alone, to be served by other means than a [`TonicServer`].
pub fn greeter(name: &'static str) -> GreeterServer<Greeting> {
    GreeterServer::new(Greeting { seen: Arc::default(), name })
}

/// One greeting under way, on one connection.
struct Running(Arc<Seen>, usize);

impl Running {
    fn begin<T>(seen: &Arc<Seen>, request: &Request<T>) -> Self {
        let connection = request.extensions().get::<ConnectionNumber>().map_or(0, |number| number.0);
        let now = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
        seen.peak_running.fetch_max(now, Ordering::SeqCst);
        let mut running_on = seen.running_on.lock().unwrap();
        let on_this = running_on.entry(connection).or_default();
        *on_this += 1;
        seen.peak_on_one.fetch_max(*on_this, Ordering::SeqCst);
        Running(Arc::clone(seen), connection)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        *self.0.running_on.lock().unwrap().entry(self.1).or_default() -= 1;
    }
}

#[derive(Clone, Copy)]
struct ConnectionNumber(usize);

struct Unanswered(Option<Arc<Seen>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(seen) = &self.0 {
            seen.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        let _running = Running::begin(&self.seen, &request);
        let mut unanswered = Unanswered(Some(Arc::clone(&self.seen)));
        let HelloRequest { name, delay_ms } = request.into_inner();
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
        }
        unanswered.0 = None;
        if name == "nobody" {
            return Err(Status::not_found("nobody is not here"));
        }
        Ok(Response::new(HelloReply { message: format!("{}: hello, {name}", self.name) }))
    }

    type StreamHelloStream = std::pin::Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn stream_hello(
        &self,
        request: Request<StreamHelloRequest>,
    ) -> Result<Response<Self::StreamHelloStream>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        let StreamHelloRequest { name, count, pause_ms } = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let seen = Arc::clone(&self.seen);
        tokio::spawn(async move {
            let mut unanswered = Unanswered(Some(seen));
            for i in 0..count {
                if send.send(Ok(HelloReply { message: format!("{i}: hello, {name}") })).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(pause_ms.into())) => {}
                    () = send.closed() => return,
                }
            }
            unanswered.0 = None;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type ChatStream = Self::StreamHelloStream;

    async fn chat(
        &self,
        request: Request<tonic::Streaming<HelloRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        let mut names = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let seen = Arc::clone(&self.seen);
        tokio::spawn(async move {
            // tonic tells a server of the client's reset as it does of the client's last word.
            while let Ok(Some(HelloRequest { name, .. })) = names.message().await {
                if send.send(Ok(HelloReply { message: format!("hello, {name}") })).await.is_err() {
                    break;
                }
            }
            seen.chats_over.fetch_add(1, Ordering::SeqCst);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// A tonic server on a runtime of its own, so that it can die as a process does: at once, with its sockets.
pub struct TonicServer {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    runtime: Option<tokio::runtime::Runtime>,
    graceful: Option<oneshot::Sender<()>>,
}

/// A socket that counts itself among the open ones.
struct Counted(TcpStream, Arc<Seen>, usize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Counted {
    type ConnectInfo = ConnectionNumber;
    fn connect_info(&self) -> ConnectionNumber {
        ConnectionNumber(self.2)
    }
}

impl TonicServer {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), "tonic", |server| server)
    }

    pub fn start_with(configure: impl FnOnce(Server) -> Server) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), "tonic", configure)
    }

    /// Again on the address of one that was killed.
    pub fn start_again(addr: SocketAddr) -> Self {
        Self::start_at(addr, "again", |server| server)
    }

    /// With other services beside the greeter.
    pub fn start_beside(others: impl FnOnce(Router) -> Router) -> Self {
        Self::start_all("127.0.0.1:0".parse().unwrap(), "tonic", |server| server, others)
    }

    pub fn start_at(addr: SocketAddr, name: &'static str, configure: impl FnOnce(Server) -> Server) -> Self {
        Self::start_all(addr, name, configure, |router| router)
    }

    fn start_all(
        addr: SocketAddr,
        name: &'static str,
        configure: impl FnOnce(Server) -> Server,
        others: impl FnOnce(Router) -> Router,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("server")
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::new(Seen::default());
        let listener = {
            let _inside = runtime.enter();
            bind(addr)
        };
        let addr = listener.local_addr().unwrap();
        let counting = Arc::clone(&seen);
        let incoming = TcpListenerStream::new(listener).map(move |socket| {
            let socket = socket?;
            socket.set_nodelay(true)?;
            let number = counting.accepted.fetch_add(1, Ordering::SeqCst);
            let open = counting.open.fetch_add(1, Ordering::SeqCst) + 1;
            counting.peak_open.fetch_max(open, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Counted(socket, Arc::clone(&counting), number))
        });
        let (graceful, stop) = oneshot::channel::<()>();
        let greeter = GreeterServer::new(Greeting { seen: Arc::clone(&seen), name });
        let router = others(configure(Server::builder()).add_service(greeter));
        let serving = router.serve_with_incoming_shutdown(incoming, async move {
            if stop.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        runtime.spawn(serving);
        TonicServer { addr, seen, runtime: Some(runtime), graceful: Some(graceful) }
    }

    pub fn target(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// As kill -9 does: the sockets close in the middle of whatever is on them.
    pub fn kill(mut self) -> SocketAddr {
        self.stop_runtime();
        self.addr
    }

    /// GOAWAY to all connections, and no new ones; open streams may end.
    pub fn shut_down_gracefully(&mut self) {
        self.graceful.take().unwrap().send(()).unwrap();
    }

    fn stop_runtime(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In a thread: a runtime may not be dropped inside another.
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join().unwrap();
        }
    }
}

impl Drop for TonicServer {
    fn drop(&mut self) {
        self.stop_runtime();
    }
}

/// Binds, with patience for a port whose last owner has just died.
fn bind(addr: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket.listen(1024).unwrap()
}

/// What a [`RawServer`] does with each socket.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Accepts and says nothing.
    Mute,
    /// Accepts and closes.
    Fin,
    /// Answers as an HTTP/1 server would.
    Http1,
    /// SETTINGS, and closes.
    SettingsThenFin,
    /// SETTINGS and GOAWAY in one breath, and stays.
    SettingsAndGoaway,
}

/// A server that does what no decent one does, on the runtime of the test.
pub struct RawServer {
    pub addr: SocketAddr,
    pub accepted: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl RawServer {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (count, accepted) = watch::channel(0);
        let task = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
            const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut kept = Vec::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                // What the client sent is read before a close, so that the close is a FIN and not a reset.
                let mut read = [0u8; 4096];
                match manner {
                    Manner::Mute => kept.push(socket),
                    Manner::Fin => {
                        let _ = socket.read(&mut read).await;
                    }
                    Manner::Http1 => {
                        let _ = socket.read(&mut read).await;
                        let _ =
                            socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                        kept.push(socket);
                    }
                    Manner::SettingsThenFin => {
                        let _ = socket.read(&mut read).await;
                        let _ = socket.write_all(SETTINGS).await;
                    }
                    Manner::SettingsAndGoaway => {
                        let _ = socket.write_all(&[SETTINGS, GOAWAY].concat()).await;
                        kept.push(socket);
                    }
                }
            }
        });
        RawServer { addr, accepted, task }
    }

    pub fn target(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port on which nobody listens.
pub fn refused_target() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

pub fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.to_owned(), delay_ms: 0 }
}

pub fn slow_hello(name: &str, delay: Duration) -> HelloRequest {
    HelloRequest { name: name.to_owned(), delay_ms: delay.as_millis() as u32 }
}

/// The cause of a failed call, as this crate tells it.
pub fn cause(status: &Status) -> &cenote::grpc::Error {
    std::error::Error::source(status)
        .and_then(|source| source.downcast_ref())
        .unwrap_or_else(|| panic!("no cause of ours in {status:?}"))
}

/// Whether the call ended because its socket did. A tonic server that takes leave closes while the client's last frames are
/// still on their way; the system answers those with a reset, and what the client has not read yet is lost.
pub fn socket_broke(status: &Status) -> bool {
    let first = Some(status as &(dyn std::error::Error + 'static));
    std::iter::successors(first, |error| error.source()).any(|error| {
        error.is::<std::io::Error>() || error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_io)
    })
}

/// Waits, on the real clock, for something another thread does. Panics after ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// As [`eventually`], in a task.
pub async fn eventually_async(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
