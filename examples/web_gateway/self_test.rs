//! The self-test: load on the gateway, and in the middle of it the gRPC server is killed and comes back.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cenote::grpc::{get_client, init_client};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::greeter::Greeter;
use crate::load::Load;
use crate::report::Report;
use crate::{ANY_PORT, BoxError, gateway, page};

/// How long the gRPC server stays dead.
const DOWN: Duration = Duration::from_millis(1500);

/// How long the outage may last after the restart, before the test no longer waits for its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the sockets may take to close when the pool has let go of its connections.
const CLOSING: Duration = Duration::from_secs(1);

/// The time in which a request may fail: from the kill to the first connection that came about after the restart.
pub struct Outage {
    pub killed: Instant,
    pub restarted: Instant,
    /// `None` if there was no connection within `PATIENCE`.
    pub over: Option<Instant>,
    /// Attempts to connect from the kill to the restart.
    pub dials: u64,
}

pub async fn run(requests: u64, exclusive: bool) -> Result<ExitCode, BoxError> {
    let mut greeter = Greeter::start(ANY_PORT)?;
    init_client(crate::pool(&greeter.target(), exclusive)?)?;
    let listener = TcpListener::bind(ANY_PORT).await?;
    let http = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, gateway::router()).into_future());

    println!("{requests} requests to http://{http}/hello/…, gRPC server at {}", greeter.target());
    let load = Load::start(http, requests, progress_bar(requests)?);
    load.done(requests / 3).await;
    let outage = outage(&mut greeter, &load.bar).await?;
    let samples = load.finish().await;

    let loaded = get_client().stats();
    get_client().clear();
    let cleared = get_client().stats();
    let closed_in = sockets_closed().await;

    let report = Report {
        samples,
        outage,
        broken_gets: gateway::BROKEN_GETS.load(Ordering::Relaxed),
        loaded,
        cleared,
        closed_in,
        buffers: page::BUFFERS.stats(),
    };
    println!("{}", report.table());
    Ok(if report.verdict() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn outage(greeter: &mut Greeter, bar: &ProgressBar) -> Result<Outage, BoxError> {
    let say = |text: &str| {
        let done = bar.position(); // not inside: it takes the bar's lock, which `suspend` holds
        bar.suspend(|| println!("{done:>7} requests done: {text}"));
    };

    let dials_before = get_client().stats().dials;
    let killed = Instant::now();
    greeter.kill();
    say("the gRPC server is killed");
    sleep(DOWN).await;

    let dials = get_client().stats().dials - dials_before;
    let restarted = Instant::now();
    greeter.restart().map_err(|error| format!("cannot restart the gRPC server: {error}"))?;
    say("the gRPC server is back");

    // A dead server leaves no socket open, so one that is open now is new. `dials - failed_dials` would not do: an
    // attempt that is under way, and will fail, counts in it like one that succeeded.
    let over = loop {
        if get_client().stats().open > 0 {
            break Some(Instant::now());
        }
        if restarted.elapsed() > PATIENCE {
            break None;
        }
        sleep(Duration::from_millis(1)).await;
    };
    if over.is_some() {
        say("the pool has found it");
    }
    Ok(Outage { killed, restarted, over, dials })
}

/// How long it took until the pool had no socket open; `None` if it was longer than it may be.
async fn sockets_closed() -> Option<Duration> {
    let start = Instant::now();
    while get_client().stats().open > 0 {
        if start.elapsed() > CLOSING {
            return None;
        }
        sleep(Duration::from_millis(1)).await;
    }
    Some(start.elapsed())
}

fn progress_bar(requests: u64) -> Result<ProgressBar, BoxError> {
    // Two streams, one terminal: in a log or a pipe the bar would be noise.
    if !std::io::stdout().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len}, {per_sec}")?;
    Ok(ProgressBar::new(requests).with_style(style))
}
