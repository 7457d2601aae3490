//! How a pool is built.

use std::alloc::Layout;
use std::error::Error;
use std::fmt;

use super::BlockPool;
use super::fill::{self, Corruption};
use super::geometry::{Geometry, MOST_BLOCKS};
use super::inner::{Inner, Setup};
use super::source::{ChunkSource, GlobalSource};

/// When blocks are filled with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Zeroing {
    /// Never: a block comes with whatever its last user, or the source of chunks, left in it.
    #[default]
    Never,
    /// When a block is allocated: nobody reads the bytes of another. They stay in memory while the block is free.
    OnAlloc,
    /// When a block is freed: nobody reads the bytes of another, and a block that is free holds none, also not in a core dump.
    /// Chunks are zero from the beginning.
    OnFree,
}

/// How large the chunks are that follow the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Growth {
    /// As large as the first.
    #[default]
    Constant,
    /// As large as all chunks that the pool has at that time together, with 65,535 blocks at most. What was
    /// [given back](BlockPool::shrink) does not count. If there is no memory for that, as large as the first.
    Doubling,
}

/// What a pool is built with. Made by [`BlockPool::builder`].
#[must_use = "a builder builds nothing until `build`"]
pub struct BlockPoolBuilder {
    block: Layout,
    blocks_per_chunk: Option<usize>,
    growth: Growth,
    max_chunks: Option<usize>,
    zeroing: Zeroing,
    is_volatile: bool,
    is_checked: bool,
    on_corruption: fn(&Corruption),
    source: Box<dyn ChunkSource>,
}

/// Bytes of a chunk by default, about.
const CHUNK: usize = 64 * 1024;

impl BlockPoolBuilder {
    pub(super) fn new(block: Layout) -> Self {
        BlockPoolBuilder {
            block,
            blocks_per_chunk: None,
            growth: Growth::default(),
            max_chunks: None,
            zeroing: Zeroing::default(),
            is_volatile: false,
            is_checked: cfg!(debug_assertions),
            on_corruption: fill::panic_about,
            source: Box::new(GlobalSource),
        }
    }

    /// How many blocks a chunk has: 1 to 65,535. Default: as many as fill 64 KiB, and at least 16.
    pub fn blocks_per_chunk(mut self, blocks: usize) -> Self {
        self.blocks_per_chunk = Some(blocks);
        self
    }

    /// How large later chunks are. Default: [`Growth::Constant`].
    pub fn growth(mut self, growth: Growth) -> Self {
        self.growth = growth;
        self
    }

    /// How many chunks the pool has at once, at most. Default: any number.
    pub fn max_chunks(mut self, chunks: usize) -> Self {
        self.max_chunks = Some(chunks);
        self
    }

    /// When blocks are filled with zeros. Default: [`Zeroing::Never`].
    pub fn zeroing(mut self, zeroing: Zeroing) -> Self {
        self.zeroing = zeroing;
        self
    }

    /// Whether zeros are written by stores that the compiler may not leave out, even where it can prove that nobody reads
    /// them. They cost more than the ones that the compiler chooses: for 4 KiB, about 290 ns instead of 42. Default: no.
    pub fn volatile_zeroing(mut self, is_volatile: bool) -> Self {
        self.is_volatile = is_volatile;
        self
    }

    /// Whether the pool looks for mistakes of its users: frees of addresses that it did not allocate, of addresses within a
    /// block, of blocks that are free; writes beyond the bounds of a block, and to a block that is free. Default: with
    /// `debug_assertions`, as overflow checks.
    ///
    /// A chunk then has 16 bytes or more behind each block, and before the first; it has as many blocks as without. A block
    /// that is free is full of the byte `0xdd`, or of zeros with [`Zeroing::OnFree`], so allocations and frees touch
    /// all of it: with blocks of 64 bytes, both together cost about 60 ns instead of 4.
    pub fn checked(mut self, is_checked: bool) -> Self {
        self.is_checked = is_checked;
        self
    }

    /// What to do about memory that was written to by someone that should not have, in checked mode. It is called by the thread
    /// that found it, with no lock held; the memory is repaired, and the block in the pool again. Default: a panic, or
    /// a line on the standard error if the thread panics already.
    pub fn on_corruption(mut self, report: fn(&Corruption)) -> Self {
        self.on_corruption = report;
        self
    }

    /// Where chunks come from. Default: the global allocator.
    pub fn source(mut self, source: impl ChunkSource + 'static) -> Self {
        self.source = Box::new(source);
        self
    }

    /// Builds the pool. It has no chunk until the first allocation.
    ///
    /// # Errors
    ///
    /// If the numbers do not fit together: see [`BuildError`].
    pub fn build(self) -> Result<BlockPool, BuildError> {
        let geometry = Geometry::new(self.block, self.is_checked)?;
        let default = || (CHUNK / geometry.stride).clamp(16, MOST_BLOCKS as usize);
        let blocks = self.blocks_per_chunk.unwrap_or_else(default);
        let blocks_per_chunk = u32::try_from(blocks).ok().filter(|blocks| (1..=MOST_BLOCKS).contains(blocks));
        let blocks_per_chunk =
            blocks_per_chunk.ok_or(BuildError::BlocksPerChunk { blocks, most: MOST_BLOCKS as usize })?;
        if self.max_chunks == Some(0) {
            return Err(BuildError::NoChunks);
        }
        geometry.chunk(blocks_per_chunk)?;
        Ok(BlockPool::from_inner(Inner::new(Setup {
            geometry,
            blocks_per_chunk,
            growth: self.growth,
            max_chunks: self.max_chunks,
            zeroing: self.zeroing,
            is_volatile: self.is_volatile,
            is_checked: self.is_checked,
            on_corruption: self.on_corruption,
            source: self.source,
        })))
    }
}

impl fmt::Debug for BlockPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPoolBuilder")
            .field("block", &self.block)
            .field("blocks_per_chunk", &self.blocks_per_chunk)
            .field("growth", &self.growth)
            .field("max_chunks", &self.max_chunks)
            .field("zeroing", &self.zeroing)
            .field("volatile_zeroing", &self.is_volatile)
            .field("checked", &self.is_checked)
            .finish_non_exhaustive()
    }
}

/// Why a [`BlockPool`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// A block has 0 bytes.
    EmptyBlock,
    /// A block is aligned to more than a page of 4 KiB.
    Alignment {
        /// The alignment of the layout.
        align: usize,
        /// The largest that is possible.
        most: usize,
    },
    /// A chunk has no blocks, or too many.
    BlocksPerChunk {
        /// The number that was asked for.
        blocks: usize,
        /// The largest that is possible.
        most: usize,
    },
    /// The pool may not have any chunk.
    NoChunks,
    /// A chunk is larger than any allocation may be.
    ChunkTooLarge,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::EmptyBlock => f.write_str("a block needs at least one byte"),
            BuildError::Alignment { align, most } => {
                write!(f, "blocks are aligned to {most} bytes at most, not to {align}")
            }
            BuildError::BlocksPerChunk { blocks, most } => {
                write!(f, "a chunk has 1 to {most} blocks, not {blocks}")
            }
            BuildError::NoChunks => f.write_str("the pool may have no chunk, and so no block"),
            BuildError::ChunkTooLarge => f.write_str("a chunk is larger than any allocation may be"),
        }
    }
}

impl Error for BuildError {}
