//! The Go originals under the same load: `benches/go/grpc_pool`, built with the `go` that is found.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::contenders::Contender::{Leases, Pool};
use crate::load::{Load, Outcome, run};
use crate::report::Table;
use crate::sweep::{middle, ratio};
use cenote_benches::cores;
use cenote_benches::server::Server;

const KINDS: [&str; 2] = ["sync.Pool", "go-micro"];

/// With the first `go` that can: one may be too old.
fn build() -> Result<PathBuf, String> {
    let program = cenote_benches::target().join("stream_pool_go");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/go/grpc_pool");
    let places = ["go".to_owned(), "/usr/local/go/bin/go".to_owned()];
    let mut failures = Vec::new();
    for go in std::env::var("GO").into_iter().chain(places) {
        let mut build = Command::new(&go);
        build.args(["build", "-buildvcs=false", "-o"]).arg(&program).current_dir(source);
        match build.output() {
            Ok(output) if output.status.success() => return Ok(program),
            Ok(output) => failures.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => failures.push(format!("{go}: {error}")),
        }
    }
    Err(failures.join("; "))
}

fn run_go(program: &PathBuf, server: &Server, kind: &str, load: Load) -> Outcome {
    server.rest();
    let output = Command::new(program)
        .arg(format!("-kind={kind}"))
        .arg(format!("-target={}", server.addr))
        .arg(format!("-callers={}", load.callers))
        .arg(format!("-delay={}", load.delay_ms))
        .arg(format!("-time={}ms", load.time.as_millis()))
        .output()
        .expect("it was built");
    let text = String::from_utf8_lossy(&output.stdout);
    let read: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{kind}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    let number = |name: &str| read[name].as_f64().unwrap_or(f64::NAN);
    Outcome {
        failed: number("failed") as u64,
        rate: number("rate"),
        per_cpu: number("per_cpu"),
        per_both: f64::NAN,
        connections: server.peak(),
        p50: number("p50"),
        p99: number("p99"),
    }
}

pub(crate) fn go(count: usize, time: Duration) {
    let program = match build() {
        Ok(program) => program,
        Err(why) => return println!("go: skipped, for there is none that can: {why}"),
    };
    for (callers, delay_ms, limit) in [(100, 0, None), (1000, 10, Some(100)), (1, 0, None)] {
        let server = Server::start(cores(), limit);
        let load = Load { callers, delay_ms, time };
        let mut all: [Vec<Outcome>; 4] = Default::default();
        for round in 0..count {
            eprintln!("round {} of {count}", round + 1);
            for turn in 0..4 {
                let which = (turn + round) % 4;
                all[which].push(match which {
                    0 => run(&server, Pool, load),
                    1 => run(&server, Leases, load),
                    go => run_go(&program, &server, KINDS[go - 2], load),
                });
            }
        }
        let head =
            ["", "calls/s", "calls per CPU s", "ours to that", "connections", "p50 ms", "p99 ms", "failed"];
        let limited = limit.map_or("no limit".to_owned(), |limit| format!("{limit} streams a connection"));
        let mut table = Table::new(&format!("go: {callers} callers, {delay_ms} ms, {limited}"), &head);
        let names = [&*Pool.name(), &*Leases.name(), "grpc-go in a sync.Pool", "go-micro's client, its pool"];
        for (name, outcomes) in names.into_iter().zip(&all) {
            table.row(vec![
                name.to_owned(),
                format!("{:.0}", middle(outcomes, |outcome| outcome.rate)),
                format!("{:.0}", middle(outcomes, |outcome| outcome.per_cpu)),
                format!("{:.2}", ratio(&all[0], outcomes, |outcome| outcome.per_cpu)),
                outcomes.iter().map(|outcome| outcome.connections).max().unwrap_or_default().to_string(),
                format!("{:.2}", middle(outcomes, |outcome| outcome.p50)),
                format!("{:.2}", middle(outcomes, |outcome| outcome.p99)),
                outcomes.iter().map(|outcome| outcome.failed).sum::<u64>().to_string(),
            ]);
        }
        table.print();
        println!("target: >= 1.5 x the calls per CPU second of either: see the column");
    }
}
