//! One of three servers dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cenote::grpc::{Addresses, StreamPool};
use cenote_proto::HelloReply;
use cenote_proto::greeter_client::GreeterClient;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::load::{hello, runtime};
use crate::report::Table;
use cenote_benches::cores;
use cenote_benches::server::Server;

const CALLERS: usize = 100;
const DELAY_MS: u32 = 10;

/// A call that fails and had begun when the server was dead was not in flight on it: nothing else fails here.
#[derive(Default)]
struct Fall {
    /// Calls that the pool had on the server when it was killed, as it counts them.
    in_flight: Option<usize>,
    failed: usize,
    /// Of those that began when the server was dead, its sockets closed.
    failed_after: usize,
    /// Of those that began later than a second after the kill.
    failed_late: usize,
    /// The last failure's end, after the kill, in ms.
    last_failure: f64,
    calls_in_a_second: usize,
    before: usize,
}

struct Call {
    start: Instant,
    end: Instant,
    failed: bool,
}

async fn fall<C, F>(servers: &mut [Server], streams: impl Fn() -> Option<usize>, call: C) -> Fall
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<HelloReply>, Status>> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (call, stop) = (call.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let failed = call().await.is_err();
                    calls.push(Call { start, end: Instant::now(), failed });
                    if failed {
                        // As a caller would who has nothing better to do.
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                calls
            })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    // Near the moment, on either side: the load goes on meanwhile.
    let before = streams();
    let killed = Instant::now();
    servers[0].kill();
    let dead = Instant::now();
    let in_flight = before.max(streams());
    sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let mut fall = Fall { in_flight, ..Fall::default() };
    let second = Duration::from_secs(1);
    for caller in callers {
        for call in caller.await.expect("a caller") {
            if call.failed {
                fall.failed += 1;
                fall.failed_after += usize::from(call.start > dead);
                fall.failed_late += usize::from(call.start > dead + second);
                let after = call.end.saturating_duration_since(killed);
                fall.last_failure = fall.last_failure.max(after.as_secs_f64() * 1000.0);
            } else if call.end > killed && call.end < killed + second {
                fall.calls_in_a_second += 1;
            } else if call.end < killed && call.end + second / 2 > killed {
                fall.before += 2;
            }
        }
    }
    fall
}

fn ours(servers: &mut [Server]) -> Fall {
    runtime().block_on(async {
        let pool = StreamPool::new();
        let targets: Vec<_> = servers.iter().map(Server::target).collect();
        let dying = targets[0].clone();
        let channel = pool.balance(Addresses::list(targets));
        let streams = || pool.stats().address(&dying).map(|address| address.streams());
        fall(servers, streams, move || {
            let mut client = GreeterClient::new(channel.clone());
            async move { client.say_hello(hello(DELAY_MS)).await }
        })
        .await
    })
}

fn tonics(servers: &mut [Server]) -> Fall {
    runtime().block_on(async {
        let endpoints =
            servers.iter().map(|server| Endpoint::from_shared(server.target()).expect("an address"));
        let channel = Channel::balance_list(endpoints);
        fall(
            servers,
            || None,
            move || {
                let mut client = GreeterClient::new(channel.clone());
                async move { client.say_hello(hello(DELAY_MS)).await }
            },
        )
        .await
    })
}

pub(crate) fn kill(count: usize, _: Duration) {
    let head = [
        "",
        "failed",
        "begun after its death",
        "in flight on it",
        "failed after 1 s",
        "last failure, ms",
        "calls in the second before",
        "in the one after",
    ];
    let mut table = Table::new("kill: one of three servers, 100 callers, 10 ms", &head);
    let mut kept = true;
    for _ in 0..count {
        for (name, run) in [
            ("StreamPool::balance", ours as fn(&mut [Server]) -> Fall),
            ("tonic Channel::balance_list", tonics),
        ] {
            let mut servers: Vec<_> = (0..3).map(|_| Server::start(cores(), None)).collect();
            let fall = run(&mut servers);
            kept &= fall.in_flight.is_none() || fall.failed_after == 0;
            table.row(vec![
                name.to_owned(),
                fall.failed.to_string(),
                fall.failed_after.to_string(),
                fall.in_flight.map_or_else(|| "?".to_owned(), |streams| streams.to_string()),
                fall.failed_late.to_string(),
                format!("{:.1}", fall.last_failure),
                fall.before.to_string(),
                fall.calls_in_a_second.to_string(),
            ]);
        }
    }
    table.print();
    println!(
        "target: no more failed than in flight on it, none after 1 s: {}",
        if kept { "kept" } else { "MISSED" }
    );
}
