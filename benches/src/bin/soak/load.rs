//! Who calls, and by which way.

use std::task::{Context, Poll};
use std::time::Duration;

use cenote::grpc::{
    Addresses, Backoff, BalancedChannel, ClientConn, ClientPool, PooledConn, ResponseBody, ResponseFuture,
    StreamChannel, StreamLease, StreamPool, WaitForReady,
};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Request, Status, Streaming};

use crate::tally::{Outcome, Tally};

/// A loaded machine may be this late.
const SLACK: Duration = Duration::from_secs(1);

/// Anything of the crate that a generated client takes.
enum Way {
    Conn(ClientConn),
    Pooled(PooledConn<'static>),
    Lease(StreamLease),
    Channel(StreamChannel),
    Balanced(BalancedChannel),
}

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // All of them are, always.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        match self {
            Way::Conn(conn) => conn.call(request),
            Way::Pooled(conn) => conn.call(request),
            Way::Lease(lease) => lease.call(request),
            Way::Channel(channel) => channel.call(request),
            Way::Balanced(channel) => channel.call(request),
        }
    }
}

/// What calls go through.
#[derive(Clone)]
pub(crate) enum Source {
    Conn(ClientConn),
    Pool(ClientPool),
    Bounded(ClientPool),
    Leases(StreamPool, Vec<String>),
    Channel(StreamChannel),
    Balanced(BalancedChannel),
    /// One that is made anew for a few calls, and dropped or closed with calls on it.
    ShortLived(Vec<String>),
}

pub(crate) fn redial() -> Backoff {
    Backoff { max: Duration::from_secs(1), ..Backoff::POOL }
}

impl Source {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Source::Conn(_) => "by ClientConn",
            Source::Pool(_) => "by ClientPool",
            Source::Bounded(_) => "by ClientPool, at most 2",
            Source::Leases(..) => "by StreamPool, leases",
            Source::Channel(_) => "by StreamPool, channel",
            Source::Balanced(_) => "by StreamPool, balance",
            Source::ShortLived(_) => "by one that is made anew",
        }
    }

    /// A way for one call.
    fn way(&self, rng: &mut fastrand::Rng) -> Way {
        match self {
            Source::Conn(conn) => Way::Conn(conn.clone()),
            Source::Pool(pool) | Source::Bounded(pool) => Way::Pooled(pool.get_owned()),
            Source::Leases(pool, targets) => {
                Way::Lease(pool.get(&targets[rng.usize(..targets.len())]).expect("an open pool"))
            }
            Source::Channel(channel) => Way::Channel(channel.clone()),
            Source::Balanced(channel) => Way::Balanced(channel.clone()),
            Source::ShortLived(targets) => {
                let target = &targets[rng.usize(..targets.len())];
                match rng.u32(..4) {
                    0 => Way::Conn(ClientConn::new(target).expect("a target")),
                    1 => Way::Pooled(ClientPool::new(target).expect("a target").get_owned()),
                    2 => Way::Channel(StreamPool::new().channel(target).expect("a target")),
                    _ => Way::Balanced(StreamPool::new().balance(Addresses::list(targets.clone()))),
                }
            }
        }
    }

    /// A call that must come through, the faults being over; false if it does not.
    pub(crate) async fn comes_through(&self) -> bool {
        let mut rng = fastrand::Rng::new();
        let mut request = Request::new(hello("all is well", 0));
        request.set_timeout(SLACK);
        GreeterClient::new(self.way(&mut rng)).say_hello(request).await.is_ok()
    }
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

/// Calls, one after another, until `end`.
pub(crate) async fn keep_calling(source: Source, mut rng: fastrand::Rng, tally: Tally, end: Instant) {
    while Instant::now() < end {
        let kind = rng.usize(..KINDS.len());
        let deadline = Duration::from_millis(rng.u64(100..=2000));
        let begin = Instant::now();
        let call = call(source.way(&mut rng), kind, deadline, rng.fork());
        match timeout(deadline + SLACK, call).await {
            Ok(result) => {
                let outcome = result.unwrap_or_else(Outcome::Failed);
                let late = begin.elapsed().saturating_sub(deadline);
                tally.call(source.name(), KINDS[kind], &outcome, late);
            }
            Err(_) => tally.violation(format!(
                "{}, {}: not over {SLACK:?} after its deadline of {deadline:?}",
                source.name(),
                KINDS[kind]
            )),
        }
        // Between bursts there is time to be idle.
        let pause = if rng.u32(..50) == 0 { rng.u64(500..3000) } else { rng.u64(..40) };
        sleep(Duration::from_millis(pause)).await;
    }
}

async fn call(way: Way, kind: usize, deadline: Duration, mut rng: fastrand::Rng) -> Result<Outcome, Status> {
    let mut client = GreeterClient::new(way);
    let most = deadline.as_millis() as u64;
    let until = Duration::from_millis(rng.u64(..most));
    // Most have time enough, some do not.
    let delay = if rng.u32(..4) == 0 { rng.u32(..most as u32 * 5 / 4) } else { rng.u32(..50) };
    let mut name = format!("{:x}", rng.u64(..));
    let with_deadline = |request: HelloRequest| {
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        request
    };
    match KINDS[kind] {
        "server stream" | "server stream, dropped" => {
            let count = rng.u32(..30);
            let pause_ms = rng.u32(..most as u32 / 20);
            let mut request = Request::new(StreamHelloRequest { name: name.clone(), count, pause_ms });
            request.set_timeout(deadline);
            let mut replies = client.stream_hello(request).await?.into_inner();
            match KINDS[kind] {
                "server stream" => {
                    if read_all(&mut replies, &name).await? != count {
                        return Err(Status::data_loss("not all replies"));
                    }
                    Ok(Outcome::Ok)
                }
                _ => or_dropped(until, async { read_all(&mut replies, &name).await.map(drop) }).await,
            }
        }
        "chat" => chat(client, deadline, rng.u32(..10)).await,
        "chat, dropped" => or_dropped(until, async { chat(client, deadline, 1000).await.map(drop) }).await,
        kind => {
            if kind == "unary, large" {
                name = name.repeat(rng.usize(1000..20_000));
            }
            let mut request = with_deadline(hello(&name, delay));
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
async fn chat(mut client: GreeterClient<Way>, deadline: Duration, times: u32) -> Result<Outcome, Status> {
    let (send, receive) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(deadline);
    let mut replies = client.chat(request).await?.into_inner();
    for i in 0..times {
        let name = i.to_string();
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
