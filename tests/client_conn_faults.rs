//! What becomes of state and calls when the server breaks the rules, or bends them: frame by frame.

mod support;

use std::time::Duration;

use cenote::grpc::{CallPhase, ClientConn, ConnectivityState, Error};
use support::frames::*;
use support::memory::*;
use support::{cause, eventually_async, hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

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
        let mut mute = server.dialled().await;
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
    let mut socket = server.dialled().await;
    socket.write_all(&[0, 0, 0, SETTINGS, 0, 0x80, 0, 0, 0]).await.unwrap();
    settle().await;
    assert_eq!(
        states.seen(),
        [ConnectivityState::Idle, ConnectivityState::Connecting, ConnectivityState::Ready]
    );
}
