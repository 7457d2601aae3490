//! What the handles of a pool and its blocks share.
//!
//! # The way of a block
//!
//! ```text
//!   caller ◀──▶ the thread's shard ◀──▶ depot ◀──▶ chunks (a lock) ◀── growth (another lock) ◀── source
//! ```
//!
//! The shards and the depot are the [engine](crate::local) of `SyncPool`. What the depot does not take goes into the
//! [lists](super::chunks) of the chunks, and what it does not have comes from there, a magazine at a time. A thread that finds
//! no free block there adds a chunk, under the lock `growth`, which no free needs.
//!
//! # The last block
//!
//! If there can be no further chunk, a thread looks at what the others have: first at a few shards that have something, and then,
//! under the lock `growth` again, at all: it [freezes](crate::local::Store::freeze) the store and reports
//! [`Exhausted`] only if it found nothing while nobody else was at work. A thread that is at work beside it ends its trade before it
//! waits for `growth`, and no thread waits for a trade while it holds the lock of the chunks.
//!
//! # The end
//!
//! A handle counts, a block does not. When the last handle is dropped (so nobody allocates) the pool closes:
//!
//! 1. `is_closed` is set under the lock of the chunks: blocks that come there from now on *come late*.
//! 2. The store is [closed](crate::local::Store::close): each operation that began before is over, and no block stays in it.
//! 3. Everything from there goes to the chunks. The blocks that are out, and those that came late so far, are what
//!    the pool is *owed*; that number is added to `owed`.
//!
//! A free that came late subtracts what it brought from `owed`, which may do so before step 3 and so below zero, as the last thing
//! that it does with the pool. The thread that makes `owed` zero, in step 3 or after, frees the pool: no other thread will use it.

use std::alloc::Layout;
use std::ptr::{self, NonNull};

use crossbeam_utils::CachePadded;

use super::chunk::Chunk;
use super::chunks::Chunks;
use super::config::{Growth, Zeroing};
use super::directory::{Directory, Usage};
use super::error::{Details, Exhausted, FreeError, Limit};
use super::fill::{Corruption, CorruptionKind};
use super::geometry::{self, Geometry};
use super::source::ChunkSource;
use super::stats::BlockStats;
use crate::local::{Batch, Node, Objects, Policy, Store, Trade};
use crate::primitive::atomic::{AtomicUsize, Ordering, fence};
use crate::primitive::{self, Mutex, ThreadId, current_thread, nap};

/// Blocks that may wait in the depot: as many as it has places for without its overflow, thirty for each. What is above
/// that costs the chunks' lock once for thirty blocks, and can be given back by `shrink` without a search.
const WAITING: usize = if cfg!(cenote_loom) { 2 } else { 28 * 30 };

/// How often a thread looks everywhere, if others are at work meanwhile, before it gives up.
const ROUNDS: u32 = 200;

/// What a pool is built with.
pub(super) struct Setup {
    pub(super) geometry: Geometry,
    pub(super) blocks_per_chunk: u32,
    pub(super) growth: Growth,
    pub(super) max_chunks: Option<usize>,
    pub(super) zeroing: Zeroing,
    pub(super) is_volatile: bool,
    pub(super) is_checked: bool,
    pub(super) on_corruption: fn(&Corruption),
    pub(super) source: Box<dyn ChunkSource>,
}

#[repr(C)]
pub(super) struct Inner {
    /// Whether an operation does nothing but to move the block.
    is_plain: bool,
    store: Store,
    pub(super) setup: Setup,
    pub(super) directory: Directory,
    chunks: CachePadded<Mutex<Chunks>>,
    /// Held while a chunk is added or removed, or a thread looks everywhere.
    growth: Mutex<()>,
    /// The thread that is in the source, for a chunk.
    grower: Mutex<Option<ThreadId>>,
    handles: AtomicUsize,
    /// See the head of the file.
    owed: AtomicUsize,
    /// Of the process that the pool was built in.
    generation: u32,
}

/// Blocks need no drop.
unsafe fn ignore(_: Node) {}

impl Inner {
    /// With one handle.
    pub(super) fn new(setup: Setup) -> NonNull<Self> {
        let objects = Objects { drop: ignore, free: ignore };
        let policy = Policy { period: None, max_idle: None, is_expensive: true, drops_in_use: false };
        let chunk_size = setup.geometry.stride * setup.blocks_per_chunk as usize;
        let inner = Inner {
            is_plain: !setup.is_checked && setup.zeroing == Zeroing::Never,
            // SAFETY: `ignore` does for any node.
            store: unsafe { Store::new(objects, policy) },
            directory: Directory::new(chunk_size),
            setup,
            chunks: CachePadded::new(Mutex::new(Chunks::new(Usage::default()))),
            growth: Mutex::new(()),
            grower: Mutex::new(None),
            handles: AtomicUsize::new(1),
            owed: AtomicUsize::new(0),
            generation: primitive::fence::generation(),
        };
        NonNull::from(Box::leak(Box::new(inner)))
    }

    pub(super) fn add_handle(&self) {
        // Relaxed: the caller has a handle.
        let before = self.handles.fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "too many handles of a pool");
    }

    /// # Safety
    ///
    /// The caller had a handle, and has it no more.
    pub(super) unsafe fn drop_handle(this: NonNull<Self>) {
        // SAFETY: the handle keeps it.
        let inner = unsafe { this.as_ref() };
        // Release: what was done by this handle comes before the pool closes.
        if inner.handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        if inner.close() {
            // SAFETY: `close` returned that no other thread will use the pool.
            unsafe { Self::destroy(this) }
        }
    }

    /// # Safety
    ///
    /// Nobody else uses it, or will.
    #[cold]
    unsafe fn destroy(this: NonNull<Self>) {
        // SAFETY: `new` made it as a box, and the caller's promise.
        drop(unsafe { Box::from_raw(this.as_ptr()) });
    }

    pub(super) fn block_layout(&self) -> Layout {
        self.setup.geometry.block
    }

    /// Whether blocks that are allocated are all zero.
    pub(super) fn zeroes(&self) -> bool {
        self.setup.zeroing != Zeroing::Never
    }

    // ── allocation ──

    #[inline(always)]
    pub(super) fn alloc(&self) -> Result<NonNull<u8>, Exhausted> {
        let block = self.take()?;
        if self.is_plain { Ok(block) } else { self.prepare(block) }
    }

    /// A block as it lies in the pool.
    #[inline(always)]
    pub(super) fn take(&self) -> Result<NonNull<u8>, Exhausted> {
        match self.store.take_own() {
            Some(block) => Ok(block.cast()),
            None => Ok(self.alloc_cold()?.cast()),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_cold(&self) -> Result<NonNull<()>, Exhausted> {
        loop {
            {
                let trade = self.store.trade();
                if let Some(block) = trade.take().or_else(|| self.refill(&trade)) {
                    return Ok(block);
                }
            }
            if let Err(limit) = self.grow() {
                return self.alloc_last(limit);
            }
        }
    }

    /// There can be no further chunk.
    #[cold]
    fn alloc_last(&self, limit: Limit) -> Result<NonNull<()>, Exhausted> {
        // The usual case of a pool at its cap: some other thread has a few more than it needs.
        if let Some(block) = self.store.trade().search() {
            return Ok(block);
        }
        if matches!(limit, Limit::Reentrant) {
            return Err(self.exhausted(limit, self.idle()));
        }
        let _growth = self.growth.lock();
        for _ in 0..ROUNDS {
            {
                // Others have had time, while this thread waited.
                let trade = self.store.trade();
                if let Some(block) = trade.take().or_else(|| self.refill(&trade)) {
                    return Ok(block);
                }
            }
            let freeze = self.store.freeze();
            let found = freeze.take().or_else(|| self.take_batch());
            if found.is_none() && freeze.is_settled() {
                return Err(self.exhausted(limit, 0));
            }
            // Owners that come back to their shards must not find them claimed for longer than need be.
            drop(freeze);
            match found {
                Some(batch) => {
                    if let Some(block) = self.store.trade().stock(batch) {
                        return Ok(block);
                    }
                }
                None => nap(),
            }
        }
        Err(self.exhausted(limit, self.idle()))
    }

    fn idle(&self) -> usize {
        let (in_threads, in_depot) = self.store.idle();
        in_threads + in_depot
    }

    fn exhausted(&self, limit: Limit, unreachable: usize) -> Exhausted {
        let chunks = self.chunks.lock();
        Exhausted::new(Details {
            chunks: chunks.count(),
            blocks: chunks.blocks(),
            block_size: self.block_layout().size(),
            unreachable: unreachable.min(chunks.blocks()),
            limit,
        })
    }

    /// Blocks out of the chunks' lists: one for the caller, the others for its shard.
    fn refill<'a>(&'a self, trade: &Trade<'a>) -> Option<NonNull<()>> {
        trade.stock(self.take_batch()?)
    }

    fn take_batch(&self) -> Option<Batch<'_>> {
        let mut batch = self.store.new_batch();
        let mut chunks = self.chunks.lock();
        let may_grow = self.setup.max_chunks.is_none_or(|most| chunks.count() < most);
        let most = geometry::refill(chunks.free(), may_grow);
        // SAFETY: the block is in its chunk.
        let node = |(base, index): (NonNull<u8>, u32)| unsafe { base.add(self.setup.geometry.offset(index)) };
        batch.fill(std::iter::from_fn(|| chunks.take()).take(most).map(|block| node(block).cast().as_ptr()));
        (most > 0).then_some(batch)
    }

    /// Adds a chunk, unless there are free blocks by now.
    fn grow(&self) -> Result<(), Limit> {
        if self.is_growing_here() {
            return Err(Limit::Reentrant);
        }
        let _growth = self.growth.lock();
        let Setup { blocks_per_chunk: first, growth, .. } = self.setup;
        let blocks = {
            let chunks = self.chunks.lock();
            if chunks.free() > 0 {
                return Ok(());
            }
            if self.setup.max_chunks.is_some_and(|most| chunks.count() >= most) {
                return Err(Limit::Cap);
            }
            geometry::next_chunk(first, growth, chunks.blocks())
        };
        // Memory that is too scarce for a doubled chunk may do for a small one.
        let (base, layout, blocks) = self
            .new_chunk(blocks)
            .or_else(|limit| if blocks > first { self.new_chunk(first) } else { Err(limit) })?;
        // So that a block that comes back by its address alone may be used as a whole.
        base.as_ptr().expose_provenance();
        if self.setup.is_checked {
            // SAFETY: the memory is ours.
            unsafe { self.fill_chunk(base, layout, blocks) };
        }
        let mut chunks = self.chunks.lock();
        let chunk = chunks.insert(|slot| {
            Box::into_raw(Box::new(Chunk::new(base, layout, blocks, slot, self.setup.is_checked)))
        });
        self.directory.insert(chunk, &mut chunks.usage);
        Ok(())
    }

    fn is_growing_here(&self) -> bool {
        *self.grower.lock() == Some(current_thread())
    }

    /// Memory for a chunk of so many blocks. Runs code of a user, with the lock `growth` held: that code may free blocks, which
    /// do not need it, and where it allocates is sent away by `is_growing_here`.
    fn new_chunk(&self, blocks: u32) -> Result<(NonNull<u8>, Layout, u32), Limit> {
        struct Growing<'a>(&'a Mutex<Option<ThreadId>>);
        impl Drop for Growing<'_> {
            fn drop(&mut self) {
                *self.0.lock() = None;
            }
        }
        let layout = self.setup.geometry.chunk(blocks).map_err(|error| Limit::Source(error.into()))?;
        *self.grower.lock() = Some(current_thread());
        let _growing = Growing(&self.grower);
        let source = &self.setup.source;
        let base = match self.setup.zeroing {
            Zeroing::OnFree => source.allocate_zeroed(layout),
            Zeroing::Never | Zeroing::OnAlloc => source.allocate(layout),
        };
        Ok((base.map_err(Limit::Source)?, layout, blocks))
    }

    // ── the way back ──

    /// Frees a block by its owner.
    ///
    /// # Safety
    ///
    /// The block came from `alloc` of this pool, and the caller has it no more.
    #[inline(always)]
    pub(super) unsafe fn free(this: NonNull<Self>, block: NonNull<u8>) {
        // SAFETY: a block that is out keeps the pool.
        let inner = unsafe { this.as_ref() };
        if inner.is_plain {
            // SAFETY: as above.
            unsafe { Self::give_back(this, block) }
        } else {
            // SAFETY: the caller's promise.
            unsafe { Self::free_with_care(this, block) }
        }
    }

    /// # Safety
    ///
    /// As `free`.
    #[inline(never)]
    unsafe fn free_with_care(this: NonNull<Self>, block: NonNull<u8>) {
        // SAFETY: as in `free`.
        let inner = unsafe { this.as_ref() };
        let report = inner.setup.on_corruption;
        // SAFETY: the caller's promise.
        if unsafe { Self::free_raw(this, block) }.is_err() {
            // It was freed by its address before.
            let kind = CorruptionKind::DoubleFree;
            report(&Corruption { kind, block: block.addr().get(), offset: 0 });
        }
    }

    /// Frees a block by its address. In checked mode the address may be any.
    ///
    /// # Safety
    ///
    /// The caller has a handle, or the block. Without checked mode: as `free`.
    pub(super) unsafe fn free_raw(this: NonNull<Self>, block: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the handle keeps it, or the block does.
        let inner = unsafe { this.as_ref() };
        if inner.setup.is_checked {
            inner.check(block.addr().get())?;
        }
        let report = inner.setup.on_corruption;
        let corruption = inner.clean(block);
        // SAFETY: the block was out, by the caller's promise or by `check`.
        unsafe { Self::give_back(this, block) };
        // The pool may be gone by now.
        if let Some(corruption) = corruption {
            report(&corruption);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As `free`.
    #[inline(always)]
    unsafe fn give_back(this: NonNull<Self>, block: NonNull<u8>) {
        // SAFETY: as in `free`.
        let inner = unsafe { this.as_ref() };
        // A pointer to the whole block again: the one that comes back may be for a smaller value in it.
        let node = ptr::with_exposed_provenance_mut(block.addr().get());
        if !inner.store.put_own(node) {
            let late = inner.put(node);
            // Release: what was done with the pool comes before its end. Acquire: for the thread that ends it.
            if late > 0 && inner.owed.fetch_sub(late, Ordering::AcqRel) == late {
                // SAFETY: see the head of the file.
                unsafe { Self::destroy(this) }
            }
        }
    }

    /// Puts a block where there is room. Returns how many blocks came late by it.
    #[cold]
    #[inline(never)]
    pub(super) fn put(&self, block: Node) -> usize {
        let trade = self.store.trade();
        let Some(mut batch) = trade.put(block, WAITING) else { return 0 };
        let mut chunks = self.chunks.lock();
        let count = self.give(&mut chunks, || batch.next());
        if !chunks.is_closed {
            return 0;
        }
        chunks.came_late += count;
        count
    }

    /// Blocks go into their chunks' lists. Returns how many.
    fn give(&self, chunks: &mut Chunks, mut next: impl FnMut() -> Option<Node>) -> usize {
        let (mut count, mut last): (usize, Option<&Chunk>) = (0, None);
        while let Some(block) = next() {
            let address = block.addr();
            if !last.is_some_and(|chunk| chunk.contains(address)) {
                // SAFETY: chunks are removed under the lock that we hold.
                last = self.directory.find(address).map(|chunk| unsafe { &*chunk });
            }
            let found = last.and_then(|chunk| Some((chunk.slot(), self.index(chunk, address)?)));
            debug_assert!(found.is_some(), "no block of this pool");
            if let Some((slot, index)) = found {
                chunks.give(slot, index);
                count += 1;
            }
        }
        count
    }

    // ── the whole pool ──

    /// Gives back the chunks that are free as a whole. Returns how many.
    pub(super) fn shrink(&self) -> usize {
        if self.is_growing_here() {
            return 0;
        }
        let mut removed = Vec::new();
        {
            let _growth = self.growth.lock();
            let mut drain = self.store.drain();
            let mut chunks = self.chunks.lock();
            self.give(&mut chunks, || drain.next_node());
            while let Some(chunk) = chunks.remove_whole() {
                // SAFETY: it is ours, and the directory frees it later.
                unsafe {
                    removed.push(((*chunk).base(), (*chunk).layout()));
                    self.directory.remove(chunk, &mut chunks.usage);
                }
            }
        }
        // Without a lock: code of a user.
        for (base, layout) in &removed {
            // SAFETY: the source made it, and nobody has a block of it.
            unsafe { self.setup.source.deallocate(*base, *layout) }
        }
        removed.len()
    }

    pub(super) fn owns(&self, address: usize) -> bool {
        let is_inside = |chunk: &Chunk| self.setup.geometry.is_in_block(chunk.offset(address));
        self.directory.with(address, is_inside).unwrap_or(false)
    }

    pub(super) fn stats(&self) -> BlockStats {
        let (free_in_threads, free_in_depot) = self.store.idle();
        let chunks = self.chunks.lock();
        // SAFETY: chunks are removed under the lock that we hold.
        let bytes = chunks.iter().map(|chunk| unsafe { (*chunk).layout().size() }).sum();
        let free = free_in_threads + free_in_depot + chunks.free();
        BlockStats {
            chunks: chunks.count(),
            bytes,
            blocks: chunks.blocks(),
            in_use: chunks.blocks().saturating_sub(free),
            free_in_threads,
            free_in_depot,
            free_in_chunks: chunks.free(),
        }
    }

    /// The last handle is gone. Returns whether the caller has to free the pool.
    #[cold]
    fn close(&self) -> bool {
        self.chunks.lock().is_closed = true;
        let is_forked = self.generation != primitive::fence::generation();
        // In a forked child, blocks that a thread of the parent was moving are lost, and so is the pool.
        let Some(mut drain) = self.store.close(is_forked) else { return false };
        let owed = {
            let mut chunks = self.chunks.lock();
            self.give(&mut chunks, || drain.next_node());
            chunks.blocks() - chunks.free() + chunks.came_late
        };
        // Release and Acquire: as in `give_back`.
        self.owed.fetch_add(owed, Ordering::AcqRel).wrapping_add(owed) == 0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let chunks = self.chunks.lock();
        for chunk in chunks.iter() {
            // SAFETY: nobody else uses the pool, so neither the chunk nor a block of it.
            unsafe {
                let chunk = Box::from_raw(chunk);
                self.setup.source.deallocate(chunk.base(), chunk.layout());
            }
        }
    }
}
