//! What the throttle of retries learns of calls.

use tonic::Code;

use crate::grpc::retry::policy::Codes;
use crate::grpc::retry::throttle::Bucket;
use crate::primitive::Arc;

/// Counts the outcome of one call for the throttle of its target.
#[derive(Clone)]
pub(super) struct Score {
    pub(super) bucket: Arc<Bucket>,
    /// The failures that count.
    pub(super) codes: Codes,
}

impl Score {
    /// Counts a failed attempt, and returns whether the call may be sent again. Without a throttle it may.
    pub(super) fn failure(score: Option<&Self>) -> bool {
        score.is_none_or(|score| score.bucket.failure())
    }

    /// The call has ended with this status, and is not sent again.
    pub(super) fn count(&self, code: Code) {
        if code == Code::Ok {
            self.bucket.success();
        } else if self.codes.contains(code) {
            self.bucket.failure();
        }
    }
}
