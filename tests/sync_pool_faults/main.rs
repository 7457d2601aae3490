//! Faults that users met in earlier versions of [`SyncPool`](cenote::SyncPool): a file for each
//! theme, and for each fault the sequence that showed it, with the outcome that is right.

mod aging;
mod alone;
mod counting;
mod drops;
mod first_get;
#[cfg(unix)]
mod fork;
mod large;
mod memory;
mod panics;
mod parked;
mod recipe;
mod search;
mod stats;
mod strangers;
mod thread_end;
