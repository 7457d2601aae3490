//! What a connection of a pool has from its pool.

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grpc::counters::Counters;
use crate::grpc::server::Server;
use crate::primitive::Arc;

/// What a connection reports to its pool. No lock of the connection is held.
pub(in crate::grpc) trait Pool: Send + Sync {
    /// The state of the member has changed, or the number of calls that it carries at once.
    fn changed(&self, member: u64);

    /// The member is shut down.
    fn shut_down(&self, member: u64);

    /// The last handle of the member has been dropped.
    fn forget(&self, member: u64);
}

#[derive(Clone)]
pub(in crate::grpc) struct Membership {
    /// The number of the connection in its pool.
    pub(in crate::grpc) id: u64,
    pub(in crate::grpc) pool: Arc<dyn Pool>,
    /// What the pool's connections have learned of their server.
    pub(in crate::grpc) server: Arc<Server>,
    pub(in crate::grpc) counters: Arc<Counters>,
    /// One permit for each socket, from its dial to its close, where the pool's sockets are limited.
    pub(in crate::grpc) sockets: Option<Arc<Semaphore>>,
}

impl Membership {
    /// A permit for one more socket; waits until a socket that is being closed is gone. Cancel safe.
    pub(super) async fn socket_permit(&self) -> Option<OwnedSemaphorePermit> {
        match &self.sockets {
            // The semaphore is never closed.
            Some(sockets) => Arc::clone(sockets).acquire_owned().await.ok(),
            None => None,
        }
    }
}
