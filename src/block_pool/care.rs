//! What happens to a block between two users, if the pool is not a plain one: zeros, and in checked mode the checks.

use std::alloc::Layout;
use std::ptr::NonNull;

use super::chunk::Chunk;
use super::config::Zeroing;
use super::error::{Exhausted, FreeError};
use super::fill::{self, Corruption, CorruptionKind};
use super::geometry::Geometry;
use super::inner::Inner;

impl Inner {
    /// What a free block is full of, in checked mode.
    fn pattern(&self) -> u8 {
        if self.setup.zeroing == Zeroing::OnFree { 0 } else { fill::FREED }
    }

    /// In checked mode: fills a new chunk with what `prepare` and `clean` expect.
    ///
    /// # Safety
    ///
    /// The memory is that chunk's.
    pub(super) unsafe fn fill_chunk(&self, base: NonNull<u8>, layout: Layout, blocks: u32) {
        let geometry = self.setup.geometry;
        // SAFETY: the caller's promise.
        unsafe {
            base.write_bytes(fill::FENCE, layout.size());
            for index in 0..blocks {
                base.add(geometry.offset(index)).write_bytes(self.pattern(), geometry.block.size());
            }
        }
    }

    /// A block that was taken for a caller, as the caller is to get it. It is another one if this one was written to.
    #[inline(never)]
    pub(super) fn prepare(&self, mut block: NonNull<u8>) -> Result<NonNull<u8>, Exhausted> {
        let size = self.block_layout().size();
        if self.setup.is_checked {
            // SAFETY: the block is ours, and `fill_chunk` or `clean` has written to it.
            while let Some(offset) = unsafe { fill::first_change(block, size, self.pattern()) } {
                // SAFETY: as above.
                unsafe { block.write_bytes(self.pattern(), size) };
                let kind = CorruptionKind::UseAfterFree;
                let corruption = Corruption { kind, block: block.addr().get(), offset: offset as isize };
                self.put(block.cast().as_ptr());
                // The block is back before this, since the handler may panic.
                (self.setup.on_corruption)(&corruption);
                block = self.take()?;
            }
            let was_free = self.directory.with(block.addr().get(), |chunk| {
                self.index(chunk, block.addr().get()).is_some_and(|index| chunk.mark_out(index))
            });
            debug_assert_eq!(was_free, Some(true));
        }
        if self.setup.zeroing == Zeroing::OnAlloc {
            self.zero(block);
        }
        Ok(block)
    }

    fn zero(&self, block: NonNull<u8>) {
        let size = self.block_layout().size();
        // SAFETY: the callers own the block.
        unsafe {
            if self.setup.is_volatile {
                fill::zero_volatile(block, size);
            } else {
                block.write_bytes(0, size);
            }
        }
    }

    /// The block that begins at an address.
    pub(super) fn index(&self, chunk: &Chunk, address: usize) -> Option<u32> {
        self.setup.geometry.index(chunk.offset(address)).filter(|index| *index < chunk.blocks())
    }

    /// In checked mode: whether a caller has a block at this address, which from here on it has no more.
    pub(super) fn check(&self, address: usize) -> Result<(), FreeError> {
        let check = |chunk: &Chunk| match self.index(chunk, address) {
            None => Err(FreeError::Misaligned),
            Some(index) if chunk.mark_free(index) => Ok(()),
            Some(_) => Err(FreeError::DoubleFree),
        };
        self.directory.with(address, check).unwrap_or(Err(FreeError::Foreign))
    }

    /// Writes into a block that is being freed what belongs there. Returns what it found around it.
    pub(super) fn clean(&self, block: NonNull<u8>) -> Option<Corruption> {
        let corruption = if self.setup.is_checked { self.check_fences(block) } else { None };
        if self.setup.zeroing == Zeroing::OnFree {
            self.zero(block);
        } else if self.setup.is_checked {
            // SAFETY: the block is ours.
            unsafe { block.write_bytes(fill::FREED, self.block_layout().size()) };
        }
        corruption
    }

    /// Looks at the bytes before and behind a block, and repairs them.
    fn check_fences(&self, block: NonNull<u8>) -> Option<Corruption> {
        let Geometry { block: layout, stride, .. } = self.setup.geometry;
        let gap = stride - layout.size();
        // Before the first block there are at least 16 bytes, and as many behind each.
        let (before, behind) = (gap.min(16), gap);
        // SAFETY: both are in the chunk, and no user may touch them.
        let fences = unsafe { [(block.sub(before), before), (block.add(layout.size()), behind)] };
        fences.into_iter().find_map(|(fence, size)| {
            // SAFETY: as above; `fill_chunk` has written there.
            let at = unsafe { fill::first_change(fence, size, fill::FENCE) }?;
            // SAFETY: as above.
            let offset = unsafe {
                fence.write_bytes(fill::FENCE, size);
                fence.add(at).as_ptr().offset_from(block.as_ptr())
            };
            Some(Corruption { kind: CorruptionKind::OutOfBounds, block: block.addr().get(), offset })
        })
    }
}
