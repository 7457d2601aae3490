//! What the self-test saw, as a table, and what it says about the library, as a list of checks.

use std::time::{Duration, Instant};

use cenote::Stats;
use cenote::grpc::ClientPoolStats;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use indicatif::HumanCount;

use crate::load::{Outcome, Sample};
use crate::self_test::Outage;

/// The pool's longest pause between two attempts is 1 s; the rest is for the attempt itself and a busy machine.
const RECOVERY: Duration = Duration::from_millis(1200);

/// How many failures are told in full.
const TOLD: usize = 5;

pub struct Report {
    pub samples: Vec<Sample>,
    pub outage: Outage,
    pub broken_gets: u64,
    /// The pool after the load, when no handler had a connection any more.
    pub loaded: ClientPoolStats,
    /// The pool after `clear`.
    pub cleared: ClientPoolStats,
    /// How long the sockets took to close after that; `None` if too long.
    pub closed_in: Option<Duration>,
    pub buffers: Stats,
}

impl Report {
    pub fn table(&self) -> Table {
        let pool = &self.loaded;
        let why = &pool.discarded;
        let latency = self.latency();
        let quantile = |q| format!("{:.2?}", Duration::from_micros(latency.value_at_quantile(q)));
        let count = |n: u64| HumanCount(n).to_string();
        let failed = |outage| self.failures(outage).count() as u64;

        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["", "self-test"]).add_rows([
            ["requests", &count(self.samples.len() as u64)],
            ["failed in the outage", &count(failed(true))],
            ["failed outside of it", &count(failed(false))],
            ["requests a second outside of it", &count(self.rate())],
            ["latency outside of it, p50", &quantile(0.50)],
            ["latency outside of it, p99", &quantile(0.99)],
            ["connections made", &count(pool.made)],
            ["gets that reused one", &count(pool.reused)],
            ["gets that came to share one", &count(pool.shared)],
            ["connections discarded", &count(why.total())],
            ["  at get, TransientFailure", &count(why.get_transient_failure)],
            ["  at get, Shutdown", &count(why.get_shutdown)],
            ["  at put, TransientFailure", &count(why.put_transient_failure)],
            ["  at put, Shutdown", &count(why.put_shutdown)],
            ["connections released", &count(pool.released)],
            ["connections alive", &count(pool.alive)],
            ["sockets open at once, peak", &count(pool.peak_open as u64)],
            ["dials in the outage", &count(self.outage.dials)],
            ["buffers made", &count(self.buffers.made)],
            ["buffers reused", &count(self.buffers.hits)],
        ]);
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// Prints each check; true if all of them hold.
    pub fn verdict(&self) -> bool {
        let Report { loaded, cleared, outage, .. } = self;
        let mut verdict = Verdict { holds: true };

        let mangled: Vec<_> = self.samples.iter().filter_map(mangled).collect();
        verdict.check(mangled.is_empty(), "each answer was whole, and the one to its request");
        tell(&mangled);

        let failed: Vec<_> = self.failures(false).map(|(sample, why)| self.place(sample, why)).collect();
        verdict.check(failed.is_empty(), "no request failed outside of the outage");
        tell(&failed);

        let recovered = outage.over.map(|over| over - outage.restarted);
        let how_long = recovered.map_or("never".to_owned(), |after| format!("{after:.0?} after"));
        verdict.check(
            recovered.is_some_and(|after| after <= RECOVERY),
            &format!("the outage was over within {RECOVERY:?} of the restart ({how_long})"),
        );
        verdict.check(
            self.broken_gets == 0,
            &format!("get handed out no broken connection ({})", self.broken_gets),
        );

        let discarded = loaded.discarded.total();
        verdict.check(
            loaded.made == discarded + loaded.released + loaded.alive,
            &format!(
                "every connection is accounted for: {} made = {discarded} discarded + {} released + {} alive",
                loaded.made, loaded.released, loaded.alive
            ),
        );
        verdict.check(
            loaded.lent == 0,
            &format!("every handle of a connection came back ({} did not)", loaded.lent),
        );
        verdict.check(cleared.alive == 0, &format!("none outlives a clear ({} alive)", cleared.alive));
        let how_long = self.closed_in.map_or("some stayed open".to_owned(), |time| format!("{time:.1?}"));
        verdict.check(
            self.closed_in.is_some(),
            &format!("all sockets closed within a second of it ({how_long})"),
        );

        println!("{}", if verdict.holds { "The self-test passed." } else { "The self-test FAILED." });
        verdict.holds
    }

    /// The failed requests that ran in the outage, if only for a moment, or those that did not.
    fn failures(&self, in_outage: bool) -> impl Iterator<Item = (&Sample, &str)> {
        self.samples.iter().filter_map(move |sample| match &sample.outcome {
            Outcome::Failed(why) if self.in_outage(sample) == in_outage => Some((sample, &**why)),
            _ => None,
        })
    }

    fn in_outage(&self, sample: &Sample) -> bool {
        let Outage { killed, over, .. } = self.outage;
        sample.end >= killed && over.is_none_or(|over| sample.start <= over)
    }

    /// Requests a second before the kill and after the outage, gateway, gRPC server and the load's client together on this machine.
    fn rate(&self) -> u64 {
        let times = |sample: &Sample| [sample.start, sample.end];
        let (first, last) =
            (self.samples.iter().flat_map(times).min(), self.samples.iter().flat_map(times).max());
        let (Some(first), Some(last)) = (first, last) else { return 0 };
        let Outage { killed, over, .. } = self.outage;
        let calm = (last - first).saturating_sub(over.unwrap_or(last) - killed);
        let outside = self.samples.iter().filter(|sample| !self.in_outage(sample)).count();
        (outside as f64 / calm.as_secs_f64()) as u64
    }

    /// In microseconds.
    fn latency(&self) -> Histogram<u64> {
        let mut latency = Histogram::new_with_max(60_000_000, 3).expect("a range of a minute is a valid one");
        for sample in self.samples.iter().filter(|sample| !self.in_outage(sample)) {
            latency.saturating_record((sample.end - sample.start).as_micros() as u64);
        }
        latency
    }

    /// A failure, with its place in time relative to the kill.
    fn place(&self, sample: &Sample, why: &str) -> String {
        let since_kill = |at: Instant| match at.checked_duration_since(self.outage.killed) {
            Some(after) => format!("{after:.1?}"),
            None => format!("-{:.1?}", self.outage.killed - at),
        };
        format!("{} to {} after the kill: {why}", since_kill(sample.start), since_kill(sample.end))
    }
}

fn mangled(sample: &Sample) -> Option<String> {
    match &sample.outcome {
        Outcome::Mangled(what) => Some(what.clone()),
        _ => None,
    }
}

fn tell(lines: &[String]) {
    for line in lines.iter().take(TOLD) {
        println!("    {line}");
    }
    if lines.len() > TOLD {
        println!("    and {} more", lines.len() - TOLD);
    }
}

struct Verdict {
    holds: bool,
}

impl Verdict {
    fn check(&mut self, holds: bool, what: &str) {
        println!("{} {what}", if holds { '✓' } else { '✗' });
        self.holds &= holds;
    }
}
