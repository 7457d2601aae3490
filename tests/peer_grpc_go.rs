//! `ClientConn` and `ClientPool` against a server of another make: grpc-go.
//!
//! The tests build it with the `go` they find. Where that cannot be done they say so and pass, unless
//! `CENOTE_REQUIRE_PEERS` is set.

mod peers;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cenote::grpc::{CallPhase, ClientConn, ClientPool, ConnectivityState, Error, Keepalive};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloRequest, StreamHelloRequest};
use peers::{Peer, no_call_fails_while, until_state};
use support::{cause, hello, slow_hello};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

const LONG: Duration = Duration::from_secs(60);

/// `None` where it cannot be built, after having said so. The options are in the server's `main.go`.
fn start(port: u16, options: &[&str]) -> Option<Peer> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program =
        peers::found("grpc-go", PROGRAM.get_or_init(|| peers::go_program(".", "grpc-go-greeter")).as_ref())?;
    Some(Peer::start(Command::new(program).arg(format!("-port={port}")).args(options)))
}

/// The most `SayHello`s that it had at once, and how many of them were cancelled.
fn seen(server: &mut Peer) -> (u32, u32) {
    let answer = server.ask("seen");
    let (peak, cancelled) = answer.split_once(' ').unwrap();
    (peak.parse().unwrap(), cancelled.parse().unwrap())
}

async fn until_seen(server: &mut Peer, what: &str, holds: impl Fn((u32, u32)) -> bool) {
    support::eventually_async(what, || holds(seen(server))).await;
}

#[tokio::test]
async fn calls_and_streams_work_in_both_directions() {
    let Some(server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    assert_eq!(client.say_hello(hello("ada")).await.unwrap().into_inner().message, "grpc-go: hello, ada");
    assert_eq!(conn.state(), ConnectivityState::Ready);

    let request = StreamHelloRequest { name: "ada".to_owned(), count: 1000, pause_ms: 0 };
    let mut replies = client.stream_hello(request).await.unwrap().into_inner();
    for i in 0..1000 {
        assert_eq!(replies.message().await.unwrap().unwrap().message, format!("{i}: hello, ada"));
    }
    assert!(replies.message().await.unwrap().is_none());

    // Each is answered before the next is sent, one of them larger than HTTP/2's first window. The server's response
    // begins with its first answer.
    let (names, receive) = tokio::sync::mpsc::channel(1);
    names.send(hello("ada")).await.unwrap();
    let mut replies = client.chat(ReceiverStream::new(receive)).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "hello, ada");
    for name in ["b".repeat(300_000), "grace".to_owned()] {
        names.send(hello(&name)).await.unwrap();
        assert_eq!(replies.message().await.unwrap().unwrap().message, format!("hello, {name}"));
    }
    drop(names);
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_comes_with_its_details_and_trailers_and_the_connection_stays_ready() {
    let Some(server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let status = GreeterClient::new(conn.clone()).say_hello(hello("nobody")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "nobody is not here"));
    // A google.rpc.Status in its wire form.
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains("type.googleapis.com/google.protobuf.StringValue"), "{details}");
    assert!(details.contains("a detail"), "{details}");
    assert_eq!(status.metadata().get("looked-in").unwrap(), "every-cave");
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn a_graceful_stop_is_idle_at_once_the_open_call_completes_and_the_next_finds_the_next_server() {
    let Some(mut server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let mut open = client.clone();
    let call =
        tokio::spawn(async move { open.say_hello(slow_hello("ada", Duration::from_millis(1500))).await });
    until_seen(&mut server, "the call is there", |(peak, _)| peak == 1).await;
    assert_eq!(server.ask("graceful"), "ok");
    until_state(&conn, ConnectivityState::Idle).await;
    assert!(!call.is_finished());
    let Some(mut next) = start(server.port, &[]) else { return };
    client.say_hello(hello("grace")).await.unwrap();
    assert_eq!(seen(&mut next), (1, 0));
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_call_is_unavailable() {
    let Some(mut server) = start(0, &[]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(slow_hello("ada", LONG)).await });
    until_seen(&mut server, "the call is there", |(peak, _)| peak == 1).await;
    assert_eq!(server.ask("stop"), "ok");
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
    until_state(&conn, ConnectivityState::Idle).await;
}

#[tokio::test]
async fn no_call_fails_while_connections_grow_old() {
    let Some(server) = start(0, &["-max-age=50ms", "-max-age-grace=10s"]) else { return };
    let pool = ClientPool::builder(server.target()).max_connections(2).build().unwrap();
    no_call_fails_while(&pool, sleep(Duration::from_secs(1))).await;
    let stats = pool.stats();
    assert!(stats.dials > 4, "{stats:?}");
    assert_eq!((stats.failed_dials, stats.discarded.total()), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn more_callers_than_streams_take_turns() {
    let Some(mut server) = start(0, &["-max-streams=2"]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let mut client = GreeterClient::new(conn.clone());
            tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(20))).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(seen(&mut server), (2, 0));
}

#[tokio::test]
async fn the_server_is_told_the_deadline() {
    let Some(server) = start(0, &[]) else { return };
    let mut client = GreeterClient::new(ClientConn::new(server.target()).unwrap());
    let mut told = async |request| client.say_hello(request).await.unwrap().into_inner().message;
    let mut request = Request::new(hello("how long"));
    request.set_timeout(LONG);
    let left: u128 = told(request).await.parse().unwrap();
    assert!(left > 0 && left <= LONG.as_millis(), "{left} ms");
    assert_eq!(told(Request::new(hello("how long"))).await, "no deadline");
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_the_server_and_disturbs_no_other() {
    let Some(mut server) = start(0, &[]) else { return };
    let client = GreeterClient::new(ClientConn::new(server.target()).unwrap());
    let call = |request: HelloRequest| {
        let mut client = client.clone();
        tokio::spawn(async move { client.say_hello(request).await })
    };
    let (dropped, other) = (call(slow_hello("ada", LONG)), call(slow_hello("bob", Duration::from_secs(1))));
    until_seen(&mut server, "both calls are there", |(peak, _)| peak == 2).await;
    dropped.abort();
    until_seen(&mut server, "one is cancelled", |(_, cancelled)| cancelled == 1).await;
    other.await.unwrap().unwrap();
    assert_eq!(seen(&mut server), (2, 1));
}

#[tokio::test]
async fn a_connection_that_the_server_finds_idle_is_idle_and_the_next_call_works() {
    let Some(server) = start(0, &["-max-idle=100ms"]) else { return };
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    for _ in 0..2 {
        client.say_hello(hello("ada")).await.unwrap();
        until_state(&conn, ConnectivityState::Idle).await;
    }
}

#[tokio::test]
async fn who_pings_too_often_is_told_to_be_calm_and_the_next_call_works() {
    for (min_ping_interval, too_often) in [("1h", true), ("1ns", false)] {
        let Some(mut server) = start(0, &[&format!("-min-ping-interval={min_ping_interval}")]) else {
            return;
        };
        let keepalive = Keepalive { timeout: 60 * LONG, ..Keepalive::every(Duration::from_secs(10)) };
        let conn =
            ClientConn::builder(server.target()).keepalive(keepalive).idle_timeout(None).build().unwrap();
        let mut client = GreeterClient::new(conn.clone());
        let mut open = client.clone();
        let call = tokio::spawn(async move { open.say_hello(slow_hello("ada", LONG)).await });
        until_seen(&mut server, "the call is there", |(peak, _)| peak == 1).await;
        // The fourth is too many for grpc-go, by its own clock, on which all of them come in a second. The client's is put
        // forward by the least time between two of them.
        let start = Instant::now();
        for round in 0.. {
            if conn.state() != ConnectivityState::Ready || !too_often && round == 20 {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20));
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(10)).await;
            tokio::time::resume();
            sleep(Duration::from_millis(20)).await;
        }
        if too_often {
            assert_eq!(conn.state(), ConnectivityState::Idle);
            assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
        } else {
            assert!(!call.is_finished());
        }
        client.say_hello(hello("grace")).await.unwrap();
    }
}
