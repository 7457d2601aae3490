//! Where the blocks are.

/// The blocks of a [`BlockPool`](super::BlockPool), by where they are. Read without stopping anybody, so while threads are at
/// work the numbers may be off by those that are on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockStats {
    /// Chunks that the pool has now.
    pub chunks: usize,
    /// Bytes of these.
    pub bytes: usize,
    /// Blocks in them.
    pub blocks: usize,
    /// Blocks that callers have.
    pub in_use: usize,
    /// Free blocks that threads keep at hand, those of threads that sleep or have ended included.
    pub free_in_threads: usize,
    /// Free blocks in the depot, on their way from one thread to another.
    pub free_in_depot: usize,
    /// Free blocks in the chunks' own lists.
    pub free_in_chunks: usize,
}
