//! The lock-free stack of [magazines](super::magazine) in the [depot](super::depot).
//!
//! Treiber's (*Systems programming: coping with parallelism*, IBM, 1986), with the memory of its nodes reclaimed by
//! epochs.
//!
//! * **push** writes the block's `next` and swings `head` to it with Release, so that a thread that finds the block also
//!   finds what is in it.
//! * **pop** is pinned while it reads `next` of a block that another thread may pop meanwhile. The thread that swings `head`
//!   away from a block owns what is in it: it moves that out at once, so that what waits for an epoch is
//!   an empty block, never an object of a user.
//! * A block that a stack lets go is never linked again: the thread that pops it moves the nodes into another block. Nor is its
//!   memory used for another while a thread is pinned that may have seen it: so `head` cannot come back to a value that
//!   was read before (no ABA).

use std::mem::ManuallyDrop;
use std::ptr;

use super::magazine::{Block, Magazine};
use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::primitive::{is_panicking, reclaim};

/// See the head of the file.
pub(super) struct Stack {
    head: AtomicPtr<Block>,
}

/// Magazines with one owner, which may take long and drop objects: nothing here is pinned.
///
/// It must be empty when it is dropped, as a magazine.
#[derive(Debug)]
pub(super) struct List {
    /// Magazines that nobody else looks at.
    private: *mut Block,
    /// Magazines that were on a stack: latecomers may still read `next` of their blocks.
    unlinked: *mut Block,
}

// SAFETY: a list owns its magazines, which are `Send`.
unsafe impl Send for List {}

impl Stack {
    #[cfg(not(cenote_loom))]
    pub(super) const fn new() -> Self {
        Stack { head: AtomicPtr::new(ptr::null_mut()) }
    }

    #[cfg(cenote_loom)]
    pub(super) fn new() -> Self {
        Stack { head: AtomicPtr::new(ptr::null_mut()) }
    }

    pub(super) fn push(&self, magazine: Magazine) {
        let block = magazine.into_raw();
        // The address that is read here goes into the block: while we are pinned, no other block gets it.
        let _pin = reclaim::pin();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the block is ours until it is linked. Relaxed: the exchange below publishes it.
            unsafe { (*block).next.store(head, Ordering::Relaxed) };
            // Release: a thread that finds the block finds what is in it. On failure nothing is read through `head`.
            match self.head.compare_exchange_weak(head, block, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// The magazine that was pushed last.
    pub(super) fn pop(&self) -> Option<Magazine> {
        // Sequentially consistent, as the depot's second look demands.
        if self.head.load(Ordering::SeqCst).is_null() {
            return None;
        }
        let pin = reclaim::pin();
        // Acquire: what is in the block, and its `next`.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            if head.is_null() {
                return None;
            }
            // SAFETY: the block was linked after we pinned, or was when we did: it is not freed before we leave.
            let next = unsafe { (*head).next.load(Ordering::Relaxed) };
            match self.head.compare_exchange_weak(head, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: the exchange unlinked it, for us alone.
                    let (magazine, block) = unsafe { Magazine::from_raw(head) }?.move_out();
                    // SAFETY: no thread that pins from now on finds the block.
                    unsafe { pin.free_later(block, Block::free) };
                    return Some(magazine);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Everything.
    pub(super) fn take_all(&self) -> List {
        // Acquire: as in `pop`. Not pinned: nobody else frees what is ours from here on.
        List { private: ptr::null_mut(), unlinked: self.head.swap(ptr::null_mut(), Ordering::Acquire) }
    }
}

impl List {
    pub(super) const fn new() -> Self {
        List { private: ptr::null_mut(), unlinked: ptr::null_mut() }
    }

    /// The objects in it.
    pub(super) fn objects(&self) -> usize {
        let mut count = 0;
        for mut block in [self.private, self.unlinked] {
            while !block.is_null() {
                // SAFETY: the list owns its blocks. Relaxed: so nobody else writes there. The magazine is forgotten again.
                unsafe {
                    let magazine = ManuallyDrop::new(Magazine::from_raw(block));
                    count += magazine.as_ref().map_or(0, Magazine::objects);
                    block = (*block).next.load(Ordering::Relaxed);
                }
            }
        }
        count
    }

    /// Adds a magazine.
    pub(super) fn push(&mut self, magazine: Magazine) {
        let block = magazine.into_raw();
        // SAFETY: the block is ours: a magazine that anyone holds is not one that was on a stack. Relaxed: so is the list.
        unsafe { (*block).next.store(self.private, Ordering::Relaxed) };
        self.private = block;
    }

    pub(super) fn append(&mut self, other: List) {
        let mut other = ManuallyDrop::new(other);
        // SAFETY: the lists own their blocks.
        unsafe {
            join(&mut self.private, &mut other.private);
            join(&mut self.unlinked, &mut other.unlinked);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Magazine> {
        // SAFETY: the list owns its blocks. What is moved out leaves the memory to threads that may still look at it.
        unsafe {
            if let Some(block) = unchain(&mut self.private) {
                return Magazine::from_raw(block);
            }
            let (magazine, block) = Magazine::from_raw(unchain(&mut self.unlinked)?)?.move_out();
            reclaim::pin().free_later(block, Block::free);
            Some(magazine)
        }
    }
}

/// The first block of a chain.
///
/// # Safety
///
/// The caller owns the chain.
unsafe fn unchain(first: &mut *mut Block) -> Option<*mut Block> {
    let block = *first;
    if block.is_null() {
        return None;
    }
    // SAFETY: the caller's promise. Relaxed: nobody else writes there.
    *first = unsafe { (*block).next.load(Ordering::Relaxed) };
    Some(block)
}

/// Moves the blocks of one chain in front of another one.
///
/// # Safety
///
/// The caller owns both.
unsafe fn join(to: &mut *mut Block, from: &mut *mut Block) {
    // SAFETY: the caller's promise. Relaxed: nobody else writes there.
    unsafe {
        while let Some(block) = unchain(from) {
            (*block).next.store(*to, Ordering::Relaxed);
            *to = block;
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let is_empty = self.private.is_null() && self.unlinked.is_null();
        debug_assert!(is_empty || is_panicking(), "a list of objects is lost");
    }
}
