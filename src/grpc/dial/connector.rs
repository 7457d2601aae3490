//! Sockets of the user's own making: a proxy, a pipe in a test, a virtual machine's socket.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::grpc::link::tap::BoxedIo;
use crate::primitive::{Arc, Mutex};

pub(in crate::grpc) type BoxError = Box<dyn Error + Send + Sync>;

type Connecting = Pin<Box<dyn Future<Output = Result<BoxedIo, BoxError>> + Send>>;

/// A tower service that connects, with its types forgotten.
#[derive(Clone)]
pub(crate) struct Connector(Arc<dyn Fn(Uri) -> Connecting + Send + Sync>);

impl Connector {
    pub(crate) fn new<C>(service: C) -> Self
    where
        C: Service<Uri> + Clone + Send + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        // Each attempt has a clone of its own: it must be ready before it is called.
        let service = Mutex::new(service);
        Connector(Arc::new(move |uri| {
            let mut service = service.lock().clone();
            Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                let stream = service.call(uri).await.map_err(Into::into)?;
                Ok(Box::new(stream) as BoxedIo)
            })
        }))
    }

    pub(super) fn connect(&self, uri: Uri) -> Connecting {
        (self.0)(uri)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}
