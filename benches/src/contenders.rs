//! Ways to come by a scratch object and to leave it for the next one.
//!
//! Each is used as its documentation would have it, with a guard where there is one, and starts with what it needs to
//! never miss: the question is what a hit costs.
//!
//! Not here: `zeropool`, which hands out byte buffers by size and pools no objects. And `poolshark` pools collections,
//! so its object is a `Vec<u8>` of as many bytes.

#![expect(missing_debug_implementations, reason = "some rivals have none")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;

use cenote::SyncPool;
use crossbeam_queue::{ArrayQueue, SegQueue};
use lockfree_object_pool::LinearObjectPool;
use poolshark::global::{GPooled, Pool as GlobalPool};
use poolshark::local::LPooled;
use regex_automata::util::pool::Pool as RegexPool;
use sharded_slab::{Clear, Pool as SlabPool};

/// What is pooled: small, so that nothing but the pool is measured, and on the heap, so that it is worth pooling.
pub type Object = Box<[u8; 64]>;

/// What the shared ones hold, and have room for.
///
/// An almost empty queue would be another question: its two ends meet on one cache line.
const STOCK: usize = 64;

fn make() -> Object {
    Box::new([0; 64])
}

fn stock() -> impl Iterator<Item = Object> {
    std::iter::repeat_with(make).take(STOCK)
}

/// What a caller does with an object: next to nothing, but the compiler does not know.
#[inline]
fn work_with(object: &mut Object) {
    black_box(&mut object[0]);
}

/// Who takes part.
pub trait Contender: Sync {
    /// As the report calls it.
    const NAME: &'static str;

    /// Warm: the first get is a hit, or soon will be.
    fn new() -> Self;

    /// Gets an object, works with it and puts it back.
    fn get_put(&self);
}

/// This crate's.
pub struct Cenote(SyncPool<Object>);

impl Contender for Cenote {
    const NAME: &'static str = "cenote";

    fn new() -> Self {
        Cenote(SyncPool::new(make))
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut self.0.get());
    }
}

/// No pool.
pub struct Malloc;

impl Contender for Malloc {
    const NAME: &'static str = "malloc and free";

    fn new() -> Self {
        Malloc
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut make());
    }
}

/// The pool of one's own that shares nothing: what is freed on another thread is not seen again.
pub struct ThreadLocal;

thread_local! {
    static OWN: RefCell<Vec<Object>> = const { RefCell::new(Vec::new()) };
}

impl Contender for ThreadLocal {
    const NAME: &'static str = "thread_local RefCell<Vec>";

    fn new() -> Self {
        ThreadLocal
    }

    #[inline]
    fn get_put(&self) {
        let mut object = OWN.with_borrow_mut(Vec::pop).unwrap_or_else(make);
        work_with(&mut object);
        OWN.with_borrow_mut(|own| own.push(object));
    }
}

/// The pool of one's own that shares everything.
pub struct MutexVec(Mutex<Vec<Object>>);

impl MutexVec {
    fn objects(&self) -> std::sync::MutexGuard<'_, Vec<Object>> {
        self.0.lock().expect("no panic under the lock")
    }
}

impl Contender for MutexVec {
    const NAME: &'static str = "Mutex<Vec>";

    fn new() -> Self {
        MutexVec(Mutex::new(stock().collect()))
    }

    #[inline]
    fn get_put(&self) {
        // Bound first: in a `match` or chained, the lock would be held while the object is made.
        let held = self.objects().pop();
        let mut object = held.unwrap_or_else(make);
        work_with(&mut object);
        self.objects().push(object);
    }
}

/// The two queues are used alike.
macro_rules! a_queue {
    ($name:ident, $queue:ident, $called:literal, $new:expr) => {
        #[doc = concat!("The ", $called, ".")]
        pub struct $name($queue<Object>);

        impl Contender for $name {
            const NAME: &'static str = $called;

            fn new() -> Self {
                let queue = $new;
                for object in stock() {
                    let _ = queue.push(object);
                }
                $name(queue)
            }

            #[inline]
            fn get_put(&self) {
                let mut object = self.0.pop().unwrap_or_else(make);
                work_with(&mut object);
                // What a full one does not take is dropped.
                let _ = self.0.push(object);
            }
        }
    };
}

a_queue!(Bounded, ArrayQueue, "crossbeam ArrayQueue", ArrayQueue::new(STOCK));
a_queue!(Unbounded, SegQueue, "crossbeam SegQueue", SegQueue::new());

/// The crate `object-pool`.
pub struct ObjectPool(object_pool::Pool<Object>);

impl Contender for ObjectPool {
    const NAME: &'static str = "object-pool";

    fn new() -> Self {
        ObjectPool(object_pool::Pool::new(STOCK, make))
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut self.0.pull(make));
    }
}

/// The crate `opool`.
pub struct Opool(opool::Pool<Maker, Object>);

/// The factory of [`Opool`].
pub struct Maker;

impl opool::PoolAllocator<Object> for Maker {
    #[inline]
    fn allocate(&self) -> Object {
        make()
    }
}

impl Contender for Opool {
    const NAME: &'static str = "opool";

    fn new() -> Self {
        Opool(opool::Pool::new_prefilled(STOCK, Maker))
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut self.0.get());
    }
}

/// The crate `lockfree-object-pool`; of its pools, the one that its documentation puts first.
pub struct LockFree(LinearObjectPool<Object>);

impl Contender for LockFree {
    const NAME: &'static str = "lockfree-object-pool";

    fn new() -> Self {
        LockFree(LinearObjectPool::new(make, |_| {}))
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut self.0.pull());
    }
}

/// The pool in `regex-automata`: the first thread to use it owns an object, the others share stacks.
pub struct RegexAutomata(RegexPool<Object>);

impl Contender for RegexAutomata {
    const NAME: &'static str = "regex-automata";

    fn new() -> Self {
        RegexAutomata(RegexPool::new(make))
    }

    #[inline]
    fn get_put(&self) {
        work_with(&mut self.0.get());
    }
}

/// The pool in `sharded-slab`: an object is made ready under a key, and cleared by that key.
pub struct ShardedSlab(SlabPool<Cleared>);

/// The object of [`ShardedSlab`]. There is nothing to clear, as for the others.
pub struct Cleared(Object);

impl Default for Cleared {
    fn default() -> Self {
        Cleared(make())
    }
}

impl Clear for Cleared {
    fn clear(&mut self) {}
}

impl Contender for ShardedSlab {
    const NAME: &'static str = "sharded-slab";

    fn new() -> Self {
        ShardedSlab(SlabPool::new())
    }

    #[inline]
    fn get_put(&self) {
        let mut object = self.0.create().expect("far from full");
        work_with(&mut object.0);
        let key = object.key();
        drop(object);
        self.0.clear(key);
    }
}

/// What `poolshark` makes is empty; what comes back has kept its memory.
#[inline]
fn grow_once(object: &mut Vec<u8>) {
    if object.capacity() == 0 {
        object.reserve(64);
    }
    black_box(object.as_mut_ptr());
}

/// The local pools of `poolshark`: what is freed on another thread stays there.
pub struct PoolsharkLocal;

impl Contender for PoolsharkLocal {
    const NAME: &'static str = "poolshark, local";

    fn new() -> Self {
        PoolsharkLocal
    }

    #[inline]
    fn get_put(&self) {
        grow_once(&mut LPooled::take());
    }
}

/// A global pool of `poolshark`: what is freed goes where it came from.
pub struct PoolsharkGlobal(GlobalPool<Vec<u8>>);

impl Contender for PoolsharkGlobal {
    const NAME: &'static str = "poolshark, global";

    fn new() -> Self {
        let pool = GlobalPool::new(STOCK, 64);
        let stock: Vec<GPooled<Vec<u8>>> = (0..STOCK)
            .map(|_| {
                let mut object = pool.take();
                grow_once(&mut object);
                object
            })
            .collect();
        drop(stock);
        PoolsharkGlobal(pool)
    }

    #[inline]
    fn get_put(&self) {
        grow_once(&mut self.0.take());
    }
}
