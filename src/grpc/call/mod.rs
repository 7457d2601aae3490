//! A request's way in: from the request that tonic's generated client hands over to the end of the response's body.
//!
//! * The loop in this file leases a connection from a [`Source`], sends the request, and asks the [`verdict`] when that fails:
//!   it is sent again when it is certain that no server has processed it. When an attempt has failed otherwise, the call's
//!   [retry policy](super::retry) decides.
//! * [`hedging`] runs that loop several times beside itself, for one call.
//! * [`outgoing`] is what a call has to send, and where it stands with it.
//! * [`head`] and [`deadline`] are what the loop reads and writes of heads; [`response_body`] is what the caller gets, whose
//!   messages [`framing`] follows.

mod deadline;
mod framing;
mod head;
mod hedging;
mod outgoing;
mod response_body;
mod score;
mod verdict;

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body as _;
use tokio::task::coop::consume_budget;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use self::deadline::{Deadline, within};
use self::head::{ResponseKind, kind_of};
use self::outgoing::{AttemptEnd, Outgoing, Plan, Prepared};
pub use self::response_body::ResponseBody;
use self::verdict::{Reached, Verdict};
use super::config::{Rules, Settings};
use super::conn::ClientConn;
use super::conn::lease::{CallGuard, Lease, RESTS};
use super::error::{CallPhase, Cause, Error, is_not_processed};
use super::link::UNDRIVEN;
use super::link::request_body::CallBody;
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
    fn rules(&self) -> Result<Rules<'_>, Error>;

    /// For an attempt beside those that run. It gets another connection than theirs where there is one.
    fn fork(&mut self) -> Self
    where
        Self: Sized;

    /// A connection with room for one more stream, and what the request must be made to fit. Cancel safe.
    fn lease(
        &mut self,
        wait_for_ready: bool,
    ) -> impl Future<Output = Result<(Lease, Arc<Settings>), Error>> + Send;
}

impl Source for ClientConn {
    fn rules(&self) -> Result<Rules<'_>, Error> {
        self.shared.settings.as_ref().map(|settings| settings.rules()).map_err(Error::clone)
    }

    fn fork(&mut self) -> Self {
        self.clone()
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

/// The call: once, or as often as its policy says.
///
/// What is sent stays in one place from before the first poll: a future holds its arguments beside what it makes of them, and
/// this one is moved into its box for each call.
fn call<S: Source + 'static>(
    mut source: S,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send {
    // The clock begins with the first poll.
    let mut prepared = source.rules().and_then(|rules| Prepared::new(&rules, request));
    async move {
        let prepared = prepared.as_mut().map_err(|error| error.clone())?;
        let deadline = Deadline::after(prepared.timeout)?;
        match &mut prepared.plan {
            Plan::InTurn(outgoing) => send(&mut source, outgoing, deadline).await,
            Plan::Hedged(hedging) => Box::pin(hedging::run(&mut source, hedging, deadline)).await,
        }
    }
}

/// Sends the request on a connection, and again when it is certain that it was not processed: it came back unsent, the server
/// refused it, or its GOAWAY did not cover it; or when the call's policy says so.
///
/// One function, and a deadline for each of its waits instead of one around all.
async fn send<S: Source>(
    source: &mut S,
    outgoing: &mut Outgoing,
    deadline: Option<Deadline>,
) -> Result<Response<ResponseBody>, Status> {
    let body = Arc::clone(&outgoing.body);
    'attempts: loop {
        let mut timed_out = false;
        // Left with what may be sent again; all else returns.
        let outcome = 'attempt: {
            let wait = pin!(source.lease(outgoing.common.wait_for_ready));
            let leased = within(deadline, CallPhase::Connect, wait).await?;
            let (Lease { mut send, mut call }, settings) = match leased {
                Ok(leased) => leased,
                Err(error) => {
                    // A caller that calls in a loop while calls fail at once lets the dial have its turn, too.
                    consume_budget().await;
                    let is_of_server = matches!(
                        error,
                        Error::Dial { .. }
                            | Error::NotServing { .. }
                            | Error::Exhausted { .. }
                            | Error::NoAddresses
                    );
                    match is_of_server {
                        true => break 'attempt Err(error.into()),
                        false => return Err(error.into()),
                    }
                }
            };
            // Each round that goes on has put one there.
            let Some(mut request) = outgoing.request.take() else {
                return Err(Status::internal("there is no request to send"));
            };
            let own = outgoing.common.origin.as_ref();
            let own = own.map(|own| own.checked(settings.tls.is_some(), &call.link)).transpose()?;
            settings.address(
                &mut request,
                outgoing.common.path.clone(),
                own,
                outgoing.common.own_agent.as_ref(),
            );
            if let Some(deadline) = deadline {
                deadline.tell_what_is_left(request.headers_mut());
            }
            outgoing.number(request.headers_mut());
            request.body_mut().goes_on(&call.link);
            call.body = Some(Arc::clone(&body));
            let limit = outgoing.limit(deadline)?;
            let answer = pin!(send.try_send_request(request));
            let answered = match call.is_here() {
                true => within(limit, CallPhase::Response, answer).await.map(Some),
                false => {
                    let answer = pin!(Box::pin(unless_it_rests(answer, &call, &body)));
                    within(limit, CallPhase::Response, answer).await
                }
            };
            let answered = match answered {
                Ok(answered) => answered,
                Err(Error::DeadlineExceeded { timeout, .. })
                    if deadline.is_none_or(|deadline| !deadline.has_passed()) =>
                {
                    timed_out = true;
                    break 'attempt Err(Error::AttemptTimeout { timeout }.into());
                }
                Err(error) => return Err(error.into()),
            };
            let Some(answered) = answered else {
                call.rests();
                drop(call);
                let error: Cause = Arc::new(std::io::Error::other(RESTS));
                let again = outgoing.again();
                outgoing.request =
                    match (outgoing.attempts.failed(Reached::Nothing, again.is_some(), false), again) {
                        (Verdict::Again, again) => again,
                        _ => break 'attempt Err(Error::NotProcessed { source: error }.into()),
                    };
                continue 'attempts;
            };
            let mut error = match answered {
                Ok(mut response) => match kind_of(&mut response) {
                    ResponseKind::Grpc => {
                        if !response.body().is_end_stream() {
                            // The call is committed to this attempt.
                            body.settle();
                            outgoing.number(response.headers_mut());
                            let score = outgoing.common.score.clone();
                            return Ok(response.map(|body| ResponseBody::new(body, call, score, deadline)));
                        }
                        drop(call);
                        break 'attempt Ok(response.map(|_| ResponseBody::default()));
                    }
                    ResponseKind::Other(error) => break 'attempt Err(error.into()),
                },
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
            let error = call.cause_of(Arc::new(error));
            if reached == Reached::Application {
                call.tell_failure();
            }
            // Ends the attempt: from here on it takes nothing from the body any more.
            drop(call);
            let again = match unsent {
                None => outgoing.again(),
                Some(unsent) => {
                    body.begin_attempt().map(|body| Request::from_parts(unsent.into_parts().0, body))
                }
            };
            let passed = deadline.filter(Deadline::has_passed);
            let verdict = outgoing.attempts.failed(reached, again.is_some(), passed.is_some());
            match (verdict, passed) {
                (Verdict::Again, _) => {
                    outgoing.request = again;
                    continue 'attempts;
                }
                (Verdict::DeadlineExceeded, Some(deadline)) => {
                    return Err(deadline.passed(CallPhase::Response).into());
                }
                (Verdict::Interrupted, _) => Err(Error::interrupted(CallPhase::Response, error).into()),
                _ => Err(Error::NotProcessed { source: error }.into()),
            }
        };
        // By value: what is dropped before a wait takes no room in the future.
        let pause = match outgoing.after(outcome, timed_out) {
            AttemptEnd::Again(pause) => pause,
            AttemptEnd::Final(outcome) => return outcome,
        };
        // A pause needs timers.
        let _ = runtime::current()?;
        within(deadline, CallPhase::Backoff, pin!(tokio::time::sleep(pause))).await?;
    }
}
