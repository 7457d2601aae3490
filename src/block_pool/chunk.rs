//! What is known of a chunk besides which of its blocks are free.

use std::alloc::Layout;
use std::ptr::NonNull;

use crate::primitive::atomic::{AtomicU64, Ordering};

/// Read by any thread that the [directory](super::directory) leads here.
pub(super) struct Chunk {
    base: NonNull<u8>,
    layout: Layout,
    blocks: u32,
    /// Which of the [chunks](super::chunks) it is.
    slot: u32,
    /// In checked mode a bit a block: whether a caller has it.
    out: Box<[AtomicU64]>,
}

// SAFETY: the memory that `base` leads to belongs to the owners of the blocks, and nothing here touches it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    pub(super) fn new(base: NonNull<u8>, layout: Layout, blocks: u32, slot: u32, is_checked: bool) -> Self {
        let words = if is_checked { blocks.div_ceil(u64::BITS) } else { 0 };
        Chunk { base, layout, blocks, slot, out: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.addr().get()) < self.layout.size()
    }

    /// From the beginning of the chunk to an address in it.
    pub(super) fn offset(&self, address: usize) -> usize {
        address - self.base.addr().get()
    }

    fn bit(&self, index: u32) -> (&AtomicU64, u64) {
        (&self.out[(index / u64::BITS) as usize], 1 << (index % u64::BITS))
    }

    /// A caller gets the block. Returns whether no caller had it.
    pub(super) fn mark_out(&self, index: u32) -> bool {
        let (word, bit) = self.bit(index);
        // Relaxed: what makes the block travel orders this, too.
        word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// A caller frees the block. Returns whether a caller had it: of two threads that free it at once, for one alone.
    pub(super) fn mark_free(&self, index: u32) -> bool {
        let (word, bit) = self.bit(index);
        // Relaxed: the one exchange decides.
        word.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }
}
