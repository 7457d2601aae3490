//! How does the pool stand beside Go's, in the same minutes on the same machine?
//!
//! `cargo run --release -p cenote-benches --bin beside_go`
//!
//! Runs the benchmarks of `sync.Pool` that come with an installed Go (`$GO`, or `go` on the path), and the same done to
//! this crate's pool, in turn, and prints the best of each. All times are those of one thread: what Go reports for two
//! at once is divided among them, and is multiplied here. `BenchmarkPoolSTW` measures the pauses of a garbage collector and has
//! no counterpart.

use std::collections::HashMap;
use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use cenote_benches::contenders::{self, Contender};
use cenote_benches::expensive::expensive_new;
use cenote_benches::holders::{self, Holder};
use cenote_benches::{bursts, date, machine, wall_time};

const ROUNDS: usize = 5;
/// How long one of ours runs in a round.
const TIME: Duration = Duration::from_millis(300);

/// The least of each figure, by the name of the benchmark and the number of threads.
#[derive(Default)]
struct Figures(HashMap<(String, usize), f64>);

impl Figures {
    fn note(&mut self, name: &str, threads: usize, figure: f64) {
        let least = self.0.entry((name.to_owned(), threads)).or_insert(f64::INFINITY);
        *least = least.min(figure);
    }

    fn get(&self, name: &str, threads: usize) -> f64 {
        self.0.get(&(name.to_owned(), threads)).copied().unwrap_or(f64::NAN)
    }
}

fn go() -> Option<String> {
    let usual = "/usr/local/go/bin/go";
    let mut places = env::var("GO").into_iter().chain(["go".to_owned(), usual.to_owned()]);
    places.find(|go| Command::new(go).arg("version").output().is_ok_and(|answer| answer.status.success()))
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// A line reads `BenchmarkPool-2  91904062  6.025 ns/op`, and after it there may be further figures with their units.
fn read_go(report: &str, figures: &mut Figures) {
    for line in report.lines().filter(|line| line.starts_with("BenchmarkPool")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, threads) = words[0].rsplit_once('-').unwrap_or((words[0], "1"));
        let threads: usize = threads.parse().unwrap_or(1);
        for pair in words.get(2..).unwrap_or_default().chunks_exact(2) {
            let Ok(figure) = pair[0].parse::<f64>() else { continue };
            match pair[1] {
                "ns/op" => figures.note(name, threads, figure * threads as f64),
                "New/op" => figures.note(&format!("{name}, New"), threads, figure),
                _ => {}
            }
        }
    }
}

/// ns a turn, of as many turns as take about [`TIME`].
fn time(threads: usize, turn: &(impl Fn() + Sync)) -> f64 {
    let trial = 2_000;
    let each = wall_time(threads, trial, turn).as_nanos() as u64 / trial;
    let turns = TIME.as_nanos() as u64 / each.max(1);
    wall_time(threads, turns, turn).as_nanos() as f64 / turns as f64
}

fn measure_ours(figures: &mut Figures) {
    for threads in [1, 2] {
        let guarded = contenders::Cenote::new();
        figures.note("guard", threads, time(threads, &|| guarded.get_put()));
        let pool = holders::Cenote::new();
        figures.note("pair", threads, time(threads, &|| bursts::pair(&pool)));
        let pool = holders::Cenote::new();
        figures.note("overflow", threads, time(threads, &|| bursts::overflow(&pool)));
        let pool = holders::Cenote::new();
        figures.note("starvation", threads, time(threads, &|| bursts::starvation(&pool)));
        let outcome = expensive_new::<cenote_benches::Cenote>(threads, 32 << 10, TIME);
        figures.note("expensive", threads, outcome.made_per_operation());
    }
}

fn main() -> ExitCode {
    let Some(go) = go() else {
        eprintln!("no Go found: put it on the path, or name it in $GO");
        return ExitCode::FAILURE;
    };
    let (mut theirs, mut ours) = (Figures::default(), Figures::default());
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let only = "^BenchmarkPool(Overflow|Starvation|ExpensiveNew)?$";
        let arguments = ["test", "-run", "xxx", "-bench", only, "-cpu", "1,2", "-benchtime", "300ms", "sync"];
        read_go(&output(&go, &arguments), &mut theirs);
        measure_ours(&mut ours);
    }
    let rustc = output("rustc", &["--version"]);
    println!(
        "{}; {}; {}; {rustc}; best of {ROUNDS}\n",
        machine(),
        date(SystemTime::now()),
        output(&go, &["version"]),
    );
    println!("{:<40} {:>7} {:>10} {:>10} {:>7} {:>8}", "", "threads", "Go", "cenote", "ratio", "target");
    let rows = [
        ("get and put with the guard, ns", "BenchmarkPool", "guard", "0.27", ""),
        ("put and take, ns", "BenchmarkPool", "pair", "", ""),
        ("100 puts, 100 takes, ns", "BenchmarkPoolOverflow", "overflow", "0.50", "0.50"),
        ("67 puts, 100 takes, ns", "BenchmarkPoolStarvation", "starvation", "0.50", "0.50"),
    ];
    for (question, their, our, alone, two) in rows {
        for (threads, target) in [(1, alone), (2, two)] {
            let (their, our) = (theirs.get(their, threads), ours.get(our, threads));
            println!(
                "{question:<40} {threads:>7} {their:>10.1} {our:>10.1} {:>7.2} {target:>8}",
                our / their
            );
        }
    }
    for threads in [1, 2] {
        println!(
            "{:<40} {threads:>7} {:>10.4} {:>10.4} {:>7} {:>8}",
            "objects made an operation, slow factory",
            theirs.get("BenchmarkPoolExpensiveNew, New", threads),
            ours.get("expensive", threads),
            "",
            "<= 0.02",
        );
    }
    ExitCode::SUCCESS
}
