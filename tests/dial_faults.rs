//! Dials where something is wrong with the other side, or with our own: each at a bounded rate, and with an error that says
//! what it is.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote::grpc::ConnectivityState::{Idle, Ready};
use cenote::grpc::{Addresses, ClientConn, ClientPool, Error, RuntimeDriver, StreamPool};
use cenote_proto::greeter_client::GreeterClient;
use support::frames::*;
use support::memory::*;
use support::{cause, hello};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

const MINUTE: Duration = Duration::from_secs(60);

// ── a server that accepts each connection and ends it at once ──

/// How such a server ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    GoAway,
    Fin,
}

/// Sends SETTINGS on each connection and ends it 1 ms later. Counts the dials.
fn short_lived(mut server: Pipes, end: End) -> Arc<AtomicUsize> {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dials);
    tokio::spawn(async move {
        loop {
            let mut wire = server.accept(&[]).await;
            assert!(counted.fetch_add(1, Ordering::SeqCst) < 10_000, "dialed without a pause");
            tokio::spawn(async move {
                sleep(Duration::from_millis(1)).await;
                match end {
                    End::GoAway => {
                        let _ = wire.try_write(GOAWAY, 0, 0, &[0; 8]).await;
                        wire.closed().await;
                    }
                    End::Fin => {}
                }
            });
        }
    });
    dials
}

/// At a pool's pauses, which grow to a second: about 8 in the first 2 s, and then one a second.
#[track_caller]
fn assert_paced(dials: &AtomicUsize, what: impl std::fmt::Debug) {
    let dials = dials.load(Ordering::SeqCst);
    assert!((30..=90).contains(&dials), "{what:?}: {dials} dials in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_keeps_a_connection_pauses_when_each_one_is_ended_at_once() {
    for end in [End::GoAway, End::Fin] {
        let (connector, server) = pipes(CAPACITY);
        let dials = short_lived(server, end);
        let pool = StreamPool::builder().connector(connector).min_idle(1).build().unwrap();
        // Made known to the pool, without a call.
        drop(pool.get("in.memory:1").unwrap());
        sleep(MINUTE).await;
        assert_paced(&dials, end);
        pool.close();
    }
}

#[tokio::test(start_paused = true)]
async fn a_balanced_set_pauses_when_each_connection_is_ended_at_once() {
    for end in [End::GoAway, End::Fin] {
        let (connector, server) = pipes(CAPACITY);
        let dials = short_lived(server, end);
        let pool = StreamPool::builder().connector(connector).build().unwrap();
        let _set = pool.balance(Addresses::list(["in.memory:1"]));
        sleep(MINUTE).await;
        assert_paced(&dials, end);
        pool.close();
    }
}

/// A connection that is kept connected by its user.
async fn keep_connected(conn: ClientConn) {
    let mut state = conn.state();
    loop {
        if state == Idle {
            conn.connect();
        }
        state = conn.wait_for_state_change(state).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_pauses_when_it_is_ended_at_once_each_time_and_its_calls_fail_with_the_reason() {
    for end in [End::GoAway, End::Fin] {
        let (builder, server) = in_memory();
        let dials = short_lived(server, end);
        let conn = builder.build().unwrap();
        let keeper = tokio::spawn(keep_connected(conn.clone()));
        sleep(10 * MINUTE).await;
        let dials = dials.load(Ordering::SeqCst);
        // gRPC's pauses, from 1 s to 2 minutes.
        assert!((8..=20).contains(&dials), "{end:?}: {dials} dials in ten minutes");
        let status = failure(call(&conn, hello("ada"))).await;
        assert!(status.message().contains("lost at once"), "{status:?}");
        // Asked for by hand, as after any failure.
        let before = Instant::now();
        conn.reset_connect_backoff();
        let mut state = conn.state();
        while state != Ready {
            state = conn.wait_for_state_change(state).await;
        }
        assert_about(before.elapsed(), Duration::ZERO);
        keeper.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_ended_once_is_dialed_again_at_once() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    conn.connect();
    drop(server.accept(&[]).await);
    settle().await;
    let before = Instant::now();
    let serving = tokio::spawn(async move {
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        wire.closed().await;
    });
    assert_eq!(reply(call(&conn, hello("ada"))).await, "well");
    assert_about(before.elapsed(), Duration::ZERO);
    serving.abort();
}

// ── a dial that panics ──

/// Counts the panics whose text contains this; they are not printed.
fn count_panics(text: &'static str) -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        match said.is_some_and(|said| said.contains(text)) {
            true => drop(counted.fetch_add(1, Ordering::SeqCst)),
            false => print(panic),
        }
    }));
    panics
}

fn lacks(status: &Status) -> RuntimeDriver {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    match cause(status) {
        Error::RuntimeLacks(driver) => *driver,
        other => panic!("{other:?}"),
    }
}

#[test]
fn on_a_runtime_without_timers_calls_fail_with_that_and_nothing_is_dialed_again_and_again() {
    let panics = count_panics("timers are disabled");
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let conn = ClientConn::new("127.0.0.1:1").unwrap();
        let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Time);
        assert!(status.message().contains("enable_time"), "{status:?}");
        let mut in_time = tonic::Request::new(hello("ada"));
        in_time.set_timeout(Duration::from_secs(1));
        let status = GreeterClient::new(conn.clone()).say_hello(in_time).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Time);

        let pool = StreamPool::builder().min_idle(1).build().unwrap();
        let mut client = GreeterClient::new(pool.channel("127.0.0.1:1").unwrap());
        let status = client.say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Time);

        let mut client = GreeterClient::new(pool.balance(Addresses::list(["127.0.0.1:1"])));
        let status = client.say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Time);
        // Tasks that were spawned have their turns.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    });
    let panics = panics.load(Ordering::SeqCst);
    assert!(panics < 20, "{panics} panics");
}

#[test]
fn on_a_runtime_without_io_calls_fail_with_that_and_a_pool_that_keeps_a_connection_pauses() {
    let panics = count_panics("IO is disabled");
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let conn = ClientConn::new("127.0.0.1:1").unwrap();
        let status = GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Io);
        assert!(status.message().contains("enable_io"), "{status:?}");
        conn.close();

        let pool = StreamPool::builder().min_idle(1).build().unwrap();
        let mut client = GreeterClient::new(pool.channel("127.0.0.1:1").unwrap());
        let status = client.say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(lacks(&status), RuntimeDriver::Io);
        sleep(MINUTE).await;
    });
    let panics = panics.load(Ordering::SeqCst);
    assert!((30..=90).contains(&panics), "{panics} panics in a minute");
}

/// Panics when it is called, before there is a future.
#[derive(Clone)]
struct Panics(Arc<AtomicUsize>);

impl tower::Service<http::Uri> for Panics {
    type Response = tokio::io::DuplexStream;
    type Error = std::io::Error;
    type Future = std::future::Pending<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("by this test's connector")
    }
}

#[derive(Debug)]
struct PanicsOnClone(Arc<AtomicUsize>);

impl Clone for PanicsOnClone {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("by this test's connector")
    }
}

impl tower::Service<http::Uri> for PanicsOnClone {
    type Response = tokio::io::DuplexStream;
    type Error = std::io::Error;
    type Future = std::future::Pending<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        unreachable!("each attempt has a clone")
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_is_a_failed_dial_and_a_pool_that_keeps_a_connection_pauses() {
    count_panics("by this test's connector");
    let calls = Arc::new(AtomicUsize::new(0));
    let clones = Arc::new(AtomicUsize::new(0));
    for (counted, builder) in [
        (&calls, StreamPool::builder().connector(Panics(Arc::clone(&calls)))),
        (&clones, StreamPool::builder().connector(PanicsOnClone(Arc::clone(&clones)))),
    ] {
        let pool = builder.min_idle(1).build().unwrap();
        let mut client = GreeterClient::new(pool.channel("in.memory:1").unwrap());
        let status = client.say_hello(hello("ada")).await.unwrap_err();
        assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
        assert!(status.message().contains("panicked"), "{status:?}");
        sleep(MINUTE).await;
        assert_paced(counted, "connector");
        pool.close();
    }
}

// ── a runtime that drives a connection and rests ──

#[test]
fn a_call_that_a_connection_does_not_move_because_its_runtime_rests_goes_out_on_another_after_a_second() {
    let server = support::TonicServer::start();
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let conn = ClientConn::new(server.target()).unwrap();
    let pool = StreamPool::new();
    let limited = ClientPool::builder(server.target()).max_connections(1).build().unwrap();
    let clients = || {
        let channel = pool.channel(server.target()).unwrap();
        (GreeterClient::new(conn.clone()), GreeterClient::new(channel), GreeterClient::new(limited.get()))
    };
    // All connections are this one's, which rests from then on.
    let resting = runtime();
    resting.block_on(async {
        let (mut conn, mut channel, mut limited) = clients();
        conn.say_hello(hello("ada")).await.unwrap();
        channel.say_hello(hello("ada")).await.unwrap();
        limited.say_hello(hello("ada")).await.unwrap();
    });
    let timed = |timeout| {
        let mut request = Request::new(hello("ada"));
        request.set_timeout(timeout);
        request
    };
    let deadline = Duration::from_secs(10);
    runtime().block_on(async {
        let (mut conn, mut channel, mut limited) = clients();
        let start = std::time::Instant::now();
        let first = tokio::join!(
            conn.say_hello(timed(deadline)),
            channel.say_hello(timed(deadline)),
            limited.say_hello(hello("ada"))
        );
        for early in [first.0, first.1, first.2] {
            early.unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        let start = std::time::Instant::now();
        for _ in 0..3 {
            conn.say_hello(timed(deadline)).await.unwrap();
            channel.say_hello(timed(deadline)).await.unwrap();
            limited.say_hello(timed(deadline)).await.unwrap();
        }
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    });
    let calls = server.seen.calls();
    // Those that were taken back are not sent when the runtime goes on.
    resting.block_on(async { tokio::time::sleep(Duration::from_millis(100)).await });
    assert_eq!((calls, server.seen.calls()), (3 + 3 + 9, calls));
    drop(resting);
}
