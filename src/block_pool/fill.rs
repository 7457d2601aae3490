//! What is written into free blocks: zeros, and in checked mode patterns that reveal a write.

use std::fmt;
use std::ptr::NonNull;

use crate::primitive::atomic::{Ordering, compiler_fence};

/// In a free block. Not zero, no valid UTF-8, and as a pointer not mapped on common systems.
pub(super) const FREED: u8 = 0xdd;
/// Between blocks.
pub(super) const FENCE: u8 = 0xfb;

/// A mistake that [checked mode](super::BlockPoolBuilder::checked) found by what is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// What happened.
    pub kind: CorruptionKind,
    /// The address of the block.
    pub block: usize,
    /// Bytes from the beginning of the block to the first one that was changed.
    pub offset: isize,
}

/// See [`Corruption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A block was freed, and bytes behind its end, or before its beginning, had been written to.
    OutOfBounds,
    /// A free block was written to, perhaps by its last owner.
    UseAfterFree,
    /// The owner of a block freed it after another thread, or part of the program, had freed it by its address. It was not freed
    /// a second time.
    DoubleFree,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the block at {:#x} was ", self.block)?;
        match self.kind {
            CorruptionKind::OutOfBounds => write!(f, "written to out of its bounds, at byte {}", self.offset),
            CorruptionKind::UseAfterFree => {
                write!(f, "written to after it was freed, at byte {}", self.offset)
            }
            CorruptionKind::DoubleFree => f.write_str("freed twice"),
        }
    }
}

impl std::error::Error for Corruption {}

/// The default handler.
///
/// # Panics
///
/// If the thread does not panic already.
pub(super) fn panic_about(corruption: &Corruption) {
    if crate::primitive::is_panicking() {
        eprintln!("cenote: {corruption}");
    } else {
        panic!("{corruption}");
    }
}

/// Writes zeros that the compiler may not leave out, where it knows that nobody reads them.
///
/// # Safety
///
/// The memory is the caller's.
pub(super) unsafe fn zero_volatile(memory: NonNull<u8>, size: usize) {
    let (mut at, mut left) = (memory.as_ptr(), size);
    // SAFETY: the caller's promise; words only where the address is a multiple of their size.
    unsafe {
        while left > 0 {
            if left >= size_of::<usize>() && at.addr().is_multiple_of(align_of::<usize>()) {
                at.cast::<usize>().write_volatile(0);
                (at, left) = (at.add(size_of::<usize>()), left - size_of::<usize>());
            } else {
                at.write_volatile(0);
                (at, left) = (at.add(1), left - 1);
            }
        }
    }
    // Nor may it move them behind what follows.
    compiler_fence(Ordering::SeqCst);
}

/// The first byte that is not the pattern.
///
/// # Safety
///
/// The memory is the caller's, and was written to as a whole.
pub(super) unsafe fn first_change(memory: NonNull<u8>, size: usize, pattern: u8) -> Option<usize> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), size) };
    bytes.iter().position(|byte| *byte != pattern)
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    #[test]
    fn volatile_zeros_reach_each_byte_and_no_other() {
        for start in 0..20 {
            for size in 0..40 {
                let mut memory = [1_u8; 64];
                // SAFETY: it is within the array.
                unsafe { zero_volatile(NonNull::from(&mut memory[start]), size) };
                for (at, byte) in memory.iter().enumerate() {
                    assert_eq!(
                        *byte == 0,
                        (start..start + size).contains(&at),
                        "byte {at} of {start}+{size}"
                    );
                }
            }
        }
    }
}
