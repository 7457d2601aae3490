//! Pools: of scratch objects that threads reuse without getting in each other's way, and of gRPC connections that know
//! whether they work.
//!
//! ```
//! use cenote::SyncPool;
//!
//! static BUFS: SyncPool<Vec<u8>> = SyncPool::with_recycle(Vec::new, |buf| {
//!     buf.clear();
//!     buf.capacity() <= 64 * 1024
//! });
//!
//! let mut buf = BUFS.get(); // one that this thread used before, or a new one
//! buf.extend_from_slice(b"hello");
//! drop(buf); // back, for the next get
//! # assert_eq!(BUFS.stats().idle, 1);
//! ```
//!
//! # Which pool do I want?
//!
//! | you need | take |
//! |---|---|
//! | scratch objects (buffers, encoders, parsers) again and again, on any thread | [`SyncPool`] |
//! | a gRPC connection for this request, never one that is known to be broken | `grpc::ClientPool`, or `grpc::get_client()` for one pool a process |
//! | one gRPC connection whose state you can see | `grpc::ClientConn` |
//! | many gRPC calls at once, to one address or many, over as few connections as they need | `grpc::StreamPool` |
//! | at most N of an expensive object (database connections, stubs), waiting for one | [`bounded::BoundedPool`] |
//! | event loops, one a thread, that stop in order | `runtime_pool::RuntimePool`, with the feature `runtime` |
//! | objects that others name by a number, and that a late worker must not confuse | [`quarantine::QuarantinePool`] |
//! | memory blocks of one size: bounded, aligned, wiped, checked, or out of a region of your own | [`block_pool::BlockPool`] |
//!
//! A [`SyncPool`] is for things that can be made again: any object in it may be dropped at any time. What must be
//! limited and closed in an orderly way, such as database connections, belongs in a [`bounded::BoundedPool`].
//!
//! # What hand-written pools cost
//!
//! A `Mutex<Vec<T>>` is a line that every thread writes to: it is fast until a second thread comes. A `thread_local!`
//! stack is fast while its objects are small, since it copies them, but what one thread frees and another needs is stranded,
//! and what an idle thread holds nobody can reach. [`SyncPool`] leaves objects where they are and keeps pointers to them, in a
//! shard for each thread; full shards spill into a depot that empty ones refill from, and aging reaches every shard.
//! A `Channel` of tonic does not expose its state, so a pool of channels cannot know which to discard.
//!
//! How the pool does it, and what proves that it is right: [`docs::internals`]. Which gRPC pool for how many servers:
//! [`docs::balancing`].
//!
//! # Features
//!
//! None is on by default; the core depends on `crossbeam-utils` and `crossbeam-epoch`, and on Unix on `libc`.
//!
//! | feature | what it adds | dependencies it brings |
//! |---|---|---|
//! | `allocator-api2` | a [`BlockPool`] is an allocator for hashbrown, and for collections of `allocator-api2` 0.2 | allocator-api2 0.2 |
//! | `allocator-api2-04` | the same for collections of `allocator-api2` 0.4 | allocator-api2 0.4 |
//! | `grpc` | the module `grpc` | tokio, tonic (no default features), hyper, h2, rustls with ring, webpki-roots |
//! | `channel` | `grpc::observe`, and `grpc` | tower, hyper-timeout, httparse; tonic's `channel`, hyper's HTTP/1 |
//! | `native-roots` | `TlsConfig::native_roots` | rustls-native-certs |
//! | `rustls` | `TlsConfig::from_rustls` | none |
//! | `service-config` | `service_config`: retries and hedging from the JSON of gRPC | serde_json |
//! | `vsock` | targets `vsock:cid:port`, on Linux | tokio-vsock |
//! | `metrics` | [`bounded`]: a pool with a name reports what it does to the `metrics` facade | metrics |
//! | `runtime` | the module `runtime_pool` | tokio, socket2 |
//! | `tokio` | [`bounded`]: a pool's tasks run on the tokio runtime that it is built in | tokio |
//! | `tracing` | events on dials, states, discards and leaked leases | tracing |
//!
//! # Drop, cancellation, close
//!
//! Guards put back on drop. Only the gets of `bounded` wait, and one that is dropped loses
//! nothing. Calls on connections are canceled by dropping them. A pool that is dropped
//! drops what it holds; what is out stays with its holders.

#![cfg_attr(docsrs, feature(doc_cfg))]
// The README's examples are run with the others.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod aging;
pub mod block_pool;
pub mod bounded;
pub mod docs;
mod local;
mod primitive;
pub mod quarantine;
mod stats;
#[cfg(not(cenote_loom))]
mod sync_pool;

#[cfg(not(cenote_loom))]
pub use self::aging::{Ageable, Ager, AgerConfig};
pub use self::block_pool::{BlockPool, PoolBox};
#[cfg(not(cenote_loom))]
pub use self::quarantine::QuarantinePool;
pub use self::stats::Stats;
#[cfg(not(cenote_loom))]
pub use self::sync_pool::{Drain, OwnedPooled, PoolConfig, Pooled, SyncPool};

#[cfg(all(feature = "runtime", not(cenote_loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "runtime")))]
pub mod runtime_pool;
#[cfg(all(feature = "runtime", not(cenote_loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "runtime")))]
pub use self::runtime_pool::RuntimePool;

#[cfg(all(feature = "grpc", not(cenote_loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "grpc")))]
pub mod grpc;
