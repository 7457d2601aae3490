//! What a `BlockPool` takes from the global allocator, by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cenote::block_pool::{Block, BlockPool, Growth};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's allocator, with a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The tests count what the process has, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

fn builder(size: usize, align: usize, blocks: usize) -> cenote::block_pool::BlockPoolBuilder {
    BlockPool::builder(Layout::from_size_align(size, align).unwrap()).blocks_per_chunk(blocks).checked(false)
}

#[test]
fn a_block_costs_its_size_and_two_bytes_and_a_chunk_a_header() {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    // Beside chunks: the pool, a shard, the depot, a few magazines.
    let fixed = 12 * 1024;
    for (size, align, blocks, growth) in [
        (64, 64, 1_000, Growth::Constant),
        (64, 8, 1_000, Growth::Doubling),
        (1024, 8, 100, Growth::Constant),
        (4095, 1, 16, Growth::Constant),
        (16, 16, 65_535, Growth::Constant),
    ] {
        let before = live();
        let pool = builder(size, align, blocks).growth(growth).build().unwrap();
        let mut held = Vec::with_capacity(70_000);
        let list = held.capacity() * size_of::<Block>();
        held.extend((0..blocks * 8 + 1).take(70_000).map(|_| pool.alloc().unwrap()));
        let stats = pool.stats();
        let taken = (live() - before) as usize - list;
        let most = stats.blocks * (size + 2) + stats.chunks * 200 + fixed;
        assert!(taken <= most, "{size}: {taken} bytes for {stats:?}, {most} at most");
    }
    // Again and again: what is left waits for an epoch, or is kept by the thread for its next pool.
    let before = live();
    for _ in 0..100 {
        let pool = builder(64, 64, 100).build().unwrap();
        drop((0..1_000).map(|_| pool.alloc().unwrap()).collect::<Vec<_>>());
        drop(pool);
    }
    assert!(live() - before < 64 * 1024, "{} bytes are left", live() - before);
}

#[test]
fn memory_is_flat_while_threads_come_and_go_and_chunks_are_given_back() {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    // `CENOTE_BLOCK_SECONDS=60` for the whole minute.
    let seconds = std::env::var("CENOTE_BLOCK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let end = Instant::now() + Duration::from_secs(seconds);
    let pool = builder(256, 8, 64).build().unwrap();
    let mut marks = Vec::new();
    let mut most = 0;
    while Instant::now() < end {
        for _ in 0..20 {
            let (send, receive) = mpsc::sync_channel::<Vec<Block>>(4);
            thread::scope(|scope| {
                // One frees and never allocates.
                scope.spawn(move || receive.iter().for_each(drop));
                for _ in 0..2 {
                    let (pool, send) = (&pool, send.clone());
                    scope.spawn(move || {
                        for size in 0..60 {
                            send.send((0..size).map(|_| pool.alloc().unwrap()).collect()).unwrap();
                            drop((0..size).map(|_| pool.alloc().unwrap()).collect::<Vec<_>>());
                        }
                    });
                }
                drop(send);
            });
            most = most.max(pool.stats().blocks);
        }
        pool.shrink();
        assert_eq!(pool.stats().chunks, 0, "all blocks are back: {:?}", pool.stats());
        marks.push(live());
    }
    // In flight: the channel's, three hands', and what threads and the depot keep.
    assert!(most < 6 * 60 + 3 * 60 + 840 + 8 * 60 + 64, "{most} blocks");
    let (early, late) = (marks[..marks.len().min(3)].iter().max().unwrap(), marks[marks.len() - 1]);
    assert!(late - early < 256 * 1024, "{marks:?}");
}
