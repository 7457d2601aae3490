//! `StreamPool::balance`: a set of addresses as one service.

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cenote::grpc::{Addresses, BalancedChannel, Error, Overflow, StreamPool, WaitForReady};
use cenote_proto::HelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::{TonicServer, cause, eventually_async, hello, refused_target, slow_hello};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};
use tower::discover::Change;

type Client = GreeterClient<BalancedChannel>;
type News = Result<Change<u8, String>, io::Error>;

fn three() -> [TonicServer; 3] {
    [(); 3].map(|()| TonicServer::start())
}

fn targets(servers: &[TonicServer]) -> Vec<String> {
    servers.iter().map(TonicServer::target).collect()
}

async fn all_connected(servers: &[TonicServer]) {
    eventually_async("each is connected", || servers.iter().all(|server| server.seen.open() >= 1)).await;
}

/// A set that is told by hand.
fn told(pool: &StreamPool) -> (UnboundedSender<News>, Client) {
    let (tell, news) = unbounded_channel();
    let channel = pool.balance(Addresses::discover(UnboundedReceiverStream::new(news)));
    (tell, GreeterClient::new(channel))
}

fn within(time: Duration, request: HelloRequest) -> Request<HelloRequest> {
    let mut request = Request::new(request);
    request.set_timeout(time);
    request
}

fn patient(request: HelloRequest) -> Request<HelloRequest> {
    let mut request = within(Duration::from_secs(20), request);
    request.extensions_mut().insert(WaitForReady(true));
    request
}

async fn burst(client: &Client, calls: usize) {
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.say_hello(hello("ada")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

// ── the choice ──

#[tokio::test]
async fn calls_spread_over_all_addresses() {
    let servers = three();
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
    all_connected(&servers).await;
    let callers: Vec<_> = (0..30)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    client.say_hello(slow_hello("ada", Duration::from_millis(1))).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let calls: Vec<_> = servers.iter().map(|server| server.seen.calls()).collect();
    assert_eq!(calls.iter().sum::<usize>(), 3000);
    assert!(calls.iter().all(|calls| (500..=1500).contains(calls)), "{calls:?}");
}

#[tokio::test]
async fn a_server_that_is_slow_gets_fewer_calls_than_one_that_is_quick() {
    let servers = three();
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
    all_connected(&servers).await;
    // One has much to do already.
    let held: Vec<_> = (0..50).map(|_| pool.get(servers[0].target()).unwrap()).collect();
    for lease in &held {
        lease.granted().await.unwrap();
    }
    for _ in 0..300 {
        client.clone().say_hello(hello("ada")).await.unwrap();
    }
    // Two different ones are drawn: it loses against each, once both are known to be there.
    let calls = servers[0].seen.calls();
    assert!(calls < 10, "{calls} of 300");
}

#[tokio::test]
async fn a_killed_server_costs_the_calls_that_ran_on_it_and_gets_calls_again_when_it_is_back() {
    let mut servers = Vec::from(three());
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
    all_connected(&servers).await;
    let stop = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..30)
        .map(|_| {
            let (mut client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut failures: Vec<(Instant, Status)> = Vec::new();
                while stop.load(Ordering::SeqCst) == 0 {
                    let call = client.say_hello(slow_hello("ada", Duration::from_millis(5))).await;
                    failures.extend(call.err().map(|status| (Instant::now(), status)));
                }
                failures
            })
        })
        .collect();
    eventually_async("all have calls", || servers.iter().all(|server| server.seen.calls() > 50)).await;
    let addr = servers.remove(0).kill();
    let dead = Instant::now();
    let before = servers.iter().map(|server| server.seen.calls()).sum::<usize>();
    eventually_async("the others go on", || {
        servers.iter().map(|server| server.seen.calls()).sum::<usize>() > before + 1000
    })
    .await;
    let again = TonicServer::start_again(addr);
    eventually_async("it has calls again", || again.seen.calls() > 50).await;
    stop.store(1, Ordering::SeqCst);
    for caller in callers {
        let failures = caller.await.unwrap();
        // A call that fails was under way on the one that died, and each caller has one at a time.
        assert!(failures.len() <= 1, "{failures:?}");
        for (when, status) in failures {
            assert!(matches!(cause(&status), Error::Interrupted { .. }), "{status:?}");
            assert!(when.saturating_duration_since(dead) < Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn an_address_that_is_dead_from_the_start_costs_no_call() {
    let servers = [TonicServer::start(), TonicServer::start()];
    let mut addresses = targets(&servers);
    addresses.insert(0, refused_target());
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.balance(Addresses::list(addresses)));
    burst(&client, 200).await;
    burst(&client, 200).await;
    assert_eq!(servers[0].seen.calls() + servers[1].seen.calls(), 400);
}

#[tokio::test]
async fn with_all_dead_a_call_is_told_why_and_one_that_waits_for_ready_succeeds_when_one_comes_up() {
    let dead = [refused_target(), refused_target()];
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.balance(Addresses::list(dead.clone())));
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.say_hello(patient(hello("ada"))).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let dials: u64 = pool.stats().addresses.iter().map(|address| address.dials).sum();
    assert!(dials < 40, "{dials} dials in 0.3 s");
    let up = TonicServer::start_at(dead[1]["http://".len()..].parse().unwrap(), "late", |server| server);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(up.seen.calls(), 10);
}

/// To wait for ready is to wait for connections, not for streams: it was a loop without an await.
#[tokio::test]
async fn with_all_full_and_overflow_fail_a_call_that_waits_for_ready_fails_as_others_do() {
    let servers = [TonicServer::start(), TonicServer::start()];
    let pool = StreamPool::builder().size(1).max_streams(1).overflow(Overflow::Fail).build().unwrap();
    let leases = servers.each_ref().map(|server| pool.get(server.target()).unwrap());
    for lease in &leases {
        lease.granted().await.unwrap();
    }
    let mut client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
    let status = client.say_hello(patient(hello("ada"))).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Exhausted { .. }), "{status:?}");
    drop(leases);
    client.say_hello(patient(hello("ada"))).await.unwrap();
}

// ── where addresses come from ──

#[tokio::test]
async fn duplicates_and_invalid_addresses_of_a_list_are_left_out() {
    let servers = [TonicServer::start(), TonicServer::start()];
    let [a, b] = servers.each_ref().map(TonicServer::target);
    let pool = StreamPool::new();
    let all = [a.as_str(), "", &b, "ftp://c:1", &a, "http://d:0", &b];
    let channel = pool.balance(Addresses::list(all));
    burst(&GreeterClient::new(channel.clone()), 20).await;
    assert_eq!(channel.addresses(), [a, b]);
    assert_eq!(pool.stats().addresses.len(), 2);
}

#[tokio::test]
async fn an_empty_set_is_an_error_of_its_own_and_a_call_that_waits_for_ready_waits_for_news() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.balance(Addresses::list(Vec::<String>::new())));
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::NoAddresses), "{status:?}");

    let (tell, mut client) = told(&pool);
    tell.send(Ok(Change::Remove(1))).unwrap();
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::NoAddresses), "{status:?}");
    let call = tokio::spawn(async move { client.say_hello(patient(hello("ada"))).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!call.is_finished());
    tell.send(Ok(Change::Insert(1, server.target()))).unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn dns_finds_a_server_on_the_loopback() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let addresses = Addresses::dns("http", "localhost", server.addr.port(), Duration::from_millis(50));
    let channel = pool.balance(addresses);
    let client = GreeterClient::new(channel.clone());
    burst(&client, 20).await;
    assert!(channel.addresses().contains(&server.target()), "{:?}", channel.addresses());
    // Looked up again meanwhile: the same set, the same connections.
    tokio::time::sleep(Duration::from_millis(200)).await;
    burst(&client, 20).await;
    assert_eq!(server.seen.accepted(), 1);
}

/// A server that tells the `:authority` of each request, and refuses that.
async fn telling_authorities() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut http2 = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, mut respond))) = http2.accept().await {
                    tell.send(request.uri().authority().unwrap().to_string()).unwrap();
                    let head = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "9")
                        .body(())
                        .unwrap();
                    respond.send_response(head, true).unwrap();
                }
            });
        }
    });
    (port, told)
}

#[tokio::test]
async fn requests_to_what_a_name_resolves_to_bear_the_name_and_those_to_an_address_the_address() {
    let (port, mut told) = telling_authorities().await;
    let pool = StreamPool::new();
    let by_name = pool.balance(Addresses::dns("http", "localhost", port, Duration::from_secs(30)));
    let by_address = pool.balance(Addresses::list([format!("http://127.0.0.1:{port}")]));
    for (channel, authority) in [(by_name, "localhost"), (by_address, "127.0.0.1")] {
        let status = GreeterClient::new(channel.clone()).say_hello(hello("ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert_eq!(told.recv().await.unwrap(), format!("{authority}:{port}"));
        assert!(channel.addresses().contains(&format!("http://127.0.0.1:{port}")));
    }
}

#[tokio::test]
async fn certificates_of_what_a_name_resolves_to_are_checked_for_the_name() {
    let authority = support::authority::Authority::new();
    for (certified, well) in [("localhost", true), ("127.0.0.1", false)] {
        let tls = tonic::transport::ServerTlsConfig::new().identity(authority.identity(certified));
        let server = TonicServer::start_with(|server| server.tls_config(tls).unwrap());
        let pool = StreamPool::builder().tls(authority.trusted()).build().unwrap();
        let dns = Addresses::dns("https", "localhost", server.addr.port(), Duration::from_secs(30));
        let result = GreeterClient::new(pool.balance(dns)).say_hello(hello("ada")).await;
        assert_eq!(result.is_ok(), well, "{result:?}");
        if let Err(status) = result {
            let Error::Dial { phase, .. } = cause(&status) else { panic!("{status:?}") };
            assert_eq!(*phase, cenote::grpc::DialPhase::Tls);
        }
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_keeps_calls_that_wait_for_ready_waiting_within_their_deadlines() {
    let pool = StreamPool::new();
    let addresses = Addresses::dns("http", "no-such-host.invalid", 1, Duration::from_millis(20));
    let mut client = GreeterClient::new(pool.balance(addresses));
    let mut request = within(Duration::from_millis(200), hello("ada"));
    request.extensions_mut().insert(WaitForReady(true));
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "one that does not wait");
}

#[tokio::test]
async fn until_something_is_told_a_call_waits_within_its_deadline() {
    let server = TonicServer::start();
    let pool = StreamPool::new();
    let (tell, mut client) = told(&pool);
    let status = client.say_hello(within(Duration::from_millis(100), hello("ada"))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let spawn = |request: Request<HelloRequest>| {
        let mut client = client.clone();
        tokio::spawn(async move { client.say_hello(request).await })
    };
    let fails = spawn(Request::new(hello("ada")));
    let mut request = Request::new(hello("ada"));
    request.extensions_mut().insert(WaitForReady(true));
    let call = spawn(request);
    // An error in the place of the first addresses fails calls, but for those that wait for ready.
    tell.send(Err(io::Error::other("not yet"))).unwrap();
    let status = fails.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not yet"), "{status:?}");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!call.is_finished());
    tell.send(Ok(Change::Insert(1, server.target()))).unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn addresses_are_added_replaced_and_removed_and_what_runs_on_a_removed_one_ends() {
    let [a, b, c] = three();
    let pool = StreamPool::builder().ttl(Duration::from_millis(400)).build().unwrap();
    let (tell, mut client) = told(&pool);
    tell.send(Ok(Change::Insert(1, a.target()))).unwrap();
    client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(a.seen.calls(), 1);
    let running = {
        let mut client = client.clone();
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_millis(1500))).await })
    };
    eventually_async("it runs", || a.seen.calls() == 2).await;

    // The same key, another address; and an error, which changes nothing.
    tell.send(Ok(Change::Insert(1, b.target()))).unwrap();
    tell.send(Err(io::Error::other("a hiccup"))).unwrap();
    tell.send(Ok(Change::Insert(2, c.target()))).unwrap();
    eventually_async("the new ones are connected", || b.seen.open() + c.seen.open() == 2).await;
    for _ in 0..30 {
        client.say_hello(hello("ada")).await.unwrap();
    }
    assert_eq!(a.seen.calls(), 2, "no new one there");
    assert!(b.seen.calls() > 0 && c.seen.calls() > 0);
    assert!(!running.is_finished());

    tell.send(Ok(Change::Remove(1))).unwrap();
    eventually_async("what is not used goes", || b.seen.open() == 0).await;
    assert!(c.seen.open() >= 1, "and what is in the set stays");
    running.await.unwrap().unwrap();
    eventually_async("its socket closes", || a.seen.open() == 0).await;
    eventually_async("they are forgotten", || pool.stats().addresses.len() == 1).await;

    // The end of news is not the end of the set.
    drop(tell);
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.say_hello(hello("ada")).await.unwrap();
}

/// Tells all in one breath, and must not be asked again after its end.
struct Once {
    left: Vec<News>,
    asked_after_end: Arc<AtomicUsize>,
    ended: bool,
}

impl Stream for Once {
    type Item = News;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<News>> {
        if self.ended {
            self.asked_after_end.fetch_add(1, Ordering::SeqCst);
        }
        let next = self.left.pop();
        self.ended = next.is_none();
        Poll::Ready(next)
    }
}

#[tokio::test]
async fn a_stream_of_changes_is_not_asked_again_after_its_end() {
    let servers = three();
    let left = targets(&servers).into_iter().zip(0..).map(|(target, key)| Ok(Change::Insert(key, target)));
    let asked_after_end = Arc::new(AtomicUsize::new(0));
    let news = Once { left: left.collect(), asked_after_end: Arc::clone(&asked_after_end), ended: false };
    let pool = StreamPool::new();
    let channel = pool.balance(Addresses::discover(news));
    all_connected(&servers).await;
    burst(&GreeterClient::new(channel.clone()), 30).await;
    assert_eq!(channel.addresses().len(), 3);
    assert_eq!(asked_after_end.load(Ordering::SeqCst), 0);
}

// ── its end ──

#[tokio::test]
async fn close_ends_calls_that_wait_for_addresses() {
    let pool = StreamPool::new();
    let (tell, mut client) = told(&pool);
    let mut another = client.clone();
    let call = tokio::spawn(async move { client.say_hello(patient(hello("ada"))).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    pool.close();
    let status = call.await.unwrap().unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    tell.send(Ok(Change::Insert(1, refused_target()))).unwrap();
    let status = another.say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
}

#[tokio::test]
async fn with_the_last_clone_the_addresses_and_their_source_go() {
    let servers = three();
    let pool = StreamPool::builder().ttl(Duration::from_millis(400)).build().unwrap();
    let (tell, client) = told(&pool);
    for (server, key) in servers.iter().zip(0..) {
        tell.send(Ok(Change::Insert(key, server.target()))).unwrap();
    }
    all_connected(&servers).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        servers.iter().all(|server| server.seen.open() >= 1),
        "kept, though unused for more than its ttl"
    );
    drop(client.clone());
    assert!(!tell.is_closed());
    drop(client);
    tell.closed().await;
    eventually_async("the sockets close", || servers.iter().all(|server| server.seen.open() == 0)).await;
    eventually_async("the addresses are forgotten", || pool.stats().addresses.is_empty()).await;
}

#[tokio::test]
async fn nothing_is_left_after_the_drop_of_all() {
    let servers = three();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    {
        let pool = StreamPool::new();
        let client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
        let dns = Addresses::dns("http", "localhost", servers[0].addr.port(), Duration::from_secs(60));
        let other = GreeterClient::new(pool.balance(dns));
        let (_tell, _unused) = told(&pool);
        all_connected(&servers).await;
        burst(&client, 100).await;
        burst(&other, 100).await;
    }
    eventually_async("the sockets close", || servers.iter().all(|server| server.seen.open() == 0)).await;
    eventually_async("the tasks end", || {
        tokio::runtime::Handle::current().metrics().num_alive_tasks() == before
    })
    .await;
}

#[test]
fn one_runtime_after_another_may_use_it_and_all_addresses_are_connected_on_each() {
    let servers = three();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pool = StreamPool::new();
    // Outside of all.
    let client = GreeterClient::new(pool.balance(Addresses::list(targets(&servers))));
    for round in 1..=3 {
        runtime().block_on(async {
            client.clone().say_hello(hello("ada")).await.unwrap();
            let reached = || servers.iter().all(|server| server.seen.accepted() >= round);
            eventually_async("each is connected again", reached).await;
            eventually_async("each is connected", || {
                pool.stats().addresses.iter().all(|address| address.open == 1)
            })
            .await;
            let before = servers.each_ref().map(|server| server.seen.calls());
            burst(&client, 90).await;
            for (server, before) in servers.iter().zip(before) {
                assert!(server.seen.calls() > before, "round {round}");
            }
        });
    }
}

#[test]
fn outside_of_a_runtime_a_call_is_told_so() {
    let pool = StreamPool::new();
    let mut client = GreeterClient::new(pool.balance(Addresses::list([refused_target()])));
    let mut call = std::pin::pin!(client.say_hello(hello("ada")));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Err(status)) = call.as_mut().poll(&mut cx) else { panic!("it waits") };
    assert!(matches!(cause(&status), Error::NoRuntime), "{status:?}");
}
