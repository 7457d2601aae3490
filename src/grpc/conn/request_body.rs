//! The body of a request, with a switch that ends it when its call is over.
//!
//! hyper goes on sending a request's stream after the caller has dropped the response: for HTTP that is right, for a
//! gRPC call it is not, which is over when its response is. So the call's guard holds a [`Switch`]: when it is
//! thrown, a body that has not ended yet fails with CANCEL, and hyper resets the stream with that.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(super) struct Switch {
    thrown: AtomicBool,
    /// The task that sends the body.
    sender: AtomicWaker,
}

impl Switch {
    pub(super) fn throw(&self) {
        // Release: pairs with the Acquire below; nothing but the flag is passed on.
        self.thrown.store(true, Ordering::Release);
        self.sender.wake();
    }
}

pub(super) struct RequestBody {
    pub(super) body: Body,
    pub(super) switch: Arc<Switch>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        // Registered before the look: a throw in between wakes us.
        self.switch.sender.register(cx.waker());
        match self.switch.thrown.load(Ordering::Acquire) {
            true => Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into()))),
            false => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
