//! Longer schedules than loom can exhaust, tried at random by shuttle: four threads that do dozens of operations each,
//! start and end. Run with
//!
//! ```sh
//! RUSTFLAGS="--cfg cenote_loom --cfg cenote_shuttle" cargo test --release --lib --target-dir target/shuttle
//! ```
//!
//! shuttle treats every atomic access as sequentially consistent: orderings are left to loom, this is about the steps.
//! At the end of each schedule the [`census`](super::census) is taken, as in the models.

use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::thread;

use super::Policy;
use super::census::{POLICY, Pool, Taken};
use crate::primitive::thread::leave;
use crate::primitive::{clock, fence};

const THREADS: usize = 4;
const OPERATIONS: usize = 24;
const SCHEDULES: usize = 3_000;

/// A limit that is met often, and generations that end often.
const BUSY: Policy = Policy { period: Some(Duration::from_millis(10)), max_idle: Some(6), ..POLICY };

/// What happens beside the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fences {
    Asymmetric,
    Symmetric,
    /// Symmetric until a thread switches.
    Switched,
    /// Asymmetric, and the heavy fence fails at times.
    Failing,
}

fn work(pool: &'static Pool, first: usize, fences: Fences) {
    let mut rng = shuttle::rand::thread_rng();
    let mut held: Vec<Taken> = Vec::new();
    for object in first..first + OPERATIONS {
        match rng.gen_range(0..24) {
            0..=4 => pool.put_object(object),
            5..=7 => pool.put_by_value(object),
            8..=10 => {
                if let Some(object) = held.pop() {
                    pool.put_back(object);
                }
            }
            11..=14 => held.extend(pool.take_object()),
            15..=17 => held.extend(pool.take_by_value()),
            18 => pool.age(),
            19 => pool.ask_all_to_retire(),
            20 => {
                pool.drain_all();
            }
            21 => pool.clear(),
            22 => clock::stop_at(clock::now_ms() + 5),
            _ => match fences {
                Fences::Switched => fence::switch(),
                Fences::Failing => fence::set_failing(rng.gen_bool(0.5)),
                Fences::Asymmetric | Fences::Symmetric => {}
            },
        }
    }
    drop(held);
    leave();
}

/// A few threads do what chance has them do.
fn chance(policy: Policy, fences: Fences) {
    fence::reset();
    clock::stop_at(1);
    match fences {
        Fences::Asymmetric | Fences::Failing => {}
        Fences::Symmetric => fence::set_symmetric(true),
        Fences::Switched => fence::begin_symmetric(),
    }
    let pool = Pool::new(policy);
    // The third and fourth may take over from the first and second.
    let threads: Vec<_> =
        (0..THREADS).map(|thread| thread::spawn(move || work(pool, thread * OPERATIONS, fences))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    pool.end();
}

#[test]
fn objects_are_kept_apart_in_long_schedules() {
    shuttle::check_random(|| chance(POLICY, Fences::Asymmetric), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_in_long_schedules_without_a_heavy_fence() {
    shuttle::check_random(|| chance(POLICY, Fences::Symmetric), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_while_the_process_gets_the_heavy_fence() {
    shuttle::check_random(|| chance(POLICY, Fences::Switched), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_where_the_heavy_fence_fails_at_times() {
    shuttle::check_random(|| chance(POLICY, Fences::Failing), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_beside_a_limit_and_a_clock() {
    shuttle::check_random(|| chance(BUSY, Fences::Asymmetric), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_where_only_aging_by_hand_drops() {
    let policy = Policy { drops_in_use: false, ..BUSY };
    shuttle::check_random(move || chance(policy, Fences::Asymmetric), SCHEDULES);
}

#[test]
fn objects_are_kept_apart_when_a_few_unlikely_switches_decide() {
    shuttle::check_pct(|| chance(BUSY, Fences::Asymmetric), SCHEDULES, 3);
}
