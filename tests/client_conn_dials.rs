//! Dials by the clock: how long an attempt may take, the pauses between attempts, and for how long calls wait. The clock is
//! paused: see `client_conn_time.rs`.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use cenote::grpc::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use cenote::grpc::{Backoff, CallPhase, ClientConn, DialPhase, Error, TlsConfig, WaitForReady};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::*;
use support::memory::*;
use support::{cause, hello};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

// ── dials ──

/// For how long each attempt lasted at a server that says nothing, and the pause behind it.
async fn attempts(server: &mut Pipes, number: usize) -> Vec<(Duration, Duration)> {
    let mut found = Vec::new();
    let mut mute = server.dialed().await;
    let mut began = Instant::now();
    for _ in 0..number {
        hung_up(&mut mute).await;
        let ended = Instant::now();
        mute = server.dialed().await;
        found.push((ended - began, ended.elapsed()));
        began = Instant::now();
    }
    found
}

/// gRPC's backoff: the pauses after the first, second, and so on, failure.
#[track_caller]
fn assert_backoff(pauses: &[Duration]) {
    let mut middle = 1.0f64;
    for pause in pauses.iter().map(Duration::as_secs_f64) {
        let range = middle * 0.799..=(middle * 1.201).min(120.01);
        assert!(range.contains(&pause), "{pause} around {middle} in {pauses:?}");
        middle = (middle * 1.6).min(120.0);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_made_again_after_pauses_from_one_second_to_two_minutes() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    let first = call(&conn, hello("ada"));
    let start = Instant::now();
    let mut pauses = Vec::new();
    let mut last = server.hang_up().await;
    assert_eq!(dial_failure(&failure(first).await).0, DialPhase::Settings);
    while start.elapsed() < HOUR {
        let next = server.hang_up().await;
        pauses.push(next - last);
        last = next;
        // It stays through all attempts, and calls fail at once.
        assert_eq!(conn.state(), TransientFailure);
        dial_failure(&failure(call(&conn, hello("ada"))).await);
        assert_about(last.elapsed(), Duration::ZERO);
    }
    assert!((30..60).contains(&pauses.len()), "{}", pauses.len());
    assert_backoff(&pauses);
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure]);

    let mut wire = server.accept(&[]).await;
    settle().await;
    served(&conn, &mut wire).await;
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure, Ready]);
    // With the success the sequence begins anew.
    drop(wire);
    settle().await;
    assert_eq!(conn.state(), Idle);
    conn.connect();
    let mut pauses = Vec::new();
    let mut last = server.hang_up().await;
    for _ in 0..5 {
        let next = server.hang_up().await;
        pauses.push(next - last);
        last = next;
    }
    assert_backoff(&pauses);
    assert_eq!(
        states.seen()[3..],
        [Ready, Idle, Connecting, TransientFailure],
        "a loss is Idle; only a dial that fails is a failure"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_with_its_settings_is_no_failure_and_the_call_goes_to_the_next() {
    // By a GOAWAY, or by the socket's end.
    for (said, stays) in [(&WELCOME_AND_GOODBYE[..], true), (&WELCOME_AND_GOODBYE[..9], false)] {
        let (builder, mut server) = in_memory();
        let conn = builder.build().unwrap();
        let states = States::of(&conn);
        let waiting = call(&conn, hello("ada"));
        let mut first = server.dialed().await;
        first.write_all(said).await.unwrap();
        let _first = stays.then_some(first);
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        assert_eq!(reply(waiting).await, "well");
        assert_eq!(conn.state(), Ready);
        assert_eq!(states.seen(), [Idle, Connecting, Ready]);
        assert_about(states.last_change(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_leave_with_its_settings_each_time_is_a_failure_from_the_second_time_on() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let waiting = call(&conn, hello("ada"));
    let mut pauses = Vec::new();
    let mut last = Instant::now();
    for _ in 0..6 {
        server.dialed().await.write_all(&WELCOME_AND_GOODBYE).await.unwrap();
        pauses.push(last.elapsed());
        last = Instant::now();
        server.dialed().await.write_all(&WELCOME_AND_GOODBYE).await.unwrap();
        assert_about(last.elapsed(), Duration::ZERO);
    }
    assert_eq!(dial_failure(&failure(waiting).await).0, DialPhase::Settings);
    assert_eq!(conn.state(), TransientFailure);
    assert_backoff(&pauses[1..]);

    let mut wire = server.accept(&[]).await;
    settle().await;
    served(&conn, &mut wire).await;
    drop(wire);
    settle().await;
    // The next dial may lose one again.
    let waiting = call(&conn, hello("ada"));
    server.dialed().await.write_all(&WELCOME_AND_GOODBYE).await.unwrap();
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "well").await;
    assert_eq!(reply(waiting).await, "well");
}

#[tokio::test(start_paused = true)]
async fn reset_connect_backoff_ends_the_pause_at_once_and_begins_the_sequence_anew() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    for _ in 0..12 {
        server.hang_up().await;
    }
    settle().await;
    let asked = Instant::now();
    conn.reset_connect_backoff();
    let mut last = server.hang_up().await;
    assert_about(last - asked, Duration::ZERO);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let next = server.hang_up().await;
        pauses.push(next - last);
        last = next;
    }
    assert_backoff(&pauses);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_lasts_twenty_seconds_or_as_long_as_the_pause_that_follows_it() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    let attempts = attempts(&mut server, 14).await;
    for (lasted, pause) in &attempts {
        assert_about(*lasted, (20 * SECOND).max(*pause));
    }
    assert!(attempts.iter().any(|(lasted, _)| *lasted > 80 * SECOND), "{attempts:?}");
    assert_backoff(&attempts.into_iter().map(|(_, pause)| pause).collect::<Vec<_>>());
    assert_eq!(conn.state(), TransientFailure);
}

#[tokio::test(start_paused = true)]
async fn a_connect_timeout_holds_for_each_attempt_however_long_the_pause() {
    let (builder, mut server) = in_memory();
    let conn = builder.connect_timeout(5 * SECOND).build().unwrap();
    let first = call(&conn, hello("ada"));
    let start = Instant::now();
    for (lasted, _) in attempts(&mut server, 14).await {
        assert_about(lasted, 5 * SECOND);
    }
    let status = failure(first).await;
    assert_eq!(dial_failure(&status), (DialPhase::Settings, Some(ErrorKind::TimedOut)));
    assert!(start.elapsed() > 5 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_hangs_is_out_of_time_in_its_phase_and_so_is_tls() {
    let hangs = tower::service_fn(|_| std::future::pending::<std::io::Result<DuplexStream>>());
    let conn = ClientConn::builder("http://a:1").connector(hangs).build().unwrap();
    let start = Instant::now();
    let status = failure(call(&conn, hello("ada"))).await;
    assert_about(start.elapsed(), 20 * SECOND);
    assert_eq!(dial_failure(&status), (DialPhase::Connect, Some(ErrorKind::TimedOut)));

    let (builder, mut server) = in_memory();
    let conn = builder.tls(TlsConfig::new().server_name("a")).build().unwrap();
    let start = Instant::now();
    let waits = call(&conn, hello("ada"));
    let mute = server.dialed().await;
    let status = failure(waits).await;
    assert_about(start.elapsed(), 20 * SECOND);
    assert_eq!(dial_failure(&status), (DialPhase::Tls, Some(ErrorKind::TimedOut)));
    drop(mute);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_drips_is_ready_in_the_end_or_out_of_time() {
    for (limit, then) in [(15 * SECOND, Ready), (5 * SECOND, TransientFailure)] {
        let (builder, mut server) = in_memory();
        let conn = builder.connect_timeout(limit).build().unwrap();
        let states = States::of(&conn);
        conn.connect();
        let mut wire = server.dialed().await;
        let drip = tokio::spawn(async move {
            for byte in [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0] {
                sleep(SECOND).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut wire, &[byte]).await;
            }
            wire
        });
        conn.wait_for_state_change(Connecting).await;
        settle().await;
        assert_eq!(states.seen(), [Idle, Connecting, then]);
        assert_about(states.last_change(), limit.min(9 * SECOND));
        drip.await.unwrap();
    }
}

/// On the real clock: the paused one stands still while anything runs.
#[tokio::test]
async fn a_loop_of_calls_that_fail_at_once_does_not_keep_the_connection_from_its_next_dial() {
    let (builder, mut server) = in_memory();
    let backoff = Backoff { initial: Duration::from_millis(1), ..Backoff::default() };
    let conn = builder.backoff(backoff).build().unwrap();
    conn.connect();
    server.hang_up().await;
    conn.wait_for_state_change(Connecting).await;
    assert_eq!(conn.state(), TransientFailure);
    let start = std::time::Instant::now();
    let impatient = tokio::spawn(async move {
        let mut client = GreeterClient::new(conn);
        while client.say_hello(hello("ada")).await.is_err() {
            assert!(start.elapsed() < 10 * SECOND, "nothing else came to its turn");
        }
    });
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "at last").await;
    impatient.await.unwrap();
}

// ── deadlines ──

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_while_a_call_waits_for_a_dial_and_the_dial_goes_on() {
    for patience in [false, true] {
        let (builder, mut server) = in_memory();
        let conn = builder.wait_for_ready(patience).build().unwrap();
        let start = Instant::now();
        let waits = call(&conn, within(hello("ada"), 7 * SECOND));
        let mute = server.dialed().await;
        let status = failure(waits).await;
        assert_about(start.elapsed(), 7 * SECOND);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Connect, .. }));
        assert_eq!(conn.state(), Connecting);
        let mut wire = Wire::over(mute, &[]).await;
        served(&conn, &mut wire).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_call_that_waits_for_ready_keeps_its_deadline_and_one_that_does_not_fails_at_once() {
    let (builder, server) = in_memory();
    drop(server);
    let conn = builder.build().unwrap();
    let start = Instant::now();
    let waiting = || {
        let mut request = within(hello("ada"), 10 * MINUTE);
        request.extensions_mut().insert(WaitForReady(true));
        request
    };
    let patient = call(&conn, waiting());
    let impatient = failure(call(&conn, within(hello("bob"), 10 * MINUTE))).await;
    assert_about(start.elapsed(), Duration::ZERO);
    assert_eq!(dial_failure(&impatient), (DialPhase::Connect, Some(ErrorKind::ConnectionRefused)));
    assert_eq!(conn.state(), TransientFailure);
    // Whether it came before the failure or after it.
    for patient in [patient, call(&conn, waiting())] {
        let status = failure(patient).await;
        assert_about(start.elapsed(), 10 * MINUTE);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Connect, .. }));
    }
    assert_eq!(conn.state(), TransientFailure);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_for_the_response_and_for_its_body_and_resets_the_stream() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let start = Instant::now();
    let unanswered = call(&conn, within(hello("ada"), 7 * SECOND));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    let status = failure(unanswered).await;
    assert_about(start.elapsed(), 7 * SECOND);
    assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Response, .. }));
    until_reset(&mut wire, stream).await;

    let mut client = GreeterClient::new(conn.clone());
    let start = Instant::now();
    let many = within(StreamHelloRequest { name: "ada".to_owned(), count: 2, pause_ms: 0 }, HOUR);
    let replies = tokio::spawn(async move { client.stream_hello(many).await });
    let (stream, _) = wire.request().await;
    wire.answer_head(stream).await;
    let mut replies = replies.await.unwrap().unwrap().into_inner();
    sleep(59 * MINUTE).await;
    wire.answer_message(stream, "just in time").await;
    assert!(replies.message().await.unwrap().is_some());
    let status = timeout(FOREVER, replies.message()).await.expect("an end").unwrap_err();
    assert_about(start.elapsed(), HOUR);
    assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Body, .. }));
    until_reset(&mut wire, stream).await;
    assert_eq!(conn.state(), Ready, "a deadline says nothing of the connection");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_for_a_body_that_always_has_something_ready() {
    let (builder, mut server) = in_memory();
    let mut client = GreeterClient::new(builder.build().unwrap());
    let many = within(StreamHelloRequest { name: "ada".to_owned(), count: 100, pause_ms: 0 }, 10 * SECOND);
    let replies = tokio::spawn(async move { client.stream_hello(many).await });
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer_head(stream).await;
    for _ in 0..100 {
        wire.answer_message(stream, "ready").await;
    }
    let mut replies = replies.await.unwrap().unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    sleep(11 * SECOND).await;
    let status = replies.message().await.unwrap_err();
    assert!(matches!(cause(&status), Error::DeadlineExceeded { phase: CallPhase::Body, .. }), "{status:?}");
    until_reset(&mut wire, stream).await;
}

fn panics() -> std::io::Result<DuplexStream> {
    panic!("on purpose")
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_is_a_dial_that_fails_with_the_pauses_of_any() {
    let dials = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&dials);
    let connector = tower::service_fn(move |_: http::Uri| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { panics() }
    });
    let conn = ClientConn::builder("in.memory:1").connector(connector).build().unwrap();
    let status = failure(call(&conn, hello("ada"))).await;
    assert_eq!(dial_failure(&status).0, DialPhase::Connect);
    assert!(status.message().contains("the connector panicked"), "{status:?}");
    let mut patient = Request::new(hello("ada"));
    patient.extensions_mut().insert(WaitForReady(true));
    let patient = call(&conn, patient);
    sleep(HOUR).await;
    assert!(!patient.is_finished());
    assert_eq!(conn.state(), TransientFailure);
    let dials = dials.load(std::sync::atomic::Ordering::SeqCst);
    assert!((30..60).contains(&dials), "{dials}");
}

async fn until_reset(wire: &mut Wire<DuplexStream>, stream: u32) {
    loop {
        let frame = wire.read().await.expect("a reset");
        if frame.kind == RST_STREAM && frame.stream == stream {
            return assert_eq!(frame.payload, CANCEL.to_be_bytes());
        }
    }
}
