//! What becomes of state and calls when the server breaks the rules, or bends them: frame by frame.

mod support;

use std::time::Duration;

use cenote::grpc::{CallPhase, ClientConn, ConnectivityState, DialPhase, Error, TlsConfig};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest};
use support::frames::*;
use support::{Manner, RawServer, cause, eventually_async, hello};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status};

type Call = JoinHandle<Result<Response<HelloReply>, Status>>;

fn call(conn: &ClientConn, request: impl tonic::IntoRequest<HelloRequest>) -> Call {
    let mut client = GreeterClient::new(conn.clone());
    let request = request.into_request();
    tokio::spawn(async move { client.say_hello(request).await })
}

async fn reply(call: Call) -> String {
    call.await.unwrap().unwrap().into_inner().message
}

async fn until_idle(conn: &ClientConn) {
    eventually_async("the connection is Idle", || conn.state() == ConnectivityState::Idle).await;
}

fn dial_failure(status: &Status) -> (DialPhase, Option<std::io::ErrorKind>) {
    match cause(status) {
        Error::Dial { phase, source, .. } => {
            (*phase, source.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
        }
        other => panic!("{other:?}"),
    }
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

#[tokio::test]
async fn a_response_of_http_alone_is_the_status_that_grpc_maps_it_to_and_the_connection_stays_ready() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
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

#[tokio::test]
async fn with_no_streams_allowed_calls_wait_within_their_deadline_and_go_when_some_are() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let mut short = Request::new(hello("ada"));
    short.set_timeout(Duration::from_millis(200));
    let short = call(&conn, short);
    let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    let status = short.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(conn.state(), ConnectivityState::Ready, "it only has no room");
    let patient = call(&conn, hello("bob"));
    wire.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "room").await;
    assert_eq!(reply(patient).await, "room");
}

#[tokio::test]
async fn a_limit_that_is_lowered_midway_holds_for_what_comes_later() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
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
    let early = tokio::time::timeout(Duration::from_millis(200), wire.request()).await;
    assert!(early.is_err(), "the second still runs: {early:?}");
    wire.answer(two, "two").await;
    assert_eq!(reply(second).await, "two");
    let (three, _) = wire.request().await;
    wire.answer(three, "three").await;
    assert_eq!(reply(third).await, "three");
}

#[tokio::test]
async fn a_handshake_that_drips_is_ready_in_the_end_or_out_of_time() {
    for (timeout, works) in [(Duration::from_secs(30), true), (Duration::from_millis(150), false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            for byte in [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0] {
                tokio::time::sleep(Duration::from_millis(40)).await;
                if socket.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            std::future::pending().await
        });
        let conn = ClientConn::builder(target).connect_timeout(timeout).build().unwrap();
        conn.connect();
        assert_eq!(conn.state(), ConnectivityState::Connecting);
        let then = conn.wait_for_state_change(ConnectivityState::Connecting).await;
        let expected = if works { ConnectivityState::Ready } else { ConnectivityState::TransientFailure };
        assert_eq!(then, expected);
        if !works {
            let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
            assert_eq!(
                dial_failure(&status),
                (DialPhase::Settings, Some(std::io::ErrorKind::TimedOut)),
                "{status:?}"
            );
        }
        server.abort();
    }
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_is_out_of_time_in_that_phase() {
    let server = RawServer::start(Manner::Mute).await;
    let conn = ClientConn::builder(server.target().replace("http://", "https://"))
        .tls(TlsConfig::new())
        .connect_timeout(Duration::from_millis(150))
        .build()
        .unwrap();
    let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(dial_failure(&status), (DialPhase::Tls, Some(std::io::ErrorKind::TimedOut)), "{status:?}");
}
