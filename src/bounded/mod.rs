//! At most N of an expensive object (a database connection, a stub), for threads and for async code.
//!
//! ```
//! use cenote::bounded::{BoundedPool, from_blocking_fn};
//!
//! # fn connect() -> std::io::Result<Vec<u8>> { Ok(Vec::new()) }
//! let pool = BoundedPool::builder(from_blocking_fn(connect)).max_size(8).build()?;
//! let mut connection = pool.get_blocking()?; // or `pool.get().await?`
//! connection.push(1);
//! drop(connection); // back, for the next caller
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//!
//! * The oldest waiter is served first, by direct handoff; a newcomer never overtakes it. A waiter that has expired, or whose
//!   future nobody polls, keeps no object from the others.
//! * Whenever a caller waits, an object is out that will come back, or a creation runs, or the next one is scheduled. A lost
//!   connection, a failed or hanging creation and a canceled caller each lead to the next attempt.
//! * The limit holds for objects, creations in flight and objects that are being closed together.
//! * No method of a manager runs in a caller's task or under a lock, `is_broken` excepted, which runs where a lease ends.
//!   A panic in any of them costs one object.
//!
//! # Cancellation, drop, close
//!
//! A get that is dropped gives up its place and loses nothing. A [`Lease`]'s drop neither blocks nor spawns, and works on any
//! thread, also after the pool's end. [`BoundedPool::close`] fails all waiters at once;
//! [`BoundedPool::drain`] waits for the leases. The drop of the last handle closes the pool.
//!
//! # After a fork
//!
//! A child closes nothing that it inherited: its leases are forgotten, and an inherited pool answers
//! [`GetError::Closed`]. It builds a pool of its own.
//!
//! # When not to use it
//!
//! For scratch objects without a limit take [`SyncPool`](crate::SyncPool): a hit there takes no lock. For gRPC calls take
//! `grpc::StreamPool` or `grpc::ClientPool`: one connection carries many calls. (For stubs that no more than N callers may use
//! at once, one each, there is `grpc::ConnManager`.)
//!
//! # Databases
//!
//! The crates `cenote-postgres`, `cenote-mysql`, `cenote-redis` and `cenote-sqlite` have managers that reset sessions for real
//! and recognize a failover. `examples/database` is a web service over each of them.
//!
//! # Moving from another pool
//!
//! | deadpool | here |
//! |---|---|
//! | `Manager::create` | [`Manager::create`], which goes on when its getter gives up |
//! | `Manager::recycle`, before a lease | [`Manager::reset`], after the last lease, and [`Manager::check`], before the next |
//! | `Timeouts { wait, create, recycle }` | [`get_timeout`](Builder::get_timeout), one total for the caller; `create_timeout`, `reset_timeout`, `check_timeout`, for the pool's tasks |
//! | `post_create`, `pre_recycle`, `post_recycle` hooks | [`after_create`](Builder::after_create), [`before_lease`](Builder::before_lease), [`after_return`](Builder::after_return) |
//! | `Object::take` | [`Lease::detach`] |
//! | `Pool::retain` | [`invalidate_all`](BoundedPool::invalidate_all), or an [`is_broken`](Manager::is_broken) that knows |
//! | `QueueMode` | [`order`](Builder::order) |
//! | `Status { waiting, available, .. }` | [`stats`](BoundedPool::stats) |
//!
//! | bb8 | here |
//! |---|---|
//! | `connect`, `is_valid`, `has_broken` | [`create`](Manager::create), [`check`](Manager::check), [`is_broken`](Manager::is_broken) |
//! | `connection_timeout` | [`get_timeout`](Builder::get_timeout) |
//! | `test_on_check_out(false)` | `check(`[`CheckWhen::Suspect`]`)` |
//! | `get_owned` | [`get`](BoundedPool::get): each lease owns its place |
//! | `min_idle`, `max_lifetime`, `idle_timeout` | the same; `min_size` counts the leased ones too |
//! | `retry_connection` | creations are always tried again, until the waiters' deadlines; [`fail_fast`](Builder::fail_fast) does not wait |
//! | `ErrorSink` | the event of the feature `tracing`, and the error's `source()` |
//!
//! | r2d2 | here |
//! |---|---|
//! | `ManageConnection` | [`BlockingManager`], and [`Blocking`] to make a manager of it |
//! | `get`, `get_timeout` | [`get_blocking`](BoundedPool::get_blocking), [`get_blocking_timeout`](BoundedPool::get_blocking_timeout); `get` in async code, on the same pool |
//! | `try_get` | [`try_get`](BoundedPool::try_get), which also starts the next creation |
//! | `build`, which waits for connections | [`build`](Builder::build), which does not: the first get waits |
//! | `CustomizeConnection` | [`after_create`](Builder::after_create) |
//! | `HandleEvent` | the feature `metrics`: see [`name`](Builder::name) |

mod alarm;
mod builder;
mod core;
#[cfg_attr(cenote_loom, path = "driver_model.rs")]
mod driver;
mod error;
mod executor;
mod lease;
mod manager;
mod meters;
mod pool;
mod shared;
mod stats;
mod time;
mod tracking;
mod waiters;

pub use self::builder::{Builder, Order};
pub use self::core::CheckWhen;
pub use self::error::{BuildError, CreateError, GetError, Phase, TimedOut};
pub use self::executor::{Executor, Task, Threads};
pub use self::lease::{InFlight, LeakReport, Lease};
pub use self::manager::{Blocking, BlockingManager, FromFn, Manager, from_blocking_fn, from_fn};
pub use self::pool::{BoundedPool, DrainReport, Get};
pub use self::stats::BoundedStats;

#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models;
