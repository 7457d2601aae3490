//! What is left of a pool's throughput when 64 threads share two cores?
//!
//! `cargo bench -p cenote-benches --bench oversubscribed`
//!
//! Gets and puts of all threads over wall time, 2 threads and 64 in turn; a round is long enough that each of the 64 has
//! 50 ms of a core. A thread that is preempted in the middle of an operation must not hold the others up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cenote_benches::contenders::{
    Bounded, Cenote, Contender, LockFree, Malloc, MutexVec, ObjectPool, Opool, PoolsharkGlobal,
    PoolsharkLocal, RegexAutomata, ShardedSlab, ThreadLocal,
};
use cenote_benches::median;

const FEW: usize = 2;
const MANY: usize = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(1700);

/// Millions of operations a second, of all threads.
fn throughput<C: Contender>(threads: usize) -> f64 {
    let pool = C::new();
    let ready = AtomicUsize::new(0);
    let start = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let total = AtomicU64::new(0);
    let mut time = Duration::ZERO;
    thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                pool.get_put();
                ready.fetch_add(1, Ordering::Release);
                while !start.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                let mut own = 0;
                while !over.load(Ordering::Relaxed) {
                    (0..64).for_each(|_| pool.get_put());
                    own += 64;
                }
                total.fetch_add(own, Ordering::Relaxed);
            });
        }
        while ready.load(Ordering::Acquire) < threads {
            thread::sleep(Duration::from_millis(1));
        }
        start.store(true, Ordering::Release);
        let from = Instant::now();
        thread::sleep(ROUND);
        over.store(true, Ordering::Relaxed);
        time = from.elapsed();
    });
    total.into_inner() as f64 / time.as_secs_f64() / 1e6
}

fn run<C: Contender>() {
    let (mut few, mut many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        few.push(throughput::<C>(FEW));
        many.push(throughput::<C>(MANY));
        ratios.push(many[many.len() - 1] / few[few.len() - 1]);
    }
    println!("{:<26} {:>11.1} {:>11.1} {:>9.2}", C::NAME, median(few), median(many), median(ratios));
}

fn main() {
    println!("millions of gets and puts a second, medians of {ROUNDS} rounds\n");
    println!("{:<26} {:>11} {:>11} {:>9}", "", "2 threads", "64 threads", "64 / 2");
    run::<Cenote>();
    run::<ThreadLocal>();
    run::<Malloc>();
    run::<MutexVec>();
    run::<Bounded>();
    run::<ObjectPool>();
    run::<Opool>();
    run::<LockFree>();
    run::<RegexAutomata>();
    run::<ShardedSlab>();
    run::<PoolsharkLocal>();
    run::<PoolsharkGlobal>();
}
