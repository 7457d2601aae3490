//! What becomes of state and calls when the server breaks the rules, or bends them: frame by frame.

mod support;

use std::sync::Arc;
use std::time::Duration;

use cenote::grpc::ConnectivityState::{Connecting, Idle, Ready, Shutdown, TransientFailure};
use cenote::grpc::{Backoff, CallPhase, ClientConn, ConnectivityState, DialPhase, Error};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, StreamHelloRequest};
use support::frames::*;
use support::memory::*;
use support::{cause, eventually_async, hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

async fn until_idle(conn: &ClientConn) {
    eventually_async("the connection is Idle", || conn.state() == ConnectivityState::Idle).await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection_and_its_calls_and_the_next_call_dials() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    // DATA on no stream; a WINDOW_UPDATE of nothing; SETTINGS that are cut; a frame as long as can be.
    let broken: [&[u8]; 4] = [
        &[0, 0, 1, DATA, 0, 0, 0, 0, 0, 0],
        &[0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 5, SETTINGS, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5],
        &[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
    ];
    for bytes in broken {
        let call = call(&conn, hello("ada"));
        let mut wire = server.accept(&[]).await;
        wire.request().await;
        wire.write_raw(bytes).await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{bytes:?}: {status:?}");
        assert!(
            matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }),
            "{status:?}"
        );
        until_idle(&conn).await;
    }
    let call = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "well").await;
    assert_eq!(reply(call).await, "well");
}

#[tokio::test]
async fn a_stream_that_is_reset_after_its_head_fails_in_the_body_and_disturbs_no_other() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let broken = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    let whole = call(&conn, hello("bob"));
    let (other, _) = wire.request().await;
    wire.answer_head(stream).await;
    wire.reset(stream, ENHANCE_YOUR_CALM).await;
    let status = broken.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Body, .. }), "{status:?}");
    wire.answer(other, "whole").await;
    assert_eq!(reply(whole).await, "whole");
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_http_alone_is_the_status_that_grpc_maps_it_to_and_the_connection_stays_ready() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let first = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "well").await;
    first.await.unwrap().unwrap();
    for (http, expected) in [
        ("400", Code::Internal),
        ("401", Code::Unauthenticated),
        ("403", Code::PermissionDenied),
        ("404", Code::Unimplemented),
        ("429", Code::Unavailable),
        ("500", Code::Unknown),
        ("502", Code::Unavailable),
        ("503", Code::Unavailable),
        ("504", Code::Unavailable),
    ] {
        // HPACK: literals with the names of the static table, `:status` and `content-type`.
        let head = [b"\x08\x03", http.as_bytes(), b"\x0f\x10\x09text/html"].concat();
        // Of a page that is all there, and of one that goes on.
        for last in [END_STREAM, 0] {
            let call = call(&conn, hello("ada"));
            let (stream, _) = wire.request().await;
            wire.write(HEADERS, END_HEADERS, stream, &head).await;
            wire.write(DATA, last, stream, b"<html>There is nobody here.</html>").await;
            let status = call.await.unwrap().unwrap_err();
            assert_eq!(status.code(), expected, "{http}: {status:?}");
            assert!(status.message().contains(http), "{status:?}");
        }
    }
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test(start_paused = true)]
async fn with_no_streams_allowed_calls_wait_within_their_deadline_and_go_when_some_are() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let mut short = Request::new(hello("ada"));
    short.set_timeout(Duration::from_secs(7));
    let start = Instant::now();
    let short = call(&conn, short);
    let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    assert_eq!(failure(short).await.code(), Code::DeadlineExceeded);
    assert_about(start.elapsed(), Duration::from_secs(7));
    assert_eq!(conn.state(), ConnectivityState::Ready, "it only has no room");
    let patient = call(&conn, hello("bob"));
    wire.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "room").await;
    assert_eq!(reply(patient).await, "room");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lowered_midway_holds_for_what_comes_later() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let first = call(&conn, hello("ada"));
    let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
    let (one, _) = wire.request().await;
    let second = call(&conn, hello("bob"));
    let (two, _) = wire.request().await;
    wire.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    wire.acknowledged().await;
    let third = call(&conn, hello("eve"));
    wire.answer(one, "one").await;
    assert_eq!(reply(first).await, "one");
    let early = timeout(Duration::from_secs(60), wire.request()).await;
    assert!(early.is_err(), "the second still runs: {early:?}");
    wire.answer(two, "two").await;
    assert_eq!(reply(second).await, "two");
    let (three, _) = wire.request().await;
    wire.answer(three, "three").await;
    assert_eq!(reply(third).await, "three");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_call_is_sent_before_the_servers_settings_and_then_as_many_as_these_allow() {
    for (settings, at_once) in [(&[][..], 150), (&[(MAX_CONCURRENT_STREAMS, 7)], 7)] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        let calls: Vec<_> = (0..150).map(|_| call(&conn, hello("ada"))).collect();
        let mut mute = server.dialed().await;
        // The preface, SETTINGS, a WINDOW_UPDATE: no more than this.
        let mut said = vec![0; 24];
        mute.read_exact(&mut said).await.unwrap();
        let mut frames = Vec::new();
        let _ = timeout(Duration::from_secs(15), mute.read_to_end(&mut frames)).await;
        assert!(frames.len() < 100, "{} bytes", frames.len());
        assert_eq!(conn.state(), ConnectivityState::Connecting);
        let mut wire = Wire::after_the_preface(mute, settings).await;
        let mut open = Vec::new();
        while let Ok((stream, _)) = timeout(Duration::from_secs(60), wire.request()).await {
            open.push(stream);
        }
        assert_eq!(open.len(), at_once);
        for answered in 0..150 {
            if answered >= at_once {
                // Each answer makes room for one.
                open.push(wire.request().await.0);
            }
            wire.answer(open[answered], "well").await;
        }
        for call in calls {
            assert_eq!(reply(call).await, "well");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_reserved_bit_before_a_streams_number_is_no_part_of_it() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    let mut socket = server.dialed().await;
    socket.write_all(&[0, 0, 0, SETTINGS, 0, 0x80, 0, 0, 0]).await.unwrap();
    settle().await;
    assert_eq!(
        states.seen(),
        [ConnectivityState::Idle, ConnectivityState::Connecting, ConnectivityState::Ready]
    );
}

// ── one stream at a time ──

const MINUTE: Duration = Duration::from_secs(60);

/// A connection whose server allows one stream, which is taken; nothing of the client's is under way any more.
async fn with_its_only_slot_taken(conn: &ClientConn, server: &mut Pipes) -> (Call, Wire<DuplexStream>, u32) {
    let first = call(conn, hello("ada"));
    let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let (stream, _) = wire.request().await;
    wire.acknowledged().await;
    (first, wire, stream)
}

async fn silence(wire: &mut Wire<DuplexStream>) {
    let early = timeout(MINUTE, wire.read()).await;
    assert!(early.is_err(), "{early:?}");
}

/// A call that has been dropped takes leave of the server, and the next one goes in its place, without a pause.
async fn assert_slot_is_free_at_once(wire: &mut Wire<DuplexStream>, dropped: u32, next: Call) {
    let start = Instant::now();
    assert_eq!(wire.until_reset().await, (dropped, CANCEL));
    let (stream, _) = wire.request().await;
    assert_about(start.elapsed(), Duration::ZERO);
    wire.answer(stream, "next").await;
    assert_eq!(reply(next).await, "next");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_its_response_is_reset_and_the_next_has_its_slot_at_once() {
    for waits_already in [true, false] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        let (dropped, mut wire, stream) = with_its_only_slot_taken(&conn, &mut server).await;
        let next = match waits_already {
            true => {
                let next = call(&conn, hello("bob"));
                silence(&mut wire).await;
                dropped.abort();
                next
            }
            false => {
                dropped.abort();
                call(&conn, hello("bob"))
            }
        };
        assert_slot_is_free_at_once(&mut wire, stream, next).await;
        assert!(server.is_empty() && conn.state() == Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_body_is_dropped_is_reset_and_the_next_call_has_its_slot_at_once() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let (first, mut wire, stream) = with_its_only_slot_taken(&conn, &mut server).await;
    wire.answer(stream, "well").await;
    assert_eq!(reply(first).await, "well");
    let (mut replies, stream) = replies_under_way(&conn, &mut wire).await;
    wire.answer_message(stream, "one").await;
    assert_eq!(next(&mut replies).await.unwrap(), "one");
    let next = call(&conn, hello("bob"));
    silence(&mut wire).await;
    drop(replies);
    assert_slot_is_free_at_once(&mut wire, stream, next).await;
    assert!(server.is_empty() && conn.state() == Ready);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_for_a_slot_is_not_heard_of_and_not_in_the_way() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let (first, mut wire, stream) = with_its_only_slot_taken(&conn, &mut server).await;
    let dropped = call(&conn, hello("nobody"));
    silence(&mut wire).await;
    let next = call(&conn, hello("bob"));
    silence(&mut wire).await;
    dropped.abort();
    silence(&mut wire).await;
    wire.answer(stream, "first").await;
    let start = Instant::now();
    let (newer, body) = wire.request().await;
    assert_about(start.elapsed(), Duration::ZERO);
    assert_eq!(newer, stream + 2, "no stream was begun for the other");
    assert!(body.ends_with(b"bob"), "{body:?}");
    wire.answer(newer, "next").await;
    assert_eq!((reply(first).await, reply(next).await), ("first".to_owned(), "next".to_owned()));
    silence(&mut wire).await;
}

#[tokio::test(start_paused = true)]
async fn close_ends_calls_that_wait_for_a_slot_at_once_also_with_a_grace() {
    for (grace, limit, patience) in
        [(0, 0, false), (0, 1, false), (0, 1, true), (30, 0, false), (30, 1, false), (30, 1, true)]
    {
        let (builder, mut server) = in_memory();
        let builder = builder.close_grace(Duration::from_secs(grace)).wait_for_ready(patience);
        let conn = builder.build().unwrap();
        let states = States::of(&conn);
        conn.connect();
        let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, limit)]).await;
        wire.acknowledged().await;
        let runs = match limit {
            0 => None,
            _ => {
                let runs = call(&conn, hello("ada"));
                Some((runs, wire.request().await.0))
            }
        };
        let waiting: Vec<_> = (0..3).map(|_| call(&conn, hello("bob"))).collect();
        silence(&mut wire).await;
        let start = Instant::now();
        conn.close();
        for call in waiting {
            let status = failure(call).await;
            assert_eq!(status.code(), Code::Cancelled, "{status:?}");
            assert!(matches!(cause(&status), Error::Closed), "{status:?}");
        }
        assert_about(start.elapsed(), Duration::ZERO);
        match runs {
            Some((runs, stream)) if grace > 0 => {
                wire.answer(stream, "in time").await;
                assert_eq!(reply(runs).await, "in time");
            }
            Some((runs, _)) => assert!(matches!(cause(&failure(runs).await), Error::Closed)),
            None => {}
        }
        timeout(Duration::from_secs(1), wire.closed()).await.expect("the socket is closed");
        assert_eq!(states.seen(), [Idle, Connecting, Ready, Shutdown]);
    }
}

// ── the end of a connection without calls ──

#[tokio::test(start_paused = true)]
async fn a_socket_that_ends_without_a_call_makes_the_connection_idle() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    let mut wire = server.accept(&[]).await;
    wire.acknowledged().await;
    assert_eq!(conn.state(), Ready);
    drop(wire);
    settle().await;
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
    assert_about(states.last_change(), Duration::ZERO);
    tokio::time::sleep(60 * MINUTE).await;
    assert!(server.is_empty(), "nobody needs another");
}

#[tokio::test(start_paused = true)]
async fn after_a_goaway_without_a_call_it_is_idle_and_it_is_the_client_that_closes() {
    for code in [NO_ERROR, ENHANCE_YOUR_CALM] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        let states = States::of(&conn);
        conn.connect();
        let mut wire = server.accept(&[]).await;
        wire.acknowledged().await;
        let start = Instant::now();
        wire.goaway(0, code, b"").await;
        // Our end stays open.
        wire.closed().await;
        assert_about(start.elapsed(), Duration::ZERO);
        settle().await;
        assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
        assert_about(states.last_change(), Duration::ZERO);
        assert!(server.is_empty(), "nobody needs another");
    }
}

// ── resets and a GOAWAY, by how far the call is ──

type Replies = Streaming<HelloReply>;

/// A response of many messages, up to the end of its head.
async fn replies_under_way(conn: &ClientConn, wire: &mut Wire<DuplexStream>) -> (Replies, u32) {
    let mut client = GreeterClient::new(conn.clone());
    let many = StreamHelloRequest { name: "ada".to_owned(), count: 9, pause_ms: 0 };
    let replies = tokio::spawn(async move { client.stream_hello(many).await });
    let (stream, _) = wire.request().await;
    wire.answer_head(stream).await;
    let replies = timeout(FOREVER, replies).await.expect("a response").unwrap();
    (replies.unwrap().into_inner(), stream)
}

/// The next message.
async fn next(replies: &mut Replies) -> Result<String, Status> {
    let message = timeout(FOREVER, replies.message()).await.expect("a message, or an error");
    message.map(|message| message.expect("not the end").message)
}

#[track_caller]
fn assert_broken_off(status: &Status, expected: Code, phase_of_it: CallPhase) {
    assert_eq!(status.code(), expected, "{status:?}");
    match cause(status) {
        Error::Interrupted { phase, .. } => assert_eq!(*phase, phase_of_it, "{status:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_after_messages_gives_these_and_then_the_error() {
    const INTERNAL_ERROR: u32 = 2;
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    // Read as they come, or when all has come.
    for at_once in [false, true] {
        let (mut replies, stream) = replies_under_way(&conn, &mut wire).await;
        for text in ["one", "two"] {
            wire.answer_message(stream, text).await;
            if !at_once {
                assert_eq!(next(&mut replies).await.unwrap(), text);
            }
        }
        wire.reset(stream, INTERNAL_ERROR).await;
        settle().await;
        if at_once {
            for text in ["one", "two"] {
                assert_eq!(next(&mut replies).await.unwrap(), text);
            }
        }
        assert_broken_off(&next(&mut replies).await.unwrap_err(), Code::Internal, CallPhase::Body);
    }
    served(&conn, &mut wire).await;
    assert!(server.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reset_for_inadequate_security_is_permission_denied() {
    const INADEQUATE_SECURITY: u32 = 12;
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let first = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.reset(stream, INADEQUATE_SECURITY).await;
    assert_broken_off(&failure(first).await, Code::PermissionDenied, CallPhase::Response);
    // The next request is the next call's.
    served(&conn, &mut wire).await;
    assert!(server.is_empty());
}

/// RFC 9113, section 8.1: a server that has said all asks the client so to send no more.
#[tokio::test(start_paused = true)]
async fn a_reset_after_the_trailers_while_the_client_still_sends_leaves_the_call_a_success() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    for code in [NO_ERROR, CANCEL] {
        let (send, names) = mpsc::channel(1);
        let mut client = GreeterClient::new(conn.clone());
        let chat = tokio::spawn(async move {
            let mut replies = client.chat(ReceiverStream::new(names)).await?.into_inner();
            let mut texts = Vec::new();
            while let Some(reply) = replies.message().await? {
                texts.push(reply.message);
            }
            Ok::<_, Status>(texts)
        });
        send.send(hello("ada")).await.unwrap();
        let stream = wire.headers().await;
        wire.answer(stream, "enough").await;
        wire.reset(stream, code).await;
        let texts = timeout(FOREVER, chat).await.expect("an outcome").unwrap();
        assert_eq!(texts.unwrap(), ["enough"]);
        timeout(MINUTE, send.closed()).await.expect("the names are let go");
    }

    // A message that does not fit into the stream's window, and an answer before its end.
    let large = call(&conn, hello(&"a".repeat(100 << 10)));
    let stream = wire.headers().await;
    wire.answer(stream, "enough").await;
    wire.reset(stream, NO_ERROR).await;
    assert_eq!(reply(large).await, "enough");
    // The rest of it was not sent, and what was has used up the connection's window.
    wire.widen(1 << 20).await;
    served(&conn, &mut wire).await;
    assert!(server.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_goaway_below_a_stream_whose_response_has_begun_breaks_it_off_and_sends_nothing_again() {
    for code in [NO_ERROR, ENHANCE_YOUR_CALM] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        conn.connect();
        let mut wire = server.accept(&[]).await;
        let (mut replies, stream) = replies_under_way(&conn, &mut wire).await;
        wire.answer_message(stream, "one").await;
        assert_eq!(next(&mut replies).await.unwrap(), "one");
        wire.goaway(0, code, b"").await;
        assert_broken_off(&next(&mut replies).await.unwrap_err(), Code::Unavailable, CallPhase::Body);
        assert_eq!(conn.state(), Idle);
        tokio::time::sleep(60 * MINUTE).await;
        assert!(server.is_empty(), "nothing is dialed for it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_ends_without_an_error_before_its_trailers_is_broken_off_all_the_same() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    // Also with a message that a unary call would be content with.
    for messages in [0, 1] {
        let call = call(&conn, hello("ada"));
        let (stream, _) = wire.request().await;
        wire.answer_head(stream).await;
        for _ in 0..messages {
            wire.answer_message(stream, "one").await;
        }
        wire.reset(stream, NO_ERROR).await;
        assert_broken_off(&failure(call).await, Code::Internal, CallPhase::Body);
    }
    served(&conn, &mut wire).await;
    // A server that ends the stream itself, without a status.
    let call = call(&conn, hello("ada"));
    let (stream, _) = wire.request().await;
    wire.answer_head(stream).await;
    wire.write(DATA, END_STREAM, stream, b"").await;
    let status = failure(call).await;
    assert!(matches!(cause(&status), Error::TruncatedResponse), "{status:?}");
    assert_eq!(status.code(), Code::Internal);
    assert!(server.is_empty() && conn.state() == Ready);
}

// ── many at once ──

/// On four threads, and so on the real clock; but nothing in it waits for time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_connects_and_calls_shares_one_failing_dial_and_its_error() {
    let (builder, mut server) = in_memory();
    let hour = Duration::from_secs(3600);
    let conn = builder.backoff(Backoff { initial: hour, max: hour, ..Backoff::default() }).build().unwrap();
    let storm = |conn: &ClientConn| {
        let storms: Vec<_> = (0..8)
            .map(|_| {
                let conn = conn.clone();
                tokio::spawn(async move {
                    for _ in 0..1000 {
                        conn.connect();
                    }
                })
            })
            .collect();
        async move {
            for storm in storms {
                storm.await.unwrap();
            }
        }
    };
    let first_storm = storm(&conn);
    let calls: Vec<_> = (0..100).map(|i| call(&conn, hello(&i.to_string()))).collect();
    let socket = server.dialed().await;
    first_storm.await;
    assert!(server.is_empty(), "one dial is under way");
    assert_eq!(conn.state(), Connecting);
    let second_storm = storm(&conn);
    drop(socket);
    let mut sources = Vec::new();
    for call in calls {
        let status = failure(call).await;
        // By a read or by a write, whichever came first.
        assert_eq!(dial_failure(&status).0, DialPhase::Settings);
        let Error::Dial { source, .. } = cause(&status) else { panic!("{status:?}") };
        sources.push(Arc::clone(source));
    }
    assert!(sources.iter().all(|source| Arc::ptr_eq(source, &sources[0])), "each its own: {sources:?}");
    second_storm.await;
    assert_eq!(conn.state(), TransientFailure);
    assert!(server.is_empty(), "the next one is due in an hour");
}
