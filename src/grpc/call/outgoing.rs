//! What a call has to send, and where it stands with it.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};

use super::WaitForReady;
use super::deadline::{Deadline, grpc_timeout, set_grpc_timeout};
use super::head::{KeptHead, status_code};
use super::hedging::Hedging;
use super::response_body::ResponseBody;
use super::score::Score;
use super::verdict::Attempts;
use crate::grpc::authority::{CallAuthority, Origin};
use crate::grpc::config::Rules;
use crate::grpc::error::Error;
use crate::grpc::link::request_body::{CallBody, RequestBody, SharedBody};
use crate::grpc::retry::budget::Share;
use crate::grpc::retry::decision::{Failure, Pushback, RetryState};
use crate::grpc::retry::policy::{CallPolicy, RetryPolicy};
use crate::primitive::Arc;

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// A call before its first attempt.
pub(super) struct Prepared {
    pub(super) timeout: Option<Duration>,
    pub(super) plan: Plan,
}

/// How the attempts of a call run.
#[expect(clippy::large_enum_variant, reason = "nearly all calls are of the large one, in a box already")]
pub(super) enum Plan {
    InTurn(Outgoing),
    Hedged(Box<Hedging>),
}

impl Prepared {
    pub(super) fn new(rules: &Rules<'_>, mut request: Request<Body>) -> Result<Self, Error> {
        let Rules { tuning, retries } = rules;
        let extensions = request.extensions_mut();
        let own_policy = extensions.remove::<CallPolicy>();
        let own_authority = extensions.remove::<CallAuthority>();
        let own_wait = extensions.remove::<WaitForReady>().map(|WaitForReady(wait)| wait);
        let method = retries.method(request.uri().path());
        let policy = retries.policy(own_policy, method)?;
        let mut timeout = grpc_timeout(request.headers());
        if let Some(most) = method.and_then(|method| method.timeout)
            && timeout.is_none_or(|timeout| most < timeout)
        {
            timeout = Some(most);
            set_grpc_timeout(request.headers_mut(), most);
        }
        let wait_for_ready = own_wait
            .or_else(|| method.and_then(|method| method.wait_for_ready))
            .unwrap_or(tuning.wait_for_ready);
        let score = retries.bucket.as_ref().map(|bucket| Score {
            bucket: Arc::clone(bucket),
            codes: policy.as_ref().map(|(policy, _)| policy.codes()).unwrap_or_default(),
        });
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri).into_parts();
        let resend = tuning.resend_buffer;
        let is_kept = policy.is_some() || resend > 0;
        let common = Common {
            wait_for_ready,
            origin: Origin::new(own_authority, uri.scheme, uri.authority)?,
            path: uri.path_and_query,
            own_agent: head.headers.get(USER_AGENT).cloned(),
            kept: is_kept.then(|| KeptHead::new(&head)),
            score,
        };
        let room = || (retries.call_buffer.max(resend), Share::new(Arc::clone(&retries.budget)));
        let (body, retry) = match policy {
            None => (CallBody::new(body, resend, None), None),
            Some((policy, most)) if matches!(*policy, CallPolicy::Hedge(_)) => {
                let (limit, share) = room();
                let body = SharedBody::new(body, limit, share);
                let hedging = Hedging { policy, most, body, common };
                return Ok(Prepared { timeout, plan: Plan::Hedged(Box::new(hedging)) });
            }
            Some((policy, most)) => {
                let (limit, share) = room();
                let retry = Retry { policy, most, state: RetryState::new() };
                (CallBody::new(body, limit, Some(share)), Some(retry))
            }
        };
        let (body, first) = body;
        let mut outgoing = Outgoing::new(common, 0, body, Some(Request::from_parts(head, first)));
        outgoing.retry = retry;
        Ok(Prepared { timeout, plan: Plan::InTurn(outgoing) })
    }
}

/// What holds for all attempts of a call.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) wait_for_ready: bool,
    pub(super) path: Option<PathAndQuery>,
    /// `None`: the connection's.
    pub(super) origin: Option<Box<Origin>>,
    pub(super) own_agent: Option<HeaderValue>,
    /// For another attempt.
    kept: Option<KeptHead>,
    pub(super) score: Option<Score>,
}

/// One request, for attempts that follow one another.
pub(super) struct Outgoing {
    pub(super) common: Common,
    pub(super) body: Arc<CallBody>,
    /// For the next attempt; taken by each.
    pub(super) request: Option<Request<RequestBody>>,
    pub(super) attempts: Attempts,
    /// Attempts before the one that runs, transparent retries not counted.
    previous: u32,
    retry: Option<Retry>,
}

/// The retries of a call that has a policy for them.
struct Retry {
    policy: Arc<CallPolicy>,
    most: u32,
    state: RetryState,
}

impl Retry {
    fn policy(&self) -> Option<&RetryPolicy> {
        match &*self.policy {
            CallPolicy::Retry(policy) => Some(policy),
            _ => None,
        }
    }
}

impl Outgoing {
    fn new(
        common: Common,
        previous: u32,
        body: Arc<CallBody>,
        request: Option<Request<RequestBody>>,
    ) -> Self {
        Outgoing { common, body, request, attempts: Attempts::default(), previous, retry: None }
    }

    /// The attempt of a hedged call that has `previous` before it.
    pub(super) fn hedge(common: &Common, previous: u32, body: Arc<CallBody>, first: RequestBody) -> Self {
        let request = common.kept.as_ref().map(|kept| Request::from_parts(kept.again(), first));
        Self::new(common.clone(), previous, body, request)
    }

    /// The request for another attempt, if it is kept from its beginning. The attempt before must be over.
    pub(super) fn again(&self) -> Option<Request<RequestBody>> {
        let (kept, body) = self.common.kept.as_ref().zip(self.body.begin_attempt())?;
        Some(Request::from_parts(kept.again(), body))
    }

    /// Says in a head that this is not the first attempt.
    pub(super) fn number(&self, headers: &mut HeaderMap) {
        if self.previous > 0 {
            headers.insert(PREVIOUS_ATTEMPTS, self.previous.into());
        }
    }

    /// When the attempt that begins now must have an answer: by the call's deadline, or by the policy's for attempts.
    pub(super) fn limit(&self, deadline: Option<Deadline>) -> Result<Option<Deadline>, Error> {
        let policy = self.retry.as_ref().and_then(Retry::policy);
        let Some(timeout) = policy.and_then(|policy| policy.attempt_timeout) else { return Ok(deadline) };
        Ok(Deadline::earlier(deadline, Deadline::after(Some(timeout))?))
    }

    /// Judges the end of an attempt. If another follows, its request is there.
    pub(super) fn after(&mut self, outcome: Outcome, timed_out: bool) -> AttemptEnd {
        if let Some(failure) = failure(&outcome, timed_out)
            && let Some(pause) = self.pause(failure)
            && let Some(again) = self.again()
        {
            self.request = Some(again);
            self.previous = self.retry.as_ref().map_or(0, |retry| retry.state.previous());
            return AttemptEnd::Again(pause);
        }
        AttemptEnd::Final(self.finish(outcome))
    }

    /// How long the call waits before the next attempt; `None` if there is none.
    fn pause(&mut self, failure: Failure) -> Option<Duration> {
        let retry = self.retry.as_mut()?;
        let CallPolicy::Retry(policy) = &*retry.policy else { return None };
        let count = || Score::failure(self.common.score.as_ref());
        retry.state.failed(policy, retry.most, failure, count, fastrand::f64())
    }

    /// The call's outcome, which no further attempt changes.
    fn finish(&self, mut outcome: Outcome) -> Outcome {
        if let Ok(response) = &mut outcome {
            self.number(response.headers_mut());
            // A failure was counted when it was judged.
            if let Some(score) = &self.common.score
                && status_code(response.headers()) == Code::Ok
            {
                score.bucket.success();
            }
        }
        outcome
    }
}

/// What a call, or one attempt of it, comes to.
pub(super) type Outcome = Result<Response<ResponseBody>, Status>;

/// What follows on an attempt.
#[expect(clippy::large_enum_variant, reason = "nearly all attempts end with the large one")]
pub(super) enum AttemptEnd {
    /// Another one, after this time.
    Again(Duration),
    Final(Outcome),
}

/// How an attempt failed, if it did and the call is not committed to it.
pub(super) fn failure(outcome: &Outcome, timed_out: bool) -> Option<Failure> {
    match outcome {
        Err(status) => Some(Failure { code: status.code(), pushback: Pushback::None, timed_out }),
        Ok(response) if http_body::Body::is_end_stream(response.body()) => {
            let headers = response.headers();
            let code = status_code(headers);
            let failure = Failure { code, pushback: Pushback::of(headers), timed_out };
            (code != Code::Ok).then_some(failure)
        }
        Ok(_) => None,
    }
}
