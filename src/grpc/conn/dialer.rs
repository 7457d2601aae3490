//! The dial task, one attempt of it, and the driver that an attempt leaves behind.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::backoff::Pauses;
use super::connector::{BoxError, BoxedIo};
use super::gate::Entry;
use super::happy_eyeballs;
use super::health::{self, Health, Verdict};
use super::one_task::{Futures, OneTask};
use super::pace::Pace;
use super::request_body::RequestBody;
use super::shared::{News, Shared, Transport};
use super::state::ConnectivityState;
use super::tap::{Link, LinkPhase, Tap};
use crate::grpc::config::{Settings, YEAR, about};
use crate::grpc::error::{DialPhase, Error, with_causes};
use crate::grpc::group::{Group, OpenSocket, bump};
use crate::grpc::target::Endpoint;
use crate::grpc::trace::trace_event;
use crate::primitive::atomic::{AtomicU8, Ordering};
use crate::primitive::{Arc, Weak};

/// How long one attempt may take, at least, where the user did not say.
const ATTEMPT: Duration = Duration::from_secs(20);

/// How long hyper may take to say goodbye on a socket that nobody wants any more, before it is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Linux takes no longer one for `TCP_KEEPIDLE`.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// Dials until there is an outcome, and for a connection that paces itself until there is a good one. Ends with
/// the connection.
///
/// It holds no handle while it waits for anything.
pub(super) fn run(owner: &Arc<Shared>, settings: Arc<Settings>) -> impl Future<Output = ()> + Send + 'static {
    let news = owner.news();
    let retry_now = Arc::clone(&owner.retry_now);
    let guard = DialGuard { owner: Arc::downgrade(owner), finished: false };
    let group = owner.group().cloned();
    async move {
        let mut ended = news.clone();
        let dial = async {
            match group {
                Some(group) => dial_through_gate(guard, &settings, &group, news).await,
                None => {
                    let mut guard = guard;
                    let mut pauses = Pauses::new(settings.tuning.backoff);
                    loop {
                        let pause = pauses.next();
                        let error = match attempts(&guard.owner, &settings, None, pause, &news).await {
                            Ok(_) => return guard.finish(),
                            Err(error) => error,
                        };
                        let Some(owner) = guard.owner.upgrade() else { return };
                        // Before the failure is told: who hears of it and asks for a retry at once is heard.
                        let retry_now = retry_now.notified();
                        tokio::pin!(retry_now);
                        retry_now.as_mut().enable();
                        owner.dial_failed(error, true);
                        drop(owner);
                        tokio::select! {
                            () = sleep(pause) => {}
                            () = retry_now => {
                                pauses.reset();
                                continue;
                            }
                        }
                        let Some(owner) = guard.owner.upgrade() else { return };
                        // To Idle, by the guard.
                        if settings.tuning.idle_timeout.is_some_and(|timeout| owner.is_unwanted(timeout)) {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = shut_down(&mut ended) => {}
            () = dial => {}
        }
    }
}

/// One attempt, when the pool's gate lets it through, or the outcome of another's.
async fn dial_through_gate(
    mut guard: DialGuard,
    settings: &Arc<Settings>,
    group: &Arc<Group>,
    news: watch::Receiver<News>,
) {
    let error = match socket_place(settings, group).await {
        Err(error) => error,
        Ok(place) => match group.gate.enter().await {
            Entry::Failed(error) => error,
            Entry::Turn(turn) => {
                let pooled = Pooled { group, place };
                let result = attempts(&guard.owner, settings, Some(pooled), Duration::ZERO, &news).await;
                match result {
                    Ok(Ok(())) => {
                        turn.succeeded();
                        return guard.finish();
                    }
                    // The connection is up and stays; to the others it is an outage as any.
                    Ok(Err(error)) => {
                        bump(&group.counters.failed_dials);
                        turn.failed(error);
                        return guard.finish();
                    }
                    // Closed on this side meanwhile: that says nothing of the server, so the turn is not settled.
                    Err(_) if !guard.owner.upgrade().is_some_and(|owner| owner.is_open()) => return,
                    Err(error) => {
                        bump(&group.counters.failed_dials);
                        turn.failed(error.clone());
                        error
                    }
                }
            }
        },
    };
    if let Some(owner) = guard.owner.upgrade() {
        owner.dial_failed(error, false);
        guard.finish();
    }
}

/// Before the gate, so that who waits for a place holds no turn: it is free at once, but for the moment in which a closed
/// socket goes, or where somebody holds on to a connection that is not his.
async fn socket_place(
    settings: &Settings,
    group: &Arc<Group>,
) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let budget = settings.tuning.connect_timeout.unwrap_or(ATTEMPT);
    timeout(budget, group.socket_place()).await.map_err(|_| Error::Dial {
        target: Arc::clone(&settings.target.text),
        phase: DialPhase::Connect,
        source: Arc::new(timed_out(format!("no socket of max_connections was free within {budget:?}"))),
    })
}

fn timed_out(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// What a connection of a pool brings to its attempt.
struct Pooled<'a> {
    group: &'a Arc<Group>,
    place: Option<OwnedSemaphorePermit>,
}

/// Leaves the connection Idle if the dial task ends without an outcome.
struct DialGuard {
    owner: Weak<Shared>,
    finished: bool,
}

impl DialGuard {
    fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if !self.finished
            && let Some(owner) = self.owner.upgrade()
        {
            owner.dial_abandoned();
        }
    }
}

/// Returns when the connection is shut down, or its last handle is gone (the channel's sender is in it).
async fn shut_down(news: &mut watch::Receiver<News>) {
    let _ = news.wait_for(|news| news.state == ConnectivityState::Shutdown).await;
}

/// Returns when the connection's last handle is gone, or it was closed with a grace; which, says the link.
async fn released(news: &mut watch::Receiver<News>, link: &Link) {
    while !link.is_doomed() && news.changed().await.is_ok() {}
}

/// Makes room for another link when this one has lived for its time, give or take a tenth: calls that run on it may end.
async fn grow_old(link: &Link, most: Option<Duration>) {
    if let Some(most) = most {
        sleep(about(most)).await;
        if let Some(owner) = link.owner() {
            owner.link_aged(link);
        }
    }
    std::future::pending().await
}

/// How far an attempt is, for the error when its time is up.
struct Progress(AtomicU8);

impl Progress {
    fn at(&self, phase: DialPhase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn phase(&self) -> DialPhase {
        [DialPhase::Resolve, DialPhase::Connect, DialPhase::Tls, DialPhase::Settings, DialPhase::Health]
            [usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// Why an attempt brought no connection.
pub(super) enum Missed {
    Failed(Error),
    /// The server's SETTINGS came, and with them the connection's end.
    Lost(Error),
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        Missed::Failed(error)
    }
}

/// An attempt; and another, within its time, if that is lost: that is no failure, but a connection that was Ready for no
/// time. A server that does so each time is not to be dialled without a pause, so two losses are a failure.
async fn attempts(
    owner: &Weak<Shared>,
    settings: &Arc<Settings>,
    mut pooled: Option<Pooled<'_>>,
    backoff: Duration,
    news: &watch::Receiver<News>,
) -> Result<Verdict, Error> {
    let budget = settings.tuning.connect_timeout.unwrap_or_else(|| ATTEMPT.max(backoff));
    let deadline = Instant::now() + budget.min(YEAR);
    let mut lost = false;
    loop {
        match attempt(owner, settings, pooled.as_mut(), budget, deadline, news.clone()).await {
            Ok(verdict) => return Ok(verdict),
            Err(Missed::Lost(_)) if !lost => lost = true,
            Err(Missed::Lost(error) | Missed::Failed(error)) => return Err(error),
        }
    }
}

/// Name resolution to SETTINGS, and to the first word on the server's health, under one time budget. On success the
/// connection is Ready, or up and not serving.
async fn attempt(
    owner: &Weak<Shared>,
    settings: &Arc<Settings>,
    pooled: Option<&mut Pooled<'_>>,
    budget: Duration,
    deadline: Instant,
    news: watch::Receiver<News>,
) -> Result<Verdict, Missed> {
    let (link, learned) = {
        let owner = owner.upgrade().ok_or(Error::Closed)?;
        (owner.new_link(), Learned { passed_over: owner.passed_over(), calm: owner.calm() })
    };
    let group = pooled.as_ref().map(|pooled| pooled.group);
    if let Some(group) = group {
        bump(&group.counters.dials);
    }
    // Whatever becomes of the attempt, its socket does not stay.
    let cut = KillOnDrop(Some(Arc::clone(&link)));
    let progress = Progress(AtomicU8::new(DialPhase::Resolve as u8));
    let failed = |source: BoxError| {
        let target = Arc::clone(&settings.target.text);
        Error::Dial { target, phase: progress.phase(), source: Arc::from(source) }
    };
    let up = async {
        let (send, mut conn) = match establish(settings, &learned, group, &link, &progress).await {
            Ok(established) => established,
            Err(error) if link.has_opened() => return Err(Missed::Lost(failed(error))),
            Err(error) => return Err(Missed::Failed(failed(error))),
        };
        let word = first_word(settings, &send, &mut conn, &link, &progress).await;
        let (health, verdict) = word.map_err(failed)?;
        Ok((send, conn, health, verdict))
    };
    let result = match timeout_at(deadline, up).await {
        Ok(result) => result,
        Err(_) => Err(failed(timed_out(format!("not done after {budget:?}")).into()).into()),
    };
    if result.is_err()
        && !matches!(progress.phase(), DialPhase::Resolve | DialPhase::Connect)
        && let Some(owner) = owner.upgrade()
    {
        owner.pass_over();
    }
    let (send, conn, health, verdict) = result?;
    let owner = owner.upgrade().ok_or(Error::Closed)?;
    let mut no_place = None;
    let place = pooled.map_or(&mut no_place, |pooled| &mut pooled.place);
    // Before others may see the link.
    link.swap_place(place);
    if let Err(missed) = owner.connected(Transport { send, link: Arc::clone(&link) }, verdict.clone()) {
        // For another attempt.
        link.swap_place(place);
        return Err(missed);
    }
    cut.disarm();
    tokio::spawn(drive(conn, link, Arc::clone(settings), health, news));
    Ok(verdict)
}

struct KillOnDrop(Option<Arc<Link>>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.kill();
        }
    }
}

/// What earlier attempts and links of the connection have taught.
struct Learned {
    passed_over: usize,
    calm: u32,
}

async fn establish(
    settings: &Settings,
    learned: &Learned,
    group: Option<&Arc<Group>>,
    link: &Arc<Link>,
    progress: &Progress,
) -> Result<(SendRequest<RequestBody>, OneTask), BoxError> {
    let io = connect(settings, learned, progress).await?;
    progress.at(DialPhase::Settings);
    let pace = Pace::new();
    let io_is_system = settings.tls.is_none() && settings.tuning.connector.is_none();
    let open = group.map(OpenSocket::new);
    let tap = Tap::new(io, io_is_system, Arc::clone(link), Arc::clone(&pace), open);
    let futures = Futures::new();
    let mut builder = http2::Builder::new(futures.clone());
    builder.timer(TokioTimer::new());
    if let Some(keepalive) = settings.tuning.keepalive {
        builder.keep_alive_interval(keepalive.interval.saturating_mul(learned.calm).min(YEAR));
        builder.keep_alive_timeout(keepalive.timeout.min(YEAR));
        builder.keep_alive_while_idle(keepalive.while_idle);
    }
    let http2 = &settings.tuning.http2;
    builder.initial_stream_window_size(http2.stream_window);
    builder.initial_connection_window_size(http2.connection_window);
    if http2.adaptive_window {
        builder.adaptive_window(true);
    }
    if let Some(most) = http2.max_header_list_size {
        builder.max_header_list_size(most);
    }
    let (send, conn) = builder.handshake(TokioIo::new(tap)).await?;
    let mut conn = OneTask::new(conn, futures, pace, Arc::clone(link));
    let phase = tokio::select! {
        biased;
        phase = link.reached(LinkPhase::Open) => phase,
        result = &mut conn => {
            result?;
            // Without an error of its own hyper ended because the socket did, or is about to.
            link.reached(LinkPhase::Open).await
        }
    };
    match phase {
        LinkPhase::Open => Ok((send, conn)),
        // Draining, ended or closed.
        _ => Err(link.why_closed().into()),
    }
}

/// What the server says of its health, if it is to be asked; else that is taken for good.
async fn first_word(
    settings: &Arc<Settings>,
    send: &SendRequest<RequestBody>,
    conn: &mut OneTask,
    link: &Arc<Link>,
    progress: &Progress,
) -> Result<(Option<Box<Health>>, Verdict), BoxError> {
    let Some(service) = &settings.tuning.health_check else { return Ok((None, Ok(()))) };
    progress.at(DialPhase::Health);
    let mut health = Box::new(Health::new(service, send.clone(), Arc::clone(settings), Arc::clone(link)));
    tokio::select! {
        biased;
        _ = link.reached(LinkPhase::Draining) => {}
        result = conn => {
            result?;
            link.reached(LinkPhase::Draining).await;
        }
        verdict = health.next() => return Ok((Some(health), verdict)),
    }
    Err(link.why_closed().into())
}

/// A connected stream, TLS included.
async fn connect(settings: &Settings, learned: &Learned, progress: &Progress) -> Result<BoxedIo, BoxError> {
    let io = match &settings.tuning.connector {
        None => connect_socket(settings, learned, progress).await?,
        Some(connector) => {
            progress.at(DialPhase::Connect);
            // Code of a user, in a task that others wait for.
            let connecting = AssertUnwindSafe(connector.connect(settings.uri(None))).catch_unwind();
            connecting.await.map_err(|_| "the connector panicked")??
        }
    };
    match &settings.tls {
        None => Ok(io),
        Some(tls) => {
            progress.at(DialPhase::Tls);
            Ok(Box::new(tls.connect(io).await?))
        }
    }
}

async fn connect_socket(
    settings: &Settings,
    learned: &Learned,
    progress: &Progress,
) -> Result<BoxedIo, BoxError> {
    match &settings.target.endpoint {
        Endpoint::Tcp { host, port } => {
            let mut addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
            let first = learned.passed_over.checked_rem(addresses.len()).unwrap_or(0);
            addresses.rotate_left(first);
            progress.at(DialPhase::Connect);
            let stream = happy_eyeballs::connect(addresses, TcpStream::connect).await?;
            stream.set_nodelay(settings.tuning.tcp_nodelay)?;
            if let Some(time) = settings.tuning.tcp_keepalive {
                let time = time.min(LONGEST_KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(time))?;
            }
            Ok(Box::new(stream))
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => {
            progress.at(DialPhase::Connect);
            Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
        }
        #[cfg(not(unix))]
        Endpoint::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}

/// Drives a connection from SETTINGS to the close of its socket.
///
/// 1. hyper's part, the socket's included, is polled all along. The server's health is followed up to the end of this stage at most.
/// 2. When the last handle is gone, or no call has run for the idle timeout, no stream is left (calls and bodies are
///    handles), and hyper's request senders are dropped: hyper says goodbye and closes.
/// 3. When the connection was closed with a grace, the same happens; what still runs at the grace's end is cut.
/// 4. The same goes for a socket that takes no more requests, when its last call is over, and for one whose peer has sent its last
///    byte: hyper gives up what was open on it, and closes.
/// 5. If that takes too long, for a peer that does not read, the socket is cut.
async fn drive(
    conn: OneTask,
    link: Arc<Link>,
    settings: Arc<Settings>,
    health: Option<Box<Health>>,
    mut news: watch::Receiver<News>,
) {
    let hyper = async {
        if let Err(error) = conn.await {
            trace_event!("HTTP/2 ended", error = with_causes(&error));
        }
        std::future::pending::<()>().await
    };
    tokio::pin!(hyper);
    let health = health::follow(health, &link, news.clone());
    let end = async {
        tokio::select! {
            biased;
            _ = link.reached(LinkPhase::Vacant) => {}
            () = released(&mut news, &link) => {}
            () = idle(&link, settings.tuning.idle_timeout) => {}
            () = grow_old(&link, settings.tuning.max_connection_age) => {}
            () = health => {}
        }
    };
    // With a waker of its own: hyper is polled for each call, and looking at all of these each time took 3 % of it.
    let mut end: FuturesUnordered<_> = std::iter::once(end).collect();
    tokio::select! {
        biased;
        () = &mut hyper => {}
        _ = end.next() => {}
    }
    drop(end);
    if link.phase() == LinkPhase::Closed {
        return;
    }
    if link.is_doomed() {
        tokio::select! {
            _ = link.reached(LinkPhase::Closed) => return,
            () = &mut hyper => {}
            () = sleep(settings.tuning.close_grace.min(YEAR)) => link.kill(),
        }
    }
    tokio::select! {
        _ = link.reached(LinkPhase::Closed) => (),
        () = &mut hyper => {}
        () = sleep(LINGER) => link.kill(),
    }
}

/// Returns when it has retired the link because no call has run on it for `timeout`.
async fn idle(link: &Link, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    loop {
        match link.idle_since().and_then(|since| since.checked_add(timeout)) {
            Some(due) if due > Instant::now() => sleep_until(due).await,
            // A call is running, or the link is no longer the connection's current one.
            _ => sleep(timeout).await,
        }
        if link.owner().is_some_and(|owner| owner.link_idle(link.id, timeout)) {
            return;
        }
    }
}
