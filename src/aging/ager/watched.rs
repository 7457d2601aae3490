//! The pools that an ager watches: a linked list without a lock, so that a forked child can take it
//! over in whatever state its parent's threads left it.
//!
//! * Any thread pushes an entry: it links the entry in front of the head by one compare-exchange.
//! * One thread at a time, the ager's, [visits](Watched::visit) the entries, and is the only one to
//!   unlink and to free one. It unlinks by one store, or by one compare-exchange if the entry is
//!   the head.
//! * An entry stays linked while its pool ages, and no lock is held: the objects that are dropped
//!   meanwhile may push pools to this list.
//!
//! Each change is one atomic write that leads from a complete list to a complete list. A fork may
//! come between any two of them: then the child has a complete list. What it can lose is an entry
//! that a thread of the parent had not linked yet, or had unlinked and not freed; that is a leak.

use std::ptr::{self, NonNull};

use super::Ageable;
use crate::primitive::atomic::{AtomicPtr, AtomicU32, Ordering};

pub(super) struct Watched {
    head: AtomicPtr<Entry>,
    /// How many entries there are, for [`len`](Self::len) alone.
    len: AtomicU32,
}

struct Entry {
    /// The thread that unlinks is the only one to write it after the entry is linked.
    next: AtomicPtr<Entry>,
    pool: Box<dyn Ageable>,
}

/// Whether an entry stays in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

// Threads share a list and so the pools in it, which need not be `Sync`: only the thread that
// visits calls one, and any thread may drop one, since `Ageable` is `Send`. (The raw pointers
// inside of atomics make the list `Send` and `Sync` by themselves.)
impl Watched {
    pub(super) const fn new() -> Self {
        Watched { head: AtomicPtr::new(ptr::null_mut()), len: AtomicU32::new(0) }
    }

    pub(super) fn push(&self, pool: Box<dyn Ageable>) {
        let entry = Box::into_raw(Box::new(Entry { next: AtomicPtr::new(ptr::null_mut()), pool }));
        // Before the entry is linked, so that the count of a removal never comes first.
        self.len.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the entry is not linked yet, so this thread alone has it.
            unsafe { (*entry).next.store(head, Ordering::Relaxed) };
            // Release: publishes the entry to the thread that visits. An ABA of the head is
            // harmless: an entry whose address comes again is linked as the head again.
            match self.head.compare_exchange(head, entry, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// How many pools there are; some of them may be gone by now.
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Calls `each` with every pool that is in the list now. Stops at the first `None`.
    ///
    /// # Safety
    ///
    /// No two threads of a process are in here at once for one list.
    pub(super) unsafe fn visit(&self, mut each: impl FnMut(&dyn Ageable) -> Option<Keep>) {
        let mut previous: Option<NonNull<Entry>> = None;
        // Acquire: pairs with the release of the push. An entry behind the head was published by
        // an earlier push; the exchanges of the head form one release sequence.
        let mut next = self.head.load(Ordering::Acquire);
        while let Some(entry) = NonNull::new(next) {
            // SAFETY: the entry is linked, and only this thread frees.
            let Entry { next: link, pool } = unsafe { entry.as_ref() };
            let keep = each(&**pool);
            next = link.load(Ordering::Relaxed);
            match keep {
                None => return,
                Some(Keep::Yes) => previous = Some(entry),
                Some(Keep::No) => {
                    // SAFETY: the entry is linked behind `previous`, and only this thread unlinks.
                    unsafe { self.unlink(previous, entry, next) };
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    // SAFETY: the entry came from `Box::into_raw`, and no pointer leads to it now.
                    drop(unsafe { Box::from_raw(entry.as_ptr()) });
                }
            }
        }
    }

    /// # Safety
    ///
    /// `entry` is linked, `previous` is the entry before it or `None` if it was the head when the
    /// visit began, `next` is the one behind it, and only the calling thread unlinks.
    unsafe fn unlink(&self, previous: Option<NonNull<Entry>>, entry: NonNull<Entry>, next: *mut Entry) {
        let entry = entry.as_ptr();
        if let Some(previous) = previous {
            // SAFETY: `previous` is linked, and only this thread frees.
            unsafe { previous.as_ref() }.next.store(next, Ordering::Relaxed);
            return;
        }
        // Release on success keeps the release sequence of the pushes before it; Acquire on failure
        // shows the entries that were pushed since.
        match self.head.compare_exchange(entry, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {}
            Err(mut before) => loop {
                // SAFETY: these entries were pushed during the visit, in front of `entry`, and only
                // this thread frees. The chain leads to `entry`, which is linked.
                let link = unsafe { &(*before).next };
                let behind = link.load(Ordering::Relaxed);
                if behind == entry {
                    link.store(next, Ordering::Relaxed);
                    return;
                }
                before = behind;
            },
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Acquire: another thread may have linked the last entry.
        let mut next = self.head.load(Ordering::Acquire);
        while !next.is_null() {
            // SAFETY: `&mut self`: no other thread has the list, and each entry came from
            // `Box::into_raw`.
            let entry = unsafe { Box::from_raw(next) };
            next = entry.next.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::sync::{Arc, mpsc};

    use super::super::sealed::{Outcome, Sealed};
    use super::*;

    struct Pool {
        visits: Arc<AtomicUsize>,
        alive: Arc<AtomicBool>,
        /// As the pools of users may be: `Send`, not `Sync`.
        _not_sync: Cell<u8>,
    }

    impl Sealed for Pool {}

    impl Ageable for Pool {
        fn pass_generation(&self) -> Outcome {
            self.visits.fetch_add(1, Ordering::Relaxed);
            match self.alive.load(Ordering::Relaxed) {
                true => Outcome::Passed { dropped: false },
                false => Outcome::Gone,
            }
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            DROPPED.with(|dropped| dropped.set(dropped.get() + 1));
        }
    }

    thread_local!(static DROPPED: Cell<usize> = const { Cell::new(0) });

    struct Handle(Arc<AtomicUsize>, Arc<AtomicBool>);

    fn push(list: &Watched) -> Handle {
        let (visits, alive) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let handle = Handle(Arc::clone(&visits), Arc::clone(&alive));
        list.push(Box::new(Pool { visits, alive, _not_sync: Cell::new(0) }));
        handle
    }

    fn pass(pool: &dyn Ageable) -> Option<Keep> {
        Some(if pool.pass_generation() == Outcome::Gone { Keep::No } else { Keep::Yes })
    }

    /// One round. The tests below have one thread that visits.
    fn visit(list: &Watched, each: impl FnMut(&dyn Ageable) -> Option<Keep>) {
        // SAFETY: see above.
        unsafe { list.visit(each) }
    }

    fn visits(handles: &[Handle]) -> Vec<usize> {
        handles.iter().map(|handle| handle.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn entries_are_removed_at_the_head_in_the_middle_and_at_the_end() {
        for gone in 0..8u8 {
            let list = Watched::new();
            let handles = [push(&list), push(&list), push(&list)];
            for (i, handle) in handles.iter().enumerate() {
                handle.1.store(gone & 1 << i == 0, Ordering::Relaxed);
            }
            let dropped = DROPPED.get();
            visit(&list, pass);
            assert_eq!(visits(&handles), [1; 3]);
            assert_eq!(DROPPED.get() - dropped, gone.count_ones() as usize);
            assert_eq!(list.len(), 3 - gone.count_ones());
            visit(&list, pass);
            let expected = [0, 1, 2].map(|i| 1 + usize::from(gone & 1 << i == 0));
            assert_eq!(visits(&handles), expected, "{gone:b}");
            drop(list);
            assert_eq!(DROPPED.get() - dropped, 3);
        }
    }

    #[test]
    fn a_push_during_a_visit_is_seen_by_the_next_also_when_the_visited_head_goes() {
        let list = Watched::new();
        let handles = [push(&list), push(&list)];
        let mut added = Vec::new();
        visit(&list, |pool| {
            pass(pool);
            added.push(push(&list));
            Some(Keep::No)
        });
        assert_eq!((visits(&handles), visits(&added)), (vec![1, 1], vec![0, 0]));
        assert_eq!(list.len(), 2);
        visit(&list, pass);
        assert_eq!((visits(&handles), visits(&added)), (vec![1, 1], vec![1, 1]));
    }

    #[test]
    fn a_visit_stops_where_it_is_asked_to() {
        let list = Watched::new();
        let handles = [push(&list), push(&list)];
        visit(&list, |pool| pass(pool).and(None));
        assert_eq!(visits(&handles).iter().sum::<usize>(), 1);
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn threads_push_while_one_visits_and_no_entry_is_lost() {
        const THREADS: usize = 3;
        const PUSHES: usize = if cfg!(miri) { 20 } else { 2_000 };
        let list = Watched::new();
        let (done, pushers) = mpsc::channel::<Vec<Handle>>();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (list, done) = (&list, done.clone());
                scope.spawn(move || {
                    let handles = (0..PUSHES).map(|i| {
                        let handle = push(list);
                        handle.1.store(i % 3 == 0, Ordering::Relaxed);
                        handle
                    });
                    done.send(handles.collect()).unwrap();
                });
            }
            let mut handles = Vec::new();
            while handles.len() < THREADS * PUSHES {
                visit(&list, pass);
                handles.extend(pushers.try_iter().flatten());
            }
            // An entry may have been visited before it was marked as gone.
            visit(&list, pass);
            let kept = handles.iter().filter(|handle| handle.1.load(Ordering::Relaxed)).count();
            assert_eq!(list.len() as usize, kept);
            let before = visits(&handles);
            visit(&list, pass);
            for (handle, before) in handles.iter().zip(before) {
                let visited = handle.0.load(Ordering::Relaxed) - before;
                assert_eq!(visited, usize::from(handle.1.load(Ordering::Relaxed)));
            }
        });
    }
}
