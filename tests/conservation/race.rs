//! The tightest race there is: an owner that does nothing but hits, and others that visit its shard all the time.
//!
//! A processor's stores leave it in order, and later than its loads: behind stores to memory that is in no cache, the owner's
//! word that it is inside stays unseen for long, and what stands between two visitors is the fence alone. So that the
//! objects' whereabouts are no such fence themselves, they are written with plain loads and stores.

use std::process::abort;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use super::Dice;

const IDS: usize = 1 << 22;
static WHERE: [AtomicU8; IDS] = [const { AtomicU8::new(IDLE) }; IDS];
static NEXT: AtomicUsize = AtomicUsize::new(0);
const IDLE: u8 = 0;
const DROPPED: u8 = 255;

/// Bytes to store to, more than caches hold.
const FAR: usize = 1 << 26;

struct Object(usize);

impl Object {
    fn new() -> Self {
        Object(NEXT.fetch_add(1, Relaxed))
    }

    fn ids_are_left() -> bool {
        NEXT.load(Relaxed) < IDS - 100
    }

    fn step(&self, from: u8, to: u8) {
        let was = WHERE[self.0].load(Relaxed);
        WHERE[self.0].store(to, Relaxed);
        if was != from {
            eprintln!("conservation violated: object {} goes from {from} to {to}, but was {was}", self.0);
            abort();
        }
    }

    /// Between a take and a put. `holder` is neither of the above.
    fn use_by(&self, holder: u8) {
        self.step(IDLE, holder);
        std::hint::black_box(self);
        self.step(holder, IDLE);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.step(IDLE, DROPPED);
    }
}

/// Once a process.
pub fn run(lasts: Duration) {
    let pool: SyncPool<Object> = SyncPool::new(Object::new);
    let far = Box::into_raw(vec![1u8; FAR].into_boxed_slice());
    // SAFETY: an atomic byte has the layout of a byte, and the box is ours.
    let far = unsafe { Box::from_raw(far as *mut [AtomicU8]) };
    let begun = Instant::now();
    let goes_on = || begun.elapsed() < lasts && Object::ids_are_left();
    let stolen = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(9);
            let mut store_far = || {
                for _ in 0..40 {
                    far[dice.next() as usize % FAR].store(1, Relaxed);
                }
            };
            while goes_on() {
                for _ in 0..100 {
                    store_far();
                    let object = pool.take();
                    object.use_by(1);
                    store_far();
                    pool.put(object);
                }
            }
        });
        scope.spawn(|| {
            while goes_on() {
                pool.age();
            }
        });
        scope.spawn(|| {
            let mut dice = Dice::new(10);
            while goes_on() {
                // Keeps none: the owner's shard is to be where there is something.
                for object in std::iter::from_fn(|| pool.try_take()).take(3) {
                    object.use_by(2);
                    stolen.fetch_add(1, Relaxed);
                }
                if dice.one_in(4) {
                    pool.put(Object::new());
                }
            }
        });
    });
    println!("a race of {lasts:?}: {} stolen here, {:?}", stolen.load(Relaxed), pool.stats());
}
