//! What one call holds of a connection: a sender, a stream of its link, and the connection itself.

use hyper::client::conn::http2::SendRequest;
use tonic::Status;

use super::shared::Shared;
use super::state::ConnectivityState;
use crate::grpc::error::{Cause, Error, is_end_of_socket};
use crate::grpc::link::request_body::{CallBody, RequestBody};
use crate::grpc::link::{Link, Observer};
use crate::primitive::Arc;

/// Why a link is given up whose driver is not polled.
pub(in crate::grpc) const RESTS: &str = "the runtime that drives the connection does not run";

/// A transport with one call counted on it.
pub(in crate::grpc) struct Lease {
    pub(in crate::grpc) send: SendRequest<RequestBody>,
    pub(in crate::grpc) call: CallGuard,
}

impl Lease {
    /// Held until the call is over, the response's body included.
    pub(in crate::grpc) fn hold(&mut self, ticket: Arc<dyn Ticket>) {
        self.call.ticket = Some(ticket);
    }
}

/// What a pool gives a call to hold.
pub(in crate::grpc) trait Ticket: Send + Sync {
    /// The connection broke the call off.
    fn failed(&self);
}

/// One call on a link, or one that waits for a slot of it. It also is a handle of the connection: what it belongs to stays
/// open.
pub(in crate::grpc) struct CallGuard {
    pub(in crate::grpc) owner: Arc<Shared>,
    pub(in crate::grpc) link: Arc<Link>,
    /// Whether it has one of the link's slots.
    has_slot: bool,
    /// Whether the caller's runtime drives the link; `None` until that is looked at.
    is_here: Option<bool>,
    /// Of the attempt that this is, once there is one: ends with the call, if it is still being sent.
    pub(in crate::grpc) body: Option<Arc<CallBody>>,
    ticket: Option<Arc<dyn Ticket>>,
}

impl CallGuard {
    /// After [`Link::begin_call`].
    pub(super) fn new(owner: Arc<Shared>, link: Arc<Link>) -> Self {
        CallGuard { owner, link, has_slot: false, is_here: None, body: None, ticket: None }
    }

    /// Why the call broke off, if the reason is on this side: the connection was closed, and the call with it, or the request's
    /// own messages failed.
    pub(in crate::grpc) fn ended_here(&self) -> Option<Status> {
        if self.owner.state() == ConnectivityState::Shutdown && self.link.is_killed() {
            return Some(Error::Closed.into());
        }
        self.body.as_ref()?.failure()
    }

    /// Why the call broke off: where HTTP/2 knows only that the socket ended, what the link knows of the reason.
    pub(in crate::grpc) fn cause_of(&self, error: Cause) -> Cause {
        match self.link.end() {
            Some(end) if is_end_of_socket(&*error) => Arc::new(end),
            _ => error,
        }
    }

    /// hyper gave a request back: it knows before the tap does that this link takes no more of them.
    pub(in crate::grpc) fn gave_back(&self) {
        self.owner.link_down(self.link.id, "hyper gave a request back");
    }

    /// Whether the caller's runtime drives the link.
    pub(in crate::grpc) fn is_here(&mut self) -> bool {
        *self.is_here.get_or_insert_with(|| self.link.is_driven_here())
    }

    /// The driver of the link is not polled.
    pub(in crate::grpc) fn rests(&self) {
        self.link.give_up();
        self.owner.link_down(self.link.id, RESTS);
    }

    pub(in crate::grpc) fn tell_failure(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.failed();
        }
    }

    pub(super) fn has_slot(&self) -> bool {
        self.has_slot
    }

    /// A slot, if one is free and no other call waits for it.
    pub(super) fn try_take_slot(&mut self) -> bool {
        self.has_slot = self.link.slots.try_take();
        self.has_slot
    }

    /// Waits for a slot, in order. False: the link is no longer the connection's current one. Cancel safe.
    pub(super) async fn take_slot(&mut self) -> bool {
        self.has_slot = self.link.slots.try_take() || self.wait_for_slot().await;
        self.has_slot
    }

    async fn wait_for_slot(&self) -> bool {
        let mut updates = self.owner.updates();
        let slot = self.link.slots.take();
        tokio::pin!(slot);
        // Looked at after the subscription: no change is missed.
        while self.owner.takes_calls_on(&self.link) {
            tokio::select! {
                biased;
                () = &mut slot => return true,
                // The sender is in `owner`: no error.
                _ = updates.changed() => {}
            }
        }
        false
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            body.end_attempt();
        }
        if self.has_slot {
            self.link.slots.give_back();
        }
        self.link.end_call();
    }
}
