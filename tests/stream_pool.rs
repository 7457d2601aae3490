//! `StreamPool`: one address, its connections, its queue.

mod support;

use std::time::{Duration, Instant};

use cenote::grpc::{AddressStats, Error, Overflow, StreamPool, StreamPoolBuilder};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloRequest, StreamHelloRequest};
use support::{TonicServer, cause, eventually_async, hello, refused_target, slow_hello, socket_broke};
use tonic::{Code, Request};

fn stats(pool: &StreamPool, server: &TonicServer) -> AddressStats {
    pool.stats().address(&server.target()).unwrap().clone()
}

fn limited(streams: u32) -> TonicServer {
    TonicServer::start_with(|server| server.max_concurrent_streams(streams))
}

/// So many calls at once, each on a lease of its own.
async fn burst(pool: &StreamPool, server: &TonicServer, calls: usize, request: HelloRequest) {
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let lease = pool.get(server.target()).unwrap();
            let request = request.clone();
            tokio::spawn(async move { GreeterClient::new(lease).say_hello(request).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_lease_calls_and_its_stream_is_free_again_when_it_is_dropped() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.get(server.target()).unwrap());
    for _ in 0..3 {
        client.say_hello(hello("ada")).await.unwrap();
    }
    assert_eq!(stats(&pool, &server).streams(), 1, "the lease, not its calls");
    drop(client);
    let stats = stats(&pool, &server);
    assert_eq!(stats.streams(), 0);
    assert_eq!((stats.connections.len(), stats.connections[0].calls), (1, 3));
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn a_stream_counts_until_the_body_of_its_response_is_done_or_dropped() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.get(server.target()).unwrap());
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 3, pause_ms: 0 };
    let mut read = client.stream_hello(request.clone()).await.unwrap().into_inner();
    drop(client);
    assert_eq!(stats(&pool, &server).streams(), 1);
    while read.message().await.unwrap().is_some() {}
    assert_eq!(stats(&pool, &server).streams(), 0, "at the end, though the body is still held");

    let mut client = GreeterClient::new(pool.get(server.target()).unwrap());
    let half = client.stream_hello(request).await.unwrap().into_inner();
    drop(client);
    drop(half);
    assert_eq!(stats(&pool, &server).streams(), 0);
}

#[tokio::test]
async fn a_burst_opens_what_its_limit_requires_and_no_more_and_never_exceeds_it_on_the_wire() {
    let server = limited(10);
    let pool = StreamPool::new();
    burst(&pool, &server, 95, slow_hello("ada", Duration::from_millis(200))).await;
    assert_eq!(server.seen.accepted(), 10);
    assert_eq!(server.seen.peak_on_one(), 10);
    assert_eq!(server.seen.peak_running(), 95, "all at once");
    assert_eq!(server.seen.calls(), 95, "none was refused and sent again");
}

#[tokio::test]
async fn max_streams_below_the_servers_limit_holds_on_the_wire() {
    let server = limited(100);
    let pool = StreamPool::builder().max_streams(4).build().unwrap();
    burst(&pool, &server, 40, slow_hello("ada", Duration::from_millis(100))).await;
    assert_eq!(server.seen.peak_on_one(), 4);
    assert_eq!(server.seen.accepted(), 10);
}

#[tokio::test]
async fn size_holds_under_200_callers_and_those_who_wait_go_in_order() {
    let server = limited(2);
    let pool = StreamPool::builder().size(3).build().unwrap();
    let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut calls = Vec::new();
    for i in 0..200_usize {
        let lease = pool.get(server.target()).unwrap();
        let done = done.clone();
        calls.push(tokio::spawn(async move {
            lease.granted().await.unwrap();
            done.send(i).unwrap();
            GreeterClient::new(lease).say_hello(slow_hello("ada", Duration::from_millis(2))).await.unwrap();
        }));
    }
    for call in calls {
        call.await.unwrap();
    }
    drop(done);
    let mut granted = Vec::new();
    while let Some(i) = order.recv().await {
        granted.push(i);
    }
    // Those who are granted at one moment may tell it in any order.
    for (place, i) in granted.iter().enumerate() {
        assert!(i.abs_diff(place) <= 6, "{i} came as number {place}: {granted:?}");
    }
    assert_eq!(server.seen.accepted(), 3);
    assert_eq!(server.seen.peak_on_one(), 2);
    assert_eq!(stats(&pool, &server).peak_open, 3);
}

fn one_stream() -> StreamPoolBuilder {
    StreamPool::builder().size(1).max_streams(1)
}

#[tokio::test]
async fn with_all_streams_taken_a_call_waits_within_its_deadline() {
    let server = TonicServer::start();
    let pool = one_stream().build().unwrap();
    let first = pool.get(server.target()).unwrap();
    first.granted().await.unwrap();
    let second = pool.get(server.target()).unwrap();
    assert!(!second.is_granted());
    let mut client = GreeterClient::new(second);
    let mut request = Request::new(hello("ada"));
    request.set_timeout(Duration::from_millis(100));
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let waiting = tokio::spawn(async move { client.say_hello(hello("ada")).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn with_all_streams_taken_get_fails_at_once_if_told_so() {
    let server = TonicServer::start();
    let pool = one_stream().overflow(Overflow::Fail).build().unwrap();
    let first = pool.get(server.target()).unwrap();
    let error = pool.get(server.target()).unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    assert_eq!(error.code(), Code::ResourceExhausted);
    drop(first);
    pool.get(server.target()).unwrap().granted().await.unwrap();
}

#[tokio::test]
async fn with_all_streams_taken_a_lease_gets_a_connection_that_closes_with_it_if_told_so() {
    let server = TonicServer::start();
    let pool = one_stream().overflow(Overflow::Unpooled).build().unwrap();
    let first = pool.get(server.target()).unwrap();
    first.granted().await.unwrap();
    let mut second = GreeterClient::new(pool.get(server.target()).unwrap());
    second.say_hello(hello("ada")).await.unwrap();
    assert_eq!(server.seen.open(), 2);
    assert_eq!(stats(&pool, &server).running_out.len(), 1);
    drop(second);
    eventually_async("the second socket closes", || server.seen.open() == 1).await;
    drop(first);
    assert_eq!(stats(&pool, &server).connections.len(), 1);
}

#[tokio::test]
async fn a_waiter_that_is_dropped_before_or_after_its_turn_costs_nobody_a_stream() {
    let server = TonicServer::start();
    let pool = one_stream().build().unwrap();
    let first = pool.get(server.target()).unwrap();
    first.granted().await.unwrap();
    let mut waiting: Vec<_> = (0..100).map(|_| pool.get(server.target()).unwrap()).collect();
    let last = pool.get(server.target()).unwrap();
    assert_eq!(stats(&pool, &server).waiting, 101);
    // Polled once, and dropped; not polled, and dropped.
    for (i, lease) in waiting.drain(1..).enumerate() {
        if i % 2 == 0 {
            let _ = tokio::time::timeout(Duration::ZERO, lease.granted()).await;
        }
    }
    assert_eq!(stats(&pool, &server).waiting, 2);
    let next = waiting.pop().unwrap();
    drop(first);
    assert!(next.is_granted() && !last.is_granted());
    // It has its turn, and does not use it.
    drop(next);
    assert!(last.is_granted());
    drop(last);
    assert_eq!(stats(&pool, &server).streams(), 0);
}

#[tokio::test]
async fn a_dial_that_fails_fails_all_who_wait_once_and_later_ones_dial_again() {
    let target = refused_target();
    let pool = StreamPool::new();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let lease = pool.get(&target).unwrap();
            tokio::spawn(async move { GreeterClient::new(lease).say_hello(hello("ada")).await })
        })
        .collect();
    for call in calls {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
    }
    let dials = pool.stats().address(&target).unwrap().dials;
    assert!(dials <= 2, "{dials}");
    let server = TonicServer::start_at(target["http://".len()..].parse().unwrap(), "tonic", |server| server);
    burst(&pool, &server, 10, hello("ada")).await;
}

#[tokio::test]
async fn a_lease_whose_dial_failed_dials_again_with_its_next_call() {
    let target = refused_target();
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.get(&target).unwrap());
    assert_eq!(client.say_hello(hello("ada")).await.unwrap_err().code(), Code::Unavailable);
    let _server = TonicServer::start_at(target["http://".len()..].parse().unwrap(), "tonic", |server| server);
    client.say_hello(hello("ada")).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_servers_retires_no_connection_and_a_lost_one_is_retired_at_once() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let call = |name: &'static str| {
        let lease = pool.get(server.target()).unwrap();
        async move { GreeterClient::new(lease).say_hello(hello(name)).await }
    };
    for _ in 0..5 {
        assert_eq!(call("nobody").await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(server.seen.accepted(), 1);
    let mut running = GreeterClient::new(pool.get(server.target()).unwrap());
    let running =
        tokio::spawn(async move { running.say_hello(slow_hello("ada", Duration::from_secs(60))).await });
    eventually_async("it runs", || server.seen.calls() == 6).await;
    let addr = server.kill();
    assert_eq!(running.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let again = TonicServer::start_again(addr);
    let lease = pool.get(again.target()).unwrap();
    GreeterClient::new(lease).say_hello(hello("ada")).await.unwrap();
    assert_eq!(again.seen.accepted(), 1);
}

#[tokio::test]
async fn a_goaway_with_siblings_open_moves_new_calls_at_once_and_the_siblings_end() {
    let mut server = TonicServer::start();
    let pool = StreamPool::new();
    let mut slow = GreeterClient::new(pool.get(server.target()).unwrap());
    let slow =
        tokio::spawn(async move { slow.say_hello(slow_hello("ada", Duration::from_millis(300))).await });
    eventually_async("it runs", || server.seen.calls() == 1).await;
    server.shut_down_gracefully();
    eventually_async("it is out of the list", || stats(&pool, &server).connections.is_empty()).await;
    assert_eq!(stats(&pool, &server).running_out[0].streams, 1);
    assert!(!slow.is_finished());
    slow.await.unwrap().unwrap();
    eventually_async("its socket closes", || server.seen.open() == 0).await;
}

#[tokio::test]
async fn what_is_not_needed_any_more_goes_after_ttl_and_what_is_used_is_renewed() {
    let ttl = Duration::from_millis(400);
    let server = limited(1);
    let pool = StreamPool::builder().ttl(ttl).build().unwrap();
    burst(&pool, &server, 20, slow_hello("ada", Duration::from_millis(50))).await;
    assert_eq!(server.seen.open(), 20);
    let start = Instant::now();
    let mut most_old = Duration::ZERO;
    while start.elapsed() < 4 * ttl {
        burst(&pool, &server, 1, slow_hello("ada", Duration::from_millis(5))).await;
        let ages = stats(&pool, &server).connections.into_iter().map(|conn| conn.age);
        most_old = most_old.max(ages.max().unwrap());
    }
    assert!(most_old < 2 * ttl, "{most_old:?}");
    assert!(server.seen.open() <= 2, "{}", server.seen.open());
    let accepted = server.seen.accepted();
    assert!((22..30).contains(&accepted), "renewed each {ttl:?}: {accepted}");
    eventually_async("the address is forgotten", || pool.stats().addresses.is_empty()).await;
    assert_eq!(server.seen.open(), 0);
}

#[tokio::test]
async fn idle_connections_above_max_idle_close_when_their_streams_end() {
    let server = limited(1);
    let pool = StreamPool::builder().max_idle(2).build().unwrap();
    burst(&pool, &server, 10, slow_hello("ada", Duration::from_millis(100))).await;
    eventually_async("they close", || server.seen.open() == 2).await;
}

#[tokio::test]
async fn min_idle_connections_are_warm_from_the_first_get_on_and_made_again_when_lost() {
    let server = TonicServer::start();
    let pool = StreamPool::builder().min_idle(3).build().unwrap();
    drop(pool.get(server.target()).unwrap());
    eventually_async("three are up", || server.seen.open() == 3).await;
    let addr = server.kill();
    let again = TonicServer::start_again(addr);
    eventually_async("three are up again", || again.seen.open() == 3).await;
}

#[tokio::test]
async fn close_fails_who_waits_and_later_gets_and_cuts_what_runs_after_the_grace() {
    let server = limited(2);
    let pool = StreamPool::builder().size(1).close_grace(Duration::from_millis(300)).build().unwrap();
    let call = |delay| {
        let lease = pool.get(server.target()).unwrap();
        tokio::spawn(async move { GreeterClient::new(lease).say_hello(slow_hello("ada", delay)).await })
    };
    let short = call(Duration::from_millis(100));
    let long = call(Duration::from_secs(60));
    eventually_async("both run", || server.seen.calls() == 2).await;
    let waiting = call(Duration::ZERO);
    eventually_async("it waits", || stats(&pool, &server).waiting == 1).await;
    pool.close();
    assert!(matches!(pool.get(server.target()), Err(Error::Closed)));
    let status = waiting.await.unwrap().unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    short.await.unwrap().unwrap();
    let status = long.await.unwrap().unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    eventually_async("no socket is left", || server.seen.open() == 0).await;
}

#[tokio::test]
async fn the_pools_drop_cuts_nothing_that_runs_and_closes_the_rest() {
    let server = limited(1);
    let pool = StreamPool::new();
    burst(&pool, &server, 3, slow_hello("ada", Duration::from_millis(50))).await;
    let mut client = GreeterClient::new(pool.get(server.target()).unwrap());
    let call =
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(200))).await });
    eventually_async("it runs", || server.seen.calls() == 4).await;
    drop(pool);
    eventually_async("the idle ones close", || server.seen.open() == 1).await;
    call.await.unwrap().unwrap();
    eventually_async("its own closes", || server.seen.open() == 0).await;
}

#[tokio::test]
async fn no_task_outlives_the_pool_or_its_close_however_long_its_ttl() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let server = TonicServer::start();
    let pool = || StreamPool::builder().ttl(Duration::from_secs(60 * 60)).build().unwrap();
    let (dropped, closed) = (pool(), pool());
    for pool in [&dropped, &closed] {
        burst(pool, &server, 1, hello("ada")).await;
    }
    assert!(tasks() >= 2, "each has a keeper");
    drop(dropped);
    closed.close();
    eventually_async("their tasks are over", || tasks() == 0).await;
    assert!(matches!(closed.get(server.target()), Err(Error::Closed)));
}

#[tokio::test]
async fn a_channel_spreads_the_calls_of_one_client() {
    let server = limited(5);
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.channel(server.target()).unwrap());
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(100))).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.seen.accepted(), 6);
    assert_eq!(server.seen.peak_running(), 30);
}

#[test]
fn outside_of_a_runtime_a_get_works_and_the_call_dials_inside_one() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let lease = pool.get(server.target()).unwrap();
    assert_eq!(server.seen.accepted(), 0);
    let mut client = GreeterClient::new(lease);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(client.say_hello(hello("ada"))).unwrap();
    // Another runtime: the connection went with the first.
    runtime().block_on(client.say_hello(hello("ada"))).unwrap();
    runtime().block_on(burst(&pool, &server, 5, hello("ada")));
}

#[test]
fn bad_options_and_addresses_are_told_before_any_io() {
    let option = |builder: StreamPoolBuilder| match builder.build() {
        Err(Error::InvalidConfig { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(option(StreamPool::builder().size(0)), "size");
    assert_eq!(option(StreamPool::builder().max_streams(0)), "max_streams");
    assert_eq!(option(StreamPool::builder().ttl(Duration::ZERO)), "ttl");
    assert_eq!(option(StreamPool::builder().size(3).min_idle(4)), "min_idle");
    assert_eq!(option(StreamPool::builder().connect_timeout(Duration::ZERO)), "connect_timeout");
    let pool = StreamPool::builder().ttl(Duration::MAX).max_idle(usize::MAX).build().unwrap();
    assert!(matches!(pool.get("ftp://a:1"), Err(Error::InvalidTarget { .. })));
    assert!(matches!(pool.channel(""), Err(Error::InvalidTarget { .. })));
    assert!(pool.stats().addresses.is_empty());
}

#[tokio::test]
async fn no_call_is_lost_by_a_storm_of_goaways() {
    let server = TonicServer::start_with(|server| {
        server.max_connection_age(Duration::from_millis(30)).max_concurrent_streams(5)
    });
    let pool = StreamPool::new();
    let start = Instant::now();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            let target = server.target();
            tokio::spawn(async move {
                let mut calls = 0;
                while start.elapsed() < Duration::from_secs(1) {
                    let lease = pool.get(&target).unwrap();
                    let call = GreeterClient::new(lease)
                        .say_hello(slow_hello("ada", Duration::from_millis(3)))
                        .await;
                    if let Err(status) = call {
                        assert!(socket_broke(&status), "{status:?}");
                    }
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap() > 10);
    }
    assert!(server.seen.accepted() > 20, "{}", server.seen.accepted());
    assert!(server.seen.peak_on_one() <= 5);
}

#[tokio::test]
async fn a_lease_whose_dial_failed_gets_another_stream_for_its_next_call() {
    let target = refused_target();
    let pool = StreamPool::new();
    let lease = pool.get(&target).unwrap();
    assert!(matches!(lease.granted().await, Err(Error::Dial { .. })));
    let _server = TonicServer::start_at(target["http://".len()..].parse().unwrap(), "tonic", |server| server);
    let mut client = GreeterClient::new(lease);
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(pool.stats().address(&target).unwrap().streams(), 1, "the lease's");
}

#[tokio::test]
async fn a_lease_whose_connection_was_lost_gets_another_stream_in_place_of_the_lost_one() {
    let server = TonicServer::start();
    let target = server.target();
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.get(&target).unwrap());
    client.say_hello(hello("ada")).await.unwrap();
    let address = || pool.stats().address(&target).unwrap().clone();
    let addr = server.kill();
    eventually_async("it is lost", || address().connections.is_empty()).await;
    let _again = TonicServer::start_again(addr);
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(address().streams(), 1);
    assert!(address().running_out.is_empty(), "nothing holds the lost one");
    drop(client);
    assert_eq!(address().streams(), 0);
}

#[tokio::test]
async fn min_idle_connections_stay_though_max_idle_is_less() {
    let server = limited(1);
    let pool = StreamPool::builder().max_idle(0).min_idle(2).build().unwrap();
    burst(&pool, &server, 10, slow_hello("ada", Duration::from_millis(50))).await;
    eventually_async("the others close", || server.seen.open() == 2).await;
    burst(&pool, &server, 1, hello("ada")).await;
    assert_eq!((server.seen.open(), server.seen.accepted()), (2, 10));
}
