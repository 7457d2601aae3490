//! Pools of any object behind one trait, so that a question is written once for each of them, and
//! for two versions of this crate in one program.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::objects::Object;

/// A kind of pool: one type of pool for each type of object.
pub trait Pools: 'static {
    /// As the tables call it.
    const NAME: &'static str;

    /// The pool of `T`.
    type Pool<T: Object>: Pool<T>;
}

/// A pool whose factory is [`Object::new`].
pub trait Pool<T: Object>: Send + Sync + 'static {
    /// What puts its object back when it is dropped.
    type Guard<'a>: DerefMut<Target = T> + Send
    where
        Self: 'a;

    /// An empty pool.
    fn new() -> Self;

    /// Takes an object, or makes one, under a guard.
    fn get(&self) -> Self::Guard<'_>;

    /// Moves the object out of its guard.
    fn detach(guard: Self::Guard<'_>) -> T;

    /// Takes an object, or makes one with `make`.
    fn take_or_else(&self, make: impl FnOnce() -> T) -> T;

    /// Gives an object to the pool.
    fn put(&self, object: T);

    /// Takes an object, or makes one.
    #[inline]
    fn take(&self) -> T {
        self.take_or_else(T::new)
    }

    /// Ends a generation, in a pool that has generations.
    fn age(&self) {}

    /// One turn with a guard.
    #[inline]
    fn get_drop(&self) {
        self.get().touch();
    }

    /// One turn by value.
    #[inline]
    fn take_put(&self) {
        let mut object = self.take();
        object.touch();
        self.put(object);
    }
}

/// Declares the [`Pools`] of one version of this crate, which is known here by the name after the
/// `=`.
macro_rules! cenote_pools {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident = $cenote:ident, $label:literal;) => {
        $(#[$attribute])*
        #[derive(Debug)]
        $visibility struct $name;

        impl $crate::pools::Pools for $name {
            const NAME: &'static str = $label;

            type Pool<T: $crate::objects::Object> = $cenote::SyncPool<T>;
        }

        impl<T: $crate::objects::Object> $crate::pools::Pool<T> for $cenote::SyncPool<T> {
            type Guard<'a> = $cenote::Pooled<'a, T>;

            fn new() -> Self {
                $cenote::SyncPool::new(T::new)
            }

            #[inline]
            fn get(&self) -> Self::Guard<'_> {
                $cenote::SyncPool::get(self)
            }

            #[inline]
            fn detach(guard: Self::Guard<'_>) -> T {
                $cenote::Pooled::detach(guard)
            }

            #[inline]
            fn take_or_else(&self, make: impl FnOnce() -> T) -> T {
                $cenote::SyncPool::take_or_else(self, make)
            }

            #[inline]
            fn put(&self, object: T) {
                $cenote::SyncPool::put(self, object);
            }

            #[inline]
            fn take(&self) -> T {
                $cenote::SyncPool::take(self)
            }

            fn age(&self) {
                $cenote::SyncPool::age(self);
            }
        }
    };
}
pub(crate) use cenote_pools;

/// The guard of the pools that have none of their own.
pub struct Held<'a, T: Object, P: Pool<T>> {
    pool: &'a P,
    /// `None` once it is detached.
    object: Option<T>,
}

impl<T: Object, P: Pool<T>> fmt::Debug for Held<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("detached", &self.object.is_none()).finish_non_exhaustive()
    }
}

impl<T: Object, P: Pool<T>> Deref for Held<'_, T, P> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object.as_ref().expect("a detached guard is gone")
    }
}

impl<T: Object, P: Pool<T>> DerefMut for Held<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        self.object.as_mut().expect("a detached guard is gone")
    }
}

impl<T: Object, P: Pool<T>> Drop for Held<'_, T, P> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.pool.put(object);
        }
    }
}

/// A stack of objects in a `thread_local!`, which shares nothing. The stack belongs to the type of
/// its objects, not to the pool.
#[derive(Debug)]
pub struct Stack;

impl Pools for Stack {
    const NAME: &'static str = "stack";

    type Pool<T: Object> = Stack;
}

impl<T: Object> Pool<T> for Stack {
    type Guard<'a> = Held<'a, T, Self>;

    fn new() -> Self {
        Stack
    }

    fn get(&self) -> Self::Guard<'_> {
        Held { pool: self, object: Some(self.take()) }
    }

    fn detach(mut guard: Self::Guard<'_>) -> T {
        guard.object.take().expect("a guard is detached once")
    }

    #[inline]
    fn take_or_else(&self, make: impl FnOnce() -> T) -> T {
        T::with_stack(|stack| stack.borrow_mut().pop()).unwrap_or_else(make)
    }

    #[inline]
    fn put(&self, object: T) {
        T::with_stack(|stack| stack.borrow_mut().push(object));
    }

    /// Without a guard, as one writes it by hand.
    #[inline]
    fn get_drop(&self) {
        <Self as Pool<T>>::take_put(self);
    }
}

/// A stack of objects behind a lock, which shares everything.
#[derive(Debug)]
pub struct Locked<T>(Mutex<Vec<T>>);

impl<T> Locked<T> {
    fn objects(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of pool of [`Locked`].
#[derive(Debug)]
pub struct MutexVec;

impl Pools for MutexVec {
    const NAME: &'static str = "Mutex<Vec>";

    type Pool<T: Object> = Locked<T>;
}

impl<T: Object> Pool<T> for Locked<T> {
    type Guard<'a> = Held<'a, T, Self>;

    fn new() -> Self {
        Locked(Mutex::new(Vec::new()))
    }

    fn get(&self) -> Self::Guard<'_> {
        Held { pool: self, object: Some(self.take()) }
    }

    fn detach(mut guard: Self::Guard<'_>) -> T {
        guard.object.take().expect("a guard is detached once")
    }

    #[inline]
    fn take_or_else(&self, make: impl FnOnce() -> T) -> T {
        // Bound first: the lock must not be held while an object is made.
        let idle = self.objects().pop();
        idle.unwrap_or_else(make)
    }

    #[inline]
    fn put(&self, object: T) {
        self.objects().push(object);
    }

    /// Without a guard, as one writes it by hand.
    #[inline]
    fn get_drop(&self) {
        self.take_put();
    }
}
