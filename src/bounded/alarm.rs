//! The end of a time limit: the driver rings it, and the task that it is for drops what took too long.

use std::task::Waker;

use crate::primitive::Mutex;

#[derive(Debug)]
pub(super) struct Alarm {
    /// Whether it limits a creation.
    pub(super) is_of_creation: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Armed(Option<Waker>),
    Rung,
}

impl Alarm {
    pub(super) fn new(is_of_creation: bool) -> Self {
        Alarm { is_of_creation, state: Mutex::new(State::Armed(None)) }
    }

    /// Not under the pool's lock: wakers are foreign code.
    pub(super) fn ring(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Rung);
        if let State::Armed(Some(waker)) = before {
            waker.wake();
        }
    }

    /// Whether it has rung; if not, `waker` is woken when it does.
    pub(super) fn has_rung(&self, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let State::Armed(kept) = &mut *state else { return true };
        let old = kept.replace(waker);
        drop(state);
        drop(old);
        false
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
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
    fn the_last_task_that_looked_is_woken_once() {
        let (alarm, wakes) = (Alarm::new(true), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(!alarm.has_rung(Waker::noop()));
        assert!(!alarm.has_rung(&waker));
        alarm.ring();
        alarm.ring();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(alarm.has_rung(&waker));
    }
}
