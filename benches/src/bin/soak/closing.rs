//! Connections that are closed while calls run on them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cenote::grpc::{ClientConn, ClientPool, ConnectivityState, PooledConn};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::calls::{self, Plan};
use crate::load::{SLACK, Stop};
use crate::source::Way;
use crate::tally::{Call, Outcome, Tally};
use crate::verdict::Circumstances;

/// Where to make connections, or to take them.
#[derive(Clone)]
pub(crate) struct Closer {
    pub(crate) name: &'static str,
    pub(crate) gentle: bool,
    pub(crate) targets: Vec<String>,
    pub(crate) pool: ClientPool,
    /// The pool's, for those that run when one of its connections is closed.
    pub(crate) grace: Duration,
}

/// What it closes; of a pool it goes back afterwards.
struct Victim {
    conn: ClientConn,
    _guard: Option<PooledConn<'static>>,
    grace: Duration,
}

impl Closer {
    fn victim(&self, rng: &mut fastrand::Rng) -> Victim {
        if rng.bool() {
            let guard = self.pool.get_owned();
            return Victim { conn: (*guard).clone(), _guard: Some(guard), grace: self.grace };
        }
        let target = &self.targets[rng.usize(..self.targets.len())];
        let grace = if rng.bool() { Duration::ZERO } else { Duration::from_millis(rng.u64(1..300)) };
        let conn = ClientConn::builder(target).resend_buffer(1 << 20).close_grace(grace);
        Victim { conn: conn.build().expect("valid"), _guard: None, grace }
    }

    /// Takes a connection, calls, closes it; again and again.
    pub(crate) async fn keep_closing(self, mut rng: fastrand::Rng, tally: Tally, stop: Stop) {
        while !stop.is_due() {
            let victim = self.victim(&mut rng);
            if victim.conn.state() == ConnectivityState::Shutdown {
                tally.violation(format!("{}: the pool hands out a closed one", self.name));
            }
            self.close_one(victim, &mut rng, &tally).await;
            sleep(Duration::from_millis(rng.u64(..200))).await;
        }
    }

    async fn close_one(&self, victim: Victim, rng: &mut fastrand::Rng, tally: &Tally) {
        let closed = Arc::new(OnceLock::new());
        let mut calls = JoinSet::new();
        for _ in 0..rng.usize(1..=8) {
            let plan = match self.gentle {
                true => Plan::patient(self.name, rng),
                false => Plan::hasty(self.name, rng),
            };
            let (way, closed, tally) = (Way::Conn(victim.conn.clone()), Arc::clone(&closed), tally.clone());
            calls.spawn(self.clone().watch(plan, way, closed, victim.grace, tally));
        }
        sleep(Duration::from_millis(rng.u64(..600))).await;
        // Before it is so: no call ends by it earlier.
        let _ = closed.set(Instant::now());
        victim.conn.close();
        let told = calls::plain(Way::Conn(victim.conn.clone()), SLACK).await;
        if victim.conn.state() != ConnectivityState::Shutdown
            || !told.as_ref().is_err_and(|status| status.code() == Code::Cancelled)
        {
            tally.violation(format!("{}: a call after close: {told:?}", self.name));
        }
        while let Some(ended) = calls.join_next().await {
            if let Err(panic) = ended {
                tally.violation(format!("{}: {panic}", self.name));
            }
        }
    }

    /// One call, and what came of it.
    async fn watch(
        self,
        plan: Plan,
        way: Way,
        closed: Arc<OnceLock<Instant>>,
        grace: Duration,
        tally: Tally,
    ) {
        let (kind, deadline, begin) = (plan.kind, plan.deadline, Instant::now());
        let outcome = plan.call(way).await.unwrap_or_else(Outcome::Failed);
        let closed = closed.get();
        let circumstances = Circumstances { gentle: self.gentle, closed: closed.is_some() };
        let call = Call { source: self.name, kind, circumstances };
        tally.call(call, &outcome, begin.elapsed().saturating_sub(deadline));
        let after = closed.map_or(Duration::ZERO, Instant::elapsed);
        if after > grace + SLACK {
            let name = self.name;
            tally.violation(format!("{name}, {kind}: {outcome:?} {after:?} after close, grace {grace:?}"));
        }
    }
}
