//! `BoundedPool` beside deadpool, bb8 and r2d2: what a get costs when nobody waits, what a handoff costs when many do, and how
//! even the waits are.
//!
//! All pools hold objects of 64 bytes that cost nothing to make, and neither check nor reset them. Rounds take turns, and
//! each figure is the median of its rounds. `cargo run --release -p cenote-benches --bin bounded`.

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::time::{Duration, Instant};

use cenote::bounded::{BoundedPool, FromFn, Lease, Manager, from_fn};
use clap::Parser;
use comfy_table::Table;
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};

#[derive(Parser)]
struct Args {
    /// Rounds of each row.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One short round, to see that it runs.
    #[arg(long)]
    quick: bool,
}

type Object = [u64; 8];

/// What is asked of a pool in an async row.
trait Pool: Clone + Send + Sync + 'static {
    type Guard: Send;
    fn get(&self) -> impl Future<Output = Self::Guard> + Send;
}

trait Make: Manager<Object = Object, Error = Infallible> {}
impl<M: Manager<Object = Object, Error = Infallible>> Make for M {}

struct Ours<M: Make>(BoundedPool<M>);

impl<M: Make> Clone for Ours<M> {
    fn clone(&self) -> Self {
        Ours(self.0.clone())
    }
}

impl<M: Make> Pool for Ours<M> {
    type Guard = Lease<M>;
    async fn get(&self) -> Lease<M> {
        self.0.get().await.expect("an object")
    }
}

fn ours(size: usize) -> Ours<impl Make> {
    let manager = from_fn(|| async { Ok::<Object, Infallible>([0; 8]) });
    Ours(BoundedPool::builder(manager).max_size(size).build().expect("a pool"))
}

struct ForDeadpool;

impl deadpool::managed::Manager for ForDeadpool {
    type Type = Object;
    type Error = Infallible;
    async fn create(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    async fn recycle(
        &self,
        _: &mut Object,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Infallible> {
        Ok(())
    }
}

impl Pool for deadpool::managed::Pool<ForDeadpool> {
    type Guard = deadpool::managed::Object<ForDeadpool>;
    async fn get(&self) -> Self::Guard {
        deadpool::managed::Pool::get(self).await.expect("an object")
    }
}

fn deadpool(size: usize) -> deadpool::managed::Pool<ForDeadpool> {
    deadpool::managed::Pool::builder(ForDeadpool).max_size(size).build().expect("a pool")
}

struct ForBb8;

impl bb8::ManageConnection for ForBb8 {
    type Connection = Object;
    type Error = Infallible;
    async fn connect(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    async fn is_valid(&self, _: &mut Object) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut Object) -> bool {
        false
    }
}

impl Pool for bb8::Pool<ForBb8> {
    type Guard = bb8::PooledConnection<'static, ForBb8>;
    async fn get(&self) -> Self::Guard {
        self.get_owned().await.expect("an object")
    }
}

async fn bb8(size: usize) -> bb8::Pool<ForBb8> {
    bb8::Pool::builder().max_size(size as u32).test_on_check_out(false).build(ForBb8).await.expect("a pool")
}

struct ForR2d2;

impl r2d2::ManageConnection for ForR2d2 {
    type Connection = Object;
    type Error = Infallible;
    fn connect(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    fn is_valid(&self, _: &mut Object) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut Object) -> bool {
        false
    }
}

fn r2d2(size: usize) -> r2d2::Pool<ForR2d2> {
    r2d2::Pool::builder().max_size(size as u32).test_on_check_out(false).build(ForR2d2).expect("a pool")
}

type Blocking = cenote::bounded::Blocking<FromFn<fn() -> Result<Object, Infallible>>>;

fn blocking(size: usize) -> BoundedPool<Blocking> {
    fn make() -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    let manager = cenote::bounded::from_blocking_fn(make as fn() -> Result<Object, Infallible>);
    let pool = BoundedPool::builder(manager).max_size(size).build().expect("a pool");
    // The first return finds out that there is no reset.
    drop(pool.get_blocking().expect("an object"));
    drop(pool.get_blocking().expect("an object"));
    pool
}

/// Nanoseconds a turn.
fn per_turn(turns: u32, run: impl FnOnce()) -> f64 {
    let began = Instant::now();
    run();
    began.elapsed().as_nanos() as f64 / f64::from(turns)
}

async fn uncontended(pool: impl Pool, turns: u32) -> f64 {
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
async fn handoff(pool: impl Pool, waiters: usize, handoffs: usize) -> f64 {
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn double() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn main() {
    let args = Args::parse();
    let (rounds, turns, time) = match args.quick {
        true => (1, 10_000, Duration::from_millis(100)),
        false => (args.rounds, 1_000_000, Duration::from_secs(2)),
    };
    let mut table = Table::new();
    table.set_header(["question", "cenote", "deadpool", "bb8", "r2d2"]);

    let mut of = [Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let runtime = single();
        of[0].push(runtime.block_on(async { uncontended(ours(4), turns).await }));
        of[1].push(runtime.block_on(async { uncontended(deadpool(4), turns).await }));
        of[2].push(runtime.block_on(async { uncontended(bb8(4).await, turns).await }));
        let (mine, theirs) = (blocking(4), r2d2(4));
        of[3].push(per_turn(turns, || {
            (0..turns).for_each(|_| drop(black_box(mine.get_blocking().expect("an object"))));
        }));
        of[4].push(per_turn(turns, || {
            (0..turns).for_each(|_| drop(black_box(theirs.get().expect("an object"))))
        }));
    }
    let [a, b, c, d, e] = of.map(|values| format!("{:.0} ns", median(values)));
    table.add_row(["get + drop, async", &a, &b, &c, ""]);
    table.add_row(["get + drop, blocking", &d, "", "", &e]);

    for waiters in [10, 100, 1_000, 10_000] {
        let mut of = [Vec::new(), Vec::new(), Vec::new()];
        let handoffs = if args.quick { 10_000 } else { 300_000 };
        for _ in 0..rounds {
            let runtime = single();
            of[0].push(runtime.block_on(async { handoff(ours(1), waiters, handoffs).await }));
            of[1].push(runtime.block_on(async { handoff(deadpool(1), waiters, handoffs).await }));
            of[2].push(runtime.block_on(async { handoff(bb8(1).await, waiters, handoffs).await }));
        }
        let [a, b, c] = of.map(|values| format!("{:.0} ns", median(values)));
        table.add_row([&format!("handoff, {waiters} waiters"), &a, &b, &c, ""]);
    }

    let mut of = [Vec::new(), Vec::new(), Vec::new()];
    let mut threads = [Vec::new(), Vec::new()];
    for _ in 0..rounds.min(3) {
        let runtime = double();
        of[0].push(runtime.block_on(async { many_tasks(ours(10), time).await }));
        of[1].push(runtime.block_on(async { many_tasks(deadpool(10), time).await }));
        of[2].push(runtime.block_on(async { many_tasks(bb8(10).await, time).await }));
        drop(runtime);
        let (mine, theirs) = (blocking(8), r2d2(8));
        threads[0].push(many_threads(|| mine.get_blocking().expect("an object"), time));
        threads[1].push(many_threads(|| theirs.get().expect("an object"), time));
    }
    let show = |runs: Vec<(f64, Histogram<u64>)>| {
        let rate = median(runs.iter().map(|run| run.0).collect());
        let tail = median(runs.iter().map(|run| run.1.value_at_quantile(0.999) as f64).collect());
        let mean = median(runs.iter().map(|run| run.1.mean()).collect());
        format!("{rate:.0}/s, wait {:.1} ms, p99.9 {:.1}", mean / 1e6, tail / 1e6)
    };
    let [a, b, c] = of.map(show);
    table.add_row(["200 tasks, 10 objects", &a, &b, &c, ""]);
    let [a, b] = threads.map(show);
    table.add_row(["64 threads, 8 objects", &a, "", "", &b]);
    println!("{table}");
}
