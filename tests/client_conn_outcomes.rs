//! What a call fails with, when its server, or something in between, answers with less or more than gRPC has it.

mod support;

use std::error::Error as _;
use std::time::Duration;

use cenote::grpc::{Addresses, CallPhase, ClientConn, DialPhase, Error, StreamPool, WaitForReady};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, StreamHelloRequest};
use support::frames::*;
use support::memory::in_memory;
use support::{cause, hello};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

const TRAILERS: u8 = END_HEADERS | END_STREAM;

async fn accept(server: &FrameServer) -> Wire {
    in_time(server.accept(&[])).await
}

/// A unary call, and what the server does when it has the request.
async fn unary(
    conn: &ClientConn,
    wire: &mut Wire,
    timeout: Option<Duration>,
    answer: impl AsyncFnOnce(&mut Wire, u32),
) -> Result<Response<HelloReply>, Status> {
    let mut client = GreeterClient::new(conn.clone());
    let mut request = Request::new(hello("ada"));
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let serve = async {
        let (stream, _) = wire.request().await;
        answer(wire, stream).await;
    };
    in_time(async { tokio::join!(client.say_hello(request), serve).0 }).await
}

// ── deadlines ──

/// grpc-go resets with CANCEL when its own timer for a call fires: at the same moment as ours, so that either may come first.
#[tokio::test]
async fn a_stream_that_is_reset_when_its_deadline_has_passed_is_deadline_exceeded_in_each_phase() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    conn.connect();
    let mut wire = accept(&server).await;
    for phase in [CallPhase::Response, CallPhase::Body] {
        for number in 0..100 {
            let allowed = Duration::from_millis(5);
            let status = unary(&conn, &mut wire, Some(allowed), async |wire, stream| {
                // The call's time began before this.
                let passed = std::time::Instant::now() + allowed;
                if phase == CallPhase::Body {
                    wire.answer_head(stream).await;
                }
                // In the task, with no timer: the client's cannot fire before the reset has been sent.
                while std::time::Instant::now() < passed {}
                let _ = wire.try_write(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await;
            })
            .await
            .unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{phase:?}, call {number}: {status:?}");
            assert!(matches!(cause(&status), Error::DeadlineExceeded { .. }), "{status:?}");
        }
    }
    let status = unary(&conn, &mut wire, Some(Duration::from_secs(60)), async |wire, stream| {
        wire.reset(stream, CANCEL).await;
    })
    .await
    .unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "a reset before the deadline");
}

// ── transparent retries ──

#[tokio::test]
async fn a_request_that_a_goaway_leaves_out_is_sent_again_once_and_then_fails() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
    for _ in 0..2 {
        let mut wire = accept(&server).await;
        let _ = wire.request().await;
        wire.goaway(0, NO_ERROR, b"").await;
    }
    let status = in_time(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::NotProcessed { .. }), "{status:?}");
}

// ── answers that are not gRPC ──

#[tokio::test]
async fn an_answer_that_is_not_grpc_is_named_with_its_status_and_content_type() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    conn.connect();
    let mut wire = accept(&server).await;
    let html = ("content-type", "text/html");
    let table: &[(&[(&str, &str)], Code)] = &[
        (&[(":status", "200"), html], Code::Unknown),
        (&[(":status", "200")], Code::Unknown),
        (&[(":status", "204")], Code::Unknown),
        (&[(":status", "400"), html], Code::Internal),
        (&[(":status", "401"), html], Code::Unauthenticated),
        (&[(":status", "403")], Code::PermissionDenied),
        (&[(":status", "404"), html], Code::Unimplemented),
        (&[(":status", "429")], Code::Unavailable),
        (&[(":status", "431"), html], Code::Internal),
        (&[(":status", "500"), html], Code::Unknown),
        (&[(":status", "502"), html], Code::Unavailable),
        (&[(":status", "503")], Code::Unavailable),
        (&[(":status", "504"), html], Code::Unavailable),
    ];
    for (head, code) in table {
        let status = unary(&conn, &mut wire, None, async |wire, stream| {
            wire.write(HEADERS, END_HEADERS, stream, &fields(head)).await;
            let _ = wire.try_write(DATA, END_STREAM, stream, b"<html>an error page</html>").await;
        })
        .await
        .unwrap_err();
        assert_eq!(status.code(), *code, "{head:?}: {status:?}");
        let named = status.message().contains(head[0].1)
            && status.message().contains(if head.len() > 1 { "text/html" } else { "no content-type" });
        assert!(named && matches!(cause(&status), Error::NotGrpc { .. }), "{head:?}: {status:?}");
    }
}

// ── statuses ──

#[tokio::test]
async fn a_status_in_a_head_that_is_not_all_of_the_answer_does_not_count() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    conn.connect();
    let mut wire = accept(&server).await;
    let head = [&HEAD[..], &[("grpc-status", "0"), ("grpc-message", "of the head")]].concat();
    let status = unary(&conn, &mut wire, None, async |wire, stream| {
        wire.write(HEADERS, END_HEADERS, stream, &fields(&head)).await;
        wire.answer_message(stream, "hello").await;
        let trailers = [("grpc-status", "5"), ("grpc-message", "of the trailers")];
        wire.write(HEADERS, TRAILERS, stream, &fields(&trailers)).await;
    })
    .await
    .unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "of the trailers"));

    let status = unary(&conn, &mut wire, None, async |wire, stream| {
        wire.write(HEADERS, END_HEADERS, stream, &fields(&head)).await;
        wire.answer_message(stream, "hello").await;
        wire.write(DATA, END_STREAM, stream, &[]).await;
    })
    .await
    .unwrap_err();
    assert_eq!(status.code(), Code::Internal, "without trailers: {status:?}");
    assert!(matches!(cause(&status), Error::TruncatedResponse), "{status:?}");
}

#[tokio::test]
async fn a_message_that_is_cut_short_is_an_error_though_the_trailers_say_ok() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    conn.connect();
    let mut wire = accept(&server).await;
    // Cut in the message, and in its prefix.
    for cut in [&[0, 0, 0, 0, 100, 1, 2, 3][..], &[0, 0, 0]] {
        for (trailers, code) in [("0", Code::Internal), ("9", Code::FailedPrecondition)] {
            let mut client = GreeterClient::new(conn.clone());
            let request = StreamHelloRequest { name: "ada".into(), count: 2, pause_ms: 0 };
            let serve = async {
                let (stream, _) = wire.request().await;
                wire.answer_head(stream).await;
                wire.answer_message(stream, "whole").await;
                wire.write(DATA, 0, stream, cut).await;
                wire.write(HEADERS, TRAILERS, stream, &fields(&[("grpc-status", trailers)])).await;
            };
            let call = async {
                let mut messages = client.stream_hello(request).await.unwrap().into_inner();
                assert_eq!(messages.message().await.unwrap().unwrap().message, "whole");
                messages.message().await.unwrap_err()
            };
            let (status, ()) = in_time(async { tokio::join!(call, serve) }).await;
            assert_eq!(status.code(), code, "{cut:?} {trailers}: {status:?}");
        }
    }
}

#[tokio::test]
async fn a_status_that_cannot_be_decoded_keeps_its_code_and_panics_nowhere() {
    let server = FrameServer::start().await;
    let conn = ClientConn::new(server.target()).unwrap();
    conn.connect();
    let mut wire = accept(&server).await;
    let table: &[&[(&str, &str)]] = &[
        &[("grpc-status", "5"), ("grpc-status-details-bin", "%%%")],
        &[("grpc-status", "5"), ("grpc-status-details-bin", "AAA=A")],
        &[("grpc-status", "5"), ("grpc-message", "%ff%fe not text")],
        &[("grpc-status", "5"), ("grpc-message", "%")],
    ];
    for status_fields in table {
        let in_head = [&HEAD[..], status_fields].concat();
        let status = unary(&conn, &mut wire, None, async |wire, stream| {
            wire.write(HEADERS, TRAILERS, stream, &fields(&in_head)).await;
        })
        .await
        .unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "in the head: {status_fields:?}: {status:?}");
        let status = unary(&conn, &mut wire, None, async |wire, stream| {
            wire.answer_head(stream).await;
            wire.write(HEADERS, TRAILERS, stream, &fields(status_fields)).await;
        })
        .await
        .unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "in trailers: {status_fields:?}: {status:?}");
    }
}

// ── the end of a connection ──

#[tokio::test]
async fn a_lost_connection_is_told_with_the_servers_goaway_and_its_text() {
    for text in [&b""[..], b"too busy\n\x07"] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        conn.connect();
        let mut wire = server.accept(&[]).await;
        let mut client = GreeterClient::new(conn.clone());
        let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
        let (stream, _) = wire.request().await;
        wire.goaway(stream, ENHANCE_YOUR_CALM, text).await;
        drop(wire);
        let status = in_time(call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("the server closed the connection"), "{status:?}");
        assert!(status.message().contains("ENHANCE_YOUR_CALM"), "{status:?}");
        if !text.is_empty() {
            assert!(status.message().contains(r#""too busy\n\x07""#), "{status:?}");
        }
    }
}

// ── balanced calls ──

#[tokio::test]
async fn a_call_that_one_server_refuses_goes_to_another() {
    let refusing = FrameServer::start().await;
    let serving = support::TonicServer::start();
    let channel = StreamPool::new().balance(Addresses::list([refusing.target(), serving.target()]));
    let refuse = async {
        let mut wire = refusing.accept(&[]).await;
        loop {
            let (stream, _) = wire.request().await;
            wire.reset(stream, REFUSED_STREAM).await;
        }
    };
    let calls = async {
        for number in 0..50 {
            let answer = GreeterClient::new(channel.clone()).say_hello(hello("ada")).await;
            assert!(answer.is_ok(), "call {number}: {answer:?}");
        }
    };
    in_time(async {
        tokio::select! {
            () = calls => {}
            () = refuse => {}
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_fails_calls_with_the_cause_and_those_that_wait_wait() {
    let addresses = Addresses::dns("http", "no.such.host.invalid", 5000, Duration::from_secs(30));
    let channel = StreamPool::new().balance(addresses);
    let status = in_time(GreeterClient::new(channel.clone()).say_hello(hello("ada"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("no.such.host.invalid:5000"), "{status:?}");
    match cause(&status) {
        error @ Error::Dial { phase: DialPhase::Resolve, .. } => assert!(error.source().is_some()),
        other => panic!("{other:?}"),
    }
    let mut waiting = Request::new(hello("ada"));
    waiting.extensions_mut().insert(WaitForReady(true));
    waiting.set_timeout(Duration::from_millis(300));
    let status = in_time(GreeterClient::new(channel).say_hello(waiting)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

// ── secrets ──

#[test]
fn a_password_in_a_target_is_in_no_output() {
    let target = "http://ada:s3cret@127.0.0.1:5000";
    let error = ClientConn::new(target).unwrap_err();
    let all = format!(
        "{error} {error:?} {:?} {:?} {:?}",
        ClientConn::builder(target),
        Status::from(error.clone()),
        StreamPool::new().get(target).err(),
    );
    assert!(!all.contains("s3cret"), "{all}");
    assert!(all.contains("127.0.0.1:5000"), "{all}");
}
