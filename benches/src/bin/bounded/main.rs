//! `BoundedPool` beside deadpool, bb8, mobc, sqlx, fast_pool and r2d2: what a get costs when nobody waits, what a handoff costs
//! when many do, how even the waits are, and what a storm of expired waiters leaves.
//!
//! Rounds take turns, and each figure is the median of its rounds. `cargo run --release -p cenote-benches --bin bounded`.

mod pools;

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use cenote_benches::median;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};

use pools::{Bb8, Deadpool, FastPool, Mobc, Ours, Pool, Sqlx, blocking, r2d2};

#[derive(Parser)]
struct Args {
    /// Rounds of each row.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One short round, to see that it runs.
    #[arg(long)]
    quick: bool,
}

/// Nanoseconds a turn.
fn per_turn(turns: u32, run: impl FnOnce()) -> f64 {
    let began = Instant::now();
    run();
    began.elapsed().as_nanos() as f64 / f64::from(turns)
}

async fn uncontended<P: Pool>(pool: P, turns: u32) -> f64 {
    let turns = turns / P::FEWER;
    drop(pool.get().await);
    let began = Instant::now();
    for _ in 0..turns {
        black_box(pool.get().await);
    }
    began.elapsed().as_nanos() as f64 / f64::from(turns)
}

fn work(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// 200 tasks on 10 objects, each lease 100 us of work in four slices: leases a second, and the waits.
async fn many_tasks(pool: impl Pool, time: Duration) -> (f64, Histogram<u64>) {
    let began = Instant::now();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while began.elapsed() < time {
                    let asked = Instant::now();
                    let guard = pool.get().await;
                    waits.push(asked.elapsed());
                    for _ in 0..4 {
                        work(Duration::from_micros(25));
                        tokio::task::yield_now().await;
                    }
                    drop(guard);
                }
                waits
            })
        })
        .collect();
    let mut all = Histogram::new(3).expect("3 digits");
    for task in tasks {
        for wait in task.await.expect("no panic") {
            all.record(wait.as_nanos() as u64).expect("in range");
        }
    }
    (all.len() as f64 / began.elapsed().as_secs_f64(), all)
}

/// 64 threads on 8 objects, each lease 100 us of work.
fn many_threads<G>(get: impl Fn() -> G + Sync, time: Duration) -> (f64, Histogram<u64>) {
    let began = Instant::now();
    let mut all = Histogram::new(3).expect("3 digits");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let mut waits = Vec::new();
                    while began.elapsed() < time {
                        let asked = Instant::now();
                        let guard = get();
                        waits.push(asked.elapsed());
                        work(Duration::from_micros(100));
                        drop(guard);
                    }
                    waits
                })
            })
            .collect();
        for thread in threads {
            for wait in thread.join().expect("no panic") {
                all.record(wait.as_nanos() as u64).expect("in range");
            }
        }
    });
    (all.len() as f64 / began.elapsed().as_secs_f64(), all)
}

/// Nanoseconds for a handoff, on one thread, with so many tasks waiting for one object.
async fn handoff<P: Pool>(pool: P, waiters: usize, handoffs: usize) -> f64 {
    let handoffs = (handoffs / P::FEWER as usize).max(waiters);
    let guard = pool.get().await;
    let tasks: Vec<_> = (0..waiters)
        .map(|_| {
            let pool = pool.clone();
            let turns = handoffs / waiters;
            tokio::spawn(async move {
                for _ in 0..turns {
                    drop(pool.get().await);
                }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let began = Instant::now();
    drop(guard);
    for task in tasks {
        task.await.expect("no panic");
    }
    began.elapsed().as_nanos() as f64 / (handoffs / waiters * waiters) as f64
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn double() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// What came of a storm of getters that cannot all be served, and of those who came after it.
struct Storm {
    /// The part of the work that could be done which was done.
    useful: f64,
    /// How much later than their turn the patient ones were served, the latest of them.
    late: Duration,
}

/// 5,000 getters with deadlines of 20 ms on 4 objects with 10 ms of work each, 200 of them never polled again; then 100 who
/// have time.
async fn storm<P: Pool>(pool: P, time: Duration) -> Storm {
    const WORK: Duration = Duration::from_millis(10);
    const DEADLINE: Duration = Duration::from_millis(20);
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + time;
    let mut unpolled: Vec<_> = (0..200)
        .map(|_| {
            let pool = pool.clone();
            Box::pin(async move { pool.get_within(DEADLINE).await })
        })
        .collect();
    let tasks: Vec<_> = (0..5_000)
        .map(|_| {
            let (pool, done) = (pool.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while Instant::now() < end {
                    if let Some(_guard) = pool.get_within(DEADLINE).await {
                        tokio::time::sleep(WORK).await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for get in &mut unpolled {
        let _ = get.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    // A sleep of 10 ms takes one of the timer's milliseconds more.
    let most = 4.0 * time.as_secs_f64() / (WORK.as_secs_f64() + 1e-3);
    let useful = done.load(Ordering::Relaxed) as f64 / most;

    let began = Instant::now();
    let patient: Vec<_> = (0..100)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let _guard = pool.get_within(Duration::from_secs(5)).await;
                let served = began.elapsed();
                tokio::time::sleep(WORK).await;
                served
            })
        })
        .collect();
    let mut served = Vec::new();
    for task in patient {
        served.push(task.await.expect("no panic"));
    }
    served.sort_unstable();
    let turns = served.iter().enumerate();
    let late = turns
        .map(|(place, served)| served.saturating_sub((WORK + Duration::from_millis(1)) * (place as u32 / 4)));
    let late = late.max().unwrap_or_default();
    drop(unpolled);
    Storm { useful, late }
}

/// The answers of all async contenders to one question, in turn.
macro_rules! ask {
    ($runtime:expr, $size:expr, |$pool:ident| $question:expr) => {
        [
            ask!(one Ours, $runtime, $size, $pool, $question),
            ask!(one Deadpool, $runtime, $size, $pool, $question),
            ask!(one Bb8, $runtime, $size, $pool, $question),
            ask!(one Mobc, $runtime, $size, $pool, $question),
            ask!(one Sqlx, $runtime, $size, $pool, $question),
            ask!(one FastPool, $runtime, $size, $pool, $question),
        ]
    };
    (one $contender:ty, $runtime:expr, $size:expr, $pool:ident, $question:expr) => {{
        let runtime = $runtime;
        runtime.block_on(async {
            let $pool = <$contender as Pool>::make($size).await;
            $question.await
        })
    }};
}

/// The rounds of each contender.
fn transpose<T>(rounds: Vec<[T; 6]>) -> Vec<Vec<T>> {
    let mut of: Vec<Vec<T>> = (0..6).map(|_| Vec::new()).collect();
    for round in rounds {
        for (answers, answer) in of.iter_mut().zip(round) {
            answers.push(answer);
        }
    }
    of
}

fn main() {
    let args = Args::parse();
    let (rounds, turns, time) = match args.quick {
        true => (1, 10_000, Duration::from_millis(100)),
        false => (args.rounds, 1_000_000, Duration::from_secs(2)),
    };
    let few = rounds.min(3);
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["question", "cenote", "deadpool", "bb8", "mobc", "sqlx", "fast_pool", "r2d2"]);
    let nanos = |values: Vec<f64>| format!("{:.0} ns", median(values));
    let mut row = |question: &str, asynchronous: Vec<String>, blocking: &str| {
        let cells = [question.to_owned()].into_iter().chain(asynchronous).chain([blocking.to_owned()]);
        table.add_row(cells.collect::<Vec<_>>());
    };

    let answers = (0..rounds).map(|_| ask!(single(), 4, |pool| uncontended(pool, turns))).collect();
    row("get + drop, async", transpose(answers).into_iter().map(nanos).collect(), "");

    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (own, other) = (blocking(4), r2d2(4));
        mine.push(per_turn(turns, || {
            (0..turns).for_each(|_| drop(black_box(own.get_blocking().expect("an object"))));
        }));
        theirs.push(per_turn(turns, || {
            (0..turns).for_each(|_| drop(black_box(other.get().expect("an object"))))
        }));
    }
    let only_ours = |cell: String| std::iter::once(cell).chain((0..5).map(|_| String::new())).collect();
    row("get + drop, blocking", only_ours(nanos(mine)), &nanos(theirs));

    for waiters in [10, 100, 1_000, 10_000] {
        let handoffs = if args.quick { 10_000 } else { 300_000 };
        let answers =
            (0..rounds).map(|_| ask!(single(), 1, |pool| handoff(pool, waiters, handoffs))).collect();
        let cells = transpose(answers).into_iter().map(nanos).collect();
        row(&format!("handoff, {waiters} waiters"), cells, "");
    }

    let show = |runs: Vec<(f64, Histogram<u64>)>| {
        let rate = median(runs.iter().map(|run| run.0).collect());
        let tail = median(runs.iter().map(|run| run.1.value_at_quantile(0.999) as f64).collect());
        let mean = median(runs.iter().map(|run| run.1.mean()).collect());
        format!("{rate:.0}/s, wait {:.1} ms,\np99.9 {:.1} ms", mean / 1e6, tail / 1e6)
    };
    let answers = (0..few).map(|_| ask!(double(), 10, |pool| many_tasks(pool, time))).collect();
    row("200 tasks, 10 objects", transpose(answers).into_iter().map(show).collect(), "");

    let mut threads = [Vec::new(), Vec::new()];
    for _ in 0..few {
        let (own, other) = (blocking(8), r2d2(8));
        threads[0].push(many_threads(|| own.get_blocking().expect("an object"), time));
        threads[1].push(many_threads(|| other.get().expect("an object"), time));
    }
    let [mine, theirs] = threads.map(show);
    row("64 threads, 8 objects", only_ours(mine), &theirs);

    let long = if args.quick { time } else { Duration::from_secs(10) };
    let answers = vec![ask!(double(), 4, |pool| storm(pool, long))];
    let cells = transpose(answers).into_iter().map(|storms| {
        let Storm { useful, late } = &storms[0];
        format!("{:.0} % useful,\nthen {} ms late", useful * 100.0, late.as_millis())
    });
    row("storm of 5,000 getters", cells.collect(), "");
    println!("{table}");
}
