//! Where the blocks of a chunk lie, and how large the next chunk is. Numbers only.

use std::alloc::Layout;

use super::config::{BuildError, Growth};

/// Blocks in one chunk, at most: a link is 16 bits, and one number means that there is no next block.
pub(super) const MOST_BLOCKS: u32 = u16::MAX as u32;

/// A page: what a block may be aligned to at most.
pub(super) const MOST_ALIGN: usize = 4096;

/// Chunks begin with a cache line.
const LINE: usize = 64;

/// Bytes behind a block, at least, that show in checked mode whether its user wrote beyond its end.
const FENCE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Of a block, without what rounds it up to the stride.
    pub(super) block: Layout,
    /// From one block to the next.
    pub(super) stride: usize,
    /// From the chunk's beginning to its first block.
    first: usize,
}

impl Geometry {
    pub(super) fn new(block: Layout, is_checked: bool) -> Result<Self, BuildError> {
        if block.size() == 0 {
            return Err(BuildError::EmptyBlock);
        }
        if block.align() > MOST_ALIGN {
            return Err(BuildError::Alignment { align: block.align(), most: MOST_ALIGN });
        }
        let fence = if is_checked { FENCE } else { 0 };
        let stride = Layout::from_size_align(block.size().saturating_add(fence), block.align())
            .map_err(|_| BuildError::ChunkTooLarge)?
            .pad_to_align()
            .size();
        // A fence also before the first block, which that does not move off its alignment.
        let first = if is_checked { FENCE.max(block.align()) } else { 0 };
        Ok(Geometry { block, stride, first })
    }

    /// Of a chunk with so many blocks.
    pub(super) fn chunk(&self, blocks: u32) -> Result<Layout, BuildError> {
        let blocks = usize::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(self.stride));
        let size = blocks.and_then(|size| size.checked_add(self.first));
        size.and_then(|size| Layout::from_size_align(size, self.block.align().max(LINE)).ok())
            .ok_or(BuildError::ChunkTooLarge)
    }

    /// From the chunk's beginning to a block.
    pub(super) fn offset(&self, index: u32) -> usize {
        self.first + index as usize * self.stride
    }

    /// Which block begins so far from the chunk's beginning. `None`: none does.
    pub(super) fn index(&self, offset: usize) -> Option<u32> {
        let offset = offset.checked_sub(self.first)?;
        (offset % self.stride == 0).then_some((offset / self.stride) as u32)
    }

    /// Whether a byte so far from the chunk's beginning is a block's, and not what rounds the block up or a fence.
    pub(super) fn is_in_block(&self, offset: usize) -> bool {
        offset.checked_sub(self.first).is_some_and(|offset| offset % self.stride < self.block.size())
    }
}

/// How many blocks the next chunk has, if the pool has so many blocks now. What it once had does not count.
pub(super) fn next_chunk(first: u32, growth: Growth, blocks_now: usize) -> u32 {
    match growth {
        Growth::Constant => first,
        Growth::Doubling => u32::try_from(blocks_now).unwrap_or(MOST_BLOCKS).clamp(first, MOST_BLOCKS),
    }
}

/// How many blocks a thread takes at once out of the chunks, which have so many that are free. Where no further chunk may come,
/// some are left for the other threads.
pub(super) fn refill(free: usize, may_grow: bool) -> usize {
    if may_grow { free } else { free.div_ceil(4) }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_of_any_size_lie_on_their_alignment_without_overlap() {
        for size in [1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 4095, 4096, 4097, 65_537] {
            for align in [1, 2, 4, 8, 16, 64, 1024, 4096] {
                for is_checked in [false, true] {
                    let geometry = Geometry::new(layout(size, align), is_checked).unwrap();
                    let chunk = geometry.chunk(5).unwrap();
                    assert!(chunk.align() >= align);
                    for index in 0..5 {
                        let offset = geometry.offset(index);
                        assert!(offset.is_multiple_of(align) && offset + size <= chunk.size());
                        assert_eq!(geometry.index(offset), Some(index));
                        assert_eq!(geometry.index(offset + 1), (geometry.stride == 1).then_some(index + 1));
                        assert!(geometry.is_in_block(offset) && geometry.is_in_block(offset + size - 1));
                        assert_eq!(geometry.is_in_block(offset + size), geometry.stride == size);
                        let next = geometry.offset(index + 1);
                        let fence = if is_checked { FENCE } else { 0 };
                        assert!(
                            next >= offset + size + fence,
                            "a block and its fence end before the next block"
                        );
                    }
                    if !is_checked {
                        assert_eq!(
                            chunk.size(),
                            5 * size.next_multiple_of(align),
                            "nothing beside the blocks"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_blocks_are_refused() {
        assert_eq!(Geometry::new(layout(0, 1), false), Err(BuildError::EmptyBlock));
        let error = BuildError::Alignment { align: 8192, most: 4096 };
        assert_eq!(Geometry::new(layout(64, 8192), false), Err(error));
        let huge = isize::MAX as usize - 4095;
        assert_eq!(Geometry::new(layout(huge, 1), true).unwrap().chunk(2), Err(BuildError::ChunkTooLarge));
        assert_eq!(Geometry::new(layout(huge, 4096), true), Err(BuildError::ChunkTooLarge));
    }

    #[test]
    fn chunks_grow_by_what_the_pool_has_and_not_by_what_it_had() {
        for (growth, blocks_now, expected) in [
            (Growth::Constant, 0, 100),
            (Growth::Constant, 1_000_000, 100),
            (Growth::Doubling, 0, 100),
            (Growth::Doubling, 100, 100),
            (Growth::Doubling, 200, 200),
            (Growth::Doubling, 400, 400),
            // After a purge.
            (Growth::Doubling, 0, 100),
            (Growth::Doubling, 10_000_000, MOST_BLOCKS),
        ] {
            assert_eq!(next_chunk(100, growth, blocks_now), expected, "{growth:?} with {blocks_now}");
        }
    }
}
