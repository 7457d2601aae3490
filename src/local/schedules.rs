//! Longer schedules than loom can exhaust, tried at random by shuttle: four threads that do dozens of operations each, are
//! born and end. Run with
//!
//! ```sh
//! RUSTFLAGS="--cfg cenote_loom --cfg cenote_shuttle" cargo test --release --lib --target-dir target/shuttle
//! ```
//!
//! shuttle takes every atomic access for sequentially consistent: orderings are loom's business, this is about the steps.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

use shuttle::rand::Rng;
use shuttle::sync::Arc;
use shuttle::thread;

use super::Cache;
use crate::primitive::{fence, reclaim};

const THREADS: usize = 4;
const OPERATIONS: usize = 24;
const SCHEDULES: usize = 3_000;

/// What becomes of the objects, by number: 0 made, 1 in the pool, 2 in somebody's hands, 3 dropped.
struct Census(Vec<AtomicUsize>);

struct Object {
    number: usize,
    census: StdArc<Census>,
}

impl Object {
    fn moves(&self, from: &[usize], to: usize) {
        let was = self.census.0[self.number].swap(to, StdOrdering::Relaxed);
        assert!(from.contains(&was), "object {} goes from {was} to {to}", self.number);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.moves(&[0, 1, 2], 3);
    }
}

/// A few threads do as chance will have it; afterwards each object was dropped once.
fn chance(symmetric: bool) {
    fence::set_symmetric(symmetric);
    let cache: Arc<Cache<Object>> = Arc::new(Cache::new(true, None, None));
    let census = StdArc::new(Census((0..THREADS * OPERATIONS).map(|_| AtomicUsize::new(0)).collect()));
    let worker = |first: usize| {
        let (cache, census) = (Arc::clone(&cache), StdArc::clone(&census));
        thread::spawn(move || {
            let mut rng = shuttle::rand::thread_rng();
            let mut held: Vec<Object> = Vec::new();
            for number in first..first + OPERATIONS {
                match rng.gen_range(0..12) {
                    0..=3 => {
                        let object = Object { number, census: StdArc::clone(&census) };
                        object.moves(&[0], 1);
                        cache.put(object);
                    }
                    4..=5 => {
                        if let Some(object) = held.pop() {
                            object.moves(&[2], 1);
                            cache.put(object);
                        }
                    }
                    6..=9 => {
                        if let Some(object) = cache.take() {
                            object.moves(&[1], 2);
                            held.push(object);
                        }
                    }
                    10 => cache.age(),
                    _ => cache.ask_all_to_retire_for_models(),
                }
            }
            drop(held);
            cache.leave_for_models();
        })
    };
    // The third and fourth may take over from the first and second.
    let early: Vec<_> = (0..THREADS / 2).map(|thread| worker(thread * OPERATIONS)).collect();
    let late: Vec<_> = (THREADS / 2..THREADS).map(|thread| worker(thread * OPERATIONS)).collect();
    for thread in early.into_iter().chain(late) {
        thread.join().unwrap();
    }
    let stats = cache.stats();
    assert_eq!(stats.kept, stats.hits + stats.aged + stats.idle as u64);
    drop(cache);
    for (number, fate) in census.0.iter().enumerate() {
        let fate = fate.load(StdOrdering::Relaxed);
        assert!(fate == 0 || fate == 3, "object {number} leaked: {fate}");
    }
    reclaim::free_all();
}

#[test]
fn objects_are_kept_apart_in_long_schedules() {
    shuttle::check_random(|| chance(false), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_in_long_schedules_without_a_heavy_fence() {
    shuttle::check_random(|| chance(true), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_when_a_few_unlikely_switches_decide() {
    shuttle::check_pct(|| chance(false), SCHEDULES, 3);
}
