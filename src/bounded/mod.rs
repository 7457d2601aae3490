//! The core of a pool of at most N expensive objects: what it holds, and which waiter is served next.
//!
//! It is under test alone, and becomes a part of the crate with the pool that is built around it. [`core`] is pure;
//! its model test holds the invariant that every waiter has an agent: something is under way, or scheduled, that will
//! serve it.

mod alarm;
mod core;
mod error;
mod stats;
mod time;
mod tracking;
mod waiters;
