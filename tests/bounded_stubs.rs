//! A bounded pool of gRPC stubs.

mod support;

use std::error::Error as _;
use std::time::Duration;

use cenote::bounded::{BoundedPool, GetError};
use cenote::grpc::{ClientConn, ConnManager, ConnectivityState, DialPhase, Error, Stub};
use cenote_proto::greeter_client::GreeterClient;
use support::*;
use tokio::time::timeout;

type Stubs = BoundedPool<ConnManager<GreeterClient<ClientConn>>>;

fn pool_of(stubs: usize, target: String) -> Stubs {
    let manager = ConnManager::stubs(ClientConn::builder(target), GreeterClient::new);
    BoundedPool::builder(manager)
        .max_size(stubs)
        .retry_pauses(Duration::from_millis(10), Duration::from_millis(50))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_callers_than_stubs_call_at_once_and_each_has_a_connection_of_its_own() {
    let server = TonicServer::start();
    let pool = pool_of(3, server.target());
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut stub = pool.get().await.unwrap();
                stub.say_hello(slow_hello("ada", Duration::from_millis(5))).await.unwrap();
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(server.seen.calls(), 30);
    assert_eq!((server.seen.peak_open(), server.seen.peak_running(), server.seen.peak_on_one()), (3, 3, 1));
}

#[tokio::test]
async fn close_wakes_every_waiter_while_the_stubs_are_out() {
    let server = TonicServer::start();
    let pool = pool_of(1, server.target());
    let mut stub = pool.get().await.unwrap();
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get().await.map(drop) })
        })
        .collect();
    eventually_async("all wait", || pool.stats().waiting == 5).await;
    pool.close();
    for waiter in waiters {
        let ended = timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap();
        assert!(matches!(ended, Err(GetError::Closed)));
    }
    // A stub that is out still works; its connection is closed when it comes back.
    stub.say_hello(hello("ada")).await.unwrap();
    let conn = Stub::conn(&stub).clone();
    drop(stub);
    timeout(Duration::from_secs(5), conn.wait_for_state_change(ConnectivityState::Ready)).await.unwrap();
    assert_eq!(conn.state(), ConnectivityState::Shutdown);
}

#[tokio::test]
async fn stubs_of_a_server_that_went_away_work_again_when_it_is_back() {
    let server = TonicServer::start();
    let pool = pool_of(2, server.target());
    let (mut first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let addr = server.kill();
    assert!(first.say_hello(hello("ada")).await.is_err());
    drop((first, second));
    let error = pool.get_timeout(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, GetError::TimedOut(_)), "{error}");
    let server = TonicServer::start_again(addr);
    let get = async || pool.get_timeout(Duration::from_secs(10)).await.unwrap();
    let (mut first, mut second) = (get().await, get().await);
    first.say_hello(hello("ada")).await.unwrap();
    second.say_hello(hello("ada")).await.unwrap();
    assert_eq!(server.seen.calls(), 2);
}

#[tokio::test]
async fn a_stub_that_cannot_be_made_says_how_far_its_dial_came() {
    let manager = ConnManager::new(ClientConn::builder(refused_target()));
    let pool = BoundedPool::builder(manager).fail_fast(true).build().unwrap();
    let error = pool.get().await.unwrap_err();
    let cause = error.source().and_then(|error| error.source()).and_then(|error| error.downcast_ref());
    assert!(matches!(cause, Some(Error::Dial { phase: DialPhase::Connect, .. })), "{error:?}");

    let pool = BoundedPool::builder(ConnManager::new(ClientConn::builder("ftp://x")))
        .fail_fast(true)
        .build()
        .unwrap();
    let error = pool.get().await.unwrap_err();
    assert!(format!("{error:?}").contains("InvalidTarget"), "{error:?}");
}

#[tokio::test]
async fn a_canceled_call_costs_its_stream_and_not_its_connection() {
    let server = TonicServer::start();
    let pool = pool_of(1, server.target());
    let mut stub = pool.get().await.unwrap();
    let call = stub.say_hello(slow_hello("ada", Duration::from_secs(60)));
    timeout(Duration::from_millis(50), call).await.unwrap_err();
    drop(stub);
    pool.get().await.unwrap().say_hello(hello("ada")).await.unwrap();
    assert_eq!(server.seen.accepted(), 1);
}
