//! Which blocks of which chunks are free: what the magazines are filled from, and what they overflow into.
//!
//! Numbers alone, without a look at the blocks: a chunk's free blocks are linked by their indices, 16 bits each, in a table
//! beside the chunk. Blocks that were never used are not linked: they are all behind an index. Each operation is O(1).
//!
//! Chunks with some free blocks are used before those that are free as a whole (as in Bonwick, *The Slab Allocator*, USENIX
//! 1994), so that the latter may be given back.

use std::ptr::NonNull;

use super::chunk::Chunk;
use super::directory::Usage;

/// No block, in a link.
const NO_BLOCK: u16 = u16::MAX;
/// No chunk, in a list.
const NO_SLOT: u32 = u32::MAX;

/// Lists of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// Some blocks are free.
    Partial = 0,
    /// All are.
    Whole = 1,
}

#[derive(Debug)]
pub(super) struct Chunks {
    slots: Vec<Slot>,
    /// Slots whose chunk was removed.
    vacant: Vec<u32>,
    /// The first chunk in each list.
    first: [u32; 2],
    count: usize,
    blocks: usize,
    free: usize,
    /// Of the directory.
    pub(super) usage: Usage,
    /// Whether the last handle of the pool is gone.
    pub(super) is_closed: bool,
    /// Blocks that came back since then.
    pub(super) came_late: usize,
}

#[derive(Debug)]
struct Slot {
    chunk: *mut Chunk,
    base: NonNull<u8>,
    blocks: u32,
    free: u32,
    /// The blocks from here on were never used.
    unused: u32,
    /// The first free block of the linked ones.
    head: u16,
    links: Box<[u16]>,
    /// Neighbors in the list that the chunk is in, if it has a free block.
    next: u32,
    previous: u32,
}

// SAFETY: chunks are `Send` and `Sync`, and memory that is free is the pool's.
unsafe impl Send for Chunks {}

impl Chunks {
    pub(super) const fn new(usage: Usage) -> Self {
        Chunks {
            slots: Vec::new(),
            vacant: Vec::new(),
            first: [NO_SLOT; 2],
            count: 0,
            blocks: 0,
            free: 0,
            usage,
            is_closed: false,
            came_late: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// All chunks.
    pub(super) fn iter(&self) -> impl Iterator<Item = *mut Chunk> {
        self.slots.iter().map(|slot| slot.chunk).filter(|chunk| !chunk.is_null())
    }

    /// Adds a chunk, which `make` makes with its slot's number.
    pub(super) fn insert(&mut self, make: impl FnOnce(u32) -> *mut Chunk) -> *mut Chunk {
        let number = self.vacant.pop().unwrap_or(self.slots.len() as u32);
        let chunk = make(number);
        // SAFETY: `make` made it, and nobody removes it meanwhile.
        let (base, blocks) = unsafe { ((*chunk).base(), (*chunk).blocks()) };
        let slot = Slot {
            chunk,
            base,
            blocks,
            free: blocks,
            unused: 0,
            head: NO_BLOCK,
            links: vec![NO_BLOCK; blocks as usize].into(),
            next: NO_SLOT,
            previous: NO_SLOT,
        };
        match self.slots.get_mut(number as usize) {
            Some(vacant) => *vacant = slot,
            None => self.slots.push(slot),
        }
        self.count += 1;
        self.blocks += blocks as usize;
        self.free += blocks as usize;
        self.link(number, List::Whole);
        chunk
    }

    /// A free block: the beginning of its chunk, and its index.
    pub(super) fn take(&mut self) -> Option<(NonNull<u8>, u32)> {
        let number = self.first.into_iter().find(|number| *number != NO_SLOT)?;
        let slot = &mut self.slots[number as usize];
        let was = slot.list();
        let index = if slot.head == NO_BLOCK {
            slot.unused += 1;
            slot.unused - 1
        } else {
            let index = slot.head;
            slot.head = slot.links[usize::from(index)];
            u32::from(index)
        };
        slot.free -= 1;
        let base = slot.base;
        self.free -= 1;
        self.relink(number, was);
        Some((base, index))
    }

    /// A block is free again.
    pub(super) fn give(&mut self, number: u32, index: u32) {
        let slot = &mut self.slots[number as usize];
        let was = slot.list();
        slot.links[index as usize] = slot.head;
        // A chunk has at most so many blocks that the number of the last one fits.
        slot.head = index as u16;
        slot.free += 1;
        self.free += 1;
        self.relink(number, was);
    }

    /// A chunk that is free as a whole. It is the caller's from here on.
    pub(super) fn remove_whole(&mut self) -> Option<*mut Chunk> {
        let number = self.first[List::Whole as usize];
        if number == NO_SLOT {
            return None;
        }
        self.unlink(number, List::Whole);
        let slot = &mut self.slots[number as usize];
        slot.links = Box::default();
        self.count -= 1;
        self.blocks -= slot.blocks as usize;
        self.free -= slot.blocks as usize;
        self.vacant.push(number);
        Some(std::mem::replace(&mut slot.chunk, std::ptr::null_mut()))
    }

    fn relink(&mut self, number: u32, was: Option<List>) {
        let is = self.slots[number as usize].list();
        if is != was {
            if let Some(was) = was {
                self.unlink(number, was);
            }
            if let Some(is) = is {
                self.link(number, is);
            }
        }
    }

    fn link(&mut self, number: u32, list: List) {
        let next = std::mem::replace(&mut self.first[list as usize], number);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = number;
        }
        let slot = &mut self.slots[number as usize];
        (slot.previous, slot.next) = (NO_SLOT, next);
    }

    fn unlink(&mut self, number: u32, list: List) {
        let Slot { previous, next, .. } = self.slots[number as usize];
        match self.slots.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.first[list as usize] = next,
        }
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = previous;
        }
    }
}

impl Slot {
    /// The list that the chunk belongs to.
    fn list(&self) -> Option<List> {
        match self.free {
            0 => None,
            free if free == self.blocks => Some(List::Whole),
            _ => Some(List::Partial),
        }
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use std::alloc::Layout;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn chunk(blocks: u32, slot: u32) -> *mut Chunk {
        // No memory: nothing here looks there.
        let base = std::ptr::without_provenance_mut(1 << 20 | (slot as usize + 1) << 8);
        let base = NonNull::new(base).unwrap();
        Box::into_raw(Box::new(Chunk::new(base, Layout::new::<u8>(), blocks, slot, false)))
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u32),
        Take,
        /// One of the blocks that are out, by its index among them.
        Give(usize),
        RemoveWhole,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (1_u32..6).prop_map(Step::Insert),
            8 => Just(Step::Take),
            8 => any::<usize>().prop_map(Step::Give),
            1 => Just(Step::RemoveWhole),
        ]
    }

    proptest! {
        #[test]
        fn each_block_is_out_once_and_a_chunk_that_is_free_as_a_whole_can_be_removed(
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut chunks = Chunks::new(Usage::default());
            // By slot, its blocks; and what is out.
            let mut sizes = std::collections::BTreeMap::new();
            let mut out: Vec<(u32, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(blocks) => {
                        let chunk = chunks.insert(|slot| chunk(blocks, slot));
                        // SAFETY: it was made just now.
                        let slot = unsafe { (*chunk).slot() };
                        prop_assert!(sizes.insert(slot, blocks).is_none());
                    }
                    Step::Take => {
                        let all: usize = sizes.values().map(|blocks| *blocks as usize).sum();
                        let is_partial = |slot: &u32| {
                            let used = out.iter().filter(|(of, _)| of == slot).count();
                            used > 0 && used < sizes[slot] as usize
                        };
                        let has_partial = sizes.keys().any(is_partial);
                        match chunks.take() {
                            None => prop_assert_eq!(out.len(), all),
                            Some((base, index)) => {
                                let slot = (base.addr().get() >> 8 & 0xfff) as u32 - 1;
                                prop_assert!(index < sizes[&slot]);
                                prop_assert!(!has_partial || is_partial(&slot), "whole chunks come last");
                                out.push((slot, index));
                            }
                        }
                    }
                    Step::Give(at) if !out.is_empty() => {
                        let (slot, index) = out.swap_remove(at % out.len());
                        chunks.give(slot, index);
                    }
                    Step::Give(_) => {}
                    Step::RemoveWhole => {
                        let used: BTreeSet<u32> = out.iter().map(|(slot, _)| *slot).collect();
                        match chunks.remove_whole() {
                            None => prop_assert!(sizes.keys().all(|slot| used.contains(slot))),
                            Some(chunk) => {
                                // SAFETY: `chunk` made it, and nothing else leads there now.
                                let chunk = unsafe { Box::from_raw(chunk) };
                                prop_assert!(!used.contains(&chunk.slot()));
                                sizes.remove(&chunk.slot());
                            }
                        }
                    }
                }
                let all: usize = sizes.values().map(|blocks| *blocks as usize).sum();
                prop_assert_eq!((chunks.count(), chunks.blocks(), chunks.free()), (sizes.len(), all, all - out.len()));
                prop_assert_eq!(out.iter().collect::<BTreeSet<_>>().len(), out.len());
            }
            for chunk in chunks.iter() {
                // SAFETY: as above.
                drop(unsafe { Box::from_raw(chunk) });
            }
        }
    }
}
