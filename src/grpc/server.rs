//! What has been learned of a server, for all connections to it: those of a pool, or the one `ClientConn`.
//!
//! A connection is lost, and a pool makes another in its place; what the first has learned must not be lost with it. So it is
//! kept here, one [`Server`] per target:
//!
//! * the [gate](Gate) that the dials of a pool go through;
//! * how many addresses of the host are passed over, because a socket to them led nowhere;
//! * how often the server complained of being pinged too much;
//! * how many streams it last said that it takes at once.
//!
//! The second and the third advance by one step for each value that an attempt has used, however many connections report it: sixteen
//! attempts that stall side by side at the first address lead to the second one, not to the seventeenth.

use std::time::Duration;

use tokio::time::Instant;

use super::dial::backoff::{Life, ShortLived};
use super::dial::gate::Gate;
use super::options::{Backoff, Keepalive};
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The longest interval that a server's complaints stretch keepalive to: gRPC's own default for servers' keepalive. An
/// interval that was configured to be longer stays as it is.
const LONGEST_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);

/// See the head of this file.
pub(in crate::grpc) struct Server {
    pub(in crate::grpc) gate: Gate,
    /// In the place of the gate, where there is no pool.
    short_lived: Mutex<ShortLived>,
    /// How many addresses of the host are passed over: so many led to a socket, and no further.
    passed_over: AtomicUsize,
    /// How often the server sent GOAWAY with `too_many_pings`.
    complaints: AtomicU32,
    /// How many streams a connection to it takes at once, plus one; 0 while that is not known.
    streams: AtomicU64,
}

impl Server {
    pub(in crate::grpc) fn new(redial: Backoff) -> Self {
        Server {
            gate: Gate::new(redial),
            short_lived: Mutex::new(ShortLived::new(redial)),
            passed_over: AtomicUsize::new(0),
            complaints: AtomicU32::new(0),
            streams: AtomicU64::new(0),
        }
    }

    /// How many streams a new connection is going to take, as far as that is known.
    pub(in crate::grpc) fn expected_streams(&self) -> Option<u32> {
        let told = self.streams.load(Ordering::Relaxed).checked_sub(1)?;
        u32::try_from(told).ok()
    }

    /// A connection to it takes so many streams. That it takes none for now says nothing of the next one.
    pub(in crate::grpc) fn takes_streams(&self, limit: u32) {
        if limit > 0 {
            self.streams.store(u64::from(limit) + 1, Ordering::Relaxed);
        }
    }

    /// A connection was lost, or its server no longer serves.
    pub(in crate::grpc) fn lost(&self, life: Life) {
        self.gate.lost(life);
        self.short_lived.lock().lost(life, Instant::now());
    }

    /// How long a connection without a pool waits before it dials, because those before it were lost at once.
    pub(in crate::grpc) fn pause(&self) -> Option<Duration> {
        self.short_lived.lock().pause(Instant::now())
    }

    pub(in crate::grpc) fn reset_pause(&self) {
        self.short_lived.lock().reset();
    }

    /// Where the next attempt begins among the host's addresses, modulo their number.
    pub(in crate::grpc) fn passed_over(&self) -> usize {
        // Relaxed, here and below: nothing follows from one number having its value when another has its.
        self.passed_over.load(Ordering::Relaxed)
    }

    /// The attempt that began at `from` got a socket, and nothing behind it: the next one begins with the next address.
    pub(in crate::grpc) fn pass_over(&self, from: usize) {
        let next = from.wrapping_add(1);
        let _ = self.passed_over.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(in crate::grpc) fn complaints(&self) -> u32 {
        self.complaints.load(Ordering::Relaxed)
    }

    /// The server complained of the pings of a connection that was dialed after so many complaints.
    pub(in crate::grpc) fn complained(&self, known: u32) {
        let next = known.saturating_add(1);
        let _ = self.complaints.compare_exchange(known, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Keepalive as it was configured, slowed down: gRFC A8 doubles the interval with each complaint, here up to
/// [`LONGEST_INTERVAL`].
pub(in crate::grpc) fn slowed(keepalive: Keepalive, complaints: u32) -> Keepalive {
    let doubled = keepalive.interval.saturating_mul(2u32.saturating_pow(complaints));
    let interval = doubled.min(LONGEST_INTERVAL.max(keepalive.interval));
    Keepalive { interval, ..keepalive }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_doubles_with_each_complaint_up_to_two_hours() {
        const HOUR: u64 = 3600;
        let rows = [
            // configured, complaints, interval: in seconds
            (10, 0, 10),
            (10, 1, 20),
            (10, 9, 5_120),
            (10, 10, 2 * HOUR),
            (10, u32::MAX, 2 * HOUR),
            (HOUR, 1, 2 * HOUR),
            (3 * HOUR, 0, 3 * HOUR),
            (3 * HOUR, 5, 3 * HOUR),
        ];
        for (configured, complaints, interval) in rows {
            let keepalive = Keepalive::every(Duration::from_secs(configured));
            let slow = slowed(keepalive, complaints);
            assert_eq!(slow.interval.as_secs(), interval, "{configured} s after {complaints}");
            assert_eq!(slow.timeout, keepalive.timeout);
        }
        assert_eq!(slowed(Keepalive::every(Duration::MAX), 3).interval, Duration::MAX);
    }

    #[test]
    fn a_server_that_takes_no_streams_for_now_is_expected_to_take_what_it_took_before() {
        let server = Server::new(Backoff::POOL);
        assert_eq!(server.expected_streams(), None);
        for (limit, expected) in
            [(0, None), (100, Some(100)), (0, Some(100)), (u32::MAX, Some(u32::MAX)), (1, Some(1))]
        {
            server.takes_streams(limit);
            assert_eq!(server.expected_streams(), expected);
        }
    }

    #[test]
    fn what_many_connections_report_of_one_step_is_one_step() {
        let server = Server::new(Backoff::POOL);
        for _ in 0..16 {
            server.pass_over(0);
            server.complained(0);
        }
        assert_eq!((server.passed_over(), server.complaints()), (1, 1));
        server.pass_over(1);
        server.complained(1);
        server.complained(0);
        assert_eq!((server.passed_over(), server.complaints()), (2, 2));
    }
}
