//! Health checks: what a connection, and a pool, make of what a server says of itself.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cenote::grpc::{
    ClientConn, ClientPool, ConnectivityState, DialPhase, Error, HealthError, PooledConn, StreamPool,
    WaitForReady,
};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use support::frames::{
    DATA, END_HEADERS, END_STREAM, FrameServer, HEAD, HEADERS, NO_ERROR, WINDOW_UPDATE, Wire, fields,
};
use support::health::MemoryServer;
use support::memory::{self, in_memory};
use support::{TonicServer, cause, eventually_async, hello};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus as Reported;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

const SECOND: Duration = Duration::from_secs(1);

/// A tonic server with tonic's own health service.
fn reporting() -> (TonicServer, HealthReporter) {
    let (reporter, health) = health_reporter();
    (TonicServer::start_beside(|router| router.add_service(health)), reporter)
}

async fn until_state(conn: &ClientConn, wanted: ConnectivityState) {
    let wait = async {
        let mut state = conn.state();
        while state != wanted {
            state = conn.wait_for_state_change(state).await;
        }
    };
    // By a real server within 10 s; on a fake clock, when there is nothing else left to do.
    assert!(timeout(10 * SECOND, wait).await.is_ok(), "{} instead of {wanted}", conn.state());
}

async fn call(conn: &ClientConn) -> Result<HelloReply, Status> {
    GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.map(tonic::Response::into_inner)
}

fn waiting() -> Request<HelloRequest> {
    let mut request = Request::new(hello("ada"));
    request.extensions_mut().insert(WaitForReady(true));
    request
}

/// Why a call was not sent: the service, and what the server said of it.
fn not_serving(status: &Status) -> (&str, &HealthError) {
    assert_eq!(status.code(), Code::Unavailable);
    match cause(status) {
        Error::NotServing { service, source, .. } => (service, source),
        other => panic!("{other:?}"),
    }
}

/// One that may be left unread for a while.
fn endless() -> StreamHelloRequest {
    StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 100 }
}

// ── states ──

#[tokio::test(start_paused = true)]
async fn it_is_ready_when_the_server_says_that_it_serves_and_not_before() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("greeter").build().unwrap();
    let waiting = tokio::spawn({
        let conn = conn.clone();
        async move { call(&conn).await }
    });
    let watch = server.watch().await;
    assert_eq!(watch.service, "greeter");
    sleep(10 * SECOND).await;
    assert_eq!(conn.state(), ConnectivityState::Connecting);
    assert!(!waiting.is_finished());
    watch.say(ServingStatus::Serving);
    assert_eq!(waiting.await.unwrap().unwrap().message, "memory: hello, ada");
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn a_server_that_does_not_serve_is_a_transient_failure_and_gets_no_calls() {
    let (server, reporter) = reporting();
    reporter.set_service_status("", Reported::NotServing).await;
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    for _ in 0..3 {
        let status = call(&conn).await.unwrap_err();
        assert!(matches!(not_serving(&status), ("", HealthError::NotServing)), "{status:?}");
        assert!(status.message().contains("says NOT_SERVING"), "{status:?}");
        assert!(status.message().contains(&server.target()), "{status:?}");
        assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    }
    assert_eq!(server.seen.calls.load(Ordering::SeqCst), 0);
    assert_eq!((server.seen.accepted(), server.seen.open()), (1, 1), "the connection stays");
    conn.connect();
    let mut client = GreeterClient::new(conn.clone());
    let waits = tokio::spawn(async move { client.say_hello(waiting()).await });
    sleep(Duration::from_millis(100)).await;
    assert!(!waits.is_finished());
    reporter.set_service_status("", Reported::Serving).await;
    waits.await.unwrap().unwrap();
    assert_eq!((server.seen.accepted(), server.seen.open()), (1, 1), "and nothing else is dialed");
}

#[tokio::test]
async fn the_state_follows_the_server_both_ways_on_one_connection_and_what_runs_goes_on() {
    let (server, reporter) = reporting();
    reporter.set_service_status("greeter", Reported::Serving).await;
    let conn = ClientConn::builder(server.target()).health_check("greeter").build().unwrap();
    let mut stream = GreeterClient::new(conn.clone()).stream_hello(endless()).await.unwrap().into_inner();
    let states = Arc::new(std::sync::Mutex::new(vec![conn.state()]));
    tokio::spawn({
        let (conn, states) = (conn.clone(), Arc::clone(&states));
        async move {
            let mut state = ConnectivityState::Ready;
            loop {
                state = conn.wait_for_state_change(state).await;
                states.lock().unwrap().push(state);
            }
        }
    });
    for _ in 0..2 {
        for (said, state) in [
            (Reported::NotServing, ConnectivityState::TransientFailure),
            (Reported::Serving, ConnectivityState::Ready),
        ] {
            reporter.set_service_status("greeter", said).await;
            // Of no concern.
            reporter.set_service_status("", Reported::NotServing).await;
            until_state(&conn, state).await;
            assert_eq!(call(&conn).await.is_ok(), state == ConnectivityState::Ready);
            assert!(stream.message().await.unwrap().is_some());
        }
    }
    use ConnectivityState::{Ready, TransientFailure};
    eventually_async("all changes are told", || states.lock().unwrap().len() >= 5).await;
    assert_eq!(*states.lock().unwrap(), [Ready, TransientFailure, Ready, TransientFailure, Ready]);
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_answer_but_serving_is_told_as_what_it_is() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("s").build().unwrap();
    conn.connect();
    let watch = server.watch().await;
    let mut told = Vec::new();
    for status in [ServingStatus::ServiceUnknown as i32, 2, 0, 77] {
        watch.say(status);
        sleep(SECOND).await;
        assert_eq!(conn.state(), ConnectivityState::TransientFailure);
        let status = call(&conn).await.unwrap_err();
        assert_eq!(not_serving(&status).0, "s");
        told.push(format!("{:?}", not_serving(&status).1));
    }
    assert_eq!(told, ["ServiceUnknown", "NotServing", "Unknown", "Unknown"]);
    watch.say(ServingStatus::Serving);
    until_state(&conn, ConnectivityState::Ready).await;
    call(&conn).await.unwrap();
}

#[tokio::test]
async fn without_the_option_the_server_is_not_asked() {
    let (server, reporter) = reporting();
    reporter.set_service_status("", Reported::NotServing).await;
    let conn = ClientConn::new(server.target()).unwrap();
    call(&conn).await.unwrap();
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test(start_paused = true)]
async fn the_check_goes_to_the_target_by_its_name_and_says_who_asks_as_calls_do() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").user_agent("tester").build().unwrap();
    conn.connect();
    server.watch().await.fail(Status::unimplemented("no watch"));
    server.check().await.say(ServingStatus::Serving);
    call(&conn).await.unwrap();
    let heads = server.heads.lock().unwrap();
    let paths =
        ["grpc.health.v1.Health/Watch", "grpc.health.v1.Health/Check", "cenote.greeter.v1.Greeter/SayHello"];
    assert_eq!(heads.len(), paths.len());
    for ((uri, agent), path) in heads.iter().zip(paths) {
        assert_eq!(uri.strip_prefix("http://memory:1/"), Some(path));
        assert!(agent.starts_with("tester ") && agent == &heads[2].1, "{agent}");
    }
}

// ── servers without all of it ──

#[tokio::test]
async fn a_server_without_a_health_service_counts_as_serving() {
    let server = TonicServer::start();
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    call(&conn).await.unwrap();
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn a_server_without_a_health_service_that_takes_one_stream_at_a_time_takes_calls() {
    let server = TonicServer::start_with(|server| server.max_concurrent_streams(1));
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    let pool = StreamPool::builder().health_check("").size(1).build().unwrap();
    let mut by_pool = GreeterClient::new(pool.channel(server.target()).unwrap());
    for _ in 0..2 {
        timeout(10 * SECOND, call(&conn)).await.expect("nobody has the stream").unwrap();
        timeout(10 * SECOND, by_pool.say_hello(hello("ada"))).await.expect("nobody has the stream").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_neither_watch_nor_check_is_asked_no_more() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").idle_timeout(None).build().unwrap();
    conn.connect();
    server.watch().await.fail(Status::unimplemented("no watch"));
    server.check().await.fail(Status::unimplemented("no check"));
    until_state(&conn, ConnectivityState::Ready).await;
    sleep(3600 * SECOND).await;
    assert!(!server.is_asked());
    assert_eq!(conn.state(), ConnectivityState::Ready);
    drop(conn);
    let start = Instant::now();
    until_closed(&server).await;
    assert!(start.elapsed() < SECOND / 2, "nothing holds the socket");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_watch_is_asked_by_check_every_five_seconds() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("greeter").build().unwrap();
    conn.connect();
    server.watch().await.fail(Status::unimplemented("no watch"));
    let start = Instant::now();
    let mut at = Vec::new();
    let (ready, failed) = (ConnectivityState::Ready, ConnectivityState::TransientFailure);
    for (answer, state) in [
        (Ok(ServingStatus::Serving), ready),
        (Ok(ServingStatus::NotServing), failed),
        (Ok(ServingStatus::Serving), ready),
        (Err(Status::not_found("greeter?")), failed),
        (Err(Status::internal("ill")), failed),
        (Ok(ServingStatus::Serving), ready),
    ] {
        let check = server.check().await;
        assert_eq!(check.service, "greeter");
        at.push((check.at - start).as_secs());
        match answer {
            Ok(status) => check.say(status),
            Err(status) => check.fail(status),
        }
        until_state(&conn, state).await;
        assert_eq!(call(&conn).await.is_ok(), state == ready);
    }
    assert_eq!(at, [0, 5, 10, 15, 20, 25]);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_answered_in_five_seconds_is_given_up_and_made_again() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").build().unwrap();
    conn.connect();
    server.watch().await.fail(Status::unimplemented("no watch"));
    let first = server.check().await;
    // This one is the dial's, and has its time.
    sleep(15 * SECOND).await;
    assert_eq!(conn.state(), ConnectivityState::Connecting);
    first.say(ServingStatus::Serving);
    until_state(&conn, ConnectivityState::Ready).await;
    let unanswered = server.check().await;
    let asked = unanswered.at;
    unanswered.cancelled().await;
    assert_eq!(asked.elapsed().as_secs(), 5);
    until_state(&conn, ConnectivityState::TransientFailure).await;
    let status = call(&conn).await.unwrap_err();
    let HealthError::Failed(failure) = not_serving(&status).1 else { panic!("{status:?}") };
    assert_eq!(failure.code(), Code::DeadlineExceeded);
    server.check().await.say(ServingStatus::Serving);
    until_state(&conn, ConnectivityState::Ready).await;
}

// ── a watch that ends ──

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_is_opened_again_after_pauses_that_grow_and_an_answer_begins_them_anew() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").build().unwrap();
    conn.connect();
    let mut pauses = Vec::new();
    let mut asked = Instant::now();
    for _ in 0..2 {
        for _ in 0..5 {
            let watch = server.watch().await;
            pauses.push((watch.at - asked).as_secs_f64());
            asked = watch.at;
            watch.fail(Status::internal("ill"));
            sleep(Duration::from_millis(10)).await;
            assert_eq!(conn.state(), ConnectivityState::TransientFailure);
            let status = call(&conn).await.unwrap_err();
            let HealthError::Failed(failed) = not_serving(&status).1 else { panic!("{status:?}") };
            assert_eq!((failed.code(), failed.message()), (Code::Internal, "ill"));
        }
        let watch = server.watch().await;
        asked = watch.at;
        watch.say(ServingStatus::Serving);
        until_state(&conn, ConnectivityState::Ready).await;
        // Dropped as soon as it has answered: it ends with OK.
    }
    let expected = [0.0, 1.0, 1.6, 2.56, 4.096, 1.0, 1.6, 2.56, 4.096, 6.554];
    for (pause, expected) in pauses.iter().zip(expected) {
        assert!((expected * 0.79..expected * 1.21 + 0.01).contains(pause), "{pauses:?}");
    }
    assert_eq!(server.open(), 1, "all of it on one connection");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_has_lasted_is_opened_again_at_once() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").build().unwrap();
    conn.connect();
    let mut watch = server.watch().await;
    for _ in 0..3 {
        watch.say(ServingStatus::Serving);
        until_state(&conn, ConnectivityState::Ready).await;
        sleep(60 * SECOND).await;
        drop(watch);
        let ended = Instant::now();
        watch = server.watch().await;
        assert!(ended.elapsed() < Duration::from_millis(50), "{:?}", ended.elapsed());
        // Until it is answered again, nobody knows.
        assert_eq!(conn.state(), ConnectivityState::TransientFailure);
        let status = call(&conn).await.unwrap_err();
        assert!(matches!(not_serving(&status).1, HealthError::Ended), "{status:?}");
    }
}

#[tokio::test]
async fn a_service_that_becomes_known_makes_it_ready() {
    let (server, reporter) = reporting();
    let conn = ClientConn::builder(server.target()).health_check("later").build().unwrap();
    let status = call(&conn).await.unwrap_err();
    let ("later", HealthError::Failed(failed)) = not_serving(&status) else { panic!("{status:?}") };
    assert_eq!(failed.code(), Code::NotFound, "so tonic's service says");
    reporter.set_service_status("later", Reported::Serving).await;
    until_state(&conn, ConnectivityState::Ready).await;
    call(&conn).await.unwrap();
    assert_eq!(server.seen.accepted(), 1);
}

// ── the dial's time ──

#[tokio::test(start_paused = true)]
async fn a_health_service_that_says_nothing_fails_the_dial_in_that_phase_and_in_its_time() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").connect_timeout(3 * SECOND).build().unwrap();
    let start = Instant::now();
    let status = call(&conn).await.unwrap_err();
    assert_eq!((start.elapsed().as_secs(), status.code()), (3, Code::Unavailable));
    let Error::Dial { phase: DialPhase::Health, source, .. } = cause(&status) else { panic!("{status:?}") };
    let io: &std::io::Error = source.downcast_ref().unwrap();
    assert_eq!(io.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    until_closed(&server).await;
    // By then a second attempt may be under way.
    server.watch().await.cancelled().await;
}

#[tokio::test]
async fn a_server_that_dies_or_takes_leave_before_its_first_answer_fails_the_dial_in_that_phase() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    for (takes_leave, streams) in [(false, 1), (true, 1), (true, 0)] {
        let server = FrameServer::start().await;
        let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
        let call = tokio::spawn(async move { call(&conn).await });
        let mut wire = Some(server.accept(&[(MAX_CONCURRENT_STREAMS, streams)]).await);
        let watch = match streams {
            0 => 0,
            _ => wire.as_mut().unwrap().request().await.0,
        };
        let start = Instant::now();
        match takes_leave {
            true => {
                sleep(Duration::from_millis(100)).await;
                wire.as_mut().unwrap().goaway(watch, NO_ERROR, b"").await;
            }
            false => wire = None,
        }
        let status = call.await.unwrap().unwrap_err();
        assert!(matches!(cause(&status), Error::Dial { phase: DialPhase::Health, .. }), "{status:?}");
        assert!(start.elapsed() < 10 * SECOND, "it is not the time that was up");
        drop(wire);
    }
}

// ── the end of the connection ──

/// Waits, by the test's clock, for all of the client's sockets to be closed.
async fn until_closed(server: &MemoryServer) {
    for _ in 0..10_000 {
        if server.open() == 0 {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("{} sockets are open", server.open());
}

#[tokio::test(start_paused = true)]
async fn the_drop_of_the_last_handle_closes_the_socket_at_once_whether_or_not_the_server_serves() {
    for said in [ServingStatus::Serving, ServingStatus::NotServing] {
        let mut server = MemoryServer::start();
        let conn = server.conn().health_check("").build().unwrap();
        conn.connect();
        let watch = server.watch().await;
        watch.say(said);
        sleep(SECOND).await;
        assert_eq!(server.open(), 1);
        drop(conn);
        let start = Instant::now();
        watch.cancelled().await;
        until_closed(&server).await;
        assert!(start.elapsed() < SECOND / 2, "{said:?}: it had to be cut");
    }
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_takes_no_notice_of_the_watch() {
    for said in [ServingStatus::Serving, ServingStatus::NotServing] {
        let mut server = MemoryServer::start();
        let conn = server.conn().health_check("").idle_timeout(60 * SECOND).build().unwrap();
        conn.connect();
        let start = Instant::now();
        let watch = server.watch().await;
        watch.say(said);
        watch.cancelled().await;
        assert_eq!(conn.state(), ConnectivityState::Idle, "{said:?}");
        until_closed(&server).await;
        let took = start.elapsed().as_secs_f64();
        assert!((60.0..60.5).contains(&took), "{said:?}: {took}");
        // And all of it again.
        conn.connect();
        let watch = server.watch().await;
        watch.say(ServingStatus::Serving);
        until_state(&conn, ConnectivityState::Ready).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_old_lets_go_of_its_watch_and_its_socket() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").max_connection_age(60 * SECOND).build().unwrap();
    conn.connect();
    let watch = server.watch().await;
    watch.say(ServingStatus::Serving);
    until_state(&conn, ConnectivityState::Ready).await;
    watch.cancelled().await;
    assert_eq!(conn.state(), ConnectivityState::Idle);
    until_closed(&server).await;
}

#[tokio::test]
async fn a_server_that_takes_leave_need_not_wait_for_the_end_of_the_watch() {
    let (mut server, _reporter) = reporting();
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    conn.connect();
    until_state(&conn, ConnectivityState::Ready).await;
    server.shut_down_gracefully();
    until_state(&conn, ConnectivityState::Idle).await;
    let seen = Arc::clone(&server.seen);
    eventually_async("the socket is closed", || seen.open() == 0).await;
}

#[tokio::test]
async fn a_connection_whose_server_dies_is_idle_with_the_watch_open_too() {
    let (server, reporter) = reporting();
    for said in [Reported::Serving, Reported::NotServing] {
        reporter.set_service_status("", said).await;
    }
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    conn.connect();
    until_state(&conn, ConnectivityState::TransientFailure).await;
    let addr = server.kill();
    until_state(&conn, ConnectivityState::Idle).await;
    let _server = TonicServer::start_again(addr);
    call(&conn).await.unwrap();
}

/// Answers the watch that is the connection's first request.
async fn serving(wire: &mut Wire) {
    let (watch, _) = wire.request().await;
    wire.answer_head(watch).await;
    // A HealthCheckResponse: SERVING.
    wire.write(DATA, 0, watch, &[0, 0, 0, 0, 2, 8, 1]).await;
}

#[tokio::test]
async fn a_connection_that_breaks_says_nothing_of_the_servers_health_though_its_watch_breaks_first() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const LARGE: u32 = 1 << 30;
    let server = FrameServer::start().await;
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[(INITIAL_WINDOW_SIZE, LARGE)]).await;
    wire.write(WINDOW_UPDATE, 0, 0, &LARGE.to_be_bytes()).await;
    serving(&mut wire).await;
    until_state(&conn, ConnectivityState::Ready).await;
    // What the server does not read fills the socket: the client cannot take leave on it when it must.
    let sent = Arc::new(AtomicUsize::new(0));
    let endless = tokio_stream::iter(std::iter::repeat_with({
        let sent = Arc::clone(&sent);
        move || {
            sent.fetch_add(1, Ordering::SeqCst);
            hello(&"a".repeat(1 << 20))
        }
    }));
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.chat(endless).await });
    let mut before = 0;
    while before == 0 || sent.load(Ordering::SeqCst) > before {
        before = sent.load(Ordering::SeqCst);
        sleep(Duration::from_millis(200)).await;
    }
    // The socket's stream has no data: hyper gives up all streams.
    wire.write(DATA, 0, 0, b"x").await;
    let status = call.await.unwrap().unwrap_err();
    assert!(matches!(cause(&status), Error::Interrupted { .. }), "{status:?}");
    sleep(Duration::from_millis(100)).await;
    assert_ne!(conn.state(), ConnectivityState::TransientFailure);
    let call = tokio::spawn(async move { self::call(&conn).await });
    let mut wire = server.accept(&[]).await;
    serving(&mut wire).await;
    let (hello, _) = wire.request().await;
    wire.answer(hello, "back").await;
    assert_eq!(call.await.unwrap().unwrap().message, "back");
}

#[tokio::test(start_paused = true)]
async fn close_ends_those_who_wait_for_an_answer_or_for_another_one() {
    for said in [None, Some(ServingStatus::NotServing)] {
        let mut server = MemoryServer::start();
        let conn = server.conn().health_check("").build().unwrap();
        let mut client = GreeterClient::new(conn.clone());
        let call = tokio::spawn(async move { client.say_hello(waiting()).await });
        let watch = server.watch().await;
        if let Some(said) = said {
            watch.say(said);
        }
        sleep(SECOND).await;
        assert!(!call.is_finished());
        conn.close();
        let start = Instant::now();
        let status = call.await.unwrap().unwrap_err();
        assert!(matches!(cause(&status), Error::Closed), "{status:?}");
        watch.cancelled().await;
        until_closed(&server).await;
        assert!(start.elapsed() < SECOND / 2);
        assert_eq!(conn.state(), ConnectivityState::Shutdown);
    }
}

// ── calls that wait ──

/// Counts how often it is polled.
async fn counting<F: Future>(polls: &AtomicUsize, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::SeqCst);
        future.as_mut().poll(cx)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_ready_sleeps_until_the_server_serves() {
    for pooled in [false, true] {
        let mut server = MemoryServer::start();
        let conn = match pooled {
            false => server.conn().health_check("").build().unwrap(),
            true => server.pool().health_check("").build().unwrap().take(),
        };
        let polls = Arc::new(AtomicUsize::new(0));
        let call = tokio::spawn({
            let (mut client, polls) = (GreeterClient::new(conn.clone()), Arc::clone(&polls));
            async move { counting(&polls, client.say_hello(waiting())).await }
        });
        let watch = server.watch().await;
        watch.say(ServingStatus::NotServing);
        until_state(&conn, ConnectivityState::TransientFailure).await;
        sleep(600 * SECOND).await;
        assert!(!call.is_finished());
        assert!(polls.load(Ordering::SeqCst) < 10, "{polls:?} polls");
        watch.say(ServingStatus::Serving);
        call.await.unwrap().unwrap();
        assert_eq!(server.open(), 1);
        assert!(!server.is_asked(), "on the connection that was there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_ready_dials_again_when_the_server_that_does_not_serve_is_lost() {
    let mut server = MemoryServer::start();
    let conn = server.conn().health_check("").idle_timeout(60 * SECOND).build().unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(waiting()).await });
    let watch = server.watch().await;
    watch.say(ServingStatus::NotServing);
    // The idle timeout: who waits is no call that runs.
    watch.cancelled().await;
    let watch = server.watch().await;
    watch.say(ServingStatus::Serving);
    call.await.unwrap().unwrap();
}

// ── pools ──

/// A pool's server that says what `Sender` is told.
fn pooled(
    said: ServingStatus,
    configure: impl FnOnce(cenote::grpc::ClientPoolBuilder) -> cenote::grpc::ClientPoolBuilder,
) -> (MemoryServer, ClientPool, watch::Sender<ServingStatus>) {
    let (say, status) = watch::channel(said);
    let server = MemoryServer::start_with(status);
    let pool = configure(server.pool().health_check("")).build().unwrap();
    (server, pool, say)
}

async fn greet(pool: &ClientPool) -> Result<(), Status> {
    let conn = pool.get();
    assert!(PooledConn::state_at_get(&conn).is_usable());
    GreeterClient::new(conn).say_hello(hello("ada")).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_pool_discards_what_does_not_serve_on_put_and_on_get_and_closes_its_socket() {
    let (server, pool, say) = pooled(ServingStatus::Serving, |pool| pool.exclusive());
    let (out, in_pool) = (pool.get(), (*pool.get()).clone());
    call(&out).await.unwrap();
    call(&in_pool).await.unwrap();
    assert_eq!(server.open(), 2);
    say.send_replace(ServingStatus::NotServing);
    until_state(&out, ConnectivityState::TransientFailure).await;
    until_state(&in_pool, ConnectivityState::TransientFailure).await;
    let handle = (*out).clone();
    drop(out);
    assert_eq!(pool.stats().discarded.put_transient_failure, 1);
    let fresh = pool.get();
    assert_eq!(PooledConn::state_at_get(&fresh), ConnectivityState::Idle);
    assert_eq!(pool.stats().discarded.get_transient_failure, 1);
    // Though there are handles still.
    until_closed(&server).await;
    for discarded in [handle, in_pool] {
        assert_eq!(discarded.state(), ConnectivityState::Shutdown);
        assert_eq!(call(&discarded).await.unwrap_err().code(), Code::Unavailable);
    }
    let status = call(&fresh).await.unwrap_err();
    assert!(matches!(not_serving(&status).1, HealthError::NotServing), "{status:?}");
    say.send_replace(ServingStatus::Serving);
    until_state(&fresh, ConnectivityState::Ready).await;
    call(&fresh).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_discard_cuts_no_call_that_runs_on_what_does_not_serve() {
    let (server, pool, say) = pooled(ServingStatus::Serving, |pool| pool);
    let mut conn = pool.get();
    let mut stream = GreeterClient::new(&mut conn).stream_hello(endless()).await.unwrap().into_inner();
    say.send_replace(ServingStatus::NotServing);
    until_state(&conn, ConnectivityState::TransientFailure).await;
    drop(conn);
    assert_eq!(pool.stats().discarded.put_transient_failure, 1);
    sleep(10 * SECOND).await;
    for _ in 0..10 {
        assert!(stream.message().await.unwrap().is_some());
    }
    drop(stream);
    until_closed(&server).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_server_does_not_serve_a_pool_dials_at_its_gates_pace_and_recovers_within_a_second() {
    let (server, pool, say) = pooled(ServingStatus::Serving, |pool| pool);
    greet(&pool).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let callers: Vec<_> = (0..24)
        .map(|_| {
            let (pool, stopped) = (pool.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut results = Vec::new();
                while !*stopped.borrow() {
                    let start = Instant::now();
                    let result = greet(&pool).await;
                    if let Err(status) = &result {
                        not_serving(status);
                    }
                    results.push((start, result.is_ok()));
                    sleep(Duration::from_millis(50)).await;
                }
                results
            })
        })
        .collect();
    sleep(SECOND).await;
    let before = pool.stats();
    say.send_replace(ServingStatus::NotServing);
    sleep(10 * SECOND).await;
    let during = pool.stats();
    // 50 ms growing by 1.6 to 1 s makes some 15 attempts in 10 s.
    let dials = during.dials - before.dials;
    assert!((8..=24).contains(&dials), "{dials} dials in 10 s");
    assert_eq!(during.failed_dials - before.failed_dials, dials);
    assert!(server.open() <= 2, "{} sockets of discarded connections", server.open());
    say.send_replace(ServingStatus::Serving);
    let recovery = Instant::now();
    sleep(5 * SECOND).await;
    stop.send_replace(true);
    let mut results = Vec::new();
    for caller in callers {
        results.extend(caller.await.unwrap());
    }
    assert!(results.iter().any(|(_, ok)| !ok), "the outage was one");
    let late = results.iter().find(|(start, ok)| !ok && *start > recovery + SECOND);
    assert!(late.is_none(), "a call failed {:?} after the recovery", late.unwrap().0 - recovery);
    let stats = pool.stats();
    assert_eq!(stats.made, stats.discarded.total() + stats.released + stats.alive, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_connection_that_does_not_serve_is_given_up_for_another_dial_and_comes_back() {
    let (server, pool, say) = pooled(ServingStatus::Serving, |pool| pool.max_connections(1));
    let held = pool.get();
    call(&held).await.unwrap();
    for _ in 0..3 {
        say.send_replace(ServingStatus::NotServing);
        until_state(&held, ConnectivityState::TransientFailure).await;
        let dials = pool.stats().dials;
        let start = Instant::now();
        for _ in 0..6 {
            let status = greet(&pool).await.unwrap_err();
            assert!(matches!(not_serving(&status).1, HealthError::NotServing), "{status:?}");
            assert!(server.open() <= 1);
        }
        assert_eq!(pool.stats().dials - dials, 6, "a get gives up what does not serve");
        assert!(start.elapsed() > Duration::from_millis(300), "at the gate's pace: {:?}", start.elapsed());
        assert_eq!(
            held.state(),
            ConnectivityState::TransientFailure,
            "and it is not closed under its holder"
        );
        say.send_replace(ServingStatus::Serving);
        let start = Instant::now();
        until_state(&held, ConnectivityState::Ready).await;
        assert!(start.elapsed() < SECOND);
        greet(&pool).await.unwrap();
        call(&held).await.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.made, stats.discarded.total(), stats.peak_open), (1, 0, 1), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_call_that_runs_on_what_does_not_serve_is_in_nobodys_way() {
    let (server, pool, say) = pooled(ServingStatus::Serving, |pool| pool.max_connections(1));
    let held = pool.get();
    let mut stream = GreeterClient::new((*held).clone()).stream_hello(endless()).await.unwrap().into_inner();
    say.send_replace(ServingStatus::NotServing);
    until_state(&held, ConnectivityState::TransientFailure).await;
    not_serving(&greet(&pool).await.unwrap_err());
    say.send_replace(ServingStatus::Serving);
    until_state(&held, ConnectivityState::Ready).await;
    greet(&pool).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(server.open(), 2);
    drop(held);
    // The same, when the last who had it gives it back.
    pool.clear();
    let mut held = pool.get();
    let mut other = GreeterClient::new(&mut held).stream_hello(endless()).await.unwrap().into_inner();
    say.send_replace(ServingStatus::NotServing);
    until_state(&held, ConnectivityState::TransientFailure).await;
    drop(held);
    assert_eq!(pool.stats().discarded.put_transient_failure, 1);
    let start = Instant::now();
    not_serving(&greet(&pool).await.unwrap_err());
    assert!(start.elapsed() < 5 * SECOND, "it did not wait for the call's end");
    assert!(other.message().await.unwrap().is_some());
    drop((stream, other));
    pool.clear();
    until_closed(&server).await;
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_call_is_told_what_its_dial_found_though_a_get_comes_between() {
    let (_server, pool, _say) = pooled(ServingStatus::NotServing, |pool| pool.max_connections(1));
    let held = pool.get_owned();
    let forgetful = tokio::spawn({
        let (pool, conn) = (pool.clone(), (*held).clone());
        async move {
            let mut state = conn.state();
            loop {
                state = conn.wait_for_state_change(state).await;
                drop(pool.get());
            }
        }
    });
    for dials in 1..=20 {
        not_serving(&greet(&pool).await.unwrap_err());
        assert_eq!(pool.stats().dials, dials);
        // Whichever of the two woke first.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(held.state(), ConnectivityState::Idle);
    }
    forgetful.abort();
}

#[test]
fn at_the_limit_calls_are_told_that_the_server_does_not_serve_whoever_else_gets() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, reporter) = reporting();
    runtime.block_on(reporter.set_service_status("", Reported::NotServing));
    let pool = ClientPool::builder(server.target()).health_check("").max_connections(1).build().unwrap();
    // With this out, each get gives up what does not serve.
    let held = pool.get_owned();
    let getting = Arc::new(AtomicBool::new(true));
    let getter = std::thread::spawn({
        let (pool, getting) = (pool.clone(), Arc::clone(&getting));
        move || {
            let mut gets = 0;
            while getting.load(Ordering::Relaxed) {
                assert!(PooledConn::state_at_get(&pool.get()).is_usable());
                gets += 1;
            }
            gets
        }
    });
    for _ in 0..8 {
        let status = runtime.block_on(greet(&pool)).unwrap_err();
        assert!(matches!(not_serving(&status).1, HealthError::NotServing), "{status:?}");
    }
    assert_eq!(pool.stats().dials, 8, "each got the outcome of its own dial");
    runtime.block_on(async {
        reporter.set_service_status("", Reported::Serving).await;
        let deadline = Instant::now() + 10 * SECOND;
        while call(&held).await.is_err() {
            assert!(Instant::now() < deadline, "{pool:?}");
        }
        greet(&pool).await.unwrap();
    });
    getting.store(false, Ordering::Relaxed);
    assert!(getter.join().unwrap() > 100, "no get waits");
    let stats = pool.stats();
    assert_eq!((stats.made, stats.peak_open), (1, 1), "{stats:?}");
}

#[tokio::test]
async fn a_server_without_a_health_service_has_all_its_streams_for_calls() {
    // ":status: 200", and two literals: "content-type" and "grpc-status: 12", UNIMPLEMENTED.
    let head = b"\x88\x00\x0ccontent-type\x10application/grpc\x00\x0bgrpc-status\x0212";
    let server = FrameServer::start().await;
    let conn = ClientConn::builder(server.target()).health_check("").build().unwrap();
    let call = {
        let mut client = GreeterClient::new(conn.clone());
        tokio::spawn(async move { client.say_hello(hello("ada")).await })
    };
    let mut wire = server.accept(&[(3, 1)]).await;
    // Neither Watch nor Check.
    for _ in 0..2 {
        let (stream, _) = wire.request().await;
        wire.write(1, 5, stream, head).await;
    }
    let (stream, _) =
        tokio::time::timeout(Duration::from_secs(10), wire.request()).await.expect("a stream for the call");
    wire.answer(stream, "well").await;
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "well");
}

// ── a server that sends what cannot be decoded ──

/// Trailers with details that are not base64, and a message that is not UTF-8.
const MALFORMED: [(&str, &str); 3] =
    [("grpc-status", "5"), ("grpc-status-details-bin", "%%%"), ("grpc-message", "lost %FF")];

#[tokio::test(start_paused = true)]
async fn a_watch_answered_with_malformed_trailers_is_not_serving_and_is_opened_again() {
    let (builder, mut server) = in_memory();
    let conn = builder.health_check("").build().unwrap();
    let first = memory::call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (watch, _) = wire.request().await;
    wire.write(HEADERS, END_HEADERS | END_STREAM, watch, &fields(&[&HEAD[..], &MALFORMED].concat())).await;
    let status = memory::failure(first).await;
    match not_serving(&status).1 {
        HealthError::Failed(said) => {
            assert_eq!((said.code(), said.message()), (Code::NotFound, "lost \u{fffd}"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    // On the same connection, which serves when the server says so.
    let (watch, _) = wire.request().await;
    wire.answer_head(watch).await;
    wire.write(DATA, 0, watch, &SERVING).await;
    until_state(&conn, ConnectivityState::Ready).await;
    memory::served(&conn, &mut wire).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_run_go_on_when_a_watch_ends_with_malformed_trailers() {
    let (builder, mut server) = in_memory();
    let conn = builder.health_check("").build().unwrap();
    let running = memory::call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (watch, _) = wire.request().await;
    wire.answer_head(watch).await;
    wire.write(DATA, 0, watch, &SERVING).await;
    let (stream, _) = wire.request().await;
    wire.write(HEADERS, END_HEADERS | END_STREAM, watch, &fields(&MALFORMED)).await;
    until_state(&conn, ConnectivityState::TransientFailure).await;
    wire.answer(stream, "well").await;
    assert_eq!(memory::reply(running).await, "well");
}

/// A `HealthCheckResponse` of SERVING.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];
