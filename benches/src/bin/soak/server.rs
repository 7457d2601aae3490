//! A greeter that can die as a process does, and come back on the same port.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::proxy;

/// Streams that run on all servers together.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn running() -> usize {
    RUNNING.load(Ordering::SeqCst)
}

struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Greeting;

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

fn greet(name: &str) -> HelloReply {
    HelloReply { message: format!("hello, {name}") }
}

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let _running = Running::begin();
        let HelloRequest { name, delay_ms } = request.into_inner();
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms.into())).await;
        }
        Ok(Response::new(greet(&name)))
    }

    type StreamHelloStream = Replies;

    async fn stream_hello(&self, request: Request<StreamHelloRequest>) -> Result<Response<Replies>, Status> {
        let running = Running::begin();
        let StreamHelloRequest { name, count, pause_ms } = request.into_inner();
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            let _running = running;
            for _ in 0..count {
                if send.send(Ok(greet(&name))).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = sleep(Duration::from_millis(pause_ms.into())) => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type ChatStream = Replies;

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Replies>, Status> {
        let running = Running::begin();
        let mut names = request.into_inner();
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            let _running = running;
            // A client's reset ends this, too.
            while let Ok(Some(HelloRequest { name, .. })) = names.message().await {
                if send.send(Ok(greet(&name))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// How a server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) max_streams: Option<u32>,
    /// With the grace after it.
    pub(crate) max_age: Option<(Duration, Duration)>,
}

struct Life {
    runtime: Runtime,
    take_leave: Option<oneshot::Sender<()>>,
}

/// A server, or the place of one.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    life: Arc<Mutex<Option<Life>>>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        // Port 0 once; later lives are on the port that this one got.
        let (life, addr) = live("127.0.0.1:0".parse().expect("an address"), Setup::default()).await;
        Backend { addr, life: Arc::new(Mutex::new(Some(life))) }
    }

    /// As kill -9 does; `down` later there is another. Those who come meanwhile wait for their turn.
    pub(crate) async fn restart(&self, down: Duration, setup: Setup) {
        let mut life = self.life.lock().await;
        if let Some(life) = life.take() {
            end(life).await;
        }
        sleep(down).await;
        *life = Some(self::live(self.addr, setup).await.0);
    }

    /// GOAWAY to all, and no new connections; open streams may end until somebody restarts it.
    pub(crate) async fn take_leave(&self) {
        if let Some(take_leave) = self.life.lock().await.as_mut().and_then(|life| life.take_leave.take()) {
            let _ = take_leave.send(());
        }
    }
}

async fn end(life: Life) {
    let ended = tokio::task::spawn_blocking(move || life.runtime.shutdown_timeout(Duration::from_secs(5)));
    ended.await.expect("a runtime ends");
}

async fn live(addr: SocketAddr, setup: Setup) -> (Life, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("server")
        .enable_all()
        .build()
        .expect("a runtime");
    let (tell, told) = oneshot::channel();
    let (take_leave, leave) = oneshot::channel();
    let mut server = Server::builder().max_concurrent_streams(setup.max_streams);
    if let Some((age, grace)) = setup.max_age {
        server = server.max_connection_age(age).max_connection_age_grace(grace);
    }
    runtime.spawn(async move {
        let listener = proxy::bind(addr).await;
        let _ = tell.send(listener.local_addr().expect("a bound socket has an address"));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let leave = async {
            if leave.await.is_err() {
                std::future::pending().await
            }
        };
        let greeter = GreeterServer::new(Greeting);
        let _ = server.add_service(greeter).serve_with_incoming_shutdown(incoming, leave).await;
    });
    let addr = told.await.expect("the server is bound");
    (Life { runtime, take_leave: Some(take_leave) }, addr)
}
