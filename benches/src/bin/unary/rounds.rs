//! Rounds of two contenders that take turns, and what their neighbors' ratios say.

use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cenote_benches::cpu_time;
use tokio::runtime::Runtime;

use crate::{Caller, Options, count};

/// Whether callers are to begin no call any more.
static IS_OVER: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_over() -> bool {
    IS_OVER.load(Ordering::Relaxed)
}

/// The median of ratios, and their quartiles.
pub(crate) struct Ratios([f64; 3]);

impl Ratios {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        Ratios([1, 2, 3].map(|quarter| all[(all.len() * quarter / 4).min(all.len() - 1)]))
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, median, high] = self.0;
        write!(f, "{median:.2} [{low:.2}, {high:.2}]")
    }
}

pub(crate) struct Compared {
    pub(crate) calls: Ratios,
    pub(crate) by_cpu: Ratios,
    /// The bare channel's calls per second, the median.
    pub(crate) bare: f64,
    /// Allocations and bytes a call, of the bare channel and of the contender.
    pub(crate) counted: [(f64, f64); 2],
}

/// Calls per second, and per CPU-second of this process.
struct Rates {
    by_time: f64,
    by_cpu: f64,
}

pub(crate) fn compare(
    runtime: &Runtime,
    callers: usize,
    options: &Options,
    bare: &Caller,
    contender: &Caller,
) -> Compared {
    let both = [bare, contender];
    // Whoever must connect does so here.
    for caller in both {
        run(runtime, callers, options.round, caller);
    }
    let pairs = in_turns(options.rounds, |which| {
        let (begin, cpu) = (Instant::now(), cpu_time());
        let calls = run(runtime, callers, options.round, both[which]) as f64;
        Rates {
            by_time: calls / begin.elapsed().as_secs_f64(),
            by_cpu: calls / (cpu_time() - cpu).as_secs_f64(),
        }
    });
    let ratios = |rate: fn(&Rates) -> f64| Ratios::of(pairs.iter().map(|[a, b]| rate(b) / rate(a)).collect());
    Compared {
        calls: ratios(|rates| rates.by_time),
        by_cpu: ratios(|rates| rates.by_cpu),
        bare: Ratios::of(pairs.iter().map(|[a, _]| a.by_time).collect()).0[1],
        counted: both.map(|caller| {
            let (calls, allocations, bytes) =
                count::counted(|| run(runtime, callers, options.round, caller) as f64);
            (allocations as f64 / calls, bytes as f64 / calls)
        }),
    }
}

/// `rounds` pairs: 0 first in one, 1 first in the next.
fn in_turns<R>(rounds: usize, mut round: impl FnMut(usize) -> R) -> Vec<[R; 2]> {
    let pair = |number| {
        if number % 2 == 0 {
            [0, 1].map(&mut round)
        } else {
            let [b, a] = [1, 0].map(&mut round);
            [a, b]
        }
    };
    (0..rounds).map(pair).collect()
}

/// How many calls `callers` make side by side in this time.
fn run(runtime: &Runtime, callers: usize, time: Duration, caller: &Caller) -> u64 {
    IS_OVER.store(false, Ordering::Relaxed);
    let tasks: Vec<_> = (0..callers).map(|_| runtime.spawn(caller())).collect();
    std::thread::sleep(time);
    IS_OVER.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        let mut calls = 0;
        for task in tasks {
            calls += task.await.expect("a caller does not panic");
        }
        calls
    })
}

/// How much longer `b` takes than `a` on each of `threads` at once, and how long that is, in nanoseconds.
pub(crate) fn compare_loops(
    rounds: usize,
    threads: usize,
    a: impl Fn() + Sync,
    b: impl Fn() + Sync,
) -> (Ratios, f64) {
    const TURNS: u32 = 200_000;
    fn time(threads: usize, turn: &(impl Fn() + Sync)) -> f64 {
        let barrier = Barrier::new(threads);
        let loops = || {
            barrier.wait();
            let begin = Instant::now();
            (0..TURNS).for_each(|_| turn());
            begin.elapsed().as_nanos() as f64 / f64::from(TURNS)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(loops)).collect();
            let own = loops();
            others.into_iter().map(|other| other.join().expect("it does not panic")).fold(own, f64::max)
        })
    }
    let pairs = in_turns(rounds, |which| if which == 0 { time(threads, &a) } else { time(threads, &b) });
    let ratio = Ratios::of(pairs.iter().map(|[a, b]| b / a).collect());
    (ratio, Ratios::of(pairs.iter().map(|[_, b]| *b).collect()).0[1])
}
