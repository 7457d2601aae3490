//! Nodes: the allocation in which an object stays for as long as it is pooled, and the typed side of a [`Store`] of them.
//!
//! # Where the object lies
//!
//! A node begins a cache line of its own, since two threads that write to objects on one line take turns. Allocators are slow
//! at alignment (glibc takes 50 to 90 ns for what it does in 11 without), so a node is allocated with room to spare, and
//! the object lies at the first address in it that begins a line. The node's pointer is the one that the allocator
//! returned, and where the object lies follows from it: [`place`]. So there is no header, and a leak checker finds pointers to
//! the start of the allocation.

use std::alloc::{self, Layout};
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use crate::local::{self, Node, Objects, Policy, Store};
use crate::stats::Stats;

/// Bytes of a cache line. (Where lines are longer two small objects may share one.)
const LINE: usize = 64;

/// What every allocator aligns to without effort.
const USUAL: usize = 16;

/// Of a node with a `T`: lines of its own, and room to move it to the beginning of one.
const fn layout<T>() -> Layout {
    let (size, align) = (size_of::<T>(), align_of::<T>());
    let lines = match size {
        0 => LINE,
        // A type's size is below `isize::MAX`, so this does not overflow.
        size => size.div_ceil(LINE) * LINE,
    };
    let layout = if align <= USUAL {
        Layout::from_size_align(lines + LINE - USUAL, USUAL)
    } else {
        Layout::from_size_align(lines, if align > LINE { align } else { LINE })
    };
    match layout {
        Ok(layout) => layout,
        Err(_) => panic!("an object of this type is too large for any address space"),
    }
}

/// Where in a node the object lies.
#[inline(always)]
fn place<T>(node: Node) -> *mut T {
    node.map_addr(|address| (address + (LINE - 1)) & !(LINE - 1)).cast()
}

/// A node with an object, as a `Box` owns one.
pub(super) struct NodeBox<T> {
    node: NonNull<()>,
    _object: PhantomData<T>,
}

// SAFETY: it owns the object and nothing else, as a box does.
unsafe impl<T: Send> Send for NodeBox<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for NodeBox<T> {}

impl<T> NodeBox<T> {
    fn new(object: T) -> Self {
        let blank = Blank::<T>::allocate();
        blank.fill(object)
    }

    /// # Safety
    ///
    /// The node holds a `T`, and the caller owns it.
    #[inline]
    unsafe fn from_node(node: Node) -> Self {
        // SAFETY: a node is never null.
        NodeBox { node: unsafe { NonNull::new_unchecked(node) }, _object: PhantomData }
    }

    #[inline]
    fn into_node(self) -> Node {
        ManuallyDrop::new(self).node.as_ptr()
    }

    pub(super) fn into_object(self) -> T {
        let node = self.into_node();
        let _blank = Blank::<T>(node, PhantomData);
        // SAFETY: the node holds an object, and from here on it does not.
        unsafe { place::<T>(node).read() }
    }
}

impl<T> Deref for NodeBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the node holds an object, which is ours.
        unsafe { &*place(self.node.as_ptr()) }
    }
}

impl<T> DerefMut for NodeBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *place(self.node.as_ptr()) }
    }
}

impl<T> Drop for NodeBox<T> {
    fn drop(&mut self) {
        let node = self.node.as_ptr();
        // Freed also if the object's drop panics.
        let _blank = Blank::<T>(node, PhantomData);
        // SAFETY: the node holds an object, which nobody else will drop.
        unsafe { place::<T>(node).drop_in_place() }
    }
}

/// A node without an object. Frees it.
struct Blank<T>(Node, PhantomData<T>);

impl<T> Blank<T> {
    fn allocate() -> Self {
        let layout = layout::<T>();
        // SAFETY: the layout is at least a line.
        let node = unsafe { alloc::alloc(layout) };
        if node.is_null() {
            alloc::handle_alloc_error(layout);
        }
        Blank(node.cast(), PhantomData)
    }

    fn into_node(self) -> Node {
        ManuallyDrop::new(self).0
    }

    #[inline]
    fn fill(self, object: T) -> NodeBox<T> {
        let node = self.into_node();
        // SAFETY: the node has room for an object, and holds none.
        unsafe {
            place::<T>(node).write(object);
            NodeBox::from_node(node)
        }
    }
}

impl<T> Drop for Blank<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and ours.
        unsafe { alloc::dealloc(self.0.cast(), layout::<T>()) }
    }
}

/// Drops the object in a node, and frees the node.
///
/// # Safety
///
/// The node holds a `T`, and the caller owns it.
unsafe fn drop_node<T>(node: Node) {
    // SAFETY: the caller's promise.
    drop(unsafe { NodeBox::<T>::from_node(node) });
}

/// # Safety
///
/// The node was allocated for a `T`, holds none, and is the caller's.
unsafe fn free_node<T>(node: Node) {
    drop(Blank::<T>(node, PhantomData));
}

/// Moves an object, a small one word by word.
///
/// The fields of a `Vec` or a `String` were written one by one, a moment ago. A copy with wider loads, which the compiler
/// prefers, has to wait until those stores have reached the cache, because a processor forwards a store to a load only if
/// the store covers all of the load: 18 ns for a take and put of two words, against 14 ns word by word.
///
/// # Safety
///
/// As for `ptr::copy_nonoverlapping` of one object.
#[inline(always)]
unsafe fn move_object<T>(from: *const T, to: *mut T) {
    // Padding and pointers stay what they are.
    type Word = MaybeUninit<usize>;
    let has_words = align_of::<T>() >= align_of::<Word>() && size_of::<T>() <= LINE;
    if has_words {
        for word in 0..size_of::<T>() / size_of::<Word>() {
            // SAFETY: the size of a type is a multiple of its alignment, so these words are the object, and each is
            // aligned. Volatile, so that the loads stay apart.
            unsafe { to.cast::<Word>().add(word).write(from.cast::<Word>().add(word).read_volatile()) }
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from, to, 1) }
    }
}

/// A [`Store`] whose nodes all hold a `T`.
pub(super) struct Nodes<T: Send> {
    store: Store,
    /// It owns objects, and drops them.
    _objects: PhantomData<T>,
}

// SAFETY: a store passes nodes from thread to thread, one owner each, so `T: Send` is enough, whether `T` is `Sync` or not.
unsafe impl<T: Send> Sync for Nodes<T> {}

/// So that the compiler knows that the objects are used when this is dropped: what they borrow must live longer.
impl<T: Send> Drop for Nodes<T> {
    fn drop(&mut self) {}
}

impl<T: Send> Nodes<T> {
    pub(super) const fn new(policy: Policy) -> Self {
        let objects = Objects { drop: drop_node::<T>, free: free_node::<T> };
        // SAFETY: what is put, by the methods below, are nodes with a `T`, which is `Send`.
        Nodes { store: unsafe { Store::new(objects, policy) }, _objects: PhantomData }
    }

    #[inline(always)]
    pub(super) fn take(&self) -> Option<NodeBox<T>> {
        // Every node in the store holds a `T`, and the store gives each away once.
        self.store.take().map(|node| NodeBox { node, _object: PhantomData })
    }

    #[inline(always)]
    pub(super) fn put(&self, node: NodeBox<T>) {
        self.store.put(node.into_node());
    }

    /// As `take`, but moves the object out, into `object`; returns whether there was one.
    ///
    /// It does not return an `Option<T>`, because a field of the object says whether that is `None`: to test it the compiler
    /// moves the object in pieces, and a take and put of a `Vec` costs 23 ns instead of 10, for the reason in [`move_object`].
    #[inline(always)]
    pub(super) fn take_object(&self, object: &mut MaybeUninit<T>) -> bool {
        // SAFETY: every node in the store holds a `T`, and the store calls this for one that it keeps as a blank.
        let read = |node| unsafe { move_object(place::<T>(node), object.as_mut_ptr()) };
        self.store.take_value(read)
    }

    /// As `put`, of an object that has no node.
    #[inline(always)]
    pub(super) fn put_object(&self, object: T) {
        let object = ManuallyDrop::new(object);
        // SAFETY: the node is a blank with room for a `T`. This is called once, and from then on the object is in the node.
        let write = |node| unsafe { move_object(&raw const *object, place::<T>(node)) };
        self.store.put_value(write, || Blank::<T>::allocate().into_node());
    }

    /// A node with this object, which is the caller's.
    #[cold]
    pub(super) fn node_for(&self, object: T) -> NodeBox<T> {
        match self.store.take_blank() {
            Some(blank) => Blank(blank, PhantomData).fill(object),
            None => NodeBox::new(object),
        }
    }

    /// Moves an object out of a node that is not in the store, and keeps the node for another.
    #[inline]
    pub(super) fn detach(&self, node: NodeBox<T>) -> T {
        let node = node.into_node();
        let mut object = MaybeUninit::<T>::uninit();
        // SAFETY: the node holds an object, which is moved out: from here on it is a blank.
        unsafe { move_object(place::<T>(node), object.as_mut_ptr()) };
        self.store.put_blank(node);
        // SAFETY: it was moved here.
        unsafe { object.assume_init() }
    }

    pub(super) fn age(&self) {
        self.store.age();
    }

    pub(super) fn clear(&self) {
        self.store.clear();
    }

    pub(super) fn drain(&self) -> Drain<'_, T> {
        Drain { nodes: self.store.drain(), _objects: PhantomData }
    }

    pub(super) fn stats(&self) -> Stats {
        self.store.stats()
    }

    pub(super) fn count_made(&self) {
        self.store.count_made();
    }

    pub(super) fn count_refused(&self) {
        self.store.count_refused();
    }
}

/// The objects that [`SyncPool::drain`](super::SyncPool::drain) took out of a pool. Those that are left when it is dropped
/// are dropped with it.
#[must_use = "the objects are dropped if they are not taken"]
pub struct Drain<'a, T: Send> {
    nodes: local::Drain<'a>,
    _objects: PhantomData<T>,
}

// SAFETY: it owns its objects.
unsafe impl<T: Send> Send for Drain<'_, T> {}
// SAFETY: a shared reference gives access to their number alone.
unsafe impl<T: Send> Sync for Drain<'_, T> {}

// As for `Nodes`.
impl<T: Send> Drop for Drain<'_, T> {
    fn drop(&mut self) {}
}

impl<T: Send> Iterator for Drain<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        // SAFETY: every node of the store holds a `T`, and this one is ours.
        self.nodes.next_node().map(|node| unsafe { NodeBox::<T>::from_node(node) }.into_object())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<T: Send> ExactSizeIterator for Drain<'_, T> {
    fn len(&self) -> usize {
        self.nodes.len()
    }
}

impl<T: Send> std::iter::FusedIterator for Drain<'_, T> {}

impl<T: Send> std::fmt::Debug for Drain<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("left", &self.len()).finish()
    }
}

// A guard across an await point costs its future two words.
const _: () = assert!(mem::size_of::<NodeBox<[u8; 4096]>>() == mem::size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks where objects of a type lie, with many nodes at once.
    fn check<T: Default>() {
        let nodes: Vec<NodeBox<T>> = (0..100).map(|_| NodeBox::new(T::default())).collect();
        let mut lines: Vec<usize> = Vec::new();
        for node in &nodes {
            let (start, object) = (node.node.as_ptr().addr(), ptr::from_ref::<T>(node).addr());
            assert!(object.is_multiple_of(LINE) && object.is_multiple_of(align_of::<T>()));
            assert!(object + size_of::<T>() <= start + layout::<T>().size());
            lines.extend((object / LINE)..(object + size_of::<T>().max(1)).div_ceil(LINE));
        }
        let all = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), all, "two objects share a line");
    }

    #[test]
    fn each_object_has_lines_of_its_own_and_its_alignment() {
        #[derive(Default)]
        #[repr(align(32))]
        struct Aligned32(#[expect(dead_code)] u8);
        #[derive(Default)]
        #[repr(align(4096))]
        struct Aligned4096(#[expect(dead_code)] [u64; 3]);
        struct Bytes<const N: usize>([u8; N]);
        impl<const N: usize> Default for Bytes<N> {
            fn default() -> Self {
                Bytes([0; N])
            }
        }
        check::<()>();
        check::<u8>();
        check::<Vec<u8>>();
        check::<Bytes<64>>();
        check::<Bytes<65>>();
        check::<Bytes<200>>();
        check::<Bytes<4095>>();
        check::<u128>();
        check::<Aligned32>();
        check::<Aligned4096>();
    }
}
