//! `ClientPool` with its defaults: callers share connections, and no call pays for that.

mod support;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use cenote::grpc::{ClientPool, ConnectivityState, PooledConn};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::{FrameServer, HEADERS, MAX_CONCURRENT_STREAMS, Wire};
use support::memory::{CAPACITY, Pipes, pipes, settle};
use support::*;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tonic::Status;

fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// A pool on pipes that the test answers by hand.
fn by_hand() -> (ClientPool, Pipes) {
    let (connector, server) = pipes(CAPACITY);
    (ClientPool::builder("in.memory:1").connector(connector).build().unwrap(), server)
}

/// A call on the guard's connection; the guard is held until it is over.
fn call_on(conn: PooledConn<'static>) -> JoinHandle<Result<String, Status>> {
    tokio::spawn(async move {
        let mut client = GreeterClient::new(conn);
        let reply = client.say_hello(hello("ada")).await;
        reply.map(|reply| reply.into_inner().message)
    })
}

fn call(pool: &ClientPool) -> JoinHandle<Result<String, Status>> {
    call_on(pool.get_owned())
}

/// Answers each request as it comes, for the rest of the test.
fn serve(mut wire: Wire<DuplexStream>, answer: &'static str) {
    tokio::spawn(async move {
        while let Some(frame) = wire.read().await {
            if frame.kind == HEADERS {
                wire.answer(frame.stream, answer).await;
            }
        }
    });
}

fn states(conns: &[PooledConn<'_>]) -> Vec<ConnectivityState> {
    conns.iter().map(|conn| conn.state()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_use_few_sockets() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let callers: Vec<_> = (0..256)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let conn = pool.get();
                    GreeterClient::new(conn)
                        .say_hello(slow_hello("ada", Duration::from_millis(1)))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let stats = pool.stats();
    let most = cores().max(256usize.div_ceil(100)); // what tonic's server takes is not limited, what is assumed before is
    assert!(stats.peak_open <= most, "{stats:?}");
    assert!(server.seen.peak_running() > 64, "the calls ran at once");
    assert_eq!((stats.discarded.total(), stats.lent), (0, 0), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_dial_of_a_second_connection_and_then_it_takes_its_share() {
    let (pool, mut server) = by_hand();
    let first = call(&pool);
    serve(server.accept(&[]).await, "well");
    first.await.unwrap().unwrap();
    let held: Vec<_> = (0..32).map(|_| pool.get_owned()).collect();
    assert!(server.is_empty(), "32 callers share one connection");
    let mut later: Vec<_> = (0..32).map(|_| pool.get_owned()).collect();
    assert!(states(&later).iter().all(|state| *state == ConnectivityState::Ready));
    if cores() == 1 {
        return assert!(server.is_empty());
    }
    let second = server.dialed().await;
    for mut conn in later.drain(..16) {
        GreeterClient::new(&mut conn).say_hello(hello("ada")).await.unwrap();
    }
    serve(Wire::over(second, &[]).await, "from the second");
    settle().await;
    assert!(server.is_empty());
    assert_eq!(pool.stats().open, 2);
    // Those above the first one's share move when they come back.
    drop(later);
    drop(held);
    let held: Vec<_> = (0..64).map(|_| pool.get_owned()).collect();
    let calls: Vec<_> = held.into_iter().map(call_on).collect();
    let mut from_second = 0;
    for call in calls {
        from_second += usize::from(call.await.unwrap().unwrap() == "from the second");
    }
    assert!((30..=34).contains(&from_second), "{from_second} of 64");
    assert_eq!(pool.stats().made, 2);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_that_cannot_be_had_fails_nobody_and_is_not_dialed_again_at_once() {
    let (pool, mut server) = by_hand();
    let first = call(&pool);
    serve(server.accept(&[]).await, "well");
    first.await.unwrap().unwrap();
    if cores() == 1 {
        return;
    }
    let held: Vec<_> = (0..40).map(|_| pool.get_owned()).collect();
    drop(server.dialed().await);
    settle().await;
    assert_eq!(pool.stats().failed_dials, 1);
    let more: Vec<_> = (0..40).map(|_| pool.get_owned()).collect();
    assert!(server.is_empty(), "one failure is enough for a second");
    for call in held.into_iter().chain(more).map(call_on) {
        assert_eq!(call.await.unwrap().unwrap(), "well");
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let again: Vec<_> = (0..80).map(|_| pool.get_owned()).collect();
    // All of them came back to the stock; one above that looks anew.
    let _one_more = pool.get_owned();
    server.accept(&[]).await;
    drop(again);
}

#[tokio::test]
async fn callers_beyond_the_servers_limit_of_streams_each_have_a_connection_from_the_first_burst_on() {
    let server = TonicServer::start_with(|server| server.max_concurrent_streams(1));
    let pool = ClientPool::new(server.target()).unwrap();
    // None of them knows the limit yet, and none ends before all have arrived.
    let endless = StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 1 };
    let mut streams = Vec::new();
    for conn in (0..8).map(|_| pool.get_owned()).collect::<Vec<_>>() {
        let endless = endless.clone();
        streams.push(tokio::spawn(async move {
            let mut stream = GreeterClient::new(conn).stream_hello(endless).await.unwrap().into_inner();
            stream.message().await.unwrap().unwrap();
            stream
        }));
    }
    let mut open = Vec::new();
    for stream in streams {
        open.push(stream.await.unwrap());
    }
    assert_eq!(pool.stats().open, 8);
    drop(open);

    // From here on the limit is known, and the connections are there.
    let dials = pool.stats().dials;
    for _ in 0..5 {
        let conns: Vec<_> = (0..8).map(|_| pool.get_owned()).collect();
        for call in conns.into_iter().map(call_on) {
            call.await.unwrap().unwrap();
        }
    }
    assert_eq!((pool.stats().dials, pool.stats().lent), (dials, 0), "{:?}", pool.stats());
}

#[tokio::test]
async fn at_max_connections_calls_beyond_the_servers_limit_wait_for_a_stream_and_none_fails() {
    let server = TonicServer::start_with(|server| server.max_concurrent_streams(2));
    let pool = ClientPool::builder(server.target()).max_connections(2).build().unwrap();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let mut client = GreeterClient::new(pool.get_owned());
            tokio::spawn(async move {
                client.say_hello(slow_hello("ada", Duration::from_millis(2))).await.map(drop)
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.seen.peak_on_one(), pool.stats().peak_open), (2, 2));
}

#[tokio::test]
async fn a_server_that_takes_no_streams_for_now_is_not_dialed_again_for_that() {
    let server = FrameServer::start().await;
    let pool = ClientPool::new(server.target()).unwrap();
    let calls: Vec<_> = (0..20).map(|_| call(&pool)).collect();
    let mut wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    settle().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pool.stats().dials, 1);
    wire.settings(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
    for _ in 0..20 {
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(pool.stats().dials, 1);
}

#[tokio::test]
async fn a_broken_connection_that_others_have_is_lent_no_more_and_closed_by_the_last() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let (mut one, other) = (pool.get(), pool.get());
    GreeterClient::new(&mut one).say_hello(hello("ada")).await.unwrap();
    let watched = (*other).clone();
    let addr = server.kill();
    watched.wait_for_state_change(ConnectivityState::Ready).await;
    GreeterClient::new(&mut one).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(watched.state(), ConnectivityState::TransientFailure);
    drop(one);
    assert_eq!(watched.state(), ConnectivityState::TransientFailure, "the other one still has it");
    assert_eq!(pool.stats().discarded.total(), 0);
    let third = pool.get();
    assert_eq!((PooledConn::state_at_get(&third), pool.stats().made), (ConnectivityState::Idle, 2));
    drop(other);
    assert_eq!(watched.state(), ConnectivityState::Shutdown);
    assert_eq!(pool.stats().discarded.put_transient_failure, 1);
    drop((third, TonicServer::start_again(addr)));
}

#[tokio::test]
async fn a_broken_connection_is_closed_when_a_get_finds_the_last_of_its_handles() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let (mut one, other) = (pool.get(), pool.get());
    GreeterClient::new(&mut one).say_hello(hello("ada")).await.unwrap();
    let watched = (*one).clone();
    drop((one, other));
    assert_eq!((pool.stats().idle, pool.stats().alive), (2, 1));
    let addr = server.kill();
    watched.wait_for_state_change(ConnectivityState::Ready).await;
    GreeterClient::new(watched.clone()).say_hello(hello("ada")).await.unwrap_err();
    let _conn = pool.get();
    assert_eq!(watched.state(), ConnectivityState::Shutdown);
    let stats = pool.stats();
    assert_eq!((stats.discarded.get_transient_failure, stats.idle, stats.lent, stats.made), (1, 0, 1, 2));
    drop(TonicServer::start_again(addr));
}

#[tokio::test]
async fn a_connection_that_was_cleared_is_not_lent_again_while_its_last_call_runs() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let conn = pool.get();
    let request = StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 1 };
    let mut stream = GreeterClient::new(conn).stream_hello(request).await.unwrap().into_inner();
    pool.clear();
    drop(pool.get());
    assert_eq!(pool.stats().made, 2);
    assert!(stream.message().await.unwrap().is_some());
    pool.close();
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert!(matches!(cause(&status), cenote::grpc::Error::Closed), "{status:?}");
}

#[tokio::test]
async fn connections_that_load_no_longer_needs_are_closed_by_aging() {
    let server = TonicServer::start_with(|server| server.max_concurrent_streams(1));
    let pool = ClientPool::new(server.target()).unwrap();
    call(&pool).await.unwrap().unwrap();
    let conns: Vec<_> = (0..6).map(|_| pool.get_owned()).collect();
    for call in conns.into_iter().map(call_on) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(pool.stats().open, 6);
    for _ in 0..2 {
        call(&pool).await.unwrap().unwrap();
        pool.age();
    }
    eventually_async("one is left", || pool.stats().open == 1).await;
    assert_eq!((pool.stats().idle, pool.stats().alive, pool.stats().released), (1, 1, 5));
}

/// What other threads may do at the same time.
#[test]
fn the_count_of_callers_stays_right_under_gets_puts_takes_ages_and_clears() {
    let pool = ClientPool::new("http://127.0.0.1:1").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut held = Vec::new();
                for _ in 0..20_000 {
                    match random.u8(..20) {
                        0..8 => held.push(pool.get()),
                        8..16 => drop(held.pop()),
                        16 => pool.put(pool.take()),
                        17 => drop(pool.take()),
                        18 => pool.age(),
                        _ if random.u8(..50) == 0 => pool.clear(),
                        _ => held.truncate(3),
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!(stats.lent, 0, "{stats:?}");
    assert_eq!(stats.made, stats.released + stats.alive, "{stats:?}");
    pool.clear();
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.lent, stats.alive), (0, 0, 0), "{stats:?}");
}

#[test]
fn a_caller_whose_connection_dials_on_a_runtime_that_rests_dials_on_his_own() {
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = elsewhere.block_on(async { TonicServer::start() });
    let mute = elsewhere.block_on(RawServer::start(Manner::Mute));
    for wait_for_ready in [false, true] {
        let resting = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first_is_mute = Arc::new(AtomicBool::new(true));
        let (mute, well) = (mute.target(), server.target());
        let connector = tower::service_fn(move |_| {
            let to = if first_is_mute.swap(false, Ordering::SeqCst) { &mute } else { &well };
            let to = to.trim_start_matches("http://").to_owned();
            async move { tokio::net::TcpStream::connect(to).await }
        });
        let pool =
            ClientPool::builder("any:1").connector(connector).wait_for_ready(wait_for_ready).build().unwrap();
        let mut first = None;
        resting.block_on(async {
            first = Some(call(&pool));
            eventually_async("the first dials", || pool.stats().dials == 1).await;
        });
        let conn = pool.get_owned();
        elsewhere.block_on(async { call_on(conn).await.unwrap().unwrap() });
        // And what the first dial comes to, if its runtime goes on, counts for nothing.
        let before = pool.stats();
        first.unwrap().abort();
        resting.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        elsewhere.block_on(async { call(&pool).await.unwrap().unwrap() });
        assert_eq!(pool.stats().dials, before.dials);
    }
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// As tests do that share a pool in a `static`.
#[test]
fn callers_with_short_lived_runtimes_of_their_own_do_not_break_each_others_calls() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    current_thread().block_on(async {
                        GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap();
                    });
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.made <= 16 && stats.idle <= 16, "{stats:?}");
    assert_eq!((server.seen.calls(), stats.lent, stats.discarded.total()), (200, 0, 0));
}

/// As servers do that have a runtime for each of their threads.
#[test]
fn each_runtime_keeps_to_a_connection_of_its_own() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = current_thread();
                for _ in 0..200 {
                    // They take each other's handles out of the stock, if there is only a chance.
                    barrier.wait();
                    runtime.block_on(async {
                        let calls = (0..3).map(|_| {
                            let mut client = GreeterClient::new(pool.get());
                            async move { client.say_hello(hello("ada")).await.unwrap() }
                        });
                        for call in calls.collect::<Vec<_>>() {
                            call.await;
                        }
                    });
                }
                barrier.wait();
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.dials <= 8 && stats.idle <= 24, "{stats:?}");
    assert_eq!(stats.lent, 0);
}

/// Polls to the end on this thread, without a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) =
            future.as_mut().poll(&mut std::task::Context::from_waker(&waker))
        {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn a_call_outside_of_any_runtime_stays_on_the_connection_that_there_is() {
    let server = TonicServer::start_with(|server| server.max_concurrent_streams(1));
    let pool = ClientPool::new(server.target()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { call(&pool).await.unwrap().unwrap() });
    let guard = pool.get_owned();
    let same = (*guard).clone();
    let busy = {
        let mut client = GreeterClient::new(guard);
        runtime.spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(100))).await })
    };
    eventually("the stream is taken", || server.seen.calls() == 2);
    // Its only stream is taken: the call waits for it.
    block_on(GreeterClient::new(same).say_hello(hello("ada"))).unwrap();
    runtime.block_on(busy).unwrap().unwrap();
    assert!(pool.stats().made <= 2, "{:?}", pool.stats());
}
