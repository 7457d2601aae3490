//! What a named pool reports to the `metrics` facade, by the names of OpenTelemetry's semantic conventions for database clients.
//!
//! <https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools>

use std::time::Duration;

use super::stats::BoundedStats;

/// The counts that are reported, as they are at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Levels {
    idle: usize,
    used: usize,
    pending: usize,
    timed_out: u64,
    max: usize,
}

impl Levels {
    pub(super) fn of(stats: &BoundedStats) -> Self {
        Levels {
            // What is being checked or reset is on its way from one caller to the next.
            idle: stats.idle + stats.checking,
            used: stats.leased,
            pending: stats.waiting,
            timed_out: stats.timed_out,
            max: stats.max_size,
        }
    }
}

#[cfg(feature = "metrics")]
pub(super) use self::reported::Meters;
#[cfg(not(feature = "metrics"))]
pub(super) use self::unreported::Meters;

#[cfg(feature = "metrics")]
mod reported {
    use super::*;

    use metrics::{Counter, Gauge, Histogram, Unit};

    /// The instruments of a pool; none if it has no name.
    #[derive(Default)]
    pub(in crate::bounded) struct Meters(Option<Box<Instruments>>);

    struct Instruments {
        idle: Gauge,
        used: Gauge,
        idle_max: Gauge,
        idle_min: Gauge,
        max: Gauge,
        pending: Gauge,
        timeouts: Counter,
        create_time: Histogram,
        wait_time: Histogram,
        use_time: Histogram,
    }

    const COUNT: &str = "db.client.connection.count";
    const IDLE_MAX: &str = "db.client.connection.idle.max";
    const IDLE_MIN: &str = "db.client.connection.idle.min";
    const MAX: &str = "db.client.connection.max";
    const PENDING: &str = "db.client.connection.pending_requests";
    const TIMEOUTS: &str = "db.client.connection.timeouts";
    const CREATE_TIME: &str = "db.client.connection.create_time";
    const WAIT_TIME: &str = "db.client.connection.wait_time";
    const USE_TIME: &str = "db.client.connection.use_time";

    const POOL: &str = "db.client.connection.pool.name";
    const STATE: &str = "db.client.connection.state";

    impl Meters {
        /// Registers the instruments with the recorder of this moment.
        pub(in crate::bounded) fn of(pool: &str, min_idle: usize) -> Self {
            metrics::describe_gauge!(COUNT, Unit::Count, "Connections, by state");
            metrics::describe_gauge!(IDLE_MAX, Unit::Count, "The most idle connections allowed");
            metrics::describe_gauge!(IDLE_MIN, Unit::Count, "The fewest idle connections allowed");
            metrics::describe_gauge!(MAX, Unit::Count, "The most open connections allowed");
            metrics::describe_gauge!(PENDING, Unit::Count, "Callers that wait for a connection");
            metrics::describe_counter!(TIMEOUTS, Unit::Count, "Gets that timed out");
            metrics::describe_histogram!(CREATE_TIME, Unit::Seconds, "The time to create a connection");
            metrics::describe_histogram!(
                WAIT_TIME,
                Unit::Seconds,
                "The time until a caller got a connection"
            );
            metrics::describe_histogram!(USE_TIME, Unit::Seconds, "The time between a get and its return");
            let label = || (POOL, pool.to_owned());
            let instruments = Instruments {
                idle: metrics::gauge!(COUNT, &[label(), (STATE, "idle".to_owned())]),
                used: metrics::gauge!(COUNT, &[label(), (STATE, "used".to_owned())]),
                idle_max: metrics::gauge!(IDLE_MAX, &[label()]),
                idle_min: metrics::gauge!(IDLE_MIN, &[label()]),
                max: metrics::gauge!(MAX, &[label()]),
                pending: metrics::gauge!(PENDING, &[label()]),
                timeouts: metrics::counter!(TIMEOUTS, &[label()]),
                create_time: metrics::histogram!(CREATE_TIME, &[label()]),
                wait_time: metrics::histogram!(WAIT_TIME, &[label()]),
                use_time: metrics::histogram!(USE_TIME, &[label()]),
            };
            instruments.idle_min.increment(min_idle as f64);
            Meters(Some(Box::new(instruments)))
        }

        #[inline]
        pub(in crate::bounded) fn is_on(&self) -> bool {
            self.0.is_some()
        }

        /// Differences, not values: two threads may report theirs in the other order.
        pub(in crate::bounded) fn moved(&self, before: Levels, after: Levels) {
            let Some(own) = &self.0 else { return };
            let levels = [
                (&own.idle, before.idle, after.idle),
                (&own.used, before.used, after.used),
                (&own.pending, before.pending, after.pending),
                (&own.max, before.max, after.max),
                (&own.idle_max, before.max, after.max),
            ];
            for (gauge, before, after) in levels {
                if before != after {
                    gauge.increment(after as f64 - before as f64);
                }
            }
            if after.timed_out > before.timed_out {
                own.timeouts.increment(after.timed_out - before.timed_out);
            }
        }

        pub(in crate::bounded) fn created_in(&self, time: Duration) {
            if let Some(own) = &self.0 {
                own.create_time.record(time);
            }
        }

        pub(in crate::bounded) fn waited(&self, time: Duration) {
            if let Some(own) = &self.0 {
                own.wait_time.record(time);
            }
        }

        pub(in crate::bounded) fn used(&self, time: Duration) {
            if let Some(own) = &self.0 {
                own.use_time.record(time);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod unreported {
    use super::*;

    #[derive(Default)]
    pub(in crate::bounded) struct Meters(());

    impl Meters {
        pub(in crate::bounded) fn of(_: &str, _: usize) -> Self {
            Meters(())
        }

        #[inline]
        pub(in crate::bounded) fn is_on(&self) -> bool {
            false
        }

        pub(in crate::bounded) fn moved(&self, _: Levels, _: Levels) {}

        pub(in crate::bounded) fn created_in(&self, _: Duration) {}

        pub(in crate::bounded) fn waited(&self, _: Duration) {}

        pub(in crate::bounded) fn used(&self, _: Duration) {}
    }
}
