//! The body of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};
use tonic::Status;

use super::deadline::Deadline;
use super::framing::Framing;
use super::head::status_code;
use super::score::Score;
use crate::grpc::conn::lease::CallGuard;
use crate::grpc::error::{CallPhase, Cause, Error};
use crate::grpc::metadata::sanitize;
use crate::primitive::Arc;

/// The body of a response. It keeps its connection open: the socket closes after its end or its drop, however
/// many other handles are gone before.
///
/// Dropping it before its end cancels the call: the server sees its stream reset. The default is an empty body,
/// as tonic's interceptors need it.
#[derive(Default)]
pub struct ResponseBody {
    /// `None` when the body has ended.
    live: Option<Live>,
}

struct Live {
    body: Incoming,
    call: CallGuard,
    /// Which of the messages the frames so far have completed.
    framing: Framing,
    /// For the throttle of retries.
    score: Option<Score>,
    /// The call's deadline holds for the body, too. Boxed when the body is first waited for: most have arrived by then.
    deadline: Option<(Deadline, Option<Pin<Box<Sleep>>>)>,
}

impl ResponseBody {
    pub(super) fn new(
        body: Incoming,
        call: CallGuard,
        score: Option<Score>,
        deadline: Option<Deadline>,
    ) -> Self {
        if body.is_end_stream() {
            // The head was all, its status included.
            return ResponseBody::default();
        }
        let deadline = deadline.map(|deadline| (deadline, None));
        ResponseBody { live: Some(Live { body, call, framing: Framing::default(), score, deadline }) }
    }
}

impl Live {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let deadline_passed =
            |deadline: &Deadline| Poll::Ready(Some(Err(deadline.passed(CallPhase::Body).into())));
        // Looked at first: a body may have something ready each time.
        if let Some((deadline, _)) = &self.deadline
            && deadline.has_passed()
        {
            return deadline_passed(deadline);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(match frame {
                Some(Ok(mut frame)) => Some(self.check(&mut frame).map(|()| frame)),
                Some(Err(error)) => Some(Err(self.broke_off(Arc::new(error)))),
                // hyper takes a stream that was reset with NO_ERROR for one that has ended, and so one that a GOAWAY of that
                // code leaves out: then it is the connection that was lost.
                None if !self.body.is_end_stream() => {
                    let error: Cause = match self.call.link.end() {
                        None => Arc::new(h2::Error::from(h2::Reason::NO_ERROR)),
                        Some(end) => Arc::new(end),
                    };
                    Some(Err(self.broke_off(error)))
                }
                // Without trailers there is no status, and tonic would take the call for one that succeeded.
                None => Some(Err(Error::TruncatedResponse.into())),
            });
        }
        match &mut self.deadline {
            Some(_) if Handle::try_current().is_err() => Poll::Ready(Some(Err(Error::NoRuntime.into()))),
            Some((deadline, sleep)) => {
                let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
                ready!(sleep.as_mut().poll(cx));
                deadline_passed(deadline)
            }
            None => Poll::Pending,
        }
    }

    /// Checks a frame against those before it, and mends the status that it may carry.
    fn check(&mut self, frame: &mut Frame<Bytes>) -> Result<(), Status> {
        if let Some(data) = frame.data_ref() {
            self.framing.read(data);
        } else if let Some(trailers) = frame.trailers_mut() {
            sanitize(trailers);
            if let Some(score) = self.score.take() {
                score.count(status_code(trailers));
            }
            let is_ok = trailers.get("grpc-status").is_some_and(|status| status == "0");
            if is_ok && self.framing.is_within_message() {
                return Err(Error::TruncatedResponse.into());
            }
        }
        Ok(())
    }

    fn broke_off(&self, error: Cause) -> Status {
        if let Some(status) = self.call.ended_here() {
            return status;
        }
        self.call.tell_failure();
        let error = match &self.deadline {
            // A server whose own timer for the call has fired resets the stream.
            Some((deadline, _)) if deadline.has_passed() => deadline.passed(CallPhase::Body),
            _ => Error::interrupted(CallPhase::Body, self.call.cause_of(error)),
        };
        if let Some(score) = &self.score {
            score.count(error.code());
        }
        error.into()
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(live) = &mut self.live else { return Poll::Ready(None) };
        let frame = ready!(live.poll_frame(cx));
        let last = match &frame {
            // Behind data there are trailers yet, or it is an error that there are none.
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) | None => true,
        };
        if last {
            // Lets go of the connection now: a gRPC client that has its trailers asks no further, and may hold
            // the body for long.
            self.live = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.live.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.live.as_ref().map_or_else(|| SizeHint::with_exact(0), |live| live.body.size_hint())
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("ended", &self.live.is_none()).finish_non_exhaustive()
    }
}
