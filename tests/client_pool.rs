//! `ClientPool`: what it hands out, what it keeps, what it closes, and how it goes through an outage.

mod support;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cenote::grpc::{
    ClientConn, ClientPool, ClientPoolStats, ConnectivityState, DialPhase, Error, PooledConn,
};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::WELCOME_AND_GOODBYE;
use support::memory::{CAPACITY, dial_failure, pipes};
use support::*;
use tokio::io::AsyncWriteExt;
use tonic::Code;

/// Every connection has one fate.
fn assert_accounted(stats: &ClientPoolStats) {
    assert_eq!(stats.made, stats.discarded.total() + stats.released + stats.alive, "{stats:?}");
}

async fn greet(pool: &ClientPool) -> Result<(), tonic::Status> {
    let conn = pool.get();
    assert!(PooledConn::state_at_get(&conn).is_usable());
    GreeterClient::new(conn).say_hello(hello("ada")).await.map(drop)
}

/// Waits until the connection has noticed that its server is gone.
async fn until_lost(conn: &ClientConn) {
    conn.wait_for_state_change(ConnectivityState::Ready).await;
}

// ── get and put ──

#[tokio::test]
async fn one_caller_after_another_uses_one_connection() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    assert_eq!(pool.stats().made, 0);
    for _ in 0..50 {
        greet(&pool).await.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.made, stats.reused, stats.dials, stats.open), (1, 49, 1, 1));
    assert_eq!(server.seen.accepted(), 1);
    assert_accounted(&stats);
}

#[tokio::test]
async fn callers_of_an_exclusive_pool_have_a_connection_each_and_all_come_back() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target()).exclusive().build().unwrap();
    let guards: Vec<_> = (0..5).map(|_| pool.get()).collect();
    for guard in guards {
        let mut guard = guard;
        GreeterClient::new(&mut guard).say_hello(hello("ada")).await.unwrap();
        assert_eq!(guard.state(), ConnectivityState::Ready);
    }
    let stats = pool.stats();
    assert_eq!((stats.made, stats.idle, stats.open, stats.peak_open), (5, 5, 5, 5));
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_connection_that_failed_is_closed_when_it_comes_back() {
    let pool = ClientPool::new(refused_target()).unwrap();
    let mut conn = pool.get();
    let watched = (*conn).clone();
    assert_eq!(
        GreeterClient::new(&mut conn).say_hello(hello("ada")).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(watched.state(), ConnectivityState::TransientFailure);
    drop(conn);
    assert_eq!(watched.state(), ConnectivityState::Shutdown);
    let stats = pool.stats();
    assert_eq!(stats.discarded.put_transient_failure, 1);
    assert_eq!((stats.idle, stats.alive), (0, 0));
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_connection_that_fails_while_the_pool_holds_it_is_replaced_on_get() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let in_pool = (*pool.get()).clone();
    let addr = server.kill();
    until_lost(&in_pool).await;
    // Somebody who kept a handle makes it fail behind the pool's back.
    GreeterClient::new(in_pool.clone()).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(in_pool.state(), ConnectivityState::TransientFailure);
    let conn = pool.get();
    assert_eq!(conn.state(), ConnectivityState::Idle);
    assert_eq!(PooledConn::state_at_get(&conn), ConnectivityState::Idle);
    assert_eq!(in_pool.state(), ConnectivityState::Shutdown);
    drop(conn);
    let stats = pool.stats();
    assert_eq!(stats.discarded.get_transient_failure, 1);
    assert_eq!((stats.made, stats.idle), (2, 1));
    assert_accounted(&stats);
    drop((in_pool, TonicServer::start_again(addr)));
}

#[tokio::test]
async fn a_connection_that_was_closed_is_discarded_on_put_and_on_get() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let conn = pool.get();
    conn.close();
    drop(conn);
    assert_eq!(pool.stats().discarded.put_shutdown, 1);
    let in_pool = (*pool.get()).clone();
    in_pool.close();
    drop(pool.get());
    let stats = pool.stats();
    assert_eq!(stats.discarded.get_shutdown, 1);
    assert_eq!((stats.made, stats.idle), (3, 1));
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_failed_call_that_is_no_fault_of_the_connection_discards_nothing() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    for _ in 0..3 {
        let status = GreeterClient::new(pool.get()).say_hello(hello("nobody")).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    let stats = pool.stats();
    assert_eq!((stats.made, stats.discarded.total()), (1, 0));
}

#[tokio::test]
async fn take_and_put_work_by_hand_and_a_taken_one_that_is_dropped_is_released() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let conn = pool.take();
    GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap();
    pool.put(conn);
    assert_eq!(pool.stats().idle, 1);
    drop(pool.take());
    let seen = Arc::clone(&server.seen);
    eventually_async("its socket is closed", || seen.open() == 0).await;
    let stats = pool.stats();
    assert_eq!((stats.released, stats.alive), (1, 0));
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_connection_of_another_make_is_not_kept() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let other = ClientPool::new(server.target()).unwrap();
    pool.put(ClientConn::new(server.target()).unwrap());
    pool.put(other.take());
    assert_eq!(pool.stats().idle, 0);
    assert_eq!(other.stats().released, 1);
    assert_accounted(&other.stats());
}

#[tokio::test]
async fn an_owned_guard_moves_into_a_task_and_its_connection_comes_back() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let conn = pool.get_owned();
    tokio::spawn(async move { GreeterClient::new(conn).say_hello(hello("ada")).await.map(drop) })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pool.stats().idle, 1);
}

// ── release ──

#[tokio::test]
async fn aging_twice_closes_the_sockets_of_unused_connections_and_cuts_no_running_call() {
    let server = TonicServer::start();
    let seen = Arc::clone(&server.seen);
    let pool = ClientPool::builder(server.target()).exclusive().build().unwrap();
    let (a, b) = (pool.get(), pool.get());
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 4, pause_ms: 40 };
    let mut stream = GreeterClient::new(a).stream_hello(request).await.unwrap().into_inner();
    GreeterClient::new(b).say_hello(hello("ada")).await.unwrap();
    assert_eq!(pool.stats().idle, 2);
    pool.age();
    pool.age();
    assert_eq!(pool.stats().idle, 0);
    eventually_async("the unused one's socket is closed", || seen.open() == 1).await;
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 4);
    eventually_async("the other one's, too", || seen.open() == 0).await;
    let stats = pool.stats();
    assert_eq!((stats.released, stats.alive, stats.open), (2, 0, 0));
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_connection_in_use_between_two_agings_stays() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    for _ in 0..10 {
        greet(&pool).await.unwrap();
        pool.age();
    }
    assert_eq!(pool.stats().made, 1);
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn clear_and_the_drop_of_the_pool_close_the_sockets() {
    let server = TonicServer::start();
    let seen = Arc::clone(&server.seen);
    let pool = ClientPool::new(server.target()).unwrap();
    greet(&pool).await.unwrap();
    pool.clear();
    eventually_async("clear closes it", || seen.open() == 0).await;
    greet(&pool).await.unwrap();
    assert_eq!(seen.open(), 1);
    drop(pool);
    eventually_async("the drop closes it", || seen.open() == 0).await;
    assert_eq!(seen.accepted(), 2);
}

#[tokio::test]
async fn close_cuts_what_runs_and_every_later_call_fails_with_closed() {
    let server = TonicServer::start();
    let seen = Arc::clone(&server.seen);
    let pool = ClientPool::new(server.target()).unwrap();
    greet(&pool).await.unwrap();
    let conn = pool.get_owned();
    let call = tokio::spawn(async move {
        GreeterClient::new(conn).say_hello(slow_hello("ada", Duration::from_secs(60))).await
    });
    eventually_async("the call has arrived", || seen.calls.load(Ordering::SeqCst) == 2).await;
    pool.close();
    assert!(matches!(cause(&call.await.unwrap().unwrap_err()), Error::Closed));
    let conn = pool.get();
    assert!(conn.state().is_usable(), "get keeps its word after close, too");
    assert!(matches!(
        cause(&GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err()),
        Error::Closed
    ));
    eventually_async("no socket is left", || seen.open() == 0).await;
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.alive, stats.open), (0, 0, 0), "{stats:?}");
    assert_accounted(&stats);
}

#[tokio::test]
async fn the_idle_timeout_closes_the_sockets_of_connections_that_the_pool_holds() {
    let server = TonicServer::start();
    let seen = Arc::clone(&server.seen);
    let pool = ClientPool::builder(server.target()).idle_timeout(Duration::from_millis(30)).build().unwrap();
    greet(&pool).await.unwrap();
    eventually_async("its socket is closed", || seen.open() == 0).await;
    assert_eq!(pool.stats().open, 0);
    greet(&pool).await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.made, stats.dials), (1, 2), "the connection dialed again");
}

// ── the limit ──

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_connections_bounds_the_sockets_and_get_never_blocks() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target()).exclusive().max_connections(3).build().unwrap();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..30 {
                    let start = Instant::now();
                    let conn = pool.get();
                    assert!(start.elapsed() < Duration::from_secs(1), "get waited");
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
    assert_eq!(server.seen.peak_open(), 3);
    let stats = pool.stats();
    assert_eq!((stats.made, stats.peak_open, stats.discarded.total()), (3, 3, 0), "{stats:?}");
    assert!(stats.shared > 0);
    assert_accounted(&stats);
}

#[tokio::test]
async fn at_the_limit_of_an_exclusive_pool_the_last_to_give_a_connection_back_puts_it_into_the_pool() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target()).exclusive().max_connections(1).build().unwrap();
    let (a, b, c) = (pool.get(), pool.get(), pool.get());
    assert_eq!((pool.stats().shared, pool.stats().lent), (2, 3));
    drop(a);
    drop(c);
    assert_eq!((pool.stats().idle, pool.stats().lent), (0, 1), "b still has it");
    drop(b);
    assert_eq!((pool.stats().idle, pool.stats().lent), (1, 0));
    drop(pool.get());
    assert_eq!(pool.stats().made, 1);
}

#[tokio::test]
async fn at_the_limit_a_neighbors_broken_connection_is_not_closed_under_its_holder() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target()).max_connections(1).build().unwrap();
    let mut held = pool.get();
    GreeterClient::new(&mut held).say_hello(hello("ada")).await.unwrap();
    let addr = server.kill();
    until_lost(&held).await;
    GreeterClient::new(&mut held).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(held.state(), ConnectivityState::TransientFailure);
    // The limit leaves no other connection to hand out, and this one may not be handed out as broken.
    let shared = pool.get();
    assert!(PooledConn::state_at_get(&shared).is_usable());
    assert_ne!(shared.state(), ConnectivityState::TransientFailure);
    drop(shared);
    assert_ne!(held.state(), ConnectivityState::Shutdown);
    let _server = TonicServer::start_again(addr);
    let patience = Instant::now();
    while GreeterClient::new(&mut held).say_hello(hello("ada")).await.is_err() {
        assert!(patience.elapsed() < Duration::from_secs(5));
    }
    drop(held);
    assert_eq!(pool.stats().made, 1);
    assert_accounted(&pool.stats());
}

#[test]
fn at_the_limit_an_exclusive_pool_holds_one_handle_of_a_connection() {
    let pool = ClientPool::builder("http://127.0.0.1:1").exclusive().max_connections(1).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    drop(pool.get());
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.alive), (1, 1), "{stats:?}");
    assert_accounted(&stats);
}

#[tokio::test]
async fn at_the_limit_a_closed_connection_makes_room_for_another() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target()).max_connections(1).build().unwrap();
    for _ in 0..20 {
        greet(&pool).await.unwrap();
        let conn = pool.get();
        conn.close();
        drop(conn);
    }
    let stats = pool.stats();
    // The server may hear of the old socket's end after the new one's beginning: this side's count is the true one.
    assert_eq!((stats.made, stats.discarded.put_shutdown, stats.peak_open), (20, 20, 1));
    assert_accounted(&stats);
}

#[tokio::test]
async fn at_the_limit_a_connection_that_is_old_makes_room_while_its_last_call_runs() {
    let server = TonicServer::start();
    let pool = ClientPool::builder(server.target())
        .max_connections(1)
        .max_connection_age(Duration::from_millis(50))
        .connect_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let conn = pool.get();
    let endless = StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 1 };
    let mut stream = GreeterClient::new((*conn).clone()).stream_hello(endless).await.unwrap().into_inner();
    until_lost(&conn).await;
    greet(&pool).await.unwrap();
    assert!(stream.message().await.unwrap().is_some(), "the call on the old socket runs on");
    drop((stream, conn));
    eventually_async("the old socket is closed", || pool.stats().open <= 1).await;
    assert_eq!(pool.stats().made, 1);
}

// ── outages ──

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_dialed_at_a_bounded_rate_and_all_calls_succeed_within_a_second_of_its_end() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let calling = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let results = Arc::new(std::sync::Mutex::new(Vec::<(Instant, bool)>::new()));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (pool, calling, results) = (pool.clone(), Arc::clone(&calling), Arc::clone(&results));
            tokio::spawn(async move {
                while calling.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let ok = greet(&pool).await.is_ok();
                    results.lock().unwrap().push((start, ok));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    eventually_async("calls are made", || results.lock().unwrap().len() > 500).await;
    let addr = server.kill();
    let killed = Instant::now();
    let before = pool.stats();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let during = pool.stats();
    let server = TonicServer::start_again(addr);
    let restarted = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    calling.store(false, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }

    // 50 ms growing by 1.6 makes seven attempts in 1.5 s; the first may have begun before the kill.
    let dials = during.dials - before.dials;
    assert!((3..=12).contains(&dials), "{dials} dials in an outage of 1.5 s");
    let results = std::mem::take(&mut *results.lock().unwrap());
    for (start, ok) in &results {
        let late = *start > restarted + Duration::from_secs(1);
        assert!(
            *ok || !late,
            "a call failed that began {:?} after the end of the outage",
            start.duration_since(restarted)
        );
        assert!(*ok || *start + Duration::from_millis(500) > killed, "a call failed long before the outage");
    }
    assert!(results.iter().any(|(_, ok)| !ok), "the outage was one");
    let stats = pool.stats();
    assert_eq!(stats.lent, 0);
    assert!(stats.discarded.total() > 0);
    assert_accounted(&stats);
    pool.clear();
    let seen = Arc::clone(&server.seen);
    eventually_async("no socket leaks", || seen.open() == 0 && pool.stats().open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_leave_with_its_settings_each_time_is_one_outage() {
    // Of the socket that is lost the place comes back, too.
    for most in [None, Some(1)] {
        let (connector, mut server) = pipes(CAPACITY);
        let mut builder = ClientPool::builder("in.memory:1").exclusive().connector(connector);
        if let Some(most) = most {
            builder = builder.max_connections(most);
        }
        let pool = builder.build().unwrap();
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { greet(&pool).await })
            })
            .collect();
        for _ in 0..2 {
            server.dialed().await.write_all(&WELCOME_AND_GOODBYE).await.unwrap();
        }
        for call in calls {
            assert_eq!(dial_failure(&call.await.unwrap().unwrap_err()).0, DialPhase::Settings);
        }
        assert!(server.is_empty(), "a dial without a pause");
        assert_eq!((pool.stats().dials, pool.stats().failed_dials), (2, 1));

        // One loss alone is nobody's failure.
        let call = tokio::spawn({
            let pool = pool.clone();
            async move { greet(&pool).await }
        });
        server.dialed().await.write_all(&WELCOME_AND_GOODBYE).await.unwrap();
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        call.await.unwrap().unwrap();
        assert_eq!((pool.stats().dials, pool.stats().failed_dials), (4, 1));
    }
}

#[tokio::test]
async fn many_new_connections_to_a_mute_server_dial_one_at_a_time() {
    let server = RawServer::start(Manner::Mute).await;
    let pool = ClientPool::builder(server.target())
        .exclusive()
        .connect_timeout(Duration::from_millis(150))
        .build()
        .unwrap();
    let start = Instant::now();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let conn = pool.get_owned();
            tokio::spawn(async move { GreeterClient::new(conn).say_hello(hello("ada")).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(server.accepted(), 1, "all 50 calls got the outcome of one attempt");
    assert!(start.elapsed() < Duration::from_secs(2));
    let stats = pool.stats();
    assert_eq!((stats.made, stats.dials, stats.failed_dials), (50, 1, 1));
    assert_eq!(stats.discarded.put_transient_failure, 50);
    assert_accounted(&stats);
}

#[tokio::test]
async fn a_guard_that_is_held_through_an_outage_works_again_after_it() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let mut conn = pool.get();
    GreeterClient::new(&mut conn).say_hello(hello("ada")).await.unwrap();
    let addr = server.kill();
    until_lost(&conn).await;
    for _ in 0..3 {
        GreeterClient::new(&mut conn).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    }
    let _server = TonicServer::start_again(addr);
    // Its failure is remembered, but the next call waits for the next attempt instead of repeating it.
    GreeterClient::new(&mut conn).say_hello(hello("ada")).await.unwrap();
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn a_call_that_is_dropped_at_the_gate_leaves_it_open_for_the_next() {
    let server = RawServer::start(Manner::Mute).await;
    let pool =
        ClientPool::builder(server.target()).connect_timeout(Duration::from_secs(600)).build().unwrap();
    for dials in 1..=5 {
        let mut conn = pool.get();
        let mut client = GreeterClient::new(&mut conn);
        let call = tokio::time::timeout(Duration::from_millis(30), client.say_hello(hello("ada")));
        assert!(call.await.is_err());
        // Whoever waits no longer need not be dialed for; the attempt ends with its connection.
        conn.close();
        eventually_async("the attempt began", || server.accepted() == dials).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_while_it_dials_is_no_outcome_for_those_who_wait() {
    let server = RawServer::start(Manner::Mute).await;
    let pool = ClientPool::builder(server.target())
        .exclusive()
        .connect_timeout(Duration::from_secs(600))
        .build()
        .unwrap();
    let call = |conn: PooledConn<'static>| {
        tokio::spawn(async move { GreeterClient::new(conn).say_hello(hello("ada")).await })
    };
    let first = pool.get_owned();
    let handle = (*first).clone();
    let (first, second) = (call(first), {
        eventually_async("the first dials", || server.accepted() == 1).await;
        call(pool.get_owned())
    });
    tokio::task::yield_now().await;
    handle.close();
    assert!(matches!(cause(&first.await.unwrap().unwrap_err()), Error::Closed));
    eventually_async("the second dials itself", || server.accepted() == 2).await;
    assert!(!second.is_finished());
    assert_eq!(pool.stats().failed_dials, 0);
}

#[test]
fn a_dial_on_a_runtime_that_nobody_drives_bars_the_way_for_a_second_only() {
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mute = elsewhere.block_on(RawServer::start(Manner::Mute));
    let pool =
        ClientPool::builder(mute.target()).connect_timeout(Duration::from_millis(300)).build().unwrap();
    let still = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    still.block_on(async {
        let conn = pool.get_owned();
        tokio::spawn(async move { GreeterClient::new(conn).say_hello(hello("ada")).await });
        eventually_async("the first dials", || mute.accepted() == 1).await;
    });
    // From here on its clock stands still, and so does the attempt.
    let conn = pool.get_owned();
    let start = Instant::now();
    let status = elsewhere.block_on(GreeterClient::new(conn).say_hello(hello("ada"))).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(mute.accepted(), 2);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_call_that_waits_when_its_connection_is_discarded_is_told_why_the_dial_failed() {
    let server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let mut guard = pool.get();
    GreeterClient::new(&mut guard).say_hello(hello("ada")).await.unwrap();
    let _addr = server.kill();
    until_lost(&guard).await;
    GreeterClient::new(&mut guard).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(guard.state(), ConnectivityState::TransientFailure);
    let mut outliving = GreeterClient::new((*guard).clone());
    let call = tokio::spawn(async move { outliving.say_hello(hello("ada")).await });
    tokio::task::yield_now().await;
    drop(guard);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
}

#[tokio::test]
async fn at_the_limit_waiting_calls_get_the_outcome_of_the_attempt_whoever_else_gets() {
    let pool = ClientPool::builder(refused_target()).max_connections(1).build().unwrap();
    let getting = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let getter = {
        let (pool, getting) = (pool.clone(), Arc::clone(&getting));
        std::thread::spawn(move || {
            while getting.load(Ordering::Relaxed) {
                drop(pool.get());
            }
        })
    };
    for _ in 0..5 {
        let status = GreeterClient::new(pool.get()).say_hello(hello("ada")).await.unwrap_err();
        assert!(status.message().contains("refused"), "{status:?}");
    }
    getting.store(false, Ordering::Relaxed);
    getter.join().unwrap();
    assert_accounted(&pool.stats());
}

#[tokio::test]
async fn close_also_cuts_calls_on_connections_that_were_discarded() {
    let mut server = TonicServer::start();
    let pool = ClientPool::new(server.target()).unwrap();
    let mut guard = pool.get();
    let request = StreamHelloRequest { name: "ada".to_owned(), count: u32::MAX, pause_ms: 1 };
    let mut stream = GreeterClient::new(&mut guard).stream_hello(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    server.shut_down_gracefully();
    until_lost(&guard).await;
    while guard.state() != ConnectivityState::TransientFailure {
        GreeterClient::new(&mut guard).say_hello(hello("ada")).await.unwrap_err();
    }
    drop(guard);
    assert_eq!(pool.stats().discarded.put_transient_failure, 1);
    stream.message().await.unwrap().expect("a discard cuts no running call");
    pool.close();
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
}

// ── runtimes, input, printing ──

#[test]
fn a_pool_in_a_static_survives_two_runtimes_one_after_the_other_and_get_needs_none() {
    static POOL: std::sync::OnceLock<ClientPool> = std::sync::OnceLock::new();
    let server = TonicServer::start();
    let pool = POOL.get_or_init(|| ClientPool::new(server.target()).unwrap());
    drop(pool.get());
    for _ in 0..2 {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async { greet(pool).await.unwrap() });
        drop(runtime);
        let conn = pool.get();
        assert_eq!(conn.state(), ConnectivityState::Idle);
        conn.connect();
    }
    assert_eq!(pool.stats().made, 1);
    assert_eq!(server.seen.accepted(), 2);
}

#[test]
fn bad_input_is_a_typed_error_with_its_cause() {
    let error = ClientPool::builder("http://127.0.0.1:1").max_connections(0).build().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "max_connections", .. }), "{error:?}");
    assert!(error.source().is_some());
    let redial = cenote::grpc::Backoff { initial: Duration::ZERO, ..cenote::grpc::Backoff::POOL };
    let error = ClientPool::builder("http://127.0.0.1:1").redial(redial).build().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "redial", .. }), "{error:?}");
    for target in ["", "http://", "gopher://x:1", "http://h:65536"] {
        let error = ClientPool::new(target).unwrap_err();
        assert!(matches!(error, Error::InvalidTarget { .. }), "{error:?}");
        assert!(error.source().is_some());
    }
    ClientPool::builder("http://127.0.0.1:1").max_connections(usize::MAX).build().unwrap();
}

#[tokio::test]
async fn an_unresolvable_host_loses_nothing_that_was_pooled() {
    let pool = ClientPool::new("http://no-such-host.invalid:1").unwrap();
    assert_eq!(greet(&pool).await.unwrap_err().code(), Code::Unavailable);
    assert_accounted(&pool.stats());
    assert_eq!(pool.stats().alive, 0);
}

#[test]
fn what_is_printed_for_debugging_names_the_target() {
    let pool = ClientPool::new("http://127.0.0.1:1").unwrap();
    let text = format!("{pool:?} {:?}", pool.get());
    assert!(text.contains("127.0.0.1:1") && text.contains("PooledConn"), "{text}");
}
