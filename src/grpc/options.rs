//! Plain data that users fill in, with its defaults and checks: how to back off, how to ping, HTTP/2's own settings.

use std::time::Duration;

use super::error::Error;

/// What is longer is as good as for ever, and more may be more than the clock can count.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// About this long: give or take a tenth, so that what began together does not end together.
pub(crate) fn about(time: Duration) -> Duration {
    time.min(YEAR).mul_f64(fastrand::f64().mul_add(0.2, 0.9))
}

/// How the pause between two attempts to connect grows.
///
/// The defaults are those of gRPC's "connection backoff": 1 s, times 1.6 after each failure, give or take 20 %,
/// at most 120 s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The pause after the first failure; 1 s. More than zero.
    pub initial: Duration,
    /// What each further failure multiplies it with; 1.6. At least 1.
    pub multiplier: f64,
    /// Each pause is drawn from the range of plus or minus this share of it; 0.2. From 0 to 1.
    pub jitter: f64,
    /// No pause is longer than this, jitter included; 120 s. At least `initial`.
    pub max: Duration,
}

impl Backoff {
    /// What a [`ClientPool`](super::ClientPool) uses between the attempts of all its connections: 50 ms, times
    /// 1.6, give or take 20 %, at most 1 s. After an outage the pool has found its server again within that second.
    pub const POOL: Backoff = Backoff {
        initial: Duration::from_millis(50),
        multiplier: 1.6,
        jitter: 0.2,
        max: Duration::from_secs(1),
    };

    pub(crate) fn check(&self, option: &'static str) -> Result<(), Error> {
        let Backoff { initial, multiplier, jitter, max } = *self;
        if initial.is_zero() {
            return Err(Error::config(option, "`initial` is zero"));
        }
        if !(multiplier >= 1.0 && multiplier.is_finite()) {
            return Err(Error::config(option, "`multiplier` is less than 1"));
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(Error::config(option, "`jitter` is not from 0 to 1"));
        }
        if max < initial {
            return Err(Error::config(option, "`max` is less than `initial`"));
        }
        Ok(())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_secs(1),
            multiplier: 1.6,
            jitter: 0.2,
            max: Duration::from_secs(120),
        }
    }
}

/// HTTP/2 pings that find out whether a silent connection is still alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// After this long without a byte from the server, a ping is sent. At least 10 s. Many servers allow fewer: grpc-go and
    /// C-core allow one in 5 minutes by default, and send GOAWAY (`too_many_pings`) to a client that pings more. With each such
    /// GOAWAY the interval is doubled, as gRFC A8 asks, up to 2 hours: for this connection, or for all connections of its pool
    /// to that address.
    pub interval: Duration,
    /// The connection counts as lost if the ping is not answered within this time; 20 s. More than zero.
    pub timeout: Duration,
    /// Whether to ping while no call is open, too; false.
    pub while_idle: bool,
}

impl Keepalive {
    /// Pings at this interval, with a timeout of 20 s, and only while a call is open.
    pub const fn every(interval: Duration) -> Self {
        Keepalive { interval, timeout: Duration::from_secs(20), while_idle: false }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.interval < Duration::from_secs(10) {
            return Err(Error::config("keepalive", "`interval` is less than 10 s"));
        }
        if self.timeout.is_zero() {
            return Err(Error::config("keepalive", "`timeout` is zero"));
        }
        Ok(())
    }
}

/// HTTP/2's own settings; `None` is hyper's default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http2 {
    pub(crate) stream_window: Option<u32>,
    pub(crate) connection_window: Option<u32>,
    pub(crate) adaptive_window: bool,
    pub(crate) max_header_list_size: Option<u32>,
}

impl Http2 {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let windows = [
            ("initial_stream_window_size", self.stream_window),
            ("initial_connection_window_size", self.connection_window),
        ];
        for (option, window) in windows {
            match window {
                Some(0) => return Err(Error::config(option, "it is zero")),
                Some(size) if size > i32::MAX as u32 => {
                    return Err(Error::config(option, "it is more than 2^31 - 1"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
