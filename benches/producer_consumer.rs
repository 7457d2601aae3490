//! What does the pool add when one thread takes objects and another puts them back?
//!
//! `cargo bench -p cenote-benches --bench producer_consumer`
//!
//! The objects travel over a bounded channel, 64 a message, or else the channel's own cost and its swings would hide the
//! pool's. The pool's share is the wall time of an object with the pool, less that of a channel whose messages, of the same
//! size, are empty. And: how many objects are made anew, once the flow is steady?

use cenote_benches::flow::{BATCH, Channel, Crossbeam, Std, channel_alone, through};
use cenote_benches::holders::{Bounded, Cenote, Holder, MutexVec, ObjectPool, ThreadLocal, Unbounded};
use cenote_benches::median;

const MESSAGES: usize = 30_000;
const ROUNDS: usize = 15;

fn run<C: Channel, H: Holder>() {
    let (mut with, mut without, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(channel_alone::<C>(MESSAGES));
        let (time, misses) = through::<C, H>(MESSAGES);
        with.push(time);
        made.push(misses);
    }
    let (with, without) = (least(with), least(without));
    println!("{:<26} {without:>9.1} {with:>9.1} {:>9.1} {:>11.3}", H::NAME, with - without, median(made));
}

fn least(figures: Vec<f64>) -> f64 {
    figures.into_iter().fold(f64::INFINITY, f64::min)
}

fn table<C: Channel>() {
    println!("{}, {BATCH} objects a message; ns an object, the least of {ROUNDS} rounds\n", C::NAME);
    println!("{:<26} {:>9} {:>9} {:>9} {:>11}", "", "alone", "with", "share", "made / 1000");
    run::<C, Cenote>();
    run::<C, ThreadLocal>();
    run::<C, MutexVec>();
    run::<C, Bounded>();
    run::<C, Unbounded>();
    run::<C, ObjectPool>();
    println!();
}

fn main() {
    table::<Std>();
    table::<Crossbeam>();
}
