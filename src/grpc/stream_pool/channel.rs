//! [`StreamChannel`]: a whole address as a service, a connection a request.

use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::StreamPool;
use super::lease::LeaseSource;
use crate::grpc::call::{ResponseBody, ResponseFuture, Source};
use crate::grpc::config::{Rules, Settings};
use crate::grpc::conn::lease::Lease;
use crate::grpc::error::Error;
use crate::primitive::Arc;

/// A whole address as one service for tonic's generated clients: each request gets a stream of its own, on whichever
/// connection is best. For a client that lives long.
///
/// Clones are cheap. It keeps nothing open by itself, and holds the pool.
#[derive(Clone)]
pub struct StreamChannel {
    pool: StreamPool,
    address: Arc<str>,
}

impl StreamChannel {
    pub(super) fn new(pool: StreamPool, address: Arc<str>) -> Self {
        StreamChannel { pool, address }
    }

    /// The address, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Debug for StreamChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamChannel").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Always ready: see [`StreamLease`](super::StreamLease).
impl Service<Request<Body>> for StreamChannel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let found = self.pool.find(&self.address);
        match found {
            Ok(address) => ResponseFuture::new(LeaseSource::new(address), request),
            Err(error) => ResponseFuture::new(Failing(error), request),
        }
    }
}

/// The source of calls that fail.
struct Failing(Error);

impl Source for Failing {
    fn rules(&self) -> Result<Rules<'_>, Error> {
        Err(self.0.clone())
    }

    fn fork(&mut self) -> Self {
        Failing(self.0.clone())
    }

    async fn lease(&mut self, _: bool) -> Result<(Lease, Arc<Settings>), Error> {
        Err(self.0.clone())
    }
}
