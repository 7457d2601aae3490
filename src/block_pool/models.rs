//! Models of a pool's blocks for loom, beside those of the [engine](crate::local): the last block at the cap, and the end of a
//! pool. Run with the others, see `CONTRIBUTING.md`.
//!
//! A magazine holds two blocks here, and so does a shard. Chunks come from a source that counts: at the end of each model it has
//! every chunk back, once, and never had one back while a block of it was out. Each block has a cell that its owner touches, so
//! loom reports two owners, and owners without an order between them.
//!
//! # What the models catch
//!
//! Each of these changes was made once, and these models failed.
//!
//! | change | what failed |
//! |---|---|
//! | a trade is not counted, or a freeze ignores those under way | `two_threads_that_need…` |
//! | at the cap no thread looks at what the others hold | `two_threads_that_need…` |
//! | no full fence at the beginning of a trade, or none of the thread that closes the store | `of_the_last_handle…`, `a_thread_that_is_new…` |
//! | a trade in a closed store keeps blocks in its shard | `of_the_last_handle…`, `a_thread_that_is_new…` |
//! | a shard that is made while the store closes stays open to its owner | `a_thread_that_is_new…` |
//! | the thread that closes the store lets go of the claims, or does not wait for trades | `a_thread_that_knew…` |
//! | blocks that come late are not counted, or the lock's flag `is_closed` is not set | the three models of the end |
//! | the thread that waits for a shard holds its other claims twice | two models of the end ran without end |
//!
//! Not caught:
//!
//! * A freeze that compares no counts, and so accepts a trade that began after it. For that a block must come to the depot or
//!   the chunks between a thread's last look there and its freeze, and be taken again during it: three threads at least.
//! * An end of a trade that is counted with Relaxed, and `handles` and `owed` with Relaxed. The depot's exchanges and the lock of
//!   the chunks order the same here, and loom does not see that the pool's memory is freed.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use loom::thread::{self, JoinHandle};

use super::{Block, BlockPool, ChunkSource, SourceError};
use crate::local::census::end_model;
use crate::local::models::{self, Fences};
use crate::primitive::{Arc, UnsafeCell};

const BLOCK: Layout = Layout::new::<[u8; 64]>();

/// Memory for a chunk. It is the same in each execution of a model, since the directory's steps depend on addresses.
#[repr(align(512))]
struct Memory(std::cell::UnsafeCell<[u8; 512]>);

// SAFETY: given away once at a time.
unsafe impl Sync for Memory {}

static MEMORY: [Memory; 3] = [const { Memory(std::cell::UnsafeCell::new([0; 512])) }; 3];

/// A chunk of a source, with a cell for each block.
struct Cells {
    base: usize,
    cells: Vec<UnsafeCell<()>>,
}

// SAFETY: a checker runs the threads of a model one at a time, on one thread of the system.
unsafe impl Send for Cells {}
// SAFETY: as above.
unsafe impl Sync for Cells {}

#[derive(Default)]
struct Region {
    /// Changed by one thread at a time: loom runs them on one of the system's.
    chunks: std::sync::Mutex<Vec<Arc<Cells>>>,
    given_back: AtomicUsize,
}

#[derive(Clone, Default)]
struct Source(Arc<Region>);

impl Source {
    /// The owner of a block uses it.
    fn touch(&self, block: &Block) {
        let address = block.as_ptr().addr().get();
        let chunk = self.chunk_of(address).expect("the chunk is there while a block is out");
        chunk.cells[(address - chunk.base) / BLOCK.size()].with_mut(|_| ());
    }

    fn chunk_of(&self, address: usize) -> Option<Arc<Cells>> {
        let chunks = self.0.chunks.lock().unwrap();
        let is_inside =
            |chunk: &&Arc<Cells>| (address.wrapping_sub(chunk.base)) / BLOCK.size() < chunk.cells.len();
        chunks.iter().find(is_inside).cloned()
    }

    fn count(&self) -> usize {
        self.0.chunks.lock().unwrap().len()
    }
}

// SAFETY: each chunk is memory of its own.
unsafe impl ChunkSource for Source {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
        let mut chunks = self.0.chunks.lock().unwrap();
        let is_free = |memory: &&Memory| chunks.iter().all(|chunk| chunk.base != memory.0.get().addr());
        let memory = MEMORY.iter().find(is_free).ok_or("out of memory")?;
        assert!(layout.size() <= size_of::<Memory>());
        let cells = (0..layout.size() / BLOCK.size()).map(|_| UnsafeCell::new(())).collect();
        chunks.push(Arc::new(Cells { base: memory.0.get().addr(), cells }));
        NonNull::new(memory.0.get().cast()).ok_or("never null".into())
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, _layout: Layout) {
        let chunk = self.chunk_of(memory.addr().get()).expect("a chunk is given back once");
        // The owners of its blocks come before.
        chunk.cells.iter().for_each(|cell| cell.with_mut(|_| ()));
        self.0.chunks.lock().unwrap().retain(|other| other.base != chunk.base);
        self.0.given_back.fetch_add(1, Relaxed);
    }
}

/// A pool of chunks of so many blocks.
fn pool(blocks: usize, max_chunks: usize) -> (BlockPool, Source) {
    let source = Source::default();
    let builder = BlockPool::builder(BLOCK).blocks_per_chunk(blocks).max_chunks(max_chunks).checked(false);
    (builder.source(source.clone()).build().unwrap(), source)
}

fn take(pool: &BlockPool, source: &Source) -> Block {
    let block = pool.alloc().expect("a block is free");
    source.touch(&block);
    block
}

fn give(block: Block, source: &Source) {
    source.touch(&block);
    drop(block);
}

/// Checks a model with a heavy fence and without one.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + Copy + 'static) {
    models::check(&[Fences::Asymmetric, Fences::Symmetric], preemptions, move || {
        model();
        end_model();
    });
}

fn spawn<R: 'static>(work: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    thread::spawn(work)
}

fn join<R>(thread: JoinHandle<R>) -> R {
    thread.join().unwrap()
}

// ── the last block ──

#[test]
fn two_threads_that_hold_one_of_two_blocks_each_are_never_refused() {
    check(3, || {
        let (pool, source) = pool(2, 1);
        let work = |pool: BlockPool, source: Source| {
            move || {
                give(take(&pool, &source), &source);
                give(take(&pool, &source), &source);
            }
        };
        let threads = [(); 2].map(|()| spawn(work(pool.clone(), source.clone())));
        threads.map(join);
        assert_eq!(pool.stats().in_use, 0);
        drop(pool);
        assert_eq!((source.count(), source.0.given_back.load(Relaxed)), (0, 1));
    });
}

#[test]
fn the_one_block_is_found_by_the_thread_that_comes_after_its_free() {
    check(3, || {
        let (pool, source) = pool(1, 1);
        let block = take(&pool, &source);
        let freer = {
            let source = source.clone();
            spawn(move || give(block, &source))
        };
        let taker = {
            let (pool, source) = (pool.clone(), source.clone());
            spawn(move || pool.alloc().map(|block| give(block, &source)).is_ok())
        };
        join(freer);
        let was_early = !join(taker);
        // Refused or not: now it is free.
        give(take(&pool, &source), &source);
        assert!(was_early || pool.stats().in_use == 0);
        drop(pool);
        assert_eq!(source.count(), 0);
    });
}

#[test]
fn two_threads_that_need_the_four_last_blocks_find_those_that_are_on_their_way() {
    check(3, || {
        let (pool, source) = pool(6, 1);
        let mut held: Vec<Block> = (0..6).map(|_| take(&pool, &source)).collect();
        // Two go to the depot, and the shard gives the other three back.
        held.drain(..5).for_each(|block| give(block, &source));
        held.extend((0..3).map(|_| take(&pool, &source)));
        assert_eq!((pool.stats().free_in_depot, pool.stats().in_use), (2, 4));
        let takers = [(); 2].map(|()| {
            let (pool, source, block) = (pool.clone(), source.clone(), held.pop().unwrap());
            spawn(move || {
                // So that each has a shard that the other one knows.
                give(block, &source);
                [take(&pool, &source), take(&pool, &source)]
            })
        });
        takers.map(join).into_iter().flatten().chain(held).for_each(|block| give(block, &source));
        assert_eq!(pool.stats().in_use, 0);
        drop(pool);
        assert_eq!(source.count(), 0);
    });
}

#[test]
fn a_shrink_beside_an_allocation_gives_back_no_chunk_with_a_block_out() {
    check(2, || {
        let (pool, source) = pool(1, 2);
        give(take(&pool, &source), &source);
        let taker = {
            let (pool, source) = (pool.clone(), source.clone());
            spawn(move || {
                let block = take(&pool, &source);
                give(block, &source);
            })
        };
        let shrinker = {
            let pool = pool.clone();
            spawn(move || pool.shrink())
        };
        join(taker);
        join(shrinker);
        drop(pool);
        assert_eq!(source.count(), 0);
    });
}

// ── the end ──

#[test]
fn of_the_last_handle_and_the_last_blocks_whichever_ends_last_frees_the_pool() {
    check(2, || {
        let (pool, source) = pool(2, 2);
        let blocks = [(); 2].map(|()| take(&pool, &source));
        let threads = blocks.map(|block| {
            let source = source.clone();
            spawn(move || give(block, &source))
        });
        join(spawn(move || drop(pool)));
        threads.map(join);
        assert_eq!((source.count(), source.0.given_back.load(Relaxed)), (0, 1));
    });
}

#[test]
fn a_thread_that_knew_the_pool_may_free_several_while_it_closes() {
    check(2, || {
        let (pool, source) = pool(5, 1);
        let freer = {
            let (pool, source) = (pool.clone(), source.clone());
            spawn(move || {
                // A shard of its own, and then more than it holds: a magazine goes to the depot.
                let blocks = [(); 5].map(|()| take(&pool, &source));
                drop(pool);
                blocks.map(|block| give(block, &source));
            })
        };
        join(spawn(move || drop(pool)));
        join(freer);
        assert_eq!((source.count(), source.0.given_back.load(Relaxed)), (0, 1));
    });
}

#[test]
fn a_thread_that_is_new_to_the_pool_may_free_several_while_two_handles_are_dropped() {
    check(2, || {
        let (pool, source) = pool(2, 1);
        let blocks = [(); 2].map(|()| take(&pool, &source));
        let other = {
            let pool = pool.clone();
            spawn(move || drop(pool))
        };
        let freer = {
            let source = source.clone();
            spawn(move || blocks.into_iter().for_each(|block| give(block, &source)))
        };
        join(spawn(move || drop(pool)));
        join(other);
        join(freer);
        assert_eq!((source.count(), source.0.given_back.load(Relaxed)), (0, 1));
    });
}
