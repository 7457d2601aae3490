//! Pages on the crate as a whole; there is no code in here.

pub mod balancing;
pub mod grpc_internals;
pub mod internals;
