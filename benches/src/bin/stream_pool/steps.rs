//! A load that steps from 10 callers to 1,000 and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cenote::grpc::StreamPool;
use serde_json::json;
use tokio::time::sleep;

use crate::contenders::{Client, Contender, by_channel};
use crate::load::{histogram, runtime};
use crate::report::{Table, save};
use cenote_benches::cores;
use cenote_benches::server::Server;

const STEPS: [usize; 3] = [10, 1000, 10];
const DELAY_MS: u32 = 10;
const TTL: Duration = Duration::from_secs(1);
/// So often the connections are counted.
const TICK: Duration = Duration::from_millis(50);

struct Course {
    /// When each call began, in ms since the beginning, and what it took, in microseconds.
    calls: Vec<(u32, u32)>,
    failed: usize,
    /// At each tick, in ms, the connections.
    connections: Vec<(u32, usize)>,
}

fn course(server: &Server, ours: bool, step: Duration) -> Course {
    server.rest();
    let runtime = runtime();
    let most = STEPS.into_iter().max().unwrap_or_default();
    let clients = {
        let _inside = runtime.enter();
        match ours {
            true => {
                let pool = StreamPool::builder().ttl(TTL).build().expect("plain options");
                by_channel(&pool, &server.target(), most)
            }
            false => Contender::Tonic(10).clients(&server.target(), most),
        }
    };
    let course = runtime.block_on(async {
        let mut clients = clients;
        // Either starts connected: the rival in full.
        for client in clients.iter_mut().take(10) {
            client.call(0).await.expect("a first call");
        }
        let begin = Instant::now();
        let wanted = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| (number, client, Arc::clone(&wanted)))
            .collect();
        let mut waiting = callers.into_iter();
        let mut running = Vec::new();
        let mut connections = Vec::new();
        let mut idle = Vec::new();
        for callers in STEPS {
            wanted.store(callers, Ordering::SeqCst);
            // Who has stopped in a step down does not come back: there is one step up.
            while running.len() < callers
                && let Some((number, client, wanted)) = waiting.next()
            {
                running.push(tokio::spawn(call_while_wanted(client, number, wanted, begin)));
            }
            let end = Instant::now() + step;
            while Instant::now() < end {
                connections.push((begin.elapsed().as_millis() as u32, server.open()));
                sleep(TICK).await;
            }
        }
        wanted.store(0, Ordering::SeqCst);
        let (mut calls, mut failed) = (Vec::new(), 0);
        for caller in running {
            let (times, failures, client) = caller.await.expect("a caller");
            calls.extend(times);
            failed += failures;
            idle.push(client);
        }
        Course { calls, failed, connections }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    course
}

async fn call_while_wanted(
    mut client: Client,
    number: usize,
    wanted: Arc<AtomicUsize>,
    begin: Instant,
) -> (Vec<(u32, u32)>, usize, Client) {
    let (mut times, mut failed) = (Vec::new(), 0);
    while number < wanted.load(Ordering::Relaxed) {
        let start = Instant::now();
        match client.call(DELAY_MS).await {
            Ok(_) => times.push(((start - begin).as_millis() as u32, start.elapsed().as_micros() as u32)),
            Err(_) => failed += 1,
        }
    }
    (times, failed, client)
}

impl Course {
    /// In milliseconds, of the calls that began in a span of time.
    fn p99(&self, from: u32, to: u32) -> f64 {
        let mut latencies = histogram();
        for (at, micros) in &self.calls {
            if (from..to).contains(at) {
                latencies.saturating_record((*micros).into());
            }
        }
        latencies.value_at_quantile(0.99) as f64 / 1000.0
    }

    /// From the last step down to no more connections than 10 callers need, in seconds. (Later there are two at times: one
    /// that has grown old runs out beside the one in its place.)
    fn back_after(&self, down: u32) -> Option<f64> {
        let back = self.connections.iter().find(|(at, open)| *at > down && *open <= 1);
        back.map(|(at, _)| f64::from(at - down) / 1000.0)
    }
}

pub(crate) fn steps(count: usize, _: Duration) {
    let step = Duration::from_secs(5);
    let ms = step.as_millis() as u32;
    let server = Server::start(cores(), Some(100));
    let rounds: Vec<_> = (0..count)
        .map(|round| {
            eprintln!("round {} of {count}", round + 1);
            let ours_first = round % 2 == 0;
            let first = course(&server, ours_first, step);
            let second = course(&server, !ours_first, step);
            if ours_first { (first, second) } else { (second, first) }
        })
        .collect();
    let head = ["p99 in ms", "10 callers", "1,000", "the first 250 ms of it", "10 again", "all", "failed"];
    let mut table = Table::new("steps: 10 -> 1,000 -> 10 callers each 5 s, 10 ms, ttl 1 s", &head);
    let spans = [(0, ms), (ms, 2 * ms), (ms, ms + 250), (2 * ms, 3 * ms), (0, 3 * ms)];
    let name = ["StreamPool", "10 tonic Channels, connected before"];
    let pick = |ours: bool| rounds.iter().map(move |round| if ours { &round.0 } else { &round.1 });
    for (name, ours) in name.into_iter().zip([true, false]) {
        let mut cells = vec![name.to_owned()];
        for (from, to) in spans {
            let all = pick(ours).map(|course| course.p99(from, to)).collect();
            cells.push(format!("{:.1}", cenote_benches::median(all)));
        }
        cells.push(pick(ours).map(|course| course.failed).sum::<usize>().to_string());
        table.row(cells);
    }
    table.print();
    let ratio = |(from, to): (u32, u32)| {
        let ratios = rounds.iter().map(|(ours, theirs)| ours.p99(from, to) / theirs.p99(from, to));
        cenote_benches::median(ratios.collect())
    };
    let back: Vec<_> = pick(true).map(|course| course.back_after(2 * ms)).collect();
    println!(
        "target: p99 <= 1.3 x: {:.2} of the 5 s with 1,000 callers, {:.2} of all",
        ratio(spans[1]),
        ratio(spans[4])
    );
    println!("target: back to one connection within 2 ttl (2 s): {back:?} s");
    let Some((ours, theirs)) = rounds.last() else { return };
    let data = |course: &Course| {
        let p99: Vec<_> =
            (0..3 * ms).step_by(250).map(|from| (from + 125, course.p99(from, from + 250))).collect();
        json!({ "p99": p99, "connections": course.connections })
    };
    save("steps", &json!({ "StreamPool": data(ours), "10 tonic Channels": data(theirs) }));
}
