//! Blocks of one size, out of chunks: [`BlockPool`].
//!
//! ```
//! use std::alloc::Layout;
//!
//! use cenote::block_pool::{BlockPool, Zeroing};
//!
//! // Packets of 2 KiB, in a region of 4 chunks of 256: 2 MiB and no more.
//! let packets = BlockPool::builder(Layout::from_size_align(2048, 64)?)
//!     .blocks_per_chunk(256)
//!     .max_chunks(4)
//!     .zeroing(Zeroing::OnFree) // no request reads another's bytes
//!     .build()?;
//!
//! let mut packet = packets.alloc()?.zeroed(); // an owned `[u8]` of 2,048 bytes
//! packet[..5].copy_from_slice(b"hello");
//! assert!(packet[5..].iter().all(|byte| *byte == 0));
//! drop(packet); // back, from whichever thread
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When to use it, and when not
//!
//! A general allocator is good at blocks of one size: jemalloc and mimalloc are level with this pool where a block is allocated and
//! freed again, and take 0.6 of its time in bursts of a hundred small ones. (From thread to thread, and with blocks of a KiB, this
//! pool is ahead: the figures are in the README.) Use this one for what a general allocator does not do: memory that is
//! bounded, or comes from a [region of its own](ChunkSource), such as huge pages, locked or shared memory; that is aligned up to
//! a page at no cost; that is [wiped](Zeroing) between two users; or whose users are [checked](BlockPoolBuilder::checked)
//! for double frees and writes beyond the end, in a test or in production.
//!
//! Do not use it
//!
//! * for objects that keep something that was expensive to make, a buffer that has grown, a connection: a
//!   [`SyncPool`](crate::SyncPool) keeps objects, this one drops the value and keeps the memory;
//! * for blocks of many sizes, or of unknown ones: that is a general allocator;
//! * for an arena, whose blocks all end at once: `bumpalo` needs no free at all;
//! * in a signal handler, or as the global allocator: the pool takes locks, and allocates;
//! * in a child that a process with other threads has forked: one of them may have held a lock of the pool.
//!
//! # What it promises
//!
//! * Allocation and free touch the thread's own magazine: a few plain loads and stores, and no lock. What one thread frees and
//!   another needs travels thirty blocks at a time.
//! * Nothing of the pool is kept in a block. Block `i` of a chunk begins at `i` times the *stride*: the size, rounded up to
//!   the alignment. So a block of 4,095 bytes costs that, and one of 48 bytes that is aligned to 64 costs 64. Beside its
//!   blocks a chunk costs 2 bytes a block and less than 200 bytes. A block that is free, and lies in a thread's magazine or the depot,
//!   also takes 8.5 bytes there; a thread has 60 such blocks at most, and the depot 840.
//! * At the cap, a block that is free anywhere is found: with a thread that sleeps or has ended, or in the depot. An allocation
//!   fails only if there was a moment at which callers had every block (or with
//!   [`Exhausted::unreachable`] blocks, if a thread does not leave the middle of an operation for longer than about a second).
//!   Such an allocation costs some microseconds, and interrupts all threads of the process for one.
//! * [`shrink`](BlockPool::shrink) gives every chunk back that is free as a whole, wherever its blocks lie.
//! * The pool may be dropped before its blocks: the chunks are freed when the last block is.
//! * Which block an allocation returns is not promised. On one thread it is most often the one freed last.
//! * A free happens before the allocation that returns the block.
//! * No code of a user runs while a lock is held that a free needs.
//!
//! # With collections
//!
//! With the feature `allocator-api2`, a pool is an allocator for `hashbrown`, and for the collections of the crate `allocator-api2`
//! 0.2; with `allocator-api2-04` for those of its version 0.4. A request that fits a block gets one; a larger one goes to
//! the global allocator. So it serves nodes, boxes and tables of a known size. See
//! [`BlockPool`](BlockPool#impl-Allocator-for-BlockPool).
//!
//! # The algorithm
//!
//! Chunks with a table of free blocks aside are the slabs of Bonwick, *The Slab Allocator* (USENIX 1994); the magazines and their depot
//! are those of Bonwick and Adams, *Magazines and Vmem* (USENIX ATC 2001), and the [engine](crate::docs::internals) that
//! `SyncPool` uses.

mod allocator;
mod block;
mod care;
mod chunk;
mod chunks;
mod config;
mod directory;
mod error;
mod fill;
mod geometry;
mod inner;
#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models;
mod source;
mod stats;

use std::alloc::Layout;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;

pub use self::block::{Block, PoolBox};
pub use self::config::{BlockPoolBuilder, BuildError, Growth, Zeroing};
pub use self::error::{Exhausted, FreeError, NotBoxed, NotBoxedReason};
pub use self::fill::{Corruption, CorruptionKind};
pub use self::source::{ChunkSource, SourceError};
pub use self::stats::BlockStats;

use self::inner::Inner;

/// A pool of memory blocks of one size. See the [module](self).
///
/// This is a handle: a clone leads to the same pool. When the last one is dropped, the pool frees its memory as soon as
/// the last block is back; it waits for threads that are in the middle of a free.
pub struct BlockPool {
    inner: NonNull<Inner>,
}

// SAFETY: `Inner` is made for use by many threads: see its head.
unsafe impl Send for BlockPool {}
// SAFETY: as above.
unsafe impl Sync for BlockPool {}
// A panic of a source, or about corruption, leaves nothing half-changed.
impl UnwindSafe for BlockPool {}
impl RefUnwindSafe for BlockPool {}

impl BlockPool {
    /// A pool of blocks of this size and alignment, which grows by chunks of so many.
    ///
    /// # Errors
    ///
    /// If the size is 0, the alignment is above 4,096, or the number of blocks is not 1 to 65,535: see [`BuildError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::alloc::Layout;
    ///
    /// use cenote::block_pool::BlockPool;
    ///
    /// let pool = BlockPool::new(Layout::new::<[u64; 8]>(), 128)?;
    /// let block = pool.alloc()?;
    /// assert_eq!(block.layout().size(), 64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(block: Layout, blocks_per_chunk: usize) -> Result<Self, BuildError> {
        Self::builder(block).blocks_per_chunk(blocks_per_chunk).build()
    }

    /// A pool with a cap, zeroing, checks, or a source of chunks of its own.
    pub fn builder(block: Layout) -> BlockPoolBuilder {
        BlockPoolBuilder::new(block)
    }

    fn from_inner(inner: NonNull<Inner>) -> Self {
        BlockPool { inner }
    }

    #[inline(always)]
    fn inner(&self) -> &Inner {
        // SAFETY: a handle keeps it.
        unsafe { self.inner.as_ref() }
    }

    /// A block.
    ///
    /// # Errors
    ///
    /// [`Exhausted`], if callers have every block and there can be no further chunk.
    ///
    /// # Panics
    ///
    /// If the source of chunks panics, and in checked mode about a write to a free block, unless
    /// [`on_corruption`](BlockPoolBuilder::on_corruption) says otherwise. The pool works on.
    #[inline]
    pub fn alloc(&self) -> Result<Block, Exhausted> {
        let memory = self.inner().alloc()?;
        // SAFETY: it was allocated just now.
        Ok(unsafe { Block::new(memory, self.inner) })
    }

    /// A value in a block.
    ///
    /// # Errors
    ///
    /// If there is no free block, or the type does not fit one: the value, and why.
    ///
    /// # Panics
    ///
    /// As [`alloc`](Self::alloc).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use cenote::block_pool::{BlockPool, NotBoxedReason};
    /// let pool = BlockPool::new(Layout::new::<[u64; 4]>(), 128)?;
    /// let mut name = pool.boxed(String::from("cenote"))?;
    /// name.push('!');
    /// assert_eq!(*name, "cenote!");
    ///
    /// let large = pool.boxed([0_u64; 5]).unwrap_err();
    /// assert!(matches!(large.reason, NotBoxedReason::DoesNotFit));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn boxed<T>(&self, value: T) -> Result<PoolBox<T>, NotBoxed<T>> {
        if !block::fits::<T>(self.layout()) {
            return Err(NotBoxed { value, reason: NotBoxedReason::DoesNotFit });
        }
        match self.alloc() {
            // SAFETY: the value fits.
            Ok(block) => Ok(unsafe { block.write_unchecked(value) }),
            Err(error) => Err(NotBoxed { value, reason: NotBoxedReason::Exhausted(error) }),
        }
    }

    /// The address of a block without an owner, for [`free_raw`](Self::free_raw).
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    ///
    /// # Panics
    ///
    /// As [`alloc`](Self::alloc).
    #[inline]
    pub fn alloc_raw(&self) -> Result<NonNull<u8>, Exhausted> {
        self.inner().alloc()
    }

    /// Frees a block by its address.
    ///
    /// # Safety
    ///
    /// The address came from [`alloc_raw`](Self::alloc_raw) or [`Block::into_raw`], of this pool, and the block was not freed since, and
    /// is not used again. In [checked mode](BlockPoolBuilder::checked) the address may be any, as long as the block, if it is one
    /// that somebody has, is not used again.
    ///
    /// # Errors
    ///
    /// In checked mode alone: [`FreeError`], if the address is not that of a block that somebody has. Nothing is freed then. Of
    /// two threads that free a block at once, exactly one gets [`FreeError::DoubleFree`].
    ///
    /// # Panics
    ///
    /// In checked mode about a write beyond the block's bounds, as [`alloc`](Self::alloc). The block is freed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use cenote::block_pool::{BlockPool, FreeError};
    /// let pool = BlockPool::builder(Layout::new::<u64>()).checked(true).build()?;
    /// let address = pool.alloc_raw()?;
    /// // SAFETY: a block of this pool; then addresses of any kind, which checked mode allows.
    /// unsafe {
    ///     assert_eq!(pool.free_raw(address.add(1)), Err(FreeError::Misaligned));
    ///     assert_eq!(pool.free_raw(address), Ok(()));
    ///     assert_eq!(pool.free_raw(address), Err(FreeError::DoubleFree));
    ///     assert_eq!(pool.free_raw((&mut 0_u8).into()), Err(FreeError::Foreign));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn free_raw(&self, block: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        unsafe { Inner::free_raw(self.inner, block) }
    }

    /// The owner of a block by its address.
    ///
    /// # Safety
    ///
    /// As [`free_raw`](Self::free_raw), without checked mode: the address is used up by this.
    pub unsafe fn from_raw(&self, block: NonNull<u8>) -> Block {
        // SAFETY: the caller's promise.
        unsafe { Block::new(block, self.inner) }
    }

    /// The size and alignment of a block.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.inner().block_layout()
    }

    /// Whether an address lies in a block of this pool, free or not, at its beginning or further on.
    #[must_use]
    pub fn owns<T: ?Sized>(&self, address: *const T) -> bool {
        self.inner().owns(address.addr())
    }

    /// Gives back every chunk that has no block in use, wherever its blocks lie: those in the magazines of other threads are
    /// collected, also of threads that sleep or have ended. Returns how many chunks.
    ///
    /// It waits for up to about 10 ms for threads in the middle of an operation, and leaves the chunks of blocks that are on
    /// their way then.
    pub fn shrink(&self) -> usize {
        self.inner().shrink()
    }

    /// Where the blocks are.
    #[must_use]
    pub fn stats(&self) -> BlockStats {
        self.inner().stats()
    }
}

impl Clone for BlockPool {
    fn clone(&self) -> Self {
        self.inner().add_handle();
        BlockPool { inner: self.inner }
    }
}

impl Drop for BlockPool {
    fn drop(&mut self) {
        // SAFETY: this handle ends here.
        unsafe { Inner::drop_handle(self.inner) }
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool").field("block", &self.layout()).finish_non_exhaustive()
    }
}
