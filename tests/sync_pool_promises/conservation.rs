//! The books balance: each object is in a caller's hands, in the pool, or dropped, once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use cenote::{Pooled, SyncPool};

use crate::census::{Census, Counted, Mood};

const THREADS: u64 = 6;
const TURNS: usize = 200_000;

/// What the threads did, to compare with what the pool says.
#[derive(Default)]
struct Ledger {
    got: AtomicU64,
    brought: AtomicU64,
    unwanted: AtomicU64,
}

/// Xorshift: the same turns in each run for a seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

fn play<'c>(
    pool: &SyncPool<Counted<'c>, impl Fn() -> Counted<'c>>,
    census: &'c Census,
    ledger: &Ledger,
    mut dice: Dice,
) {
    let mut hand: Vec<Counted<'c>> = Vec::new();
    let got = |object: &Counted<'_>| {
        object.hold();
        ledger.got.fetch_add(1, Relaxed);
    };
    for _ in 0..TURNS {
        match dice.throw(16) {
            0..=4 => {
                let guard = pool.get();
                got(&guard);
                if dice.throw(32) == 0 {
                    thread::yield_now();
                }
                guard.let_go();
            }
            5..=6 => {
                let object = pool.take();
                got(&object);
                hand.push(object);
            }
            7..=8 => {
                if let Some(object) = pool.try_take() {
                    got(&object);
                    hand.push(object);
                }
            }
            9..=11 => {
                for _ in 0..dice.throw(4) {
                    let Some(object) = hand.pop() else { break };
                    object.let_go();
                    pool.put(object);
                }
            }
            12 => {
                let object = Pooled::detach(pool.get());
                got(&object);
                object.let_go();
            }
            13 => {
                ledger.brought.fetch_add(1, Relaxed);
                pool.put(census.object());
            }
            14 => {
                let mut guard = pool.get();
                got(&guard);
                guard.let_go();
                guard.mood = Mood::Unwanted;
                ledger.unwanted.fetch_add(1, Relaxed);
            }
            _ => match dice.throw(64) {
                0..=3 => pool.age(),
                4 => pool.clear(),
                _ => assert!(pool.stats().refused <= ledger.unwanted.load(Relaxed)),
            },
        }
    }
    hand.iter().for_each(Counted::let_go);
    // Some go home with what they have, some give it back.
    if dice.throw(2) == 0 {
        hand.into_iter().for_each(|object| pool.put(object));
    }
}

#[test]
fn every_object_is_held_or_idle_or_dropped_exactly_once() {
    let census = Census::new();
    let ledger = Ledger::default();
    let pool =
        SyncPool::with_recycle(|| census.object(), |object: &mut Counted<'_>| object.mood != Mood::Unwanted);
    thread::scope(|s| {
        for seed in 1..=THREADS {
            let dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            s.spawn(|| play(&pool, &census, &ledger, dice));
        }
    });

    let stats = pool.stats();
    let idle = stats.idle as u64;
    assert_eq!(stats.kept, stats.hits + stats.aged + stats.cleared + idle, "{stats:?}");
    assert_eq!(stats.made + stats.hits, ledger.got.load(Relaxed), "{stats:?}");
    assert_eq!(stats.made + ledger.brought.load(Relaxed), census.made() as u64, "{stats:?}");
    assert_eq!(stats.refused, ledger.unwanted.load(Relaxed), "{stats:?}");
    assert!(stats.stolen <= stats.hits, "{stats:?}");
    // The run has been where things can go wrong.
    assert!(stats.aged > 0 && stats.cleared > 0 && stats.hits > stats.made, "{stats:?}");

    assert_eq!(census.alive(), stats.idle, "nobody holds one any more");
    drop(pool);
    assert_eq!(census.alive(), 0);
}
