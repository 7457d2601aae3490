//! `BlockPool`: its promises, and what other pools of blocks got wrong, with the report's name.

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::error::Error;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cenote::block_pool::{
    Block, BlockPool, BuildError, ChunkSource, Corruption, CorruptionKind, FreeError, Growth, NotBoxedReason,
    SourceError, Zeroing,
};
use cenote::{BlockPool as AtTheRoot, PoolBox};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// A source that counts, and fails or panics when it is asked to.
#[derive(Clone, Default)]
struct Counted(Arc<Counts>);

#[derive(Default)]
struct Counts {
    chunks: AtomicUsize,
    bytes: AtomicUsize,
    fails: AtomicBool,
    panics: AtomicBool,
    /// Whether `allocate` fills memory with junk.
    is_dirty: AtomicBool,
}

impl Counted {
    fn chunks(&self) -> usize {
        self.0.chunks.load(Ordering::SeqCst)
    }
}

// SAFETY: the global allocator's memory.
unsafe impl ChunkSource for Counted {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
        if self.0.fails.load(Ordering::SeqCst) {
            return Err("the region is full".into());
        }
        assert!(!self.0.panics.load(Ordering::SeqCst), "the source panics");
        // SAFETY: a chunk is not empty.
        let memory = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or("out of memory")?;
        if self.0.is_dirty.load(Ordering::SeqCst) {
            // SAFETY: it is ours.
            unsafe { memory.write_bytes(0x5a, layout.size()) };
        }
        self.0.chunks.fetch_add(1, Ordering::SeqCst);
        self.0.bytes.fetch_add(layout.size(), Ordering::SeqCst);
        Ok(memory)
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        self.0.chunks.fetch_sub(1, Ordering::SeqCst);
        self.0.bytes.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { alloc::dealloc(memory.as_ptr(), layout) }
    }
}

fn in_another_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn blocks_of_every_size_and_alignment_are_apart_and_aligned() {
    // asterinas#3911, acid_alloc#6: odd sizes; foonathan/memory#64: fences off the alignment.
    for size in [1, 7, 8, 24, 63, 64, 65, 200, 4095, 4096, 4097] {
        for align in [1, 8, 64, 4096] {
            for checked in [false, true] {
                let pool = BlockPool::builder(layout(size, align))
                    .blocks_per_chunk(10)
                    .checked(checked)
                    .build()
                    .unwrap();
                let mut blocks: Vec<Block> = (0..35).map(|_| pool.alloc().unwrap()).collect();
                for (number, block) in blocks.iter_mut().enumerate() {
                    assert!(block.as_ptr().addr().get().is_multiple_of(align));
                    for byte in block.as_uninit() {
                        byte.write(number as u8);
                    }
                }
                for (number, block) in blocks.iter().enumerate() {
                    // SAFETY: it was written to as a whole.
                    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr().as_ptr(), size) };
                    assert!(
                        bytes.iter().all(|byte| *byte == number as u8),
                        "{size} bytes aligned to {align}"
                    );
                }
                // foonathan/memory#109, Fast-DDS#875: as many blocks with checks as without.
                assert_eq!((pool.stats().chunks, pool.stats().blocks), (4, 40));
            }
        }
    }
}

#[test]
fn numbers_that_do_not_fit_are_an_error_and_no_panic() {
    let new = |size, align, blocks| BlockPool::new(layout(size, align), blocks).map(drop).unwrap_err();
    assert_eq!(new(0, 1, 10), BuildError::EmptyBlock);
    assert_eq!(new(64, 8192, 10), BuildError::Alignment { align: 8192, most: 4096 });
    assert_eq!(new(64, 64, 0), BuildError::BlocksPerChunk { blocks: 0, most: 65_535 });
    assert_eq!(new(64, 64, 65_536), BuildError::BlocksPerChunk { blocks: 65_536, most: 65_535 });
    assert_eq!(new(isize::MAX as usize / 2, 1, 3), BuildError::ChunkTooLarge);
    let no_chunks = BlockPool::builder(layout(64, 64)).max_chunks(0).build().map(drop);
    assert_eq!(no_chunks.unwrap_err(), BuildError::NoChunks);
    assert!(AtTheRoot::new(layout(64, 64), 65_535).is_ok());
}

#[test]
fn a_box_drops_its_value_once_and_frees_the_block_also_if_that_panics() {
    #[derive(Debug)]
    struct Bomb<'a>(&'a AtomicUsize, bool);
    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            assert!(!self.1, "the drop panics");
        }
    }
    let drops = AtomicUsize::new(0);
    let pool =
        BlockPool::builder(Layout::new::<Bomb<'_>>()).max_chunks(1).blocks_per_chunk(1).build().unwrap();
    drop(pool.boxed(Bomb(&drops, false)).unwrap());
    let bomb = pool.boxed(Bomb(&drops, true)).unwrap();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(bomb))).unwrap_err();
    assert_eq!((drops.load(Ordering::SeqCst), pool.stats().in_use), (2, 0));

    let value = PoolBox::into_inner(pool.boxed(Bomb(&drops, false)).unwrap());
    assert_eq!((drops.load(Ordering::SeqCst), pool.stats().in_use), (2, 0));
    let (value, block) =
        PoolBox::into_block(pool.boxed(value).unwrap_or_else(|_| panic!("there is a block")));
    // With the one block out the value comes back.
    let refused = pool.boxed(value).unwrap_err();
    assert!(matches!(refused.reason, NotBoxedReason::Exhausted(_)));
    let boxed = block.write(refused.value).unwrap_or_else(|_| panic!("it fits"));
    drop(boxed);
    assert_eq!(drops.load(Ordering::SeqCst), 3);
}

#[test]
fn a_value_that_does_not_fit_comes_back() {
    let pool = BlockPool::new(layout(16, 8), 10).unwrap();
    let refused = pool.boxed([1_u64; 3]).unwrap_err();
    assert!(matches!(refused.reason, NotBoxedReason::DoesNotFit));
    assert_eq!(refused.value, [1; 3]);
    #[derive(Debug, PartialEq)]
    #[repr(align(16))]
    struct Aligned(u8);
    let (block, value) = pool.alloc().unwrap().write(Aligned(7)).unwrap_err();
    assert_eq!((value, block.layout()), (Aligned(7), layout(16, 8)));
    drop(block);
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn a_box_may_become_one_of_a_trait_object_and_a_pin() {
    let pool = BlockPool::new(layout(64, 16), 10).unwrap();
    let boxed = PoolBox::into_raw(pool.boxed(String::from("dyn")).unwrap());
    let shown: NonNull<dyn std::fmt::Display> = boxed;
    // SAFETY: the address of a box of this pool, used once.
    let shown: PoolBox<dyn std::fmt::Display> = unsafe { PoolBox::from_raw(shown, &pool) };
    assert_eq!(shown.to_string(), "dyn");
    drop(shown);
    let mut future = PoolBox::into_pin(pool.boxed(async { 7 }).unwrap());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(future.as_mut().poll(&mut context), std::task::Poll::Ready(7));
    drop(future);
    assert_eq!(pool.stats().in_use, 0);
}

// ── checked mode ──

fn checked(size: usize, align: usize) -> BlockPool {
    BlockPool::builder(layout(size, align)).blocks_per_chunk(100).checked(true).build().unwrap()
}

#[test]
fn foreign_misaligned_and_double_frees_are_told_apart_and_free_nothing() {
    // RendererEngine#697, cobalt#10894.
    let pool = checked(48, 16);
    let other = checked(48, 16);
    let blocks: Vec<_> = (0..150).map(|_| pool.alloc_raw().unwrap()).collect();
    let foreign = other.alloc_raw().unwrap();
    let mut local = [0_u8; 100];
    // SAFETY: checked mode takes any address.
    unsafe {
        for address in [foreign, NonNull::from(&mut local).cast(), NonNull::dangling()] {
            assert_eq!(pool.free_raw(address), Err(FreeError::Foreign));
        }
        for offset in [1, 15, 16, 47, 48, 63] {
            assert_eq!(pool.free_raw(blocks[3].add(offset)), Err(FreeError::Misaligned), "at {offset}");
        }
        assert_eq!(pool.free_raw(blocks[3].sub(1)), Err(FreeError::Misaligned));
        assert_eq!(pool.stats().in_use, 150);
        for block in &blocks {
            assert_eq!(pool.free_raw(*block), Ok(()));
            assert_eq!(pool.free_raw(*block), Err(FreeError::DoubleFree));
        }
        assert_eq!(other.free_raw(foreign), Ok(()));
    }
    assert_eq!(pool.stats().in_use, 0);
    // No list has a cycle: as many blocks as there are, each once.
    let again: BTreeSet<_> = (0..200).map(|_| pool.alloc_raw().unwrap()).collect();
    assert_eq!((again.len(), pool.stats().chunks), (200, 2));
    // The chunks are gone, and their addresses foreign.
    for block in &again {
        // SAFETY: as above.
        unsafe { pool.free_raw(*block).unwrap() };
    }
    assert_eq!(pool.shrink(), 2);
    // SAFETY: as above.
    assert_eq!(unsafe { pool.free_raw(blocks[0]) }, Err(FreeError::Foreign));
}

#[test]
fn of_two_threads_that_free_a_block_exactly_one_gets_double_free() {
    let pool = checked(32, 8);
    let rounds = 2_000;
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let block = Mutex::new(NonNull::<u8>::dangling().addr());
    let doubles = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (pool, start, end, block, doubles) = (&pool, &start, &end, &block, &doubles);
            scope.spawn(move || {
                for _ in 0..rounds {
                    if thread == 0 {
                        *block.lock().unwrap() = pool.alloc_raw().unwrap().addr();
                    }
                    start.wait();
                    let address = *block.lock().unwrap();
                    let address = NonNull::new(std::ptr::without_provenance_mut(address.get())).unwrap();
                    start.wait();
                    // SAFETY: checked mode takes any address, and nobody uses the block.
                    match unsafe { pool.free_raw(address) } {
                        Ok(()) => {}
                        Err(error) => {
                            assert_eq!(error, FreeError::DoubleFree);
                            doubles.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    end.wait();
                }
            });
        }
    });
    assert_eq!((doubles.into_inner(), pool.stats().in_use), (rounds, 0));
}

thread_local! {
    static REPORTED: Cell<Option<Corruption>> = const { Cell::new(None) };
}

fn reporting(size: usize, align: usize, zeroing: Zeroing) -> BlockPool {
    let report = |corruption: &Corruption| REPORTED.set(Some(*corruption));
    let builder = BlockPool::builder(layout(size, align)).blocks_per_chunk(10).checked(true).zeroing(zeroing);
    builder.on_corruption(report).build().unwrap()
}

#[test]
fn writes_out_of_bounds_are_found_by_the_free_on_either_side() {
    for (size, align) in [(40, 8), (64, 64), (1, 1), (4095, 1), (4096, 4096)] {
        let pool = reporting(size, align, Zeroing::Never);
        for (offset, value) in [(size as isize, 0), (size as isize + 7, 1), (-1, 2), (-16, 3)] {
            let blocks: Vec<Block> = (0..10).map(|_| pool.alloc().unwrap()).collect();
            for block in blocks {
                let address = block.as_ptr();
                // SAFETY: between blocks of the chunk, where nobody else looks now.
                unsafe { address.offset(offset).write(value) };
                drop(block);
                let corruption = REPORTED.take().expect("it was found");
                assert_eq!(
                    (corruption.kind, corruption.block, corruption.offset),
                    (CorruptionKind::OutOfBounds, address.addr().get(), offset),
                );
            }
            // It was repaired.
            drop(pool.alloc().unwrap());
            assert_eq!(REPORTED.take(), None);
        }
    }
}

#[test]
fn a_write_to_a_free_block_is_found_by_the_next_allocation_which_gets_a_clean_one() {
    for zeroing in [Zeroing::Never, Zeroing::OnAlloc, Zeroing::OnFree] {
        let pool = reporting(100, 4, zeroing);
        let block = pool.alloc_raw().unwrap();
        // SAFETY: a block of the pool, which this test writes to after the free, on purpose.
        unsafe {
            pool.free_raw(block).unwrap();
            block.add(57).write(1);
        }
        let next = pool.alloc().unwrap();
        let corruption = REPORTED.take().expect("it was found");
        assert_eq!(
            (corruption.kind, corruption.block, corruption.offset),
            (CorruptionKind::UseAfterFree, block.addr().get(), 57)
        );
        match zeroing {
            Zeroing::Never => drop(next),
            _ => assert!(next.zeroed().iter().all(|byte| *byte == 0)),
        }
        assert_eq!(pool.stats().in_use, 0);
    }
}

#[test]
fn an_owner_whose_block_was_freed_by_its_address_does_not_free_it_again() {
    let pool = reporting(64, 8, Zeroing::Never);
    let block = pool.alloc().unwrap();
    // SAFETY: checked mode takes any address.
    unsafe { pool.free_raw(block.as_ptr()).unwrap() };
    drop(block);
    assert_eq!(REPORTED.take().map(|corruption| corruption.kind), Some(CorruptionKind::DoubleFree));
    assert_eq!((pool.stats().in_use, pool.stats().blocks), (0, 10));
}

#[test]
fn without_a_handler_corruption_is_a_panic_and_the_pool_works_on() {
    let pool =
        BlockPool::builder(layout(24, 8)).checked(true).max_chunks(1).blocks_per_chunk(2).build().unwrap();
    let block = pool.alloc().unwrap();
    // SAFETY: behind the block, where nobody else looks.
    unsafe { block.as_ptr().add(24).write(0) };
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(block))).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("written to out of its bounds, at byte 24"), "{text}");
    assert_eq!(pool.stats().in_use, 0);
    let both = [pool.alloc().unwrap(), pool.alloc().unwrap()];
    drop(both);
}

// ── zeroing ──

#[test]
fn no_user_reads_the_bytes_of_another_and_fresh_memory_is_clean_too() {
    for zeroing in [Zeroing::OnAlloc, Zeroing::OnFree] {
        for volatile in [false, true] {
            for checked in [false, true] {
                let source = Counted::default();
                source.0.is_dirty.store(true, Ordering::SeqCst);
                let pool = BlockPool::builder(layout(1001, 8))
                    .blocks_per_chunk(20)
                    .zeroing(zeroing)
                    .volatile_zeroing(volatile)
                    .checked(checked)
                    .source(source)
                    .build()
                    .unwrap();
                for _ in 0..3 {
                    let mut blocks: Vec<_> = (0..50).map(|_| pool.alloc().unwrap().zeroed()).collect();
                    for block in &mut blocks {
                        assert!(block.len() == 1001 && block.iter().all(|byte| *byte == 0));
                        block.fill(0xaa);
                    }
                    if zeroing == Zeroing::OnFree {
                        let addresses: Vec<_> = blocks.iter().map(|block| block.as_ptr()).collect();
                        drop(blocks);
                        // SAFETY: nobody has them, and the pool has not given them back.
                        let left =
                            |address: &*const u8| unsafe { std::slice::from_raw_parts(*address, 1001) };
                        assert!(addresses.iter().all(|address| left(address).iter().all(|byte| *byte == 0)));
                    }
                }
            }
        }
    }
}

// ── the cap ──

#[test]
fn at_the_cap_the_error_says_where_the_blocks_are() {
    let pool = BlockPool::builder(layout(2048, 64)).blocks_per_chunk(32).max_chunks(4).build().unwrap();
    let blocks: Vec<Block> = (0..128).map(|_| pool.alloc().unwrap()).collect();
    let error = pool.alloc().unwrap_err();
    assert_eq!((error.blocks(), error.in_use(), error.unreachable(), error.is_at_cap()), (128, 128, 0, true));
    assert_eq!(
        error.to_string(),
        "the pool has its 4 chunks, and 128 of 128 blocks of 2048 bytes are in use"
    );
    drop(blocks);
    assert!(pool.alloc().is_ok());
}

#[test]
fn at_the_cap_blocks_of_threads_that_sleep_or_have_ended_are_found() {
    // gatekeeper#145, daqiri#207.
    let pool = BlockPool::builder(layout(64, 64)).blocks_per_chunk(128).max_chunks(1).build().unwrap();
    // One that has ended with 60 in its magazines, and one that sleeps on as many.
    let fill = |pool: &BlockPool, count| {
        let blocks: Vec<Block> = (0..count).map(|_| pool.alloc().unwrap()).collect();
        drop(blocks);
    };
    in_another_thread(|| fill(&pool, 60));
    let (wake, asleep) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let sleeper = {
        let pool = pool.clone();
        thread::spawn(move || {
            fill(&pool, 68);
            ready.send(()).unwrap();
            asleep.recv().unwrap_err();
        })
    };
    is_ready.recv().unwrap();
    let blocks: Vec<Block> =
        (0..128).map(|at| pool.alloc().unwrap_or_else(|error| panic!("block {at}: {error}"))).collect();
    assert!(pool.alloc().is_err());
    drop((wake, blocks));
    sleeper.join().unwrap();
}

#[test]
fn at_the_cap_blocks_of_more_threads_than_a_search_looks_at_are_found() {
    let pool = BlockPool::builder(layout(64, 64)).blocks_per_chunk(120).max_chunks(1).build().unwrap();
    let threads = 40;
    let (all_hold, all_have_freed, end) =
        (Barrier::new(threads), Barrier::new(threads + 1), Barrier::new(threads + 1));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let blocks = [(); 3].map(|()| pool.alloc());
                all_hold.wait();
                let all_were_found = blocks.iter().all(Result::is_ok);
                drop(blocks);
                all_have_freed.wait();
                end.wait();
                assert!(all_were_found);
            });
        }
        all_have_freed.wait();
        let found = (0..120).map_while(|_| pool.alloc().ok()).collect::<Vec<Block>>().len();
        // Before a check fails: the threads sleep until then.
        end.wait();
        assert_eq!(found, 120);
    });
}

#[test]
fn at_the_cap_no_allocation_fails_while_a_block_is_free() {
    // Four threads that hold 32 each at most, of 128; then of 127 one too many may fail, but only while all are out.
    let pool = BlockPool::builder(layout(64, 64)).blocks_per_chunk(128).max_chunks(1).build().unwrap();
    let stop = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut seed = thread + 1;
                let mut held: Vec<Block> = Vec::new();
                while Instant::now() < stop {
                    for _ in 0..100 {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        match seed % 5 {
                            0..=2 if held.len() < 32 => {
                                held.push(pool.alloc().unwrap_or_else(|error| panic!("{error}: {error:?}")));
                            }
                            3 => drop(held.drain(..held.len() / 2)),
                            _ => drop(held.pop()),
                        }
                    }
                }
            });
        }
    });
    assert_eq!((pool.stats().in_use, pool.stats().blocks), (0, 128));
}

#[test]
fn a_source_that_fails_is_the_cause_of_the_error_and_blocks_elsewhere_are_found_before() {
    let source = Counted::default();
    let pool = BlockPool::builder(layout(64, 8)).blocks_per_chunk(40).source(source.clone()).build().unwrap();
    in_another_thread(|| drop((0..40).map(|_| pool.alloc().unwrap()).collect::<Vec<_>>()));
    source.0.fails.store(true, Ordering::SeqCst);
    let blocks: Vec<Block> = (0..40).map(|_| pool.alloc().unwrap()).collect();
    let error = pool.alloc().unwrap_err();
    assert!(!error.is_at_cap());
    assert_eq!(error.source().unwrap().to_string(), "the region is full");
    assert!(error.to_string().contains("40 of 40 blocks"), "{error}");
    source.0.fails.store(false, Ordering::SeqCst);
    drop(pool.alloc().unwrap());
    source.0.panics.store(true, Ordering::SeqCst);
    let more: Vec<Block> = (0..40).map(|_| pool.alloc().unwrap()).collect();
    std::panic::catch_unwind(|| pool.alloc().map(drop)).unwrap_err();
    source.0.panics.store(false, Ordering::SeqCst);
    assert!(pool.alloc().is_ok(), "the pool works on");
    drop((blocks, more));
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn a_source_may_free_blocks_and_may_not_allocate_from_a_pool_that_needs_a_chunk() {
    #[derive(Default)]
    struct Reentrant {
        pool: Mutex<Option<BlockPool>>,
        held: Mutex<Vec<Block>>,
        seen: AtomicUsize,
    }
    struct Handle(Arc<Reentrant>);
    // SAFETY: the global allocator's memory.
    unsafe impl ChunkSource for Handle {
        fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
            if let Some(pool) = &*self.0.pool.lock().unwrap() {
                let error = pool.alloc().unwrap_err();
                assert!(error.to_string().contains("needs a block of its own pool"), "{error}");
                assert_eq!(pool.shrink(), 0);
                self.0.held.lock().unwrap().clear();
                self.0.seen.fetch_add(1, Ordering::SeqCst);
            }
            // SAFETY: a chunk is not empty.
            NonNull::new(unsafe { alloc::alloc(layout) }).ok_or("out of memory".into())
        }

        unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
            // SAFETY: the caller's promise.
            unsafe { alloc::dealloc(memory.as_ptr(), layout) }
        }
    }
    let source = Arc::new(Reentrant::default());
    let pool = BlockPool::builder(layout(64, 8))
        .blocks_per_chunk(10)
        .source(Handle(source.clone()))
        .build()
        .unwrap();
    *source.held.lock().unwrap() = (0..10).map(|_| pool.alloc().unwrap()).collect();
    *source.pool.lock().unwrap() = Some(pool.clone());
    assert!(pool.alloc().is_ok());
    // A source that keeps a handle of its own pool keeps it alive.
    source.pool.lock().unwrap().take();
    assert_eq!(source.seen.load(Ordering::SeqCst), 1);
}

// ── memory ──

#[test]
fn shrink_gives_back_whole_chunks_in_any_order_of_frees_and_with_blocks_in_any_thread() {
    // boost pool#30: nothing was given back unless frees were in reverse.
    let source = Counted::default();
    let pool = BlockPool::builder(layout(64, 8)).blocks_per_chunk(50).source(source.clone()).build().unwrap();
    let mut blocks: Vec<Block> = (0..500).map(|_| pool.alloc().unwrap()).collect();
    assert_eq!((source.chunks(), pool.shrink()), (10, 0));
    let kept = blocks.swap_remove(123);
    // In an order of chance, on threads that end and one that sleeps.
    let (wake, asleep) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let half = blocks.split_off(250);
    blocks.sort_by_key(|block| block.as_ptr().addr().get().wrapping_mul(0x9e37_79b9) & 0xffff);
    in_another_thread(move || drop(blocks));
    let sleeper = thread::spawn(move || {
        drop(half);
        ready.send(()).unwrap();
        asleep.recv().unwrap_err();
    });
    is_ready.recv().unwrap();
    assert_eq!((pool.shrink(), source.chunks()), (9, 1));
    let stats = pool.stats();
    assert_eq!((stats.chunks, stats.blocks, stats.in_use, stats.free_in_chunks), (1, 50, 1, 49));
    drop((kept, wake));
    assert_eq!((pool.shrink(), source.chunks()), (1, 0));
    assert!(pool.alloc().is_ok());
    sleeper.join().unwrap();
}

#[test]
fn a_thread_and_the_depot_keep_as_many_free_blocks_as_is_documented_and_no_more() {
    let pool = BlockPool::new(layout(64, 8), 1000).unwrap();
    drop((0..5_000).map(|_| pool.alloc().unwrap()).collect::<Vec<Block>>());
    let stats = pool.stats();
    assert!(stats.free_in_threads <= 60 && stats.free_in_depot <= 840, "{stats:?}");
    assert_eq!(stats.in_use, 0);
}

#[test]
fn a_purge_does_not_inflate_the_next_chunk() {
    // boost#1060, pool#66, openrave#322: 65,536 to 33,554,432 blocks in ten turns.
    let source = Counted::default();
    let builder = BlockPool::builder(layout(64, 8)).blocks_per_chunk(64).growth(Growth::Doubling);
    let pool = builder.source(source.clone()).build().unwrap();
    let mut most = Vec::new();
    for _ in 0..10 {
        let blocks: Vec<Block> = (0..1000).map(|_| pool.alloc().unwrap()).collect();
        most.push(pool.stats().blocks);
        assert_eq!(pool.stats().chunks, 5, "64, 64, 128, 256, 512");
        drop(blocks);
        pool.shrink();
        assert_eq!(source.chunks(), 0);
    }
    assert!(most.iter().all(|blocks| *blocks == 1024), "{most:?}");
}

#[test]
fn owns_says_of_any_address_whether_it_is_in_a_block() {
    let pool = checked(100, 4);
    let blocks: Vec<Block> = (0..250).map(|_| pool.alloc().unwrap()).collect();
    for block in &blocks {
        let address = block.as_ptr().as_ptr();
        assert!(pool.owns(address) && pool.owns(address.wrapping_add(99)));
        assert!(
            !pool.owns(address.wrapping_add(100)) && !pool.owns(address.wrapping_sub(1)),
            "fences are in no block"
        );
    }
    assert!(!pool.owns(&pool) && !pool.owns(std::ptr::null::<u8>()));
}

#[test]
fn a_pool_may_be_dropped_before_its_blocks_which_keep_the_chunks() {
    // shared-arena#1, carllerche/pool#12.
    let source = Counted::default();
    let pool = BlockPool::builder(Layout::new::<String>())
        .blocks_per_chunk(40)
        .source(source.clone())
        .build()
        .unwrap();
    let boxes: Vec<_> = (0..100).map(|at| pool.boxed(format!("value {at}")).unwrap()).collect();
    drop(pool.clone());
    drop(pool);
    assert_eq!(source.chunks(), 3);
    let mut boxes = boxes.into_iter();
    let last = boxes.next().unwrap();
    in_another_thread(move || {
        for (at, boxed) in boxes.enumerate() {
            assert_eq!(*boxed, format!("value {}", at + 1));
        }
    });
    assert_eq!(source.chunks(), 3);
    assert_eq!(*last, "value 0");
    drop(last);
    assert_eq!((source.chunks(), source.0.bytes.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn a_pool_that_is_dropped_while_other_threads_free_is_freed_once() {
    for round in 0..300 {
        let source = Counted::default();
        let pool =
            BlockPool::builder(layout(64, 8)).blocks_per_chunk(32).source(source.clone()).build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let blocks: Vec<Block> = (0..round % 100).map(|_| pool.alloc().unwrap()).collect();
                thread::spawn(move || drop(blocks))
            })
            .collect();
        drop(pool);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(source.chunks(), 0, "round {round}");
    }
}

#[test]
fn a_thread_local_destructor_may_free_the_last_block() {
    thread_local! {
        static KEPT: Cell<Option<Block>> = const { Cell::new(None) };
    }
    let source = Counted::default();
    let pool = BlockPool::builder(layout(64, 8)).source(source.clone()).build().unwrap();
    thread::spawn(move || {
        KEPT.set(Some(pool.alloc().unwrap()));
        drop(pool);
    })
    .join()
    .unwrap();
    assert_eq!(source.chunks(), 0);
}

#[test]
fn memory_is_flat_where_one_thread_allocates_and_one_that_never_does_frees() {
    // mimalloc#1364, #214, #1117; netty#12749: and where the threads that free come and go.
    let source = Counted::default();
    let pool =
        BlockPool::builder(layout(256, 8)).blocks_per_chunk(64).source(source.clone()).build().unwrap();
    let mut most = 0;
    for round in 0..50 {
        let (send, receive) = mpsc::sync_channel::<Block>(100);
        let freer = thread::spawn(move || receive.iter().for_each(drop));
        for _ in 0..2_000 {
            send.send(pool.alloc().unwrap()).unwrap();
        }
        drop(send);
        freer.join().unwrap();
        if round == 4 {
            most = source.chunks();
        }
    }
    // The queue, the hands, the depot, and two threads' magazines.
    assert!(source.chunks() <= most + 2, "{most} chunks after 5 rounds, {} after 50", source.chunks());
    assert!(source.chunks() <= (100 + 840 + 4 * 60_usize).div_ceil(64), "{} chunks", source.chunks());
    assert_eq!(pool.stats().in_use, 0);
}

// ── collections ──

#[test]
fn maps_and_vectors_live_in_a_pool_and_outgrow_it() {
    let pool = BlockPool::builder(layout(1024, 16)).blocks_per_chunk(32).build().unwrap();
    let mut map = hashbrown::HashMap::with_hasher_in(std::hash::RandomState::new(), pool.clone());
    let mut many = Vec::new();
    for at in 0..40_u32 {
        let mut vec = allocator_api2::vec::Vec::new_in(pool.clone());
        vec.extend(0..at);
        map.insert(at, vec);
        many.push(allocator_api2::boxed::Box::new_in([at; 100], pool.clone()));
    }
    assert!(pool.stats().in_use > 60, "{:?}", pool.stats());
    // One that does not fit any more, and fits again.
    let mut large = allocator_api2::vec::Vec::new_in(pool.clone());
    large.extend(0_u64..10_000);
    assert!(!pool.owns(large.as_ptr()));
    large.truncate(20);
    large.shrink_to_fit();
    assert!(pool.owns(large.as_ptr()) && large.iter().copied().eq(0..20));
    for at in 40..2_000 {
        map.insert(at, allocator_api2::vec::Vec::new_in(pool.clone()));
    }
    assert!(map.iter().take(2_000).all(|(at, vec)| *at >= 40 || vec.iter().copied().eq(0..*at)));
    map.retain(|at, _| *at < 10);
    map.shrink_to_fit();
    drop((map, many, large));
    assert_eq!(pool.stats().in_use, 0);

    let mut newer = allocator_api2_04::vec::Vec::new_in(pool.clone());
    newer.extend(0_u8..200);
    assert!(pool.owns(newer.as_ptr()));
    drop((newer, pool));
}

#[test]
fn an_exhausted_pool_fails_a_collection_that_can_say_so() {
    let pool = BlockPool::builder(layout(256, 8)).blocks_per_chunk(1).max_chunks(1).build().unwrap();
    let mut first = allocator_api2::vec::Vec::new_in(pool.clone());
    first.try_reserve(10_usize).unwrap();
    first.push(1_u64);
    let mut second = allocator_api2::vec::Vec::<u64, _>::new_in(pool.clone());
    second.try_reserve(10).unwrap_err();
    second.try_reserve(1_000).unwrap();
    assert_eq!(first[0], 1);
}
