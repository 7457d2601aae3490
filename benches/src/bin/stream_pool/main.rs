//! How does a `StreamPool` stand beside tonic's channels, and beside the Go originals?
//!
//! `cargo run --release -p cenote-benches --bin stream_pool -- [QUESTION...] [--rounds N] [--seconds S]`
//!
//! * `sweep`: 1,000 callers of a handler that takes 10 ms, 100 streams a connection: our number of connections beside fixed ones;
//! * `small`: 100 callers and 1 of a handler that takes no time: not slower than one channel, on few connections;
//! * `ours`: how many connections of ours are best where the server sets no limit;
//! * `steps`: 10, 1,000, 10 callers: the latency, and the connections over time;
//! * `lease`: a get and drop, without a call;
//! * `kill`: one of three servers dies;
//! * `go`: the same load by grpc-go with a `sync.Pool`, and by go-micro's pool, where there is a Go;
//! * `all`, or nothing: all of them.
//!
//! The server is a process of its own on the same cores. Contenders take turns within a round, and ratios are medians over the
//! rounds. `bin/plot_stream_pool.rs` draws what `sweep` and `steps` leave under `target/stream_pool`.

mod contenders;
mod go;
mod kill;
mod lease;
mod load;
mod report;
mod steps;
mod sweep;

use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use cenote_benches::server::serve_if_asked;
use cenote_benches::{date, machine};

type Question = fn(usize, Duration);

const QUESTIONS: [(&str, Question); 7] = [
    ("sweep", sweep::sweep),
    ("small", sweep::small),
    ("ours", sweep::ours),
    ("steps", steps::steps),
    ("lease", lease::lease),
    ("kill", kill::kill),
    ("go", go::go),
];

fn main() -> ExitCode {
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    let mut arguments = std::env::args().skip(1);
    let (mut rounds, mut time, mut asked) = (5, Duration::from_secs(2), Vec::new());
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse::<f64>().ok());
        match (&*argument, QUESTIONS.iter().find(|(name, _)| *name == argument)) {
            ("--rounds", _) => rounds = number().map_or(rounds, |number| number as usize).max(1),
            ("--seconds", _) => time = number().map_or(time, Duration::from_secs_f64),
            ("all", _) => asked.extend(QUESTIONS),
            (_, Some(question)) => asked.push(*question),
            (unknown, None) => {
                eprintln!("{unknown}? see the head of benches/src/bin/stream_pool/main.rs");
                return ExitCode::FAILURE;
            }
        }
    }
    if asked.is_empty() {
        asked.extend(QUESTIONS);
    }
    println!("{}; {}; {rounds} rounds of {time:?}", date(SystemTime::now()), machine());
    for (name, question) in asked {
        eprintln!("{name}: {}", uptime());
        question(rounds, time);
    }
    println!("{}", uptime());
    ExitCode::SUCCESS
}

/// How busy the machine is, for whoever reads the figures.
fn uptime() -> String {
    let output = Command::new("uptime").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
