//! The one truth about a connection, behind every handle of it.
//!
//! # Protocol
//!
//! * [`Inner`] is the truth and changes only in [`Shared::update`], under its lock. An update then publishes it twice: in
//!   `state`, an atomic mirror that is stored under the lock, so that it is never older than the lock's
//!   last release; and in `news`, a watch channel, after the lock is released (its wakers are foreign code). Each
//!   update carries a number, so that news which overtook each other on the way are not told in the wrong order.
//! * **Handles** are the strong counts of `Arc<Shared>`: the `ClientConn`s, the calls under way and their
//!   response bodies. Tasks, sockets and pools' lists hold a `Weak`. So the last handle's drop drops `Shared`,
//!   and with it hyper's request sender, upon which hyper takes leave of the server and closes the socket, and the
//!   `news` channel, which tells the tasks.
//! * **Dialling** is one task at most (`Inner::dialing`), on the runtime of the call that wanted it. A task that
//!   is dropped with its runtime leaves by its guard: the state is Idle again, and whoever waits dials anew.
//! * A **link** (one socket) is current from [`connected`](Shared::connected) to the first of: the tap saw GOAWAY or
//!   the end of the socket, the driver found it idle, hyper gave a request back, a pool gave it up because its server does not
//!   serve. A link that is no longer current ends with its streams; `close` alone cuts it.

use std::fmt;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::dialing::{self, Missed};
use super::health::Verdict;
use super::lease::{CallGuard, Lease};
use super::state::ConnectivityState;
use crate::grpc::config::Settings;
use crate::grpc::dial::backoff::Life;
use crate::grpc::error::{DialPhase, Error, with_causes};
use crate::grpc::group::{Group, bump};
use crate::grpc::link::request_body::RequestBody;
use crate::grpc::link::{Link, LinkPhase, Observer};
use crate::grpc::runtime;
use crate::grpc::server::Server;
use crate::grpc::trace::trace_event;
use crate::primitive::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::primitive::{Arc, Mutex, Weak};

/// How often one call waits for a dial that ends without an outcome (its runtime ended) before it gives up.
const MAX_WAITS: usize = 4;

pub(crate) struct Shared {
    /// An error here is the answer to every call: the connection of a pool that could not be configured.
    pub(in crate::grpc) settings: Result<Arc<Settings>, Error>,
    /// The pool this belongs to, and its number there.
    group: Option<(Arc<Group>, u64)>,
    /// Mirror of `inner.phase`, for `state()`.
    state: AtomicU8,
    inner: Mutex<Inner>,
    news: watch::Sender<News>,
    /// Ends the pause between two attempts.
    pub(super) retry_now: Arc<Notify>,
    /// Whether a pool has discarded this; set once.
    discarded: AtomicBool,
    /// Calls that wait for Ready.
    waiting: AtomicUsize,
    /// What has been learned of the server, by this connection and the others of its pool.
    pub(super) server: Arc<Server>,
    /// How often the server had complained of pings when this was last dialed.
    complaints: AtomicU32,
}

struct Inner {
    phase: Phase,
    /// Whether a dial task exists. It clears this, or its guard does.
    dialing: bool,
    /// Dials that came to an outcome.
    attempts: u64,
    /// When a call, or `connect`, last asked for a connection and there was none.
    asked: Instant,
    /// What the last one failed with, and which it was: for calls that waited for it, whatever became of the state.
    last_failure: Option<(u64, Error)>,
    /// Stepped by each update.
    updates: u64,
    last_link: u64,
    /// Sockets that may still be open, the current one included.
    links: Vec<Weak<Link>>,
}

/// Counts a call while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

enum Phase {
    Idle,
    Connecting,
    Ready(Transport),
    /// The link is up, and its server says that it does not serve: with what calls are told. Until it says otherwise, or the
    /// link is lost.
    NotServing(Transport, Error),
    /// Sticky: stays while the dial task tries again.
    Failed(Error),
    /// For good; with what calls are told.
    Shutdown(Error),
}

impl Phase {
    fn state(&self) -> ConnectivityState {
        match self {
            Phase::Idle => ConnectivityState::Idle,
            Phase::Connecting => ConnectivityState::Connecting,
            Phase::Ready(_) => ConnectivityState::Ready,
            Phase::NotServing(..) | Phase::Failed(_) => ConnectivityState::TransientFailure,
            Phase::Shutdown(_) => ConnectivityState::Shutdown,
        }
    }

    /// With a link, whose server says this of itself.
    fn up(transport: Transport, verdict: Verdict) -> Phase {
        match verdict {
            Ok(()) => Phase::Ready(transport),
            Err(error) => Phase::NotServing(transport, error),
        }
    }

    fn transport(&self) -> Option<&Transport> {
        match self {
            Phase::Ready(transport) | Phase::NotServing(transport, _) => Some(transport),
            _ => None,
        }
    }
}

/// What the watch channel carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    pub(super) state: ConnectivityState,
    /// Whether more news will come by themselves: of a dial, or of the server's health.
    dialing: bool,
    attempts: u64,
    update: u64,
}

/// A live connection, as a call needs it.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) send: SendRequest<RequestBody>,
    pub(super) link: Arc<Link>,
}

impl Shared {
    pub(crate) fn new(settings: Result<Arc<Settings>, Error>, group: Option<(Arc<Group>, u64)>) -> Arc<Self> {
        let state = ConnectivityState::Idle;
        let server = match (&group, &settings) {
            (Some((group, _)), _) => Arc::clone(&group.server),
            (None, settings) => {
                let backoff = settings.as_ref().map(|settings| settings.tuning.backoff);
                Arc::new(Server::new(backoff.unwrap_or_default()))
            }
        };
        Arc::new(Shared {
            settings,
            group,
            state: AtomicU8::new(state as u8),
            inner: Mutex::new(Inner {
                phase: Phase::Idle,
                dialing: false,
                attempts: 0,
                asked: Instant::now(),
                last_failure: None,
                updates: 0,
                last_link: 0,
                links: Vec::new(),
            }),
            news: watch::Sender::new(News { state, dialing: false, attempts: 0, update: 0 }),
            retry_now: Arc::new(Notify::new()),
            discarded: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            server,
            complaints: AtomicU32::new(0),
        })
    }

    #[inline]
    pub(crate) fn state(&self) -> ConnectivityState {
        // Acquire: who sees Ready also sees what led to it.
        ConnectivityState::from_u8(self.state.load(Ordering::Acquire))
    }

    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    pub(super) fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref().map(|(group, _)| group)
    }

    /// Changes the truth and publishes it. What `change` takes out of `Inner` it must return, so that it is
    /// dropped by the caller, after the lock: a drop wakes tasks.
    fn update<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let before = inner.phase.state();
        let result = change(&mut inner);
        inner.updates += 1;
        let news = News {
            state: inner.phase.state(),
            dialing: inner.dialing || matches!(inner.phase, Phase::NotServing(..)),
            attempts: inner.attempts,
            update: inner.updates,
        };
        self.state.store(news.state as u8, Ordering::Release);
        drop(inner);
        self.news.send_if_modified(|told| {
            let newer = news.update > told.update;
            if newer {
                *told = news;
            }
            newer
        });
        if before != news.state {
            trace_event!("connectivity changed", target = self.target(), from = before, to = news.state);
            self.tell_group();
        }
        result
    }

    fn tell_group(&self) {
        if let Some((group, id)) = &self.group {
            group.changed(*id);
        }
    }

    pub(in crate::grpc) fn target(&self) -> &str {
        self.settings.as_ref().map_or("?", |settings| &settings.target.text)
    }

    // ── calls ──

    /// A live connection for one call: dials, or waits for the dial that is under way.
    ///
    /// With `wait_for_ready` no failure to connect ends it.
    ///
    /// Cancel safe: nothing is taken before it returns, and the dial goes on without the caller.
    pub(in crate::grpc) async fn lease(self: &Arc<Self>, wait_for_ready: bool) -> Result<Lease, Error> {
        loop {
            let mut lease = match wait_for_ready {
                true => self.lease_when_ready().await?,
                false => self.lease_or_failure().await?,
            };
            if lease.call.take_slot().await {
                return Ok(lease);
            }
        }
    }

    /// A lease, if it is Ready, and for as long as it is the same link.
    ///
    /// Cancel safe.
    pub(in crate::grpc) async fn lease_if_ready(self: &Arc<Self>) -> Option<Lease> {
        let Found::Lease(mut lease) = self.try_lease(None) else { return None };
        lease.call.take_slot().await.then_some(lease)
    }

    async fn lease_or_failure(self: &Arc<Self>) -> Result<Lease, Error> {
        for _ in 0..MAX_WAITS {
            let seen = match self.try_lease(None) {
                Found::Lease(lease) => return Ok(lease),
                Found::Failed(error) => return Err(error),
                Found::Nothing { attempts } => attempts,
            };
            self.dial()?;
            let mut news = self.news();
            let outcome = |news: &News| {
                let over = matches!(news.state, ConnectivityState::Ready | ConnectivityState::Shutdown);
                over || news.attempts != seen || !news.dialing
            };
            // The sender is in `self`: no error.
            let _ = news.wait_for(outcome).await;
            match self.try_lease(Some(seen)) {
                Found::Lease(lease) => return Ok(lease),
                Found::Failed(error) => return Err(error),
                // Connected and lost again, or the dial's runtime ended: once more.
                Found::Nothing { .. } => {}
            }
        }
        Err(self.in_vain())
    }

    async fn lease_when_ready(self: &Arc<Self>) -> Result<Lease, Error> {
        let _waiting = Waiting::begin(&self.waiting);
        let mut news = self.news();
        let (mut attempts, mut in_vain) = (None, 0);
        while in_vain < MAX_WAITS {
            match self.try_lease(None) {
                Found::Lease(lease) => return Ok(lease),
                Found::Failed(error) if !self.is_open() => return Err(error),
                Found::Failed(_) | Found::Nothing { .. } => {}
            }
            // In a pool a dial ends with each failure; the gate paces those that follow.
            self.dial()?;
            let settled = |news: &News| {
                matches!(news.state, ConnectivityState::Ready | ConnectivityState::Shutdown) || !news.dialing
            };
            // The sender is in `self`: no error.
            let now = news.wait_for(settled).await.map_or(None, |news| Some(news.attempts));
            in_vain = if now == attempts { in_vain + 1 } else { 0 };
            attempts = now;
        }
        Err(self.in_vain())
    }

    fn in_vain(&self) -> Error {
        let text = "the connection was lost, or its dial ended without an outcome, each time it was awaited";
        self.dial_error(DialPhase::Connect, std::io::Error::other(text))
    }

    /// A lease if there is a connection. In TransientFailure: the error, for a connection that paces itself or is up, at once;
    /// for one that shares its pool's gate, only if it is the outcome of an attempt after the first
    /// `waited_from`; else the caller waits for the next attempt.
    fn try_lease(self: &Arc<Self>, waited_from: Option<u64>) -> Found {
        let mut inner = self.inner.lock();
        if !matches!(inner.phase, Phase::Ready(_)) {
            inner.asked = Instant::now();
        }
        match &inner.phase {
            Phase::Ready(Transport { send, link }) => {
                link.begin_call();
                let (owner, link) = (Arc::clone(self), Arc::clone(link));
                let call = CallGuard::new(owner, link);
                Found::Lease(Lease { send: send.clone(), call })
            }
            Phase::NotServing(_, error) | Phase::Shutdown(error) => Found::Failed(error.clone()),
            Phase::Failed(error)
                if self.group.is_none() || waited_from.is_some_and(|from| from != inner.attempts) =>
            {
                Found::Failed(error.clone())
            }
            _ if let (Some(from), Some((attempt, error))) = (waited_from, &inner.last_failure)
                && *attempt > from =>
            {
                Found::Failed(error.clone())
            }
            _ => Found::Nothing { attempts: inner.attempts },
        }
    }

    /// Makes sure that a dial is under way, if one is due: on the runtime of the caller.
    pub(in crate::grpc) fn dial(self: &Arc<Self>) -> Result<(), Error> {
        let settings = self.settings.as_ref().map_err(Error::clone)?;
        let runtime = runtime::current()?;
        let begin = self.update(|inner| {
            inner.asked = Instant::now();
            match inner.phase {
                Phase::Ready(_) | Phase::NotServing(..) | Phase::Shutdown(_) => return false,
                Phase::Idle if !inner.dialing => inner.phase = Phase::Connecting,
                _ => {}
            }
            !std::mem::replace(&mut inner.dialing, true)
        });
        if begin {
            // The guard is inside before the task is born: a runtime that is shutting down drops the task at once.
            drop(runtime.spawn(dialing::run(self, Arc::clone(settings))));
        }
        Ok(())
    }

    pub(in crate::grpc) fn dial_error(
        &self,
        phase: DialPhase,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error::Dial { target: self.target().into(), phase, source: Arc::new(source) }
    }

    // ── the dial task ──

    /// A new link, known to `close`.
    pub(super) fn new_link(self: &Arc<Self>) -> Arc<Link> {
        let owner: Weak<dyn Observer> = Arc::downgrade(self) as Weak<dyn Observer>;
        self.update(|inner| {
            inner.links.retain(|link| link.strong_count() > 0);
            inner.last_link += 1;
            let link = Link::new(inner.last_link, owner);
            inner.links.push(Arc::downgrade(&link));
            link
        })
    }

    /// The dial came through: Ready, or TransientFailure if the server does not serve; unless the link is already no good, or
    /// the connection was closed meanwhile.
    pub(super) fn connected(&self, transport: Transport, verdict: Verdict) -> Result<(), Missed> {
        let failure = verdict.clone().err();
        self.trace_not_serving(failure.as_ref());
        let outcome = self.update(|inner| {
            if matches!(inner.phase, Phase::Shutdown(_)) {
                return Err((Missed::Failed(Error::Closed), transport));
            }
            if transport.link.phase() != LinkPhase::Open {
                let lost =
                    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "lost at once after SETTINGS");
                return Err((Missed::Lost(self.dial_error(DialPhase::Settings, lost)), transport));
            }
            inner.dialing = false;
            inner.attempts += 1;
            let failure = failure.map(|error| (inner.attempts, error));
            let before = failure.and_then(|failure| inner.last_failure.replace(failure));
            Ok((before, std::mem::replace(&mut inner.phase, Phase::up(transport, verdict))))
        });
        match outcome {
            Ok(_old) => Ok(()),
            Err((missed, _transport)) => Err(missed),
        }
    }

    /// The dial failed: TransientFailure. `dialing` says whether the task goes on.
    pub(super) fn dial_failed(&self, error: Error, dialing: bool) {
        trace_event!("dial failed", target = self.target(), error = with_causes(&error));
        let _old = self.update(|inner| {
            inner.dialing = dialing;
            inner.attempts += 1;
            let before = inner.last_failure.replace((inner.attempts, error.clone()));
            let old = match inner.phase {
                Phase::Shutdown(_) => None,
                _ => Some(std::mem::replace(&mut inner.phase, Phase::Failed(error))),
            };
            (before, old)
        });
    }

    /// The dial task is gone without an outcome: as if it had never been.
    pub(super) fn dial_abandoned(&self) {
        let _old = self.update(|inner| {
            inner.dialing = false;
            match inner.phase {
                Phase::Connecting | Phase::Failed(_) => {
                    Some(std::mem::replace(&mut inner.phase, Phase::Idle))
                }
                _ => None,
            }
        });
    }

    /// Whether nobody wants a connection: no call waits for one, and none has asked for that long.
    pub(super) fn is_unwanted(&self, timeout: Duration) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.inner.lock().asked.elapsed() >= timeout
    }

    // ── what it has learned ──

    /// How often the server has complained of pings, for an attempt that begins now.
    pub(super) fn note_complaints(&self) -> u32 {
        let complaints = self.server.complaints();
        self.complaints.store(complaints, Ordering::Relaxed);
        complaints
    }

    /// How many calls its server takes at once, while it is Ready. A health check takes a stream, too.
    pub(in crate::grpc) fn stream_limit(&self) -> Option<u32> {
        match &self.inner.lock().phase {
            Phase::Ready(transport) => Some(transport.link.limit()),
            _ => None,
        }
    }

    /// Whether no dial of it has come to an outcome.
    pub(in crate::grpc) fn is_untried(&self) -> bool {
        self.inner.lock().attempts == 0
    }

    /// Why it is in TransientFailure or Shutdown.
    pub(in crate::grpc) fn failure(&self) -> Option<Error> {
        match &self.inner.lock().phase {
            Phase::NotServing(_, error) | Phase::Failed(error) | Phase::Shutdown(error) => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    // ── the server's health ──

    /// Whether calls go to this link, or will when its server serves.
    pub(super) fn is_current(&self, link: u64) -> bool {
        self.inner.lock().phase.transport().is_some_and(|transport| transport.link.id == link)
    }

    /// The server of a link says how it is. That of an old one says nothing that counts.
    pub(super) fn health_changed(&self, link: u64, verdict: Verdict) {
        let failure = verdict.clone().err();
        let old = self.update(|inner| {
            let transport = inner.phase.transport().filter(|transport| transport.link.id == link)?.clone();
            Some(std::mem::replace(&mut inner.phase, Phase::up(transport, verdict)))
        });
        if let Some(Phase::Ready(transport)) = old
            && failure.is_some()
        {
            self.trace_not_serving(failure.as_ref());
            self.server.lost(life(&transport.link));
        }
    }

    fn trace_not_serving(&self, error: Option<&Error>) {
        if let Some(error) = error {
            trace_event!("not serving", target = self.target(), error = with_causes(error));
        }
    }

    // ── the end of a link ──

    pub(super) fn takes_calls_on(&self, link: &Link) -> bool {
        matches!(&self.inner.lock().phase, Phase::Ready(transport) if transport.link.id == link.id)
    }

    /// The link has lived as long as it may.
    pub(super) fn link_aged(&self, link: &Link) {
        if self.retire(|current| current.id == link.id) {
            link.run_out();
        }
    }

    /// As `link_down`, if no call has run on the link for `timeout`: the driver's idle timeout.
    pub(super) fn link_idle(&self, id: u64, timeout: Duration) -> bool {
        self.retire(|link| link.id == id && link.idle_since().is_some_and(|since| since.elapsed() >= timeout))
    }

    fn retire(&self, which: impl FnOnce(&Link) -> bool) -> bool {
        self.update(|inner| match inner.phase.transport() {
            Some(transport) if which(&transport.link) => {
                Some(std::mem::replace(&mut inner.phase, Phase::Idle))
            }
            _ => None,
        })
        .is_some()
    }

    // ── the end of the connection ──

    /// Whether it is not shut down.
    pub(super) fn is_open(&self) -> bool {
        self.state() != ConnectivityState::Shutdown
    }

    /// Shutdown, for all handles.
    fn shut_down(&self, running: Running) {
        let (old, links) = self.update(|inner| {
            let links: Vec<_> = match running {
                Running::MayEnd => Vec::new(),
                _ => inner.links.iter().filter_map(Weak::upgrade).collect(),
            };
            if running == Running::HasGrace {
                // In here: no driver hears of the shutdown before, and no link that is made Ready meanwhile is missed.
                links.iter().for_each(|link| link.doom());
            }
            let told = match (&inner.phase, running) {
                (
                    Phase::Failed(error) | Phase::NotServing(_, error) | Phase::Shutdown(error),
                    Running::MayEnd,
                ) => error.clone(),
                _ => Error::Closed,
            };
            (std::mem::replace(&mut inner.phase, Phase::Shutdown(told)), links)
        });
        if running == Running::IsCut {
            links.iter().for_each(|link| link.kill());
        }
        if let (Running::MayEnd, Some(transport)) = (running, old.transport()) {
            transport.link.run_out();
        }
        if let Some((group, id)) = &self.group {
            group.shut_down(*id);
        }
    }

    pub(in crate::grpc) fn close(&self) {
        let grace = self.settings.as_ref().map_or(Duration::ZERO, |settings| settings.tuning.close_grace);
        self.shut_down(if grace.is_zero() { Running::IsCut } else { Running::HasGrace });
    }

    // ── for the pool ──

    /// Whether this call is the one that discards the connection.
    pub(crate) fn discard(&self) -> bool {
        // AcqRel: the drop of the last handle, after the discard, must see it.
        let first = !self.discarded.swap(true, Ordering::AcqRel);
        if let Some(group) = self.group().filter(|_| first) {
            group.counters.alive.fetch_sub(1, Ordering::Relaxed);
        }
        self.shut_down(Running::MayEnd);
        first
    }

    /// TransientFailure is taken back to what it is without the memory of the failure: Connecting if an attempt is
    /// under way, else Idle. A link whose server does not serve is given up: the next dial asks another.
    pub(crate) fn forget_failure(&self) {
        let old = self.update(|inner| match inner.phase {
            Phase::Failed(_) | Phase::NotServing(..) => {
                let next = if inner.dialing { Phase::Connecting } else { Phase::Idle };
                Some(std::mem::replace(&mut inner.phase, next))
            }
            _ => None,
        });
        if let Some(transport) = old.as_ref().and_then(Phase::transport) {
            transport.link.run_out();
        }
    }

    /// This connection's number in `group`; `None` if it is no member of it.
    #[inline]
    pub(crate) fn number_in(&self, group: &Arc<Group>) -> Option<u64> {
        self.group.as_ref().filter(|(own, _)| Arc::ptr_eq(own, group)).map(|(_, id)| *id)
    }
}

impl Observer for Shared {
    /// If the link was the current one, the connection is Idle.
    fn link_down(&self, id: u64, why: &str) {
        let mut lost = None;
        let which = |link: &Link| {
            let is_it = link.id == id;
            lost = is_it.then(|| life(link));
            is_it
        };
        if self.retire(which)
            && let Some(life) = lost
        {
            trace_event!("connection lost", target = self.target(), why = why);
            self.server.lost(life);
        }
    }

    fn too_many_pings(&self) {
        self.server.complained(self.complaints.load(Ordering::Relaxed));
    }

    fn limit_changed(&self) {
        self.tell_group();
    }
}

fn life(link: &Link) -> Life {
    let (lived, carried_a_call) = link.life();
    Life { lived, carried_a_call }
}

/// What becomes of calls that run when their connection is shut down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    /// It is closed.
    IsCut,
    /// It is closed: their links' drivers cut them when the grace is over.
    HasGrace,
    /// It is discarded: they run on links that the server told to go away. Who waits for a dial is told why the last one
    /// failed.
    MayEnd,
}

enum Found {
    Lease(Lease),
    Failed(Error),
    Nothing { attempts: u64 },
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((group, id)) = &self.group {
            group.forget(*id);
            if !*self.discarded.get_mut() {
                group.counters.alive.fetch_sub(1, Ordering::Relaxed);
                bump(&group.counters.released);
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConn")
            .field("target", &self.target())
            .field("state", &self.state())
            .field("in_pool", &self.group.is_some())
            .finish_non_exhaustive()
    }
}
