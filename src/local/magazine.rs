//! Magazines, and the lock-free stack that the [depot](super::depot) keeps them on.
//!
//! A [`Magazine`] is a heap block with room for a fixed number of objects. One has one owner: a shard, a thread that works
//! on it, or the depot.
//!
//! # The stack
//!
//! Treiber's (*Systems programming: coping with parallelism*, IBM, 1986), with the memory of its nodes reclaimed by
//! epochs.
//!
//! * **push** writes the node's `next` and swings `head` to it with Release, so that whoever finds the node also finds
//!   its objects.
//! * **pop** is pinned while it reads `next` of a node that another may pop meanwhile. Who swings `head` away from a
//!   node owns the node and its objects: it moves the objects out at once, so that what waits for an epoch is
//!   an empty block, never an object of a user.
//! * A node that a stack lets go is never linked again: what pops it moves the objects into another block. Nor is its memory
//!   used for another while somebody is pinned who may have seen it: so `head` cannot come back to a value that was read before (no ABA).

use std::alloc::{self, Layout};
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};

use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::primitive::reclaim::{self, Pin};

/// Bytes of objects that a magazine is made for; it holds at least one object, and at most [`MOST`].
const BYTES: usize = 2048;
const MOST: usize = if cfg!(cenote_loom) { 2 } else { 32 };

/// In the low bits of a pointer in the depot: the magazine's age.
const AGE: usize = 3;

/// How many `T` a magazine holds.
pub(super) const fn capacity<T>() -> usize {
    match size_of::<T>() {
        0 => MOST,
        size => {
            let fit = BYTES / size;
            if fit < 1 {
                1
            } else if fit > MOST {
                MOST
            } else {
                fit
            }
        }
    }
}

/// How old the objects in a magazine are.
///
/// Travelling does not change it: an object grows young again by being used, not by lying beside one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// Put since the last ageing.
    Fresh,
    /// Put before it.
    Victim,
}

/// The head of a magazine's memory; the objects follow it.
#[repr(align(16))]
pub(super) struct Block<T> {
    /// Set by `push`. Read by those who race to pop the node, also after they have lost.
    next: AtomicPtr<Block<T>>,
    /// The first `len` places hold objects. The owner's.
    len: usize,
    /// Of the objects in it. The owner's; of those that wait in the depot, the depot knows better.
    generation: Generation,
    /// For loom, which knows nothing of the objects here: touched by whoever touches them.
    #[cfg(cenote_loom)]
    touched: crate::primitive::UnsafeCell<()>,
    _objects: PhantomData<T>,
}

impl<T> Block<T> {
    const LAYOUT: (Layout, usize) = {
        let objects = match Layout::array::<T>(capacity::<T>()) {
            Ok(objects) => objects,
            Err(_) => panic!("an object of this type is too large for any address space"),
        };
        match Layout::new::<Block<T>>().extend(objects) {
            Ok((layout, offset)) => (layout.pad_to_align(), offset),
            Err(_) => panic!("an object of this type is too large for any address space"),
        }
    };

    /// Frees the block and looks at nothing in it.
    ///
    /// # Safety
    ///
    /// `block` came from `Magazine::new` and is not used again.
    unsafe fn free(block: *mut Block<T>) {
        // loom counts its atomics.
        #[cfg(cenote_loom)]
        // SAFETY: it was written in `Magazine::new`.
        unsafe {
            ptr::drop_in_place(&raw mut (*block).next);
            ptr::drop_in_place(&raw mut (*block).touched);
        }
        // SAFETY: the caller's promise; the layout is that of the allocation.
        unsafe { alloc::dealloc(block.cast(), Self::LAYOUT.0) }
    }
}

/// The one owner of a magazine. Drops the objects that are in it.
pub(super) struct Magazine<T>(NonNull<Block<T>>);

// SAFETY: a magazine owns its objects as a vector does, and is sent and shared as one.
unsafe impl<T: Send> Send for Magazine<T> {}

impl<T> Magazine<T> {
    /// How many objects it holds when it is full.
    pub(super) const CAPACITY: usize = capacity::<T>();

    pub(super) fn new() -> Self {
        let (layout, _) = Block::<T>::LAYOUT;
        // SAFETY: the layout holds a header, so it is not of size zero.
        let block = unsafe { alloc::alloc(layout) }.cast::<Block<T>>();
        let Some(block) = NonNull::new(block) else { alloc::handle_alloc_error(layout) };
        let header = Block {
            next: AtomicPtr::new(ptr::null_mut()),
            len: 0,
            generation: Generation::Fresh,
            #[cfg(cenote_loom)]
            touched: crate::primitive::UnsafeCell::new(()),
            _objects: PhantomData,
        };
        // SAFETY: freshly allocated for it.
        unsafe { block.write(header) };
        Magazine(block)
    }

    pub(super) fn len(&self) -> usize {
        #[cfg(cenote_loom)]
        // SAFETY: as below.
        unsafe {
            Self::touch(self.0.as_ptr());
        }
        // SAFETY: we own the block, and it was initialised in `new`.
        unsafe { (*self.0.as_ptr()).len }
    }

    /// # Safety
    ///
    /// The block is the caller's.
    #[cfg(cenote_loom)]
    unsafe fn touch(block: *mut Block<T>) {
        // SAFETY: the caller's promise.
        unsafe { (*block).touched.with_mut(|_| ()) }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        // SAFETY: as in `len`.
        unsafe { (*self.0.as_ptr()).len = len }
    }

    pub(super) fn generation(&self) -> Generation {
        // SAFETY: as in `len`.
        unsafe { (*self.0.as_ptr()).generation }
    }

    pub(super) fn set_generation(&mut self, generation: Generation) {
        // SAFETY: as in `len`.
        unsafe { (*self.0.as_ptr()).generation = generation }
    }

    /// The first place.
    pub(super) fn objects(&self) -> *mut T {
        // SAFETY: the offset lies within the block.
        unsafe { self.0.as_ptr().byte_add(Block::<T>::LAYOUT.1).cast() }
    }

    /// Puts an object in; gives it back if there is no room.
    pub(super) fn push(&mut self, object: T) -> Result<(), T> {
        let len = self.len();
        if len == capacity::<T>() {
            return Err(object);
        }
        // SAFETY: a place below the capacity, with no object in it.
        unsafe { self.objects().add(len).write(object) };
        self.set_len(len + 1);
        Ok(())
    }

    /// All objects but the last `keep` of them.
    pub(super) fn split_off(&mut self, keep: usize) -> Magazine<T> {
        let mut rest = Magazine::new();
        rest.set_generation(self.generation());
        let len = self.len();
        let moved = len - keep.min(len);
        // SAFETY: the first `moved` objects go to a block of their own, the others close the gap; each is in one place
        // after.
        unsafe {
            ptr::copy_nonoverlapping(self.objects(), rest.objects(), moved);
            ptr::copy(self.objects().add(moved), self.objects(), len - moved);
        }
        rest.set_len(moved);
        self.set_len(len - moved);
        rest
    }

    /// Moves objects from the end of `from`, as many as there is room for.
    pub(super) fn append(&mut self, from: &mut Magazine<T>) {
        let (len, rest) = (self.len(), from.len());
        let moved = rest.min(Self::CAPACITY - len);
        // SAFETY: the last `moved` objects of `from` go to places of ours that are free, in another block; each is in one place
        // after.
        unsafe {
            ptr::copy_nonoverlapping(from.objects().add(rest - moved), self.objects().add(len), moved);
        }
        from.set_len(rest - moved);
        self.set_len(len + moved);
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let len = self.len().checked_sub(1)?;
        self.set_len(len);
        // SAFETY: the place holds an object, and does not any more.
        Some(unsafe { self.objects().add(len).read() })
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == Self::CAPACITY
    }

    /// With an age, 0 to 3, in the low bits.
    pub(super) fn into_tagged(self, age: usize) -> *mut Block<T> {
        self.into_raw().map_addr(|address| address | age)
    }

    /// The age that came with a pointer.
    pub(super) fn age_of(tagged: *mut Block<T>) -> usize {
        tagged.addr() & AGE
    }

    /// The magazine and its age; `None` if the pointer is null.
    ///
    /// # Safety
    ///
    /// `tagged` is null, or came from `into_tagged` and is used once.
    pub(super) unsafe fn from_tagged(tagged: *mut Block<T>) -> Option<(Self, usize)> {
        let block = NonNull::new(tagged.map_addr(|address| address & !AGE))?;
        Some((Magazine(block), Self::age_of(tagged)))
    }

    fn into_raw(self) -> *mut Block<T> {
        mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// Moves the objects of a node that was popped into a magazine of their own, and leaves the node to the epochs.
    ///
    /// # Safety
    ///
    /// The caller has unlinked `node`, and nobody else has.
    unsafe fn move_out(node: *mut Block<T>, pin: &Pin) -> Magazine<T> {
        let mut magazine = Magazine::new();
        // SAFETY: who unlinked it owns its objects and its length; others may still read its `next`, which stays.
        unsafe {
            #[cfg(cenote_loom)]
            Self::touch(node);
            let len = (*node).len;
            let objects = node.byte_add(Block::<T>::LAYOUT.1).cast::<T>();
            ptr::copy_nonoverlapping(objects, magazine.objects(), len);
            magazine.set_len(len);
            pin.free_later(node, Block::free);
        }
        magazine
    }
}

impl<T> Drop for Magazine<T> {
    fn drop(&mut self) {
        /// Frees the block also when an object's drop panics; a slice drops the others all the same.
        struct Free<T>(*mut Block<T>);
        impl<T> Drop for Free<T> {
            fn drop(&mut self) {
                // SAFETY: the magazine owned it, and is gone.
                unsafe { Block::free(self.0) }
            }
        }
        let _free = Free(self.0.as_ptr());
        let objects = ptr::slice_from_raw_parts_mut(self.objects(), self.len());
        // SAFETY: the first `len` places hold objects, which nobody else will drop.
        unsafe { ptr::drop_in_place(objects) }
    }
}

/// See the head of the file.
pub(super) struct Stack<T> {
    head: AtomicPtr<Block<T>>,
    _owns: PhantomData<T>,
}

// SAFETY: a stack passes objects from thread to thread, one owner each, and shows none to two at once.
unsafe impl<T: Send> Send for Stack<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Stack<T> {}

/// A list that was taken out of the depot: its one owner walks it alone, but latecomers may still read `next` of its nodes.
///
/// It is not pinned: whoever walks it may take long, and drops objects.
pub(super) struct List<T> {
    first: *mut Block<T>,
}

impl<T> Stack<T> {
    #[cfg(not(cenote_loom))]
    pub(super) const fn new() -> Self {
        Stack { head: AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
    }

    #[cfg(cenote_loom)]
    pub(super) fn new() -> Self {
        Stack { head: AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
    }

    pub(super) fn push(&self, magazine: Magazine<T>) {
        let node = magazine.into_raw();
        // The address that is read here goes into the node: while we are pinned, no other block gets it.
        let _pin = reclaim::pin();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is ours until it is linked. Relaxed: the exchange below publishes it.
            unsafe { (*node).next.store(head, Ordering::Relaxed) };
            // Release: who finds the node finds what is in it. On failure nothing is read through `head`.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// The magazine that was pushed last.
    pub(super) fn pop(&self) -> Option<Magazine<T>> {
        // Sequentially consistent, as the depot's second look demands.
        if self.head.load(Ordering::SeqCst).is_null() {
            return None;
        }
        let pin = reclaim::pin();
        // Acquire: what is in the node, and its `next`.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            if head.is_null() {
                return None;
            }
            // SAFETY: the node was linked after we pinned, or was when we did: it is not freed before we leave.
            let next = unsafe { (*head).next.load(Ordering::Relaxed) };
            match self.head.compare_exchange_weak(head, next, Ordering::Acquire, Ordering::Acquire) {
                // SAFETY: the exchange unlinked it, for us alone.
                Ok(_) => return Some(unsafe { Magazine::move_out(head, &pin) }),
                Err(now) => head = now,
            }
        }
    }

    /// Everything.
    pub(super) fn take_all(&self) -> List<T> {
        // Acquire: as in `pop`. Not pinned: nobody else frees what is ours from here on.
        List { first: self.head.swap(ptr::null_mut(), Ordering::Acquire) }
    }

    /// How many objects there are. Walks the stack, which is consistent only while nobody changes it.
    pub(super) fn count(&self) -> usize {
        if self.head.load(Ordering::Relaxed).is_null() {
            return 0;
        }
        let _pin = reclaim::pin();
        // SAFETY: pinned.
        unsafe { count(self.head.load(Ordering::Acquire)) }
    }
}

/// The objects in a chain of nodes.
///
/// # Safety
///
/// The nodes must not be freed meanwhile. (`len` is not written after a node was linked.)
unsafe fn count<T>(mut node: *mut Block<T>) -> usize {
    let mut count = 0;
    while !node.is_null() {
        // SAFETY: the caller's promise.
        unsafe {
            count += (*node).len;
            node = (*node).next.load(Ordering::Acquire);
        }
    }
    count
}

impl<T> List<T> {
    pub(super) fn count(&self) -> usize {
        // SAFETY: the list owns its nodes: nobody else frees them.
        unsafe { count(self.first) }
    }

    pub(super) fn append(&mut self, mut other: List<T>) {
        while !other.first.is_null() {
            let node = other.first;
            // SAFETY: the lists own their nodes. Relaxed: so nobody else writes there.
            unsafe {
                other.first = (*node).next.load(Ordering::Relaxed);
                (*node).next.store(self.first, Ordering::Relaxed);
            }
            self.first = node;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Magazine<T>> {
        if self.first.is_null() {
            return None;
        }
        let node = self.first;
        // SAFETY: the list owns its nodes; `move_out` leaves the node's memory to those who may still look at it.
        unsafe {
            self.first = (*node).next.load(Ordering::Relaxed);
            Some(Magazine::move_out(node, &reclaim::pin()))
        }
    }
}

impl<T> FromIterator<Magazine<T>> for List<T> {
    fn from_iter<I: IntoIterator<Item = Magazine<T>>>(magazines: I) -> Self {
        let mut list = List { first: ptr::null_mut() };
        for magazine in magazines {
            let node = magazine.into_raw();
            // SAFETY: the node is ours. Relaxed: so is the list.
            unsafe { (*node).next.store(list.first, Ordering::Relaxed) };
            list.first = node;
        }
        list
    }
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        // A magazine whose objects panic must not keep the others from being dropped.
        struct Rest<'a, T>(&'a mut List<T>);
        impl<T> Drop for Rest<'_, T> {
            fn drop(&mut self) {
                while let Some(magazine) = self.0.pop() {
                    drop(magazine);
                }
            }
        }
        while let Some(magazine) = self.pop() {
            let rest = Rest(self);
            drop(magazine);
            mem::forget(rest);
        }
    }
}

impl<T> Drop for Stack<T> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}
