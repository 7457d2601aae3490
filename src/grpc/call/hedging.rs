//! A call whose attempts run beside each other.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::deadline::Deadline;
use super::outgoing::{Common, Outcome, Outgoing, failure};
use super::score::Score;
use super::{Source, send};
use crate::grpc::link::request_body::SharedBody;
use crate::grpc::options::YEAR;
use crate::grpc::retry::decision::{AfterHedge, HedgeState};
use crate::grpc::retry::policy::CallPolicy;
use crate::grpc::runtime;
use crate::primitive::Arc;

/// A call that is hedged.
pub(super) struct Hedging {
    pub(super) policy: Arc<CallPolicy>,
    pub(super) most: u32,
    pub(super) body: SharedBody,
    pub(super) common: Common,
}

/// To the first outcome. What is dropped with this future is canceled.
pub(super) async fn run<S: Source>(
    source: &mut S,
    hedging: &mut Hedging,
    deadline: Option<Deadline>,
) -> Outcome {
    let Hedging { policy, most, body, common } = hedging;
    let CallPolicy::Hedge(policy) = &**policy else {
        return Err(Status::internal("a call without a hedging policy is hedged"));
    };
    let _ = runtime::current()?;
    let mut state = HedgeState::new();
    let mut attempts = FuturesUnordered::new();
    let mut next = Instant::now();
    let mut outcome = Err(Status::internal("the call was not sent"));
    loop {
        let is_throttled = || common.score.as_ref().is_some_and(|score| !score.bucket.allows());
        if state.may_begin(*most) && next <= Instant::now() {
            match body.attempt() {
                Some((body, first)) if !state.has_begun() || !is_throttled() => {
                    let mut source = source.fork();
                    let mut outgoing = Outgoing::hedge(common, state.begin(), Arc::clone(&body), first);
                    attempts.push(async move {
                        let outcome = send(&mut source, &mut outgoing, deadline).await;
                        (outcome, body.is_left_behind())
                    });
                    next = Instant::now() + policy.delay.min(YEAR);
                }
                _ => state.stop(),
            }
            continue;
        }
        if attempts.is_empty() && !state.may_begin(*most) {
            return outcome;
        }
        let (ended, is_left_behind) = tokio::select! {
            biased;
            Some(ended) = attempts.next() => ended,
            () = sleep_until(next), if state.may_begin(*most) => continue,
        };
        if is_left_behind {
            state.left_behind();
            continue;
        }
        let Some(failure) = failure(&ended, false) else { return ended };
        if deadline.is_some_and(|deadline| deadline.has_passed()) {
            return ended;
        }
        let count = || Score::failure(common.score.as_ref());
        match state.failed(policy, *most, failure, count) {
            AfterHedge::Ends => return ended,
            AfterHedge::Next(pause) => next = Instant::now() + pause,
            AfterHedge::Wait => {}
        }
        outcome = ended;
    }
}
