//! What does the pool add when one thread takes objects and another puts them back?
//!
//! `cargo bench -p cenote-benches --bench producer_consumer`
//!
//! The objects travel over a bounded channel, 64 a message, or else the channel's own cost and its swings would hide the
//! pool's. The pool's share is the wall time of an object with the pool, less that of a channel whose messages, of the same
//! size, are empty. And: how many objects are made anew, once the flow is steady?

use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use cenote_benches::holders::{
    Bounded, Cenote, Holder, MutexVec, Object, ObjectPool, ThreadLocal, Unbounded, make,
};
use cenote_benches::median;

const BATCH: usize = 64;
/// Messages.
const WARM_UP: usize = 2_000;
const MESSAGES: usize = 30_000;
const ROUNDS: usize = 15;
/// How many messages a channel has room for.
const DEPTH: usize = 64;

type Message = [Option<Object>; BATCH];

/// A kind of channel.
trait Channel {
    const NAME: &'static str;
    fn open() -> (impl Fn(Message) + Send, impl Fn() -> Message + Send);
}

struct Std;

impl Channel for Std {
    const NAME: &'static str = "std::sync::mpsc::sync_channel";

    fn open() -> (impl Fn(Message) + Send, impl Fn() -> Message + Send) {
        let (sender, receiver) = sync_channel(DEPTH);
        (
            move |message| sender.send(message).expect("the other end is open"),
            move || receiver.recv().expect("the other end is open"),
        )
    }
}

struct Crossbeam;

impl Channel for Crossbeam {
    const NAME: &'static str = "crossbeam_channel::bounded";

    fn open() -> (impl Fn(Message) + Send, impl Fn() -> Message + Send) {
        let (sender, receiver) = crossbeam_channel::bounded(DEPTH);
        (
            move |message| sender.send(message).expect("the other end is open"),
            move || receiver.recv().expect("the other end is open"),
        )
    }
}

/// ns an object.
fn flow<C: Channel>(take: impl Fn() -> Option<Object> + Send, put: impl Fn(Option<Object>) + Send) -> f64 {
    let (send, receive) = C::open();
    thread::scope(|s| {
        s.spawn(move || {
            for _ in 0..WARM_UP + MESSAGES {
                send(std::array::from_fn(|_| take()));
            }
        });
        (0..WARM_UP).for_each(|_| receive().into_iter().for_each(&put));
        let start = Instant::now();
        (0..MESSAGES).for_each(|_| receive().into_iter().for_each(&put));
        start.elapsed().as_nanos() as f64 / (MESSAGES * BATCH) as f64
    })
}

fn alone<C: Channel>() -> f64 {
    flow::<C>(
        || black_box(None),
        |object| {
            black_box(object);
        },
    )
}

fn run<C: Channel, H: Holder>() {
    let (mut with, mut without, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let channel = alone::<C>();
        let pool = H::new();
        let misses = std::sync::atomic::AtomicUsize::new(0);
        let taken = std::sync::atomic::AtomicUsize::new(0);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let time = flow::<C>(
            || {
                // Plain loads and stores: one thread writes.
                let number = taken.load(relaxed) + 1;
                taken.store(number, relaxed);
                let object = pool.try_take();
                if object.is_none() && number > WARM_UP * BATCH {
                    misses.store(misses.load(relaxed) + 1, relaxed);
                }
                Some(object.unwrap_or_else(make))
            },
            |message| pool.put(message.expect("an object")),
        );
        with.push(time);
        without.push(channel);
        made.push(misses.into_inner() as f64 * 1000.0 / (MESSAGES * BATCH) as f64);
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
