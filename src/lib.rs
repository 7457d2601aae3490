//! Pools.

mod local;
mod primitive;
mod stats;
mod sync_pool;

pub use self::stats::Stats;
pub use self::sync_pool::{OwnedPooled, Pooled, SyncPool};

#[cfg(feature = "grpc")]
#[cfg_attr(docsrs, doc(cfg(feature = "grpc")))]
pub mod grpc;
