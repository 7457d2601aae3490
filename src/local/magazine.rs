//! Magazines: heap blocks with room for a fixed number of nodes, in which nodes travel between shards and the depot.
//!
//! A magazine has one owner: a shard, a thread that works on it, or the depot. The pointer to it is the pointer to its memory,
//! without tags, so that a leak checker sees what leads where.

use std::ptr::NonNull;

use super::rack::{Node, Rack, no_nodes};
use crate::primitive::atomic::AtomicPtr;
use crate::primitive::is_panicking;

/// How many nodes a magazine holds: so many that on 64 bits it is 256 bytes.
pub(super) const CAPACITY: usize = if cfg!(cenote_loom) { 2 } else { 30 };

/// How old the objects in a magazine are.
///
/// Traveling does not change it: an object grows young again by being used, not by lying beside one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// Put since the last aging.
    Fresh,
    /// Put before it.
    Victim,
}

/// A magazine's memory.
#[repr(C)]
pub(super) struct Block {
    /// Of a magazine on a [`Stack`](super::stack::Stack): the one below. Read also by threads that have lost the race for it.
    pub(super) next: AtomicPtr<Block>,
    /// The first so many places hold nodes with objects. The owner's.
    objects: u16,
    /// The first so many places hold nodes. The owner's.
    nodes: u16,
    /// Of the objects. The owner's; of a magazine in the depot, the depot knows better.
    generation: Generation,
    places: [Node; CAPACITY],
    /// For loom, which knows nothing of the slots: each access to a slot touches this, too.
    #[cfg(cenote_loom)]
    touched: crate::primitive::UnsafeCell<()>,
}

/// The one owner of a magazine.
///
/// It does not know how to drop an object, so it must be empty when it is dropped.
#[derive(Debug)]
pub(super) struct Magazine(NonNull<Block>);

// SAFETY: a magazine owns its nodes, which may move to another thread: the pools demand `T: Send`.
unsafe impl Send for Magazine {}

impl Magazine {
    pub(super) fn new() -> Self {
        let block = Box::new(Block {
            next: AtomicPtr::new(std::ptr::null_mut()),
            objects: 0,
            nodes: 0,
            generation: Generation::Fresh,
            places: no_nodes(),
            #[cfg(cenote_loom)]
            touched: crate::primitive::UnsafeCell::new(()),
        });
        Magazine(NonNull::from(Box::leak(block)))
    }

    fn block(&self) -> &Block {
        // SAFETY: we own it. Other threads may read `next`, which is an atomic, and nothing else.
        let block = unsafe { self.0.as_ref() };
        #[cfg(cenote_loom)]
        block.touched.with_mut(|_| ());
        block
    }

    pub(super) fn objects(&self) -> usize {
        self.block().objects.into()
    }

    pub(super) fn nodes(&self) -> usize {
        self.block().nodes.into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects() == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.objects() == CAPACITY
    }

    pub(super) fn generation(&self) -> Generation {
        self.block().generation
    }

    pub(super) fn set_generation(&mut self, generation: Generation) {
        // SAFETY: we own it, and a raw write makes no reference to `next`, which others may read.
        unsafe { (&raw mut (*self.0.as_ptr()).generation).write(generation) }
    }

    /// Works on the nodes.
    pub(super) fn with<R>(&mut self, work: impl FnOnce(&mut Rack<'_>) -> R) -> R {
        let (objects, nodes) = (self.objects(), self.nodes());
        let block = self.0.as_ptr();
        // SAFETY: we own the places, and the reference covers nothing but them.
        let places = unsafe { &mut (*block).places };
        let mut rack = Rack { places, objects, nodes };
        let result = work(&mut rack);
        let (objects, nodes) = (rack.objects as u16, rack.nodes as u16);
        // SAFETY: as in `set_generation`.
        unsafe {
            (&raw mut (*block).objects).write(objects);
            (&raw mut (*block).nodes).write(nodes);
        }
        result
    }

    pub(super) fn pop(&mut self) -> Option<Node> {
        self.with(|rack| rack.pop())
    }

    pub(super) fn pop_blank(&mut self) -> Option<Node> {
        self.with(|rack| rack.pop_blank())
    }

    pub(super) fn push(&mut self, node: Node) -> Result<(), Node> {
        self.with(|rack| rack.push(node))
    }

    /// Takes these nodes with objects, as many as there are places at most. It must have none yet.
    pub(super) fn fill(&mut self, nodes: &[Node]) {
        self.with(|rack| {
            debug_assert_eq!(rack.nodes, 0);
            rack.places[..nodes.len()].copy_from_slice(nodes);
            rack.objects = nodes.len();
            rack.nodes = nodes.len();
        });
    }

    /// Moves objects, those that have been here for the longest time first.
    pub(super) fn give_oldest(&mut self, to: &mut Magazine, most: usize) {
        self.with(|from| to.with(|to| from.give_oldest(to, most)));
    }

    /// All objects but those that were put last, at most `keep` of them.
    pub(super) fn split_off(&mut self, keep: usize) -> Magazine {
        let mut rest = Magazine::new();
        rest.set_generation(self.generation());
        let moved = self.objects().saturating_sub(keep);
        self.give_oldest(&mut rest, moved);
        rest
    }

    pub(super) fn into_raw(self) -> *mut Block {
        std::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// # Safety
    ///
    /// `block` is null, or came from `into_raw` and is used once.
    pub(super) unsafe fn from_raw(block: *mut Block) -> Option<Self> {
        NonNull::new(block).map(Magazine)
    }

    /// Moves the nodes into a magazine of their own, and returns the memory, which others may still look at.
    pub(super) fn move_out(mut self) -> (Magazine, *mut Block) {
        let mut moved = Magazine::new();
        moved.set_generation(self.generation());
        self.with(|from| {
            moved.with(|to| {
                from.give_newest(to, CAPACITY);
                from.give_blanks(to);
            });
        });
        (moved, self.into_raw())
    }
}

impl Block {
    /// Frees the memory and looks at no node.
    ///
    /// # Safety
    ///
    /// `block` came from `Magazine::into_raw` and is not used again.
    pub(super) unsafe fn free(block: *mut Block) {
        // SAFETY: the caller's promise; it was made as a box.
        drop(unsafe { Box::from_raw(block) });
    }
}

impl Drop for Magazine {
    fn drop(&mut self) {
        debug_assert!(self.nodes() == 0 || is_panicking(), "{} nodes are lost", self.nodes());
        // SAFETY: we own it.
        unsafe { Block::free(self.0.as_ptr()) }
    }
}
