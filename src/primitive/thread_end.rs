//! May this thread still be given a shard?
//!
//! `thread_local` gives each thread a number on its first visit and takes it back in a thread-local destructor of
//! its own. A destructor that runs after that one, and then asks `get_or`, panics inside `thread_local`, which in
//! a destructor means abort. A sentinel stands guard: it is registered after `thread_local`'s own
//! destructor, and thread-local destructors run in the reverse order of their registration, so it is told of the
//! thread's end first. Where a platform orders them otherwise, or the thread's very first visit comes from such a
//! late destructor, the panic is caught; `thread_local` then has numbered the dying thread for good, which wastes that one number.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// No sentinel yet.
    Unseen,
    Watched,
    /// The destructors have begun.
    Ended,
}

thread_local! {
    /// No destructor of its own, so it can be read until the end.
    static LIFE: Cell<Life> = const { Cell::new(Life::Unseen) };
    static SENTINEL: Sentinel = const { Sentinel };
}

struct Sentinel;

impl Drop for Sentinel {
    fn drop(&mut self) {
        LIFE.set(Life::Ended);
        super::thread_map::forget_all();
    }
}

/// Runs `get_or`, unless the thread is past having a shard.
#[cold]
pub(super) fn insert<R>(get_or: impl FnOnce() -> R) -> Option<R> {
    if LIFE.get() == Life::Ended {
        return None;
    }
    // Unwind safety: the only panic in here comes from `thread_local` when it numbers the thread, before it
    // has touched the map of shards.
    let shard = catch_unwind(AssertUnwindSafe(get_or)).ok()?;
    // Registers the sentinel, now that `thread_local` has registered its own guard.
    if SENTINEL.try_with(|_| ()).is_ok() {
        LIFE.set(Life::Watched);
    }
    Some(shard)
}
