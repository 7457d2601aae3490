//! Retries and hedging (gRFC A6), against servers that do as a script says.

#[path = "support/mod.rs"]
mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cenote::grpc::{
    Addresses, CallPhase, CallPolicy, ClientConn, ClientPool, Error, HedgingPolicy, RetryPolicy, StreamPool,
};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt, iter};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use support::{cause, eventually_async, hello, refused_target};

/// What a server does with an attempt.
enum Act {
    Answer,
    Fail(Status),
    Hang,
}

/// What a server saw of an attempt.
#[derive(Clone, Debug)]
struct Attempt {
    name: String,
    previous: Option<String>,
    timeout: Option<String>,
}

type Script = Arc<dyn Fn(usize) -> Act + Send + Sync>;

#[derive(Clone)]
struct Scripted {
    script: Script,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    cancelled: Arc<AtomicUsize>,
}

/// Counts a call whose future is dropped before it has an answer.
struct Running<'a>(&'a AtomicUsize, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(usize::from(!self.1), Ordering::SeqCst);
    }
}

impl Scripted {
    async fn act(&self, name: &str, metadata: &MetadataMap) -> Result<(), Status> {
        let header = |name| metadata.get(name).map(|value| value.to_str().unwrap().to_owned());
        let attempt = Attempt {
            name: name.to_owned(),
            previous: header("grpc-previous-rpc-attempts"),
            timeout: header("grpc-timeout"),
        };
        let number = {
            let mut attempts = self.attempts.lock().unwrap();
            attempts.push(attempt);
            attempts.len() - 1
        };
        let mut running = Running(&self.cancelled, false);
        let result = match (self.script)(number) {
            Act::Answer => Ok(()),
            Act::Fail(status) => Err(status),
            Act::Hang => std::future::pending().await,
        };
        running.1 = true;
        result
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

fn reply(message: impl Into<String>) -> HelloReply {
    HelloReply { message: message.into() }
}

#[tonic::async_trait]
impl Greeter for Scripted {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let (metadata, _, HelloRequest { name, .. }) = request.into_parts();
        self.act(&name, &metadata).await?;
        Ok(Response::new(reply(name)))
    }

    type StreamHelloStream = Replies;

    /// Fails behind its headers and one message.
    async fn stream_hello(&self, request: Request<StreamHelloRequest>) -> Result<Response<Replies>, Status> {
        let (metadata, _, StreamHelloRequest { name, .. }) = request.into_parts();
        self.act(&name, &metadata).await?;
        let items = [Ok(reply(name)), Err(Status::unavailable("behind the headers"))];
        Ok(Response::new(Box::pin(iter(items))))
    }

    type ChatStream = Replies;

    /// Reads all, and answers with the sum of what was said.
    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Replies>, Status> {
        let (metadata, _, mut names) = request.into_parts();
        let mut all = Vec::new();
        while let Some(next) = names.message().await? {
            all.push(next.name);
        }
        self.act(&all.concat(), &metadata).await?;
        Ok(Response::new(Box::pin(iter([Ok(reply(all.concat()))]))))
    }
}

struct ScriptedServer {
    target: String,
    service: Scripted,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn serve(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> ScriptedServer {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let service = Scripted { script: Arc::new(script), attempts: Arc::default(), cancelled: Arc::default() };
    let served = service.clone();
    runtime.spawn(async move {
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        let server = tonic::transport::Server::builder().add_service(GreeterServer::new(served));
        server.serve_with_incoming(incoming).await
    });
    ScriptedServer { target, service, runtime: Some(runtime) }
}

impl ScriptedServer {
    fn attempts(&self) -> Vec<Attempt> {
        self.service.attempts.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.service.attempts.lock().unwrap().len()
    }

    fn cancelled(&self) -> usize {
        self.service.cancelled.load(Ordering::SeqCst)
    }
}

/// The first `failures` attempts fail.
fn fails_first(failures: usize) -> ScriptedServer {
    serve(move |attempt| match attempt {
        _ if attempt < failures => Act::Fail(Status::unavailable("not yet")),
        _ => Act::Answer,
    })
}

fn quick() -> RetryPolicy {
    RetryPolicy::new([Code::Unavailable])
        .initial_backoff(Duration::from_millis(2))
        .max_backoff(Duration::from_millis(10))
}

fn client(target: &str, policy: impl Into<CallPolicy>) -> GreeterClient<ClientConn> {
    GreeterClient::new(ClientConn::builder(target).retry("", policy).build().unwrap())
}

#[tokio::test]
async fn a_call_is_sent_again_until_it_succeeds_and_both_sides_see_how_often() {
    let server = fails_first(2);
    let mut client = client(&server.target, quick());
    let response = client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(response.metadata().get("grpc-previous-rpc-attempts").unwrap(), "2");
    assert_eq!(response.into_inner().message, "ada");
    let previous: Vec<_> = server.attempts().into_iter().map(|attempt| attempt.previous).collect();
    assert_eq!(previous, [None, Some("1".into()), Some("2".into())]);
    let response = client.say_hello(hello("bob")).await.unwrap();
    assert_eq!(response.metadata().get("grpc-previous-rpc-attempts"), None);
}

#[tokio::test]
async fn a_call_fails_with_the_last_status_when_its_attempts_are_used_up_and_never_has_more_than_the_cap() {
    for (policy, cap, sent) in
        [(quick().max_attempts(2), 5, 2), (quick().max_attempts(9), 5, 5), (quick(), 1, 1)]
    {
        let server = serve(|attempt| Act::Fail(Status::unavailable(format!("attempt {attempt}"))));
        let conn = ClientConn::builder(&server.target).retry("", policy).max_call_attempts(cap).build();
        let status = GreeterClient::new(conn.unwrap()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, &*format!("attempt {}", sent - 1)));
        assert_eq!(server.count(), sent);
    }
}

#[tokio::test]
async fn only_the_methods_and_codes_of_a_policy_are_sent_again_and_a_request_may_say_otherwise() {
    let server = serve(|_| Act::Fail(Status::aborted("always")));
    let conn = ClientConn::builder(&server.target)
        .retry(
            "cenote.greeter.v1.Greeter/SayHello",
            RetryPolicy::new([Code::Aborted]).initial_backoff(Duration::from_millis(1)),
        )
        .retry("cenote.greeter.v1.Greeter", quick())
        .build()
        .unwrap();
    let mut client = GreeterClient::new(conn);
    let sent = |server: &ScriptedServer| std::mem::take(&mut *server.service.attempts.lock().unwrap()).len();
    let stream = || StreamHelloRequest { name: "ada".into(), count: 1, pause_ms: 0 };
    client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(sent(&server), 3);
    client.stream_hello(stream()).await.unwrap_err();
    assert_eq!(sent(&server), 1, "ABORTED is not a code of the service's policy");
    let mut request = Request::new(hello("ada"));
    request.extensions_mut().insert(CallPolicy::Once);
    client.say_hello(request).await.unwrap_err();
    assert_eq!(sent(&server), 1);
    let mut request = Request::new(hello("ada"));
    let own = RetryPolicy::new([Code::Aborted]).initial_backoff(Duration::from_millis(1)).max_attempts(2);
    request.extensions_mut().insert(CallPolicy::Retry(own));
    client.say_hello(request).await.unwrap_err();
    assert_eq!(sent(&server), 2);
    let mut request = Request::new(hello("ada"));
    request.extensions_mut().insert(CallPolicy::Retry(RetryPolicy::new([])));
    let status = client.say_hello(request).await.unwrap_err();
    assert!(matches!(cause(&status), Error::InvalidConfig { option: "retry", .. }), "{status:?}");
    assert_eq!(sent(&server), 0);
}

#[tokio::test]
async fn a_failure_behind_the_responses_headers_is_the_calls() {
    let server = serve(|_| Act::Answer);
    let mut client = client(&server.target, quick());
    let request = StreamHelloRequest { name: "ada".into(), count: 1, pause_ms: 0 };
    let mut replies = client.stream_hello(request).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "ada");
    assert_eq!(replies.message().await.unwrap_err().message(), "behind the headers");
    assert_eq!(server.count(), 1);
}

fn with_pushback(value: &'static str) -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert("grpc-retry-pushback-ms", value.parse().unwrap());
    Status::with_metadata(Code::Unavailable, "pushed back", trailers)
}

#[tokio::test]
async fn a_server_says_when_the_next_attempt_comes_and_that_none_comes() {
    let server = serve(|attempt| if attempt == 0 { Act::Fail(with_pushback("150")) } else { Act::Answer });
    let begun = Instant::now();
    client(&server.target, quick()).say_hello(hello("ada")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(150));
    let slow = quick().initial_backoff(Duration::from_secs(60)).max_backoff(Duration::from_secs(60));
    let server = serve(|attempt| if attempt == 0 { Act::Fail(with_pushback("0")) } else { Act::Answer });
    let at_once = tokio::time::timeout(Duration::from_secs(20), async {
        client(&server.target, slow).say_hello(hello("ada")).await.unwrap()
    });
    at_once.await.expect("the pushback replaces the pause");
    for never in ["-1", "soon"] {
        let server = serve(move |_| Act::Fail(with_pushback(never)));
        client(&server.target, quick()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(server.count(), 1, "{never:?}");
    }
}

#[tokio::test]
async fn the_calls_of_a_pool_are_not_sent_again_while_half_of_their_tokens_are_gone() {
    let failing = Arc::new(AtomicUsize::new(1));
    let fails = Arc::clone(&failing);
    let server = serve(move |_| match fails.load(Ordering::SeqCst) {
        0 => Act::Answer,
        _ => Act::Fail(Status::unavailable("down")),
    });
    let pool = ClientPool::builder(&server.target)
        .retry("", quick().max_attempts(2))
        .retry_throttling(10, 1.0)
        .build()
        .unwrap();
    for _ in 0..10 {
        GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap_err();
    }
    // The first two calls take 4 tokens; the third's first attempt takes the fifth, and leaves half.
    assert_eq!(server.count(), 12);
    // The tokens of the ten calls are gone. Six calls later there is one more than half, which the first failure takes; after six
    // more there are enough.
    for sent in [1, 2] {
        failing.store(0, Ordering::SeqCst);
        for _ in 0..6 {
            GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap();
        }
        failing.store(1, Ordering::SeqCst);
        let before = server.count();
        GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(server.count() - before, sent);
    }
}

#[tokio::test]
async fn a_deadline_holds_for_all_attempts_and_pauses_and_each_attempt_is_sent_what_is_left() {
    let server = serve(|_| Act::Fail(Status::unavailable("down")));
    let slow = quick().initial_backoff(Duration::from_millis(300)).max_backoff(Duration::from_millis(300));
    let mut client = client(&server.target, slow.max_attempts(5));
    let mut request = Request::new(hello("ada"));
    request.set_timeout(Duration::from_millis(500));
    let begun = Instant::now();
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let error = cause(&status);
    assert!(matches!(error, Error::DeadlineExceeded { phase: CallPhase::Backoff, .. }), "{error:?}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let millis =
        |attempt: &Attempt| attempt.timeout.as_ref().unwrap().trim_end_matches(['m', 'u']).to_owned();
    let attempts = server.attempts();
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let left: u64 = millis(&attempts[1]).parse().unwrap();
    assert!(attempts[1].timeout.as_ref().unwrap().ends_with('m') && left <= 260, "{attempts:?}");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_cancelled_and_sent_again() {
    let server = serve(|attempt| if attempt == 0 { Act::Hang } else { Act::Answer });
    let policy = quick().attempt_timeout(Duration::from_millis(200));
    client(&server.target, policy).say_hello(hello("ada")).await.unwrap();
    eventually_async("the first attempt is canceled", || server.cancelled() == 1).await;
    let server = serve(|_| Act::Hang);
    let policy = quick().max_attempts(2).attempt_timeout(Duration::from_millis(50));
    let status = client(&server.target, policy).say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::AttemptTimeout { .. }), "{status:?}");
    assert_eq!((status.code(), server.count()), (Code::DeadlineExceeded, 2));
}

#[tokio::test]
async fn a_request_that_fits_is_sent_again_from_its_first_message_and_one_that_does_not_is_sent_once() {
    for (call, pool, sent) in [(64, 1 << 20, 2), (16, 1 << 20, 1), (64, 16, 1)] {
        let server = fails_first(1);
        let conn = ClientConn::builder(&server.target)
            .retry("", quick())
            .resend_buffer(0)
            .retry_buffer(call, pool)
            .build()
            .unwrap();
        let mut client = GreeterClient::new(conn);
        let names = ["one, ", "two, ", "three"].map(hello);
        let outcome = client.chat(iter(names)).await;
        assert_eq!(server.count(), sent, "{call} {pool}");
        match outcome {
            Ok(replies) => {
                assert_eq!(replies.into_inner().message().await.unwrap().unwrap().message, "one, two, three");
            }
            Err(status) => assert_eq!((status.message(), sent), ("not yet", 1)),
        }
        assert!(server.attempts().iter().all(|attempt| attempt.name == "one, two, three"));
    }
}

fn pool_that_keeps_64_bytes(server: &ScriptedServer) -> ClientPool {
    let builder = ClientPool::builder(&server.target).retry("", quick());
    builder.resend_buffer(0).retry_buffer(64, 64).build().unwrap()
}

#[tokio::test]
async fn calls_that_are_over_return_what_they_kept_to_the_pool() {
    let server =
        serve(|attempt| if attempt % 2 == 0 { Act::Fail(Status::unavailable("odd")) } else { Act::Answer });
    let pool = pool_that_keeps_64_bytes(&server);
    for call in 0..50 {
        let outcome = GreeterClient::new(pool.get()).say_hello(hello("0123456789")).await;
        outcome.unwrap_or_else(|status| panic!("call {call} was not kept: {status}"));
    }
    assert_eq!(server.count(), 100);
}

#[tokio::test]
async fn a_call_whose_response_has_begun_keeps_nothing_of_its_request() {
    let server =
        serve(|attempt| if attempt == 1 { Act::Fail(Status::unavailable("once")) } else { Act::Answer });
    let pool = pool_that_keeps_64_bytes(&server);
    let name = "0123456789".repeat(4);
    let request = StreamHelloRequest { name: name.clone(), count: 1, pause_ms: 0 };
    let begun = GreeterClient::new(pool.get()).stream_hello(request).await.unwrap();
    GreeterClient::new(pool.get()).say_hello(hello(&name)).await.unwrap();
    assert_eq!(server.count(), 3);
    drop(begun);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_a_failure_that_a_policy_repeats() {
    let status = client(&refused_target(), quick()).say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
    let server = fails_first(0);
    let pool = StreamPool::builder().retry("", quick()).build().unwrap();
    let down = refused_target();
    let mut client = GreeterClient::new(pool.balance(Addresses::list([down, server.target.clone()])));
    for _ in 0..20 {
        client.say_hello(hello("ada")).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_in_its_pause_is_not_sent_again() {
    let server = serve(|_| Act::Fail(Status::unavailable("down")));
    let slow = quick().initial_backoff(Duration::from_millis(100)).max_backoff(Duration::from_millis(100));
    let mut client = client(&server.target, slow);
    let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
    eventually_async("the first attempt has come", || server.count() == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_attempts_of_a_balanced_call_go_to_another_server_than_the_one_that_refused() {
    let refusing = serve(|_| Act::Fail(Status::unavailable("refused")));
    let serving = fails_first(0);
    let pool = StreamPool::builder().retry("", quick()).build().unwrap();
    let mut client =
        GreeterClient::new(pool.balance(Addresses::list([refusing.target.clone(), serving.target.clone()])));
    for _ in 0..100 {
        client.say_hello(hello("ada")).await.unwrap();
    }
    assert_eq!(serving.count(), 100);
    let never_twice = refusing.attempts().iter().all(|attempt| attempt.previous.is_none());
    assert!(never_twice && refusing.count() > 10, "{}", refusing.count());
}

#[tokio::test]
async fn a_balanced_call_never_comes_back_to_the_server_that_has_just_refused() {
    let servers = [(); 2].map(|()| serve(|_| Act::Fail(Status::unavailable("refused"))));
    let pool = StreamPool::builder().retry("", quick().max_attempts(5)).build().unwrap();
    let targets = servers.each_ref().map(|server| server.target.clone());
    let mut client = GreeterClient::new(pool.balance(Addresses::list(targets)));
    for _ in 0..20 {
        client.say_hello(hello("ada")).await.unwrap_err();
        for server in &servers {
            let attempts = std::mem::take(&mut *server.service.attempts.lock().unwrap());
            let number =
                |attempt: &Attempt| attempt.previous.as_ref().map_or(0, |text| text.parse().unwrap());
            let numbers: Vec<usize> = attempts.iter().map(number).collect();
            assert!(numbers == [0, 2, 4] || numbers == [1, 3], "{numbers:?}");
        }
    }
}

#[tokio::test]
async fn callers_see_no_failure_of_a_server_that_refuses_three_calls_of_ten() {
    let server = serve(|attempt| match attempt * 7 % 10 {
        0..3 => Act::Fail(Status::unavailable("overloaded")),
        _ => Act::Answer,
    });
    let pool = ClientPool::builder(&server.target)
        // With gRPC's limit of 5 attempts one call in 400 fails.
        .retry("", quick().max_attempts(16))
        .max_call_attempts(16)
        // Of 10 attempts 3 fail: 0.43 for each success.
        .retry_throttling(1000, 0.43)
        .build()
        .unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..125 {
                    GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap();
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    // Each call takes 1 / 0.7 attempts.
    assert!((1400..1460).contains(&server.count()), "{}", server.count());
}

// ── hedging ──

#[tokio::test]
async fn a_hedged_call_has_the_first_answer_and_cancels_the_other_attempts() {
    let server = serve(|attempt| if attempt < 2 { Act::Hang } else { Act::Answer });
    let policy = HedgingPolicy::new(4).delay(Duration::from_millis(20));
    let response = client(&server.target, policy).say_hello(hello("ada")).await.unwrap();
    assert_eq!(response.metadata().get("grpc-previous-rpc-attempts").unwrap(), "2");
    eventually_async("the others are canceled", || server.cancelled() == 2).await;
    let attempts = server.attempts();
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    assert!(attempts.iter().all(|attempt| attempt.name == "ada"));
}

#[tokio::test]
async fn without_a_delay_all_attempts_begin_at_once() {
    let server = serve(|_| Act::Hang);
    let mut client = client(&server.target, HedgingPolicy::new(3));
    let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
    eventually_async("all three are there", || server.count() == 3).await;
    call.abort();
    eventually_async("all three are canceled", || server.cancelled() == 3).await;
}

#[tokio::test]
async fn a_non_fatal_failure_sends_the_next_hedge_at_once_and_a_fatal_one_ends_the_call() {
    let server = fails_first(2);
    let long = HedgingPolicy::new(3).delay(Duration::from_secs(60));
    let mut patient = client(&server.target, long.clone().non_fatal([Code::Unavailable]));
    let call = tokio::time::timeout(Duration::from_secs(20), patient.say_hello(hello("ada")));
    call.await.expect("no attempt waits for the delay").unwrap();
    let server = fails_first(2);
    let status = client(&server.target, long).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!((status.message(), server.count()), ("not yet", 1));
    let server = serve(|attempt| Act::Fail(Status::unavailable(format!("attempt {attempt}"))));
    let policy = HedgingPolicy::new(3).non_fatal([Code::Unavailable]);
    let status = client(&server.target, policy).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!((status.code(), server.count()), (Code::Unavailable, 3), "{status:?}");
}

#[tokio::test]
async fn a_pushback_delays_the_next_hedge_or_stops_all() {
    let long = HedgingPolicy::new(3).delay(Duration::from_secs(60)).non_fatal([Code::Unavailable]);
    let server = serve(|attempt| if attempt == 0 { Act::Fail(with_pushback("100")) } else { Act::Answer });
    let begun = Instant::now();
    client(&server.target, long.clone()).say_hello(hello("ada")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let server = serve(|_| Act::Fail(with_pushback("-1")));
    client(&server.target, long).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn each_hedge_sends_all_messages_of_a_stream_as_they_come() {
    let server = serve(|attempt| if attempt < 2 { Act::Hang } else { Act::Answer });
    let policy = HedgingPolicy::new(3).delay(Duration::from_millis(30));
    let mut client = client(&server.target, policy);
    let names = iter((0..20).map(|n| hello(&format!("{n} ")))).throttle(Duration::from_millis(5));
    let mut replies = client.chat(names).await.unwrap().into_inner();
    let all: String = (0..20).map(|n| format!("{n} ")).collect();
    assert_eq!(replies.message().await.unwrap().unwrap().message, all);
    assert!(server.attempts().iter().all(|attempt| attempt.name == all), "{:?}", server.attempts());
}

#[tokio::test]
async fn a_hedged_call_that_outgrows_its_buffer_goes_on_with_one_attempt() {
    let server = serve(|_| Act::Answer);
    let conn = ClientConn::builder(&server.target)
        .retry("", HedgingPolicy::new(5))
        .resend_buffer(0)
        .retry_buffer(200, 1 << 20)
        .build()
        .unwrap();
    let mut client = GreeterClient::new(conn);
    let names = iter((0..60).map(|n| hello(&format!("{n:07} ")))).throttle(Duration::from_millis(1));
    let mut replies = client.chat(names).await.unwrap().into_inner();
    let all: String = (0..60).map(|n| format!("{n:07} ")).collect();
    assert_eq!(replies.message().await.unwrap().unwrap().message, all);
    // A server of tonic's takes a stream that was reset for one that has ended.
    let complete = server.attempts().iter().filter(|attempt| attempt.name == all).count();
    assert_eq!(complete, 1, "the others did not come to their end");
}

#[tokio::test]
async fn hedges_of_a_balanced_call_go_to_different_servers() {
    let hanging = serve(|_| Act::Hang);
    let serving = serve(|_| Act::Answer);
    let pool = StreamPool::builder().retry("", HedgingPolicy::new(2)).build().unwrap();
    let mut client =
        GreeterClient::new(pool.balance(Addresses::list([hanging.target.clone(), serving.target.clone()])));
    client.say_hello(hello("warm")).await.unwrap();
    for _ in 0..20 {
        client.say_hello(hello("ada")).await.unwrap();
    }
    assert_eq!(serving.count(), 21);
}

#[tokio::test]
async fn a_hedge_goes_to_another_server_even_if_that_has_more_to_do() {
    const LOAD: usize = 10;
    let idle = serve(|attempt| if attempt == 0 { Act::Answer } else { Act::Hang });
    let busy = serve(|attempt| if attempt < LOAD { Act::Hang } else { Act::Answer });
    let pool = StreamPool::builder().build().unwrap();
    let mut client = GreeterClient::new(pool.channel(&*busy.target).unwrap());
    let load: Vec<_> = (0..LOAD)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.say_hello(hello("load")).await })
        })
        .collect();
    eventually_async("one server is busy", || busy.count() == LOAD).await;
    let warm = pool.channel(&*idle.target).unwrap();
    GreeterClient::new(warm).say_hello(hello("warm")).await.unwrap();
    let targets = [idle.target.clone(), busy.target.clone()];
    let mut balanced = GreeterClient::new(pool.balance(Addresses::list(targets)));
    let mut request = Request::new(hello("ada"));
    request.extensions_mut().insert(CallPolicy::from(HedgingPolicy::new(2)));
    let call = tokio::time::timeout(Duration::from_secs(20), balanced.say_hello(request));
    call.await.expect("one attempt goes to each server").unwrap();
    client.say_hello(hello("ada")).await.unwrap();
    load.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn while_a_target_is_throttled_a_hedged_call_has_one_attempt() {
    let server = serve(|_| Act::Fail(Status::unavailable("down")));
    let conn = ClientConn::builder(&server.target)
        .retry("", HedgingPolicy::new(3))
        .retry_throttling(2, 0.1)
        .build()
        .unwrap();
    let mut client = GreeterClient::new(conn);
    let mut request = Request::new(hello("ada"));
    let drain = RetryPolicy::new([Code::Unavailable]).initial_backoff(Duration::from_millis(1));
    request.extensions_mut().insert(CallPolicy::from(drain));
    client.say_hello(request).await.unwrap_err();
    assert_eq!(server.count(), 1, "the first failure leaves half of the tokens");
    client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_hedged_call_keeps_its_deadline() {
    let server = serve(|_| Act::Hang);
    let policy = HedgingPolicy::new(5).delay(Duration::from_millis(30)).non_fatal([Code::DeadlineExceeded]);
    let mut request = Request::new(hello("ada"));
    request.set_timeout(Duration::from_millis(200));
    let status = client(&server.target, policy).say_hello(request).await.unwrap_err();
    assert!(matches!(cause(&status), Error::DeadlineExceeded { .. }), "{status:?}");
    eventually_async("all attempts are canceled", || server.cancelled() == server.count()).await;
}

#[tokio::test]
async fn a_service_config_has_the_effect_of_the_builders_options() {
    let server = fails_first(1);
    let config = r#"{"methodConfig": [{
        "name": [{"service": "cenote.greeter.v1.Greeter", "method": "SayHello"}],
        "timeout": "30s",
        "retryPolicy": {
            "maxAttempts": 2, "initialBackoff": "0.001s", "maxBackoff": "0.01s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"]
        }
    }]}"#;
    let conn = ClientConn::builder(&server.target).service_config(config).unwrap().build().unwrap();
    GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
    let attempts = server.attempts();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt.timeout.is_some()), "{attempts:?}");
    let error = ClientConn::builder(&server.target).service_config("{").unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "service_config", .. }));
}
