//! Where chunks come from.

use std::alloc::{self, Layout};
use std::error::Error;
use std::fmt;
use std::ptr::NonNull;

/// Why a [`ChunkSource`] has no memory.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Where a [`BlockPool`](super::BlockPool) takes its chunks from: huge pages, locked or shared memory, a region of a device.
///
/// The pool asks for a chunk at a time, and gives chunks back by [`shrink`](super::BlockPool::shrink), and when the pool and
/// its last block are gone, on whichever thread that happens. It holds none of its locks that a free needs while it calls, so a
/// source may free blocks of the pool; an allocation from the pool that would need a further chunk fails in there.
/// A source may panic: the panic goes to the caller of `alloc`, and the pool works on.
///
/// # Safety
///
/// What [`allocate`](Self::allocate) returns must be memory of at least the size and alignment of the layout, readable and
/// writable, that nobody else uses until it is deallocated.
///
/// # Examples
///
/// A region whose pages the system never writes to a swap device:
///
/// ```
/// # #[cfg(unix)] {
/// use std::alloc::{self, Layout};
/// use std::io;
/// use std::ptr::NonNull;
///
/// use cenote::block_pool::{BlockPool, ChunkSource, SourceError};
///
/// struct Locked;
///
/// // SAFETY: memory of the global allocator, with whole pages of its own.
/// unsafe impl ChunkSource for Locked {
///     fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
///         let layout = pages(layout)?;
///         let memory = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or("out of memory")?;
///         if unsafe { libc::mlock(memory.as_ptr().cast(), layout.size()) } != 0 {
///             let error = io::Error::last_os_error(); // RLIMIT_MEMLOCK, perhaps
///             unsafe { alloc::dealloc(memory.as_ptr(), layout) };
///             return Err(error.into());
///         }
///         Ok(memory)
///     }
///
///     unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
///         let layout = pages(layout).expect("it was allocated with it");
///         unsafe {
///             libc::munlock(memory.as_ptr().cast(), layout.size());
///             alloc::dealloc(memory.as_ptr(), layout);
///         }
///     }
/// }
///
/// fn pages(layout: Layout) -> Result<Layout, SourceError> {
///     Ok(layout.align_to(4096)?.pad_to_align())
/// }
///
/// let keys = BlockPool::builder(Layout::new::<[u8; 64]>()).blocks_per_chunk(64).source(Locked).build()?;
/// let key = keys.alloc();
/// # drop(key);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe trait ChunkSource: Send + Sync {
    /// Memory for one chunk.
    ///
    /// # Errors
    ///
    /// Whatever says why there is none. The pool then looks for blocks that other threads hold, and if there are none returns
    /// the error as the source of [`Exhausted`](super::Exhausted).
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError>;

    /// Memory for one chunk that is all zero. The pool calls this if it [zeroes on free](super::Zeroing::OnFree). Without
    /// an implementation of its own it writes to all of the chunk.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate).
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
        let memory = self.allocate(layout)?;
        // SAFETY: the memory has this size.
        unsafe { memory.write_bytes(0, layout.size()) };
        Ok(memory)
    }

    /// Takes the memory of a chunk back.
    ///
    /// # Safety
    ///
    /// The memory came from this source, by this layout, and nobody uses it any more.
    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout);
}

/// The global allocator.
#[derive(Debug)]
pub(super) struct GlobalSource;

#[derive(Debug)]
struct OutOfMemory(Layout);

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the global allocator has no {} bytes", self.0.size())
    }
}

impl Error for OutOfMemory {}

// SAFETY: this is what the global allocator promises.
unsafe impl ChunkSource for GlobalSource {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
        // SAFETY: a chunk has at least one block, and a block one byte.
        NonNull::new(unsafe { alloc::alloc(layout) }).ok_or_else(|| OutOfMemory(layout).into())
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, SourceError> {
        // SAFETY: as above.
        NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or_else(|| OutOfMemory(layout).into())
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { alloc::dealloc(memory.as_ptr(), layout) }
    }
}
