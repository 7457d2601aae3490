//! A producer that takes objects out of a pool and a consumer that puts them back, with a channel
//! between the two.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use crate::holders::{Holder, Object, make};

/// Objects a message.
pub const BATCH: usize = 64;
const WARM_UP: usize = 2_000;
/// How many messages a channel has room for.
const DEPTH: usize = 64;

/// What travels.
pub type Message = [Option<Object>; BATCH];

/// A kind of channel.
pub trait Channel {
    /// As the report calls it.
    const NAME: &'static str;

    /// Both ends of a new one.
    fn open() -> (impl Fn(Message) + Send, impl Fn() -> Message + Send);
}

/// The bounded channel of the standard library.
#[derive(Debug)]
pub struct Std;

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

/// The bounded channel of crossbeam.
#[derive(Debug)]
pub struct Crossbeam;

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
fn flow<C: Channel>(
    messages: usize,
    take: impl Fn() -> Option<Object> + Send,
    put: impl Fn(Option<Object>) + Send,
) -> f64 {
    let (send, receive) = C::open();
    thread::scope(|s| {
        s.spawn(move || {
            for _ in 0..WARM_UP + messages {
                send(std::array::from_fn(|_| take()));
            }
        });
        (0..WARM_UP).for_each(|_| receive().into_iter().for_each(&put));
        let start = Instant::now();
        (0..messages).for_each(|_| receive().into_iter().for_each(&put));
        start.elapsed().as_nanos() as f64 / (messages * BATCH) as f64
    })
}

/// ns an object, of a channel whose messages are empty.
pub fn channel_alone<C: Channel>(messages: usize) -> f64 {
    flow::<C>(
        messages,
        || black_box(None),
        |object| {
            black_box(object);
        },
    )
}

/// ns an object that goes from `pool` through the channel and back, and how many of a thousand had
/// to be made once the flow was steady.
pub fn through<C: Channel, H: Holder>(messages: usize) -> (f64, f64) {
    let pool = H::new();
    let misses = AtomicUsize::new(0);
    let taken = AtomicUsize::new(0);
    let time = flow::<C>(
        messages,
        || {
            // Plain loads and stores: one thread writes.
            let number = taken.load(Ordering::Relaxed) + 1;
            taken.store(number, Ordering::Relaxed);
            let object = pool.try_take();
            if object.is_none() && number > WARM_UP * BATCH {
                misses.store(misses.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Some(object.unwrap_or_else(make))
        },
        |message| pool.put(message.expect("an object")),
    );
    (time, misses.into_inner() as f64 * 1000.0 / (messages * BATCH) as f64)
}
