//! `StreamPool` and limits: a server that changes its own while it runs, and what happens beyond all of them.

mod support;

use std::time::Duration;

use cenote::grpc::{AddressStats, ConnectivityState, Error, Overflow, StreamLease, StreamPool};
use cenote_proto::greeter_client::GreeterClient;
use support::frames::{FrameServer, MAX_CONCURRENT_STREAMS};
use support::{TonicServer, eventually_async, hello, slow_hello};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::{Code, Request};

/// A server that says nothing but its limit: the first at once, others when told so, to its first connection.
async fn saying(limit: u32) -> (String, UnboundedSender<u32>) {
    let server = FrameServer::start().await;
    let target = server.target();
    let (tell, mut told) = unbounded_channel();
    tokio::spawn(async move {
        let mut wires = Vec::new();
        let first = [(MAX_CONCURRENT_STREAMS, limit)];
        loop {
            tokio::select! {
                wire = server.accept(&first) => wires.push(wire),
                Some(limit) = told.recv() => wires[0].settings(&[(MAX_CONCURRENT_STREAMS, limit)]).await,
            }
        }
    });
    (target, tell)
}

fn stats(pool: &StreamPool, target: &str) -> AddressStats {
    pool.stats().address(target).unwrap().clone()
}

fn granted(leases: &[StreamLease]) -> usize {
    leases.iter().filter(|lease| lease.is_granted()).count()
}

fn leases(pool: &StreamPool, target: &str, count: usize) -> Vec<StreamLease> {
    (0..count).map(|_| pool.get(target).unwrap()).collect()
}

#[tokio::test]
async fn a_limit_that_falls_and_rises_again_holds_back_and_lets_go_who_waits_in_order() {
    let (target, tell) = saying(100).await;
    let pool = StreamPool::builder().size(1).build().unwrap();
    let limit_is = |limit| {
        let (pool, target) = (pool.clone(), target.clone());
        async move {
            eventually_async("the limit is heard of", || {
                stats(&pool, &target).connections[0].max_streams == limit
            })
            .await;
        }
    };
    let mut first = leases(&pool, &target, 5);
    for lease in &first {
        lease.granted().await.unwrap();
    }
    tell.send(1).unwrap();
    limit_is(1).await;
    let waiting = leases(&pool, &target, 60);
    while first.len() > 1 {
        first.pop();
        assert_eq!(granted(&waiting), 0, "while {} run at a limit of 1", first.len());
    }
    first.pop();
    assert!(waiting[0].is_granted());
    assert_eq!((granted(&waiting), stats(&pool, &target).waiting), (1, 59));

    tell.send(40).unwrap();
    limit_is(40).await;
    assert_eq!(granted(&waiting), 40);
    assert!(waiting[..40].iter().all(StreamLease::is_granted), "in order");
    tell.send(100).unwrap();
    limit_is(100).await;
    assert_eq!(granted(&waiting), 60);
    drop(waiting);
    let stats = stats(&pool, &target);
    assert_eq!((stats.streams(), stats.waiting, stats.made), (0, 0, 1));
}

#[tokio::test]
async fn at_a_limit_of_none_calls_wait_within_their_deadlines_and_nobody_dials_for_them() {
    let (target, tell) = saying(0).await;
    let pool = StreamPool::new();
    let waiting = leases(&pool, &target, 50);
    eventually_async("it is up", || {
        stats(&pool, &target).connections.iter().any(|conn| conn.state == ConnectivityState::Ready)
    })
    .await;
    let mut client = GreeterClient::new(pool.get(&target).unwrap());
    let mut request = Request::new(hello("ada"));
    request.set_timeout(Duration::from_millis(150));
    assert_eq!(client.say_hello(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    drop(client);
    assert_eq!(granted(&waiting), 0);
    let before = stats(&pool, &target);
    assert_eq!((before.dials, before.waiting), (1, 50));
    tell.send(50).unwrap();
    eventually_async("all go", || granted(&waiting) == 50).await;
    assert_eq!(stats(&pool, &target).dials, 1);
}

/// The keeper, who comes by four times in a `ttl`, had a connection made for each who waits.
#[tokio::test]
async fn at_a_limit_of_none_the_keeper_renews_what_there_is_and_makes_no_others() {
    let (target, _tell) = saying(0).await;
    let pool = StreamPool::builder().ttl(Duration::from_millis(200)).build().unwrap();
    let waiting = leases(&pool, &target, 50);
    // So many wait that there may be two, one a core; each is renewed.
    eventually_async("they were renewed", || stats(&pool, &target).dials >= 8).await;
    let stats = stats(&pool, &target);
    assert!(stats.connections.len() <= 4, "{stats:?}");
    assert!(stats.peak_open <= 6, "{stats:?}");
    assert_eq!((granted(&waiting), stats.waiting), (0, 50));
}

// ── beyond all limits ──

fn two_by_two(overflow: Overflow) -> StreamPool {
    StreamPool::builder().size(2).max_streams(2).overflow(overflow).build().unwrap()
}

/// 200 callers who come at once. How many calls were answered; the others were told that all is taken.
async fn crowd(pool: &StreamPool, server: &TonicServer) -> usize {
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let lease = pool.get(server.target());
            tokio::spawn(async move {
                match lease {
                    Ok(lease) => {
                        let call = slow_hello("ada", Duration::from_millis(5));
                        GreeterClient::new(lease).say_hello(call).await.unwrap();
                        1
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
                        0
                    }
                }
            })
        })
        .collect();
    let mut answered = 0;
    for call in calls {
        answered += call.await.unwrap();
    }
    let stats = stats(pool, &server.target());
    assert_eq!((stats.streams(), stats.waiting, stats.running_out.len()), (0, 0, 0));
    assert_eq!(stats.connections.len(), 2);
    assert!(server.seen.peak_on_one() <= 2);
    answered
}

#[tokio::test]
async fn beyond_all_limits_200_callers_wait_and_all_are_answered_by_two_connections() {
    let server = TonicServer::start();
    let pool = two_by_two(Overflow::Wait);
    assert_eq!(crowd(&pool, &server).await, 200);
    assert_eq!((server.seen.accepted(), server.seen.peak_running()), (2, 4));
}

#[tokio::test]
async fn beyond_all_limits_200_callers_fail_but_for_those_whom_two_connections_can_take() {
    let server = TonicServer::start();
    let pool = two_by_two(Overflow::Fail);
    assert_eq!(crowd(&pool, &server).await, 4);
    assert_eq!(server.seen.accepted(), 2);
    let calls = server.seen.calls();
    assert_eq!(crowd(&pool, &server).await, 4, "and again, when the connections are there");
    assert_eq!((server.seen.accepted(), server.seen.calls()), (2, calls + 4));
}

#[tokio::test]
async fn beyond_all_limits_200_callers_have_connections_of_their_own_which_close() {
    let server = TonicServer::start();
    let pool = two_by_two(Overflow::Unpooled);
    assert_eq!(crowd(&pool, &server).await, 200);
    assert_eq!(server.seen.accepted(), 2 + 196);
    eventually_async("theirs close", || server.seen.open() == 2).await;
    assert_eq!(stats(&pool, &server.target()).open, 2);
}
