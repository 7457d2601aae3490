//! `ClientConn` against real servers, good and bad.

mod support;

use std::error::Error as _;
use std::time::{Duration, Instant};

use cenote::grpc::{Backoff, CallPhase, ClientConn, ConnectivityState, DialPhase, Error, Keepalive};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::*;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

fn connection_to(target: &str) -> ClientConn {
    ClientConn::new(target).unwrap()
}

/// Pauses so long that a test sees one attempt, unless it asks for more.
fn patient(target: &str) -> ClientConn {
    let backoff =
        Backoff { initial: Duration::from_secs(3600), max: Duration::from_secs(3600), ..Backoff::default() };
    ClientConn::builder(target).backoff(backoff).connect_timeout(Duration::from_millis(200)).build().unwrap()
}

fn three_hellos_with_a_pause() -> StreamHelloRequest {
    StreamHelloRequest { name: "ada".to_owned(), count: 3, pause_ms: 50 }
}

fn endless_hellos() -> StreamHelloRequest {
    StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 1 }
}

async fn until_state(conn: &ClientConn, wanted: ConnectivityState) {
    let wait = async {
        let mut state = conn.state();
        while state != wanted {
            state = conn.wait_for_state_change(state).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(waited.is_ok(), "{} instead of {wanted} after 10 s", conn.state());
}

/// The phase and the I/O error of a failed dial.
fn dial_failure(error: &Error) -> (DialPhase, std::io::ErrorKind) {
    match error {
        Error::Dial { phase, source, .. } => {
            let io =
                source.downcast_ref::<std::io::Error>().unwrap_or_else(|| panic!("no I/O error: {source:?}"));
            (*phase, io.kind())
        }
        other => panic!("no dial error: {other:?}"),
    }
}

// ── states ──

#[tokio::test]
async fn it_starts_idle_without_io_and_is_ready_after_the_first_call() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    assert_eq!(conn.state(), ConnectivityState::Idle);
    assert_eq!(server.seen.accepted(), 0);
    let mut client = GreeterClient::new(conn.clone());
    let reply = client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(reply.into_inner().message, "tonic: hello, ada");
    assert_eq!(conn.state(), ConnectivityState::Ready);
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn connect_dials_without_a_call_and_each_change_of_state_can_be_awaited() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    conn.connect();
    assert_eq!(conn.state(), ConnectivityState::Connecting);
    assert_eq!(conn.wait_for_state_change(ConnectivityState::Idle).await, ConnectivityState::Connecting);
    assert_eq!(conn.wait_for_state_change(ConnectivityState::Connecting).await, ConnectivityState::Ready);
    conn.connect();
    assert_eq!(conn.state(), ConnectivityState::Ready);
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn every_form_of_target_reaches_the_server() {
    let server = TonicServer::start();
    let port = server.addr.port();
    for target in
        [format!("127.0.0.1:{port}"), format!("dns:///localhost:{port}"), format!("http://localhost:{port}/")]
    {
        let reply = GreeterClient::new(connection_to(&target)).say_hello(hello("ada")).await;
        assert_eq!(reply.unwrap().into_inner().message, "tonic: hello, ada", "{target}");
    }
}

#[tokio::test]
async fn a_tcp_listener_that_says_nothing_is_never_ready() {
    let server = RawServer::start(Manner::Mute).await;
    let conn = patient(&server.target());
    let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(server.accepted(), 1, "TCP itself was connected");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(dial_failure(cause(&status)), (DialPhase::Settings, std::io::ErrorKind::TimedOut));
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
}

#[tokio::test]
async fn a_refused_port_is_a_transient_failure_with_the_cause_at_the_end_of_the_chain() {
    let conn = patient(&refused_target());
    let mut client = GreeterClient::new(conn.clone());
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(dial_failure(cause(&status)), (DialPhase::Connect, std::io::ErrorKind::ConnectionRefused));
    let io = status.source().and_then(|ours| ours.source()).unwrap();
    assert!(io.downcast_ref::<std::io::Error>().is_some());
    assert!(status.message().contains("refused"), "{}", status.message());
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    // It stays, and a call fails at once with the same error.
    let start = Instant::now();
    let again = client.say_hello(hello("ada")).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(again.code(), Code::Unavailable);
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
}

#[tokio::test]
async fn a_host_that_does_not_resolve_fails_in_that_phase() {
    let conn =
        ClientConn::builder("http://no-such-host.invalid:1").connect_timeout(Duration::from_secs(5)).build();
    let status = GreeterClient::new(conn.unwrap()).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    match cause(&status) {
        Error::Dial { phase, .. } => assert_eq!(*phase, DialPhase::Resolve),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_closes_before_or_right_after_settings_or_speaks_http_1_is_a_failure_in_that_phase() {
    for (manner, kind) in
        [(Manner::Fin, std::io::ErrorKind::UnexpectedEof), (Manner::Http1, std::io::ErrorKind::InvalidData)]
    {
        let server = RawServer::start(manner).await;
        let conn = patient(&server.target());
        let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(dial_failure(cause(&status)), (DialPhase::Settings, kind), "{manner:?}: {status:?}");
        assert_eq!(conn.state(), ConnectivityState::TransientFailure, "{manner:?}");
    }
}

#[tokio::test]
async fn a_server_that_takes_leave_with_its_settings_fails_calls_and_is_not_dialed_without_end() {
    for manner in [Manner::SettingsThenFin, Manner::SettingsAndGoaway] {
        let server = RawServer::start(manner).await;
        let conn = patient(&server.target());
        let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{manner:?}: {status:?}");
        assert!(server.accepted() <= 4, "{manner:?}: {} dials for one call", server.accepted());
        assert_ne!(conn.state(), ConnectivityState::Ready, "{manner:?}");
    }
}

#[tokio::test]
async fn a_hundred_calls_on_a_failing_dial_share_its_outcome() {
    let server = RawServer::start(Manner::Mute).await;
    let conn = patient(&server.target());
    let start = Instant::now();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let mut client = GreeterClient::new(conn.clone());
            tokio::spawn(async move { client.say_hello(hello("ada")).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(server.accepted(), 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

// ── loss and return ──

#[tokio::test]
async fn a_connection_whose_server_dies_is_idle_and_finds_the_server_when_it_is_back() {
    let server = TonicServer::start();
    let conn = ClientConn::builder(server.target())
        .backoff(Backoff { initial: Duration::from_millis(10), ..Backoff::default() })
        .build()
        .unwrap();
    let mut client = GreeterClient::new(conn.clone());
    client.say_hello(hello("ada")).await.unwrap();
    let addr = server.kill();
    until_state(&conn, ConnectivityState::Idle).await;
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(dial_failure(cause(&status)), (DialPhase::Connect, std::io::ErrorKind::ConnectionRefused));
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);

    let server = TonicServer::start_again(addr);
    // It dials by itself; no call is needed.
    until_state(&conn, ConnectivityState::Ready).await;
    let reply = client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(reply.into_inner().message, "again: hello, ada");
    drop(server);
}

#[tokio::test]
async fn a_call_that_is_under_way_when_the_server_dies_is_unavailable_and_not_sent_twice() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let call =
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_secs(60))).await });
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the call has arrived", || seen.calls.load(std::sync::atomic::Ordering::SeqCst) == 1)
        .await;
    let addr = server.kill();
    let server = TonicServer::start_again(addr);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
    assert_eq!(server.seen.calls.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_retry_that_is_asked_for_as_soon_as_the_failure_is_seen_is_not_lost() {
    for _ in 0..20 {
        let server = RawServer::start(Manner::Fin).await;
        let conn = patient(&server.target());
        conn.connect();
        let watcher = {
            let conn = conn.clone();
            // A thread of its own: as quick after the news as can be.
            std::thread::spawn(move || {
                while conn.state() != ConnectivityState::TransientFailure {
                    std::hint::spin_loop();
                }
                conn.reset_connect_backoff();
            })
        };
        eventually_async("a second attempt, an hour early", || server.accepted() == 2).await;
        watcher.join().unwrap();
    }
}

#[tokio::test]
async fn a_goaway_makes_it_idle_at_once_and_open_streams_complete() {
    let mut server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let mut stream = client.stream_hello(three_hellos_with_a_pause()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server.shut_down_gracefully();
    until_state(&conn, ConnectivityState::Idle).await;
    assert!(stream.message().await.unwrap().is_some());
    assert!(stream.message().await.unwrap().is_some());
    assert!(stream.message().await.unwrap().is_none());
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the socket closes with its last stream", || seen.open() == 0).await;
}

#[tokio::test]
async fn no_call_fails_while_the_server_sends_goaway_again_and_again() {
    // Without a grace: with one, tonic 0.14.9 sends no GOAWAY but cuts the connection after it.
    let server = TonicServer::start_with(|server| server.max_connection_age(Duration::from_millis(20)));
    let conn = connection_to(&server.target());
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let mut client = GreeterClient::new(conn.clone());
            tokio::spawn(async move {
                let start = Instant::now();
                let mut calls = 0;
                while start.elapsed() < Duration::from_millis(800) {
                    client.say_hello(hello("ada")).await.unwrap();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    assert!(server.seen.accepted() > 5, "{} connections for {calls} calls", server.seen.accepted());
}

// ── the end ──

#[tokio::test]
async fn close_is_shutdown_for_good_and_breaks_off_what_runs() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let mut stream = client.stream_hello(endless_hellos()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let mut waiting = GreeterClient::new(conn.clone());
    let call =
        tokio::spawn(async move { waiting.say_hello(slow_hello("ada", Duration::from_secs(60))).await });
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the call has arrived", || seen.calls.load(std::sync::atomic::Ordering::SeqCst) == 2)
        .await;

    conn.close();
    assert_eq!(conn.state(), ConnectivityState::Shutdown);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "the stream must not seem complete"),
            Err(status) => break status,
        }
    };
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    conn.connect();
    assert_eq!(conn.state(), ConnectivityState::Shutdown);
    eventually_async("the socket is closed", || seen.open() == 0).await;
    assert_eq!(seen.accepted(), 1);
}

#[tokio::test]
async fn close_ends_a_dial_and_those_who_wait_for_it() {
    let server = RawServer::start(Manner::Mute).await;
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
    server.accepted.clone().wait_for(|accepted| *accepted == 1).await.unwrap();
    conn.close();
    assert!(matches!(cause(&call.await.unwrap().unwrap_err()), Error::Closed));
}

#[tokio::test]
async fn the_socket_closes_with_the_last_handle_and_a_response_body_is_one() {
    let server = TonicServer::start();
    let seen = std::sync::Arc::clone(&server.seen);
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn);
    let mut stream = client.stream_hello(three_hellos_with_a_pause()).await.unwrap().into_inner();
    drop(client);
    for _ in 0..3 {
        assert!(stream.message().await.unwrap().is_some(), "the call goes on without its client");
    }
    assert_eq!(seen.open(), 1);
    assert!(stream.message().await.unwrap().is_none());
    // The body has ended; that it is still held keeps nothing open.
    eventually_async("the socket is closed", || seen.open() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn a_call_or_stream_that_is_dropped_midway_is_cancelled_at_the_server_and_disturbs_no_other() {
    let server = TonicServer::start();
    let seen = std::sync::Arc::clone(&server.seen);
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    tokio::select! {
        early = client.say_hello(slow_hello("ada", Duration::from_secs(60))) => panic!("{early:?}"),
        () = eventually_async("the call has arrived", || seen.calls.load(std::sync::atomic::Ordering::SeqCst) == 1) => {}
    }
    eventually_async("the handler is dropped", || seen.cancelled() == 1).await;
    let mut stream = client.stream_hello(endless_hellos()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    eventually_async("the stream is dropped", || seen.cancelled() == 2).await;
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(seen.accepted(), 1);
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn a_dropped_response_cancels_a_call_whose_client_is_still_sending() {
    let server = TonicServer::start();
    let seen = std::sync::Arc::clone(&server.seen);
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let (send, names) = tokio::sync::mpsc::channel(1);
    let names = tokio_stream::wrappers::ReceiverStream::new(names);
    send.send(hello("ada")).await.unwrap();
    let mut replies = client.chat(names).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "hello, ada");
    assert_eq!(seen.chats_over.load(std::sync::atomic::Ordering::SeqCst), 0);
    drop(replies);
    // `send` is here: only a reset can have ended it.
    let over = || seen.chats_over.load(std::sync::atomic::Ordering::SeqCst) == 1;
    eventually_async("the server sees the reset", over).await;
    tokio::time::timeout(Duration::from_secs(10), send.closed()).await.expect("the names are let go");
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(seen.accepted(), 1);
}

#[tokio::test]
async fn a_call_in_both_directions_runs_to_its_end() {
    let server = TonicServer::start();
    let mut client = GreeterClient::new(connection_to(&server.target()));
    let names = tokio_stream::iter((0..100).map(|i| hello(&i.to_string())));
    let mut replies = client.chat(names).await.unwrap().into_inner();
    for i in 0..100 {
        assert_eq!(replies.message().await.unwrap().unwrap().message, format!("hello, {i}"));
    }
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_of_messages_that_panics_fails_its_call_and_no_other() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    let mut other = client.stream_hello(endless_hellos()).await.unwrap().into_inner();
    // In the poll that begins the call, in the look behind the first message, and later.
    for good in 0..4 {
        let (send, names) = tokio::sync::mpsc::channel(1);
        let names = tokio_stream::wrappers::ReceiverStream::new(names);
        let names = names.map(move |number| if number < good { hello("ada") } else { panic!("on purpose") });
        tokio::spawn(async move {
            let mut number = 0;
            while send.send(number).await.is_ok() {
                number += 1;
            }
        });
        let mut client = client.clone();
        let chat = async move {
            let mut replies = client.chat(names).await?.into_inner();
            while replies.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        let status = tokio::time::timeout(Duration::from_secs(10), chat).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        assert_eq!(status.message(), "the stream of the request's messages panicked");
    }
    other.message().await.unwrap().unwrap();
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_encoded_is_what_its_caller_is_told() {
    let server = TonicServer::start();
    let mut client = GreeterClient::new(connection_to(&server.target())).max_encoding_message_size(10);
    let long = "a name that is too long";
    let unary = client.say_hello(hello(long)).await.unwrap_err();
    assert_eq!(unary.code(), Code::OutOfRange, "{unary:?}");
    let names = tokio_stream::iter([hello("ada"), hello("bob"), hello(long)]);
    let chat = async {
        let mut replies = client.chat(names).await?.into_inner();
        while replies.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let status = chat.await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_for_the_dial_leaves_the_dial_to_the_others() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut client = GreeterClient::new(conn.clone());
    {
        let call = client.say_hello(hello("ada"));
        tokio::pin!(call);
        assert!(futures_poll_once(call.as_mut()).await.is_none());
    }
    assert_eq!(conn.state(), ConnectivityState::Connecting);
    until_state(&conn, ConnectivityState::Ready).await;
}

/// Polls once, with the task's own waker.
async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

// ── errors of the server are not errors of the connection ──

#[tokio::test]
async fn a_status_of_the_server_is_passed_on_and_the_connection_stays_ready() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let status = GreeterClient::new(conn.clone()).say_hello(hello("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn an_interceptor_may_stand_before_it() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    let mut refused = GreeterClient::with_interceptor(conn.clone(), |_: Request<()>| {
        Err::<Request<()>, _>(tonic::Status::permission_denied("not today"))
    });
    assert_eq!(refused.say_hello(hello("ada")).await.unwrap_err().code(), Code::PermissionDenied);
    let mut passed = GreeterClient::with_interceptor(conn, |request: Request<()>| Ok(request));
    passed.say_hello(hello("ada")).await.unwrap();
}

// ── runtimes ──

#[test]
fn nothing_panics_outside_a_runtime_and_a_call_says_that_there_is_none() {
    let conn = connection_to("http://127.0.0.1:1");
    conn.connect();
    assert_eq!(conn.state(), ConnectivityState::Idle);
    conn.reset_connect_backoff();
    let call = |timeout: Option<Duration>| {
        let mut client = GreeterClient::new(conn.clone());
        let mut request = Request::new(hello("ada"));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        poll_without_runtime(async move { client.say_hello(request).await }).unwrap_err()
    };
    assert!(matches!(cause(&call(None)), Error::NoRuntime));
    assert!(matches!(cause(&call(Some(Duration::from_secs(1)))), Error::NoRuntime));
    drop(conn);

    // A body that another executor reads to its end.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = TonicServer::start();
    let mut replies = runtime.block_on(async {
        let mut request = Request::new(endless_hellos());
        request.set_timeout(Duration::from_secs(1));
        let mut client = GreeterClient::new(connection_to(&server.target()));
        client.stream_hello(request).await.unwrap().into_inner()
    });
    let status = loop {
        if let Err(status) = poll_without_runtime(replies.message()) {
            break status;
        }
    };
    assert!(matches!(cause(&status), Error::NoRuntime | Error::DeadlineExceeded { .. }), "{status:?}");
}

/// Runs a future to its end on this thread, with no tokio around.
fn poll_without_runtime<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(10)),
        }
    }
}

#[test]
fn a_connection_outlives_its_runtime_and_dials_on_the_next_one() {
    let server = TonicServer::start();
    let conn = connection_to(&server.target());
    for round in 1..=3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap();
        });
        assert_eq!(conn.state(), ConnectivityState::Ready);
        drop(runtime);
        assert_eq!(conn.state(), ConnectivityState::Idle);
        assert_eq!(server.seen.accepted(), round);
    }
    let seen = std::sync::Arc::clone(&server.seen);
    eventually("no socket is left", || seen.open() == 0);
}

#[test]
fn a_dial_that_ends_with_its_runtime_is_made_again_by_those_who_wait_elsewhere() {
    let mute = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = mute.block_on(RawServer::start(Manner::Mute));
    let conn = connection_to(&server.target());
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    first.block_on(async { conn.connect() });
    eventually("the first dial is under way", || server.accepted() == 1);
    let second = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let waiter = conn.clone();
    let call = second.spawn(async move { GreeterClient::new(waiter).say_hello(hello("ada")).await });
    std::thread::sleep(Duration::from_millis(20));
    drop(first);
    eventually("the second runtime dials", || server.accepted() == 2);
    conn.close();
    assert!(second.block_on(call).unwrap().is_err());
}

// ── unix sockets, TLS ──

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_target() {
    let dir = std::env::temp_dir().join(format!("cenote-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("greeter.sock");
    let _ = std::fs::remove_file(&path);
    let greeter = support::greeter("unix");
    let incoming =
        tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(&path).unwrap());
    tokio::spawn(tonic::transport::Server::builder().add_service(greeter).serve_with_incoming(incoming));
    let conn = connection_to(&format!("unix:{}", path.display()));
    let reply = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
    assert_eq!(reply.into_inner().message, "unix: hello, ada");
    std::fs::remove_dir_all(&dir).unwrap();
}

mod tls {
    use cenote::grpc::TlsConfig;
    use tonic::transport::{Certificate, ServerTlsConfig};

    use super::support::authority::Authority;

    use super::*;

    fn server(authority: &Authority, name: &str) -> TonicServer {
        let tls = ServerTlsConfig::new().identity(authority.identity(name));
        TonicServer::start_with(|server| server.tls_config(tls).unwrap())
    }

    fn phase(status: &tonic::Status) -> DialPhase {
        match cause(status) {
            Error::Dial { phase, .. } => *phase,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_https_target_is_reached_with_the_authority_that_signed_it() {
        let authority = Authority::new();
        let server = server(&authority, "localhost");
        let target = format!("https://localhost:{}", server.addr.port());
        let tls = authority.trusted();
        let conn = ClientConn::builder(target).tls(tls.clone()).build().unwrap();
        let reply = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
        assert_eq!(reply.into_inner().message, "tonic: hello, ada");

        // By its address, under the name that is in the certificate; and without a scheme.
        let tls = tls.server_name("localhost");
        let conn = ClientConn::builder(server.addr.to_string()).tls(tls).build().unwrap();
        GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_or_name_fails_in_the_tls_phase() {
        let authority = Authority::new();
        let server = server(&authority, "localhost");
        let target = format!("https://localhost:{}", server.addr.port());
        let wrong = Authority::new().trusted();
        let other_name = authority.trusted().server_name("elsewhere");
        for tls in [TlsConfig::new(), wrong, other_name] {
            let conn = ClientConn::builder(&target).tls(tls).build().unwrap();
            let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(phase(&status), DialPhase::Tls, "{status:?}");
            conn.close();
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_certificate_serves_those_who_have_one() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let tls = ServerTlsConfig::new()
            .identity(authority.identity("localhost"))
            .client_ca_root(Certificate::from_pem(authority.pem()));
        let server = TonicServer::start_with(|server| server.tls_config(tls).unwrap());
        let target = format!("https://localhost:{}", server.addr.port());
        let trusting = || authority.trusted();
        let pem = |of: &Authority| {
            let (certificate, key) = of.issue("a client");
            (certificate.pem(), key.serialize_pem())
        };
        let (certificate, key) = pem(&authority);
        let known = trusting().client_identity_pem(certificate, &key);
        assert!(!format!("{known:?}").contains(&key[40..60]), "the key is not for the log");
        let conn = ClientConn::builder(&target).tls(known).build().unwrap();
        GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();

        let (certificate, key) = pem(&stranger);
        for tls in [trusting(), trusting().client_identity_pem(certificate, key)] {
            let conn = ClientConn::builder(&target).tls(tls).build().unwrap();
            let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        assert_eq!(server.seen.calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn nothing_is_sent_in_plain_text_to_an_https_target() {
        let server = TonicServer::start();
        let conn = patient(&format!("https://{}", server.addr));
        let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(phase(&status), DialPhase::Tls, "{status:?}");
        assert_eq!(server.seen.calls.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    #[test]
    fn a_bad_certificate_a_bad_name_and_tls_on_a_plain_scheme_are_errors_of_the_builder() {
        let build = |target: &str, tls: TlsConfig| ClientConn::builder(target).tls(tls).build().unwrap_err();
        let option = |error: Error| match error {
            Error::InvalidConfig { option, .. } => option,
            other => panic!("{other:?}"),
        };
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert_eq!(
            option(build("https://a", TlsConfig::new().ca_certificate_pem(broken))),
            "ca_certificate_pem"
        );
        assert_eq!(
            option(build("https://a", TlsConfig::new().ca_certificate_pem("nothing"))),
            "ca_certificate_pem"
        );
        assert_eq!(option(build("https://a", TlsConfig::new().server_name("a b"))), "tls");
        assert_eq!(option(build("http://a:1", TlsConfig::new())), "tls");
    }

    #[test]
    fn native_roots_are_accepted_where_the_system_has_some() {
        match ClientConn::builder("https://a").tls(TlsConfig::new().native_roots()).build() {
            Ok(_) | Err(Error::InvalidConfig { option: "tls", .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

// ── bad input ──

fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn options_beyond_what_a_clock_can_count_are_as_good_as_never() {
    let server = TonicServer::start();
    let keepalive = Keepalive { timeout: Duration::MAX, while_idle: true, ..Keepalive::every(Duration::MAX) };
    let conn = ClientConn::builder(server.target())
        .keepalive(keepalive)
        .connect_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .build()
        .unwrap();
    let request = with_timeout(hello("ada"), Duration::from_secs(99_999_999 * 3600));
    GreeterClient::new(conn).say_hello(request).await.unwrap();
}

#[test]
fn bad_options_are_typed_errors_that_name_the_option() {
    let builder = || ClientConn::builder("http://127.0.0.1:1");
    let backoff = Backoff::default();
    let keepalive = Keepalive::every(Duration::from_secs(1));
    let failures = [
        (builder().connect_timeout(Duration::ZERO), "connect_timeout"),
        (builder().idle_timeout(Duration::ZERO), "idle_timeout"),
        (builder().keepalive(keepalive), "keepalive"),
        (builder().user_agent("new\nline"), "user_agent"),
        (builder().backoff(Backoff { initial: Duration::ZERO, ..backoff }), "backoff"),
        (builder().backoff(Backoff { multiplier: 0.5, ..backoff }), "backoff"),
        (builder().backoff(Backoff { multiplier: f64::NAN, ..backoff }), "backoff"),
        (builder().backoff(Backoff { jitter: 1.5, ..backoff }), "backoff"),
        (builder().backoff(Backoff { max: Duration::from_millis(1), ..backoff }), "backoff"),
    ];
    for (builder, expected) in failures {
        let error = builder.build().unwrap_err();
        assert!(error.source().is_some(), "{error:?}");
        match error {
            Error::InvalidConfig { option, .. } => assert_eq!(option, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    builder().idle_timeout(None).keepalive(None).build().unwrap();
}

#[test]
fn a_bad_target_is_a_typed_error_with_its_cause() {
    for target in ["", "http://", "ftp://x:1", "http://h:65536", "localhost:", "http://h:1/path", "::1"] {
        let error = ClientConn::new(target).unwrap_err();
        assert!(matches!(error, Error::InvalidTarget { .. }), "{target}: {error:?}");
        assert!(error.source().is_some_and(|source| !source.to_string().is_empty()), "{target}");
    }
}

#[test]
fn what_is_printed_for_debugging_tells_target_and_state() {
    let text = format!("{:?}", connection_to("http://127.0.0.1:1"));
    assert!(text.contains("127.0.0.1:1") && text.contains("Idle"), "{text}");
}
