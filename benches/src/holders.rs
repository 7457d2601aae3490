//! Pools whose objects one can hold without a guard: put any, take any, on any thread.

#![expect(missing_debug_implementations, reason = "some rivals have none")]

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard};

use cenote::SyncPool;
use crossbeam_queue::{ArrayQueue, SegQueue};

/// What is pooled: as large as a pointer, and costs nothing to come by, as what Go's benchmarks put.
pub type Object = &'static [u8; 64];

/// Any of them.
pub const fn make() -> Object {
    &[0; 64]
}

/// What the bounded ones have room for: more than the bursts of two threads put.
const ROOM: usize = 1024;

/// Who takes part.
pub trait Holder: Sync {
    /// As the report calls it.
    const NAME: &'static str;

    /// With nothing in it.
    fn new() -> Self;

    /// Gives it an object.
    fn put(&self, object: Object);

    /// Takes one, if there is one.
    fn try_take(&self) -> Option<Object>;
}

/// This crate's.
pub struct Cenote(SyncPool<Object>);

impl Holder for Cenote {
    const NAME: &'static str = "cenote";

    fn new() -> Self {
        Cenote(SyncPool::new(make))
    }

    #[inline]
    fn put(&self, object: Object) {
        self.0.put(object);
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        self.0.try_take()
    }
}

/// The pool of one's own that shares nothing.
pub struct ThreadLocal;

thread_local! {
    static OWN: RefCell<Vec<Object>> = const { RefCell::new(Vec::new()) };
}

impl Holder for ThreadLocal {
    const NAME: &'static str = "thread_local RefCell<Vec>";

    fn new() -> Self {
        ThreadLocal
    }

    #[inline]
    fn put(&self, object: Object) {
        OWN.with_borrow_mut(|own| own.push(object));
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        OWN.with_borrow_mut(Vec::pop)
    }
}

/// The pool of one's own that shares everything.
pub struct MutexVec(Mutex<Vec<Object>>);

impl MutexVec {
    fn objects(&self) -> MutexGuard<'_, Vec<Object>> {
        self.0.lock().expect("no panic under the lock")
    }
}

impl Holder for MutexVec {
    const NAME: &'static str = "Mutex<Vec>";

    fn new() -> Self {
        MutexVec(Mutex::new(Vec::new()))
    }

    #[inline]
    fn put(&self, object: Object) {
        self.objects().push(object);
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        self.objects().pop()
    }
}

/// crossbeam's bounded queue.
pub struct Bounded(ArrayQueue<Object>);

impl Holder for Bounded {
    const NAME: &'static str = "crossbeam ArrayQueue";

    fn new() -> Self {
        Bounded(ArrayQueue::new(ROOM))
    }

    #[inline]
    fn put(&self, object: Object) {
        // What a full one does not take is dropped.
        let _ = self.0.push(object);
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        self.0.pop()
    }
}

/// crossbeam's unbounded queue.
pub struct Unbounded(SegQueue<Object>);

impl Holder for Unbounded {
    const NAME: &'static str = "crossbeam SegQueue";

    fn new() -> Self {
        Unbounded(SegQueue::new())
    }

    #[inline]
    fn put(&self, object: Object) {
        self.0.push(object);
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        self.0.pop()
    }
}

/// The crate `object-pool`, by the ways past its guard.
pub struct ObjectPool(object_pool::Pool<Object>);

impl Holder for ObjectPool {
    const NAME: &'static str = "object-pool";

    fn new() -> Self {
        ObjectPool(object_pool::Pool::from_vec(Vec::new()))
    }

    #[inline]
    fn put(&self, object: Object) {
        self.0.attach(object);
    }

    #[inline]
    fn try_take(&self) -> Option<Object> {
        Some(self.0.try_pull()?.detach().1)
    }
}
