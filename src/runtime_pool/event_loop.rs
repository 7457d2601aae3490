//! The thread of a loop.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::door::{Door, Outcome, Stage};
use crate::primitive::{Arc, affinity, thread_local};

/// What a loop's thread is made of.
pub(super) struct Loop {
    pub(super) pool: u64,
    pub(super) index: usize,
    pub(super) door: Arc<Door>,
    pub(super) hooks: Arc<Hooks>,
    /// The processor to run on, and all that the process may use.
    pub(super) pinning: Option<(usize, Arc<[usize]>)>,
}

/// Run on each loop's thread, with its index.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) on_start: Option<Box<dyn Fn(usize) + Send + Sync>>,
    pub(super) on_stop: Option<Box<dyn Fn(usize) + Send + Sync>>,
}

/// Jobs that are begun before the tasks that there are have a turn.
const BATCH: usize = 32;

/// How long a loop waits for the threads of its blocking tasks.
const BLOCKING: Duration = Duration::from_millis(100);

thread_local!(static CURRENT: Cell<Option<(u64, usize)>> = const { Cell::new(None) });

/// The pool and the index of the loop whose thread this is.
pub(super) fn current() -> Option<(u64, usize)> {
    CURRENT.try_with(Cell::get).unwrap_or(None)
}

/// Says that the thread has ended, however it does.
struct End(Arc<Door>, Outcome);

impl Drop for End {
    fn drop(&mut self) {
        self.0.advance(Stage::Stopping);
        self.0.drop_jobs();
        self.0.advance(Stage::Ended(self.1));
    }
}

impl Loop {
    /// The body of the thread. `ready` is called with whether the loop runs, and whether it was pinned.
    pub(super) fn run(self, ready: impl FnOnce(io::Result<io::Result<()>>)) {
        let Loop { pool, index, door, hooks, pinning } = self;
        CURRENT.set(Some((pool, index)));
        let mut end = End(Arc::clone(&door), Outcome::Panicked);
        let mut builder = Builder::new_current_thread();
        let mut pinned = Ok(());
        if let Some((processor, all)) = pinning {
            pinned = affinity::restrict_to(&[processor]);
            // The threads of blocking tasks would inherit the one processor.
            builder.on_thread_start(move || drop(affinity::restrict_to(&all)));
        }
        let runtime = match builder.enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                end.1 = Outcome::Stopped;
                return ready(Err(error));
            }
        };
        let tasks = LocalSet::new();
        ready(Ok(pinned));
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if let Some(hook) = &hooks.on_start {
                hook(index);
            }
            runtime.block_on(tasks.run_until(take_jobs(&door)));
        }));
        // From here on nothing is accepted, and what was accepted is dropped on this thread, inside of the runtime: a drop
        // may want its timers. A drop may also panic, which is its task's business.
        door.advance(Stage::Stopping);
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            let _inside = runtime.enter();
            door.drop_jobs();
            drop(tasks);
        }));
        let stopped = catch_unwind(AssertUnwindSafe(|| {
            if let Some(hook) = &hooks.on_stop {
                hook(index);
            }
        }));
        runtime.shutdown_timeout(BLOCKING);
        if ran.is_ok() && dropped.is_ok() && stopped.is_ok() {
            end.1 = Outcome::Stopped;
        }
    }
}

/// Begins jobs until the loop is to stop.
async fn take_jobs(door: &Arc<Door>) {
    loop {
        for _ in 0..BATCH {
            match poll_fn(|context| door.poll_job(context)).await {
                Some((job, ticket)) => job(ticket),
                None => return,
            }
        }
        // The others' turn.
        let mut has_yielded = false;
        poll_fn(|context| match std::mem::replace(&mut has_yielded, true) {
            true => Poll::Ready(()),
            false => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }
}
