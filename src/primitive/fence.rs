//! The asymmetric fence: two sides that each write and then read what the other wrote (Dekker's pattern), of which one
//! runs all the time and the other seldom.
//!
//! The owner of what is fenced calls [`light`], which only holds the compiler back. A remote thread calls [`heavy`], which
//! makes every running thread of the process pass a full memory barrier: `membarrier(2)`, private and expedited, on Linux.
//! With `light` between its store and its load on one side, and `heavy` on the other, at least one side sees the other's
//! store.
//!
//! [`is_asymmetric`] says whether that can be had. While it returns false both sides need [`full`] in the place of theirs. It
//! may become true later, and then stays so:
//!
//! * A process must register before it may use the system call. That takes no time while it has one thread, and 5 to
//!   14 ms of waiting for the kernel once it has others. So the process registers before `main`.
//! * Where that did not happen (the crate was loaded into a running program), the first user starts a thread that
//!   registers and ends, and nobody waits for it.
//! * On other systems, on old kernels, under a seccomp filter, and under Miri, it stays false.
//!
//! Under a model checker `light` and `heavy` are symmetric full fences, or, where a model asks for it, exchanges on one word
//! that order each other but no full fence. `membarrier` itself is not modeled.
//!
//! [`generation`] distinguishes a forked child from its parent: a lock word that a thread of the parent wrote is nobody's
//! in the child.

use super::atomic::{Ordering, fence};

/// The heavy fence could not be had this time: what it was to order is not ordered.
#[derive(Debug)]
pub(crate) struct Unordered;

/// A full fence of this thread alone.
#[inline]
pub(crate) fn full() {
    fence(Ordering::SeqCst);
}

#[cfg(not(cenote_loom))]
mod imp {
    use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

    use super::Unordered;
    use crate::primitive::process;

    #[inline(always)]
    pub(crate) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() -> Result<(), Unordered> {
        if os::barrier() { Ok(()) } else { Err(Unordered) }
    }

    /// Nobody has asked yet.
    const UNDECIDED: u8 = 0;
    const ASYMMETRIC: u8 = 1;
    /// For the life of the process.
    const SYMMETRIC: u8 = 2;
    /// A thread is registering the process.
    const REGISTERING: u8 = 3;

    /// Stored with Release and loaded with Acquire: a thread that finds `ASYMMETRIC` comes after the registration, and so does
    /// a thread that finds a word which that one wrote.
    static MODE: AtomicU8 = AtomicU8::new(UNDECIDED);

    pub(crate) fn is_asymmetric() -> bool {
        match MODE.load(Ordering::Acquire) {
            ASYMMETRIC => true,
            UNDECIDED => decide(),
            _ => false,
        }
    }

    /// The first use of a process that has not registered before `main`.
    #[cold]
    fn decide() -> bool {
        if begin() {
            if !os::HAS_BARRIER {
                register();
            } else if crate::primitive::spawn_thread("cenote-register", register).is_err() {
                MODE.store(SYMMETRIC, Ordering::Release);
            }
        }
        MODE.load(Ordering::Acquire) == ASYMMETRIC
    }

    /// Whether it is the caller that has to decide. No lock: a child that is forked while another thread decides must not wait
    /// for it, and shares its data in the symmetric way.
    fn begin() -> bool {
        let begins =
            MODE.compare_exchange(UNDECIDED, REGISTERING, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            process::count_forks();
        }
        begins
    }

    fn register() {
        let mode = if os::register() { ASYMMETRIC } else { SYMMETRIC };
        MODE.store(mode, Ordering::Release);
    }

    /// Registers the process while it has one thread: a few microseconds.
    #[cfg(all(target_os = "linux", not(miri)))]
    mod before_main {
        extern "C" fn register() {
            if super::os::is_single_threaded() && super::begin() {
                super::register();
            }
        }

        #[used]
        // SAFETY: the section is a table of functions that the loader calls, after libc is ready.
        #[unsafe(link_section = ".init_array")]
        static REGISTER: extern "C" fn() = register;
    }

    /// How many forks lie between the process that first asked and this one.
    pub(crate) fn generation() -> u32 {
        process::forks()
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    mod os {
        pub(super) const HAS_BARRIER: bool = true;

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

        /// Whether the process has no other thread; false if that cannot be found out.
        pub(super) fn is_single_threaded() -> bool {
            use std::os::unix::fs::MetadataExt;
            // A directory has a link for itself, one for its parent, and one for each directory in it.
            std::fs::metadata("/proc/self/task").is_ok_and(|tasks| tasks.nlink() == 3)
        }
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    mod os {
        pub(super) const HAS_BARRIER: bool = false;

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
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;

    use super::{Ordering, Unordered, full};
    use crate::primitive::atomic::{AtomicBool, AtomicUsize};

    /// What a model has set, for each test by itself: a checker runs all threads of a model on one of the system's.
    #[derive(Default)]
    struct Settings {
        symmetric: Cell<bool>,
        fails: Cell<bool>,
        /// Becomes true when the process gets the heavy fence, in the middle of the model.
        switch: RefCell<Option<Arc<AtomicBool>>>,
        /// What the two sides of a paired fence meet on.
        pair: RefCell<Option<Arc<AtomicUsize>>>,
    }

    std::thread_local! {
        static SETTINGS: Settings = Settings::default();
    }

    fn pair() -> Option<Arc<AtomicUsize>> {
        SETTINGS.with(|settings| settings.pair.borrow().clone())
    }

    /// In a symmetric process it does nothing, as no `heavy` answers it.
    pub(crate) fn light() {
        if let Some(pair) = pair() {
            // Of two exchanges on one word the second sees all that the first comes after.
            pair.fetch_add(1, Ordering::AcqRel);
        } else if !SETTINGS.with(|settings| settings.symmetric.get()) {
            full();
        }
    }

    pub(crate) fn heavy() -> Result<(), Unordered> {
        if SETTINGS.with(|settings| settings.fails.get()) {
            return Err(Unordered);
        }
        match pair() {
            Some(pair) => drop(pair.fetch_add(1, Ordering::AcqRel)),
            None => full(),
        }
        Ok(())
    }

    pub(crate) fn is_asymmetric() -> bool {
        let switch = SETTINGS.with(|settings| settings.switch.borrow().clone());
        match switch {
            Some(switch) => switch.load(Ordering::Acquire),
            None => !SETTINGS.with(|settings| settings.symmetric.get()),
        }
    }

    pub(crate) fn generation() -> u32 {
        0
    }

    /// For a model: there is no heavy fence.
    #[cfg(test)]
    pub(crate) fn set_symmetric(symmetric: bool) {
        SETTINGS.with(|settings| settings.symmetric.set(symmetric));
    }

    /// For a model: the heavy fence fails from now on, or no longer.
    #[cfg(test)]
    pub(crate) fn set_failing(fails: bool) {
        SETTINGS.with(|settings| settings.fails.set(fails));
    }

    /// For a model: a light and a heavy fence order one another, and neither orders a full fence, as in truth. It
    /// costs the model more steps than symmetric fences do.
    #[cfg(test)]
    pub(crate) fn pair_light_with_heavy() {
        SETTINGS.with(|settings| *settings.pair.borrow_mut() = Some(Arc::new(AtomicUsize::new(0))));
    }

    /// For a model: there is no heavy fence until [`switch`] is called.
    #[cfg(test)]
    pub(crate) fn begin_symmetric() {
        SETTINGS.with(|settings| *settings.switch.borrow_mut() = Some(Arc::new(AtomicBool::new(false))));
    }

    #[cfg(test)]
    pub(crate) fn switch() {
        let switch = SETTINGS.with(|settings| settings.switch.borrow().clone());
        switch.expect("`begin_symmetric` was called").store(true, Ordering::Release);
    }

    /// At the end of a model.
    #[cfg(test)]
    pub(crate) fn reset() {
        SETTINGS.with(|settings| {
            settings.symmetric.set(false);
            settings.fails.set(false);
            settings.switch.take();
            settings.pair.take();
        });
    }
}

#[cfg(all(test, cenote_loom))]
pub(crate) use self::imp::{
    begin_symmetric, pair_light_with_heavy, reset, set_failing, set_symmetric, switch,
};
pub(crate) use self::imp::{generation, heavy, is_asymmetric, light};
