//! What a pool does while one of its shards is locked: a get passes it by, and `Debug` shows the rest.
//!
//! No code of a caller ever runs under a shard's lock, so a test cannot hold one the plain way. But a put may have to
//! ask the allocator for room, and the allocator is ours: it stops the thread right there. That takes a test
//! binary of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cenote::SyncPool;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
}
static CAUGHT: AtomicBool = AtomicBool::new(false);
static RELEASED: AtomicBool = AtomicBool::new(false);

/// The system's, but a thread that armed itself waits in its next allocation until it is released.
struct Trap;

impl Trap {
    fn step_on(&self) {
        if ARMED.try_with(|armed| armed.replace(false)) != Ok(true) {
            return;
        }
        CAUGHT.store(true, Ordering::Release);
        while !RELEASED.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

// SAFETY: all work is the system allocator's; to wait before it changes nothing in its contract.
unsafe impl GlobalAlloc for Trap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.step_on();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.step_on();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static TRAP: Trap = Trap;

/// Opens the trap, also where the test fails.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        RELEASED.store(true, Ordering::Release);
    }
}

#[test]
fn a_shard_that_is_locked_is_passed_by() {
    static POOL: SyncPool<usize> = SyncPool::new(|| usize::MAX);

    let putter = thread::spawn(|| {
        // The shard itself, and its first few places, are allocated here.
        POOL.put(0);
        for i in 1..32 {
            ARMED.set(true);
            POOL.put(i);
            ARMED.set(false);
            if CAUGHT.load(Ordering::Relaxed) {
                return i;
            }
        }
        panic!("a put allocates nothing now: stop it in some other way");
    });
    let release = Release;
    while !CAUGHT.load(Ordering::Acquire) {
        assert!(!putter.is_finished(), "it did not step on the trap");
        thread::yield_now();
    }

    // On a thread of its own, since one that waits for the lock would wait for us to release it.
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send((POOL.try_take(), POOL.take(), format!("{POOL:?}"))).ok());
    let (idle, made, shown) =
        told.recv_timeout(Duration::from_secs(20)).expect("it waits for the locked shard");
    assert_eq!(idle, None);
    assert_eq!(made, usize::MAX);
    assert!(shown.contains("made: 1") && shown.contains("idle: 0"), "{shown}");

    drop(release);
    let last = putter.join().unwrap();
    let mut left: Vec<_> = std::iter::from_fn(|| POOL.try_take()).collect();
    left.sort_unstable();
    assert_eq!(left, Vec::from_iter(0..=last));
}
