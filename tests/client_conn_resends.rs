//! What was certainly not processed is sent again, and nothing else is: against a server that speaks frame by frame.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote::grpc::{CallPhase, ClientConn, ConnectivityState, Error};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest};
use support::frames::*;
use support::memory::{failure, in_memory};
use support::{TonicServer, cause, hello, slow_hello, socket_broke};
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

type Call = JoinHandle<Result<Response<HelloReply>, Status>>;

fn call(conn: &ClientConn, request: HelloRequest) -> Call {
    let mut client = GreeterClient::new(conn.clone());
    tokio::spawn(async move { client.say_hello(request).await })
}

async fn reply(call: Call) -> String {
    call.await.unwrap().unwrap().into_inner().message
}

/// In time, since a connection that nobody makes must fail the test.
async fn accept(server: &FrameServer) -> Wire {
    tokio::time::timeout(Duration::from_secs(10), server.accept(&[])).await.expect("a connection")
}

#[tokio::test]
async fn a_refused_request_is_sent_again_once_on_the_same_connection() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let first = call(&conn, hello("ada"));
    let mut wire = accept(&server).await;
    let (stream, body) = wire.request().await;
    wire.reset(stream, REFUSED_STREAM).await;
    let (again, same) = wire.request().await;
    assert!(again > stream);
    assert_eq!(same, body, "whole, from its beginning");
    wire.answer(again, "at last").await;
    assert_eq!(reply(first).await, "at last");
    assert_eq!(conn.state(), ConnectivityState::Ready, "a refusal says nothing of the connection");

    let second = call(&conn, hello("ada"));
    for _ in 0..2 {
        let (stream, _) = wire.request().await;
        wire.reset(stream, REFUSED_STREAM).await;
    }
    let status = second.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::NotProcessed { .. }), "{status:?}");
}

#[tokio::test]
async fn a_request_above_a_goaways_last_stream_goes_to_the_next_connection_and_those_below_complete() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let below = call(&conn, hello("ada"));
    let mut old = accept(&server).await;
    let (processed, _) = old.request().await;
    let above = call(&conn, hello("bob"));
    let (_, body) = old.request().await;
    old.goaway(processed, NO_ERROR, b"").await;

    let mut new = accept(&server).await;
    let (stream, same) = new.request().await;
    assert_eq!(same, body);
    new.answer(stream, "from the new one").await;
    assert_eq!(reply(above).await, "from the new one");
    old.answer(processed, "from the old one").await;
    assert_eq!(reply(below).await, "from the old one");
}

/// hyper may have taken a request and not sent it when it reads the GOAWAY; then it drops it, and says no more.
#[tokio::test]
async fn no_call_is_lost_by_a_goaway_while_a_busy_connection_is_told_to_go_away_again_and_again() {
    let server = TonicServer::start_with(|server| {
        server.max_connection_age(Duration::from_millis(20)).max_concurrent_streams(5)
    });
    let conn = ClientConn::new(server.target()).unwrap();
    let start = Instant::now();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let mut client = GreeterClient::new(conn.clone());
            let seen = Arc::clone(&server.seen);
            tokio::spawn(async move {
                while seen.accepted() <= 50 {
                    assert!(start.elapsed() < Duration::from_secs(60), "{} connections", seen.accepted());
                    if let Err(status) = client.say_hello(slow_hello("ada", Duration::from_millis(3))).await {
                        assert!(socket_broke(&status), "{status:?}");
                        // On a busy machine a connection may be old before it is Ready: room for the next dial.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_wait_for_room_when_a_goaway_comes_go_to_the_next_connection() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let first = call(&conn, hello("ada"));
    let mut old = server.accept(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let (processed, _) = old.request().await;
    let waiting: Vec<_> = (0..5).map(|_| call(&conn, hello("bob"))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    old.goaway(processed, NO_ERROR, b"").await;

    let mut new = accept(&server).await;
    for _ in &waiting {
        let request = tokio::time::timeout(Duration::from_secs(10), new.request());
        let (stream, _) = request.await.expect("each comes");
        new.answer(stream, "from the new one").await;
    }
    for call in waiting {
        assert_eq!(reply(call).await, "from the new one");
    }
    old.answer(processed, "from the old one").await;
    assert_eq!(reply(first).await, "from the old one");
}

#[tokio::test]
async fn a_second_goaway_with_a_lower_stream_gives_up_those_in_between() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let first = call(&conn, hello("ada"));
    let mut old = accept(&server).await;
    let (processed, _) = old.request().await;
    let second = call(&conn, hello("bob"));
    old.request().await;
    old.goaway((1 << 31) - 1, NO_ERROR, b"").await;
    let idle = async {
        while conn.wait_for_state_change(ConnectivityState::Ready).await != ConnectivityState::Idle {}
    };
    tokio::time::timeout(Duration::from_secs(10), idle).await.expect("the GOAWAY is heard");
    // Covered as yet: it stays where it is.
    let third = call(&conn, hello("eve"));
    let mut new = accept(&server).await;
    let (stream, _) = new.request().await;
    new.answer(stream, "third").await;
    assert_eq!(reply(third).await, "third");
    assert!(!second.is_finished());
    old.goaway(processed, NO_ERROR, b"").await;
    let (stream, _) = new.request().await;
    new.answer(stream, "second").await;
    assert_eq!(reply(second).await, "second");
    old.answer(processed, "first").await;
    assert_eq!(reply(first).await, "first");
}

#[tokio::test(start_paused = true)]
async fn a_second_goaway_that_raises_its_stream_breaks_the_protocol_and_nothing_is_sent_again_for_it() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let first = call(&conn, hello("ada"));
    let mut old = server.accept(&[]).await;
    let (covered, _) = old.request().await;
    let second = call(&conn, hello("bob"));
    let (above, _) = old.request().await;
    old.goaway(covered, NO_ERROR, b"").await;
    let mut new = server.accept(&[]).await;
    let (again, _) = new.request().await;
    old.goaway(above, NO_ERROR, b"").await;
    let status = failure(first).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
    new.answer(again, "once").await;
    assert_eq!(reply(second).await, "once");
    assert_eq!(conn.state(), ConnectivityState::Ready, "the new connection has no part in it");
}

#[tokio::test]
async fn too_many_pings_is_a_loss_like_others_and_what_it_does_not_cover_is_sent_again() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let only = call(&conn, hello("ada"));
    let mut old = accept(&server).await;
    old.request().await;
    old.goaway(0, ENHANCE_YOUR_CALM, b"too_many_pings").await;
    drop(old);
    let mut new = accept(&server).await;
    let (stream, _) = new.request().await;
    new.answer(stream, "calm").await;
    assert_eq!(reply(only).await, "calm");
}

#[tokio::test]
async fn a_request_that_a_goaway_covers_is_not_sent_again_when_the_socket_goes() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let only = call(&conn, hello("ada"));
    let mut old = accept(&server).await;
    let (covered, _) = old.request().await;
    old.goaway(covered, NO_ERROR, b"").await;
    drop(old);
    let status = only.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
    let no_other = tokio::time::timeout(Duration::from_millis(200), server.accept(&[])).await;
    assert!(no_other.is_err(), "nothing is dialed for it");
}

#[tokio::test]
async fn a_stream_that_is_reset_otherwise_is_not_sent_again() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let only = call(&conn, hello("ada"));
    let mut wire = accept(&server).await;
    let (stream, _) = wire.request().await;
    wire.reset(stream, CANCEL).await;
    let status = only.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    assert!(matches!(cause(&status), Error::Interrupted { .. }), "{status:?}");
    // The next request is the next call's.
    let next = call(&conn, hello("bob"));
    let (stream, _) = wire.request().await;
    wire.answer(stream, "next").await;
    assert_eq!(reply(next).await, "next");
}

#[tokio::test]
async fn a_request_larger_than_what_is_kept_fails_and_says_that_it_was_not_processed() {
    let server = FrameServer::start().await;
    for (conn, name) in [
        (ClientConn::builder(server.target()).resend_buffer(100).build().unwrap(), "a".repeat(200)),
        (ClientConn::builder(server.target()).resend_buffer(0).build().unwrap(), "a".to_owned()),
    ] {
        let only = call(&conn, hello(&name));
        let mut wire = accept(&server).await;
        let (stream, _) = wire.request().await;
        wire.reset(stream, REFUSED_STREAM).await;
        let status = only.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(matches!(cause(&status), Error::NotProcessed { .. }), "{status:?}");
    }
}

#[tokio::test]
async fn a_stream_of_messages_that_is_refused_midway_begins_again_from_its_first() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let (send, messages) = tokio::sync::mpsc::channel(4);
    let mut client = GreeterClient::new(conn.clone());
    let chat = tokio::spawn(async move {
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut replies = client.chat(messages).await?.into_inner();
        replies.message().await
    });
    send.send(hello("one")).await.unwrap();
    let mut wire = accept(&server).await;
    let stream = wire.headers().await;
    let data = loop {
        let frame = wire.read().await.unwrap();
        if frame.kind == DATA {
            break frame.payload;
        }
    };
    wire.reset(stream, REFUSED_STREAM).await;
    let again = wire.headers().await;
    send.send(hello("two")).await.unwrap();
    drop(send);
    let (ended, body) = wire.request().await;
    assert_eq!(ended, again);
    assert!(body.starts_with(&data) && body.len() > data.len(), "{data:?} {body:?}");
    wire.answer(again, "both").await;
    assert_eq!(chat.await.unwrap().unwrap().unwrap().message, "both");
}

/// A socket that has room for this call to the byte, once an earlier one has been answered.
async fn room_for(request: &HelloRequest) -> usize {
    let (builder, mut server) = support::memory::in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    support::memory::settle().await;
    support::memory::served(&conn, &mut wire).await;
    let call = support::memory::call(&conn, request.clone());
    let mut bytes = 0;
    loop {
        let frame = wire.read().await.unwrap();
        bytes += 9 + frame.payload.len();
        if frame.flags & END_STREAM != 0 && frame.kind == DATA {
            call.abort();
            return bytes;
        }
    }
}

/// The socket is full to the byte, so that the next request is in h2's buffer, all of it. The server ends its side and reads
/// on; h2 writes what it has buffered before it closes.
#[tokio::test(start_paused = true)]
async fn a_request_that_goes_to_the_next_connection_does_not_leave_on_the_old_one_as_well() {
    let first = hello(&"x".repeat(1000));
    let (builder, mut server) = support::memory::in_memory_with_capacity(room_for(&first).await);
    let conn = builder.build().unwrap();
    conn.connect();
    let mut old = server.accept(&[]).await;
    support::memory::settle().await;
    support::memory::served(&conn, &mut old).await;
    let first = support::memory::call(&conn, first);
    support::memory::settle().await;
    let waiting = support::memory::call(&conn, hello("bob"));
    support::memory::settle().await;
    old.end().await;
    support::memory::settle().await;
    let mut on_the_old = Vec::new();
    while let Some(frame) = old.read().await {
        if frame.kind == HEADERS {
            on_the_old.push(frame.stream);
        }
    }
    assert!(on_the_old.contains(&3), "the first call's: {on_the_old:?}");
    support::memory::failure(first).await;
    if on_the_old.contains(&5) {
        support::memory::failure(waiting).await;
        assert!(server.is_empty(), "it has left, and is sent again");
    } else {
        let mut new = server.accept(&[]).await;
        let (stream, _) = new.request().await;
        new.answer(stream, "on the new one").await;
        assert_eq!(support::memory::reply(waiting).await, "on the new one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_not_left_when_its_connection_ends_goes_to_the_next() {
    let (builder, mut server) = support::memory::in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    support::memory::settle().await;
    support::memory::served(&conn, &mut wire).await;
    // The task that drives the connection hears of both at once.
    let calls = [support::memory::call(&conn, hello("ada")), support::memory::call(&conn, hello("bob"))];
    drop(wire);
    let mut wire = server.accept(&[]).await;
    for _ in 0..2 {
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
    }
    for call in calls {
        assert_eq!(support::memory::reply(call).await, "well");
    }
}
