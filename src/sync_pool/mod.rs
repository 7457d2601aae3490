//! [`SyncPool`]: scratch objects, reused.

mod config;
mod guard;
mod node;
mod recycle;

use std::fmt;
use std::mem::MaybeUninit;

pub use self::config::PoolConfig;
pub use self::guard::{OwnedPooled, Pooled};
pub use self::node::Drain;
use self::node::{NodeBox, Nodes};
use self::recycle::Recycle;
use crate::aging::{Ageable, sealed};
use crate::local::Policy;
use crate::primitive::{Arc, Weak};
use crate::stats::Stats;

/// A pool of objects that any thread may take and give back, after Go's `sync.Pool`.
///
/// Each thread has a shard of its own; a get takes what this thread put last, while it is still in its cache, with a few
/// plain loads and stores. What one shard has too much travels to the others by a shared depot, a magazine at a time; a
/// get that finds neither takes from another thread's shard before it lets the factory make a new object. Nothing is
/// lost on a thread that went to sleep or ended.
///
/// ```
/// use cenote::SyncPool;
///
/// static BUFS: SyncPool<Vec<u8>> = SyncPool::with_recycle(Vec::new, |buf| {
///     buf.clear();
///     buf.capacity() <= 64 * 1024 // an outsized one is dropped, not kept
/// });
///
/// fn render(name: &str) -> usize {
///     let mut buf = BUFS.get(); // Go: buf := bufs.Get(); defer bufs.Put(buf)
///     buf.extend_from_slice(b"hello, ");
///     buf.extend_from_slice(name.as_bytes());
///     buf.len()
/// } // and back it goes
///
/// assert_eq!(render("world"), 12);
/// assert_eq!(render("again"), 12);
/// assert_eq!(BUFS.stats().made, 1);
/// ```
///
/// # What it promises
///
/// * An object that is put may be dropped at any time after: a pool is for things that can be made again.
/// * An object stays where it is: it lies in an allocation of its own, on cache lines of its own, and a get or put with a guard
///   moves a pointer, whatever the object's size. [`take`](Self::take), [`put`](Self::put) and
///   [`Pooled::detach`] move the object by value.
/// * A get finds what its own thread holds and what waits in the depot. Then it searches other threads' shards: those that
///   have something and whose threads are not at work in them at this moment, at a bounded cost. It looks at 8 shards, and
///   once each few milliseconds at all of them, and the process makes up to 16 such searches a millisecond in which there is
///   something to take, 64 at once, and each pool 4 of its own in 10 ms. So an object that has been idle for more than some 10 ms is found, after a burst of misses by the fourth get, before the factory is
///   called, however many threads there are; one that was put just now on another thread may not be.
/// * An object that nobody used for two generations is dropped. A generation ends by [`age`](Self::age), or when its
///   period is over, 60 s [by default](PoolConfig::period): that is noticed by gets and puts that go beyond the
///   thread's own shard, so a pool that nobody uses, or that is used one object at a time, keeps what it has. An
///   [`Ager`](crate::Ager) is there for that. There is no maximum, unless [one](PoolConfig::max_idle) is set.
/// * No get, put or drop of a guard drops more than 8 objects that have expired, and none if it is called by the `Drop` of
///   such an object. Expired objects go with the operations that follow; `age` and `clear` drop all at once.
/// * **So a get may run the `Drop` of objects that it did not ask for.** A caller must not hold a lock that this `Drop` takes,
///   or it waits for itself. Where that cannot be had, [`PoolConfig::no_drops_in_use`] leaves all such drops to `age`,
///   `clear` and an `Ager`.
/// * A put of an object happens before the get that returns it.
/// * Which object a get returns is not promised. On one thread it is most often the one put last.
/// * The factory, the recycle hook and the `Drop` of an object run without any lock held: they may use this pool,
///   and if one panics, the panic goes to the caller, the object at hand is dropped, and the pool works on.
/// * No operation waits for another thread, but for `age`, `clear` and `drain`, which wait for up to about 10 ms for a thread
///   in the middle of a get or put.
///
/// # When not to use it
///
/// For objects that must be limited in number or closed in an orderly way (database connections), and for those
/// that cost less to make than the few nanoseconds of a get and put. An object comes back as it was left,
/// unless a hook resets it: see [`with_recycle`](Self::with_recycle).
///
/// # What may be pooled
///
/// Objects that may move to another thread (`T: Send`); they need not be `Sync`, nor `'static`.
///
/// ```compile_fail,E0277
/// # use cenote::SyncPool;
/// use std::rc::Rc;
///
/// let pool: SyncPool<Rc<u8>> = SyncPool::new(|| Rc::new(0));
/// ```
///
/// ```
/// # use cenote::SyncPool;
/// use std::sync::Arc;
///
/// let pool: SyncPool<Arc<u8>> = SyncPool::new(|| Arc::new(0));
/// ```
///
/// # The algorithm
///
/// Shards, the victim generation and the order of the search follow Go's
/// [`sync/pool.go`](https://go.dev/src/sync/pool.go); the magazines and their depot follow Bonwick and Adams,
/// *Magazines and Vmem* (USENIX ATC 2001). A shard is behind a lock that is biased towards its thread: see Kawachiya,
/// Koseki and Onodera, *Lock Reservation* (OOPSLA 2002), and for the asymmetric fence under it Linux's `membarrier(2)`. Where
/// that is not to be had the pool finds out by itself, and pays a fence for each operation. The whole argument is in
/// [`docs::internals`](crate::docs::internals).
///
/// # What is kept in memory
///
/// An object lies in a *node*: its size rounded up to whole cache lines of 64 bytes, and 48 bytes more. A node whose object
/// was moved out by value is kept for the next object that is put by value, until the pool ages or is cleared.
///
/// Each thread that ever used the pool at the same time as the others has a shard, 384 bytes on 64 bits, with room for
/// 30 nodes; beside it are a spare magazine of 30 more, and perhaps an empty one, of 256 bytes each. What is above that lies
/// in the depot, in magazines of the same size; the depot is little more than 1 KiB, and is made when it is first needed. A
/// thread also keeps a table of 16 bytes for each pool that it uses, or a few times that, and up to 4 shards of pools that are
/// gone, for the next pool.
///
/// So a pool that `threads` threads have used retains, while nobody ages it, as many objects as were idle at once, and at most
/// `max_idle + threads * 60` if a [`max_idle`](PoolConfig::max_idle) is set; two generations later, none. Nodes without an
/// object are at most as many as objects were out by value at once, and at most 90 for each thread and 840 in the depot, beside
/// those that travel with objects. The hook bounds the size of each object: see [`with_recycle`](Self::with_recycle).
///
/// # Large objects
///
/// A get with a guard copies no object, but a factory returns its object by value, so the first get needs stack for it: in
/// builds without optimization up to five times its size, and `take` and `put` by value need six times. Objects of hundreds of
/// KiB are better boxed by the factory.
///
/// # Recipes
///
/// **Buffers that leave as `Bytes`.** `split().freeze()` takes the written part of a `BytesMut`
/// away and leaves the rest of its memory, which is empty at last. So the hook asks for room for
/// the largest message: `try_reclaim` returns true if there is some behind the messages, or if
/// these have been dropped and it gets their memory back, and it never allocates. A buffer that is
/// used up while its messages live is refused. With a buffer as large as 32 messages at most one
/// message in 32 allocates, however many are under way:
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use cenote::SyncPool;
///
/// const LARGEST: usize = 2 * 1024;
///
/// static BUFS: SyncPool<BytesMut> = SyncPool::with_recycle(
///     || BytesMut::with_capacity(32 * LARGEST),
///     |buf| {
///         buf.clear();
///         buf.try_reclaim(LARGEST)
///     },
/// );
///
/// fn encode(name: &str) -> Bytes {
///     let mut buf = BUFS.get();
///     buf.extend_from_slice(b"hello, ");
///     buf.extend_from_slice(name.as_bytes());
///     buf.split().freeze()
/// }
///
/// let under_way: Vec<Bytes> = (0..1000).map(|_| encode("world")).collect();
/// assert!(under_way.iter().all(|message| message == "hello, world"));
/// assert_eq!(BUFS.stats().made, 1); // all of them lie in one buffer
/// ```
///
/// # Forks
///
/// A forked child may use the pools of its parent, also when the fork came in the middle of another thread's operation, and
/// also if the thread that forked has never used a pool: nothing that a get or put does takes a lock.
/// What lay in the shards of threads that do not exist in the child is out of its reach if they were busy, and lost if another
/// thread was taking from them.
///
/// # Signal handlers
///
/// A get or put in a signal handler that interrupts another one of the same thread finds the shard busy, or the thread's table
/// in the middle of a change, and goes on without it. But it may allocate, which few allocators allow in a handler, and the
/// factory may do anything.
#[repr(C)] // what a hit reads lies together: the hook, and the beginning of the store
pub struct SyncPool<T: Send, F = fn() -> T> {
    factory: F,
    /// Resets an object before it is kept, or refuses it.
    recycle: Recycle<T>,
    nodes: Nodes<T>,
}

impl<T: Send, F> SyncPool<T, F> {
    /// A pool whose misses are served by `factory`. Allocates nothing, so it can stand in a `static`:
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// ```
    ///
    /// A factory may capture. The type of a `static` must be written out, so there it takes a box:
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// use std::sync::LazyLock;
    ///
    /// type Factory = Box<dyn Fn() -> Vec<u8> + Send + Sync>;
    ///
    /// static BUFS: LazyLock<SyncPool<Vec<u8>, Factory>> = LazyLock::new(|| {
    ///     let size = std::env::args().len() * 1024; // from a configuration
    ///     SyncPool::new(Box::new(move || Vec::with_capacity(size)))
    /// });
    /// assert!(BUFS.get().capacity() >= 1024);
    /// ```
    pub const fn new(factory: F) -> Self {
        Self::with_config(factory, PoolConfig::new())
    }

    /// A pool of expensive objects that ages by hand alone: other threads' shards are searched at each miss.
    #[cfg(feature = "grpc")]
    pub(crate) const fn expensive(factory: F) -> Self {
        let policy = Policy { period: None, max_idle: None, is_expensive: true, drops_in_use: true };
        SyncPool { nodes: Nodes::new(policy), recycle: Recycle::Nothing, factory }
    }

    /// A pool with a hook that sees each object that comes back, before it is kept: it resets the object and
    /// returns `true`, or `false` to have it dropped.
    ///
    /// The hook runs on the thread that gives the object back, in a `put` or in the drop of a guard. If it
    /// panics, the object is dropped and the panic goes on to that caller. A hook that captures is set by
    /// [`recycle_with`](Self::recycle_with).
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool = SyncPool::with_recycle(String::new, |s| {
    ///     s.clear();
    ///     s.capacity() < 1024
    /// });
    /// pool.put(String::with_capacity(10_000));
    /// assert_eq!(pool.stats().refused, 1);
    /// assert_eq!(pool.stats().idle, 0);
    /// ```
    pub const fn with_recycle(factory: F, recycle: fn(&mut T) -> bool) -> Self
    where
        F: Fn() -> T,
    {
        Self::with_config(factory, PoolConfig::new().recycle(recycle))
    }

    /// A pool with other [options](PoolConfig) than the default ones.
    pub const fn with_config(factory: F, config: PoolConfig<T>) -> Self {
        let policy = Policy {
            period: config.period,
            max_idle: config.max_idle,
            is_expensive: false,
            drops_in_use: config.drops_in_use,
        };
        SyncPool { nodes: Nodes::new(policy), recycle: Recycle::from_option(config.recycle), factory }
    }

    /// Takes an object that the pool holds, under a guard; `None` if there is none.
    ///
    /// Does not wait: a shard that another thread is at work on at this moment is passed over. How far the pool searches
    /// is said [above](Self#what-it-promises).
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// assert!(pool.try_get().is_none());
    /// pool.put(vec![1]);
    /// assert_eq!(*pool.try_get().unwrap(), [1]);
    /// ```
    #[inline]
    pub fn try_get(&self) -> Option<Pooled<'_, T, F>> {
        self.nodes.take().map(|node| Pooled::new(self, node))
    }

    /// Takes an object that the pool holds; `None` if there is none. Go's `Get` with a nil `New`.
    ///
    /// As [`try_get`](Self::try_get), by value.
    #[inline]
    pub fn try_take(&self) -> Option<T> {
        let mut object = MaybeUninit::uninit();
        // SAFETY: the object is there if the store says so.
        self.nodes.take_object(&mut object).then(|| unsafe { object.assume_init() })
    }

    /// Takes an object under a guard, or makes one with `make`, which may capture what a factory cannot.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// let expected = 4096;
    /// let buf = BUFS.get_or_else(|| Vec::with_capacity(expected));
    /// assert!(buf.capacity() >= 4096);
    /// ```
    ///
    /// # Panics
    ///
    /// If `make` panics; the pool is as it was. If the `Drop` of one of the up to 8 objects panics that have expired and are
    /// dropped by the way; the others are dropped by later operations.
    #[inline]
    pub fn get_or_else(&self, make: impl FnOnce() -> T) -> Pooled<'_, T, F> {
        Pooled::new(self, self.node_or_else(make))
    }

    /// As [`get_or_else`](Self::get_or_else), where making an object can fail.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<std::fs::File> = SyncPool::new(|| unreachable!("only by `try_get_or_else`"));
    /// # if cfg!(miri) { return }
    /// assert!(pool.try_get_or_else(|| std::fs::File::open("/no/such/file")).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// What `make` returns. The pool is as it was.
    ///
    /// # Panics
    ///
    /// As [`get_or_else`](Self::get_or_else).
    #[inline]
    pub fn try_get_or_else<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Pooled<'_, T, F>, E> {
        match self.nodes.take() {
            Some(node) => Ok(Pooled::new(self, node)),
            None => self.try_make_node(make).map(|node| Pooled::new(self, node)),
        }
    }

    /// Takes an object, or makes one with `make`, by value.
    ///
    /// # Panics
    ///
    /// As [`get_or_else`](Self::get_or_else).
    #[inline]
    pub fn take_or_else(&self, make: impl FnOnce() -> T) -> T {
        let mut object = MaybeUninit::uninit();
        if !self.nodes.take_object(&mut object) {
            object.write(self.make(make));
        }
        // SAFETY: the store has moved an object there, or `make` has made one.
        unsafe { object.assume_init() }
    }

    /// As [`get_or_else`](Self::get_or_else), with a guard that keeps the pool alive.
    ///
    /// # Panics
    ///
    /// As [`get_or_else`](Self::get_or_else).
    #[inline]
    pub fn get_owned_or_else(self: &Arc<Self>, make: impl FnOnce() -> T) -> OwnedPooled<T, F> {
        OwnedPooled::new(Arc::clone(self), self.node_or_else(make))
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive.
    #[inline]
    pub fn try_get_owned(self: &Arc<Self>) -> Option<OwnedPooled<T, F>> {
        self.nodes.take().map(|node| OwnedPooled::new(Arc::clone(self), node))
    }

    /// Brings an object that was made elsewhere, such as by an async constructor, under a guard of this pool.
    ///
    /// The object is counted neither as made nor as a hit. When the guard is dropped it goes to the pool, by way of the
    /// recycle hook, as any other.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// # async fn connect() -> Result<Vec<u8>, std::io::Error> { Ok(vec![7]) }
    /// # async fn example(pool: &SyncPool<Vec<u8>>) -> Result<(), std::io::Error> {
    /// let conn = match pool.try_get() {
    ///     Some(conn) => conn,
    ///     None => pool.attach(connect().await?),
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach(&self, object: T) -> Pooled<'_, T, F> {
        Pooled::new(self, self.nodes.node_for(object))
    }

    /// As [`attach`](Self::attach), with a guard that keeps the pool alive.
    pub fn attach_owned(self: &Arc<Self>, object: T) -> OwnedPooled<T, F> {
        OwnedPooled::new(Arc::clone(self), self.nodes.node_for(object))
    }

    #[inline]
    fn node_or_else(&self, make: impl FnOnce() -> T) -> NodeBox<T> {
        match self.nodes.take() {
            Some(node) => node,
            None => self.make_node(make),
        }
    }

    #[cold]
    #[inline(never)]
    fn make_node(&self, make: impl FnOnce() -> T) -> NodeBox<T> {
        self.nodes.node_for(self.make(make))
    }

    #[cold]
    #[inline(never)]
    fn try_make_node<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<NodeBox<T>, E> {
        let object = make()?;
        self.nodes.count_made();
        Ok(self.nodes.node_for(object))
    }

    #[cold]
    fn make(&self, make: impl FnOnce() -> T) -> T {
        let object = make();
        self.nodes.count_made();
        object
    }

    /// Gives an object to the pool, whether it came from there or not; Go's `Put`. Runs the recycle hook.
    ///
    /// # Panics
    ///
    /// If the recycle hook panics, or the `Drop` of an object that is dropped by this: one that the hook refused, or up to 8
    /// others that have expired or find no room. That object is gone, the pool works.
    #[inline(always)]
    pub fn put(&self, object: T) {
        if self.recycle.is_nothing() {
            self.nodes.put_object(object);
        } else {
            self.recycle(object);
        }
    }

    /// Apart from `put`, so that there the object need not have an address.
    #[inline(never)]
    fn recycle(&self, mut object: T) {
        if self.recycle.accepts(&mut object) {
            self.nodes.put_object(object);
        } else {
            self.refuse(object);
        }
    }

    /// As `put`, of what a guard held. Small enough to become a part of the guard's drop.
    #[inline(always)]
    fn put_node(&self, node: NodeBox<T>) {
        if self.recycle.is_nothing() {
            self.nodes.put(node);
        } else {
            self.recycle_node(node);
        }
    }

    #[inline(never)]
    fn recycle_node(&self, mut node: NodeBox<T>) {
        if self.recycle.accepts(&mut node) {
            self.nodes.put(node);
        } else {
            self.refuse(node);
        }
    }

    #[cold]
    fn refuse<O>(&self, object: O) {
        self.nodes.count_refused();
        drop(object);
    }

    /// Puts each of these objects.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// pool.extend((0..10).map(|_| Vec::with_capacity(4096)));
    /// assert_eq!(pool.stats().idle, 10);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`put`](Self::put), or if the iterator panics. What was put by then stays.
    pub fn extend(&self, objects: impl IntoIterator<Item = T>) {
        objects.into_iter().for_each(|object| self.put(object));
    }

    /// Takes out all that the pool holds now, of every thread, for the caller to use or to close in an orderly way.
    ///
    /// What is out with others stays with them and may come back. As for [`clear`](Self::clear), a thread that was
    /// interrupted in the middle of a get or put may keep what it has. Objects that the iterator has not returned
    /// when it is dropped are dropped with it.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// pool.extend([vec![1], vec![2]]);
    /// assert_eq!(pool.drain().flatten().map(u32::from).sum::<u32>(), 3);
    /// assert_eq!(pool.stats().idle, 0);
    /// ```
    pub fn drain(&self) -> Drain<'_, T> {
        self.nodes.drain()
    }

    /// Lets one generation pass, as one garbage collection does for a Go pool: objects that were there at
    /// the `age` before this one, and have not been taken since, are dropped.
    ///
    /// Reaches the objects of every thread, parked ones too. All that has expired has been dropped on return,
    /// on this thread; but a thread that was interrupted in the middle of a get or put, and does not go on within about
    /// 10 ms, ages what it has by itself when it goes on. Called by the `Drop` of an object that a pool drops, this drops nothing
    /// itself, and later operations do.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// pool.put(vec![1]);
    /// pool.age();
    /// assert_eq!(pool.stats().idle, 1); // a victim now: the next get may still have it
    /// pool.age();
    /// assert_eq!(pool.stats().idle, 0);
    /// ```
    ///
    /// # Panics
    ///
    /// If an object's `Drop` panics; the others are dropped all the same.
    pub fn age(&self) {
        self.nodes.age();
    }

    /// Drops every object that the pool holds now, and frees the memory that it keeps for others. What is taken out stays
    /// with its holders and may come back.
    ///
    /// What a thread has that was interrupted in the middle of a get or put, and does not go on within about 10 ms, becomes a
    /// victim when it goes on; and what other threads are moving between their shards and the depot at this moment may
    /// stay. Called by the `Drop` of an object that a pool drops, this drops nothing itself, and later
    /// operations do.
    ///
    /// # Panics
    ///
    /// If an object's `Drop` panics; the others are dropped all the same.
    pub fn clear(&self) {
        self.nodes.clear();
    }

    /// The counters, and how many objects are held. Visits each shard in turn: while other threads are at work
    /// the figures are each true of some moment, but not all of the same. All but `idle` only grow.
    pub fn stats(&self) -> Stats {
        self.nodes.stats()
    }
}

impl<T: Send, F: Fn() -> T> SyncPool<T, F> {
    /// Replaces the recycle hook by a closure that may capture, such as limits from a configuration. Allocates a box for it.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let limit: usize = "4096".parse().unwrap();
    /// let pool = SyncPool::new(Vec::<u8>::new).recycle_with(move |buf| {
    ///     buf.clear();
    ///     buf.capacity() <= limit
    /// });
    /// pool.put(Vec::with_capacity(5000));
    /// assert_eq!(pool.stats().refused, 1);
    /// ```
    #[must_use]
    pub fn recycle_with(mut self, recycle: impl Fn(&mut T) -> bool + Send + Sync + 'static) -> Self {
        self.recycle = Recycle::Closure(Box::new(recycle));
        self
    }

    /// Takes an object, or makes one, under a guard that gives it back when it is dropped.
    ///
    /// # Panics
    ///
    /// If the factory panics; the pool is as it was. If the `Drop` of one of the up to 8 objects panics that have expired and
    /// are dropped by the way; the others are dropped by later operations.
    #[inline]
    pub fn get(&self) -> Pooled<'_, T, F> {
        self.get_or_else(&self.factory)
    }

    /// As [`get`](Self::get), with a guard that keeps the pool alive: for a spawned thread or task.
    ///
    /// ```
    /// use std::sync::Arc;
    /// # use cenote::SyncPool;
    /// let pool = Arc::new(SyncPool::new(|| vec![0u8; 512]));
    /// let mut buf = pool.get_owned();
    /// std::thread::spawn(move || buf[0] = 1).join().unwrap();
    /// assert_eq!(pool.get()[0], 1);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    #[inline]
    pub fn get_owned(self: &Arc<Self>) -> OwnedPooled<T, F> {
        self.get_owned_or_else(&self.factory)
    }

    /// Takes an object, or makes one; Go's `Get`. It is the caller's: [`put`](Self::put) gives it back.
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    #[inline]
    pub fn take(&self) -> T {
        self.take_or_else(&self.factory)
    }

    /// Makes so many objects now, on this thread, and keeps them, so that the first gets need not. The recycle hook does not
    /// see them.
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// let pool: SyncPool<Vec<u8>> = SyncPool::new(|| Vec::with_capacity(4096));
    /// pool.prefill(64);
    /// assert_eq!(pool.stats().idle, 64);
    /// ```
    ///
    /// # Panics
    ///
    /// If the factory panics. What was made by then stays.
    pub fn prefill(&self, objects: usize) {
        for _ in 0..objects {
            self.nodes.put(self.make_node(&self.factory));
        }
    }
}

impl<T: Send, F> sealed::Sealed for &'static SyncPool<T, F> {}

impl<T: Send, F> SyncPool<T, F> {
    /// One generation, as an [`Ager`](crate::Ager) lets it pass.
    pub(crate) fn pass_generation(&self) -> sealed::Outcome {
        let before = self.stats().aged;
        self.age();
        sealed::Outcome::Passed { dropped: self.stats().aged != before }
    }
}

impl<T: Send, F: Sync> Ageable for &'static SyncPool<T, F> {
    fn pass_generation(&self) -> sealed::Outcome {
        SyncPool::pass_generation(self)
    }
}

impl<T: Send, F> sealed::Sealed for Weak<SyncPool<T, F>> {}

impl<T: Send + 'static, F: Send + Sync + 'static> Ageable for Weak<SyncPool<T, F>> {
    fn pass_generation(&self) -> sealed::Outcome {
        self.upgrade().map_or(sealed::Outcome::Gone, |pool| pool.pass_generation())
    }
}

/// A pool of default values.
impl<T: Send + Default> Default for SyncPool<T> {
    fn default() -> Self {
        SyncPool::new(T::default)
    }
}

impl<T: Send, F> fmt::Debug for SyncPool<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { made, hits, idle, .. } = self.stats();
        f.debug_struct("SyncPool")
            .field("made", &made)
            .field("hits", &hits)
            .field("idle", &idle)
            .field("recycle", &self.recycle)
            .finish_non_exhaustive()
    }
}
