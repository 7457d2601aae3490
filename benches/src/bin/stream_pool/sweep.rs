//! Our number of connections beside fixed numbers.

use std::time::Duration;

use cenote_benches::median;
use serde_json::{Value, json};

use crate::contenders::Contender::{self, Fixed, Leases, Pool, Tonic};
use crate::load::{Load, Outcome, run};
use crate::report::{Table, save};
use cenote_benches::cores;
use cenote_benches::server::Server;

/// All contenders in turn, round after round, so that what disturbs the machine disturbs all.
pub(crate) fn rounds(
    server: &Server,
    contenders: &[Contender],
    load: Load,
    rounds: usize,
) -> Vec<Vec<Outcome>> {
    let mut all = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for turn in 0..contenders.len() {
            // Each begins a round once.
            let which = (turn + round) % contenders.len();
            all[which].push(run(server, contenders[which], load));
        }
    }
    all
}

/// The median of what a round's outcome is to that of another in the same round.
pub(crate) fn ratio(ours: &[Outcome], theirs: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    median(ours.iter().zip(theirs).map(|(our, their)| figure(our) / figure(their)).collect())
}

pub(crate) fn middle(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    median(outcomes.iter().map(figure).collect())
}

fn most_connections(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|outcome| outcome.connections).max().unwrap_or_default()
}

/// Prints what has come of each contender, beside the `base`.
pub(crate) fn print(title: &str, contenders: &[Contender], all: &[Vec<Outcome>], base: usize) {
    let head = [
        "",
        "calls/s",
        "to the base's",
        "calls per CPU s",
        "to the base's",
        "with the server's",
        "to the base's",
        "connections",
        "p50 ms",
        "p99 ms",
        "failed",
    ];
    let mut table = Table::new(title, &head);
    for (contender, outcomes) in contenders.iter().zip(all) {
        table.row(vec![
            contender.name(),
            format!("{:.0}", middle(outcomes, |outcome| outcome.rate)),
            format!("{:.3}", ratio(outcomes, &all[base], |outcome| outcome.rate)),
            format!("{:.0}", middle(outcomes, |outcome| outcome.per_cpu)),
            format!("{:.3}", ratio(outcomes, &all[base], |outcome| outcome.per_cpu)),
            format!("{:.0}", middle(outcomes, |outcome| outcome.per_both)),
            format!("{:.3}", ratio(outcomes, &all[base], |outcome| outcome.per_both)),
            most_connections(outcomes).to_string(),
            format!("{:.2}", middle(outcomes, |outcome| outcome.p50)),
            format!("{:.2}", middle(outcomes, |outcome| outcome.p99)),
            outcomes.iter().map(|outcome| outcome.failed).sum::<u64>().to_string(),
        ]);
    }
    table.print();
}

fn best_of(contenders: &[Contender], all: &[Vec<Outcome>]) -> usize {
    let rivals = (0..contenders.len()).filter(|index| matches!(contenders[*index], Tonic(_)));
    let rate = |index: &usize| middle(&all[*index], |outcome| outcome.rate);
    rivals.max_by(|a, b| rate(a).total_cmp(&rate(b))).unwrap_or_default()
}

/// 1,000 callers, a handler of 10 ms, at most 100 streams a connection.
pub(crate) fn sweep(count: usize, time: Duration) {
    let contenders = [Pool, Leases, Tonic(1), Tonic(2), Tonic(4), Tonic(8), Tonic(10), Tonic(16), Tonic(32)];
    let server = Server::start(cores(), Some(100));
    let all = rounds(&server, &contenders, Load { callers: 1000, delay_ms: 10, time }, count);
    let best = best_of(&contenders, &all);
    print("sweep: 1,000 callers, 10 ms, 100 streams a connection", &contenders, &all, best);
    println!(
        "target: >= 0.97 of {}: {:.3}",
        contenders[best].name(),
        ratio(&all[0], &all[best], |outcome| outcome.rate)
    );
    let rows: Vec<Value> = contenders
        .iter()
        .zip(&all)
        .map(|(contender, outcomes)| {
            json!({
                "name": contender.name(),
                "channels": match contender { Tonic(n) => Some(n), _ => None },
                "rate": middle(outcomes, |outcome| outcome.rate),
                "per_cpu": middle(outcomes, |outcome| outcome.per_cpu),
                "connections": most_connections(outcomes),
            })
        })
        .collect();
    save("sweep", &json!(rows));
}

/// Little load: no more connections than it takes, and not slower than one channel.
pub(crate) fn small(count: usize, time: Duration) {
    let contenders = [Pool, Leases, Fixed(1), Fixed(2), Tonic(1), Tonic(2)];
    // The base.
    let one = 4;
    for callers in [100, 1] {
        let server = Server::start(cores(), None);
        let all = rounds(&server, &contenders, Load { callers, delay_ms: 0, time }, count);
        print(&format!("small: {callers} callers, 0 ms, no limit"), &contenders, &all, one);
        println!(
            "target: >= 1.0 x one Channel: {:.3}; connections {}",
            ratio(&all[0], &all[one], |outcome| outcome.rate),
            most_connections(&all[0]),
        );
    }
}

/// How many connections of our own are best, where no limit of the server's decides.
pub(crate) fn ours(count: usize, time: Duration) {
    for (callers, delay_ms, numbers) in
        [(100, 0, &[1, 2, 3, 4, 6][..]), (1000, 0, &[1, 2, 3, 4]), (1000, 10, &[1, 2, 3, 4])]
    {
        let contenders: Vec<_> =
            [Pool].into_iter().chain(numbers.iter().map(|n| Fixed(*n))).chain([Tonic(1)]).collect();
        let server = Server::start(cores(), None);
        let all = rounds(&server, &contenders, Load { callers, delay_ms, time }, count);
        let title = format!("ours: {callers} callers, {delay_ms} ms, no limit");
        print(&title, &contenders, &all, contenders.len() - 1);
    }
}
