//! Everything that the crate has for calls.

use std::task::{Context, Poll};
use std::time::Duration;

use cenote::grpc::{
    Addresses, BalancedChannel, ClientConn, ClientPool, PooledConn, ResponseBody, ResponseFuture,
    StreamChannel, StreamLease, StreamPool,
};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::calls;

/// Anything of the crate that a generated client takes.
pub(crate) enum Way {
    Conn(ClientConn),
    Pooled(PooledConn<'static>),
    Lease(StreamLease),
    Channel(StreamChannel),
    Balanced(BalancedChannel),
}

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // All of them are, always.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        match self {
            Way::Conn(conn) => conn.call(request),
            Way::Pooled(conn) => conn.call(request),
            Way::Lease(lease) => lease.call(request),
            Way::Channel(channel) => channel.call(request),
            Way::Balanced(channel) => channel.call(request),
        }
    }
}

/// What calls go through.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    /// Whether its servers do no worse than [take leave](crate::verdict::Circumstances).
    pub(crate) gentle: bool,
    pub(crate) means: Means,
}

#[derive(Clone)]
pub(crate) enum Means {
    Conn(ClientConn),
    Pool(ClientPool),
    Leases(StreamPool, Vec<String>),
    Channel(StreamChannel),
    Balanced(BalancedChannel),
    /// One that is made anew for a single call, and dropped with it.
    ShortLived(Vec<String>),
}

impl Source {
    pub(crate) fn new(name: &'static str, means: Means) -> Self {
        Source { name, gentle: false, means }
    }

    pub(crate) fn gentle(name: &'static str, means: Means) -> Self {
        Source { name, gentle: true, means }
    }

    /// A way for one call.
    pub(crate) fn way(&self, rng: &mut fastrand::Rng) -> Way {
        match &self.means {
            Means::Conn(conn) => Way::Conn(conn.clone()),
            Means::Pool(pool) => Way::Pooled(pool.get_owned()),
            Means::Leases(pool, targets) => {
                Way::Lease(pool.get(&targets[rng.usize(..targets.len())]).expect("an open pool"))
            }
            Means::Channel(channel) => Way::Channel(channel.clone()),
            Means::Balanced(channel) => Way::Balanced(channel.clone()),
            Means::ShortLived(targets) => {
                let target = &targets[rng.usize(..targets.len())];
                match rng.u32(..4) {
                    0 => Way::Conn(ClientConn::new(target).expect("a target")),
                    1 => Way::Pooled(ClientPool::new(target).expect("a target").get_owned()),
                    2 => Way::Channel(StreamPool::new().channel(target).expect("a target")),
                    _ => Way::Balanced(StreamPool::new().balance(Addresses::list(targets.clone()))),
                }
            }
        }
    }

    /// A call that must come through, the faults being over; false if it does not.
    pub(crate) async fn comes_through(&self) -> bool {
        calls::plain(self.way(&mut fastrand::Rng::new()), Duration::from_secs(1)).await.is_ok()
    }
}
