//! Objects under watch: how many were made, how many were dropped, and whether two hands ever hold the same one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Where the objects of one test are registered.
#[derive(Debug, Default)]
pub(crate) struct Census {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

/// An object that is registered for life.
#[derive(Debug)]
pub(crate) struct Counted<'c> {
    census: &'c Census,
    held: AtomicBool,
    pub(crate) mood: Mood,
}

/// How an object behaves when it comes back, or goes. The hooks that heed it are those of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Calm,
    /// Not to be kept.
    Unwanted,
    /// Panics when it is dropped.
    Explosive,
}

impl Census {
    pub(crate) const fn new() -> Self {
        Census { made: AtomicUsize::new(0), dropped: AtomicUsize::new(0) }
    }

    pub(crate) fn object(&self) -> Counted<'_> {
        self.moody(Mood::Calm)
    }

    pub(crate) fn moody(&self, mood: Mood) -> Counted<'_> {
        self.made.fetch_add(1, Relaxed);
        Counted { census: self, held: AtomicBool::new(false), mood }
    }

    pub(crate) fn made(&self) -> usize {
        self.made.load(Relaxed)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Relaxed)
    }

    /// Made and not dropped. An object that is dropped twice makes this wrong, or underflow.
    pub(crate) fn alive(&self) -> usize {
        self.made() - self.dropped()
    }
}

impl Counted<'_> {
    /// Called by whoever takes an object.
    pub(crate) fn hold(&self) {
        assert!(!self.held.swap(true, Relaxed), "handed out while somebody holds it");
    }

    /// Called before the object is given back or dropped.
    pub(crate) fn let_go(&self) {
        assert!(self.held.swap(false, Relaxed), "nobody held it");
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.census.dropped.fetch_add(1, Relaxed);
        if thread::panicking() {
            return;
        }
        assert!(!*self.held.get_mut(), "dropped under its holder's hands");
        assert!(self.mood != Mood::Explosive, "the object explodes");
    }
}

/// Runs `f`, and fails where a lock that is never released would leave a test hanging.
pub(crate) fn finishes<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, finished) = mpsc::channel();
    let runner = thread::spawn(move || done.send(f()).ok());
    match finished.recv_timeout(Duration::from_secs(20)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("still waiting: a lock is held across a caller's code")
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => match runner.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("it sends unless it panics"),
        },
    }
}
