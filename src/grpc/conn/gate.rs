//! One outage is one outage: the gate through which all dials of a pool go.
//!
//! Without it each failed connection that a pool replaces would dial anew, once a request.
//!
//! ```text
//!             an attempt succeeded
//!   Doubtful ───────────────────────▶ Proven
//!   one attempt at a time,  ◀───────  up to `PARALLEL` at a time, no pause
//!   a pause after each failure        an attempt failed, or a connection was lost
//! ```
//!
//! * Who comes to a gate that is closed waits: for the pause to end, or for the attempt in flight.
//! * When an attempt fails, all who were waiting get its error; they do not dial. When one succeeds, they do.
//! * The pause grows with each failure in a row, but a failure counts once: attempts that began before the gate
//!   was last closed do not lengthen it again.
//! * A [`Turn`] that is dropped unsettled (its connection was closed, its runtime ended) counts as no outcome.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::Pauses;
use crate::grpc::config::Backoff;
use crate::grpc::error::Error;
use crate::primitive::Mutex;

/// How many attempts may be in flight at once while the last one succeeded. A pool that is woken by a burst opens
/// its connections in waves of this size instead of flooding the server's accept queue.
const PARALLEL: usize = 16;

/// The longest pause: an instant further ahead may be more than the clock can count.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// Stepped when a waiter should look again.
    changed: watch::Sender<()>,
}

struct Inner {
    proven: bool,
    /// Attempts that hold a turn now. At most 1 begins while not proven.
    in_flight: usize,
    /// Stepped each time the gate goes from proven to doubtful, and by each failure that lengthens the pause.
    closings: u64,
    /// No attempt begins before this.
    pause_until: Option<Instant>,
    pauses: Pauses,
    /// Attempts that failed, and the error of the last one.
    failures: u64,
    last_error: Option<Error>,
}

/// What a dial gets at the gate.
pub(crate) enum Entry<'a> {
    /// Dial, and settle.
    Turn(Turn<'a>),
    /// Another attempt failed while this one waited; this is its outcome.
    Failed(Error),
}

/// The right to make one attempt.
#[must_use]
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    closings: u64,
}

impl Gate {
    pub(crate) fn new(policy: Backoff) -> Self {
        Gate {
            inner: Mutex::new(Inner {
                proven: false,
                in_flight: 0,
                closings: 0,
                pause_until: None,
                pauses: Pauses::new(policy),
                failures: 0,
                last_error: None,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Waits for a turn, or for the outcome of another's. Cancel safe.
    pub(crate) async fn enter(&self) -> Entry<'_> {
        // Subscribed before the first look: no change after it is missed.
        let mut changed = self.changed.subscribe();
        let seen = self.inner.lock().failures;
        loop {
            let pause = match self.look(seen) {
                Look::Enter(entry) => return entry,
                Look::Pause(until) => Some(until),
                Look::Wait => None,
            };
            tokio::select! {
                // The sender is in `self`: no error.
                _ = changed.changed() => {}
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            }
        }
    }

    fn look(&self, seen: u64) -> Look<'_> {
        let mut inner = self.inner.lock();
        if inner.failures != seen
            && !inner.proven
            && let Some(error) = &inner.last_error
        {
            return Look::Enter(Entry::Failed(error.clone()));
        }
        let most = if inner.proven { PARALLEL } else { 1 };
        if inner.in_flight >= most {
            return Look::Wait;
        }
        if let Some(until) = inner.pause_until
            && Instant::now() < until
        {
            return Look::Pause(until);
        }
        inner.in_flight += 1;
        Look::Enter(Entry::Turn(Turn { gate: self, closings: inner.closings }))
    }

    /// A connection was lost: until an attempt succeeds, one is made at a time.
    pub(crate) fn doubt(&self) {
        let mut inner = self.inner.lock();
        if inner.proven {
            inner.proven = false;
            inner.closings += 1;
        }
    }
}

enum Look<'a> {
    Enter(Entry<'a>),
    Pause(Instant),
    Wait,
}

impl Turn<'_> {
    pub(crate) fn succeeded(self) {
        let mut inner = self.gate.inner.lock();
        inner.proven = true;
        inner.pause_until = None;
        inner.pauses.reset();
        // `in_flight` falls and the waiters wake in `drop`.
    }

    pub(crate) fn failed(self, error: Error) {
        let mut inner = self.gate.inner.lock();
        inner.failures += 1;
        inner.last_error = Some(error);
        inner.proven = false;
        if inner.closings == self.closings {
            inner.closings += 1;
            let pause = inner.pauses.next();
            inner.pause_until = Some(Instant::now() + pause.min(YEAR));
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gate.inner.lock().in_flight -= 1;
        self.gate.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::Arc;

    fn turn(entry: Entry<'_>) -> Turn<'_> {
        match entry {
            Entry::Turn(turn) => turn,
            Entry::Failed(error) => panic!("{error}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_an_outage_attempts_are_single_and_their_pauses_grow_to_a_second() {
        let gate = Gate::new(Backoff { jitter: 0.0, ..Backoff::POOL });
        let mut waits = Vec::new();
        for _ in 0..9 {
            let before = Instant::now();
            let turn = turn(gate.enter().await);
            waits.push(before.elapsed().as_millis());
            turn.failed(Error::Closed);
        }
        assert_eq!(waits, [0, 50, 80, 128, 205, 328, 525, 839, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_get_the_outcome_of_the_attempt_in_flight() {
        let gate = Arc::new(Gate::new(Backoff::POOL));
        let first = turn(gate.enter().await);
        let waiters: Vec<_> = (0..100)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { matches!(gate.enter().await, Entry::Failed(Error::NoRuntime)) })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        first.failed(Error::NoRuntime);
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
        assert_eq!(gate.inner.lock().failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_success_the_waiters_dial_side_by_side_in_waves() {
        let gate = Arc::new(Gate::new(Backoff::POOL));
        let first = turn(gate.enter().await);
        let waiters: Vec<_> = (0..3 * PARALLEL)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let turn = turn(gate.enter().await);
                    let side_by_side = gate.inner.lock().in_flight;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    turn.succeeded();
                    side_by_side
                })
            })
            .collect();
        tokio::task::yield_now().await;
        first.succeeded();
        let mut most = 0;
        for waiter in waiters {
            most = most.max(waiter.await.unwrap());
        }
        assert_eq!(most, PARALLEL);
        assert_eq!(gate.inner.lock().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_makes_the_next_attempts_single() {
        let gate = Gate::new(Backoff::POOL);
        turn(gate.enter().await).succeeded();
        let a = turn(gate.enter().await);
        let b = turn(gate.enter().await);
        drop((a, b));
        gate.doubt();
        let one = turn(gate.enter().await);
        let second = tokio::time::timeout(Duration::from_secs(60), gate.enter()).await;
        assert!(second.is_err(), "a second attempt began beside the first");
        one.succeeded();
        turn(gate.enter().await).succeeded();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_side_by_side_lengthen_the_pause_once() {
        let gate = Gate::new(Backoff { jitter: 0.0, ..Backoff::POOL });
        turn(gate.enter().await).succeeded();
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(turn(gate.enter().await));
        }
        for turn in turns {
            turn.failed(Error::Closed);
        }
        let before = Instant::now();
        drop(turn(gate.enter().await));
        assert_eq!(before.elapsed().as_millis(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_dropped_lets_the_next_one_in() {
        let gate = Gate::new(Backoff::POOL);
        drop(turn(gate.enter().await));
        {
            let held = turn(gate.enter().await);
            let entering = gate.enter();
            tokio::pin!(entering);
            assert!(futures_util::FutureExt::now_or_never(entering.as_mut()).is_none());
            drop(held);
            drop(turn(entering.await));
        }
        assert_eq!(gate.inner.lock().in_flight, 0);
    }
}
