//! What callers meet when their database goes away and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::Error;
use crate::outage::Outage;
use crate::store::Store;

const TASKS: usize = 200;
const BEFORE: Duration = Duration::from_secs(2);
const OUTAGE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(8);
/// A caller waits at most 2 s for a connection and 2 s for an answer; the rest is for a machine with much to do.
const STUCK: Duration = Duration::from_secs(6);

/// The parts of the drill.
const PARTS: [&str; 3] = ["before", "outage", "after"];

/// What the callers of one part met.
#[derive(Default)]
struct Part {
    waits: Vec<Duration>,
    failures: BTreeMap<(&'static str, String), usize>,
    stuck: usize,
}

/// What one task met in the parts.
type Seen = [Part; 3];

pub(crate) async fn run(store: Arc<Store>, mut outage: Outage) -> Result<(), Error> {
    let bar = ProgressBar::new((BEFORE + OUTAGE + AFTER).as_millis() as u64);
    bar.set_style(ProgressStyle::with_template("{msg:40} {wide_bar} {elapsed}")?);
    let part = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        tasks.spawn(visit(number, Arc::clone(&store), Arc::clone(&part), start + BEFORE + OUTAGE + AFTER));
    }

    let wait = async |from: Instant, duration: Duration| {
        while from.elapsed() < duration {
            bar.set_position(start.elapsed().as_millis() as u64);
            sleep(Duration::from_millis(50)).await;
        }
    };
    bar.set_message(format!("{TASKS} tasks count visits"));
    wait(Instant::now(), BEFORE).await;
    part.store(1, Ordering::Relaxed);
    bar.set_message(outage.describe());
    let down = Instant::now();
    let mut outage = spawn_blocking(move || outage.begin().map(|()| outage)).await??;
    wait(down, OUTAGE).await;
    let outage = spawn_blocking(move || outage.end().map(|()| outage)).await??;
    part.store(2, Ordering::Relaxed);
    bar.set_message("it is back");
    wait(start, BEFORE + OUTAGE + AFTER).await;
    bar.set_message("the last answers come in");
    let seen = tasks.join_all().await;
    bar.finish_and_clear();

    let verdict = report(&seen);
    println!("{:#?}", store.stats());
    drop(outage);
    verdict
}

/// Counts visits until the end.
async fn visit(number: usize, store: Arc<Store>, part: Arc<AtomicUsize>, end: Instant) -> Seen {
    let mut seen = Seen::default();
    let page = format!("page {}", number % 50);
    while Instant::now() < end {
        // A caller belongs to the part in which it came.
        let met = &mut seen[part.load(Ordering::Relaxed)];
        let start = Instant::now();
        let visit = store.visit(&page).await;
        let wait = start.elapsed();
        met.stuck += usize::from(wait > STUCK);
        match visit {
            Ok(_) => met.waits.push(wait),
            Err(failure) => {
                *met.failures.entry(failure.summary()).or_default() += 1;
                // As a client would, that is told to come again.
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    seen
}

fn report(seen: &[Seen]) -> Result<(), Error> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["part", "counted", "p50", "p99.9", "failed", "stuck", "why"]);
    for (number, name) in PARTS.iter().enumerate() {
        let parts = || seen.iter().map(|seen| &seen[number]);
        let mut waits: Vec<_> = parts().flat_map(|part| part.waits.iter().copied()).collect();
        waits.sort_unstable();
        let quantile = |part: f64| match waits
            .get(((waits.len() as f64 * part) as usize).min(waits.len().saturating_sub(1)))
        {
            Some(wait) => format!("{:.1} ms", wait.as_secs_f64() * 1e3),
            None => "-".to_owned(),
        };
        let mut failures = BTreeMap::<_, usize>::new();
        for (what, count) in parts().flat_map(|part| &part.failures) {
            *failures.entry(what).or_default() += count;
        }
        let why: Vec<_> =
            failures.iter().map(|((what, cause), count)| format!("{count} x {what}: {cause}")).collect();
        table.add_row([
            (*name).to_owned(),
            waits.len().to_string(),
            quantile(0.5),
            quantile(0.999),
            failures.values().sum::<usize>().to_string(),
            parts().map(|part| part.stuck).sum::<usize>().to_string(),
            why.join("\n"),
        ]);
    }
    println!("{table}");
    let stuck: usize = seen.iter().flatten().map(|part| part.stuck).sum();
    let starved = seen.iter().filter(|seen| seen[2].waits.is_empty()).count();
    match (stuck, starved) {
        (0, 0) => Ok(()),
        _ => {
            Err(format!("{stuck} callers were stuck, {starved} tasks were not served after the outage")
                .into())
        }
    }
}
