//! Health checks: what the server says of itself, by `grpc.health.v1` and after gRFC A17.
//!
//! * One [`Health`] asks on one link. Its first answer belongs to the dial, and to the dial's time budget; those that follow
//!   are the driver's, as long as calls go to the link.
//! * It sends through hyper itself, so it is no handle of the connection and no call of the link: what waits for the last of
//!   those does not wait for it. It ends when the link is retired, for whatever reason: its stream would keep the socket open,
//!   and a server that shuts down waits for the last stream.
//! * `Watch` is asked first. A server that lacks it is asked by `Check`, again and again; one that lacks that, too, counts as
//!   serving. Any other failure is an answer, not serving, and the server is asked again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower_service::Service;

use super::shared::{Shared, StateUpdate};
use crate::grpc::config::Settings;
use crate::grpc::dial::backoff::Pauses;
use crate::grpc::error::{Error, HealthError};
use crate::grpc::link::Link;
use crate::grpc::link::request_body::{CallBody, RequestBody};
use crate::grpc::metadata::sanitize;
use crate::grpc::options::Backoff;
use crate::primitive::{Arc, Weak};

/// From one `Check` to the next. Also the longest that one may take, but for the first, which has the dial's whole time.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Whether the server serves; if not, the error that calls get.
pub(super) type Verdict = Result<(), Error>;

/// Asks the server at the other end of one link how it is.
pub(super) struct Health {
    link: OnLink,
    on: Arc<Link>,
    /// One of the link's streams, from the first question on; until it is known that the server answers none.
    place: Option<Place>,
    service: Arc<str>,
    way: Way,
    /// The open watch.
    stream: Option<Streaming<HealthCheckResponse>>,
    /// When the server was last asked, and how long after that it may be asked again.
    asked: Instant,
    pause: Duration,
    /// Between two watches; an answer begins the sequence anew.
    pauses: Pauses,
    answered: bool,
}

#[derive(Clone, Copy)]
enum Way {
    Watch,
    Check,
    /// The server has neither.
    Nothing,
}

impl Health {
    pub(super) fn new(
        service: &str,
        send: SendRequest<RequestBody>,
        settings: Arc<Settings>,
        on: Arc<Link>,
    ) -> Self {
        Health {
            link: OnLink { send, link: Arc::clone(&on), settings },
            on,
            place: None,
            service: service.into(),
            way: Way::Watch,
            stream: None,
            asked: Instant::now(),
            pause: Duration::ZERO,
            pauses: Pauses::new(Backoff::default()),
            answered: false,
        }
    }

    /// The server's next answer, whether or not it is another than the last. To be polled after hyper's own part.
    pub(super) async fn next(&mut self) -> Verdict {
        if self.place.is_none() && !matches!(self.way, Way::Nothing) {
            self.on.slots.take().await;
            self.place = Some(Place::on(&self.on));
        }
        loop {
            let answer = match self.way {
                Way::Watch => self.watch().await,
                Way::Check => self.check().await,
                Way::Nothing => std::future::pending().await,
            };
            if answer.is_err() {
                self.stream = None;
                // A stream may hear of the connection's end before hyper's part does, which is polled in between.
                yield_now().await;
                if self.link.send.is_closed() {
                    // The link reports its end itself.
                    std::future::pending::<()>().await;
                }
            }
            let verdict = match (answer, self.way) {
                (Ok(answer), _) => judge(answer.status),
                (Err(HealthError::Failed(status)), Way::Watch) if lacks_it(&status) => {
                    self.way = Way::Check;
                    self.pause = Duration::ZERO;
                    continue;
                }
                (Err(HealthError::Failed(status)), Way::Check) if lacks_it(&status) => {
                    self.way = Way::Nothing;
                    self.place = None;
                    Ok(())
                }
                (Err(failure), _) => Err(failure),
            };
            self.answered = true;
            let (target, service) = (&self.link.settings.target.text, &self.service);
            return verdict.map_err(|source| Error::NotServing {
                target: Arc::clone(target),
                service: Arc::clone(service),
                source,
            });
        }
    }

    /// The next message of the watch, which is opened if there is none.
    async fn watch(&mut self) -> Result<HealthCheckResponse, HealthError> {
        let message = match &mut self.stream {
            Some(stream) => stream.message().await,
            None => self.open_watch().await,
        };
        let failure = match message {
            Ok(Some(answer)) => {
                self.pauses.reset();
                return Ok(answer);
            }
            Ok(None) => HealthError::Ended,
            Err(status) => HealthError::Failed(status),
        };
        // From when it was asked: one that has been answered for longer than that is asked again at once.
        self.pause = self.pauses.next();
        Err(failure)
    }

    async fn open_watch(&mut self) -> Result<Option<HealthCheckResponse>, Status> {
        let request = self.request().await;
        let stream = HealthClient::new(self.link.clone()).watch(request).await?.into_inner();
        self.stream.insert(stream).message().await
    }

    async fn check(&mut self) -> Result<HealthCheckResponse, HealthError> {
        let request = self.request().await;
        self.pause = CHECK_INTERVAL;
        let mut client = HealthClient::new(self.link.clone());
        let check = client.check(request);
        let answer = match self.answered {
            false => check.await,
            true => timeout(CHECK_INTERVAL, check).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!("no answer within {CHECK_INTERVAL:?}")))
            }),
        };
        Ok(answer.map_err(HealthError::Failed)?.into_inner())
    }

    /// Waits until the server may be asked, and says what.
    async fn request(&mut self) -> HealthCheckRequest {
        sleep_until(self.asked + self.pause).await;
        self.asked = Instant::now();
        HealthCheckRequest { service: (*self.service).to_owned() }
    }
}

/// One of a link's streams.
struct Place(Arc<Link>);

impl Place {
    /// After it has been taken.
    fn on(link: &Arc<Link>) -> Self {
        link.watch(true);
        Place(Arc::clone(link))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.watch(false);
        self.0.slots.give_back();
    }
}

fn lacks_it(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}

fn judge(status: i32) -> Result<(), HealthError> {
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(ServingStatus::NotServing) => Err(HealthError::NotServing),
        Ok(ServingStatus::ServiceUnknown) => Err(HealthError::ServiceUnknown),
        Ok(ServingStatus::Unknown) | Err(_) => Err(HealthError::Unknown),
    }
}

/// Tells the connection what the server says from now on. Never returns, but lets go of the link when that is retired.
pub(super) async fn follow(
    health: Option<Box<Health>>,
    owner: &Weak<Shared>,
    link: &Link,
    mut updates: watch::Receiver<StateUpdate>,
) {
    if let Some(mut health) = health {
        let tell = async move {
            loop {
                let verdict = health.next().await;
                if let Some(owner) = owner.upgrade() {
                    owner.health_changed(link.id, verdict);
                }
            }
        };
        // On the heap: most connections do without.
        let until_retired = Box::pin(async move {
            tokio::select! {
                biased;
                () = retired(owner, link, &mut updates) => {}
                () = tell => {}
            }
        });
        until_retired.await;
    }
    std::future::pending().await
}

/// Returns when no call goes to the link any more.
async fn retired(owner: &Weak<Shared>, link: &Link, updates: &mut watch::Receiver<StateUpdate>) {
    while owner.upgrade().is_some_and(|owner| owner.is_current(link.id)) && updates.changed().await.is_ok() {}
}

/// The link as a service: requests go out on it or nowhere.
#[derive(Clone)]
struct OnLink {
    send: SendRequest<RequestBody>,
    link: Arc<Link>,
    settings: Arc<Settings>,
}

impl Service<Request<Body>> for OnLink {
    type Response = Response<Answer>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        let own_agent = request.headers().get(USER_AGENT).cloned();
        self.settings.address(&mut request, path, None, own_agent.as_ref());
        // Sent once, and to its end: it is a single small message.
        let mut request = request.map(|body| CallBody::new(body, 0, None).1);
        request.body_mut().goes_on(&self.link);
        let answer = self.send.send_request(request);
        Box::pin(async move {
            let mut response = answer.await?;
            sanitize(response.headers_mut());
            Ok(response.map(Answer))
        })
    }
}

/// The server's answer. tonic reads it in the connection's own task, which must not panic whatever the trailers are.
struct Answer(Incoming);

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            sanitize(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
