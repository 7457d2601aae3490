//! gRPC connections that know their state, and pools of them.

mod client_pool;
mod config;
mod conn;
mod error;
mod global;
mod group;
mod target;
mod trace;

pub use self::client_pool::{ClientPool, ClientPoolBuilder, ClientPoolStats, Discards, PooledConn};
pub use self::config::{Backoff, Keepalive};
pub use self::conn::tls::TlsConfig;
pub use self::conn::{ClientConn, ClientConnBuilder, ConnectivityState, ResponseBody, ResponseFuture};
pub use self::error::{CallPhase, DialPhase, Error, TargetError};
pub use self::global::{AlreadyInitialized, get_client, init_client};
