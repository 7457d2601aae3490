//! A task of a loop, and who waits for it.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::door::Ticket;
use crate::primitive::{Mutex, panic_text};

/// Waits for a task of a [`RuntimePool`](super::RuntimePool). Its drop leaves the task alone.
#[derive(Debug)]
pub struct JoinHandle<T>(oneshot::Receiver<Result<T, TaskError>>);

/// Why a task has no result.
pub enum TaskError {
    /// Its loop stopped before its end, and dropped it.
    Dropped,
    /// It panicked.
    Panicked(Panic),
}

/// What a task panicked with.
pub struct Panic(Mutex<Option<Box<dyn Any + Send>>>);

impl Panic {
    /// The payload, for [`std::panic::resume_unwind`]; `None` the second time.
    pub fn take(&self) -> Option<Box<dyn Any + Send>> {
        self.0.lock().take()
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.0.lock().as_ref().and_then(|panic| panic_text(&**panic))).finish()
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Dropped => f.write_str("Dropped"),
            TaskError::Panicked(panic) => panic.fmt(f),
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Dropped => f.write_str("the task was dropped: its loop has stopped"),
            TaskError::Panicked(Panic(panic)) => {
                match panic.lock().as_ref().and_then(|panic| panic_text(&**panic)) {
                    Some(text) => write!(f, "the task panicked: {text}"),
                    None => f.write_str("the task panicked"),
                }
            }
        }
    }
}

impl Error for TaskError {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The sender is gone with the future.
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(TaskError::Dropped)))
    }
}

/// The two ends of a task: who waits for it, and what its future reports to.
pub(super) struct Reporter<T>(oneshot::Sender<Result<T, TaskError>>);

pub(super) fn pair<T>() -> (Reporter<T>, JoinHandle<T>) {
    let (sender, receiver) = oneshot::channel();
    (Reporter(sender), JoinHandle(receiver))
}

impl<T> Reporter<T> {
    fn panicked(self, panic: Box<dyn Any + Send>) {
        let _ = self.0.send(Err(TaskError::Panicked(Panic(Mutex::new(Some(panic))))));
    }

    /// Makes the future and runs it. A panic ends the task alone.
    pub(super) async fn run<F: Future<Output = T>>(self, make: impl FnOnce() -> F, ticket: Ticket) {
        let future = match catch_unwind(AssertUnwindSafe(make)) {
            Ok(future) => future,
            Err(panic) => {
                ticket.finish();
                return self.panicked(panic);
            }
        };
        let result = {
            let mut future = pin!(future);
            poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
                Err(panic) => Poll::Ready(Err(panic)),
            })
            .await
        };
        // The future is gone now, and counted: whoever waits may rely on both.
        ticket.finish();
        match result {
            Ok(value) => drop(self.0.send(Ok(value))),
            Err(panic) => self.panicked(panic),
        }
    }
}
