//! The token bucket that keeps retries from burying a server that is overloaded: gRFC A6, "Throttling Retry Attempts and
//! Hedged RPCs".
//!
//! It begins full. A failure takes a token, a success returns a part of one. At half of its tokens or less there is no retry and no
//! further hedge. As in C-core and grpc-java it counts in thousandths, in an integer.

use crate::grpc::error::Error;
use crate::primitive::atomic::{AtomicU32, Ordering};

/// gRPC's `retryThrottling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throttling {
    pub(crate) max_tokens: u32,
    pub(crate) token_ratio: f64,
}

/// In thousandths: the ratio's digits beyond the third are dropped, as the specification has it.
const ONE: u32 = 1000;

impl Throttling {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::config("retry_throttling", what));
        if !(1..=1000).contains(&self.max_tokens) {
            return wrong("`max_tokens` is not from 1 to 1000");
        }
        if !self.token_ratio.is_finite() || self.ratio() == 0 {
            return wrong("`token_ratio` is less than 0.001");
        }
        Ok(())
    }

    fn ratio(&self) -> u32 {
        // As a decimal number was meant: 0.3 is not 0.299.
        let thousandths = (self.token_ratio * f64::from(ONE) + 1e-6).floor();
        thousandths.clamp(0.0, f64::from(self.max_tokens * ONE)) as u32
    }
}

/// The bucket of one target.
#[derive(Debug)]
pub(in crate::grpc) struct Bucket {
    /// From 0 to `max`.
    tokens: AtomicU32,
    max: u32,
    ratio: u32,
}

impl Bucket {
    pub(super) fn new(throttling: &Throttling) -> Self {
        let max = throttling.max_tokens * ONE;
        Bucket { tokens: AtomicU32::new(max), max, ratio: throttling.ratio() }
    }

    /// Counts a failure, and returns whether calls may be sent again yet.
    pub(in crate::grpc) fn failure(&self) -> bool {
        self.change(|tokens| tokens.saturating_sub(ONE)) > self.max / 2
    }

    pub(in crate::grpc) fn success(&self) {
        // A full bucket, which nearly all are, is not written to: its line stays shared by the cores.
        if self.tokens.load(Ordering::Relaxed) < self.max {
            self.change(|tokens| tokens.saturating_add(self.ratio).min(self.max));
        }
    }

    /// Whether calls may be sent again, without an outcome to count.
    pub(in crate::grpc) fn allows(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max / 2
    }

    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        // Relaxed: it is a number, and nothing is read by it.
        let changed =
            self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(change(tokens)));
        change(changed.unwrap_or_else(|tokens| tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(max_tokens: u32, token_ratio: f64) -> Bucket {
        let throttling = Throttling { max_tokens, token_ratio };
        throttling.check().unwrap();
        Bucket::new(&throttling)
    }

    #[test]
    fn a_bucket_allows_retries_while_it_is_more_than_half_full() {
        let bucket = bucket(10, 0.5);
        assert!(bucket.allows());
        let allowed: Vec<_> = (0..6).map(|_| bucket.failure()).collect();
        assert_eq!(allowed, [true, true, true, true, false, false], "the fifth leaves 5 of 10");
        assert!(!bucket.allows());
        bucket.success();
        bucket.success();
        assert!(!bucket.allows(), "4 + 2 halves are 5");
        bucket.success();
        assert!(bucket.allows());
    }

    #[test]
    fn a_bucket_is_never_emptier_than_empty_nor_fuller_than_full() {
        let bucket = bucket(3, 2.9999);
        (0..100).for_each(|_| _ = bucket.failure());
        assert_eq!(bucket.tokens.load(Ordering::Relaxed), 0);
        bucket.success();
        assert_eq!(bucket.tokens.load(Ordering::Relaxed), 2999);
        (0..100).for_each(|_| bucket.success());
        assert_eq!(bucket.tokens.load(Ordering::Relaxed), 3000);
    }

    #[test]
    fn a_ratio_has_three_decimals_and_bad_numbers_are_errors() {
        for (ratio, thousandths) in [(0.1, 100), (0.3, 300), (0.0019, 1), (1.0, 1000), (1e300, 5000)] {
            assert_eq!(Throttling { max_tokens: 5, token_ratio: ratio }.ratio(), thousandths, "{ratio}");
        }
        for (max_tokens, token_ratio) in
            [(0, 0.1), (1001, 0.1), (10, 0.0), (10, 0.0009), (10, -1.0), (10, f64::NAN), (10, f64::INFINITY)]
        {
            assert!(Throttling { max_tokens, token_ratio }.check().is_err(), "{max_tokens} {token_ratio}");
        }
    }
}
