//! Who did what, and what came of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::{Code, Status};

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

#[derive(Default)]
struct Counts {
    calls: BTreeMap<(&'static str, String), u64>,
    faults: BTreeMap<&'static str, u64>,
    /// Each once, as often as it happened.
    causes: BTreeMap<String, u64>,
    violations: Vec<String>,
    latest: Duration,
}

#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

/// What a loss of the connection, a server that is not there and a deadline may end in. `Cancelled` is what tonic's
/// server says of a deadline that it sees first. Anything else no fault here explains.
const ALLOWED: [Code; 3] = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        *self.counts().faults.entry(kind).or_default() += 1;
    }

    /// `late`: by how much the call ended after its deadline.
    pub(crate) fn call(&self, source: &'static str, kind: &'static str, outcome: &Outcome, late: Duration) {
        let mut counts = self.counts();
        counts.latest = counts.latest.max(late);
        for row in [source, kind] {
            *counts.calls.entry((row, outcome.name())).or_default() += 1;
        }
        if let Outcome::Failed(status) = outcome {
            // Without the ports and numbers, which would make each its own kind.
            let text: String = status.message().chars().filter(|c| !c.is_ascii_digit()).collect();
            *counts.causes.entry(format!("{:?}: {text}", status.code())).or_default() += 1;
            if !ALLOWED.contains(&status.code()) {
                let text = format!("{source}, {kind}: {status:?}");
                counts.violations.push(text);
            }
        }
    }

    pub(crate) fn violation(&self, text: String) {
        eprintln!("VIOLATION {text}");
        self.counts().violations.push(text);
    }

    pub(crate) fn calls(&self) -> u64 {
        // Each is counted for its source and for its kind.
        self.counts().calls.values().sum::<u64>() / 2
    }

    /// Prints all; true if nothing is wrong.
    pub(crate) fn print(&self) -> bool {
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
        println!("{} violations", counts.violations.len());
        for text in counts.violations.iter().take(50) {
            println!("  {text}");
        }
        counts.violations.is_empty()
    }
}
