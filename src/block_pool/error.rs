//! What may fail.

use std::error::Error;
use std::fmt;

use super::source::SourceError;

/// A pool has no free block: neither in its chunks nor with any thread, and there can be no further chunk.
///
/// It says where the blocks are, and what kept the pool from growing: the [cap](super::BlockPoolBuilder::max_chunks), or the
/// [source](Error::source) of chunks.
pub struct Exhausted(Box<Details>);

#[derive(Debug)]
pub(super) struct Details {
    pub(super) chunks: usize,
    pub(super) blocks: usize,
    pub(super) block_size: usize,
    /// With threads that were in the middle of an operation all the time.
    pub(super) unreachable: usize,
    pub(super) limit: Limit,
}

/// What kept a pool from growing.
#[derive(Debug)]
pub(super) enum Limit {
    Cap,
    Source(SourceError),
    /// The source of chunks allocates from the pool that asks it for a chunk.
    Reentrant,
}

impl Exhausted {
    pub(super) fn new(details: Details) -> Self {
        Exhausted(Box::new(details))
    }

    /// The blocks of the pool.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.0.blocks
    }

    /// Those that callers have.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.0.blocks - self.0.unreachable
    }

    /// Free ones that could not be had: they lie with threads that were interrupted in the middle of an operation for longer
    /// than the pool waits, or that a fork of the process has lost. 0, but for that.
    #[must_use]
    pub fn unreachable(&self) -> usize {
        self.0.unreachable
    }

    /// Whether the pool has as many chunks as it may have; otherwise there was no memory for a further one.
    #[must_use]
    pub fn is_at_cap(&self) -> bool {
        matches!(self.0.limit, Limit::Cap)
    }
}

impl fmt::Debug for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { chunks, blocks, block_size, unreachable, limit } = &*self.0;
        match limit {
            Limit::Cap => write!(f, "the pool has its {chunks} chunks")?,
            Limit::Source(_) => write!(f, "there is no memory for a chunk beside the pool's {chunks}")?,
            Limit::Reentrant => {
                write!(f, "the source of chunks needs a block of its own pool, which has {chunks} chunks")?
            }
        }
        write!(f, ", and {} of {blocks} blocks of {block_size} bytes are in use", self.in_use())?;
        if *unreachable > 0 {
            write!(f, "; {unreachable} lie with threads in the middle of an operation")?;
        }
        Ok(())
    }
}

impl Error for Exhausted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.limit {
            Limit::Source(error) => Some(&**error),
            Limit::Cap | Limit::Reentrant => None,
        }
    }
}

/// What [`BlockPool::free_raw`](super::BlockPool::free_raw) found in [checked mode](super::BlockPoolBuilder::checked). Nothing
/// was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// The address is in no chunk of the pool.
    Foreign,
    /// The address is in a chunk, but is not where a block begins.
    Misaligned,
    /// The block is free: it was freed before.
    DoubleFree,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FreeError::Foreign => "the address is in no chunk of this pool",
            FreeError::Misaligned => "the address is not where a block begins",
            FreeError::DoubleFree => "the block is free already",
        })
    }
}

impl Error for FreeError {}

/// A value that [`BlockPool::boxed`](super::BlockPool::boxed) has found no block for.
pub struct NotBoxed<T> {
    /// The value.
    pub value: T,
    /// Why.
    pub reason: NotBoxedReason,
}

/// See [`NotBoxed`].
#[derive(Debug)]
#[non_exhaustive]
pub enum NotBoxedReason {
    /// There is no free block.
    Exhausted(Exhausted),
    /// The type needs more bytes than a block has, or a larger alignment.
    DoesNotFit,
}

impl<T> fmt::Debug for NotBoxed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotBoxed").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for NotBoxed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = std::any::type_name::<T>();
        match &self.reason {
            NotBoxedReason::Exhausted(_) => write!(f, "there is no block for a {name}"),
            NotBoxedReason::DoesNotFit => write!(f, "a {name} does not fit a block"),
        }
    }
}

impl<T> Error for NotBoxed<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            NotBoxedReason::Exhausted(error) => Some(error),
            NotBoxedReason::DoesNotFit => None,
        }
    }
}
