//! Objects that are named by small handles, and recycled only when no late worker can be looking at them.
//!
//! A worker of client A runs for ten seconds. Meanwhile A disconnects, its connection object is recycled, and client B gets it.
//! Then A's worker writes into B's connection. A grace period alone does not prevent it (the worker may be slower), and neither
//! does a generation alone (the worker may have looked at it just before). A [`QuarantinePool`] has a generation, a count of
//! the users inside, and time:
//!
//! ```
//! use cenote::quarantine::{QuarantinePool, Stale};
//!
//! let pool = QuarantinePool::builder(Vec::<u8>::new).max_size(1024).reset(Vec::clear).build()?;
//!
//! let mut connection = pool.reserve()?;
//! connection.extend(b"hello");
//! let (owner, handle) = connection.publish(); // the handle goes into `epoll_data`, a table, a message
//!
//! let pin = pool.enter(handle)?; // a worker looks
//! assert_eq!(*pin, b"hello");
//! owner.release(); // the client is gone: nobody enters any more
//! assert_eq!(pool.enter(handle).unwrap_err(), Stale::InQuarantine);
//! assert_eq!(*pin, b"hello"); // and who is inside is safe
//! # drop(pin);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//!
//! * An object is reset, and its slot used again, when the grace period is over *and* nobody is inside. If somebody is still
//!   inside at the end of `max_grace`, the slot is retired: it is never used again, and reported.
//! * A handle never names another object than its own: not of another generation (which never wraps: a slot is retired
//!   before), and not of another table.
//! * A pin delays its own slot and nothing else. It may be held across an `.await`, and released within itself.
//!   [`enter_owned`](QuarantinePool::enter_owned) is for users that are no stack frame: an operation in the kernel, a blocking
//!   thread, a task.
//!
//! # Drop
//!
//! An [`Owner`]'s drop releases, a [`Reserved`]'s aborts. The drop of the last handle of the pool ends the recycler's thread, which
//! it joins. Owners and pins may outlive it; what they release then is dropped with the last of them.
//!
//! # When not to use it
//!
//! If an object can be reached only through its owner, the compiler proves all this, for nothing. If users may keep an
//! object alive for as long as they like, take an `Arc`. For memory that lock-free readers look at, take `crossbeam-epoch`: it waits
//! for all readers at once, a quarantine for those of one slot.
//!
//! The protocol of a slot is nginx's `instance` bit and the kernel's typesafe-by-RCU slabs, with a count of users in the place of
//! trust.

#[cfg(not(cenote_loom))]
mod core;
#[cfg(not(cenote_loom))]
mod error;
#[cfg(not(cenote_loom))]
mod pool;
#[cfg(not(cenote_loom))]
mod ranges;
#[cfg(not(cenote_loom))]
mod recycler;
mod slot;
#[cfg(not(cenote_loom))]
mod table;

#[cfg(not(cenote_loom))]
pub use self::error::{BuildError, Exhausted, Stale};
#[cfg(not(cenote_loom))]
pub use self::pool::{
    Builder, Handle, OwnedPin, Owner, Pin, QuarantinePool, QuarantineStats, Reserved, Retired,
};

#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models;
