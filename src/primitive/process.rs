//! Which process runs this code: a forked child is another process than its parent.
//!
//! The id alone is not enough: a grandchild may get the id of its grandparent again, and the first
//! process of a PID namespace has the id 1 in each. A count of forks alone is not enough either: a
//! raw `clone` runs no handler of `pthread_atfork`. A [`Process`] compares both.

pub(crate) use self::imp::{count_forks, forks};

use super::Arc;
use super::atomic::{AtomicPtr, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    id: u32,
    forks: u32,
}

impl Process {
    /// A system call, and no lock: it may be called in a forked child.
    pub(crate) fn current() -> Self {
        imp::current()
    }
}

/// A value that a forked child makes anew: what it inherits may be locked by a thread that it does not have. What was there
/// is leaked.
pub(crate) struct PerProcess<T: 'static> {
    current: AtomicPtr<(u32, Arc<T>)>,
}

impl<T: 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(crate) fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        count_forks();
        // Acquire: pairs with the Release below.
        let seen = self.current.load(Ordering::Acquire);
        // SAFETY: what is stored here came of a `Box::leak`, and is never freed or written to.
        if let Some((forks_then, value)) = unsafe { seen.as_ref() }
            && *forks_then == forks()
        {
            return Arc::clone(value);
        }
        let made: &'static (u32, Arc<T>) = Box::leak(Box::new((forks(), Arc::new(make()))));
        let new = std::ptr::from_ref(made).cast_mut();
        match self.current.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Arc::clone(&made.1),
            // SAFETY: as above; another thread was first, so it is not null.
            Err(other) => unsafe { Arc::clone(&(*other).1) },
        }
    }
}

// Miri has no forks.
#[cfg(all(unix, not(miri)))]
mod imp {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::Process;

    /// How many forks lie between this process and the one that registered the handler.
    static FORKS: AtomicU32 = AtomicU32::new(0);

    pub(super) fn current() -> Process {
        count_forks();
        // Relaxed: the count changes only in a child, which has one thread at that time.
        Process { id: std::process::id(), forks: forks() }
    }

    /// How many forks were counted so far.
    pub(crate) fn forks() -> u32 {
        FORKS.load(Ordering::Relaxed)
    }

    /// From now on forks are counted.
    pub(crate) fn count_forks() {
        static REGISTERED: AtomicBool = AtomicBool::new(false);

        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }

        // A caller that comes second may go on before the handler is registered. A fork at that
        // very moment is then not counted, and the id alone distinguishes the child from the parent.
        if !REGISTERED.swap(true, Ordering::Relaxed) {
            // SAFETY: the handler is async-signal-safe, since it only adds to an atomic, and it is
            // a function of this crate, so it lives as long as the library is loaded; glibc removes
            // the handlers of a library that is unloaded. On failure forks are not counted.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        }
    }
}

#[cfg(not(all(unix, not(miri))))]
mod imp {
    use super::Process;

    /// There are no forks.
    pub(super) fn current() -> Process {
        Process { id: 0, forks: 0 }
    }

    pub(crate) fn forks() -> u32 {
        0
    }

    pub(crate) fn count_forks() {}
}
