//! Memory that was unlinked while others may still be looking at it: freed when none can any more.
//!
//! By `crossbeam-epoch`: whoever looks is pinned, and what is handed to [`Pin::free_later`] is freed after all who were
//! pinned at that time have left. Under loom, which knows nothing of epochs, it is freed at the end of the model.

#[cfg(not(cenote_loom))]
mod imp {
    /// While this lives, nothing that it can see is freed.
    pub(crate) struct Pin(crossbeam_epoch::Guard);

    #[inline]
    pub(crate) fn pin() -> Pin {
        Pin(crossbeam_epoch::pin())
    }

    impl Pin {
        /// # Safety
        ///
        /// `free(pointer)` must be sound on any thread, at any later time, and `pointer` no longer reachable for those who
        /// pin from now on.
        pub(crate) unsafe fn free_later<N>(&self, pointer: *mut N, free: unsafe fn(*mut N)) {
            // SAFETY: the caller's promise; nothing is captured but a pointer and a function. `N` may have a lifetime,
            // but the function frees memory only, and looks at no `N`.
            unsafe { self.0.defer_unchecked(move || free(pointer)) }
        }
    }
}

#[cfg(cenote_loom)]
mod imp {
    use std::cell::RefCell;

    std::thread_local! {
        /// loom runs all its threads on one of the system's.
        static LATER: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) struct Pin;

    pub(crate) fn pin() -> Pin {
        Pin
    }

    impl Pin {
        pub(crate) unsafe fn free_later<N>(&self, pointer: *mut N, free: unsafe fn(*mut N)) {
            // SAFETY: the caller's promise, and the model is over by then.
            let free: Box<dyn FnOnce() + '_> = Box::new(move || unsafe { free(pointer) });
            // SAFETY: `free` frees memory only: it needs no lifetime of `N`'s to hold.
            let free = unsafe { std::mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(free) };
            LATER.with_borrow_mut(|later| later.push(free));
        }
    }

    /// At the end of a model.
    pub(crate) fn free_all() {
        for free in LATER.take() {
            free();
        }
    }
}

pub(crate) use self::imp::*;
