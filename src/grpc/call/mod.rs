//! A request's way in: from the request that tonic's generated client hands over to the end of the response's body.
//!
//! * The loop in this file leases a connection from a [`Source`], sends the request, and asks the [`verdict`] when that fails:
//!   it is sent again when it is certain that no server has processed it.
//! * [`head`] and [`deadline`] are what the loop reads and writes of heads; [`response_body`] is what the caller gets, whose
//!   messages [`framing`] follows.

mod deadline;
mod framing;
mod head;
mod response_body;
mod verdict;

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, Response};
use tokio::task::coop::consume_budget;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use self::deadline::{Deadline, within};
use self::head::{KeptHead, ResponseKind, kind_of};
pub use self::response_body::ResponseBody;
use self::verdict::{Attempts, Reached, Verdict};
use super::config::{Settings, Tuning};
use super::conn::ClientConn;
use super::conn::lease::{CallGuard, Lease, RESTS};
use super::error::{CallPhase, Cause, Error, is_not_processed};
use super::link::UNDRIVEN;
use super::link::request_body::{CallBody, RequestBody};
use super::runtime;
use crate::primitive::Arc;

/// In a request's extensions: whether the call waits while the connection cannot be established, instead of failing with
/// the reason. gRPC's `wait_for_ready`. Takes precedence over the builder's option.
///
/// ```
/// # use cenote::grpc::WaitForReady;
/// # use cenote_proto::HelloRequest;
/// let mut request = tonic::Request::new(HelloRequest { name: "ada".into(), delay_ms: 0 });
/// request.set_timeout(std::time::Duration::from_secs(30)); // it waits no longer than this
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
///
/// Such a call ends with its deadline, with the close of the connection, or when a pool discards the connection that it
/// waits on, because nobody but the pool and calls has a hold of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// A call under way; what [`ClientConn`] returns as a tower `Service`.
///
/// Dropping it cancels the call: the server sees its stream reset.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// The service that tonic's generated clients are built on. Always ready: what a call must wait for, and what can
/// fail, is in its future.
impl Service<Request<Body>> for ClientConn {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture::new(self.clone(), request)
    }
}

/// Where a call gets its connection from, for each attempt to send it.
pub(in crate::grpc) trait Source: Send + Sync {
    /// What holds for the calls of this source.
    fn tuning(&self) -> Result<&Tuning, Error>;

    /// A connection with room for one more stream, and what the request must be made to fit. Cancel safe.
    fn lease(
        &mut self,
        wait_for_ready: bool,
    ) -> impl Future<Output = Result<(Lease, Arc<Settings>), Error>> + Send;
}

impl Source for ClientConn {
    fn tuning(&self) -> Result<&Tuning, Error> {
        self.shared.settings.as_ref().map(|settings| &settings.tuning).map_err(Error::clone)
    }

    async fn lease(&mut self, wait_for_ready: bool) -> Result<(Lease, Arc<Settings>), Error> {
        let settings = self.shared.settings.as_ref().map_err(Error::clone)?;
        Ok((self.shared.lease(wait_for_ready).await?, Arc::clone(settings)))
    }
}

impl ResponseFuture {
    /// The call, to the end of the response's head.
    pub(in crate::grpc) fn new(source: impl Source + 'static, request: Request<Body>) -> Self {
        ResponseFuture(Box::pin(call(source, request)))
    }
}

/// The answer; `None` if the link's driver, which is on another runtime, has not been polled for [`UNDRIVEN`], and the request
/// could be taken back.
async fn unless_it_rests<T>(
    mut answer: Pin<&mut (impl Future<Output = T> + Send)>,
    call: &CallGuard,
    body: &CallBody,
) -> Option<T> {
    // Where there are no timers nobody looks.
    while !body.has_stream() && runtime::current().is_ok() {
        tokio::select! {
            biased;
            answer = answer.as_mut() => return Some(answer),
            () = tokio::time::sleep(UNDRIVEN) => {}
        }
        if call.link.is_undriven() && body.withdraw() {
            return None;
        }
    }
    Some(answer.await)
}

/// What a call has to send, and where it stands with it.
struct Outgoing {
    wait_for_ready: bool,
    path: Option<PathAndQuery>,
    own_agent: Option<HeaderValue>,
    /// For another attempt.
    kept: Option<KeptHead>,
    body: Arc<CallBody>,
    /// For the next attempt; taken by each.
    request: Option<Request<RequestBody>>,
    attempts: Attempts,
}

impl Outgoing {
    fn new(tuning: &Tuning, mut request: Request<Body>) -> Self {
        let own = request.extensions_mut().remove::<WaitForReady>();
        let WaitForReady(wait_for_ready) = own.unwrap_or(WaitForReady(tuning.wait_for_ready));
        let limit = tuning.resend_buffer;
        let (mut head, body) = request.into_parts();
        let path = std::mem::take(&mut head.uri).into_parts().path_and_query;
        let own_agent = head.headers.get(USER_AGENT).cloned();
        let kept = (limit > 0).then(|| KeptHead::new(&head));
        let (body, first) = CallBody::new(body, limit);
        let request = Some(Request::from_parts(head, first));
        Outgoing { wait_for_ready, path, own_agent, kept, body, request, attempts: Attempts::default() }
    }
}

/// Sends the request on a connection, and again when it is certain that it was not processed: it came back unsent, the server
/// refused it, or its GOAWAY did not cover it.
///
/// One function, and a deadline for each of its two waits instead of one around all. What is sent stays in one place from
/// before the first poll: a future holds its arguments beside what it makes of them, and this one is moved into its box
/// for each call.
fn call<S: Source>(
    mut source: S,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send {
    let headers = request.headers();
    // Read before the head is taken apart; the clock begins with the first poll.
    let timeout = deadline::grpc_timeout(headers);
    let mut outgoing = source.tuning().map(|tuning| Outgoing::new(tuning, request));
    async move {
        let Outgoing { wait_for_ready, path, own_agent, kept, body, request: next, attempts } =
            outgoing.as_mut().map_err(|error| error.clone())?;
        let deadline = Deadline::after(timeout)?;
        loop {
            let leased = within(deadline, CallPhase::Connect, pin!(source.lease(*wait_for_ready))).await?;
            let (Lease { mut send, mut call }, settings) = match leased {
                Ok(leased) => leased,
                Err(error) => {
                    // A caller that calls in a loop while calls fail at once lets the dial have its turn, too.
                    consume_budget().await;
                    return Err(error.into());
                }
            };
            // Each round that goes on has put one there.
            let Some(mut request) = next.take() else {
                return Err(Status::internal("there is no request to send"));
            };
            settings.address(&mut request, path.clone(), own_agent.as_ref());
            if let Some(deadline) = deadline {
                deadline.tell_what_is_left(request.headers_mut());
            }
            request.body_mut().goes_on(&call.link);
            call.body = Some(Arc::clone(body));
            let answer = pin!(send.try_send_request(request));
            let answered = match call.is_here() {
                true => Some(within(deadline, CallPhase::Response, answer).await?),
                false => {
                    let answer = pin!(Box::pin(unless_it_rests(answer, &call, body)));
                    within(deadline, CallPhase::Response, answer).await?
                }
            };
            let Some(answered) = answered else {
                call.rests();
                drop(call);
                let error: Cause = Arc::new(std::io::Error::other(RESTS));
                let again = kept.as_ref().map(KeptHead::again).zip(body.begin_attempt());
                *next = match (attempts.failed(Reached::Nothing, again.is_some(), false), again) {
                    (Verdict::Again, Some((head, body))) => Some(Request::from_parts(head, body)),
                    _ => return Err(Error::NotProcessed { source: error }.into()),
                };
                continue;
            };
            let mut error = match answered {
                Ok(mut response) => {
                    body.settle();
                    return match kind_of(&mut response) {
                        ResponseKind::Grpc => {
                            Ok(response.map(|body| ResponseBody::new(body, call, deadline)))
                        }
                        ResponseKind::Other(error) => Err(error.into()),
                    };
                }
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            if let Some(status) = call.ended_here() {
                return Err(status);
            }
            let is_unsent = unsent.is_some();
            let reached = match is_not_processed(&error) {
                _ if is_unsent => Reached::Nothing,
                true => Reached::Server,
                // hyper drops what it has taken and not sent when the connection ends, or takes no more.
                false if body.has_not_left(&call.link) => Reached::Nothing,
                false => Reached::Application,
            };
            if is_unsent {
                call.gave_back();
            }
            let head = unsent
                .map_or_else(|| kept.as_ref().map(KeptHead::again), |unsent| Some(unsent.into_parts().0));
            let error = call.cause_of(Arc::new(error));
            if reached == Reached::Application {
                call.tell_failure();
            }
            // Ends the attempt: from here on it takes nothing from the body any more.
            drop(call);
            let again = head.zip(body.begin_attempt());
            let passed = deadline.filter(Deadline::has_passed);
            let verdict = attempts.failed(reached, again.is_some(), passed.is_some());
            *next = match (verdict, again, passed) {
                (Verdict::Again, Some((head, body)), _) => Some(Request::from_parts(head, body)),
                (Verdict::DeadlineExceeded, _, Some(deadline)) => {
                    return Err(deadline.passed(CallPhase::Response).into());
                }
                (Verdict::Interrupted, ..) => {
                    return Err(Error::interrupted(CallPhase::Response, error).into());
                }
                _ => return Err(Error::NotProcessed { source: error }.into()),
            };
        }
    }
}
