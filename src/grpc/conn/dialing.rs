//! The dial task of a connection, and one attempt of it.

use std::io;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::driver;
use super::health::{Health, Verdict};
use super::membership::Membership;
use super::shared::{Shared, StateUpdate, Transport};
use super::state::ConnectivityState;
use crate::grpc::config::Settings;
use crate::grpc::counters::{OpenSocket, bump};
use crate::grpc::dial::backoff::Pauses;
use crate::grpc::dial::connector::BoxError;
use crate::grpc::dial::gate::{Entry, Turn};
use crate::grpc::dial::{Progress, Way, establish};
use crate::grpc::error::{DialPhase, Error};
use crate::grpc::link::one_task::OneTask;
use crate::grpc::link::request_body::RequestBody;
use crate::grpc::link::tap::WhileOpen;
use crate::grpc::link::{Link, LinkPhase};
use crate::grpc::options::YEAR;
use crate::grpc::runtime;
use crate::grpc::server::slowed;
use crate::primitive::{Arc, Weak};

/// How often the task shows that it is polled: several times before a caller takes its runtime to rest.
const BEAT: Duration = Duration::from_millis(250);

/// How long one attempt may take, at least, where the user did not say.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Dials until there is an outcome, and for a connection that paces itself until there is a good one. Ends with
/// the connection.
///
/// It holds no handle while it waits for anything.
pub(super) fn run(
    owner: &Arc<Shared>,
    number: u64,
    settings: Arc<Settings>,
) -> impl Future<Output = ()> + Send + 'static {
    let updates = owner.updates();
    let retry_now = Arc::clone(&owner.retry_now);
    let guard = DialGuard { owner: Arc::downgrade(owner), number, finished: false };
    let beating = beat(Arc::downgrade(owner));
    let membership = owner.membership().cloned();
    async move {
        let mut ended = updates.clone();
        let dial = async {
            match membership {
                Some(membership) => dial_through_gate(guard, &settings, &membership, updates).await,
                None => {
                    let mut guard = guard;
                    let mut pauses = Pauses::new(settings.tuning.backoff);
                    // The connections before were lost at once: the first attempt has failed, as it were.
                    let mut due = guard.owner.upgrade().and_then(|owner| owner.server.pause());
                    loop {
                        let (pause, error) = match due.take() {
                            Some(pause) => (pause, lost_at_once(&settings)),
                            None => {
                                let pause = pauses.next();
                                match attempts_caught(&guard, &settings, None, pause, &updates).await {
                                    Ok(_) => return guard.finish(),
                                    Err(error) => (pause, error),
                                }
                            }
                        };
                        let Some(owner) = guard.owner.upgrade().filter(|_| guard.is_wanted()) else { return };
                        // Before the failure is published: a retry that is requested upon it is not missed.
                        let retry_now = retry_now.notified();
                        tokio::pin!(retry_now);
                        retry_now.as_mut().enable();
                        owner.dial_failed(number, error, true);
                        drop(owner);
                        let early = tokio::select! {
                            () = sleep(pause) => false,
                            () = retry_now => true,
                        };
                        let Some(owner) = guard.owner.upgrade() else { return };
                        if early {
                            pauses.reset();
                            owner.server.reset_pause();
                            continue;
                        }
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
            () = beating => {}
        }
    }
}

/// One attempt, when the pool's gate lets it through, or the outcome of another's.
async fn dial_through_gate(
    mut guard: DialGuard,
    settings: &Arc<Settings>,
    membership: &Membership,
    updates: watch::Receiver<StateUpdate>,
) {
    let error = match socket_permit(settings, membership).await {
        Err(error) => error,
        Ok(permit) => match membership.server.gate.enter().await {
            Entry::Failed(error) => error,
            Entry::Turn(turn) => {
                let pooled = Pooled { membership, permit, turn: &turn };
                let result = attempts_caught(&guard, settings, Some(pooled), Duration::ZERO, &updates).await;
                match result {
                    Ok(Ok(())) => return guard.finish(),
                    // The connection is up and stays; to the others it is an outage as any.
                    Ok(Err(error)) => {
                        bump(&membership.counters.failed_dials);
                        turn.failed(error);
                        return guard.finish();
                    }
                    // Closed on this side meanwhile, or given up: that says nothing of the server, so the turn is not
                    // settled.
                    Err(_) if !guard.is_wanted() => return,
                    Err(error) => {
                        bump(&membership.counters.failed_dials);
                        turn.failed(error.clone());
                        error
                    }
                }
            }
        },
    };
    if let Some(owner) = guard.owner.upgrade() {
        owner.dial_failed(guard.number, error, false);
        guard.finish();
    }
}

/// Taken before the gate, so that a dial that waits for a permit holds no turn. The permit is free at once, except while a closed
/// socket goes, or where somebody holds on to a connection that is not his.
async fn socket_permit(
    settings: &Settings,
    membership: &Membership,
) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let budget = settings.tuning.connect_timeout.unwrap_or(ATTEMPT);
    timeout(budget, membership.socket_permit()).await.map_err(|_| Error::Dial {
        target: Arc::clone(&settings.target.text),
        phase: DialPhase::Connect,
        source: Arc::new(timed_out(format!("no socket of max_connections was free within {budget:?}"))),
    })
}

fn lost_at_once(settings: &Settings) -> Error {
    let text = "the connections before were lost at once, and no call had run on them";
    let source = Arc::new(io::Error::new(io::ErrorKind::ConnectionReset, text));
    Error::Dial { target: Arc::clone(&settings.target.text), phase: DialPhase::Settings, source }
}

fn timed_out(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// What a connection of a pool brings to its attempt.
struct Pooled<'a> {
    membership: &'a Membership,
    permit: Option<OwnedSemaphorePermit>,
    turn: &'a Turn<'a>,
}

/// Leaves the connection Idle if the dial task ends without an outcome.
struct DialGuard {
    owner: Weak<Shared>,
    /// Of the dial.
    number: u64,
    finished: bool,
}

impl DialGuard {
    fn finish(&mut self) {
        self.finished = true;
    }

    fn is_wanted(&self) -> bool {
        self.owner.upgrade().is_some_and(|owner| owner.wants_outcome(self.number))
    }
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if !self.finished
            && let Some(owner) = self.owner.upgrade()
        {
            owner.dial_abandoned(self.number);
        }
    }
}

/// Lets callers see that the task is polled, until the connection is gone.
async fn beat(owner: Weak<Shared>) {
    while let Some(owner) = owner.upgrade() {
        owner.dial_runs();
        drop(owner);
        sleep(BEAT).await;
    }
}

/// Returns when the connection is shut down, or its last handle is gone (the channel's sender is in it).
async fn shut_down(updates: &mut watch::Receiver<StateUpdate>) {
    let _ = updates.wait_for(|update| update.state == ConnectivityState::Shutdown).await;
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

/// As [`attempts`], where a panic is a failure: of tokio on a runtime without I/O, or of a user's connector. A dial task that
/// panicked would leave its connection Idle, to be dialed again at once.
async fn attempts_caught(
    guard: &DialGuard,
    settings: &Arc<Settings>,
    pooled: Option<Pooled<'_>>,
    backoff: Duration,
    updates: &watch::Receiver<StateUpdate>,
) -> Result<Verdict, Error> {
    let panicked = |text: String| Error::Dial {
        target: Arc::clone(&settings.target.text),
        phase: DialPhase::Connect,
        source: Arc::new(io::Error::other(text)),
    };
    runtime::caught(attempts(guard, settings, pooled, backoff, updates), panicked).await?
}

/// An attempt; and another, within its time, if that is lost: that is no failure, but a connection that was Ready for no
/// time. A server that does so each time is not to be dialed without a pause, so two losses are a failure.
async fn attempts(
    guard: &DialGuard,
    settings: &Arc<Settings>,
    mut pooled: Option<Pooled<'_>>,
    backoff: Duration,
    updates: &watch::Receiver<StateUpdate>,
) -> Result<Verdict, Error> {
    let budget = settings.tuning.connect_timeout.unwrap_or_else(|| ATTEMPT.max(backoff));
    let deadline = Instant::now() + budget.min(YEAR);
    let mut lost = false;
    loop {
        match attempt(guard, settings, pooled.as_mut(), budget, deadline, updates.clone()).await {
            Ok(verdict) => return Ok(verdict),
            Err(Missed::Lost(_)) if !lost => lost = true,
            Err(Missed::Lost(error) | Missed::Failed(error)) => return Err(error),
        }
    }
}

/// Name resolution to SETTINGS, and to the first word on the server's health, under one time budget. On success the
/// connection is Ready, or up and not serving.
async fn attempt(
    guard: &DialGuard,
    settings: &Arc<Settings>,
    pooled: Option<&mut Pooled<'_>>,
    budget: Duration,
    deadline: Instant,
    updates: watch::Receiver<StateUpdate>,
) -> Result<Verdict, Missed> {
    let (link, server, way) = {
        let owner = guard.owner.upgrade().ok_or(Error::Closed)?;
        let way = Way {
            endpoint: &settings.target.endpoint,
            uri: settings.dial_uri(),
            tls: settings.tls.as_ref(),
            options: &settings.tuning.dial,
            passed_over: owner.server.passed_over(),
            keepalive: settings.tuning.dial.keepalive.map(|keepalive| {
                // The link that is about to be made pings by what is known now.
                slowed(keepalive, owner.note_complaints())
            }),
        };
        (owner.new_link(), Arc::clone(&owner.server), way)
    };
    let counters = pooled.as_ref().map(|pooled| &pooled.membership.counters);
    if let Some(counters) = counters {
        bump(&counters.dials);
    }
    // Whatever becomes of the attempt, its socket does not stay.
    let cut = KillOnDrop(Some(Arc::clone(&link)));
    let progress = Progress::new();
    let failed = |source: BoxError| {
        let target = Arc::clone(&settings.target.text);
        Error::Dial { target, phase: progress.phase(), source: Arc::from(source) }
    };
    let open = counters.map(|counters| Box::new(OpenSocket::new(counters)) as WhileOpen);
    let up = async {
        let (send, mut conn) = match establish(&way, &link, open, &progress).await {
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
    if result.is_err() && !matches!(progress.phase(), DialPhase::Resolve | DialPhase::Connect) {
        server.pass_over(way.passed_over);
    }
    let (send, conn, health, verdict) = result?;
    let owner = guard.owner.upgrade().ok_or(Error::Closed)?;
    link.comes_into_use();
    if let (Some(pooled), Ok(())) = (&pooled, &verdict) {
        pooled.turn.succeeded();
    }
    let mut no_permit = None;
    let permit = pooled.map_or(&mut no_permit, |pooled| &mut pooled.permit);
    // Before others may see the link.
    link.swap_permit(permit);
    if let Err(missed) =
        owner.connected(guard.number, Transport { send, link: Arc::clone(&link) }, verdict.clone())
    {
        // For another attempt.
        link.swap_permit(permit);
        return Err(missed);
    }
    cut.disarm();
    tokio::spawn(driver::drive(conn, Arc::downgrade(&owner), link, Arc::clone(settings), health, updates));
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

/// The server's first report of its health. Without a health check the server counts as serving.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::grpc::{ClientConn, ClientPool};

    /// A socket on which nothing is said.
    fn stalling(pool: bool) -> (ClientConn, ClientConn) {
        let connector = tower::service_fn(|_| async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move { drop((tokio::time::sleep(Duration::MAX).await, theirs)) });
            Ok::<_, std::io::Error>(ours)
        });
        if !pool {
            let builder = ClientConn::builder("in.memory:1").connector(connector);
            let conn = builder.connect_timeout(Duration::from_secs(1)).build().unwrap();
            return (conn.clone(), conn);
        }
        let builder = ClientPool::builder("in.memory:1").connector(connector);
        let pool = builder.connect_timeout(Duration::from_secs(1)).build().unwrap();
        (pool.take(), pool.take())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_takes_a_socket_and_stalls_is_passed_over_by_all_connections_of_a_pool() {
        for pool in [false, true] {
            let (one, other) = stalling(pool);
            assert_eq!(other.shared.server.passed_over(), 0);
            one.connect();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!(other.shared.server.passed_over(), 1, "in a pool: {pool}");
            one.close();
        }
    }
}
