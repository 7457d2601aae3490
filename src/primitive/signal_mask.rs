//! The signal mask of a background thread.
//!
//! The kernel delivers a signal of the process to any thread that does not block it. A background
//! thread that took one would take it from the thread that the program chose for it, for example by
//! `sigwait`. A new thread inherits the mask of its creator, so the creator blocks the signals
//! around the creation: the new thread never runs with them unblocked.
//!
//! The signals by which the kernel reports a fault of the running thread stay as they are. Blocked,
//! they would end the process without the program's crash handler, or the standard library's
//! message about a stack overflow, and destructors of a user's objects run on such a thread.

/// Blocks signals on this thread until it is dropped, on a panic too.
#[must_use = "the signals are unblocked when the guard is dropped"]
pub(super) struct Blocked(imp::Saved);

pub(super) fn block() -> Blocked {
    Blocked(imp::block())
}

impl Drop for Blocked {
    fn drop(&mut self) {
        imp::restore(&self.0);
    }
}

// Miri has no signals.
#[cfg(all(unix, not(miri)))]
mod imp {
    use std::mem::MaybeUninit;
    use std::ptr::null_mut;

    /// Signals that a thread raises by what it executes.
    const FAULTS: [libc::c_int; 6] =
        [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

    /// The mask before; `None` if it could not be changed.
    pub(super) struct Saved(Option<libc::sigset_t>);

    pub(super) fn block() -> Saved {
        let mut all = MaybeUninit::uninit();
        let mut saved = MaybeUninit::uninit();
        // SAFETY: `sigfillset` initializes `all`, and `pthread_sigmask` initializes `saved` if it
        // returns 0. The pointers are to local variables.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(all.as_mut_ptr(), fault);
            }
            let changed = libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), saved.as_mut_ptr()) == 0;
            Saved(changed.then(|| saved.assume_init()))
        }
    }

    pub(super) fn restore(saved: &Saved) {
        if let Some(mask) = &saved.0 {
            // SAFETY: the mask is one that `pthread_sigmask` returned.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, null_mut()) };
        }
    }
}

#[cfg(not(all(unix, not(miri))))]
mod imp {
    pub(super) struct Saved;

    pub(super) fn block() -> Saved {
        Saved
    }

    pub(super) fn restore(_: &Saved) {}
}

#[cfg(all(test, unix, not(miri)))]
mod tests {
    use std::mem::MaybeUninit;
    use std::panic::catch_unwind;
    use std::ptr::null;
    use std::sync::mpsc;

    use crate::primitive::spawn_thread;

    const ASKED: [libc::c_int; 5] =
        [libc::SIGTERM, libc::SIGINT, libc::SIGPROF, libc::SIGCHLD, libc::SIGUSR1];

    /// Which of these this thread blocks.
    fn blocked<const N: usize>(signals: [libc::c_int; N]) -> [bool; N] {
        let mut set = MaybeUninit::uninit();
        // SAFETY: a null set asks for the current mask, which the call stores in `set`.
        let set = unsafe {
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, null(), set.as_mut_ptr()), 0);
            set.assume_init()
        };
        // SAFETY: the set is initialized.
        signals.map(|signal| unsafe { libc::sigismember(&set, signal) == 1 })
    }

    #[test]
    fn a_background_thread_begins_with_all_signals_blocked_but_its_own_faults() {
        let before = blocked(ASKED);
        let (report, masks) = mpsc::channel();
        let thread = spawn_thread("cenote-test", move || {
            report.send((blocked(ASKED), blocked([libc::SIGSEGV, libc::SIGFPE]))).unwrap();
        });
        let (asked, faults) = masks.recv().unwrap();
        thread.unwrap().join().unwrap();
        assert_eq!(asked, [true; 5]);
        assert_eq!(faults, [false; 2]);
        assert_eq!(blocked(ASKED), before, "the creator has its mask back");
    }

    #[test]
    fn a_creation_that_panics_restores_the_mask() {
        let before = blocked(ASKED);
        assert!(catch_unwind(|| spawn_thread("a name with a \0", || ())).is_err());
        assert_eq!(blocked(ASKED), before);
    }
}
