//! Who did what, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

use crate::verdict::{self, Circumstances};

/// What became of a call.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Ok,
    /// Let go by the caller.
    Dropped,
    Failed(Status),
}

impl Outcome {
    fn name(&self) -> String {
        match self {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Dropped => "dropped".to_owned(),
            Outcome::Failed(status) => format!("{:?}", status.code()),
        }
    }
}

/// Who called, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) source: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) circumstances: Circumstances,
}

#[derive(Default)]
struct Counts {
    calls: BTreeMap<(&'static str, String), u64>,
    faults: BTreeMap<&'static str, u64>,
    /// The last ones, when and where.
    recent: VecDeque<(Instant, &'static str, usize)>,
    /// Calls that a server's leave may have broken off.
    gentle: u64,
    /// Those that it did break off.
    broken: u64,
    /// Each once, as often as it happened.
    causes: BTreeMap<String, u64>,
    violations: Vec<String>,
    latest: Duration,
}

#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

/// How long a fault is told of beside a violation.
const NEAR: Duration = Duration::from_secs(5);

/// Of the calls that a server's leave may break off, one in so many may be: it is a matter of microseconds.
const ONE_BROKEN_IN: u64 = 1000;

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fault(&self, kind: &'static str, place: usize) {
        let mut counts = self.counts();
        *counts.faults.entry(kind).or_default() += 1;
        counts.recent.push_back((Instant::now(), kind, place));
        if counts.recent.len() > 100 {
            counts.recent.pop_front();
        }
    }

    /// `late`: by how much the call ended after its deadline.
    pub(crate) fn call(&self, call: Call, outcome: &Outcome, late: Duration) {
        let Call { source, kind, circumstances } = call;
        let mut counts = self.counts();
        counts.latest = counts.latest.max(late);
        counts.gentle += u64::from(circumstances.gentle);
        for row in [source, kind] {
            *counts.calls.entry((row, outcome.name())).or_default() += 1;
        }
        let Outcome::Failed(status) = outcome else { return };
        // Without the ports and numbers, which would make each its own kind.
        let text: String = status.message().chars().filter(|c| !c.is_ascii_digit()).collect();
        *counts.causes.entry(format!("{:?}: {text}", status.code())).or_default() += 1;
        let undecided = kind.starts_with("chat") && verdict::gave_up_undecided(status);
        counts.broken += u64::from(circumstances.gentle && (undecided || verdict::socket_broke(status)));
        drop(counts);
        if let Some(wrong) = verdict::wrong(status, circumstances).filter(|_| !undecided) {
            self.violation(format!("{source}, {kind}: {wrong}: {status:?}"));
        }
    }

    pub(crate) fn violation(&self, text: String) {
        let mut counts = self.counts();
        let near: Vec<_> = counts.recent.iter().rev().take_while(|(at, ..)| at.elapsed() < NEAR).collect();
        let near = near.iter().map(|(at, kind, place)| {
            format!("{:.2} s ago at server {place}: {kind}", at.elapsed().as_secs_f64())
        });
        let near: Vec<_> = near.collect();
        let text = format!(
            "{text}; faults near: {}",
            if near.is_empty() { "none".to_owned() } else { near.join(", ") }
        );
        eprintln!("VIOLATION {text}");
        counts.violations.push(text);
    }

    pub(crate) fn calls(&self) -> u64 {
        // Each is counted for its source and for its kind.
        self.counts().calls.values().sum::<u64>() / 2
    }

    /// Prints all; true if nothing is wrong.
    pub(crate) fn print(&self) -> bool {
        self.weigh_broken();
        let counts = self.counts();
        let outcomes: std::collections::BTreeSet<_> =
            counts.calls.keys().map(|(_, outcome)| outcome.as_str()).collect();
        print!("\n| {:<28} |", "calls");
        outcomes.iter().for_each(|outcome| print!(" {outcome:>16} |"));
        println!();
        let rows: std::collections::BTreeSet<_> = counts.calls.keys().map(|(row, _)| *row).collect();
        for row in rows {
            print!("| {row:<28} |");
            for outcome in &outcomes {
                let count = counts.calls.get(&(row, (*outcome).to_owned()));
                print!(" {:>16} |", count.copied().unwrap_or(0));
            }
            println!();
        }
        println!("\n| {:<32} | {:>6} |", "faults", "");
        for (kind, count) in &counts.faults {
            println!("| {kind:<32} | {count:>6} |");
        }
        println!("\nwhat failed calls were told:");
        for (cause, count) in &counts.causes {
            println!("{count:>8} {cause}");
        }
        println!("\nthe call that ended latest was {:?} behind its deadline", counts.latest);
        println!("{} of {} calls were broken off by a server that took leave", counts.broken, counts.gentle);
        println!("{} violations", counts.violations.len());
        for text in counts.violations.iter().take(50) {
            println!("  {text}");
        }
        counts.violations.is_empty()
    }

    fn weigh_broken(&self) {
        let Counts { gentle, broken, .. } = *self.counts();
        if broken > 5 + gentle / ONE_BROKEN_IN {
            self.violation(format!("{broken} of {gentle} calls were broken off by servers that took leave"));
        }
    }
}
