//! Every schedule of a few threads on the real pool: permits, handoff, cancellation, close.
//!
//! The lock, wakers and the flag of the driver are loom's; the clock stands still, and turns are taken on the thread that
//! asks for them. Objects are loom's cells: two holders at once are a fault. A waiter that nobody wakes is one too.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::executor::{Executor, Task};
use super::{BoundedPool, GetError, Lease, Manager};
use crate::primitive::{Mutex, UnsafeCell};

/// An object that only one thread may hold, and that says when it is gone.
struct Cell {
    held: UnsafeCell<u32>,
    alive: Arc<AtomicUsize>,
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Cells(Arc<AtomicUsize>);

impl Manager for Cells {
    type Object = Cell;
    type Error = Infallible;

    fn create(&self) -> impl Future<Output = Result<Cell, Infallible>> + Send {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Cell { held: UnsafeCell::new(0), alive: Arc::clone(&self.0) }))
    }

    fn close(&self, cell: Cell) -> impl Future<Output = ()> + Send {
        drop(cell);
        ready(())
    }
}

/// Runs tasks at once, where they are started: those of `Cells` never wait.
struct Inline;

impl Executor for Inline {
    fn spawn(&self, mut task: Task) {
        assert!(poll_once(task.as_mut()).is_ready());
    }
}

/// Keeps tasks until a thread of the model runs them.
#[derive(Default)]
struct Later(Mutex<Vec<Task>>);

impl Executor for Arc<Later> {
    fn spawn(&self, task: Task) {
        self.0.lock().push(task);
    }
}

impl Default for Mutex<Vec<Task>> {
    fn default() -> Self {
        Mutex::new(Vec::new())
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn pool_on(executor: impl Executor, objects: usize) -> (BoundedPool<Cells>, Arc<AtomicUsize>) {
    let alive = Arc::new(AtomicUsize::new(0));
    let builder = BoundedPool::builder(Cells(Arc::clone(&alive)));
    let builder = builder.max_size(objects).get_timeout(None).max_lifetime(None).idle_timeout(None);
    (builder.track_leases(None).executor(executor).build().unwrap(), alive)
}

/// What a caller does with its object.
fn hold(lease: &Lease<Cells>) {
    // SAFETY: the lease is the only one of its object; loom checks it.
    lease.held.with_mut(|held| unsafe { *held += 1 });
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn two_threads_share_one_object_one_after_the_other() {
    check(5, || {
        let (pool, _) = pool_on(Inline, 1);
        let other = pool.clone();
        let thread = thread::spawn(move || hold(&other.get_blocking().unwrap()));
        hold(&pool.get_blocking().unwrap());
        thread.join().unwrap();
        let lease = pool.try_get().unwrap();
        // SAFETY: as in `hold`.
        lease.held.with_mut(|held| assert_eq!(unsafe { *held }, 2));
        assert_eq!(pool.stats().size, 1);
    });
}

#[test]
fn a_grant_that_meets_its_cancellation_goes_to_the_next_waiter() {
    check(5, || {
        let (pool, _) = pool_on(Inline, 1);
        let lease = pool.get_blocking().unwrap();
        let mut first = Box::pin({
            let pool = pool.clone();
            async move { drop(pool.get().await) }
        });
        assert!(poll_once(first.as_mut()).is_pending());
        let next = pool.clone();
        let waiting = thread::spawn(move || hold(&next.get_blocking().unwrap()));
        let canceling = thread::spawn(move || drop(first));
        hold(&lease);
        drop(lease);
        waiting.join().unwrap();
        canceling.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.size, stats.idle, stats.waiting), (1, 1, 0));
    });
}

#[test]
fn close_fails_or_serves_each_waiter_and_leaves_no_object() {
    check(5, || {
        let (pool, alive) = pool_on(Inline, 1);
        let lease = pool.get_blocking().unwrap();
        let waiter = pool.clone();
        let waiting = thread::spawn(move || match waiter.get_blocking() {
            Ok(lease) => hold(&lease),
            Err(error) => assert!(matches!(error, GetError::Closed)),
        });
        let closer = pool.clone();
        let closing = thread::spawn(move || closer.close());
        hold(&lease);
        drop(lease);
        waiting.join().unwrap();
        closing.join().unwrap();
        assert_eq!(pool.stats().size, 0);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_creation_whose_getter_gives_up_serves_the_next() {
    check(5, || {
        let later = Arc::new(Later::default());
        let (pool, alive) = pool_on(Arc::clone(&later), 1);
        let mut first = Box::pin({
            let pool = pool.clone();
            async move { drop(pool.get().await) }
        });
        assert!(poll_once(first.as_mut()).is_pending());
        let task = later.0.lock().pop().expect("a creation has been started");
        let creating = thread::spawn(move || {
            let mut task = pin!(task);
            assert!(poll_once(task.as_mut()).is_ready());
        });
        let next = pool.clone();
        let waiting = thread::spawn(move || hold(&next.get_blocking().unwrap()));
        drop(first);
        creating.join().unwrap();
        waiting.join().unwrap();
        assert_eq!((pool.stats().created, alive.load(Ordering::SeqCst)), (1, 1));
    });
}

#[test]
fn a_discarded_object_is_replaced_for_the_waiter() {
    check(5, || {
        let (pool, alive) = pool_on(Inline, 1);
        let lease = pool.get_blocking().unwrap();
        let waiter = pool.clone();
        let waiting = thread::spawn(move || hold(&waiter.get_blocking().unwrap()));
        Lease::discard(lease);
        waiting.join().unwrap();
        assert_eq!((pool.stats().created, alive.load(Ordering::SeqCst)), (2, 1));
    });
}
