//! What follows on an attempt that has failed: pure functions.

use std::time::Duration;

use http::HeaderMap;
use tonic::Code;

use super::policy::{HedgingPolicy, RetryPolicy};

/// What a server says of further attempts, in the trailer `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Pushback {
    /// Nothing.
    None,
    /// The next attempt is welcome after this time.
    After(Duration),
    /// No further attempt: the number is negative, or not one, or there are several.
    Never,
}

impl Pushback {
    pub(in crate::grpc) fn of(trailers: &HeaderMap) -> Self {
        let mut values = trailers.get_all("grpc-retry-pushback-ms").iter();
        let (Some(value), several) = (values.next(), values.next()) else { return Pushback::None };
        let millis = value.to_str().ok().and_then(|text| text.parse::<i32>().ok());
        match millis.map(u64::try_from) {
            Some(Ok(millis)) if several.is_none() => Pushback::After(Duration::from_millis(millis)),
            _ => Pushback::Never,
        }
    }
}

/// How an attempt has failed, before the call was committed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct Failure {
    pub(in crate::grpc) code: Code,
    pub(in crate::grpc) pushback: Pushback,
    /// Its own timeout has passed, and not that of the call.
    pub(in crate::grpc) timed_out: bool,
}

/// The retries of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct RetryState {
    /// Attempts so far, transparent retries not counted.
    attempts: u32,
    /// Retries since the pauses began anew.
    since_pushback: u32,
}

impl RetryState {
    pub(in crate::grpc) fn new() -> Self {
        RetryState { attempts: 1, since_pushback: 0 }
    }

    /// Attempts before the one that runs.
    pub(in crate::grpc) fn previous(&self) -> u32 {
        self.attempts - 1
    }

    /// The pause before the next attempt, or `None` if the call has failed.
    ///
    /// `count_failure` counts one for the throttle, and returns whether the throttle allows another attempt; `draw`, from 0 to
    /// 1, is the jitter's. As in grpc-go a pushback with a time retries only what the policy's codes retry.
    pub(in crate::grpc) fn failed(
        &mut self,
        policy: &RetryPolicy,
        most: u32,
        failure: Failure,
        count_failure: impl FnOnce() -> bool,
        draw: f64,
    ) -> Option<Duration> {
        let is_retryable = failure.timed_out || policy.codes.contains(failure.code);
        if !is_retryable && failure.pushback != Pushback::Never {
            return None;
        }
        let is_allowed = count_failure();
        if !is_allowed || failure.pushback == Pushback::Never || self.attempts >= most {
            return None;
        }
        self.attempts += 1;
        Some(match failure.pushback {
            Pushback::After(pause) => {
                self.since_pushback = 0;
                pause
            }
            _ => {
                self.since_pushback += 1;
                policy.pause(self.since_pushback, draw)
            }
        })
    }
}

/// The hedges of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct HedgeState {
    started: u32,
    running: u32,
    /// No attempt begins any more: a server or the throttle said so, or the request is no longer kept.
    stopped: bool,
}

/// What follows on the failure of one of several attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum AfterHedge {
    /// It is the call's outcome.
    Ends,
    /// The next attempt begins after this time, in the place of the one that was planned.
    Next(Duration),
    /// The call waits for the attempts that run.
    Wait,
}

impl HedgeState {
    pub(in crate::grpc) fn new() -> Self {
        HedgeState { started: 0, running: 0, stopped: false }
    }

    /// An attempt begins. Returns how many there were before.
    pub(in crate::grpc) fn begin(&mut self) -> u32 {
        self.started += 1;
        self.running += 1;
        self.started - 1
    }

    pub(in crate::grpc) fn has_begun(&self) -> bool {
        self.started > 0
    }

    /// An attempt could not go on, because another one has read on in a request that is too large to be kept.
    pub(in crate::grpc) fn left_behind(&mut self) {
        self.running -= 1;
        self.stopped = true;
    }

    pub(in crate::grpc) fn may_begin(&self, most: u32) -> bool {
        !self.stopped && self.started < most
    }

    pub(in crate::grpc) fn stop(&mut self) {
        self.stopped = true;
    }

    /// An attempt has failed. `count_failure` as for [`RetryState::failed`].
    pub(in crate::grpc) fn failed(
        &mut self,
        policy: &HedgingPolicy,
        most: u32,
        failure: Failure,
        count_failure: impl FnOnce() -> bool,
    ) -> AfterHedge {
        self.running -= 1;
        let is_fatal = !policy.non_fatal.contains(failure.code);
        if !is_fatal || failure.pushback == Pushback::Never {
            let is_allowed = count_failure();
            self.stopped |= !is_allowed || failure.pushback == Pushback::Never;
        }
        if is_fatal {
            return AfterHedge::Ends;
        }
        match failure.pushback {
            _ if !self.may_begin(most) && self.running == 0 => AfterHedge::Ends,
            _ if !self.may_begin(most) => AfterHedge::Wait,
            Pushback::After(pause) => AfterHedge::Next(pause),
            _ => AfterHedge::Next(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, pushback: Pushback) -> Failure {
        Failure { code, pushback, timed_out: false }
    }

    const SOON: Pushback = Pushback::After(Duration::from_millis(7));

    #[test]
    fn a_pushback_is_one_number_of_milliseconds_and_all_else_forbids_another_attempt() {
        let of = |values: &[&'static str]| {
            let mut trailers = HeaderMap::new();
            for value in values {
                trailers.append("grpc-retry-pushback-ms", value.parse().unwrap());
            }
            Pushback::of(&trailers)
        };
        assert_eq!(of(&[]), Pushback::None);
        assert_eq!(of(&["7"]), SOON);
        assert_eq!(of(&["0"]), Pushback::After(Duration::ZERO));
        assert_eq!(of(&["2147483647"]), Pushback::After(Duration::from_millis(i32::MAX as u64)));
        for bad in ["-1", "", "x", "1.5", "2147483648", "1 "] {
            assert_eq!(of(&[bad]), Pushback::Never, "{bad:?}");
        }
        assert_eq!(of(&["1", "2"]), Pushback::Never);
    }

    #[test]
    fn a_failed_attempt_is_repeated_by_the_table() {
        let policy = RetryPolicy::new([Code::Unavailable]).initial_backoff(Duration::from_secs(1));
        let (yes, no) = (Code::Unavailable, Code::NotFound);
        let pause = Some(Duration::from_secs(1));
        for (attempts, code, pushback, timed_out, allowed, counted, next) in [
            (1, yes, Pushback::None, false, true, true, pause),
            (1, no, Pushback::None, false, true, false, None),
            (1, no, SOON, false, true, false, None),
            (1, yes, SOON, false, true, true, Some(Duration::from_millis(7))),
            (1, yes, Pushback::Never, false, true, true, None),
            // Counts as a failure, whatever the code.
            (1, no, Pushback::Never, false, true, true, None),
            (1, no, Pushback::None, true, true, true, pause),
            (1, yes, Pushback::None, false, false, true, None),
            (2, yes, Pushback::None, false, true, true, pause),
            (3, yes, Pushback::None, false, true, true, None),
            (3, yes, SOON, false, true, true, None),
        ] {
            let mut state = RetryState { attempts, since_pushback: 0 };
            let mut asked = false;
            let count = || {
                asked = true;
                allowed
            };
            let found = state.failed(&policy, 3, Failure { code, pushback, timed_out }, count, 0.5);
            let row = format!("{attempts} {code:?} {pushback:?} {timed_out} {allowed}");
            assert_eq!((found, asked), (next, counted), "{row}");
            assert_eq!(state.previous(), attempts - 1 + u32::from(next.is_some()), "{row}");
        }
    }

    #[test]
    fn the_pauses_begin_anew_after_a_pushback() {
        let policy = RetryPolicy::new([Code::Unavailable])
            .initial_backoff(Duration::from_secs(1))
            .max_backoff(Duration::from_secs(9));
        let mut state = RetryState::new();
        let mut pause =
            |pushback| state.failed(&policy, 99, failure(Code::Unavailable, pushback), || true, 0.5).unwrap();
        assert_eq!(pause(Pushback::None), Duration::from_secs(1));
        assert_eq!(pause(Pushback::None), Duration::from_secs(2));
        assert_eq!(pause(SOON), Duration::from_millis(7));
        assert_eq!(pause(Pushback::None), Duration::from_secs(1));
    }

    #[test]
    fn the_failure_of_a_hedge_leads_to_what_the_table_says() {
        let policy = HedgingPolicy::new(3).non_fatal([Code::Unavailable]);
        let (yes, no) = (Code::Unavailable, Code::NotFound);
        for (started, running, code, pushback, allowed, next, stopped) in [
            (1, 1, yes, Pushback::None, true, AfterHedge::Next(Duration::ZERO), false),
            (1, 1, no, Pushback::None, true, AfterHedge::Ends, false),
            (2, 2, no, SOON, true, AfterHedge::Ends, false),
            (2, 2, yes, SOON, true, AfterHedge::Next(Duration::from_millis(7)), false),
            (2, 2, yes, Pushback::Never, true, AfterHedge::Wait, true),
            (1, 1, yes, Pushback::Never, true, AfterHedge::Ends, true),
            (2, 2, yes, Pushback::None, false, AfterHedge::Wait, true),
            (3, 2, yes, Pushback::None, true, AfterHedge::Wait, false),
            (3, 1, yes, Pushback::None, true, AfterHedge::Ends, false),
        ] {
            let mut state = HedgeState { started, running, stopped: false };
            let found = state.failed(&policy, 3, failure(code, pushback), || allowed);
            assert_eq!(
                (found, state.stopped),
                (next, stopped),
                "{started} {running} {code:?} {pushback:?} {allowed}"
            );
        }
    }
}
