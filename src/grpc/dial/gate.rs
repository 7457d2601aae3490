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
//! * An attempt that is not done after [`STALE`] no longer bars the way: another may begin beside it. So a server that
//!   accepts and says nothing, or an attempt on a runtime that nobody drives, costs the others a second, not the attempt's
//!   whole time. Its failure is told to those only who came soon after it began, and counts for nothing if another
//!   attempt has succeeded since.
//! * The pause grows with each failure in a row, but a failure counts once: attempts that began before the gate
//!   was last closed do not lengthen it again.
//! * A [`Turn`] that is dropped unsettled (its connection was closed, its runtime ended) counts as no outcome.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::Pauses;
use crate::grpc::error::Error;
use crate::grpc::options::{Backoff, YEAR};
use crate::primitive::Mutex;

/// How many attempts may be in flight at once while the last one succeeded. A pool that is woken by a burst opens
/// its connections in waves of this size instead of flooding the server's accept queue.
const PARALLEL: usize = 16;

/// How long an attempt has the way to itself.
const STALE: Duration = Duration::from_secs(1);

pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// Stepped when a waiter should look again.
    changed: watch::Sender<()>,
}

struct Inner {
    proven: bool,
    /// When the attempts began that hold a turn now, in that order. While not proven, one begins only when the others
    /// are stale.
    in_flight: Vec<Instant>,
    /// Stepped each time the gate goes from proven to doubtful, and by each failure that lengthens the pause.
    closings: u64,
    /// No attempt begins before this.
    pause_until: Option<Instant>,
    pauses: Pauses,
    /// Attempts that failed.
    failures: u64,
    /// The last failure, and when its attempt began.
    last_failure: Option<(Instant, Error)>,
    last_success: Option<Instant>,
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
    began: Instant,
    closings: u64,
}

impl Gate {
    pub(crate) fn new(policy: Backoff) -> Self {
        Gate {
            inner: Mutex::new(Inner {
                proven: false,
                in_flight: Vec::new(),
                closings: 0,
                pause_until: None,
                pauses: Pauses::new(policy),
                failures: 0,
                last_failure: None,
                last_success: None,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Waits for a turn, or for the outcome of another's. Cancel safe.
    pub(crate) async fn enter(&self) -> Entry<'_> {
        // Subscribed before the first look: no change after it is missed.
        let mut changed = self.changed.subscribe();
        let came = Instant::now();
        let seen = self.inner.lock().failures;
        loop {
            let pause = match self.look(came, seen) {
                Look::Enter(entry) => return entry,
                Look::Pause(until) => until,
            };
            tokio::select! {
                // The sender is in `self`: no error.
                _ = changed.changed() => {}
                () = sleep_until(pause) => {}
            }
        }
    }

    fn look(&self, came: Instant, seen: u64) -> Look<'_> {
        let mut inner = self.inner.lock();
        if inner.failures != seen
            && !inner.proven
            && let Some((began, error)) = &inner.last_failure
            && *began + STALE >= came
        {
            return Look::Enter(Entry::Failed(error.clone()));
        }
        let now = Instant::now();
        let most = if inner.proven { PARALLEL } else { 1 };
        let mut young = inner.in_flight.iter().filter(|began| **began + STALE > now);
        if young.clone().count() >= most
            && let Some(oldest) = young.next()
        {
            return Look::Pause(*oldest + STALE);
        }
        if let Some(until) = inner.pause_until
            && now < until
        {
            return Look::Pause(until);
        }
        inner.in_flight.push(now);
        Look::Enter(Entry::Turn(Turn { gate: self, began: now, closings: inner.closings }))
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
    /// Look again then, or when the gate has changed.
    Pause(Instant),
}

impl Turn<'_> {
    pub(crate) fn succeeded(self) {
        let mut inner = self.gate.inner.lock();
        inner.proven = true;
        inner.last_success = Some(self.began);
        inner.pause_until = None;
        inner.pauses.reset();
        // `in_flight` falls and the waiters wake in `drop`.
    }

    pub(crate) fn failed(self, error: Error) {
        let mut inner = self.gate.inner.lock();
        if inner.last_success.is_some_and(|began| began > self.began) {
            return;
        }
        inner.failures += 1;
        inner.last_failure = Some((self.began, error));
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
        let mut inner = self.gate.inner.lock();
        if let Some(own) = inner.in_flight.iter().position(|began| *began == self.began) {
            inner.in_flight.remove(own);
        }
        drop(inner);
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
        tokio::time::sleep(STALE / 2).await;
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
                    let side_by_side = gate.inner.lock().in_flight.len();
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
        assert!(gate.inner.lock().in_flight.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_takes_long_bars_the_way_for_a_second_and_its_late_failure_counts_for_nothing() {
        let gate = Gate::new(Backoff::POOL);
        let slow = turn(gate.enter().await);
        let before = Instant::now();
        let second = turn(gate.enter().await);
        assert_eq!(before.elapsed(), STALE);
        second.succeeded();
        slow.failed(Error::Closed);
        let before = Instant::now();
        turn(gate.enter().await).succeeded();
        assert_eq!(before.elapsed(), Duration::ZERO, "the gate is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn the_outcome_of_an_old_attempt_is_not_told_to_who_came_late() {
        let gate = Arc::new(Gate::new(Backoff::POOL));
        let old = turn(gate.enter().await);
        tokio::time::sleep(10 * STALE).await;
        let newer = turn(gate.enter().await);
        let late = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { matches!(gate.enter().await, Entry::Failed(Error::NoRuntime)) })
        };
        tokio::task::yield_now().await;
        old.failed(Error::Closed);
        tokio::task::yield_now().await;
        assert!(!late.is_finished());
        newer.failed(Error::NoRuntime);
        assert!(late.await.unwrap());
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
        let second = tokio::time::timeout(STALE / 2, gate.enter()).await;
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
        assert!(gate.inner.lock().in_flight.is_empty());
    }
}
