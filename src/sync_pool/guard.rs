//! The two guards. Both are a pool and a node; what differs is how the pool is held.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::SyncPool;
use super::node::NodeBox;
use crate::primitive::Arc;

/// An object out of a [`SyncPool`], which goes back when this is dropped.
///
/// It is a reference to the pool and a pointer to the object, 16 bytes on 64 bits, whatever the object is. The object has one
/// address for as long as the guard lives, wherever the guard moves.
///
/// The drop also happens while a panic unwinds, as Go's deferred `Put` does: a recycle hook should reset an
/// object whatever state it is in. To keep the object from going back, [`detach`](Self::detach) it.
///
/// It may move to another thread, and be shared between threads only if the object may:
///
/// ```
/// # use cenote::SyncPool;
/// use std::cell::Cell;
///
/// let pool = SyncPool::new(|| Cell::new(0));
/// let cell = pool.get();
/// std::thread::scope(|s| {
///     s.spawn(move || cell.set(1));
/// });
/// ```
///
/// ```compile_fail,E0277
/// # use cenote::SyncPool;
/// # use std::cell::Cell;
/// # let pool = SyncPool::new(|| Cell::new(0));
/// let cell = pool.get();
/// std::thread::scope(|s| {
///     s.spawn(|| cell.set(1));
/// });
/// ```
///
/// It does not outlive its pool:
///
/// ```compile_fail,E0505
/// # use cenote::SyncPool;
/// let pool = SyncPool::new(Vec::<u8>::new);
/// let buf = pool.get();
/// drop(pool);
/// assert!(buf.is_empty());
/// ```
///
/// # Panics
///
/// Its drop panics if the recycle hook does, or the `Drop` of an object that is dropped by it: the one that the hook
/// refused, or up to 8 others that have expired or find no room.
#[must_use = "the object goes back to the pool at once if the guard is not held"]
pub struct Pooled<'a, T: Send, F = fn() -> T> {
    pool: &'a SyncPool<T, F>,
    /// Is there until `drop` or `detach` moves it out, each of which ends the guard.
    node: ManuallyDrop<NodeBox<T>>,
}

/// As [`Pooled`], but it owns a share of the pool, so it is `'static` and can move to another thread or task.
///
/// The last guard of a pool that has no other owner drops the pool with it.
#[must_use = "the object goes back to the pool at once if the guard is not held"]
pub struct OwnedPooled<T: Send, F = fn() -> T> {
    pool: ManuallyDrop<Arc<SyncPool<T, F>>>,
    /// Is there until `drop` or `detach` moves it out, each of which ends the guard.
    node: ManuallyDrop<NodeBox<T>>,
}

impl<'a, T: Send, F> Pooled<'a, T, F> {
    #[inline]
    pub(super) fn new(pool: &'a SyncPool<T, F>, node: NodeBox<T>) -> Self {
        Pooled { pool, node: ManuallyDrop::new(node) }
    }

    /// Takes the object out permanently: it does not go back to the pool. The pool keeps the object's memory for another one.
    ///
    /// ```
    /// # use cenote::{Pooled, SyncPool};
    /// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    /// let buf: Vec<u8> = Pooled::detach(BUFS.get());
    /// # drop(buf);
    /// assert_eq!(BUFS.stats().kept, 0);
    /// ```
    #[inline]
    pub fn detach(guard: Self) -> T {
        let mut guard = ManuallyDrop::new(guard);
        // SAFETY: the guard is not used again, so the node is moved out of it once; its drop, which would
        // do so a second time, is disarmed. The pool is only borrowed, nothing else is forgotten.
        let node = unsafe { ManuallyDrop::take(&mut guard.node) };
        guard.pool.nodes.detach(node)
    }

    /// The pool that the object goes back to.
    #[inline]
    pub fn pool(guard: &Self) -> &'a SyncPool<T, F> {
        guard.pool
    }
}

impl<T: Send, F> OwnedPooled<T, F> {
    #[inline]
    pub(super) fn new(pool: Arc<SyncPool<T, F>>, node: NodeBox<T>) -> Self {
        OwnedPooled { pool: ManuallyDrop::new(pool), node: ManuallyDrop::new(node) }
    }

    /// Takes the object out permanently: it does not go back to the pool. Releases the share of the pool.
    ///
    /// # Panics
    ///
    /// If that was the last share, and the `Drop` of an object of the pool panics.
    #[inline]
    pub fn detach(guard: Self) -> T {
        let mut guard = ManuallyDrop::new(guard);
        // SAFETY: as in `Pooled::detach`; the share of the pool is moved out too, once, and dropped here.
        let (pool, node) =
            unsafe { (ManuallyDrop::take(&mut guard.pool), ManuallyDrop::take(&mut guard.node)) };
        // If it is the last share, the pool's objects may panic in their drop: the share goes first, and ours is dropped, too.
        let object = pool.nodes.detach(node);
        drop(pool);
        object
    }

    /// The pool that the object goes back to.
    #[inline]
    pub fn pool(guard: &Self) -> &Arc<SyncPool<T, F>> {
        &guard.pool
    }
}

impl<T: Send, F> Drop for Pooled<'_, T, F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a drop runs once and `detach` disarms it, so the node is still here and leaves once.
        let node = unsafe { ManuallyDrop::take(&mut self.node) };
        self.pool.put_node(node);
    }
}

impl<T: Send, F> Drop for OwnedPooled<T, F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as above, for both.
        let (pool, node) =
            unsafe { (ManuallyDrop::take(&mut self.pool), ManuallyDrop::take(&mut self.node)) };
        pool.put_node(node);
    }
}

macro_rules! behaves_like_its_object {
    ($guard:ident $(<$life:lifetime>)?) => {
        impl<T: Send, F> Deref for $guard<$($life,)? T, F> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                &self.node
            }
        }

        impl<T: Send, F> DerefMut for $guard<$($life,)? T, F> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.node
            }
        }

        impl<T: Send + AsRef<U>, F, U: ?Sized> AsRef<U> for $guard<$($life,)? T, F> {
            fn as_ref(&self) -> &U {
                (**self).as_ref()
            }
        }

        impl<T: Send + AsMut<U>, F, U: ?Sized> AsMut<U> for $guard<$($life,)? T, F> {
            fn as_mut(&mut self) -> &mut U {
                (**self).as_mut()
            }
        }

        impl<T: Send + fmt::Debug, F> fmt::Debug for $guard<$($life,)? T, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($guard)).field(&**self).finish()
            }
        }

        impl<T: Send + fmt::Display, F> fmt::Display for $guard<$($life,)? T, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    };
}

behaves_like_its_object!(Pooled<'_>);
behaves_like_its_object!(OwnedPooled);
