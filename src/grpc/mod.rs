//! gRPC connections that know their state, and a pool that hands out none that is broken.
//!
//! ```no_run
//! use cenote::grpc::get_client;
//! # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
//!
//! async fn handler(name: String) -> Result<String, tonic::Status> {
//!     let conn = get_client().get(); // Go: conn := GetClient().Get(); defer pool.Put(conn)
//!     let mut client = GreeterClient::new(conn); // any client that tonic generates
//!     let reply = client.say_hello(HelloRequest { name, delay_ms: 0 }).await?;
//!     Ok(reply.into_inner().message)
//! } // the client goes, and the connection is back
//! ```
//!
//! * [`ClientConn`] is a channel with grpc-go's connectivity states: it dials when needed, backs off when it cannot, and
//!   [`state()`](ClientConn::state) costs one atomic load.
//! * [`ClientPool`] looks at that state on each get and each put.
//! * [`get_client`] is one such pool for the process, made on first use.
//!
//! # Why not tonic's `Channel`
//!
//! It exposes no state; it counts as connected when its own preface is written, so a TCP listener that never says a
//! word is 'connected'; and it dials without backoff, once for each request that waits. This module drives hyper's HTTP/2
//! client itself and reads along in the frames that come in. A program with one server that is always there
//! needs no more than a `Channel`. Where it must stay, `observe` (feature `channel`) shows a part of its state.

mod authority;
mod call;
mod client_pool;
mod config;
mod conn;
mod conn_manager;
mod counters;
mod dial;
mod error;
mod global;
mod group;
mod link;
mod metadata;
#[cfg(feature = "channel")]
mod observe;
mod options;
mod retry;
mod runtime;
mod server;
mod sizing;
mod stream_pool;
mod target;
mod trace;

pub use self::authority::CallAuthority;
pub use self::call::{ResponseBody, ResponseFuture, WaitForReady};
pub use self::client_pool::{ClientPool, ClientPoolBuilder, ClientPoolStats, Discards, PooledConn};
pub use self::conn::{ClientConn, ClientConnBuilder, ConnectivityState};
pub use self::conn_manager::{ConnManager, Stub};
pub use self::dial::tls::{TlsConfig, TlsHandle};
pub use self::error::{AuthorityError, CallPhase, DialPhase, Error, HealthError, RuntimeDriver, TargetError};
pub use self::global::{AlreadyInitialized, get_client, init_client};
#[cfg(fuzzing)] // for `fuzz/`; no part of the crate
#[doc(hidden)]
pub use self::link::reading::fuzz_frame_tap;
#[cfg(feature = "channel")]
#[cfg_attr(docsrs, doc(cfg(feature = "channel")))]
pub use self::observe::{ChannelObserver, observe};
pub use self::options::{Backoff, Keepalive};
pub use self::retry::policy::{CallPolicy, HedgingPolicy, RetryPolicy};
pub use self::stream_pool::{
    AddressStats, Addresses, BalancedChannel, ConnectionStats, Overflow, StreamChannel, StreamLease,
    StreamPool, StreamPoolBuilder, StreamPoolStats,
};
