//! What becomes of a call whose attempt has failed: a pure function.
//!
//! The rule is gRFC A6's "transparent retries". A request of which nothing has left the client is sent again as often as it
//! takes; each time it waits for a connection, and the dials of those are paced. A request that has left, and that the server
//! certainly has not processed, is sent again once. Any other is not: the server may have processed it.

/// How often a request is sent again of which nothing has left: a bound against a fault of our own, no rule of gRPC.
const MAX_UNSENT: u32 = 16;

/// How often a request is sent again that has left and was not processed.
const MAX_NOT_PROCESSED: u32 = 1;

/// How far an attempt came that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Nothing of the request has left this side, or no more than a head that no server begins to process.
    Nothing,
    /// The server has it and did not process it: it refused the stream, or sent a GOAWAY that does not cover it.
    Server,
    /// The server may have processed it.
    Application,
}

/// The failed attempts of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempts {
    unsent: u32,
    not_processed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent again, on another address if there is one.
    Again,
    /// It fails, and no server has processed it.
    NotProcessed,
    /// It fails, and a server may have processed it.
    Interrupted,
    /// It fails because its deadline has passed. Whatever else went wrong is a consequence, as the reset of a server whose
    /// own timer for this call has fired, or no longer matters.
    DeadlineExceeded,
}

impl Attempts {
    /// Counts a failed attempt. `is_kept` says whether the request is still there from its beginning.
    pub(super) fn failed(&mut self, reached: Reached, is_kept: bool, deadline_passed: bool) -> Verdict {
        if deadline_passed {
            return Verdict::DeadlineExceeded;
        }
        let (count, most) = match reached {
            Reached::Application => return Verdict::Interrupted,
            Reached::Nothing => (&mut self.unsent, MAX_UNSENT),
            Reached::Server => (&mut self.not_processed, MAX_NOT_PROCESSED),
        };
        *count += 1;
        if *count <= most && is_kept { Verdict::Again } else { Verdict::NotProcessed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Reached::*;
    use super::Verdict::*;
    use super::*;

    #[test]
    fn a_failed_attempt_leads_to_the_verdict_of_the_table() {
        let none = Attempts::default();
        let unsent = |unsent| Attempts { unsent, not_processed: 0 };
        let refused = Attempts { unsent: 0, not_processed: 1 };
        for (attempts, reached, is_kept, deadline_passed, verdict) in [
            (none, Nothing, true, false, Again),
            (none, Server, true, false, Again),
            (none, Application, true, false, Interrupted),
            (unsent(15), Nothing, true, false, Again),
            (unsent(16), Nothing, true, false, NotProcessed),
            (unsent(16), Server, true, false, Again),
            (refused, Server, true, false, NotProcessed),
            (refused, Nothing, true, false, Again),
            (refused, Application, true, false, Interrupted),
            // Too large to be kept.
            (none, Nothing, false, false, NotProcessed),
            (none, Server, false, false, NotProcessed),
            (none, Application, false, false, Interrupted),
            // Each failure after the deadline is the deadline's.
            (none, Nothing, true, true, DeadlineExceeded),
            (none, Server, true, true, DeadlineExceeded),
            (none, Application, true, true, DeadlineExceeded),
            (refused, Server, false, true, DeadlineExceeded),
        ] {
            let row = format!("{attempts:?} {reached:?} kept {is_kept} deadline passed {deadline_passed}");
            let mut attempts = attempts;
            assert_eq!(attempts.failed(reached, is_kept, deadline_passed), verdict, "{row}");
        }
    }

    proptest! {
        #[test]
        fn no_call_is_sent_again_that_may_have_been_processed_and_none_for_ever(
            failures in proptest::collection::vec(
                (prop_oneof![4 => Just(Nothing), 2 => Just(Server), 1 => Just(Application)], any::<bool>(), any::<bool>()),
                0..60,
            ),
        ) {
            let mut attempts = Attempts::default();
            let (mut sent, mut left) = (1, 0);
            for (reached, is_kept, deadline_passed) in failures {
                match attempts.failed(reached, is_kept, deadline_passed) {
                    Again => {
                        prop_assert!(reached != Application && is_kept && !deadline_passed);
                        sent += 1;
                        left += u32::from(reached == Server);
                    }
                    NotProcessed => {
                        prop_assert!(reached != Application && !deadline_passed);
                        break;
                    }
                    Interrupted => {
                        prop_assert!(reached == Application && !deadline_passed);
                        break;
                    }
                    DeadlineExceeded => {
                        prop_assert!(deadline_passed);
                        break;
                    }
                }
            }
            prop_assert!(left <= MAX_NOT_PROCESSED && sent <= 1 + MAX_UNSENT + MAX_NOT_PROCESSED);
        }
    }
}
