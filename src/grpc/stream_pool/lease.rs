//! [`StreamLease`]: one stream of an address.

use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::address::{Address, Got};
use super::member::Slot;
use super::waiter::Pending;
use crate::grpc::call::{ResponseBody, ResponseFuture, Source};
use crate::grpc::config::{Rules, Settings};
use crate::grpc::conn::lease::Lease;
use crate::grpc::error::{DialPhase, Error};
use crate::primitive::Arc;

/// How often one attempt gets a connection that is lost before it is used.
const MAX_LOST: usize = 4;

/// One stream of an address, out of a [`StreamPool`](super::StreamPool): a service for tonic's generated clients.
///
/// It counts as one stream of its connection until it is dropped and the calls that it started, response bodies included, are
/// over. It is meant for one call, or for one after another: calls side by side count as one, and share the connection's
/// limit with others at the last gate, the connection itself.
///
/// If its connection is lost between two calls, or could not be established for the first, the lease gets another stream for
/// the next, in its place.
#[must_use = "the stream goes back to the pool at once if the lease is not held"]
pub struct StreamLease {
    hold: Hold,
}

/// A stream, or a place in the queue.
enum Hold {
    /// Until the first call, which shares it.
    Own(Slot),
    Shared(Arc<Slot>),
    Pending(Arc<Pending>),
}

impl StreamLease {
    #[inline]
    pub(super) fn new(got: Got) -> Self {
        let hold = match got {
            Got::Slot(slot) => Hold::Own(slot),
            Got::Pending(pending) => Hold::Pending(Arc::new(pending)),
        };
        StreamLease { hold }
    }

    /// Waits until it has its stream: at once, unless all were taken or no connection is up yet. A call waits by
    /// itself; this is for callers that want to know before.
    ///
    /// Cancel safe: the place in the queue stays.
    ///
    /// # Errors
    ///
    /// What a call would fail with: [`Error::Dial`], [`Error::Closed`] or [`Error::NoRuntime`]. The first two stay until a call
    /// asks for another stream.
    pub async fn granted(&self) -> Result<(), Error> {
        match &self.hold {
            Hold::Pending(pending) => pending.granted().await.map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Whether it has its stream.
    pub fn is_granted(&self) -> bool {
        match &self.hold {
            Hold::Pending(pending) => pending.slot().is_some(),
            _ => true,
        }
    }

    /// The address, as it was given.
    pub fn address(&self) -> &str {
        &self.whose().name
    }

    fn whose(&self) -> &Arc<Address> {
        match &self.hold {
            Hold::Own(slot) => &slot.member().address,
            Hold::Shared(slot) => &slot.member().address,
            Hold::Pending(pending) => pending.address(),
        }
    }

    fn is_lost(&self) -> bool {
        match &self.hold {
            Hold::Own(slot) => slot.is_lost(),
            Hold::Shared(slot) => slot.is_lost(),
            Hold::Pending(pending) => pending.is_lost(),
        }
    }

    fn source(&mut self) -> LeaseSource {
        let address = Arc::clone(self.whose());
        if self.is_lost() {
            match address.get() {
                Ok(got) => *self = StreamLease::new(got),
                // The call meets the error itself.
                Err(_) => return LeaseSource::new(address),
            }
        }
        let first = match &mut self.hold {
            Hold::Own(slot) => {
                let shared = Arc::new(slot.hand_over());
                self.hold = Hold::Shared(Arc::clone(&shared));
                First::Slot(shared)
            }
            Hold::Shared(slot) => First::Slot(Arc::clone(slot)),
            Hold::Pending(pending) => First::Pending(Arc::clone(pending)),
        };
        LeaseSource { address, first }
    }
}

impl fmt::Debug for StreamLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLease")
            .field("address", &self.address())
            .field("granted", &self.is_granted())
            .finish()
    }
}

/// Always ready: what a call must wait for is in its future, because only there its deadline is known.
/// [`granted`](StreamLease::granted) waits without a call.
impl Service<Request<Body>> for StreamLease {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture::new(self.source(), request)
    }
}

/// One attempt's way to a connection of an address: with the stream that there is, or one of its own.
pub(super) struct LeaseSource {
    address: Arc<Address>,
    first: First,
}

enum First {
    Slot(Arc<Slot>),
    Pending(Arc<Pending>),
    None,
}

impl LeaseSource {
    pub(super) fn new(address: Arc<Address>) -> Self {
        LeaseSource { address, first: First::None }
    }
}

impl Source for LeaseSource {
    fn rules(&self) -> Result<Rules<'_>, Error> {
        Ok(self.address.settings.rules())
    }

    fn fork(&mut self) -> Self {
        LeaseSource::new(Arc::clone(&self.address))
    }

    async fn lease(&mut self, wait_for_ready: bool) -> Result<(Lease, Arc<Settings>), Error> {
        let mut lost = 0;
        loop {
            let slot = match std::mem::replace(&mut self.first, First::None) {
                First::Slot(slot) => Ok(slot),
                First::Pending(pending) => pending.granted().await,
                First::None => match self.address.get()? {
                    Got::Slot(slot) => Ok(Arc::new(slot)),
                    Got::Pending(pending) => pending.granted().await,
                },
            };
            let slot = match slot {
                Ok(slot) => slot,
                // It would dial again; the gate paces those that follow.
                Err(Error::Dial { .. } | Error::NotServing { .. }) if wait_for_ready => continue,
                Err(error) => return Err(error),
            };
            if let Some(lease) = slot.lease(wait_for_ready).await? {
                return Ok((lease, Arc::clone(&self.address.settings)));
            }
            lost += 1;
            if lost >= MAX_LOST && !wait_for_ready {
                let text = "the connection was lost before it could be used, each time";
                let shared = &slot.member().conn.shared;
                return Err(shared.dial_error(DialPhase::Connect, std::io::Error::other(text)));
            }
        }
    }
}
