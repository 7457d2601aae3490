//! The calls: of all kinds that the greeter has, some let go by their callers.

use std::time::Duration;

use cenote::grpc::WaitForReady;
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::once;
use crate::source::Way;
use crate::tally::Outcome;

const KINDS: [&str; 8] = [
    "unary",
    "unary, wait_for_ready",
    "unary, large",
    "unary, cancelled",
    "server stream",
    "server stream, dropped",
    "chat",
    "chat, dropped",
];

/// A call to be made.
pub(crate) struct Plan {
    pub(crate) kind: &'static str,
    pub(crate) deadline: Duration,
    /// About how long it takes, in milliseconds, or its caller has patience with it.
    span: u64,
    name: String,
    rng: fastrand::Rng,
}

impl Plan {
    /// Its deadline is near: some calls take longer.
    pub(crate) fn hasty(source: &str, rng: &mut fastrand::Rng) -> Self {
        let span = rng.u64(100..=2000);
        Plan::new(source, Duration::from_millis(span), span, rng)
    }

    /// It has several times as long as it takes.
    pub(crate) fn patient(source: &str, rng: &mut fastrand::Rng) -> Self {
        Plan::new(source, Duration::from_secs(6), rng.u64(100..=800), rng)
    }

    fn new(source: &str, deadline: Duration, span: u64, rng: &mut fastrand::Rng) -> Self {
        let kind = KINDS[rng.usize(..KINDS.len())];
        Plan { kind, deadline, span, name: once::name(source, kind), rng: rng.fork() }
    }

    pub(crate) async fn call(self, way: Way) -> Result<Outcome, Status> {
        let Plan { kind, deadline, span, name, mut rng } = self;
        let mut client = GreeterClient::new(way);
        let until = Duration::from_millis(rng.u64(..span));
        match kind {
            "server stream" | "server stream, dropped" => {
                let count = rng.u32(..30);
                let pause_ms = rng.u32(..span as u32 / 20);
                let mut request = Request::new(StreamHelloRequest { name: name.clone(), count, pause_ms });
                request.set_timeout(deadline);
                let mut replies = client.stream_hello(request).await?.into_inner();
                match kind {
                    "server stream" => {
                        if read_all(&mut replies, &name).await? != count {
                            return Err(Status::data_loss("not all replies"));
                        }
                        Ok(Outcome::Ok)
                    }
                    _ => or_dropped(until, async { read_all(&mut replies, &name).await.map(drop) }).await,
                }
            }
            "chat" => chat(client, &name, deadline, rng.u32(..10)).await,
            "chat, dropped" => {
                or_dropped(until, async { chat(client, &name, deadline, 1000).await.map(drop) }).await
            }
            kind => {
                // Most have time enough, some do not.
                let delay = if rng.u32(..4) == 0 { rng.u32(..span as u32 * 5 / 4) } else { rng.u32(..50) };
                let name = match kind {
                    "unary, large" => name.repeat(rng.usize(16_000..320_000) / name.len()),
                    _ => name,
                };
                let mut request = Request::new(hello(&name, delay));
                request.set_timeout(deadline);
                if kind == "unary, wait_for_ready" {
                    request.extensions_mut().insert(WaitForReady(true));
                }
                let call = async { check(client.say_hello(request).await?.get_ref(), &name) };
                match kind {
                    "unary, cancelled" => or_dropped(until, call).await,
                    _ => call.await.map(|()| Outcome::Ok),
                }
            }
        }
    }
}

/// A short call with nothing in its way.
pub(crate) async fn plain(way: Way, deadline: Duration) -> Result<(), Status> {
    let name = once::name("plain", "unary");
    let mut request = Request::new(hello(&name, 0));
    request.set_timeout(deadline);
    check(GreeterClient::new(way).say_hello(request).await?.get_ref(), &name)
}

/// Question and answer, and then the stream is held as long as `hold` takes.
pub(crate) async fn held(way: Way, deadline: Duration, hold: impl Future<Output = ()>) -> Result<(), Status> {
    let name = once::name("held", "chat");
    let (send, receive) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(deadline);
    // The channel has room for it.
    let _ = send.send(hello(&name, 0)).await;
    let mut replies = GreeterClient::new(way).chat(request).await?.into_inner();
    match replies.message().await? {
        Some(reply) => check(&reply, &name)?,
        None => return Err(Status::data_loss("no reply")),
    }
    hold.await;
    Ok(())
}

fn hello(name: &str, delay_ms: u32) -> HelloRequest {
    HelloRequest { name: name.to_owned(), delay_ms }
}

fn check(reply: &HelloReply, name: &str) -> Result<(), Status> {
    match reply.message.strip_prefix("hello, ") {
        Some(told) if told == name => Ok(()),
        _ => Err(Status::data_loss("somebody else's reply")),
    }
}

async fn or_dropped(
    until: Duration,
    call: impl Future<Output = Result<(), Status>>,
) -> Result<Outcome, Status> {
    timeout(until, call).await.map_or(Ok(Outcome::Dropped), |result| result.map(|()| Outcome::Ok))
}

async fn read_all(replies: &mut Streaming<HelloReply>, name: &str) -> Result<u32, Status> {
    let mut count = 0;
    while let Some(reply) = replies.message().await? {
        check(&reply, name)?;
        count += 1;
    }
    Ok(count)
}

/// Question and answer, so many times.
async fn chat(
    mut client: GreeterClient<Way>,
    name: &str,
    deadline: Duration,
    times: u32,
) -> Result<Outcome, Status> {
    let (send, receive) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(deadline);
    let mut replies = client.chat(request).await?.into_inner();
    for i in 0..times {
        let name = format!("{name} {i}");
        if send.send(hello(&name, 0)).await.is_err() {
            // The call is over; why, the replies say.
            replies.message().await?;
            return Err(Status::data_loss("a chat ended well before its last word"));
        }
        match replies.message().await? {
            Some(reply) => check(&reply, &name)?,
            None => return Err(Status::data_loss("a chat ended well before its last word")),
        }
        sleep(Duration::from_millis(5)).await;
    }
    drop(send);
    match replies.message().await? {
        None => Ok(Outcome::Ok),
        Some(_) => Err(Status::data_loss("a reply to nothing")),
    }
}
