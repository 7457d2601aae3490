//! A tonic server in a process of its own, so that the client's CPU time can be told from the server's, and so that it can
//! be killed.
//!
//! It is the same program, [started](Server::start) with other [arguments](serve_if_asked). It answers a line on its standard input
//! with one on its standard output, and ends with its input, so that none is left over.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::cpu_time;

// ── in the process of its own ──

#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    peak: AtomicUsize,
}

struct Answering;

#[tonic::async_trait]
impl Greeter for Answering {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let HelloRequest { name, delay_ms } = request.into_inner();
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
        }
        Ok(Response::new(HelloReply { message: name }))
    }

    type StreamHelloStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn stream_hello(
        &self,
        _: Request<StreamHelloRequest>,
    ) -> Result<Response<Self::StreamHelloStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type ChatStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn chat(&self, _: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

/// A socket that counts itself among the open ones.
struct Counted(TcpStream, Arc<Seen>);

impl Counted {
    fn new(socket: TcpStream, seen: &Arc<Seen>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.peak.fetch_max(open, Ordering::SeqCst);
        Ok(Counted(socket, Arc::clone(seen)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connected for Counted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The first argument of a program that is to be the server. Workers follow, and the limit of streams, if there is one.
const SERVE: &str = "serve";

/// For the beginning of `main`: whether this process is the server, and what has become of it.
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    arguments.next().filter(|first| first == SERVE)?;
    let mut number = || arguments.next().and_then(|number| number.parse().ok());
    let workers = number().unwrap_or(1);
    Some(match serve(workers as usize, number()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the server: {error}");
            ExitCode::FAILURE
        }
    })
}

/// On a port that it prints, with `limit` streams a connection.
fn serve(workers: usize, limit: Option<u32>) -> io::Result<()> {
    let runtime = match workers {
        1 => runtime::Builder::new_current_thread().enable_all().build()?,
        _ => runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?,
    };
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?);
    let seen = Arc::new(Seen::default());
    let counting = Arc::clone(&seen);
    std::thread::spawn(move || {
        for question in io::stdin().lock().lines().map_while(Result::ok) {
            let open = seen.open.load(Ordering::SeqCst);
            match question.as_str() {
                "open" => println!("{open}"),
                // The most since this was asked last.
                "peak" => println!("{}", seen.peak.swap(open, Ordering::SeqCst)),
                "cpu" => println!("{}", cpu_time().as_micros()),
                _ => println!("?"),
            }
        }
        std::process::exit(0);
    });
    let sockets = TcpListenerStream::new(listener);
    let incoming = sockets.map(move |socket| Counted::new(socket?, &counting));
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(limit)
        .add_service(GreeterServer::new(Answering))
        .serve_with_incoming(incoming);
    runtime.block_on(server).map_err(io::Error::other)
}

// ── as seen from here ──

/// Ends with its handle.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Server {
    /// With so many worker threads; with `None`, one that says nothing of a limit of streams.
    pub fn start(workers: usize, limit: Option<u32>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("the way to this program"));
        command.arg(SERVE).arg(workers.to_string()).args(limit.map(|limit| limit.to_string()));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server of our own");
        let ask = child.stdin.take().expect("it is piped");
        let mut hear = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut addr = String::new();
        hear.read_line(&mut addr).expect("its address");
        let addr = addr.trim().parse().expect("its address");
        Server { addr, child, talk: Mutex::new((ask, hear)) }
    }

    /// For a client.
    pub fn target(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn ask(&self, question: &str) -> usize {
        let (ask, hear) = &mut *self.talk.lock().expect("nobody panics while asking");
        writeln!(ask, "{question}").expect("the server listens");
        let mut answer = String::new();
        hear.read_line(&mut answer).expect("the server answers");
        answer.trim().parse().expect("a number")
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.ask("open")
    }

    /// The most connections since the last call of this.
    pub fn peak(&self) -> usize {
        self.ask("peak")
    }

    /// The CPU time of its process.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_micros(self.ask("cpu") as u64)
    }

    /// Waits until nobody is connected any more, and forgets them.
    pub fn rest(&self) {
        let start = Instant::now();
        while self.open() > 0 && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.peak();
    }

    /// As a crash does it: without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our own child");
        self.child.wait().expect("it is our own child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
