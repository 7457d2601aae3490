//! A waker for a part of a task: it wakes the task unless the task is being polled already.
//!
//! A waking thread sets the notified flag, then reads whether the task is being polled, and wakes it if
//! not. The task sets the polling flag, does its work, clears the flag, and then reads the notified
//! flag. That is Dekker's pattern: each side writes and then reads what the other writes, with a full
//! fence in between. So either the waking thread sees that the poll has ended, and wakes the task, or the
//! task sees the notified flag at the end of its poll.

#[cfg(not(cenote_loom))]
use futures_util::task::AtomicWaker;
use std::task::Waker;

#[cfg(cenote_loom)]
use self::locked::AtomicWaker;
use super::atomic::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(crate) struct SubWaker {
    task: AtomicWaker,
    polling: AtomicBool,
    notified: AtomicBool,
}

impl SubWaker {
    /// Notified from the start: the first poll is due.
    pub(crate) fn new() -> Self {
        SubWaker {
            task: AtomicWaker::new(),
            polling: AtomicBool::new(false),
            notified: AtomicBool::new(true),
        }
    }

    pub(crate) fn notify(&self) {
        // Release: the poll that takes the flag sees what was written before it was set, also if it had been set
        // already; then the thread that set it first sees to the rest.
        if self.notified.swap(true, Ordering::Release) {
            return;
        }
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it after the notified flag, and nothing but the flag is read.
        if !self.polling.load(Ordering::Relaxed) {
            self.task.wake();
        }
    }

    /// The task is being polled from here to `end`.
    pub(crate) fn begin(&self, task: &Waker) {
        self.task.register(task);
        // Relaxed: a thread that does not see it yet wakes the task once too often.
        self.polling.store(true, Ordering::Relaxed);
    }

    /// Clears the notified flag; returns whether it was set.
    pub(crate) fn take(&self) -> bool {
        // Acquire: pairs with the Release in `notify`. A load first: most polls have another reason.
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::Acquire)
    }

    /// Ends the poll; returns whether the notified flag is set, for which no thread may have woken the task.
    pub(crate) fn end(&self) -> bool {
        // Relaxed, both: the fence between them is what orders them.
        self.polling.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.notified.load(Ordering::Relaxed)
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
    fn it_wakes_the_task_except_while_that_is_polled() {
        let (part, wakes) = (SubWaker::new(), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let woken = || wakes.0.load(Ordering::Relaxed);
        part.begin(&waker);
        assert!(part.take(), "the first poll is due");
        assert!(!part.take());
        part.notify();
        assert_eq!(woken(), 0, "the poll is going on");
        assert!(part.end(), "and it is reported at its end");
        part.begin(&waker);
        assert!(part.take());
        assert!(!part.end());
        part.notify();
        assert_eq!(woken(), 1);
        part.begin(&waker);
        assert!(part.take());
        assert!(!part.end());
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

    /// Notifications from a thread of their own, while the task is polled.
    fn no_notification_is_lost(notifications: u32, polls: usize) {
        loom::model(move || {
            let part = Arc::new(SubWaker::new());
            let left = Arc::new(AtomicU32::new(0));
            let due = StdArc::new(Due(AtomicBool::new(true)));
            let waker = Waker::from(StdArc::clone(&due));
            let other = {
                let (part, left) = (Arc::clone(&part), Arc::clone(&left));
                loom::thread::spawn(move || {
                    for what in 1..=notifications {
                        left.store(what, Ordering::Relaxed);
                        part.notify();
                    }
                })
            };
            let mut seen = 0;
            let mut poll = || {
                if due.0.swap(false, Ordering::Acquire) {
                    part.begin(&waker);
                    if part.take() {
                        seen = left.load(Ordering::Relaxed);
                    }
                    if part.end() {
                        waker.wake_by_ref();
                    }
                }
            };
            (0..polls).for_each(|_| poll());
            other.join().unwrap();
            // What is due is polled some time.
            (0..3).for_each(|_| poll());
            assert_eq!(seen, notifications, "a notification that the task never saw");
            assert!(!due.0.load(Ordering::Relaxed), "the task is woken without a notification");
        });
    }

    #[test]
    fn a_notification_during_a_poll_is_seen() {
        no_notification_is_lost(2, 1);
    }

    #[test]
    fn a_notification_between_polls_is_seen() {
        no_notification_is_lost(1, 2);
    }
}
