//! Connections that go silent: HTTP/2 pings and what they find out, on a paused clock; and a network that swallows all there
//! is, with real sockets.

mod support;

use std::time::Duration;

use cenote::grpc::ConnectivityState::{Connecting, Idle, Ready};
use cenote::grpc::{CallPhase, ClientConn, Error, Keepalive, StreamPool};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::*;
use support::memory::*;
use support::{TonicServer, blackhole::Proxy, cause, hello};
use tokio::io::DuplexStream;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(3);

const KEEPALIVE: Keepalive = Keepalive { timeout: TIMEOUT, ..Keepalive::every(INTERVAL) };

async fn ping(wire: &mut Wire<DuplexStream>) -> Frame {
    loop {
        let frame = wire.read().await.expect("a ping");
        if frame.kind == PING && frame.flags & ACK == 0 {
            return frame;
        }
    }
}

/// Nothing at all comes from the client.
async fn silence(wire: &mut Wire<DuplexStream>, time: Duration) {
    let heard = timeout(time, wire.read()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[track_caller]
fn assert_lost(status: &tonic::Status) {
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
}

/// Answers pings until the state is another.
async fn pings_until_idle(conn: &ClientConn, wire: &mut Wire<DuplexStream>) {
    let idle = conn.wait_for_state_change(Ready);
    tokio::pin!(idle);
    loop {
        let ping = tokio::select! {
            biased;
            state = &mut idle => return assert_eq!(state, Idle),
            ping = ping(wire) => ping,
        };
        wire.write(PING, ACK, 0, &ping.payload).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_call_of_a_connection_that_takes_no_new_ones_is_pinged_for_too() {
    for by_age in [false, true] {
        let (builder, mut server) = in_memory();
        let builder = if by_age { builder.max_connection_age(6 * INTERVAL) } else { builder };
        let conn = builder.keepalive(KEEPALIVE).build().unwrap();
        let mut client = GreeterClient::new(conn.clone());
        let request = StreamHelloRequest { name: "ada".to_owned(), count: 2, pause_ms: 0 };
        let replies = tokio::spawn(async move { client.stream_hello(request).await });
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer_head(stream).await;
        let mut replies = replies.await.unwrap().unwrap().into_inner();
        if by_age {
            pings_until_idle(&conn, &mut wire).await;
        } else {
            wire.goaway(stream, NO_ERROR, b"").await;
            conn.wait_for_state_change(Ready).await;
        }
        let silent = Instant::now();
        let status = timeout(FOREVER, replies.message()).await.expect("an end").unwrap_err();
        assert!(silent.elapsed() <= INTERVAL + TIMEOUT + Duration::from_millis(5), "{:?}", silent.elapsed());
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        wire.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_pinged_too_much_is_pinged_half_as_often_on_the_next_connection() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    let mut interval = INTERVAL;
    for _ in 0..3 {
        let open = call(&conn, hello("ada"));
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        let silent = Instant::now();
        ping(&mut wire).await;
        assert_about(silent.elapsed(), interval);
        wire.goaway(stream, ENHANCE_YOUR_CALM, b"too_many_pings").await;
        settle().await;
        assert_eq!(conn.state(), Idle);
        wire.answer(stream, "well").await;
        assert_eq!(reply(open).await, "well");
        interval *= 2;
    }
}

/// Servers and proxies say ENHANCE_YOUR_CALM of overload, too.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_to_be_calm_for_another_reason_is_pinged_as_often_as_before() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    for text in [&b""[..], b"too many requests", b"too_many_pings!"] {
        let open = call(&conn, hello("ada"));
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        let silent = Instant::now();
        ping(&mut wire).await;
        assert_about(silent.elapsed(), INTERVAL);
        wire.goaway(stream, ENHANCE_YOUR_CALM, text).await;
        settle().await;
        wire.answer(stream, "well").await;
        assert_eq!(reply(open).await, "well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_pinged_too_much_by_a_stream_pool_is_pinged_half_as_often_by_all_that_follow() {
    let (connector, mut server) = pipes(CAPACITY);
    let pool = StreamPool::builder().connector(connector).keepalive(KEEPALIVE).build().unwrap();
    let channel = pool.channel("in.memory:1").unwrap();
    let mut interval = INTERVAL;
    for _ in 0..3 {
        let mut client = GreeterClient::new(channel.clone());
        let open = tokio::spawn(async move { client.say_hello(hello("ada")).await });
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        let silent = Instant::now();
        ping(&mut wire).await;
        assert_about(silent.elapsed(), interval);
        // Said twice by one connection, it is one complaint.
        wire.goaway(stream, ENHANCE_YOUR_CALM, b"too_many_pings").await;
        wire.goaway(stream, ENHANCE_YOUR_CALM, b"too_many_pings").await;
        settle().await;
        wire.answer(stream, "well").await;
        assert_eq!(reply(open).await, "well");
        interval *= 2;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_with_a_call_open_is_pinged_and_lost_if_it_does_not_answer() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    let states = States::of(&conn);
    let open = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    wire.request().await;
    let silent = Instant::now();
    ping(&mut wire).await;
    assert_about(silent.elapsed(), INTERVAL);
    // One that is made meanwhile is on the same connection, for what is known of it.
    let another = call(&conn, hello("bob"));
    wire.closed().await;
    assert_about(silent.elapsed(), INTERVAL + TIMEOUT);
    assert_lost(&failure(open).await);
    assert_lost(&failure(another).await);
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle], "lost is Idle, and no failure");
    assert_about(states.last_change(), INTERVAL + TIMEOUT);

    let next = call(&conn, hello("eve"));
    let mut wire = server.accept(&[]).await;
    assert_about(silent.elapsed(), INTERVAL + TIMEOUT);
    let (stream, _) = wire.request().await;
    wire.answer(stream, "again").await;
    assert_eq!(reply(next).await, "again");
    assert_eq!(conn.state(), Ready);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_can_neither_read_nor_write_is_lost_at_the_same_time() {
    // More than the pipe holds: the ping itself does not get through.
    let (builder, mut server) = in_memory_with_capacity(4096);
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    let states = States::of(&conn);
    let large = call(&conn, hello(&"a".repeat(20_000)));
    let wire = server.accept(&[]).await;
    settle().await;
    assert_eq!(conn.state(), Ready);
    assert_lost(&failure(large).await);
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
    assert_about(states.last_change(), INTERVAL + TIMEOUT);
    drop(wire);
}

#[tokio::test(start_paused = true)]
async fn no_ping_is_sent_while_no_call_is_open_and_one_at_once_when_a_call_is_after_long_silence() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).idle_timeout(None).build().unwrap();
    let first = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "well").await;
    reply(first).await;
    wire.acknowledged().await;
    silence(&mut wire, 10 * HOUR).await;
    assert_eq!(conn.state(), Ready);

    let start = Instant::now();
    let second = call(&conn, hello("ada"));
    ping(&mut wire).await;
    assert_about(start.elapsed(), Duration::ZERO);
    wire.closed().await;
    assert_about(start.elapsed(), TIMEOUT);
    assert_lost(&failure(second).await);
}

#[tokio::test(start_paused = true)]
async fn by_default_no_ping_is_sent_and_one_that_is_waits_twenty_seconds_for_its_answer() {
    for keepalive in [None, Some(Keepalive::every(INTERVAL))] {
        let (builder, mut server) = in_memory();
        let builder = if keepalive.is_some() { builder.keepalive(keepalive) } else { builder };
        let conn = builder.build().unwrap();
        let open = call(&conn, hello("ada"));
        let mut wire = server.accept(&[]).await;
        wire.request().await;
        wire.acknowledged().await;
        let start = Instant::now();
        match keepalive {
            None => {
                silence(&mut wire, 10 * HOUR).await;
                assert!(!open.is_finished() && conn.state() == Ready);
            }
            Some(_) => {
                ping(&mut wire).await;
                wire.closed().await;
                assert_about(start.elapsed(), INTERVAL + Duration::from_secs(20));
                assert_lost(&failure(open).await);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_idle_an_unused_connection_is_pinged_too_and_lost_without_a_call() {
    let (builder, mut server) = in_memory();
    let keepalive = Keepalive { while_idle: true, ..KEEPALIVE };
    let conn = builder.keepalive(keepalive).build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    let mut wire = server.accept(&[]).await;
    let start = Instant::now();
    for answered in 1..=20 {
        let Frame { payload, .. } = ping(&mut wire).await;
        assert_about(start.elapsed(), INTERVAL * answered);
        wire.write(PING, ACK, 0, &payload).await;
    }
    assert_eq!(conn.state(), Ready);
    ping(&mut wire).await;
    wire.closed().await;
    assert_about(start.elapsed(), INTERVAL * 21 + TIMEOUT);
    settle().await;
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
    assert!(server.is_empty(), "nobody asked for another");
}

#[tokio::test(start_paused = true)]
async fn pings_that_are_answered_keep_it_ready_for_hours_and_the_call_completes() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    let states = States::of(&conn);
    let open = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    let start = Instant::now();
    let mut pings = 0;
    while start.elapsed() < 5 * HOUR {
        let Frame { payload, .. } = ping(&mut wire).await;
        wire.write(PING, ACK, 0, &payload).await;
        pings += 1;
    }
    assert_eq!(pings, 5 * HOUR.as_secs() / INTERVAL.as_secs());
    wire.answer(stream, "in the evening").await;
    assert_eq!(reply(open).await, "in the evening");
    assert_eq!(states.seen(), [Idle, Connecting, Ready]);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_sends_is_as_good_as_an_answered_ping() {
    let (builder, mut server) = in_memory();
    let conn = builder.keepalive(KEEPALIVE).build().unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let many = StreamHelloRequest { name: "ada".to_owned(), count: 1000, pause_ms: 0 };
    let stream = tokio::spawn(async move { client.stream_hello(many).await });
    let mut wire = server.accept(&[]).await;
    let (id, _) = wire.request().await;
    wire.answer_head(id).await;
    let mut messages = stream.await.unwrap().unwrap().into_inner();
    wire.acknowledged().await;
    for _ in 0..1000 {
        wire.answer_message(id, "still here").await;
        assert_eq!(messages.message().await.unwrap().unwrap().message, "still here");
        silence(&mut wire, INTERVAL - Duration::from_millis(10)).await;
    }
    let Frame { kind, .. } = wire.read().await.unwrap();
    assert_eq!(kind, PING, "and then it was silent for too long");
}

// ── a network that swallows everything ──

#[tokio::test]
async fn in_a_black_hole_calls_keep_their_deadlines_and_close_leaves_no_socket() {
    let server = TonicServer::start();
    let proxy = Proxy::to(server.addr).await;
    let conn = ClientConn::new(proxy.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    client.say_hello(hello("ada")).await.unwrap();
    proxy.swallow();

    let limit = Duration::from_millis(200);
    let start = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let mut request = Request::new(hello("ada"));
            request.set_timeout(limit);
            call(&conn, request)
        })
        .collect();
    let endless = call(&conn, hello("bob"));
    for call in calls {
        let status = failure(call).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Response, .. }));
    }
    assert!(start.elapsed() >= limit);
    assert!(!endless.is_finished(), "nothing told it that the server is out of reach");
    assert_eq!(conn.state(), Ready);
    assert_eq!(proxy.open(), 1);

    conn.close();
    let cut = timeout(Duration::from_secs(10), failure(endless)).await.expect("an end");
    assert!(matches!(cause(&cut), Error::Closed), "{cut:?}");
    proxy.until_clients_are_gone().await;
}
