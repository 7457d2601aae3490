//! The load: callers who each call again as soon as they have their answer.

use std::time::{Duration, Instant};

use cenote_proto::HelloRequest;
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::time::sleep_until;

use crate::contenders::{Client, Contender};
use cenote_benches::cpu_time;
use cenote_benches::server::Server;

/// How long the callers run before what they do counts.
const WARM_UP: Duration = Duration::from_millis(400);

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) callers: usize,
    pub(crate) delay_ms: u32,
    pub(crate) time: Duration,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failed: u64,
    /// Calls a second.
    pub(crate) rate: f64,
    /// Calls a second of the client's CPU time.
    pub(crate) per_cpu: f64,
    /// Calls a second of the client's and the server's: where both share the cores, what the rate is about, without what else
    /// runs on them.
    pub(crate) per_both: f64,
    pub(crate) connections: usize,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// As many workers as tokio takes by itself.
pub(crate) fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

pub(crate) fn hello(delay_ms: u32) -> HelloRequest {
    HelloRequest { name: "ada".to_owned(), delay_ms }
}

/// Microseconds, from 1 to a minute.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds")
}

/// Puts a contender of its own under the load, on a runtime of its own.
pub(crate) fn run(server: &Server, contender: Contender, load: Load) -> Outcome {
    server.rest();
    let runtime = runtime();
    let outcome = runtime.block_on(drive(server, contender, load));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn drive(server: &Server, contender: Contender, load: Load) -> Outcome {
    let clients = contender.clients(&server.target(), load.callers);
    let begin = Instant::now() + WARM_UP;
    let end = begin + load.time;
    let callers: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(call_until(client, load.delay_ms, begin, end)))
        .collect();
    sleep_until(begin.into()).await;
    let (began, cpu, servers) = (Instant::now(), cpu_time(), server.cpu_time());
    sleep_until(end.into()).await;
    let (time, cpu, servers) = (began.elapsed(), cpu_time() - cpu, server.cpu_time() - servers);
    let connections = server.peak();
    let mut latencies = histogram();
    let mut failed = 0;
    for caller in callers {
        let (times, failures) = caller.await.expect("a caller");
        times.into_iter().for_each(|micros| latencies.saturating_record(micros.into()));
        failed += failures;
    }
    let calls = latencies.len();
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Outcome {
        failed,
        rate: calls as f64 / time.as_secs_f64(),
        per_cpu: calls as f64 / cpu.as_secs_f64(),
        per_both: calls as f64 / (cpu + servers).as_secs_f64(),
        connections,
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// The times of the calls that ended between `begin` and `end`, in microseconds, and how many failed.
async fn call_until(mut client: Client, delay_ms: u32, begin: Instant, end: Instant) -> (Vec<u32>, u64) {
    let (mut times, mut failed) = (Vec::new(), 0);
    loop {
        let start = Instant::now();
        if start >= end {
            return (times, failed);
        }
        let answer = client.call(delay_ms).await;
        let now = Instant::now();
        if now < begin || now >= end {
            continue;
        }
        match answer {
            Ok(_) => times.push((now - start).as_micros() as u32),
            Err(_) => failed += 1,
        }
    }
}
