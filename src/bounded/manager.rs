//! What makes, checks, resets and closes the objects of a pool.

use std::any::type_name;
use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Makes the objects of a [`BoundedPool`](super::BoundedPool), and looks after them.
///
/// Only `create` is required. The pool runs the futures of all methods in tasks of its own, never in a caller's: a caller that
/// gives up cancels none of them, and a panic in one of them costs the object alone. A future that outlives its
/// time limit is dropped.
///
/// ```
/// use std::convert::Infallible;
/// use cenote::bounded::Manager;
///
/// struct Buffers;
///
/// impl Manager for Buffers {
///     type Object = Vec<u8>;
///     type Error = Infallible;
///     async fn create(&self) -> Result<Vec<u8>, Infallible> {
///         Ok(Vec::new())
///     }
///     async fn reset(&self, buffer: &mut Vec<u8>) -> Result<(), Infallible> {
///         buffer.clear();
///         Ok(())
///     }
/// }
/// ```
pub trait Manager: Send + Sync + 'static {
    /// What the pool holds.
    type Object: Send + 'static;
    /// Why an object could not be created, or is not to be used any more.
    type Error: Error + Send + Sync + 'static;

    /// Makes an object.
    fn create(&self) -> impl Future<Output = Result<Self::Object, Self::Error>> + Send;

    /// Finds out whether an idle object still works; it is closed if not. By default no object is ever checked.
    fn check(&self, object: &mut Self::Object) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = object;
        Unimplemented(PhantomData)
    }

    /// Makes an object that a caller had as good as a new one, as soon as its lease has ended; it is closed if that
    /// fails. By default nothing is to be done, and the object is ready at once.
    fn reset(&self, object: &mut Self::Object) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = object;
        Unimplemented(PhantomData)
    }

    /// Whether the object is known not to work any more. It runs when a lease ends, in the thread that drops it, so it must
    /// be fast and must not block.
    fn is_broken(&self, object: &mut Self::Object) -> bool {
        let _ = object;
        false
    }

    /// Whether a broken object says that all objects as old as it are broken too, as after a failover. It is called when
    /// [`is_broken`](Self::is_broken) has returned true.
    fn outdates_all(&self, object: &mut Self::Object) -> bool {
        let _ = object;
        false
    }

    /// Whether [`reset`](Self::reset) also restores an object whose operation was
    /// [in flight](super::Lease::in_flight) at the end of its lease. Otherwise such an object is closed.
    fn resets_in_flight(&self) -> bool {
        false
    }

    /// Closes an object in an orderly way. By default it is dropped.
    fn close(&self, object: Self::Object) -> impl Future<Output = ()> + Send {
        async move { drop(object) }
    }

    /// Whether the methods block. If so the pool runs them on threads of its own.
    fn blocks(&self) -> bool {
        false
    }
}

/// The blocking twin of [`Manager`]: its methods run on threads of the pool. [`Blocking`] makes a manager of it.
pub trait BlockingManager: Send + Sync + 'static {
    /// What the pool holds.
    type Object: Send + 'static;
    /// Why an object could not be created, or is not to be used any more.
    type Error: Error + Send + Sync + 'static;

    /// Makes an object.
    fn create(&self) -> Result<Self::Object, Self::Error>;

    /// See [`Manager::check`].
    fn check(&self, object: &mut Self::Object) -> Result<(), Self::Error> {
        let _ = object;
        note_default();
        Ok(())
    }

    /// See [`Manager::reset`].
    fn reset(&self, object: &mut Self::Object) -> Result<(), Self::Error> {
        let _ = object;
        note_default();
        Ok(())
    }

    /// See [`Manager::is_broken`].
    fn is_broken(&self, object: &mut Self::Object) -> bool {
        let _ = object;
        false
    }

    /// See [`Manager::close`].
    fn close(&self, object: Self::Object) {
        drop(object);
    }
}

/// A [`Manager`] whose methods block, and run on threads of the pool.
#[derive(Debug)]
pub struct Blocking<B>(pub B);

impl<B: BlockingManager> Manager for Blocking<B> {
    type Object = B::Object;
    type Error = B::Error;

    async fn create(&self) -> Result<B::Object, B::Error> {
        self.0.create()
    }

    async fn check(&self, object: &mut B::Object) -> Result<(), B::Error> {
        self.0.check(object)
    }

    async fn reset(&self, object: &mut B::Object) -> Result<(), B::Error> {
        self.0.reset(object)
    }

    fn is_broken(&self, object: &mut B::Object) -> bool {
        self.0.is_broken(object)
    }

    async fn close(&self, object: B::Object) {
        self.0.close(object);
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// A manager that only creates, with an async closure: `from_fn(|| connect(address))`.
pub fn from_fn<F, R, T, E>(create: F) -> FromFn<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, E>> + Send,
{
    FromFn(create)
}

/// A manager that only creates, with a closure that may block.
pub fn from_blocking_fn<F, T, E>(create: F) -> Blocking<FromFn<F>>
where
    F: Fn() -> Result<T, E> + Send + Sync + 'static,
{
    Blocking(FromFn(create))
}

/// What [`from_fn`] and [`from_blocking_fn`] return.
pub struct FromFn<F>(F);

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFn").field(&type_name::<F>()).finish()
    }
}

impl<F, R, T, E> Manager for FromFn<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, E>> + Send,
    T: Send + 'static,
    E: Error + Send + Sync + 'static,
{
    type Object = T;
    type Error = E;

    fn create(&self) -> impl Future<Output = Result<T, E>> + Send {
        (self.0)()
    }
}

impl<F, T, E> BlockingManager for FromFn<F>
where
    F: Fn() -> Result<T, E> + Send + Sync + 'static,
    T: Send + 'static,
    E: Error + Send + Sync + 'static,
{
    type Object = T;
    type Error = E;

    fn create(&self) -> Result<T, E> {
        (self.0)()
    }
}

// ── which methods a manager has ──

/// What the default methods of [`Manager`] return.
struct Unimplemented<E>(PhantomData<fn() -> E>);

impl<E> Future for Unimplemented<E> {
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

/// Whether a method of a manager is not the default one, decided by the type of the future that it returns. `type_name`
/// promises little, but only this crate can name `Unimplemented`: at worst a default method runs without need.
fn is_implemented<'a, M: Manager, R>(_: impl FnOnce(&'a M, &'a mut M::Object) -> R) -> bool {
    !type_name::<R>()
        .starts_with(type_name::<Unimplemented<Infallible>>().split('<').next().unwrap_or_default())
}

pub(super) fn has_check<M: Manager>() -> bool {
    is_implemented::<M, _>(M::check)
}

pub(super) fn has_reset<M: Manager>() -> bool {
    is_implemented::<M, _>(M::reset)
}

crate::primitive::thread_local!(static IS_DEFAULT: Cell<bool> = const { Cell::new(false) });

fn note_default() {
    IS_DEFAULT.with(|is_default| is_default.set(true));
}

/// Whether a default method of a [`BlockingManager`] has run on this thread since the last call.
pub(super) fn was_default() -> bool {
    IS_DEFAULT.with(|is_default| is_default.replace(false))
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    struct All;

    impl Manager for All {
        type Object = u8;
        type Error = Infallible;
        async fn create(&self) -> Result<u8, Infallible> {
            Ok(0)
        }
        async fn check(&self, _: &mut u8) -> Result<(), Infallible> {
            Ok(())
        }
        async fn reset(&self, _: &mut u8) -> Result<(), Infallible> {
            Ok(())
        }
    }

    fn which<M: Manager>(_: &M) -> (bool, bool) {
        (has_check::<M>(), has_reset::<M>())
    }

    #[test]
    fn methods_that_a_manager_does_not_have_are_never_called() {
        assert_eq!(which(&All), (true, true));
        assert_eq!(which(&from_fn(|| async { Ok::<u8, Infallible>(0) })), (false, false));
    }
}
