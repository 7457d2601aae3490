//! Clocks for one thread and for many.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Turns that come before the clock starts: what a thread needs only once (its shard, its first
/// object) is no part of the question.
const WARM_UP: u64 = 100;

/// The one place that calls `turn`, so that a short loop and a long one run the same code.
#[inline(never)]
fn repeat(turns: u64, turn: &impl Fn()) {
    (0..turns).for_each(|_| turn());
}

/// How long this thread takes for `turns` turns.
pub fn own_time(turns: u64, turn: &impl Fn()) -> Duration {
    repeat(WARM_UP.min(turns), turn);
    let start = Instant::now();
    repeat(turns, turn);
    start.elapsed()
}

/// Has `threads` threads do `turn` `turns` times each, all at once, and returns how long the
/// slowest of them took.
pub fn wall_time(threads: usize, turns: u64, turn: &(impl Fn() + Sync)) -> Duration {
    wall_time_with(vec![(); threads], turns, &|()| (), turn)
}

/// As [`wall_time`], with one thread for each of `hands`. Each thread first consumes its hand with
/// `begin`, off the clock.
pub fn wall_time_with<H: Send>(
    hands: Vec<H>,
    turns: u64,
    begin: &(impl Fn(H) + Sync),
    turn: &(impl Fn() + Sync),
) -> Duration {
    let missing = AtomicUsize::new(hands.len());
    let run = |hand| {
        begin(hand);
        repeat(WARM_UP, turn);
        // A barrier that sleeps would wake one thread well before the other.
        missing.fetch_sub(1, Ordering::AcqRel);
        while missing.load(Ordering::Acquire) > 0 {
            hint::spin_loop();
        }
        let start = Instant::now();
        repeat(turns, turn);
        start.elapsed()
    };
    let run = &run;
    thread::scope(|s| {
        let crew: Vec<_> = hands.into_iter().map(|hand| s.spawn(move || run(hand))).collect();
        crew.into_iter().map(|thread| thread.join().expect("a turn panicked")).max().unwrap_or_default()
    })
}

/// Turns a second of `threads` threads together, over `time`. Suits more threads than cores: no
/// thread waits for the slowest.
pub fn throughput(threads: usize, time: Duration, turn: &(impl Fn() + Sync)) -> f64 {
    let ready = AtomicUsize::new(0);
    let start = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let total = AtomicU64::new(0);
    let mut took = Duration::ZERO;
    thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                turn();
                ready.fetch_add(1, Ordering::Release);
                while !start.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                let mut own = 0;
                while !over.load(Ordering::Relaxed) {
                    repeat(64, turn);
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
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        took = from.elapsed();
    });
    total.into_inner() as f64 / took.as_secs_f64()
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How many threads can run at once.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
