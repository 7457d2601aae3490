//! The two guards. Both are a pool and an object; what differs is how the pool is held.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::SyncPool;
use crate::primitive::Arc;

/// An object out of a [`SyncPool`], which goes back when this is dropped.
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
#[must_use = "the object goes back to the pool at once if the guard is not held"]
pub struct Pooled<'a, T: Send, F = fn() -> T> {
    pool: &'a SyncPool<T, F>,
    /// Holds an object until `drop` or `detach` moves it out, each of which ends the guard.
    object: ManuallyDrop<T>,
}

/// As [`Pooled`], but it owns a share of the pool, so it is `'static` and can move to another thread or task.
///
/// The last guard of a pool that has no other owner drops the pool with it.
#[must_use = "the object goes back to the pool at once if the guard is not held"]
pub struct OwnedPooled<T: Send, F = fn() -> T> {
    pool: ManuallyDrop<Arc<SyncPool<T, F>>>,
    /// Holds an object until `drop` or `detach` moves it out, each of which ends the guard.
    object: ManuallyDrop<T>,
}

impl<'a, T: Send, F> Pooled<'a, T, F> {
    #[inline]
    pub(super) fn new(pool: &'a SyncPool<T, F>, object: T) -> Self {
        Pooled { pool, object: ManuallyDrop::new(object) }
    }

    /// Takes the object out for good: it does not go back to the pool.
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
        // SAFETY: the guard is not used again, so the object is moved out of it once; its drop, which would
        // do so a second time, is disarmed. The pool is only borrowed, nothing else is forgotten.
        unsafe { ManuallyDrop::take(&mut guard.object) }
    }
}

impl<T: Send, F> OwnedPooled<T, F> {
    #[inline]
    pub(super) fn new(pool: Arc<SyncPool<T, F>>, object: T) -> Self {
        OwnedPooled { pool: ManuallyDrop::new(pool), object: ManuallyDrop::new(object) }
    }

    /// Takes the object out for good: it does not go back to the pool. Lets go of the pool.
    #[inline]
    pub fn detach(guard: Self) -> T {
        let mut guard = ManuallyDrop::new(guard);
        // SAFETY: as in `Pooled::detach`; the share of the pool is moved out too, once, and dropped here.
        let (pool, object) =
            unsafe { (ManuallyDrop::take(&mut guard.pool), ManuallyDrop::take(&mut guard.object)) };
        // The last owner ends the pool, whose objects may panic in their drop: by now ours would be dropped too.
        drop(pool);
        object
    }
}

impl<T: Send, F> Drop for Pooled<'_, T, F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a drop runs once and `detach` disarms it, so the object is still here and leaves once.
        let object = unsafe { ManuallyDrop::take(&mut self.object) };
        self.pool.put(object);
    }
}

impl<T: Send, F> Drop for OwnedPooled<T, F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a drop runs once and `detach` disarms it, so both are still here and leave once.
        let (pool, object) =
            unsafe { (ManuallyDrop::take(&mut self.pool), ManuallyDrop::take(&mut self.object)) };
        pool.put(object);
    }
}

macro_rules! behaves_like_its_object {
    ($guard:ident $(<$life:lifetime>)?) => {
        impl<T: Send, F> Deref for $guard<$($life,)? T, F> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                &self.object
            }
        }

        impl<T: Send, F> DerefMut for $guard<$($life,)? T, F> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.object
            }
        }

        impl<T: Send, F> AsRef<T> for $guard<$($life,)? T, F> {
            fn as_ref(&self) -> &T {
                self
            }
        }

        impl<T: Send, F> AsMut<T> for $guard<$($life,)? T, F> {
            fn as_mut(&mut self) -> &mut T {
                self
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
