//! `StreamPool` against a simple model of it, over random sequences of what callers and servers do.
//!
//! The model: each lease has one stream, or a place in the queue, or has failed. What the pool counts is what the leases say, at
//! each moment; no connection has more streams than its limit; there are no more connections than `size`; and of two leases that
//! wait, the later one is not granted first.

mod support;

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cenote::grpc::{AddressStats, StreamLease, StreamPool};
use cenote_proto::greeter_client::GreeterClient;
use proptest::prelude::*;
use support::{TonicServer, eventually_async, hello, slow_hello};
use tonic::{Code, Request};

const TTL: Duration = Duration::from_millis(40);

#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Drop(usize),
    /// A call on each lease, side by side.
    Call {
        name: &'static str,
    },
    /// As kill -9 does, or with GOAWAY.
    Down {
        gracefully: bool,
    },
    Up {
        limit: u32,
    },
    /// All connections grow old.
    Age,
    Pause,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..6_usize).prop_map(Step::Get),
        5 => any::<usize>().prop_map(Step::Drop),
        3 => Just(Step::Call { name: "ada" }),
        1 => Just(Step::Call { name: "nobody" }),
        1 => any::<bool>().prop_map(|gracefully| Step::Down { gracefully }),
        3 => (1..4_u32).prop_map(|limit| Step::Up { limit }),
        1 => Just(Step::Age),
        3 => Just(Step::Pause),
    ];
    (proptest::collection::vec(step, 1..30), proptest::bool::weighted(0.2)).prop_map(|(mut steps, close)| {
        if close {
            steps.insert(steps.len() * 3 / 4, Step::Close);
        }
        steps
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Granted,
    Waiting,
    Failed,
}

struct Held {
    lease: StreamLease,
    /// At the last look.
    before: State,
}

fn state(lease: &StreamLease) -> State {
    let asked = pin!(lease.granted());
    match asked.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => State::Granted,
        Poll::Ready(Err(_)) => State::Failed,
        Poll::Pending => State::Waiting,
    }
}

struct World {
    pool: StreamPool,
    size: usize,
    max_streams: u32,
    addr: SocketAddr,
    server: Option<TonicServer>,
    /// In the order in which they came.
    leases: Vec<Held>,
    closed: bool,
    /// Whether a call on this server was cut: its stream is free here before the server has heard of it.
    cut: bool,
}

impl World {
    fn new(size: usize, max_streams: u32) -> Self {
        let server = TonicServer::start();
        let pool = StreamPool::builder().size(size).max_streams(max_streams).ttl(TTL).build().unwrap();
        World {
            pool,
            size,
            max_streams,
            addr: server.addr,
            server: Some(server),
            leases: Vec::new(),
            closed: false,
            cut: false,
        }
    }

    fn target(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn stats(&self) -> Option<AddressStats> {
        self.pool.stats().address(&self.target()).cloned()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Get(count) => {
                for _ in 0..count {
                    match self.pool.get(self.target()) {
                        Ok(lease) => self.leases.push(Held { before: state(&lease), lease }),
                        Err(error) => assert!(self.closed, "{error}"),
                    }
                }
            }
            Step::Drop(which) if !self.leases.is_empty() => {
                self.leases.remove(which % self.leases.len());
            }
            Step::Drop(_) => {}
            Step::Call { name } => self.call_all(name).await,
            Step::Down { gracefully } => {
                if let Some(mut server) = self.server.take() {
                    if gracefully {
                        server.shut_down_gracefully();
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                    self.ends_well(server);
                }
            }
            Step::Up { limit } => {
                if let Some(server) = self.server.take() {
                    self.ends_well(server);
                }
                let limited = |server: tonic::transport::Server| server.max_concurrent_streams(limit);
                self.server = Some(TonicServer::start_at(self.addr, "tonic", limited));
                self.cut = false;
            }
            Step::Age => tokio::time::sleep(TTL * 3 / 2).await,
            Step::Pause => tokio::time::sleep(Duration::from_millis(2)).await,
            Step::Close => {
                self.pool.close();
                self.closed = true;
            }
        }
    }

    /// The server goes; it saw what it should.
    fn ends_well(&self, server: TonicServer) {
        assert!(self.cut || server.seen.peak_on_one() <= self.max_streams as usize);
        server.kill();
    }

    async fn call_all(&mut self, name: &'static str) {
        let calls: Vec<_> = std::mem::take(&mut self.leases)
            .into_iter()
            .map(|mut held| {
                tokio::spawn(async move {
                    let mut request = Request::new(slow_hello(name, Duration::from_millis(1)));
                    request.set_timeout(Duration::from_millis(15));
                    let before = state(&held.lease);
                    let call = GreeterClient::new(&mut held.lease).say_hello(request).await;
                    (held, before, call.map_err(|status| status.code()).err())
                })
            })
            .collect();
        let mut renewed = Vec::new();
        for call in calls {
            let (mut held, before, code) = call.await.unwrap();
            match code {
                Some(Code::DeadlineExceeded) => self.cut = true,
                None | Some(Code::NotFound | Code::Unavailable) => {}
                Some(Code::Cancelled) => assert!(self.closed),
                Some(code) => panic!("{code:?}"),
            }
            held.before = state(&held.lease);
            // What was lost has been renewed by the call, from the end of the queue.
            match before != State::Waiting && held.before == State::Waiting {
                true => renewed.push(held),
                false => self.leases.push(held),
            }
        }
        self.leases.append(&mut renewed);
    }

    /// The pool and the model agree.
    fn check(&mut self) {
        let mut waits = false;
        let (mut granted, mut waiting) = (0, 0);
        for held in &mut self.leases {
            let now = state(&held.lease);
            match now {
                State::Granted => {
                    let overtook = waits && held.before == State::Waiting;
                    assert!(!overtook, "it was granted while one that came before it still waits");
                    granted += 1;
                }
                State::Waiting => {
                    waits |= held.before == State::Waiting;
                    waiting += 1;
                }
                State::Failed => {}
            }
            held.before = now;
        }
        let Some(stats) = self.stats() else {
            assert_eq!(waiting, 0, "there is nothing to wait for");
            assert!(self.closed || granted == 0);
            return;
        };
        assert_eq!((stats.streams(), stats.waiting), (granted, waiting), "{stats:?}");
        assert!(stats.connections.len() <= self.size, "{stats:?}");
        for conn in stats.connections.iter().chain(&stats.running_out) {
            assert!(conn.streams <= conn.max_streams && conn.max_streams <= self.max_streams, "{stats:?}");
        }
    }

    async fn end(mut self) {
        self.leases.clear();
        self.check();
        if !self.closed {
            if self.server.is_none() {
                self.step(Step::Up { limit: 1 }).await;
            }
            // What was lost meanwhile may not have been heard of: calls tell of it, once for each connection.
            let mut client = GreeterClient::new(self.pool.channel(self.target()).unwrap());
            let mut failed = 0;
            loop {
                let mut request = Request::new(hello("ada"));
                request.set_timeout(Duration::from_secs(10));
                let Err(status) = client.say_hello(request).await else { break };
                failed += 1;
                assert!(failed <= self.size, "{status:?}");
            }
            self.check();
        }
        let World { pool, server, .. } = self;
        drop(pool);
        if let Some(server) = server {
            eventually_async("no socket is left", || server.seen.open() == 0).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_counts_what_the_leases_say_and_keeps_its_limits_and_its_order(
        size in 1..4_usize,
        max_streams in 1..4_u32,
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(size, max_streams);
            for step in steps {
                world.step(step).await;
                world.check();
            }
            world.end().await;
        });
    }
}
