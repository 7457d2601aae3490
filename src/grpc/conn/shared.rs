//! The shell of a connection's [state machine](super::machine), behind every handle of it.
//!
//! # Protocol
//!
//! * [`Inner`] changes only in [`Shared::update`], under its lock: the machine applies one event. The shell then publishes
//!   the state twice: in `state`, an atomic mirror that is stored under the lock, so that it is never older than the lock's
//!   last release; and in `updates`, a watch channel, after the lock is released, because its wakers are foreign code. Each
//!   update carries a number, so that a later one is not overwritten by an earlier one that overtook it. What an event
//!   has replaced is dropped after the lock, too: a drop wakes tasks.
//! * **Handles** are the strong counts of `Arc<Shared>`: the `ClientConn`s, the calls under way and their
//!   response bodies. Tasks, sockets and pools' lists hold a `Weak`. So the drop of the last handle drops `Shared`,
//!   and with it hyper's request sender, upon which hyper sends GOAWAY and closes the socket, and the
//!   `updates` channel, whose end the tasks see.
//! * **Dialing** is one task at most (an invariant of the machine), on the runtime of the call that wanted it. The guard of a
//!   task that is dropped with its runtime reports that it ended without an outcome: the state is Idle again, and callers that
//!   wait dial anew. So they do when the task has not been polled for [`UNDRIVEN`]; should it run again, its outcome counts for
//!   nothing.
//! * A **link** (one socket) is current from [`connected`](Shared::connected) to the first of: the tap saw GOAWAY or
//!   the end of the socket, the driver found it idle, hyper gave a request back, a pool gave it up because its server does not
//!   serve. A link that is no longer current ends with its streams; only `close` cuts it.

use std::fmt;
use std::io;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::dialing::{self, Missed};
use super::health::Verdict;
use super::lease::{CallGuard, Lease, RESTS};
use super::machine::{self, Effects, Event, Machine, Outcome, Phase, Up};
use super::membership::{Callers, Elsewhere, Membership, Pool, Why};
use super::state::ConnectivityState;
use crate::grpc::config::Settings;
use crate::grpc::counters::bump;
use crate::grpc::dial::backoff::Life;
use crate::grpc::error::{DialPhase, Error, with_causes};
use crate::grpc::link::request_body::RequestBody;
use crate::grpc::link::{Link, LinkPhase, Observer, UNDRIVEN};
use crate::grpc::runtime;
use crate::grpc::server::Server;
use crate::grpc::trace::trace_event;
use crate::primitive::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::primitive::{Arc, Mutex, MutexGuard, Weak};

/// How long a call waits for a slot before it looks for another connection again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often, at least, a call that waits for a dial looks whether that runs.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often one call waits for a dial that ends without an outcome (its runtime ended) before it gives up.
const MAX_WAITS: usize = 4;

pub(crate) struct Shared {
    /// An error here is the answer to every call: the connection of a pool that could not be configured.
    pub(in crate::grpc) settings: Result<Arc<Settings>, Error>,
    /// Where it belongs to a pool.
    membership: Option<Membership>,
    /// Mirror of `inner.phase`, for `state()`.
    state: AtomicU8,
    inner: Mutex<Inner>,
    updates: watch::Sender<StateUpdate>,
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
    /// When the dial task was last polled, in ms since `born`.
    dial_ran: AtomicU64,
    born: Instant,
    /// Where the last dial was begun, which drives what comes of it. The lock is held for no other's.
    runtime: Mutex<Option<tokio::runtime::Id>>,
    /// Mirror of the limit of streams of the link that is Ready; 0 otherwise.
    streams: AtomicU32,
    /// For the pool that it belongs to.
    pub(in crate::grpc) callers: Callers,
}

struct Inner {
    machine: Machine<Transport, Error>,
    /// Incremented by each update.
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

/// What the watch channel carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateUpdate {
    pub(super) state: ConnectivityState,
    /// Whether another update follows without a further event from this side: of a dial, or of the
    /// server's health.
    dialing: bool,
    attempts: u64,
    number: u64,
}

/// A live connection, as a call needs it.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) send: SendRequest<RequestBody>,
    pub(super) link: Arc<Link>,
}

impl Shared {
    pub(in crate::grpc) fn new(
        settings: Result<Arc<Settings>, Error>,
        membership: Option<Membership>,
    ) -> Arc<Self> {
        let state = ConnectivityState::Idle;
        let server = match (&membership, &settings) {
            (Some(membership), _) => Arc::clone(&membership.server),
            (None, settings) => {
                let backoff = settings.as_ref().map(|settings| settings.tuning.backoff);
                Arc::new(Server::new(backoff.unwrap_or_default()))
            }
        };
        Arc::new(Shared {
            settings,
            membership,
            state: AtomicU8::new(state as u8),
            inner: Mutex::new(Inner {
                machine: Machine::new(now()),
                updates: 0,
                last_link: 0,
                links: Vec::new(),
            }),
            updates: watch::Sender::new(StateUpdate { state, dialing: false, attempts: 0, number: 0 }),
            retry_now: Arc::new(Notify::new()),
            discarded: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            server,
            complaints: AtomicU32::new(0),
            dial_ran: AtomicU64::new(0),
            born: Instant::now(),
            runtime: Mutex::new(None),
            streams: AtomicU32::new(0),
            callers: Callers::new(),
        })
    }

    #[inline]
    pub(crate) fn state(&self) -> ConnectivityState {
        // Acquire: a thread that sees Ready also sees what led to it.
        ConnectivityState::from_u8(self.state.load(Ordering::Acquire))
    }

    pub(super) fn updates(&self) -> watch::Receiver<StateUpdate> {
        self.updates.subscribe()
    }

    pub(super) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Applies one event, and publishes the state that it leads to. `event` is made under the lock, so that what it says of
    /// a link holds when it is applied.
    fn update(&self, event: impl FnOnce(&Inner) -> Event<Transport, Error>) -> Effects<Transport, Error> {
        let mut inner = self.inner.lock();
        let event = event(&inner);
        let effects = inner.machine.apply(event, now());
        self.publish(inner, effects)
    }

    /// As [`update`](Self::update), for what a dial task reports. `None`: another has taken its place.
    fn update_of_dial(&self, dial: u64, event: Event<Transport, Error>) -> Option<Effects<Transport, Error>> {
        let mut inner = self.inner.lock();
        let effects = inner.machine.apply_of_dial(dial, event, now())?;
        Some(self.publish(inner, effects))
    }

    fn publish(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        effects: Effects<Transport, Error>,
    ) -> Effects<Transport, Error> {
        let lost = match &effects.released {
            _ if !effects.in_doubt => None,
            Some(Phase::Ready(up) | Phase::NotServing(up, _)) => Some(life(&up.transport.link)),
            // The link stays, and its server does not serve.
            _ => inner.machine.current().map(|up| life(&up.transport.link)),
        };
        inner.updates += 1;
        let update = StateUpdate {
            state: effects.to,
            dialing: inner.machine.is_in_progress(),
            attempts: inner.machine.attempts(),
            number: inner.updates,
        };
        self.publish_streams(&inner);
        if effects.start_dial {
            self.dial_runs();
        }
        self.state.store(update.state as u8, Ordering::Release);
        drop(inner);
        self.updates.send_if_modified(|published| {
            let newer = update.number > published.number;
            if newer {
                *published = update;
            }
            newer
        });
        // Before the pool is notified, which may dial another: that one must find the gate closed.
        if let Some(life) = lost {
            self.server.lost(life);
        }
        if effects.from != effects.to {
            trace_event!(
                "connectivity changed",
                target = self.target(),
                from = effects.from,
                to = effects.to
            );
            self.notify_pool();
        }
        effects
    }

    /// Under the lock: so the last limit stays.
    fn publish_streams(&self, inner: &Inner) {
        let limit = inner.machine.ready().map_or(0, |up| up.transport.link.limit());
        // Relaxed: it is read for a choice, and one that is a moment old leads to a call that waits or looks elsewhere.
        self.streams.store(limit, Ordering::Relaxed);
        self.server.takes_streams(limit);
    }

    fn notify_pool(&self) {
        if let Some(Membership { pool, id, .. }) = &self.membership {
            pool.changed(*id);
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
        let mut found = self.lease_once(wait_for_ready).await;
        if let Ok(lease) = &mut found
            && lease.call.try_take_slot()
            && (self.membership.is_none() || lease.call.is_here())
        {
            return found;
        }
        // In a box: what is seldom needed does not make each call's future larger.
        Box::pin(self.lease_slowly(found, wait_for_ready)).await
    }

    async fn lease_once(self: &Arc<Self>, wait_for_ready: bool) -> Result<Lease, Error> {
        match wait_for_ready && self.membership.is_none() {
            true => self.lease_when_ready().await,
            false => self.lease_or_failure().await,
        }
    }

    /// The rest of [`lease`](Self::lease), if the first attempt has failed, found no slot, or found a link that another runtime
    /// drives.
    async fn lease_slowly(
        self: &Arc<Self>,
        mut found: Result<Lease, Error>,
        wait_for_ready: bool,
    ) -> Result<Lease, Error> {
        loop {
            let mut lease = match found {
                Ok(lease) => lease,
                Err(error @ (Error::Dial { .. } | Error::NotServing { .. })) => {
                    match self.elsewhere(Why::Failed).await {
                        Some(lease) => return Ok(lease),
                        None if wait_for_ready => self.lease_when_ready().await?,
                        None => return Err(error),
                    }
                }
                // Closed, or nothing that another connection would mend.
                Err(error) => return Err(error),
            };
            if lease.call.has_slot() || lease.call.try_take_slot() {
                // A caller without a runtime has no connection of its own.
                let is_foreign =
                    self.membership.is_some() && !lease.call.is_here() && runtime::current().is_ok();
                if is_foreign {
                    let Some(here) = self.elsewhere(Why::Foreign).await else { return Ok(lease) };
                    // So that the caller's thread does not find this one again the next time.
                    self.callers.one_is_unwelcome();
                    return Ok(here);
                }
                return Ok(lease);
            }
            if let Some(lease) = self.wait_for_slot(lease).await {
                return Ok(lease);
            }
            found = self.lease_once(wait_for_ready).await;
        }
    }

    /// A slot of the link, in order, or of another connection of the pool. `None`: the link is no longer the current one.
    ///
    /// Cancel safe.
    async fn wait_for_slot(&self, mut lease: Lease) -> Option<Lease> {
        if let Some(other) = self.elsewhere(Why::Full).await {
            return Some(other);
        }
        // What could not be had a moment ago, because the last dial had failed, perhaps, can be had later. Where there are
        // no timers nobody looks again.
        let looks_again = self.membership.is_some() && runtime::current().is_ok();
        let again = async {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                if let Some(other) = self.elsewhere(Why::Full).await {
                    return other;
                }
            }
        };
        tokio::select! {
            biased;
            has_slot = lease.call.take_slot() => has_slot.then_some(lease),
            other = again, if looks_again => Some(other),
        }
    }

    /// A slot of another connection of the pool, if the pool has one for this call. Cancel safe.
    async fn elsewhere(&self, why: Why) -> Option<Lease> {
        let Membership { pool, id, .. } = self.membership.as_ref()?;
        let mut tried = vec![*id];
        while let Some(Elsewhere { conn, ticket }) = pool.elsewhere(&tried, why) {
            match conn.lease_or_failure().await {
                Ok(mut lease) => {
                    lease.hold(ticket);
                    let has_slot = match why {
                        Why::Foreign if !lease.call.is_here() => false,
                        Why::Full | Why::Foreign => lease.call.try_take_slot(),
                        // There is nothing better to wait for.
                        Why::Failed => lease.call.take_slot().await,
                    };
                    if has_slot {
                        return Some(lease);
                    }
                }
                // Where the call has a connection, another attempt for a better one is not worth its while. It might
                // also fail each time: where there is no runtime, for example.
                Err(_) if why != Why::Failed => return None,
                Err(_) => {}
            }
            tried.extend(conn.membership.as_ref().map(|membership| membership.id));
        }
        None
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
            let outcome = move |update: &StateUpdate| {
                let over = matches!(update.state, ConnectivityState::Ready | ConnectivityState::Shutdown);
                over || update.attempts != seen || !update.dialing
            };
            Box::pin(self.wait_for_dial(outcome)).await;
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
        let (mut attempts, mut in_vain) = (None, 0);
        while in_vain < MAX_WAITS {
            match self.try_lease(None) {
                Found::Lease(lease) => return Ok(lease),
                Found::Failed(error) if !self.is_open() => return Err(error),
                Found::Failed(_) | Found::Nothing { .. } => {}
            }
            // In a pool a dial ends with each failure; the gate paces those that follow.
            self.dial()?;
            let settled = |update: &StateUpdate| {
                matches!(update.state, ConnectivityState::Ready | ConnectivityState::Shutdown)
                    || !update.dialing
            };
            let now = Box::pin(self.wait_for_dial(settled)).await;
            in_vain = if now == attempts { in_vain + 1 } else { 0 };
            attempts = now;
        }
        Err(self.in_vain())
    }

    /// Waits until `settled`, and returns how many attempts there have been. To be called on a runtime with timers.
    ///
    /// A dial whose task is not polled, because its runtime rests, is given up, and the callers that wait for it dial anew. Cancel safe.
    async fn wait_for_dial(&self, settled: impl Fn(&StateUpdate) -> bool) -> Option<u64> {
        let mut updates = self.updates();
        let mut pause = UNDRIVEN;
        loop {
            let dials = self.inner.lock().machine.dial().is_some();
            tokio::select! {
                biased;
                // The sender is in `self`: no error.
                update = updates.wait_for(|update| settled(update)) => return update.ok().map(|update| update.attempts),
                () = tokio::time::sleep(pause), if dials => self.give_up_resting_dial(),
            }
            // A dial that has run for so long hardly rests later, and a caller that waits for long is not to be
            // woken each second.
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// The dial task has been polled.
    pub(super) fn dial_runs(&self) {
        // Relaxed, here and below: it is a hint. An old value leads to a dial that was not necessary.
        self.dial_ran.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn give_up_resting_dial(&self) {
        let ran = Duration::from_millis(self.dial_ran.load(Ordering::Relaxed));
        if self.born.elapsed().saturating_sub(ran) < UNDRIVEN {
            return;
        }
        let dial = self.inner.lock().machine.dial();
        if let Some(dial) = dial
            && let Some(_dropped) = self.update_of_dial(dial, Event::DialAbandoned)
        {
            trace_event!("dial given up: its runtime does not run", target = self.target());
        }
    }

    fn in_vain(&self) -> Error {
        let text = "the connection was lost, or its dial ended without an outcome, each time it was awaited";
        self.dial_error(DialPhase::Connect, io::Error::other(text))
    }

    /// A lease if there is a connection. In TransientFailure: the error, for a connection that paces itself or is up, at once;
    /// for one that shares its pool's gate, only if it is the outcome of an attempt after the first
    /// `waited_from`; else the caller waits for the next attempt.
    fn try_lease(self: &Arc<Self>, waited_from: Option<u64>) -> Found {
        let mut inner = self.inner.lock();
        match inner.machine.look(waited_from, self.membership.is_none(), now()) {
            // Another dial is on the runtime of its caller, which runs.
            machine::Found::Transport(Transport { link, .. }) if link.is_undriven() => {
                let link = Arc::clone(link);
                drop(inner);
                link.give_up();
                self.link_down(link.id, RESTS);
                self.try_lease(waited_from)
            }
            machine::Found::Transport(Transport { send, link }) => {
                link.begin_call();
                let call = CallGuard::new(Arc::clone(self), Arc::clone(link));
                Found::Lease(Lease { send: send.clone(), call })
            }
            machine::Found::Failed(error) => Found::Failed(error),
            machine::Found::Nothing { attempts } => Found::Nothing { attempts },
        }
    }

    /// Makes sure that a dial is under way, if one is due: on the runtime of the caller.
    pub(in crate::grpc) fn dial(self: &Arc<Self>) -> Result<(), Error> {
        let settings = self.settings.as_ref().map_err(Error::clone)?;
        let runtime = runtime::current()?;
        let effects = self.update(|_| Event::Wanted);
        if effects.start_dial {
            *self.runtime.lock() = Some(runtime.id());
            // The guard is inside before the task is born: a runtime that is shutting down drops the task at once.
            drop(runtime.spawn(dialing::run(self, effects.dial, Arc::clone(settings))));
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
        let mut inner = self.inner.lock();
        inner.links.retain(|link| link.strong_count() > 0);
        inner.last_link += 1;
        let link = Link::new(inner.last_link, owner);
        inner.links.push(Arc::downgrade(&link));
        link
    }

    /// The dial came through: Ready, or TransientFailure if the server does not serve; unless the link is already no good, or
    /// the connection was closed meanwhile.
    pub(super) fn connected(&self, dial: u64, transport: Transport, verdict: Verdict) -> Result<(), Missed> {
        let failure = verdict.clone().err();
        self.trace_not_serving(failure.as_ref());
        let effects = {
            let mut inner = self.inner.lock();
            let is_open = transport.link.phase() == LinkPhase::Open;
            let up = Up { link: transport.link.id, transport };
            let event = Event::Connected { up, is_open, health: verdict };
            match inner.machine.apply_of_dial(dial, event, now()) {
                Some(effects) => self.publish(inner, effects),
                None => return Err(Missed::Failed(Error::Closed)),
            }
        };
        match effects.outcome {
            Outcome::Applied | Outcome::Ignored => Ok(()),
            Outcome::IsShutDown => Err(Missed::Failed(Error::Closed)),
            Outcome::LostAtOnce => {
                let lost = io::Error::new(io::ErrorKind::ConnectionReset, "lost at once after SETTINGS");
                Err(Missed::Lost(self.dial_error(DialPhase::Settings, lost)))
            }
        }
    }

    /// The dial failed: TransientFailure. `dialing` says whether the task goes on.
    pub(super) fn dial_failed(&self, dial: u64, error: Error, dialing: bool) {
        trace_event!("dial failed", target = self.target(), error = with_causes(&error));
        let _dropped = self.update_of_dial(dial, Event::AttemptFailed { error, goes_on: dialing });
    }

    /// The dial task is gone without an outcome: as if it had never been.
    pub(super) fn dial_abandoned(&self, dial: u64) {
        let _dropped = self.update_of_dial(dial, Event::DialAbandoned);
    }

    /// Whether the outcome of the dial still matters: the connection is open, and no other dial has taken its place.
    pub(super) fn wants_outcome(&self, dial: u64) -> bool {
        self.is_open() && self.inner.lock().machine.is_current_dial(dial)
    }

    /// Whether nobody wants a connection: no call waits for one, and none has asked for that long.
    pub(super) fn is_unwanted(&self, timeout: Duration) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.inner.lock().machine.is_unwanted(timeout, now())
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
        self.inner.lock().machine.ready().map(|up| up.transport.link.limit())
    }

    /// The same; for a connection that is not Ready, the limit that the server has announced on other
    /// connections. Takes no lock.
    pub(in crate::grpc) fn expected_streams(&self, state: ConnectivityState) -> Option<u32> {
        match state {
            ConnectivityState::Ready => Some(self.streams.load(Ordering::Relaxed)),
            _ => self.server.expected_streams(),
        }
    }

    /// Whether it is dialed or driven elsewhere than `here`, in this state.
    pub(in crate::grpc) fn is_foreign(&self, state: ConnectivityState, here: tokio::runtime::Id) -> bool {
        matches!(state, ConnectivityState::Connecting | ConnectivityState::Ready)
            && self.runtime.lock().is_some_and(|there| there != here)
    }

    /// Whether no dial of it has come to an outcome.
    pub(in crate::grpc) fn is_untried(&self) -> bool {
        self.inner.lock().machine.attempts() == 0
    }

    /// Why it is in TransientFailure or Shutdown.
    pub(in crate::grpc) fn failure(&self) -> Option<Error> {
        self.inner.lock().machine.failure().cloned()
    }

    // ── the server's health ──

    /// Whether calls go to this link, or will when its server serves.
    pub(super) fn is_current(&self, link: u64) -> bool {
        self.inner.lock().machine.current().is_some_and(|up| up.link == link)
    }

    /// The server of a link says how it is. That of an old one says nothing that counts.
    pub(super) fn health_changed(&self, link: u64, verdict: Verdict) {
        let failure = verdict.clone().err();
        let effects = self.update(|_| Event::Health { link, health: verdict });
        if effects.in_doubt {
            self.trace_not_serving(failure.as_ref());
        }
    }

    fn trace_not_serving(&self, error: Option<&Error>) {
        if let Some(error) = error {
            trace_event!("not serving", target = self.target(), error = with_causes(error));
        }
    }

    // ── the end of a link ──

    pub(super) fn takes_calls_on(&self, link: &Link) -> bool {
        self.inner.lock().machine.ready().is_some_and(|up| up.link == link.id)
    }

    /// The link has lived as long as it may.
    pub(super) fn link_aged(&self, link: &Link) {
        if self.retire(link.id, |_| true) {
            link.run_out();
        }
    }

    /// As `link_down`, if no call has run on the link for `timeout`: the driver's idle timeout.
    pub(super) fn link_idle(&self, id: u64, timeout: Duration) -> bool {
        self.retire(id, |link| link.idle_since().is_some_and(|since| since.elapsed() >= timeout))
    }

    fn retire(&self, link: u64, is_due: impl FnOnce(&Link) -> bool) -> bool {
        let effects = self.update(|inner| {
            // Under the lock, under which calls begin: none has since.
            let is_due = inner.machine.current().is_some_and(|up| is_due(&up.transport.link));
            Event::LinkRetired { link, is_due }
        });
        effects.outcome == Outcome::Applied
    }

    // ── the end of the connection ──

    /// Whether it is not shut down.
    pub(super) fn is_open(&self) -> bool {
        self.state() != ConnectivityState::Shutdown
    }

    /// Shutdown, for all handles.
    fn shut_down(&self, running: Running) {
        let mut links = Vec::new();
        let effects = self.update(|inner| {
            links = match running {
                Running::MayEnd => Vec::new(),
                _ => inner.links.iter().filter_map(Weak::upgrade).collect(),
            };
            if running == Running::HasGrace {
                // Before the state is published, upon which the drivers look; and with no link missed that becomes Ready
                // meanwhile.
                links.iter().for_each(|link| link.doom());
            }
            Event::ShutDown { error: Error::Closed, keep_failure: running == Running::MayEnd }
        });
        if running == Running::IsCut {
            links.iter().for_each(|link| link.kill());
        }
        if running == Running::MayEnd {
            effects.run_out();
        }
        if let Some(Membership { pool, id, .. }) = &self.membership {
            pool.shut_down(*id);
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
        if let Some(membership) = self.membership.as_ref().filter(|_| first) {
            membership.counters.alive.fetch_sub(1, Ordering::Relaxed);
        }
        self.shut_down(Running::MayEnd);
        first
    }

    /// TransientFailure is taken back to what it is without the memory of the failure: Connecting if an attempt is
    /// under way, else Idle. A link whose server does not serve is given up: the next dial asks another.
    pub(crate) fn forget_failure(&self) {
        self.update(|_| Event::FailureForgotten).run_out();
    }

    /// This connection's number in `pool`; `None` if it is no member of it.
    #[inline]
    pub(in crate::grpc) fn number_in<P: Pool>(&self, pool: &Arc<P>) -> Option<u64> {
        let is_own = |own: &&Membership| std::ptr::addr_eq(Arc::as_ptr(&own.pool), Arc::as_ptr(pool));
        self.membership.as_ref().filter(is_own).map(|own| own.id)
    }
}

impl Observer for Shared {
    /// If the link was the current one, the connection is Idle.
    fn link_down(&self, id: u64, why: &str) {
        if self.update(|_| Event::LinkLost { link: id }).outcome == Outcome::Applied {
            trace_event!("connection lost", target = self.target(), why = why);
        }
    }

    fn too_many_pings(&self) {
        self.server.complained(self.complaints.load(Ordering::Relaxed));
    }

    fn limit_changed(&self) {
        self.publish_streams(&self.inner.lock());
        self.notify_pool();
    }
}

fn life(link: &Link) -> Life {
    let (lived, carried_a_call) = link.life();
    Life { lived, carried_a_call }
}

impl Effects<Transport, Error> {
    /// The link that was given up gets no new calls: while its last ones run, the pool may open another.
    fn run_out(&self) {
        if let Some(Phase::Ready(up) | Phase::NotServing(up, _)) = &self.released {
            up.transport.link.run_out();
        }
    }
}

/// By tokio's clock, which tests can pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// What becomes of calls that run when their connection is shut down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    /// It is closed.
    IsCut,
    /// It is closed: their links' drivers cut them when the grace is over.
    HasGrace,
    /// It is discarded: they run on links that got a GOAWAY. A call that waits for a dial gets the reason why the last one
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
        if let Some(Membership { pool, id, counters, .. }) = &self.membership {
            pool.forget(*id);
            if !*self.discarded.get_mut() {
                counters.alive.fetch_sub(1, Ordering::Relaxed);
                bump(&counters.released);
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConn")
            .field("target", &self.target())
            .field("state", &self.state())
            .field("in_pool", &self.membership.is_some())
            .finish_non_exhaustive()
    }
}
