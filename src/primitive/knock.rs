//! A waker for a part of a task: it wakes the task unless that is being polled already.
//!
//! Whoever knocks leaves a mark, then looks whether the task is being polled, and if not wakes it. The task says that it is
//! being polled, does its work, says that it no longer is, and then looks for a mark. That is Dekker's pattern: each side writes
//! and then reads what the other writes, with a full fence in between. So either the one who knocks finds the poll ended, and
//! wakes the task, or the task finds the mark at its end.

#[cfg(not(cenote_loom))]
use futures_util::task::AtomicWaker;
use std::task::Waker;

#[cfg(cenote_loom)]
use self::locked::AtomicWaker;
use super::atomic::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(crate) struct Knock {
    task: AtomicWaker,
    polling: AtomicBool,
    mark: AtomicBool,
}

impl Knock {
    /// With a mark: the first poll is due.
    pub(crate) fn new() -> Self {
        Knock { task: AtomicWaker::new(), polling: AtomicBool::new(false), mark: AtomicBool::new(true) }
    }

    pub(crate) fn knock(&self) {
        // Release: who takes the mark sees what it was left for, also if it was there: then another sees to the rest.
        if self.mark.swap(true, Ordering::Release) {
            return;
        }
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it behind the mark, and nothing but the flag is read.
        if !self.polling.load(Ordering::Relaxed) {
            self.task.wake();
        }
    }

    /// The task is being polled from here to `end`.
    pub(crate) fn begin(&self, task: &Waker) {
        self.task.register(task);
        // Relaxed: whoever does not see it yet wakes the task once too often.
        self.polling.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has knocked since the last time.
    pub(crate) fn take(&self) -> bool {
        // Acquire: pairs with the Release in `knock`. A load first: most polls have another reason.
        self.mark.load(Ordering::Relaxed) && self.mark.swap(false, Ordering::Acquire)
    }

    /// Whether there is a mark, for which nobody may have woken the task.
    pub(crate) fn end(&self) -> bool {
        // Relaxed, both: the fence between them is what orders them.
        self.polling.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.mark.load(Ordering::Relaxed)
    }
}

#[cfg(cenote_loom)]
mod locked {
    use std::task::Waker;

    use crate::primitive::checker::sync::Mutex;

    /// As futures-util's, which the model takes for granted.
    #[derive(Debug)]
    pub(super) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(super) fn new() -> Self {
            AtomicWaker(Mutex::new(None))
        }

        pub(super) fn register(&self, waker: &Waker) {
            *self.0.lock().unwrap() = Some(waker.clone());
        }

        pub(super) fn wake(&self) {
            let waker = self.0.lock().unwrap().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_knock_wakes_the_task_except_while_it_is_polled() {
        let (knock, wakes) = (Knock::new(), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let woken = || wakes.0.load(Ordering::Relaxed);
        knock.begin(&waker);
        assert!(knock.take(), "the first poll is due");
        assert!(!knock.take());
        knock.knock();
        assert_eq!(woken(), 0, "the poll is going on");
        assert!(knock.end(), "and is told of it at its end");
        knock.begin(&waker);
        assert!(knock.take());
        assert!(!knock.end());
        knock.knock();
        assert_eq!(woken(), 1);
        knock.begin(&waker);
        assert!(knock.take());
        assert!(!knock.end());
    }
}

#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models {
    use std::sync::Arc as StdArc;
    use std::task::Wake;

    use loom::sync::Arc;

    use super::*;
    use crate::primitive::atomic::AtomicU32;

    /// As a runtime's task: whether it is to be polled once more.
    struct Due(AtomicBool);

    impl Wake for Due {
        fn wake(self: StdArc<Self>) {
            // A swap, as in `poll`: loom leaves it open which of a store and a swap came first, even after both.
            self.0.swap(true, Ordering::AcqRel);
        }
    }

    /// Knocks, on a thread of their own, while the task is polled.
    fn no_knock_is_lost(knocks: u32, polls: usize) {
        loom::model(move || {
            let knock = Arc::new(Knock::new());
            let left = Arc::new(AtomicU32::new(0));
            let due = StdArc::new(Due(AtomicBool::new(true)));
            let waker = Waker::from(StdArc::clone(&due));
            let other = {
                let (knock, left) = (Arc::clone(&knock), Arc::clone(&left));
                loom::thread::spawn(move || {
                    for what in 1..=knocks {
                        left.store(what, Ordering::Relaxed);
                        knock.knock();
                    }
                })
            };
            let mut seen = 0;
            let mut poll = || {
                if due.0.swap(false, Ordering::Acquire) {
                    knock.begin(&waker);
                    if knock.take() {
                        seen = left.load(Ordering::Relaxed);
                    }
                    if knock.end() {
                        waker.wake_by_ref();
                    }
                }
            };
            (0..polls).for_each(|_| poll());
            other.join().unwrap();
            // What is due is polled some time.
            (0..3).for_each(|_| poll());
            assert_eq!(seen, knocks, "a knock that the task never heard of");
            assert!(!due.0.load(Ordering::Relaxed), "nobody knocks any more, and the task finds no rest");
        });
    }

    #[test]
    fn a_knock_during_a_poll_is_heard() {
        no_knock_is_lost(2, 1);
    }

    #[test]
    fn a_knock_between_polls_is_heard() {
        no_knock_is_lost(1, 2);
    }
}
