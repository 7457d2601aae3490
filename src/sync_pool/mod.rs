//! [`SyncPool`]: scratch objects, reused.

mod config;
mod guard;

use std::fmt;

pub use self::config::PoolConfig;
pub use self::guard::{OwnedPooled, Pooled};
use crate::aging::{Ageable, sealed};
use crate::local::Cache;
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
/// * An object that nobody used for two generations is dropped. A generation ends by [`age`](Self::age), or when its
///   period is over, 60 s [by default](PoolConfig::period): that is noticed by gets and puts that go beyond the
///   thread's own shard, so a pool that nobody uses, or that is used one object at a time, keeps what it has. An
///   [`Ager`](crate::Ager) is there for that. There is no maximum, unless [one](PoolConfig::max_idle) is set.
/// * No get, put or drop of a guard drops more than 8 objects whose time is up. What is due goes with the operations
///   that follow; `age` and `clear` drop all at once.
/// * A put of an object happens before the get that returns it.
/// * Which object a get returns is not promised. On one thread it is most often the one put last.
/// * The factory, the recycle hook and the `Drop` of an object run without any lock held: they may use this pool,
///   and if one panics, the panic goes to the caller, the object at hand is dropped, and the pool works on.
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
/// A shard for each thread that ever used the pool at the same time as the others: 384 bytes on 64-bit x86 where `T` is
/// as large as a pointer. (They are allocated in blocks of 1, 2, 4 and so on, so there may be up to twice as many.) In it
/// lie up to 128 bytes of objects, 16 at most; beside it are a spare magazine of as many as fit 2 KiB, 32 at most, one at
/// least, and perhaps an empty one. What is above that lies in the depot, in magazines of the same size.
///
/// So a pool of `size`-byte objects that `threads` threads have used retains, while nobody ages it, what was idle at once,
/// and at most
///
/// ```text
/// max_idle + threads * (min(16, 128 / size) + min(32, max(1, 2048 / size)))
/// ```
///
/// objects if a [`max_idle`](PoolConfig::max_idle) is set; two generations later, nothing. The hook bounds the size
/// of each: see [`with_recycle`](Self::with_recycle).
///
/// # Forks
///
/// A forked child may use the pools of its parent, also when the fork came in the middle of another thread's operation.
/// What lay in the shards of threads that do not exist in the child is out of its reach if they were busy. Beyond us is what
/// our dependencies keep for themselves: the lock that `thread_local` takes when a thread is born or ends, and
/// `crossbeam-epoch`, which waits in the child for a thread that was moving a magazine at the fork, so that the memory of
/// magazines (not of objects) is then not given back.
pub struct SyncPool<T: Send, F = fn() -> T> {
    factory: F,
    /// Resets an object before it is kept, or refuses it.
    recycle: Option<fn(&mut T) -> bool>,
    cache: Cache<T>,
}

impl<T: Send, F> SyncPool<T, F> {
    /// A pool whose misses are served by `factory`. Allocates nothing, so it can stand in a `static`:
    ///
    /// ```
    /// # use cenote::SyncPool;
    /// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// ```
    pub const fn new(factory: F) -> Self {
        Self::with_config(factory, PoolConfig::new())
    }

    /// A pool of dear objects, that ages by hand alone: other threads' shards are searched at each miss.
    #[cfg(feature = "grpc")]
    pub(crate) const fn dear(factory: F) -> Self {
        SyncPool { factory, recycle: None, cache: Cache::new(true, None, None) }
    }

    /// A pool with a hook that sees each object that comes back, before it is kept: it resets the object and
    /// says `true`, or `false` to have it dropped.
    ///
    /// The hook runs on the thread that gives the object back, in a `put` or in the drop of a guard. If it
    /// panics, the object is dropped and the panic goes on to that caller.
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
        let cache = Cache::new(false, config.period, config.max_idle);
        SyncPool { factory, recycle: config.recycle, cache }
    }

    /// Takes an object that the pool holds; `None` if there is none. Go's `Get` with a nil `New`.
    ///
    /// Does not wait: a shard that another thread is at work on at this moment is passed by.
    #[inline]
    pub fn try_take(&self) -> Option<T> {
        self.cache.take()
    }

    /// Takes an object, or makes one with `make`, which may capture what a factory cannot.
    ///
    /// # Panics
    ///
    /// If `make` panics. The pool is as it was.
    #[inline]
    pub fn take_or_else(&self, make: impl FnOnce() -> T) -> T {
        match self.cache.take() {
            Some(object) => object,
            None => self.make(make),
        }
    }

    /// As [`take_or_else`](Self::take_or_else), with a guard.
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
    /// If `make` panics. The pool is as it was.
    #[inline]
    pub fn get_or_else(&self, make: impl FnOnce() -> T) -> Pooled<'_, T, F> {
        Pooled::new(self, self.take_or_else(make))
    }

    #[cold]
    #[inline(never)]
    fn make(&self, make: impl FnOnce() -> T) -> T {
        let object = make();
        self.cache.count_made();
        object
    }

    /// Gives an object to the pool, whether it came from there or not; Go's `Put`. Runs the recycle hook.
    ///
    /// # Panics
    ///
    /// If the recycle hook panics, or the `Drop` of an object that it refused. The object is gone, the pool works.
    #[inline]
    pub fn put(&self, object: T) {
        match self.recycle {
            None => self.cache.put(object),
            Some(recycle) => self.recycle(recycle, object),
        }
    }

    /// Apart from `put`, so that there the object need not have an address.
    #[inline]
    fn recycle(&self, recycle: fn(&mut T) -> bool, mut object: T) {
        if recycle(&mut object) {
            self.cache.put(object);
        } else {
            self.refuse(object);
        }
    }

    #[cold]
    fn refuse(&self, object: T) {
        self.cache.count_refused();
        drop(object);
    }

    /// Lets one generation pass, as one garbage collection does for a Go pool: objects that were there at
    /// the `age` before this one, and have not been taken since, are dropped.
    ///
    /// Reaches the objects of every thread, parked ones too. All that is due has been dropped on return,
    /// on this thread; but a thread that was interrupted in the middle of a get or put ages what it has by itself, when it
    /// goes on.
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
        self.cache.age();
    }

    /// Drops every object that the pool holds now. What is taken out stays with its holders and may come back. (What a
    /// thread has that was interrupted in the middle of a get or put becomes a victim when it goes on.)
    ///
    /// # Panics
    ///
    /// If an object's `Drop` panics; the others are dropped all the same.
    pub fn clear(&self) {
        self.cache.clear();
    }

    /// The counters, and how many objects are held. Visits each shard in turn: while other threads are at work
    /// the figures are each true of some moment, but not all of the same.
    pub fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

impl<T: Send, F: Fn() -> T> SyncPool<T, F> {
    /// Takes an object, or makes one, under a guard that gives it back when it is dropped.
    ///
    /// # Panics
    ///
    /// If the factory panics. The pool is as it was.
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
    /// If the factory panics. The pool is as it was.
    #[inline]
    pub fn get_owned(self: &Arc<Self>) -> OwnedPooled<T, F> {
        OwnedPooled::new(Arc::clone(self), self.take())
    }

    /// Takes an object, or makes one; Go's `Get`. It is the caller's: [`put`](Self::put) gives it back.
    ///
    /// # Panics
    ///
    /// If the factory panics. The pool is as it was.
    #[inline]
    pub fn take(&self) -> T {
        self.take_or_else(&self.factory)
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
        let Stats { made, hits, idle, .. } = self.cache.stats();
        f.debug_struct("SyncPool")
            .field("made", &made)
            .field("hits", &hits)
            .field("idle", &idle)
            .field("recycle", &self.recycle.is_some())
            .finish_non_exhaustive()
    }
}
