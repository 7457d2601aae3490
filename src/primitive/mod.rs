//! The ground floor: what the crate takes from the machine, the operating system and `std`.
//!
//! Nothing above this module imports `std::sync` (a test holds us to it), so that a model checker's versions can be put in
//! its place here: with `--cfg cenote_loom` the atomics, cells and fences are loom's.
//!
//! * [`fence`]: the asymmetric fence, light for the many, heavy for the few.
//! * `sub_waker`: a waker for a part of a task.
//! * `process`: distinguishes a forked child from its parent.
//! * [`reclaim`]: memory that others may still be looking at, freed later.
//! * [`thread`]: which thread this is, and what it keeps for each map.

#[cfg(all(feature = "runtime", not(cenote_loom)))]
pub(crate) mod affinity;
pub(crate) mod clock;
pub(crate) mod fence;
#[cfg_attr(cenote_loom, path = "process_model.rs")]
pub(crate) mod process;
pub(crate) mod reclaim;
#[cfg(not(cenote_loom))]
mod signal_mask;
#[cfg(any(feature = "grpc", cenote_loom))]
pub(crate) mod sub_waker;
pub(crate) mod thread;

#[cfg(not(cenote_loom))]
mod imp {

    pub(crate) mod atomic {
        #[cfg(feature = "grpc")]
        pub(crate) use std::sync::atomic::AtomicU8;
        pub(crate) use std::sync::atomic::{
            AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
        };
    }

    /// `std`'s, in loom's dress: access is by closure, so that loom can see when it begins and ends.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }

    pub(crate) fn spin_loop() {
        std::hint::spin_loop();
    }

    pub(crate) fn yield_now() {
        std::thread::yield_now();
    }

    /// Waits for 50 us.
    pub(crate) fn nap() {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

#[cfg(cenote_loom)]
mod imp {
    // shuttle, which tries long schedules at random where loom tries all of the short ones, has loom's names.
    #[cfg(not(cenote_shuttle))]
    pub(crate) use loom as checker;
    #[cfg(cenote_shuttle)]
    pub(crate) use shuttle as checker;

    #[cfg(not(cenote_shuttle))]
    pub(crate) use loom::cell::UnsafeCell;

    /// shuttle sees no races on cells, only what comes of them.
    #[cfg(cenote_shuttle)]
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    #[cfg(cenote_shuttle)]
    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }

    pub(crate) mod atomic {
        pub(crate) use super::checker::sync::atomic::{
            AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
        pub(crate) use std::sync::atomic::compiler_fence;
    }

    pub(crate) fn spin_loop() {
        checker::thread::yield_now();
    }

    pub(crate) fn yield_now() {
        checker::thread::yield_now();
    }

    pub(crate) fn nap() {
        checker::thread::yield_now();
    }
}

pub(crate) use self::imp::*;
pub(crate) use std::sync::{Arc, OnceLock, Weak};

/// What a panic says, if it is text.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned)
}

/// Whether the calling thread unwinds.
pub(crate) fn is_panicking() -> bool {
    std::thread::panicking()
}

#[cfg(not(cenote_loom))]
pub(crate) use self::blocking::*;

/// Blocking primitives: none of them is on a path of a get or a put of a `SyncPool`.
#[cfg(not(cenote_loom))]
mod blocking {
    pub(crate) use std::sync::{MutexGuard, PoisonError};
    use std::thread;
    use std::time::Duration;

    pub(crate) use std::thread::JoinHandle;

    /// A mutex without poison.
    ///
    /// No code of a user runs while one of this crate's locks is held, so a panic cannot leave what it guards
    /// half-changed; a thread that died elsewhere must not take the pool with it.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Mutex(std::sync::Mutex::new(value))
        }

        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(std::sync::Condvar);

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Condvar(std::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> MutexGuard<'a, T> {
            self.0.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
        }
    }

    /// Starts a background thread, which blocks signals from its first instruction: see
    /// [`signal_mask`](super::signal_mask).
    pub(crate) fn spawn_thread(
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        spawn_thread_with_stack(name, None, run)
    }

    /// The same, with a stack of so many bytes.
    pub(crate) fn spawn_thread_with_stack(
        name: &str,
        stack_size: Option<usize>,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let _blocked = super::signal_mask::block();
        let builder = thread::Builder::new().name(name.to_owned());
        match stack_size {
            Some(bytes) => builder.stack_size(bytes),
            None => builder,
        }
        .spawn(run)
    }

    /// At least one.
    #[cfg(feature = "grpc")]
    pub(crate) fn available_parallelism() -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }

    pub(crate) use std::thread::{Thread, ThreadId, park};
    pub(crate) use std::thread_local;

    /// What wakes the current thread from [`park`].
    pub(crate) fn thread_handle() -> Thread {
        thread::current()
    }

    pub(crate) fn current_thread() -> ThreadId {
        thread::current().id()
    }
}

#[cfg(cenote_loom)]
pub(crate) use self::blocking_model::*;

/// The same for a model checker.
#[cfg(cenote_loom)]
mod blocking_model {
    use std::io;
    use std::sync::{LockResult, PoisonError};
    use std::time::Duration;

    use super::{Arc, checker};

    pub(crate) use checker::sync::MutexGuard;
    pub(crate) use checker::thread::ThreadId;

    /// The checker's, which knows no `const`.
    macro_rules! model_thread_local {
        (static $name:ident: $kind:ty = const { $value:expr }) => {
            $crate::primitive::checker::thread_local!(static $name: $kind = $value);
        };
        (static $name:ident: $kind:ty = $value:expr) => {
            $crate::primitive::checker::thread_local!(static $name: $kind = $value);
        };
    }
    pub(crate) use model_thread_local as thread_local;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(checker::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            whole(self.0.lock())
        }
    }

    fn whole<G>(guard: LockResult<G>) -> G {
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(checker::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar(checker::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> MutexGuard<'a, T> {
            whole(self.0.wait_timeout(guard, time)).0
        }
    }

    /// Loom's own forgets that a thread was unparked when it waits for a lock before it parks.
    #[derive(Clone)]
    pub(crate) struct Thread(Arc<(Mutex<bool>, checker::sync::Condvar)>);

    checker::thread_local!(static OWN: Thread = Thread(Arc::new((Mutex::new(false), checker::sync::Condvar::new()))));

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.0.lock() = true;
            self.0.1.notify_one();
        }
    }

    pub(crate) fn thread_handle() -> Thread {
        OWN.with(Thread::clone)
    }

    pub(crate) fn park() {
        let Thread(own) = thread_handle();
        let mut is_unparked = own.0.lock();
        while !std::mem::take(&mut *is_unparked) {
            is_unparked = whole(own.1.wait(is_unparked));
        }
    }

    pub(crate) fn spawn_thread(_: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        checker::thread::spawn(run);
        Ok(())
    }

    pub(crate) fn current_thread() -> ThreadId {
        checker::thread::current().id()
    }
}
