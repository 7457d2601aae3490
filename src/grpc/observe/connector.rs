//! The connector that the channel is given: tonic's own, with eyes.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower_service::Service;

use super::seen::Seen;
use super::stream::Stream;
use crate::primitive::Arc;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Connector {
    http: HttpConnector,
    seen: Arc<Seen>,
}

impl Connector {
    /// As tonic makes its own, but for the local address, which an endpoint does not expose.
    pub(super) fn new(endpoint: &Endpoint, seen: Arc<Seen>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(endpoint.get_tcp_nodelay());
        http.set_keepalive(endpoint.get_tcp_keepalive());
        http.set_keepalive_interval(endpoint.get_tcp_keepalive_interval());
        http.set_keepalive_retries(endpoint.get_tcp_keepalive_retries());
        // tonic holds the whole attempt to the same time; this divides it among the addresses of a host.
        http.set_connect_timeout(endpoint.get_connect_timeout());
        Connector { http, seen }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Owned by the future from the start: one that is dropped (tonic's time is up) or fails is an attempt that failed.
        let attempt = self.seen.attempt();
        let connecting = self.http.call(uri);
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            Ok(TokioIo::new(Stream::new(socket, attempt)))
        })
    }
}

/// The channel's worker owns it, so it goes when the last handle of the channel does, or the runtime.
impl Drop for Connector {
    fn drop(&mut self) {
        self.seen.shut_down();
    }
}
