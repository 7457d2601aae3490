//! [`RetryPolicy`] and [`HedgingPolicy`].

use std::fmt;
use std::time::Duration;

use tonic::Code;

use crate::grpc::error::Error;
use crate::grpc::options::YEAR;

/// No call is sent more often than this, unless the builder says otherwise: gRPC's default.
pub(super) const MAX_ATTEMPTS: u32 = 5;

/// When a call that has failed is sent again: gRPC's `retryPolicy` (gRFC A6).
///
/// A call is sent again if it failed with one of the policy's status codes before the response's headers came, after a pause that
/// grows from attempt to attempt. A server may say by the trailer `grpc-retry-pushback-ms` when the next attempt is
/// welcome, or that none is. The call's own deadline holds for all attempts and pauses together.
///
/// *Only for methods that may run twice*: an attempt that has failed may have been processed.
///
/// A builder sets policies [by method](super::super::ClientConnBuilder::retry). A request may have one of its own, which takes
/// precedence:
///
/// ```
/// # use cenote::grpc::{CallPolicy, RetryPolicy};
/// # use cenote_proto::HelloRequest;
/// # use tonic::Code;
/// let mut request = tonic::Request::new(HelloRequest { name: "ada".into(), delay_ms: 0 });
/// request.extensions_mut().insert(CallPolicy::Retry(RetryPolicy::new([Code::Unavailable])));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct RetryPolicy {
    pub(super) max_attempts: u32,
    pub(super) initial_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) multiplier: f64,
    pub(super) codes: Codes,
    pub(in crate::grpc) attempt_timeout: Option<Duration>,
}

impl RetryPolicy {
    /// Sends a call again that has failed with one of these codes. [`Code::Ok`] among them is an error of `build`.
    ///
    /// Default: 3 attempts, pauses of 100 ms, times 2, at most 1 s, each give or take 20 %.
    pub fn new(codes: impl IntoIterator<Item = Code>) -> Self {
        RetryPolicy {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            multiplier: 2.0,
            codes: codes.into_iter().collect(),
            attempt_timeout: None,
        }
    }

    /// How often a call is sent at most, the first time included. At least 2; more than
    /// [`max_call_attempts`](super::super::ClientConnBuilder::max_call_attempts) counts as that.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The pause before the first retry, give or take 20 %. More than zero.
    pub fn initial_backoff(mut self, pause: Duration) -> Self {
        self.initial_backoff = pause;
        self
    }

    /// No pause is longer, but for the 20 %. More than zero.
    pub fn max_backoff(mut self, pause: Duration) -> Self {
        self.max_backoff = pause;
        self
    }

    /// What each further retry multiplies the pause with. More than zero.
    pub fn backoff_multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// An attempt without a response's head after this time is canceled, and the call is sent again as after a failure of
    /// the policy's codes. After the last attempt the call fails with
    /// [`Error::AttemptTimeout`](super::super::Error::AttemptTimeout). More than zero; default: none.
    ///
    /// This is an option of this crate; there is none like it in gRPC's specification. The time begins when the attempt has a connection.
    pub fn attempt_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.attempt_timeout = timeout.into();
        self
    }

    /// The pause before retry `retry`, the first being 1, with a `draw` from 0 to 1.
    pub(super) fn pause(&self, retry: u32, draw: f64) -> Duration {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        // The jitter is outside of the limit, as in the specification.
        let pause = grown.min(self.max_backoff.as_secs_f64()) * draw.mul_add(0.4, 0.8);
        Duration::try_from_secs_f64(pause).unwrap_or(YEAR).min(YEAR)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::config("retry", what));
        if self.max_attempts < 2 {
            return wrong("`max_attempts` is less than 2");
        }
        if self.initial_backoff.is_zero() || self.max_backoff.is_zero() {
            return wrong("a backoff is zero");
        }
        if !(self.multiplier > 0.0 && self.multiplier.is_finite()) {
            return wrong("`backoff_multiplier` is not more than zero");
        }
        if self.codes.is_empty() {
            return wrong("there are no status codes");
        }
        if self.codes.contains(Code::Ok) {
            return wrong("`Ok` is no failure");
        }
        if self.attempt_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return wrong("`attempt_timeout` is zero");
        }
        Ok(())
    }
}

/// When a call is sent once more while earlier attempts run yet: gRPC's `hedgingPolicy` (gRFC A6).
///
/// The first attempt with a response's headers, or with a status that is not [non-fatal](Self::non_fatal), is the call's
/// outcome, and the others are canceled. It trades load for latency, and is *only for methods that may run several times at
/// once*.
///
/// A non-fatal failure sends the next attempt at once. When all attempts have failed so, the call fails with the last
/// one's status.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct HedgingPolicy {
    pub(super) max_attempts: u32,
    pub(in crate::grpc) delay: Duration,
    pub(super) non_fatal: Codes,
}

impl HedgingPolicy {
    /// Sends a call up to so many times. At least 2; more than
    /// [`max_call_attempts`](super::super::ClientConnBuilder::max_call_attempts) counts as that. By default all attempts begin at
    /// once, and each failure is fatal.
    pub fn new(max_attempts: u32) -> Self {
        HedgingPolicy { max_attempts, delay: Duration::ZERO, non_fatal: Codes::default() }
    }

    /// How long after one attempt the next one begins, if there is no outcome. Default: zero.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The status codes upon which the call waits for its other attempts. Default: none.
    pub fn non_fatal(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.non_fatal = codes.into_iter().collect();
        self
    }

    fn check(&self) -> Result<(), Error> {
        if self.max_attempts < 2 {
            return Err(Error::config("hedging", "`max_attempts` is less than 2"));
        }
        if self.non_fatal.contains(Code::Ok) {
            return Err(Error::config("hedging", "`Ok` is no failure"));
        }
        Ok(())
    }
}

/// How often a call is sent. In a request's extensions it takes precedence over what the builder says of the method.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CallPolicy {
    /// Once; and again only when it is certain that no server has processed it, as every call.
    Once,
    /// One attempt after the other.
    Retry(RetryPolicy),
    /// Attempts beside each other.
    Hedge(HedgingPolicy),
}

impl From<RetryPolicy> for CallPolicy {
    fn from(policy: RetryPolicy) -> Self {
        CallPolicy::Retry(policy)
    }
}

impl From<HedgingPolicy> for CallPolicy {
    fn from(policy: HedgingPolicy) -> Self {
        CallPolicy::Hedge(policy)
    }
}

impl CallPolicy {
    pub(in crate::grpc) fn check(&self) -> Result<(), Error> {
        match self {
            CallPolicy::Once => Ok(()),
            CallPolicy::Retry(policy) => policy.check(),
            CallPolicy::Hedge(policy) => policy.check(),
        }
    }

    /// How often it sends a call, where no more than `most` are allowed.
    pub(super) fn attempts(&self, most: u32) -> u32 {
        match self {
            CallPolicy::Once => 1,
            CallPolicy::Retry(RetryPolicy { max_attempts, .. })
            | CallPolicy::Hedge(HedgingPolicy { max_attempts, .. }) => *max_attempts.min(&most),
        }
    }

    /// The codes of failures that the throttle counts.
    pub(in crate::grpc) fn codes(&self) -> Codes {
        match self {
            CallPolicy::Once => Codes::default(),
            CallPolicy::Retry(policy) => policy.codes,
            CallPolicy::Hedge(policy) => policy.non_fatal,
        }
    }
}

/// A set of status codes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::grpc) struct Codes(u32);

impl Codes {
    pub(in crate::grpc) fn contains(self, code: Code) -> bool {
        self.0 & Self::bit(code) != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(code: Code) -> u32 {
        // gRPC has the codes from 0 to 16.
        1 << (code as u32)
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Codes(codes.into_iter().fold(0, |set, code| set | Self::bit(code)))
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=16).map(Code::from_i32).filter(|code| self.contains(*code))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_to_its_limit_and_its_jitter_is_a_fifth_to_either_side() {
        let policy = RetryPolicy::new([Code::Unavailable])
            .initial_backoff(Duration::from_millis(100))
            .max_backoff(Duration::from_millis(500))
            .backoff_multiplier(2.0);
        for (retry, draw, millis) in [
            (1, 0.5, 100),
            (2, 0.5, 200),
            (3, 0.5, 400),
            (4, 0.5, 500),
            (1, 0.0, 80),
            (1, 1.0, 120),
            (9, 1.0, 600),
        ] {
            let pause = policy.pause(retry, draw).as_secs_f64() * 1000.0;
            assert!((pause - f64::from(millis)).abs() < 1e-6, "retry {retry}, draw {draw}: {pause} ms");
        }
        let extreme = policy.max_backoff(Duration::MAX).backoff_multiplier(1e300);
        assert_eq!(extreme.pause(u32::MAX, 1.0), YEAR);
    }

    #[test]
    fn policies_that_cannot_be_are_errors() {
        let good = || RetryPolicy::new([Code::Unavailable]);
        let zero = Duration::ZERO;
        for (policy, what) in [
            (good().max_attempts(1), "less than 2"),
            (good().initial_backoff(zero), "zero"),
            (good().max_backoff(zero), "zero"),
            (good().backoff_multiplier(0.0), "multiplier"),
            (good().backoff_multiplier(f64::NAN), "multiplier"),
            (good().backoff_multiplier(f64::INFINITY), "multiplier"),
            (RetryPolicy::new([]), "no status codes"),
            (RetryPolicy::new([Code::Ok]), "`Ok`"),
            (good().attempt_timeout(zero), "attempt_timeout"),
        ] {
            let error = CallPolicy::from(policy.clone()).check().unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(what), "{policy:?}: {source}");
        }
        assert!(CallPolicy::from(good()).check().is_ok());
        assert!(CallPolicy::from(HedgingPolicy::new(1)).check().is_err());
        assert!(CallPolicy::from(HedgingPolicy::new(2).non_fatal([Code::Ok])).check().is_err());
        assert!(CallPolicy::from(HedgingPolicy::new(2)).check().is_ok());
    }

    #[test]
    fn a_set_of_codes_shows_and_contains_what_was_put_in() {
        let codes: Codes = [Code::Unavailable, Code::Aborted].into_iter().collect();
        assert!(codes.contains(Code::Aborted) && !codes.contains(Code::Unknown));
        assert_eq!(format!("{codes:?}"), "{Aborted, Unavailable}");
    }
}
