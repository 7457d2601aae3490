//! What is left of a pool's throughput when 64 threads share two cores?
//!
//! `cargo bench -p cenote-benches --bench oversubscribed`
//!
//! Gets and puts of all threads over wall time, 2 threads and 64 in turn; a round is long enough that each of the 64 has
//! 50 ms of a core. A thread that is preempted in the middle of an operation must not hold the others up.

use std::time::Duration;

use cenote_benches::contenders::{
    Bounded, Cenote, Contender, LockFree, Malloc, MutexVec, ObjectPool, Opool, PoolsharkGlobal,
    PoolsharkLocal, RegexAutomata, ShardedSlab, ThreadLocal,
};
use cenote_benches::{median, throughput};

const FEW: usize = 2;
const MANY: usize = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(1700);

/// Millions of operations a second, of all threads.
fn millions<C: Contender>(threads: usize) -> f64 {
    let pool = C::new();
    throughput(threads, ROUND, &|| pool.get_put()) / 1e6
}

fn run<C: Contender>() {
    let (mut few, mut many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        few.push(millions::<C>(FEW));
        many.push(millions::<C>(MANY));
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
