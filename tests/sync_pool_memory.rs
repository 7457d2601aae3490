//! What a pool costs in memory, by a counting allocator.
//!
//! Each thread counts for itself, so that the test harness and other tests are not in the figures. The tests here take turns
//! all the same, and use pools on threads that have ended before the next turn: the numbers that threads get, and give back,
//! are the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use cenote::{PoolConfig, Pooled, SyncPool};

struct Counting;

thread_local! {
    /// How often this thread has asked for memory, and how much of it, less what it gave back.
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: hands everything to the system's allocator, as it came; the counters neither allocate nor have a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `work` allocates on this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    calls: usize,
    bytes: isize,
}

fn cost_of(work: impl FnOnce()) -> Cost {
    let (calls, bytes) = (CALLS.get(), BYTES.get());
    work();
    Cost { calls: CALLS.get() - calls, bytes: BYTES.get() - bytes }
}

const NOTHING: Cost = Cost { calls: 0, bytes: 0 };

fn one_test_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pointer-sized, and not itself a cost: what it points at lies in the program.
type Pointer = &'static u64;
static VALUE: u64 = 5;

fn pointers() -> SyncPool<Pointer> {
    SyncPool::new(|| &VALUE)
}

/// On a thread of its own, which has given its number back on return (that of a scope would not have, for sure).
fn on_a_new_thread<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    thread::spawn(work).join().unwrap()
}

/// What the first puts of `threads` threads, all alive at once, cost together.
fn cost_of_first_puts(pool: &'static SyncPool<Pointer>, threads: usize) -> isize {
    let all_here: &'static Barrier = Box::leak(Box::new(Barrier::new(threads)));
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || {
                // What a thread pays once, for all pools, is not the shard's.
                static OTHER: SyncPool<Pointer> = SyncPool::new(|| &VALUE);
                OTHER.put(&VALUE);
                all_here.wait();
                let cost = cost_of(|| pool.put(&VALUE)).bytes;
                all_here.wait();
                cost
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
}

#[test]
fn an_unused_pool_is_at_most_a_kibibyte() {
    assert!(size_of::<SyncPool<Box<[u8; 64]>>>() <= 1024, "{}", size_of::<SyncPool<Box<[u8; 64]>>>());
    assert!(size_of::<SyncPool<[u8; 4096]>>() <= 1024, "whatever the objects' size");
}

#[test]
fn a_pool_allocates_nothing_before_its_first_object() {
    let _turn = one_test_at_a_time();
    static STATIC: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    let cost = cost_of(|| {
        black_box(&STATIC);
        let config = PoolConfig::new().recycle(|_: &mut Pointer| true);
        black_box(ManuallyDrop::new(SyncPool::with_config(|| &VALUE as Pointer, config)));
    });
    assert_eq!(cost, NOTHING);
}

#[test]
fn a_hit_and_the_put_after_it_allocate_nothing() {
    let _turn = one_test_at_a_time();
    on_a_new_thread(|| {
        let pool: SyncPool<Box<[u8; 64]>> = SyncPool::new(|| Box::new([0; 64]));
        drop(pool.get());
        let cost = cost_of(|| {
            for _ in 0..10_000 {
                drop(black_box(pool.get()));
                pool.put(black_box(pool.take()));
                let object = pool.try_take().unwrap();
                pool.put(object);
                let object = Pooled::detach(pool.get());
                pool.put(object);
            }
        });
        assert_eq!(cost, NOTHING);
    });
}

#[test]
fn going_to_and_fro_between_a_shard_and_its_spare_magazine_allocates_nothing() {
    let _turn = one_test_at_a_time();
    on_a_new_thread(|| {
        let pool = pointers();
        let mut held = Vec::with_capacity(24);
        let mut wave = || {
            (0..24).for_each(|_| held.push(pool.take()));
            held.drain(..).for_each(|object| pool.put(object));
        };
        wave();
        wave();
        let cost = cost_of(|| (0..1000).for_each(|_| wave()));
        assert_eq!(cost, NOTHING);
    });
}

/// Of an object of at most 64 bytes: its line, and room to begin it.
const NODE: isize = 64 + 48;

const SHARD: isize = 384;

#[test]
fn the_first_put_of_a_thread_costs_a_shard_of_384_bytes_and_the_node_of_its_object() {
    const THREADS: usize = 63;
    let _turn = one_test_at_a_time();
    let bytes = cost_of_first_puts(Box::leak(Box::new(pointers())), THREADS);
    println!("{bytes} bytes for {THREADS} shards and nodes: {} each", bytes / THREADS as isize);
    assert!(bytes > 0);
    // The first of them may also make room for a link of the pool's slot.
    assert!(bytes <= (SHARD + NODE) * THREADS as isize + 64, "{bytes} bytes for {THREADS}");
}

#[test]
fn ten_thousand_short_threads_make_no_more_shards_than_the_peak_of_live_ones() {
    const PEAK: usize = 4;
    let _turn = one_test_at_a_time();
    let pool: &'static SyncPool<Pointer> = Box::leak(Box::new(pointers()));
    let bytes = cost_of_first_puts(pool, PEAK);
    assert!(bytes > 0);
    for _ in 0..2_500 {
        let threads: [_; PEAK] = std::array::from_fn(|_| {
            thread::spawn(|| {
                cost_of(|| {
                    drop(pool.get());
                    pool.put(pool.take());
                })
            })
        });
        for thread in threads {
            // A node, and the thread's own table, which is freed at its end; a shard would be more.
            let cost = thread.join().unwrap();
            assert!(cost.bytes < SHARD, "{cost:?}");
        }
    }
    assert!(cost_of_first_puts(pool, PEAK) <= NODE * PEAK as isize, "no new shard");
    assert_eq!(pool.stats().hits, 20_000);
    assert!(pool.stats().made as usize <= PEAK, "{:?}", pool.stats());
}

/// A steady flow from one thread to another: magazines go round, nothing piles up.
#[test]
fn objects_that_are_taken_on_one_thread_and_put_on_another_are_not_made_anew() {
    let _turn = one_test_at_a_time();
    on_a_new_thread(|| {
        let pool: &'static SyncPool<Pointer> = Box::leak(Box::new(pointers()));
        let (letters, received) = std::sync::mpsc::sync_channel(64);
        let receiver = thread::spawn(move || received.into_iter().for_each(|object| pool.put(object)));
        for _ in 0..100_000 {
            letters.send(pool.take()).unwrap();
        }
        drop(letters);
        receiver.join().unwrap();
        let made = pool.stats().made;
        assert!(made <= 64 + 2 * 60 + 30 + 100, "one in a thousand, and those under way: {:?}", pool.stats());
    });
}
