//! What the servers do, and what they see.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote_proto::greeter_server::Greeter;
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::once;
use crate::tally::Tally;

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

/// Of the server at a place.
#[derive(Clone)]
pub(crate) struct Greeting {
    pub(crate) place: usize,
    pub(crate) tally: Tally,
}

impl Greeting {
    /// A handler begins.
    fn begin(&self, name: &str) {
        if let Err(wrong) = once::begin(name, self.place) {
            self.tally.violation(wrong);
        }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

fn greet(name: &str) -> HelloReply {
    HelloReply { message: format!("hello, {name}") }
}

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let _running = Running::begin();
        let HelloRequest { name, delay_ms } = request.into_inner();
        self.begin(&name);
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms.into())).await;
        }
        Ok(Response::new(greet(&name)))
    }

    type StreamHelloStream = Replies;

    async fn stream_hello(&self, request: Request<StreamHelloRequest>) -> Result<Response<Replies>, Status> {
        let running = Running::begin();
        let StreamHelloRequest { name, count, pause_ms } = request.into_inner();
        self.begin(&name);
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
        let this = self.clone();
        tokio::spawn(async move {
            let _running = running;
            let mut is_first = true;
            // A client's reset ends this, too.
            while let Ok(Some(HelloRequest { name, .. })) = names.message().await {
                // Not before: a head without a message may be followed by another.
                if std::mem::take(&mut is_first) {
                    this.begin(&name);
                }
                if send.send(Ok(greet(&name))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
