//! What is legal in HTTP/2 costs a connection none of its other calls: limits that the library below keeps for a whole
//! connection must not be reached by what one stream, one call or one proxy does.

mod support;

use std::time::Duration;

use cenote::grpc::{ClientConn, ClientPool, ResponseBody, StreamPool};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, StreamHelloRequest};
use support::frames::*;
use support::{TonicServer, hello};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Status, Streaming};
use tower::Service;
use tower::util::BoxCloneSyncService;

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u16 = 4;

type AnyService = BoxCloneSyncService<Request<Body>, Response<ResponseBody>, Status>;
type AnyClient = GreeterClient<AnyService>;

fn any<S>(service: S) -> AnyClient
where
    S: Service<Request<Body>, Response = Response<ResponseBody>, Error = Status>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    GreeterClient::new(BoxCloneSyncService::new(service))
}

/// A client for each way to share one connection.
fn clients(target: &str) -> Vec<(&'static str, AnyClient)> {
    let pool = ClientPool::builder(target).max_connections(1).build().unwrap();
    vec![
        ("ClientConn", any(ClientConn::new(target).unwrap())),
        ("ClientPool", any(pool.take())),
        ("StreamPool", any(StreamPool::new().channel(target).unwrap())),
    ]
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("in time")
}

fn many() -> StreamHelloRequest {
    StreamHelloRequest { name: "ada".into(), count: 1, pause_ms: 0 }
}

/// Reads up to the end of a request, and acknowledges SETTINGS and pings on the way; `None` at the connection's end.
async fn next_request(wire: &mut Wire) -> Option<u32> {
    loop {
        let frame = wire.read().await?;
        match frame.kind {
            SETTINGS | PING if frame.flags & ACK == 0 => {
                let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                wire.try_write(frame.kind, ACK, 0, payload).await.ok()?;
            }
            DATA | HEADERS if frame.flags & END_STREAM != 0 => return Some(frame.stream),
            _ => {}
        }
    }
}

async fn end(wire: &mut Wire, stream: u32) {
    wire.write(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&[("grpc-status", "0")])).await;
}

async fn next_message(messages: &mut Streaming<HelloReply>) -> Option<HelloReply> {
    in_time(messages.message()).await.unwrap()
}

/// Proxies send such frames behind an answer's message; h2 counts them for as long as the connection lives.
#[tokio::test]
async fn an_empty_data_frame_with_each_of_300_answers_costs_no_connection() {
    let server = FrameServer::start().await;
    for (kind, mut client) in clients(&server.target()) {
        let calls = async {
            for number in 0..300 {
                let answer = client.say_hello(hello("ada")).await;
                assert!(answer.is_ok(), "{kind}, call {number}: {answer:?}");
            }
        };
        let serve = async {
            let mut wire = server.accept(&[]).await;
            while let Some(stream) = next_request(&mut wire).await {
                wire.answer_head(stream).await;
                wire.write(DATA, 0, stream, &[]).await;
                wire.answer_message(stream, "hello").await;
                wire.write(DATA, 0, stream, &[]).await;
                end(&mut wire, stream).await;
            }
        };
        in_time(async {
            tokio::select! {
                () = calls => {}
                () = serve => panic!("{kind}: the connection ended"),
            }
        })
        .await;
    }
}

/// The server has not read the resets yet when it sends these. Each frame is for another stream, as of servers that serve their
/// streams in turn, so that a memory of a few streams does not help.
#[tokio::test]
async fn frames_under_way_to_200_dropped_streams_cost_their_neighbors_nothing() {
    let server = FrameServer::start().await;
    for (kind, mut client) in clients(&server.target()) {
        let trial = async {
            let neighbor = {
                let mut client = client.clone();
                tokio::spawn(async move { client.say_hello(hello("neighbor")).await })
            };
            let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 1000)]).await;
            let of_neighbor = next_request(&mut wire).await.unwrap();
            let (mut open, mut streams) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let answer = async {
                    let stream = next_request(&mut wire).await.unwrap();
                    wire.answer_head(stream).await;
                    wire.answer_message(stream, "first").await;
                    stream
                };
                let (messages, stream) = tokio::join!(client.stream_hello(many()), answer);
                let mut messages = messages.unwrap().into_inner();
                assert_eq!(next_message(&mut messages).await.unwrap().message, "first");
                open.push(messages);
                streams.push(stream);
            }
            drop(open);
            // 1,600 frames: the library's limit is 1,024 in the life of a connection.
            for _ in 0..8 {
                for stream in &streams {
                    wire.write(DATA, 0, *stream, &[0; 1000]).await;
                }
            }
            let mut resets = 0;
            while resets < streams.len() {
                let frame = wire.read().await.expect("the connection lives");
                resets += usize::from(frame.kind == RST_STREAM);
            }
            wire.answer(of_neighbor, "still here").await;
            assert_eq!(neighbor.await.unwrap().unwrap().into_inner().message, "still here", "{kind}");
            let new = async {
                let stream = next_request(&mut wire).await.unwrap();
                wire.answer(stream, "new").await;
            };
            let (reply, ()) = tokio::join!(client.say_hello(hello("new")), new);
            assert_eq!(reply.unwrap().into_inner().message, "new", "{kind}: on the same connection");
        };
        in_time(trial).await;
    }
}

/// They are 60 KB, where flow control allows 2 MiB; h2 counts 256 bytes for each.
#[tokio::test]
async fn twelve_thousand_small_messages_wait_for_their_reader_and_calls_beside_them_are_answered() {
    const MESSAGES: usize = 12_000;
    let server = FrameServer::start().await;
    for (kind, mut client) in clients(&server.target()) {
        let trial = async {
            let first = async {
                let mut wire = server.accept(&[]).await;
                let stream = next_request(&mut wire).await.unwrap();
                wire.answer_head(stream).await;
                (wire, stream)
            };
            let (messages, (mut wire, stream)) = tokio::join!(client.stream_hello(many()), first);
            let mut messages = messages.unwrap().into_inner();
            for _ in 0..MESSAGES / 1000 {
                let beside = async {
                    for _ in 0..1000 {
                        wire.write(DATA, 0, stream, &[0; 5]).await;
                    }
                    let beside = next_request(&mut wire).await.expect("the connection lives");
                    wire.answer(beside, "beside").await;
                };
                let (reply, ()) = tokio::join!(client.say_hello(hello("beside")), beside);
                assert_eq!(reply.unwrap().into_inner().message, "beside", "{kind}");
            }
            end(&mut wire, stream).await;
            for number in 0..MESSAGES {
                assert!(messages.message().await.unwrap().is_some(), "{kind}: message {number}");
            }
            assert!(messages.message().await.unwrap().is_none(), "{kind}");
        };
        in_time(trial).await;
    }
}

/// Each fills its stream's window. They would fill a connection's window of hyper's default size, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_do_not_stall_the_calls_beside_them() {
    let server = TonicServer::start();
    for (kind, mut client) in clients(&server.target()) {
        let trial = async {
            let endless = StreamHelloRequest { name: "x".repeat(16 << 10), count: u32::MAX, pause_ms: 0 };
            let mut unread = Vec::new();
            for _ in 0..3 {
                let mut messages = client.stream_hello(endless.clone()).await.unwrap().into_inner();
                // Some of it is read, so that the windows have moved.
                for _ in 0..10 {
                    assert!(next_message(&mut messages).await.is_some());
                }
                unread.push(messages);
            }
            // Each call lets the server send more of the streams, until their windows are full: with hyper's window, in which
            // there is room for two and a half, some call of these is not answered.
            for number in 0..2000 {
                let answer = timeout(Duration::from_secs(5), client.say_hello(hello("ada"))).await;
                assert!(matches!(answer, Ok(Ok(_))), "{kind}, call {number}: {answer:?}");
            }
            drop(unread);
        };
        in_time(trial).await;
    }
}

/// The upload has no room to go on in, and nobody waits for it any more: what sends it must not wait for ever either.
#[tokio::test]
async fn an_upload_that_was_answered_early_is_reset_and_its_stream_is_free_for_the_next_call() {
    let server = FrameServer::start().await;
    for (kind, mut client) in clients(&server.target()) {
        let trial = async {
            let accepting = server.accept(&[(MAX_CONCURRENT_STREAMS, 1), (INITIAL_WINDOW, 0)]);
            let upload = tokio_stream::iter((0..100).map(|_| hello("ada")));
            let calling = tokio::spawn({
                let mut client = client.clone();
                async move {
                    let mut answers = client.chat(upload).await.unwrap().into_inner();
                    let first = answers.message().await.unwrap().unwrap();
                    assert!(answers.message().await.unwrap().is_none());
                    first.message
                }
            });
            let mut wire = accepting.await;
            let stream = wire.headers().await;
            wire.answer_head(stream).await;
            wire.answer_message(stream, "enough").await;
            end(&mut wire, stream).await;
            assert_eq!(calling.await.unwrap(), "enough");
            let (reset, code) = wire.until_reset().await;
            assert_eq!((reset, code), (stream, CANCEL));

            wire.settings(&[(INITIAL_WINDOW, 65_535)]).await;
            let next = tokio::spawn(async move { client.say_hello(hello("ada")).await });
            let stream = next_request(&mut wire).await.unwrap();
            wire.answer(stream, "well").await;
            assert_eq!(next.await.unwrap().unwrap().into_inner().message, "well");
        };
        timeout(Duration::from_secs(10), trial).await.unwrap_or_else(|_| panic!("{kind} hangs"));
    }
}
