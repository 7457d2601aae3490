//! What happens to callers when their server goes away and comes back.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::{PASSWORD, Server};

/// An error with all its causes, as text and as debug output.
pub fn whole_text(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Has 50 tasks ask again and again, kills the server for a second, and starts it again.
///
/// # Panics
///
/// If an answer takes 10 s, if a task is never served, if no task notices, or if an error contains the password.
pub async fn restart_under_load<R>(mut server: Server, ask: impl Fn() -> R + Clone + Send + 'static) -> Server
where
    R: Future<Output = Result<(), String>> + Send,
{
    let deadline = Instant::now() + Duration::from_secs(4);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let ask = ask.clone();
            tokio::spawn(async move {
                let (mut done, mut failed) = (0_u32, 0_u32);
                while Instant::now() < deadline {
                    match timeout(Duration::from_secs(10), ask()).await.expect("no caller is stuck") {
                        Ok(()) => done += 1,
                        Err(text) => {
                            assert!(!text.contains(PASSWORD), "{text}");
                            failed += 1;
                            sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
                (done, failed)
            })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    let restarted = spawn_blocking(move || {
        server.kill();
        std::thread::sleep(Duration::from_secs(1));
        server.start().expect("it starts again");
        server
    });
    let server = restarted.await.expect("no panic");
    let mut all_failed = 0;
    for task in tasks {
        let (done, failed) = task.await.expect("no panic");
        assert!(done > 0, "a task was never served");
        all_failed += failed;
    }
    assert!(all_failed > 0, "nobody noticed that the server was gone");
    server
}
