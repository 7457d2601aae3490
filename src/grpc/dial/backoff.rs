//! The pauses between attempts: gRPC's "connection backoff".
//!
//! Our own dozen lines, because no kept crate computes gRPC's rule: a factor that is no whole number, and a
//! jitter to both sides.

use std::time::Duration;

use crate::grpc::options::Backoff;

/// The sequence of pauses that a [`Backoff`] describes.
#[derive(Debug)]
pub(crate) struct Pauses {
    policy: Backoff,
    /// The next pause, before jitter.
    next: Duration,
}

impl Pauses {
    pub(crate) fn new(policy: Backoff) -> Self {
        Pauses { policy, next: policy.initial }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.policy.initial;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let Backoff { multiplier, jitter, .. } = self.policy;
        let drawn = self.scale(1.0 + jitter * (2.0 * fastrand::f64() - 1.0));
        self.next = self.scale(multiplier);
        drawn
    }

    fn scale(&self, factor: f64) -> Duration {
        // An overflow is longer than any maximum.
        Duration::try_from_secs_f64(self.next.as_secs_f64() * factor)
            .unwrap_or(Duration::MAX)
            .min(self.policy.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_1_6_within_20_percent_up_to_the_maximum() {
        for _ in 0..100 {
            let mut pauses = Pauses::new(Backoff::default());
            let mut middle = 1.0f64;
            for _ in 0..20 {
                let pause = pauses.next().as_secs_f64();
                assert!(pause <= 120.0, "{pause}");
                assert!(pause >= middle * 0.799 && pause <= middle * 1.201, "{pause} around {middle}");
                middle = (middle * 1.6).min(120.0);
            }
            pauses.reset();
            assert!(pauses.next() <= Duration::from_millis(1200));
        }
    }

    #[test]
    fn jitter_spreads_the_pauses() {
        let first = || Pauses::new(Backoff::default()).next();
        let (a, b) = (first(), first());
        assert!((0..50).any(|_| first() != a) || a != b);
    }

    #[test]
    fn an_endless_maximum_does_not_overflow() {
        let policy = Backoff { multiplier: 1e300, max: Duration::MAX, ..Backoff::default() };
        let mut pauses = Pauses::new(policy);
        for _ in 0..5 {
            pauses.next();
        }
        assert!(pauses.next() > Duration::from_secs(1 << 40));
    }
}
