//! A call: from the request that tonic's generated client hands over to the end of the response's body.

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::ClientConn;
use super::request_body::CallBody;
use super::shared::{CallGuard, Lease};
use crate::grpc::config::{Settings, Tuning};
use crate::grpc::error::{CallPhase, Cause, Error, NotProcessed, not_processed};
use crate::primitive::Arc;

/// How often one request that was not processed, since its connection was just lost, is handed to the next one.
const MAX_RESENDS: usize = 16;

/// How often one request is sent again that the server refused (REFUSED_STREAM), as gRPC has it: once.
const MAX_REFUSALS: usize = 1;

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

/// Sends the request on a connection, and again when it is certain that it was not processed: it came back unsent, the server
/// refused it, or took leave without it.
///
/// One function, and a deadline for each of its two waits instead of one around all: futures in futures hold what they are
/// given more than once, and this one is moved into its box for each call.
async fn call(mut source: impl Source, mut request: Request<Body>) -> Result<Response<ResponseBody>, Status> {
    let own_patience = request.extensions_mut().remove::<WaitForReady>();
    let tuning = source.tuning()?;
    let WaitForReady(wait_for_ready) = own_patience.unwrap_or(WaitForReady(tuning.wait_for_ready));
    let limit = tuning.resend_buffer;
    let deadline = Deadline::of(request.headers())?;
    let (mut head, body) = request.into_parts();
    let path = std::mem::take(&mut head.uri).into_parts().path_and_query;
    let own_agent = head.headers.get(USER_AGENT).cloned();
    let kept = (limit > 0).then(|| KeptHead::new(&head));
    let (body, first) = CallBody::new(body, limit);
    let mut request = Request::from_parts(head, first);
    let (mut resends, mut refusals) = (0, 0);
    loop {
        let leased = within(deadline, CallPhase::Connect, pin!(source.lease(wait_for_ready))).await?;
        let (Lease { mut send, mut call }, settings) = match leased {
            Ok(leased) => leased,
            Err(error) => {
                // Who calls in a loop while calls fail at once lets the dial have its turn, too.
                consume_budget().await;
                return Err(error.into());
            }
        };
        address(&settings, &mut request, path.clone(), own_agent.as_ref());
        if let Some(deadline) = deadline {
            deadline.tell_what_is_left(request.headers_mut());
        }
        request.body_mut().goes_on(&call.link);
        call.body = Some(Arc::clone(&body));
        let answer = pin!(send.try_send_request(request));
        let mut error = match within(deadline, CallPhase::Response, answer).await? {
            Ok(response) => {
                body.settle();
                if is_plain_http(&response) {
                    return Ok(response.map(|_| ResponseBody::default()));
                }
                return Ok(response.map(|body| ResponseBody::new(body, call, deadline)));
            }
            Err(error) => error,
        };
        let unsent = error.take_message();
        let error = error.into_error();
        if let Some(status) = call.ended_here() {
            return Err(status);
        }
        let head = match unsent {
            Some(unsent) => {
                // hyper knows before the tap does that this link takes no more requests.
                call.owner.link_down(call.link.id, "hyper gave a request back");
                Some(unsent.into_parts().0)
            }
            None => {
                match not_processed(&error) {
                    // hyper drops what it has taken and not sent when the connection ends, or takes no more.
                    None if body.has_not_left(&call.link) => {}
                    None => {
                        call.tell_failure();
                        return Err(Error::interrupted(CallPhase::Response, Arc::new(error)).into());
                    }
                    Some(NotProcessed::Refused) => refusals += 1,
                    Some(NotProcessed::AfterGoaway) => {}
                }
                kept.as_ref().map(KeptHead::again)
            }
        };
        resends += 1;
        // Ends the attempt: from here on it takes nothing from the body any more.
        drop(call);
        request = match (head, body.begin_attempt()) {
            (Some(head), Some(body)) if resends <= MAX_RESENDS && refusals <= MAX_REFUSALS => {
                Request::from_parts(head, body)
            }
            _ => return Err(Error::NotProcessed { source: Arc::new(error) }.into()),
        };
    }
}

/// When a call must be over, and what its caller allowed.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// None without a `grpc-timeout`, or for one beyond what the clock can count, which never passes.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let Some(timeout) = grpc_timeout(headers) else { return Ok(None) };
        // A clock needs a runtime.
        if Handle::try_current().is_err() {
            return Err(Error::NoRuntime);
        }
        Ok(Instant::now().checked_add(timeout).map(|at| Deadline { at, timeout }))
    }

    fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    /// The server's clock begins when it has the request, ours has begun before.
    fn tell_what_is_left(&self, headers: &mut HeaderMap) {
        let left = self.at.saturating_duration_since(Instant::now());
        // Most calls do not wait at all.
        if left + WORTH_TELLING < self.timeout
            && let Ok(value) = HeaderValue::try_from(timeout_text(left))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }

    fn passed(&self, phase: CallPhase) -> Error {
        Error::DeadlineExceeded { phase, timeout: self.timeout }
    }
}

/// How long a call must have waited for its server to be told of less time than its caller allowed.
const WORTH_TELLING: Duration = Duration::from_millis(1);

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// As a header: at most eight digits. Rounded up, so that the caller's clock is the first to end.
fn timeout_text(left: Duration) -> String {
    match left.as_micros().div_ceil(1_000) {
        millis @ ..=99_999_999 => format!("{}m", millis.max(1)),
        millis => format!("{}S", millis.div_ceil(1_000).min(99_999_999)),
    }
}

/// What `wait` comes to, if it does by then.
async fn within<T>(
    deadline: Option<Deadline>,
    phase: CallPhase,
    wait: Pin<&mut (impl Future<Output = T> + Send)>,
) -> Result<T, Error> {
    match deadline {
        None => Ok(wait.await),
        // Another executor may have taken the call over.
        Some(_) if Handle::try_current().is_err() => Err(Error::NoRuntime),
        Some(deadline) => timeout_at(deadline.at, wait).await.map_err(|_| deadline.passed(phase)),
    }
}

/// What it takes to send the head of a request again. Most have no more than `te`, `content-type` and a deadline: these are kept
/// in place, so that a call which is sent once, as nearly all are, allocates nothing for the others. Extensions end here; no
/// server sees them.
struct KeptHead {
    method: Method,
    few: [Option<(HeaderName, HeaderValue)>; FEW_HEADERS],
    /// All of them, if they are not few.
    many: Option<HeaderMap>,
}

const FEW_HEADERS: usize = 3;

impl KeptHead {
    fn new(head: &Parts) -> Self {
        let mut kept = KeptHead { method: head.method.clone(), few: Default::default(), many: None };
        if head.headers.len() > FEW_HEADERS {
            kept.many = Some(head.headers.clone());
            return kept;
        }
        for (place, (name, value)) in kept.few.iter_mut().zip(&head.headers) {
            *place = Some((name.clone(), value.clone()));
        }
        kept
    }

    /// With its method and headers; whither, says the next attempt.
    #[cold]
    fn again(&self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        match &self.many {
            Some(many) => head.headers = many.clone(),
            None => self.few.iter().flatten().for_each(|(name, value)| {
                head.headers.append(name, value.clone());
            }),
        }
        head
    }
}

/// Whether this is no response of a gRPC server but, say, a proxy's page about a server that it cannot reach. Without its text,
/// which tonic would take for a broken message, tonic maps the HTTP status as gRPC prescribes ("HTTP to gRPC Status Code
/// Mapping").
fn is_plain_http<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    response.status() != StatusCode::OK
        && !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Makes the request one to this target: scheme, authority and user agent, its own before the connection's.
pub(super) fn address<B>(
    settings: &Settings,
    request: &mut Request<B>,
    path: Option<PathAndQuery>,
    own_agent: Option<&HeaderValue>,
) {
    *request.uri_mut() = settings.uri(path);
    let agent =
        own_agent.map_or_else(|| settings.user_agent.clone(), |own| joined(own, &settings.user_agent));
    request.headers_mut().insert(USER_AGENT, agent);
}

fn joined(own: &HeaderValue, ours: &HeaderValue) -> HeaderValue {
    let text = [own.as_bytes(), b" ", ours.as_bytes()].concat();
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| ours.clone())
}

/// The `grpc-timeout` header: at most eight digits and a unit. One that is malformed is no deadline, as in tonic.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

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
    /// The call's deadline holds for the body, too. Boxed when the body is first waited for: most have arrived by then.
    deadline: Option<(Deadline, Option<Pin<Box<Sleep>>>)>,
}

impl ResponseBody {
    fn new(body: Incoming, call: CallGuard, deadline: Option<Deadline>) -> Self {
        let deadline = deadline.map(|deadline| (deadline, None));
        ResponseBody { live: Some(Live { body, call, deadline }) }
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
                Some(frame) => Some(frame.map_err(|error| self.broke_off(Arc::new(error)))),
                // hyper takes a stream that was reset with NO_ERROR for one that has ended, and so one that a GOAWAY of that
                // code leaves out: then it is the connection that was lost.
                None if !self.body.is_end_stream() => {
                    let error: Cause = match self.call.link.end() {
                        None => Arc::new(h2::Error::from(h2::Reason::NO_ERROR)),
                        Some(end) => Arc::new(end),
                    };
                    Some(Err(self.broke_off(error)))
                }
                None => None,
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

    fn broke_off(&self, error: Cause) -> Status {
        self.call.ended_here().unwrap_or_else(|| {
            self.call.tell_failure();
            Error::interrupted(CallPhase::Body, error).into()
        })
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
            Some(Ok(frame)) => frame.is_trailers() || live.body.is_end_stream(),
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
        self.live.as_ref().is_none_or(|live| live.body.is_end_stream())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_of_every_unit_are_read_and_malformed_ones_are_no_deadline() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1.5S", " 1S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_told_what_is_left_of_a_deadline_when_the_call_has_waited() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("10S"));
        let deadline = Deadline::of(&headers).unwrap().unwrap();
        let told = |headers: &mut HeaderMap| {
            deadline.tell_what_is_left(headers);
            headers[GRPC_TIMEOUT].to_str().unwrap().to_owned()
        };
        assert_eq!(told(&mut headers), "10S");
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(told(&mut headers), "3000m");
        assert!(!deadline.has_passed());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(deadline.has_passed());
        assert_eq!(told(&mut headers), "1m", "0 would be none");
        assert_eq!(timeout_text(Duration::from_micros(1_001)), "2m");
        assert_eq!(timeout_text(Duration::from_millis(99_999_999)), "99999999m");
        assert_eq!(timeout_text(Duration::from_secs(200_000)), "200000S");
        assert_eq!(timeout_text(Duration::MAX), "99999999S");
    }

    #[test]
    fn a_head_is_sent_again_with_all_values_of_all_its_headers_few_or_many() {
        for count in [0, 1, FEW_HEADERS, FEW_HEADERS + 1, 20] {
            let (mut head, ()) = Request::post("http://a/b").body(()).unwrap().into_parts();
            for i in 0..count {
                // In pairs of the same name.
                let name = HeaderName::try_from(format!("x-{}", i / 2)).unwrap();
                head.headers.append(name, HeaderValue::from(i));
            }
            let again = KeptHead::new(&head).again();
            assert_eq!(again.method, Method::POST);
            assert_eq!(again.headers, head.headers);
        }
    }
}
