//! Event loops, one a thread: single-threaded tokio runtimes that stop in order.
//!
//! ```
//! use std::rc::Rc;
//! use std::time::Duration;
//! use cenote::runtime_pool::RuntimePool;
//!
//! let pool = RuntimePool::new(2)?;
//! let sum = pool.spawn(async { 1 + 2 })?;
//! // What is not `Send` is made on its loop, and stays there.
//! let count = pool.at(0).expect("there are two").spawn_local(|| async {
//!     let shared = Rc::new(5);
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//!     *shared
//! })?;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! assert_eq!((sum.await?, count.await?), (3, 5));
//! # Ok::<_, cenote::runtime_pool::TaskError>(())
//! # })?;
//! let report = pool.stop(Duration::from_secs(5))?;
//! assert_eq!((report.joined.len(), report.finished, report.dropped), (2, 2, 0));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//!
//! * Each accepted task either runs to its end or is dropped on its own loop, before `stop` returns (unless it holds its loop up
//!   beyond the deadline, which the report says). After that a spawn gives the future back, in an error.
//! * A [`JoinHandle`] ends with its task, however that ends.
//! * A task that panics ends alone. A loop whose thread ends by a panic (of a hook, or of a drop) is reported, and
//!   [`next`](RuntimePool::next) passes it over.
//! * Of the connections that [`serve_tcp`](RuntimePool::serve_tcp) accepts, each comes to one loop. One that waits to be accepted
//!   is not reset when the loop of its listener leaves: another takes the listener over. Connections that a loop has are
//!   tasks: [`drain_loop`](RuntimePool::drain_loop) lets them end before [`stop_loop`](RuntimePool::stop_loop) drops them.
//!
//! # Drop, cancellation, stop
//!
//! The drop of a `JoinHandle` leaves its task alone. The drop of the pool's last handle stops it, and waits for the threads as long
//! as [`drop_patience`](Builder::drop_patience) says; in a task of its own it only tells the loops to stop. `stop` and `drain`
//! block, and are an error on a loop of the pool. In async code elsewhere call them in `spawn_blocking`.
//!
//! # When not to use it
//!
//! A multi-threaded runtime balances its load by itself, and most servers are best served by one: measured with an echo server
//! (`cargo run --release -p cenote-benches --bin loops`), loops do as many requests a second, give or take 5 %, and with few
//! connections their p99 is longer (1.2 ms beside 0.2 with ten), since no other thread helps a loop out. Loops are for state
//! that is not `Send`, for data that stays on its core, and for stopping one part of a program in order while the rest goes on.

mod door;
mod event_loop;
mod pool;
mod serve;
mod task;

pub use self::pool::{
    BuildError, Builder, DrainReport, LoopHandle, OnOwnLoop, Pinning, RuntimePool, StopReport, Stopped,
};
pub use self::serve::{Deal, Serving};
pub use self::task::{JoinHandle, Panic, TaskError};
