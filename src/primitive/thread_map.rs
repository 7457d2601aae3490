//! One value a thread, made on the thread's first visit. It outlives the thread: the next new thread takes it over.
//!
//! By the `thread_local` crate. Two threads never own the same value at once; that the dead owner's last access happens before
//! the new owner's first is due to the lock under which `thread_local` takes a dead thread's number back and gives it
//! out again. That lock, too, is why a child that was forked while another thread was being born or ending may hang in
//! its own next new thread: it is out of our reach.

#[cfg(not(cenote_loom))]
mod imp {
    use std::cell::Cell;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use thread_local::ThreadLocal;

    use crate::primitive::thread_end;

    #[repr(C)]
    pub(crate) struct ThreadMap<S: Send> {
        /// Which map this is, among all that ever were; 0 until the first value is made.
        id: AtomicUsize,
        values: ThreadLocal<S>,
        /// How many values there are, or are about to be: a walk need not look at every place where there might be
        /// more.
        count: AtomicUsize,
    }

    /// Entries of a thread's cache.
    const WAYS: usize = 8;

    #[derive(Clone, Copy)]
    struct Entry {
        id: usize,
        value: NonNull<()>,
    }

    const NOTHING: Entry = Entry { id: usize::MAX, value: NonNull::dangling() };

    thread_local! {
        /// Where this thread's value lies in the maps that it used last, by the lowest bits of their ids.
        ///
        /// An entry is right as long as the map and the thread live: values stay where they are, ids are not used again, and
        /// the thread's end empties the cache before it gives the thread's number back.
        static CACHE: [Cell<Entry>; WAYS] = const { [const { Cell::new(NOTHING) }; WAYS] };
    }

    /// Whether the thread's end empties the cache in time. Where thread-local variables are made of the system's keys, their
    /// destructors run in no order that one could rely on, and that of `thread_local` may come first.
    const TRUSTED: bool =
        !cfg!(any(target_os = "android", target_os = "openbsd", all(windows, target_env = "gnu")));

    /// The thread ends.
    pub(in crate::primitive) fn forget_all() {
        CACHE.with(|cache| cache.iter().for_each(|entry| entry.set(NOTHING)));
    }

    impl<S: Send + Sync> ThreadMap<S> {
        pub(crate) const fn new() -> Self {
            ThreadMap { id: AtomicUsize::new(0), values: ThreadLocal::new(), count: AtomicUsize::new(0) }
        }

        /// The calling thread's value, if it has one in its cache.
        #[inline(always)]
        pub(crate) fn get(&self) -> Option<&S> {
            if !TRUSTED {
                return thread_end::insert(|| self.values.get())?;
            }
            // Relaxed: it is this thread that has put the entry in, and set the id before, or seen it.
            let id = self.id.load(Ordering::Relaxed);
            let entry = CACHE.with(|cache| cache[id % WAYS].get());
            if entry.id != id {
                return None;
            }
            // SAFETY: see `CACHE`: the value is in `self.values`. No map has the id of `NOTHING`.
            Some(unsafe { entry.value.cast::<S>().as_ref() })
        }

        /// As `get`, but looks beyond the cache, and makes one, told how many there were before. `None` in a thread-local destructor that runs so late that
        /// the thread has given its number back.
        #[cold]
        pub(crate) fn get_or_insert(&self, make: impl FnOnce(usize) -> S) -> Option<&S> {
            let value = thread_end::insert(|| {
                self.values.get_or(|| {
                    // Relaxed: who is to see the value for certain has met its thread since.
                    make(self.count.fetch_add(1, Ordering::Relaxed))
                })
            })?;
            let id = self.id();
            CACHE.with(|cache| cache[id % WAYS].set(Entry { id, value: NonNull::from(value).cast() }));
            Some(value)
        }

        fn id(&self) -> usize {
            static LAST: AtomicUsize = AtomicUsize::new(0);
            let id = self.id.load(Ordering::Relaxed);
            if id != 0 {
                return id;
            }
            // Relaxed: the exchange decides which it is, and an id publishes nothing.
            let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            // On 32 bits they could run out.
            if new > usize::MAX / 2 {
                std::process::abort();
            }
            match self.id.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => new,
                Err(other) => other,
            }
        }

        /// The values of all threads, the dead ones' too.
        pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
            self.values.iter().take(self.count.load(Ordering::Relaxed))
        }
    }
}

#[cfg(cenote_loom)]
mod imp {
    use std::cell::Cell;

    use crate::primitive::checker;

    /// loom's threads are one thread of the system's, so each says which it is, as `thread_local`'s numbers do.
    pub(crate) struct ThreadMap<S: Send> {
        values: std::sync::Mutex<Vec<Box<S>>>,
        /// As `thread_local`'s `present` flags: written with Release when a value is there, read with Acquire.
        count: checker::sync::atomic::AtomicUsize,
        /// As in `thread_local`: the lock under which numbers come and go.
        free: checker::sync::Mutex<Vec<usize>>,
    }

    checker::thread_local! {
        static NUMBER: Cell<Option<usize>> = Cell::new(None);
    }

    impl<S: Send + Sync> ThreadMap<S> {
        pub(crate) fn new() -> Self {
            ThreadMap {
                values: std::sync::Mutex::new(Vec::new()),
                count: checker::sync::atomic::AtomicUsize::new(0),
                free: checker::sync::Mutex::new(Vec::new()),
            }
        }

        fn at(&self, number: usize) -> Option<&S> {
            let values = self.values.lock().unwrap();
            let value: *const S = &**values.get(number)?;
            // SAFETY: the box stays where it is until the map is dropped.
            Some(unsafe { &*value })
        }

        pub(crate) fn get(&self) -> Option<&S> {
            self.at(NUMBER.with(Cell::get)?)
        }

        pub(crate) fn get_or_insert(&self, make: impl FnOnce(usize) -> S) -> Option<&S> {
            if NUMBER.with(Cell::get).is_none() {
                let mut free = self.free.lock().unwrap();
                let number = free.pop().unwrap_or_else(|| {
                    let mut values = self.values.lock().unwrap();
                    let number = values.len();
                    values.push(Box::new(make(number)));
                    number
                });
                self.count.fetch_max(number + 1, checker::sync::atomic::Ordering::AcqRel);
                drop(free);
                NUMBER.with(|own| own.set(Some(number)));
            }
            self.get()
        }

        /// The calling thread ends: its number is free.
        pub(crate) fn leave(&self) {
            if let Some(number) = NUMBER.with(Cell::take) {
                self.free.lock().unwrap().push(number);
            }
        }

        pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
            let count = self.count.load(checker::sync::atomic::Ordering::Acquire);
            (0..count).filter_map(|number| self.at(number))
        }
    }
}

pub(crate) use self::imp::ThreadMap;
#[cfg(not(cenote_loom))]
pub(super) use self::imp::forget_all;
