//! The asymmetric fence: two sides that each write and then read what the other wrote (Dekker's pattern), of which one
//! runs all the time and the other seldom.
//!
//! The frequent side calls [`light`], which only holds the compiler back. The seldom side calls [`heavy`], which makes
//! every running thread of the process pass a full memory barrier: `membarrier(2)`, private and expedited, on Linux. With
//! `light` between its store and its load on one side, and `heavy` on the other, at least one side sees the other's store.
//!
//! Where there is no such system call (other systems, old kernels, a seccomp filter), [`is_asymmetric`] is false: then both
//! sides need [`full`] in the place of theirs. It is decided once a process, before the first use.
//!
//! loom models `light` and `heavy` as symmetric full fences. That is weaker than the truth in nothing that is relied on,
//! but `membarrier` itself is not modelled.
//!
//! [`generation`] tells a forked child from its parent: a lock word that a thread of the parent wrote is nobody's
//! in the child.

use super::atomic::{Ordering, fence};

/// The seldom side's fence could not be had this time: what it was to order is not ordered.
#[derive(Debug)]
pub(crate) struct Unordered;

/// A full fence of this thread alone.
#[inline]
pub(crate) fn full() {
    fence(Ordering::SeqCst);
}

#[cfg(not(cenote_loom))]
mod imp {
    use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, compiler_fence};

    use super::Unordered;

    #[inline(always)]
    pub(crate) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() -> Result<(), Unordered> {
        if os::barrier() { Ok(()) } else { Err(Unordered) }
    }

    pub(crate) fn is_asymmetric() -> bool {
        const UNDECIDED: u8 = 0;
        const ASYMMETRIC: u8 = 1;
        const SYMMETRIC: u8 = 2;
        // No `OnceLock`: a child that is forked while another thread decides must not wait for it. Those who decide at
        // once each ask the system, and the first answer stands. Relaxed: it is a number.
        static MODE: AtomicU8 = AtomicU8::new(UNDECIDED);
        let mode = match MODE.load(Ordering::Relaxed) {
            UNDECIDED => {
                watch_forks();
                let mode = if os::register() { ASYMMETRIC } else { SYMMETRIC };
                match MODE.compare_exchange(UNDECIDED, mode, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => mode,
                    Err(decided) => decided,
                }
            }
            decided => decided,
        };
        mode == ASYMMETRIC
    }

    static GENERATION: AtomicU32 = AtomicU32::new(0);

    /// How many forks lie between the process that first asked and this one.
    pub(crate) fn generation() -> u32 {
        // Relaxed: it changes only in a child that has one thread.
        GENERATION.load(Ordering::Relaxed)
    }

    #[cfg(unix)]
    fn watch_forks() {
        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler is async-signal-safe: it adds to an atomic. If it cannot be registered (no memory), forks are
        // not noticed, which costs a child what its parent's threads had claimed, not more.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
        }
    }

    #[cfg(not(unix))]
    fn watch_forks() {}

    #[cfg(target_os = "linux")]
    mod os {
        /// `_CMD_PRIVATE_EXPEDITED` and `_CMD_REGISTER_PRIVATE_EXPEDITED` of `membarrier(2)`, Linux 4.14.
        const BARRIER: libc::c_int = 1 << 3;
        const REGISTER: libc::c_int = 1 << 4;

        fn membarrier(command: libc::c_int) -> bool {
            // SAFETY: the call takes no pointer and changes no memory.
            unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
        }

        pub(super) fn register() -> bool {
            membarrier(REGISTER) && membarrier(BARRIER)
        }

        pub(super) fn barrier() -> bool {
            membarrier(BARRIER)
        }
    }

    #[cfg(not(target_os = "linux"))]
    mod os {
        pub(super) fn register() -> bool {
            false
        }

        pub(super) fn barrier() -> bool {
            false
        }
    }
}

#[cfg(cenote_loom)]
mod imp {
    use super::{Unordered, full};

    pub(crate) fn light() {
        full();
    }

    pub(crate) fn heavy() -> Result<(), Unordered> {
        full();
        Ok(())
    }

    std::thread_local! {
        /// For each test by itself: loom runs all its threads on one of the system's.
        static SYMMETRIC: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    pub(crate) fn is_asymmetric() -> bool {
        !SYMMETRIC.get()
    }

    /// For a model: from now on there is no heavy fence.
    #[cfg(test)]
    pub(crate) fn set_symmetric(symmetric: bool) {
        SYMMETRIC.set(symmetric);
    }

    pub(crate) fn generation() -> u32 {
        0
    }
}

#[cfg(all(test, cenote_loom))]
pub(crate) use self::imp::set_symmetric;
pub(crate) use self::imp::{generation, heavy, is_asymmetric, light};
