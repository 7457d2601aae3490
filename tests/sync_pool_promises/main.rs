//! What [`SyncPool`](cenote::SyncPool)'s documentation promises: a file for each theme, a test for each promise.

mod census;
mod conservation;
mod generations;
mod guards;
mod hooks;
mod kinds;
mod limits;
mod panics;
mod reentrance;
mod thread_locals;
mod threads;
