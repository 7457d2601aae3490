//! Memory that was unlinked while other threads may still look at it: freed when none can any more.
//!
//! By `crossbeam-epoch`: a thread that looks is pinned, and what is handed to [`Pin::free_later`] is freed after all threads
//! that were pinned at that time have left. The collector is the crate's own: the one that all crates of a process share
//! runs their closures in our [`pin`], and a guard that another crate holds for long keeps our memory. Under loom, which
//! knows nothing of epochs, memory is freed at the end of the model.
//!
//! A forked child gets a collector of its own: in its parent's, threads that do not exist may be pinned for ever.

#[cfg(not(cenote_loom))]
mod imp {
    use std::cell::RefCell;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use crossbeam_epoch::{Collector, LocalHandle};

    use crate::primitive::fence;

    /// While this lives, nothing that it can see is freed.
    pub(crate) struct Pin(crossbeam_epoch::Guard);

    /// The collector of one process.
    struct Own {
        collector: Collector,
        /// Which process that is.
        generation: u32,
    }

    /// Never freed: one for each fork between the first process and this one.
    static OWN: AtomicPtr<Own> = AtomicPtr::new(ptr::null_mut());

    /// No `OnceLock`: a child that was forked while another thread made the collector must not wait for it.
    fn own() -> &'static Own {
        let generation = fence::generation();
        // Acquire: what is in it.
        let mut own = OWN.load(Ordering::Acquire);
        loop {
            if !own.is_null() {
                // SAFETY: it is never freed.
                let own = unsafe { &*own };
                if own.generation == generation {
                    return own;
                }
            }
            let new = Box::into_raw(Box::new(Own { collector: Collector::new(), generation }));
            match OWN.compare_exchange(own, new, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: as above.
                Ok(_) => return unsafe { &*new },
                Err(now) => {
                    // SAFETY: nobody else has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    own = now;
                }
            }
        }
    }

    struct Handle {
        handle: LocalHandle,
        generation: u32,
    }

    std::thread_local! {
        static HANDLE: RefCell<Option<Handle>> = const { RefCell::new(None) };
    }

    pub(crate) fn pin() -> Pin {
        let own = own();
        let pin = HANDLE.try_with(|handle| {
            // Taken already only by a signal handler in the middle of this, or by a global allocator that uses a pool.
            let mut handle = handle.try_borrow_mut().ok()?;
            if handle.as_ref().is_some_and(|handle| handle.generation != own.generation) {
                // The parent's. Its collector is not to be touched: it counts on threads that do not exist.
                std::mem::forget(handle.take());
            }
            let register = || Handle { handle: own.collector.register(), generation: own.generation };
            Some(Pin(handle.get_or_insert_with(register).handle.pin()))
        });
        // In a late thread-local destructor there is no variable any more: a handle for this once.
        pin.ok().flatten().unwrap_or_else(|| Pin(own.collector.register().pin()))
    }

    impl Pin {
        /// # Safety
        ///
        /// `free(pointer)` must be sound on any thread, at any later time, and `pointer` no longer reachable for threads
        /// that pin from now on.
        pub(crate) unsafe fn free_later<N>(&self, pointer: *mut N, free: unsafe fn(*mut N)) {
            // SAFETY: the caller's promise; nothing is captured but a pointer and a function.
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
