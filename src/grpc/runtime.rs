//! What a tokio runtime must have for a dial to run on it.
//!
//! tokio cannot be asked whether a runtime has timers or I/O; it panics where they are used. So a panic is caught and
//! becomes an error that names what is missing. In a program that aborts on panic, the process ends there, with tokio's
//! own message, which says the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::error::{Error, RuntimeDriver};
use crate::primitive::panic_text;

/// The runtime of the caller. It has timers: without them neither a time limit nor a pause between two attempts can be kept,
/// so nothing is to be begun there.
pub(in crate::grpc) fn current() -> Result<Handle, Error> {
    let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
    // tokio looks for its timers when the future is made.
    match catch_unwind(|| drop(sleep(Duration::ZERO))) {
        Ok(()) => Ok(runtime),
        Err(_) => Err(Error::RuntimeLacks(RuntimeDriver::Time)),
    }
}

/// Runs code that may panic: tokio's, on a runtime that lacks something, or a user's. `other` makes an error of a panic that has
/// nothing to do with the runtime.
pub(in crate::grpc) async fn caught<T>(
    future: impl Future<Output = T>,
    other: impl FnOnce(String) -> Error,
) -> Result<T, Error> {
    use futures_util::FutureExt;
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
        let text = panic_text(&*panic).unwrap_or("(no text)");
        match lacking(text) {
            Some(driver) => Error::RuntimeLacks(driver),
            None => other(format!("the dial panicked: {text}")),
        }
    })
}

/// By tokio's words; a test holds them to it.
fn lacking(text: &str) -> Option<RuntimeDriver> {
    if text.contains("IO is disabled") {
        Some(RuntimeDriver::Io)
    } else if text.contains("timers are disabled") {
        Some(RuntimeDriver::Time)
    } else {
        None
    }
}
