//! Where the tasks of a pool run.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::primitive::{Arc, Condvar, Mutex, Thread, park, process, thread_handle, thread_local};

/// A task of a pool: the creation, the check or the closing of an object.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the tasks of a pool. A tokio `Handle` is one with the feature `tokio`; [`Threads`] is one without a runtime.
pub trait Executor: Send + Sync + 'static {
    /// Runs the task to its end, without waiting for it. If that is impossible the task is to be dropped: the pool then
    /// tries again, or another executor.
    fn spawn(&self, task: Task);
}

#[cfg(feature = "tokio")]
impl Executor for tokio::runtime::Handle {
    fn spawn(&self, task: Task) {
        drop(tokio::runtime::Handle::spawn(self, task));
    }
}

/// The runtime of the caller.
pub(super) fn current() -> Option<Arc<dyn Executor>> {
    #[cfg(feature = "tokio")]
    {
        tokio::runtime::Handle::try_current().ok().map(|handle| Arc::new(handle) as Arc<dyn Executor>)
    }
    #[cfg(not(feature = "tokio"))]
    {
        Some(Arc::new(Threads))
    }
}

/// Runs each task on a thread, which it may block. Threads that have been idle for 10 s end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task, and have not been promised one.
    idle: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("tasks", &self.tasks.len()).field("idle", &self.idle).finish()
    }
}

const LINGER: Duration = Duration::from_secs(10);

fn threads() -> Arc<Shared> {
    static SHARED: process::PerProcess<Shared> = process::PerProcess::new();
    SHARED.get(|| Shared {
        state: Mutex::new(State { tasks: VecDeque::new(), idle: 0 }),
        changed: Condvar::new(),
    })
}

impl Executor for Threads {
    fn spawn(&self, task: Task) {
        let shared = threads();
        let mut state = shared.state.lock();
        if state.idle > 0 {
            state.idle -= 1;
            state.tasks.push_back(task);
            drop(state);
            shared.changed.notify_one();
            return;
        }
        drop(state);
        let own = Arc::clone(&shared);
        // If there is no thread to be had, the task is dropped, and the pool notices.
        drop(crate::primitive::spawn_thread("cenote-bounded", move || {
            run_task(task);
            own.run();
        }));
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            state.idle += 1;
            let task = loop {
                if let Some(task) = state.tasks.pop_front() {
                    break Some(task);
                }
                state = self.changed.wait_timeout(state, LINGER);
                if state.tasks.is_empty() {
                    state.idle -= 1;
                    break None;
                }
            };
            drop(state);
            match task {
                Some(task) => run_task(task),
                None => return,
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The waker of the current thread, which `park` waits for.
fn thread_waker() -> Waker {
    thread_local!(static WAKER: Waker = Waker::from(Arc::new(Unpark(thread_handle()))));
    WAKER.try_with(Waker::clone).unwrap_or_else(|_| Waker::from(Arc::new(Unpark(thread_handle()))))
}

/// Polls the future on this thread until it is ready.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => park(),
        }
    }
}

/// A panic of the task ends here: its guard has noticed.
fn run_task(task: Task) {
    let _ = catch_unwind(AssertUnwindSafe(|| block_on(task)));
}
