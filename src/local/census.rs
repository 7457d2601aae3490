//! What the models put into a pool: numbered objects in counted nodes, so that a model sees what is lost, used by two
//! threads at once, or dropped or freed twice.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use super::{Node, Objects, Policy, Store};
use crate::primitive::{UnsafeCell, clock, fence, reclaim, thread};

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InPool,
    Taken,
    Dropped,
}

/// The objects by number and the nodes in the order of their allocation.
#[derive(Default)]
pub(super) struct Census {
    /// None is borrowed where the checker may switch threads.
    objects: RefCell<Vec<Option<Fate>>>,
    /// The memory stays until the model ends, so that a node that is freed twice is found and does no harm. Each with
    /// whether it is freed.
    nodes: RefCell<Vec<(*mut Memory, bool)>>,
    /// What the drop of each object calls.
    in_drop: RefCell<Option<Rc<dyn Fn()>>>,
}

// SAFETY: a checker runs the threads of a model one at a time, on one thread of the system.
unsafe impl Send for Census {}
// SAFETY: as above.
unsafe impl Sync for Census {}

/// A node. The checker reports threads that touch the object without an order between them.
struct Memory {
    object: UnsafeCell<Option<usize>>,
    /// Its place in the census.
    number: usize,
    census: &'static Census,
}

impl Census {
    fn allocate(&'static self) -> Node {
        let mut nodes = self.nodes.borrow_mut();
        let memory = Memory { object: UnsafeCell::new(None), number: nodes.len(), census: self };
        let memory = Box::into_raw(Box::new(memory));
        nodes.push((memory, false));
        memory.cast()
    }

    fn moves(&self, object: usize, from: &[Option<Fate>], to: Fate) {
        let mut objects = self.objects.borrow_mut();
        if objects.len() <= object {
            objects.resize(object + 1, None);
        }
        let was = std::mem::replace(&mut objects[object], Some(to));
        assert!(from.contains(&was), "object {object} goes from {was:?} to {to:?}");
    }

    pub(super) fn dropped(&self) -> usize {
        self.objects.borrow().iter().filter(|fate| **fate == Some(Fate::Dropped)).count()
    }

    pub(super) fn call_in_drops(&self, call: impl Fn() + 'static) {
        *self.in_drop.borrow_mut() = Some(Rc::new(call));
    }

    /// The pool is gone.
    fn end(&self) {
        for (object, fate) in self.objects.borrow().iter().enumerate() {
            assert!(matches!(fate, None | Some(Fate::Dropped)), "object {object} is lost: {fate:?}");
        }
        for (number, (memory, is_freed)) in self.nodes.borrow_mut().drain(..).enumerate() {
            assert!(is_freed, "node {number} is lost");
            // SAFETY: `allocate` made it, and nobody uses it any more.
            drop(unsafe { Box::from_raw(memory) });
        }
    }
}

fn memory(node: Node) -> &'static Memory {
    // SAFETY: the pool's nodes come from `Census::allocate` and live until the model ends.
    unsafe { &*node.cast::<Memory>() }
}

fn write(node: Node, object: usize) {
    // SAFETY: the caller owns the node; the checker reports it otherwise.
    let was = memory(node).object.with_mut(|place| unsafe { (*place).replace(object) });
    assert!(was.is_none(), "an object was taken for a blank");
}

fn read(node: Node) -> usize {
    // SAFETY: as in `write`.
    let object = memory(node).object.with_mut(|place| unsafe { (*place).take() });
    object.expect("a blank was taken for an object")
}

unsafe fn free_node(node: Node) {
    let memory = memory(node);
    // SAFETY: as in `write`.
    let object = memory.object.with_mut(|place| unsafe { *place });
    assert!(object.is_none(), "an object is freed as a blank");
    let was = std::mem::replace(&mut memory.census.nodes.borrow_mut()[memory.number].1, true);
    assert!(!was, "node {} is freed twice", memory.number);
}

unsafe fn drop_object(node: Node) {
    let census = memory(node).census;
    census.moves(read(node), &[Some(Fate::InPool), Some(Fate::Taken)], Fate::Dropped);
    let call = census.in_drop.borrow().clone();
    if let Some(call) = call {
        call();
    }
    // SAFETY: the object is moved out.
    unsafe { free_node(node) }
}

/// A store of counted objects.
pub(super) struct Pool {
    store: ManuallyDrop<Store>,
    pub(super) census: Census,
}

impl Deref for Pool {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// An object that is out of the pool; dropped with it, but for [`Pool::put_back`].
pub(super) struct Taken {
    pub(super) object: usize,
    /// `None` if it was taken by value.
    node: Option<Node>,
    census: &'static Census,
}

// SAFETY: a taken object has one owner.
unsafe impl Send for Taken {}

impl Drop for Taken {
    fn drop(&mut self) {
        match self.node {
            // SAFETY: we own the node and its object.
            Some(node) => unsafe { drop_object(node) },
            None => self.census.moves(self.object, &[Some(Fate::Taken)], Fate::Dropped),
        }
    }
}

/// A pool that searches at each miss and drops in use, without limit and without a clock.
pub(super) const POLICY: Policy =
    Policy { period: None, max_idle: None, is_expensive: true, drops_in_use: true };

impl Pool {
    /// A pool that lives until `end`.
    pub(super) fn new(policy: Policy) -> &'static Self {
        let objects = Objects { drop: drop_object, free: free_node };
        // SAFETY: all nodes come from the census.
        let store = unsafe { Store::new(objects, policy) };
        Box::leak(Box::new(Pool { store: ManuallyDrop::new(store), census: Census::default() }))
    }

    /// A node with a new object, for the pool.
    pub(super) fn node(&'static self, object: usize) -> Node {
        self.census.moves(object, &[None], Fate::InPool);
        let node = self.census.allocate();
        write(node, object);
        node
    }

    /// Puts a new object in a new node.
    pub(super) fn put_object(&'static self, object: usize) {
        self.put(self.node(object));
    }

    /// Puts a new object by value.
    pub(super) fn put_by_value(&'static self, object: usize) {
        self.census.moves(object, &[None], Fate::InPool);
        self.put_value(|node| write(node, object), || self.census.allocate());
    }

    pub(super) fn take_object(&'static self) -> Option<Taken> {
        let node = self.take()?.as_ptr();
        // SAFETY: as in `write`.
        let object = memory(node).object.with_mut(|place| unsafe { *place });
        let object = object.expect("a blank was taken for an object");
        self.census.moves(object, &[Some(Fate::InPool)], Fate::Taken);
        Some(Taken { object, node: Some(node), census: &self.census })
    }

    pub(super) fn take_by_value(&'static self) -> Option<Taken> {
        let mut object = None;
        let has_read = self.take_value(|node| assert!(object.replace(read(node)).is_none()));
        assert_eq!(has_read, object.is_some());
        self.census.moves(object?, &[Some(Fate::InPool)], Fate::Taken);
        Some(Taken { object: object?, node: None, census: &self.census })
    }

    /// Puts the object back the way it was taken.
    #[cfg(cenote_shuttle)]
    pub(super) fn put_back(&'static self, taken: Taken) {
        let taken = ManuallyDrop::new(taken);
        self.census.moves(taken.object, &[Some(Fate::Taken)], Fate::InPool);
        match taken.node {
            Some(node) => self.put(node),
            None => self.put_value(|node| write(node, taken.object), || self.census.allocate()),
        }
    }

    /// Takes everything out of the pool and counts it.
    pub(super) fn drain_all(&'static self) -> usize {
        let mut drain = self.drain();
        let mut count = 0;
        while let Some(node) = drain.next_node().and_then(NonNull::new) {
            // SAFETY: the drain gave us the node with its object.
            unsafe { drop_object(node.as_ptr()) };
            count += 1;
        }
        count
    }

    pub(super) fn ask_all_to_retire(&'static self) {
        self.shards().for_each(super::shard::Shard::ask_to_retire);
    }

    /// Ends the model: looks at the counters, drops the pool, and looks whether each object was dropped once and each node
    /// freed once.
    pub(super) fn end(&'static self) {
        self.census.in_drop.borrow_mut().take();
        let stats = self.stats();
        let left = stats.hits + stats.shed + stats.aged + stats.cleared + stats.drained + stats.idle as u64;
        assert_eq!(stats.kept, left, "{stats:?}");
        let pool: *mut Pool = (&raw const *self).cast_mut();
        // SAFETY: `new` made it as a box, the other threads have ended, and nobody uses it again. The drops of objects look at
        // the census only.
        unsafe {
            ManuallyDrop::drop(&mut (*pool).store);
            (*pool).census.end();
            drop(Box::from_raw(pool));
        }
        end_model();
    }
}

/// What the next execution of a model must not find.
pub(crate) fn end_model() {
    reclaim::free_all();
    thread::forget_numbers();
    fence::reset();
    clock::stop_at(1);
}
