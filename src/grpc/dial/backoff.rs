//! The pauses between attempts: gRPC's "connection backoff".
//!
//! Our own dozen lines, because no kept crate computes gRPC's rule: a factor that is no whole number, and a
//! jitter to both sides.

use std::time::Duration;

use tokio::time::Instant;

use crate::grpc::options::{Backoff, YEAR};

/// How long a connection must last for its end to be no failure to connect.
pub(in crate::grpc) const LASTED: Duration = Duration::from_secs(1);

/// A connection's life, when it is over.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Life {
    /// From the server's SETTINGS to its end.
    pub(in crate::grpc) lived: Duration,
    pub(in crate::grpc) carried_a_call: bool,
}

/// Whether the loss of a connection is as good as an attempt that failed. One that carried a call is not, however
/// early it ends: calls bound the rate at which such connections are made.
pub(super) fn is_failure(life: Life) -> bool {
    life.lived < LASTED && !life.carried_a_call
}

/// The pause after connections that were lost at once, one after the other: for a connection that has no pool, and
/// so no gate.
#[derive(Debug)]
pub(in crate::grpc) struct ShortLived {
    /// Losses in a row that were failures.
    in_a_row: u32,
    pauses: Pauses,
    until: Option<Instant>,
}

impl ShortLived {
    pub(in crate::grpc) fn new(policy: Backoff) -> Self {
        ShortLived { in_a_row: 0, pauses: Pauses::new(policy), until: None }
    }

    pub(in crate::grpc) fn lost(&mut self, life: Life, now: Instant) {
        if !is_failure(life) {
            self.reset();
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        // The first one costs nothing: a server that is being replaced is dialed again at once.
        if self.in_a_row > 1 {
            self.until = Some(now + self.pauses.next().min(YEAR));
        }
    }

    pub(in crate::grpc) fn reset(&mut self) {
        self.in_a_row = 0;
        self.until = None;
        self.pauses.reset();
    }

    /// What is left of the pause.
    pub(in crate::grpc) fn pause(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

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
    fn a_loss_is_a_failure_if_the_connection_was_short_lived_and_carried_no_call() {
        let rows = [
            // lived, in ms; carried a call; failure
            (0, false, true),
            (999, false, true),
            (1000, false, false),
            (0, true, false),
            (5000, true, false),
        ];
        for (lived, carried_a_call, failure) in rows {
            let life = Life { lived: Duration::from_millis(lived), carried_a_call };
            assert_eq!(is_failure(life), failure, "{life:?}");
        }
    }

    #[test]
    fn short_lived_connections_in_a_row_are_paused_from_the_second_one_on() {
        let now = Instant::now();
        let short = Life { lived: Duration::ZERO, carried_a_call: false };
        let mut losses = ShortLived::new(Backoff { jitter: 0.0, ..Backoff::default() });
        for _ in 0..2 {
            let pauses = [0; 4].map(|_| {
                losses.lost(short, now);
                losses.pause(now).map(|pause| pause.as_millis())
            });
            assert_eq!(pauses, [None, Some(1000), Some(1600), Some(2560)]);
            assert_eq!(losses.pause(now + Duration::from_millis(2560)), None);
            losses.lost(Life { carried_a_call: true, ..short }, now);
            assert_eq!(losses.pause(now), None);
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
