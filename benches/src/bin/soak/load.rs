//! Who calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cenote::grpc::ClientConn;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::calls::{self, Plan};
use crate::source::{Source, Way};
use crate::tally::{Call, Outcome, Tally};
use crate::verdict::Circumstances;

/// A loaded machine may be this late.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// Told when it is time to stop.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Calls, one after another.
pub(crate) async fn keep_calling(source: Source, mut rng: fastrand::Rng, tally: Tally, stop: Stop) {
    while !stop.is_due() {
        let plan = match source.gentle {
            true => Plan::patient(source.name, &mut rng),
            false => Plan::hasty(source.name, &mut rng),
        };
        let circumstances = Circumstances { gentle: source.gentle, closed: false };
        let (kind, deadline, begin) = (plan.kind, plan.deadline, Instant::now());
        let call = Call { source: source.name, kind, circumstances };
        match timeout(deadline + SLACK, plan.call(source.way(&mut rng))).await {
            Ok(result) => {
                let outcome = result.unwrap_or_else(Outcome::Failed);
                tally.call(call, &outcome, begin.elapsed().saturating_sub(deadline));
            }
            Err(_) => tally.violation(format!(
                "{}, {kind}: not over {SLACK:?} after its deadline of {deadline:?}",
                source.name
            )),
        }
        // Between bursts there is time to be idle.
        let pause = if rng.u32(..50) == 0 { rng.u64(500..3000) } else { rng.u64(..40) };
        sleep(Duration::from_millis(pause)).await;
    }
}

/// As many calls at once as the server takes, each held until all have been answered. How many were: fewer if the connection
/// has lost a place for one, in whatever has been before.
pub(crate) async fn fill(conn: &ClientConn, limit: usize, patience: Duration) -> usize {
    let answered = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Barrier::new(limit));
    let mut calls = JoinSet::new();
    for _ in 0..limit {
        let (way, answered, all) = (Way::Conn(conn.clone()), Arc::clone(&answered), Arc::clone(&all));
        let hold = async move {
            answered.fetch_add(1, Ordering::Relaxed);
            all.wait().await;
        };
        calls.spawn(calls::held(way, 2 * patience, hold));
    }
    let over = async {
        while let Some(call) = calls.join_next().await {
            if let Ok(Err(status)) = call {
                eprintln!("one of {limit} calls at once: {status:?}");
            }
        }
    };
    // Read while those that have a stream hold it.
    let _ = timeout(patience, over).await;
    answered.load(Ordering::Relaxed)
}
