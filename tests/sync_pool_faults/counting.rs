//! The system's allocator, which counts the live bytes of the process, and the allocations of each
//! thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static IS_SLOW: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: hands everything to the system's allocator, as it came; the counters neither allocate nor
// have a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Relaxed);
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        if IS_SLOW.get() {
            thread::sleep(Duration::from_micros(20));
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that the process has allocated and not freed. Means something only in a process of its
/// own.
pub(crate) fn live() -> isize {
    LIVE.load(Relaxed)
}

/// How often the calling thread has allocated so far.
pub(crate) fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// Makes each later allocation of the calling thread take long, so that a fork most often comes in
/// the middle of one.
pub(crate) fn allocate_slowly() {
    IS_SLOW.set(true);
}
