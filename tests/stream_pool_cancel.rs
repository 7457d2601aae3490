//! Cancellation, at every point where a call or a lease of a `StreamPool` may wait: nothing stays counted.

mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use cenote::grpc::{Addresses, StreamPool};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::{TonicServer, eventually_async, hello};
use tonic::body::Body;
use tonic::client::GrpcService;

/// Polls a future so many times at most, each when it was woken, and drops it. Whether it was done.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        let mut polled = false;
        let done = poll_fn(|cx| {
            if std::mem::replace(&mut polled, true) {
                // Woken: the next poll is the next round's.
                return Poll::Ready(None);
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(value) = done.await {
            return Some(value);
        }
    }
    None
}

/// Where a call finds the pool.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// No connection yet: it waits for the dial.
    Dialling,
    /// The one stream is taken, and comes back in a moment.
    Full,
}

struct Scene {
    server: TonicServer,
    pool: StreamPool,
}

impl Scene {
    async fn new(server: TonicServer, phase: Phase) -> Self {
        let pool = StreamPool::builder().size(1).max_streams(1).build().unwrap();
        if phase == Phase::Full {
            let first = pool.get(server.target()).unwrap();
            first.granted().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                drop(first);
            });
        }
        Scene { server, pool }
    }

    /// Nothing is counted, and the next call works.
    async fn left_clean(self) -> TonicServer {
        let target = self.server.target();
        let stats = || self.pool.stats().address(&target).cloned();
        eventually_async("nothing is counted", || {
            stats().is_none_or(|stats| stats.streams() == 0 && stats.waiting == 0)
        })
        .await;
        let next = GreeterClient::new(self.pool.get(&target).unwrap()).say_hello(hello("ada")).await;
        next.unwrap();
        let stats = stats().unwrap();
        assert_eq!((stats.streams(), stats.waiting), (0, 0), "{stats:?}");
        assert!(stats.connections.len() <= 1);
        self.server
    }
}

/// A call of several messages, read to the end.
async fn call<S>(service: S)
where
    S: GrpcService<Body, ResponseBody = cenote::grpc::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 3, pause_ms: 1 };
    let mut greetings = GreeterClient::new(service).stream_hello(request).await.unwrap().into_inner();
    for _ in 0..3 {
        greetings.message().await.unwrap().unwrap();
    }
    assert!(greetings.message().await.unwrap().is_none());
}

/// Cuts what `make` makes after no poll, one poll, two... until it comes to its end. Returns how many that took.
async fn cut_everywhere<F: Future<Output = ()>>(phase: Phase, make: impl Fn(&Scene) -> F) -> usize {
    let mut server = TonicServer::start();
    for times in 0..1000 {
        let scene = Scene::new(server, phase).await;
        let done = polled(times, make(&scene)).await;
        server = scene.left_clean().await;
        if done.is_some() {
            return times;
        }
    }
    panic!("it does not end");
}

#[tokio::test]
async fn of_the_wait_for_a_grant() {
    for phase in [Phase::Dialling, Phase::Full] {
        let polls = cut_everywhere(phase, |scene| {
            let lease = scene.pool.get(scene.server.target()).unwrap();
            async move { lease.granted().await.unwrap() }
        })
        .await;
        assert!(polls >= 2, "{phase:?}: {polls}");
    }
}

#[tokio::test]
async fn of_the_wait_for_a_grant_and_the_lease_waits_on() {
    for phase in [Phase::Dialling, Phase::Full] {
        let mut server = TonicServer::start();
        for times in 0..3 {
            let scene = Scene::new(server, phase).await;
            let lease = scene.pool.get(scene.server.target()).unwrap();
            let _ = polled(times, lease.granted()).await;
            lease.granted().await.unwrap();
            drop(lease);
            server = scene.left_clean().await;
        }
    }
}

#[tokio::test]
async fn of_a_call_on_a_lease() {
    for phase in [Phase::Dialling, Phase::Full] {
        let polls = cut_everywhere(phase, |scene| call(scene.pool.get(scene.server.target()).unwrap())).await;
        assert!(polls >= 4, "{phase:?}: {polls}");
    }
}

#[tokio::test]
async fn of_a_call_on_a_lease_that_is_used_again() {
    for phase in [Phase::Dialling, Phase::Full] {
        let mut server = TonicServer::start();
        for times in 0..8 {
            let scene = Scene::new(server, phase).await;
            let mut lease = scene.pool.get(scene.server.target()).unwrap();
            let _ = polled(times, call(&mut lease)).await;
            call(&mut lease).await;
            drop(lease);
            server = scene.left_clean().await;
        }
    }
}

#[tokio::test]
async fn of_a_call_on_a_channel() {
    for phase in [Phase::Dialling, Phase::Full] {
        let polls =
            cut_everywhere(phase, |scene| call(scene.pool.channel(scene.server.target()).unwrap())).await;
        assert!(polls >= 4, "{phase:?}: {polls}");
    }
}

#[tokio::test]
async fn of_a_call_on_a_balanced_channel() {
    for phase in [Phase::Dialling, Phase::Full] {
        let polls =
            cut_everywhere(phase, |scene| call(scene.pool.balance(Addresses::list([scene.server.target()]))))
                .await;
        assert!(polls >= 4, "{phase:?}: {polls}");
    }
}
