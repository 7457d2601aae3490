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
//! * A connection that is lost within [`LASTED`](super::backoff::LASTED) and has carried no call is a
//!   [failure](super::backoff::is_failure), too: a server that accepts each connection and ends it at
//!   once is not dialed without a pause. An attempt that began before such a loss does not undo it.
//! * The sequence of pauses begins anew when a connection is lost that was no failure, or when the gate has
//!   stayed proven for so long; an attempt that succeeds is not enough.
//! * Who comes to a gate that is closed waits: for the pause to end, or for the attempt in flight.
//! * When an attempt fails, all waiting dials get its error and do not dial. When one succeeds, they do.
//! * An attempt that is not done after [`STALE`] no longer bars the way: another may begin beside it. So a server that
//!   accepts and says nothing, or an attempt on a runtime that nobody drives, costs the others a second, not the attempt's
//!   whole time. Only dials that arrived soon after it began get its failure, which is ignored if another
//!   attempt has succeeded since.
//! * The pause grows with each failure in a row, but a failure counts once: attempts that began before the gate
//!   was last closed do not lengthen it again.
//! * An attempt that fails because this process lacks something (descriptors, as a rule) says nothing of the server: the gate
//!   stays as it is. All waiting dials get its error, because they would fail likewise; the next attempt
//!   begins after [`SHORTAGE`].
//! * A [`Turn`] that is dropped unsettled (its connection was closed, its runtime ended) counts as no outcome.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::{LASTED, Life, Pauses, is_failure};
use crate::grpc::error::Error;
use crate::grpc::options::{Backoff, YEAR};
use crate::primitive::Mutex;

/// How many attempts may be in flight at once while the last one succeeded. A pool that is woken by a burst opens
/// its connections in waves of this size instead of flooding the server's accept queue.
const PARALLEL: usize = 16;

/// How long an attempt has the way to itself.
const STALE: Duration = Duration::from_secs(1);

/// How long no attempt begins after one for which this process lacked something.
const SHORTAGE: Duration = Duration::from_millis(100);

pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// Stepped when a waiter should look again.
    changed: watch::Sender<()>,
}

struct Inner {
    /// Since when it is proven.
    proven: Option<Instant>,
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
    /// Attempts for which this process lacked something, and the error of the last one.
    shortages: u64,
    last_shortage: Option<Error>,
    last_success: Option<Instant>,
    /// When a connection was last lost whose loss was a failure.
    short_lived: Option<Instant>,
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
                proven: None,
                in_flight: Vec::new(),
                closings: 0,
                pause_until: None,
                pauses: Pauses::new(policy),
                failures: 0,
                last_failure: None,
                shortages: 0,
                last_shortage: None,
                last_success: None,
                short_lived: None,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Waits for a turn, or for the outcome of another's. Cancel safe.
    pub(crate) async fn enter(&self) -> Entry<'_> {
        // Subscribed before the first look: no change after it is missed.
        let mut changed = self.changed.subscribe();
        let came = Instant::now();
        let seen = self.inner.lock().outcomes();
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

    fn look(&self, came: Instant, seen: (u64, u64)) -> Look<'_> {
        let mut inner = self.inner.lock();
        let (failures, shortages) = seen;
        if inner.shortages != shortages
            && let Some(error) = &inner.last_shortage
        {
            return Look::Enter(Entry::Failed(error.clone()));
        }
        if inner.failures != failures
            && inner.proven.is_none()
            && let Some((began, error)) = &inner.last_failure
            && *began + STALE >= came
        {
            return Look::Enter(Entry::Failed(error.clone()));
        }
        let now = Instant::now();
        let most = if inner.proven.is_some() { PARALLEL } else { 1 };
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

    /// A connection was lost, or its server no longer serves. Until an attempt succeeds, one is made at a time;
    /// after a pause, if the loss [is a failure](is_failure).
    pub(in crate::grpc) fn lost(&self, life: Life) {
        let mut inner = self.inner.lock();
        // Of connections that are lost together the first one counts.
        if inner.proven.is_none() {
            return;
        }
        if is_failure(life) {
            inner.short_lived = Some(Instant::now());
            inner.close();
            inner.pause();
        } else {
            inner.close();
            inner.pauses.reset();
        }
    }
}

impl Inner {
    /// Failures and shortages so far.
    fn outcomes(&self) -> (u64, u64) {
        (self.failures, self.shortages)
    }

    /// Doubtful from here on.
    fn close(&mut self) {
        self.closings += 1;
        if self.proven.take().is_some_and(|since| since.elapsed() >= LASTED) {
            self.pauses.reset();
        }
    }

    fn pause(&mut self) {
        let pause = self.pauses.next();
        self.pause_until = Some(Instant::now() + pause.min(YEAR));
    }
}

enum Look<'a> {
    Enter(Entry<'a>),
    /// Look again then, or when the gate has changed.
    Pause(Instant),
}

impl Turn<'_> {
    /// To be called before others can see the connection: its loss must find the gate proven.
    pub(crate) fn succeeded(&self) {
        let mut inner = self.gate.inner.lock();
        if inner.short_lived.is_some_and(|lost| self.began <= lost) {
            return;
        }
        inner.proven.get_or_insert_with(Instant::now);
        inner.last_success = Some(self.began);
        inner.pause_until = None;
        // `in_flight` falls and the waiters wake in `drop`.
    }

    pub(crate) fn failed(self, error: Error) {
        let mut inner = self.gate.inner.lock();
        if error.is_shortage() {
            inner.shortages += 1;
            inner.last_shortage = Some(error);
            inner.pause_until = inner.pause_until.max(Some(Instant::now() + SHORTAGE));
            return;
        }
        if inner.last_success.is_some_and(|began| began > self.began) {
            return;
        }
        inner.failures += 1;
        inner.last_failure = Some((self.began, error));
        if inner.closings == self.closings {
            inner.close();
            inner.pause();
        }
        inner.proven = None;
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

    fn shortage() -> Error {
        let source = Arc::new(std::io::Error::from(std::io::ErrorKind::AddrNotAvailable));
        Error::Dial { target: "t".into(), phase: crate::grpc::DialPhase::Connect, source }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_of_this_process_fails_those_who_wait_paces_the_next_and_leaves_the_gate_open() {
        let gate = Arc::new(Gate::new(Backoff::POOL));
        turn(gate.enter().await).succeeded();
        let mut turns = Vec::new();
        for _ in 0..PARALLEL {
            turns.push(turn(gate.enter().await));
        }
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { matches!(gate.enter().await, Entry::Failed(Error::Dial { .. })) })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = Instant::now();
        turns.remove(0).failed(shortage());
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(turns);
        // Proven all the same: as many as may be begin side by side, after the pause.
        let turns = [turn(gate.enter().await), turn(gate.enter().await)];
        assert_eq!(start.elapsed().as_millis(), SHORTAGE.as_millis());
        drop(turns);
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
        drop(first);
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
        gate.lost(Life { lived: LASTED, carried_a_call: false });
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

    const SHORT: Life = Life { lived: Duration::from_millis(1), carried_a_call: false };

    /// How long each attempt waits for its turn, where each one succeeds and the connection ends like this at once.
    async fn waits(gate: &Gate, attempts: usize, life: Life) -> Vec<u128> {
        let mut waits = Vec::new();
        for _ in 0..attempts {
            let before = Instant::now();
            turn(gate.enter().await).succeeded();
            waits.push(before.elapsed().as_millis());
            gate.lost(life);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_end_at_once_without_a_call_are_paused_as_failures() {
        let gate = Gate::new(Backoff { jitter: 0.0, ..Backoff::POOL });
        assert_eq!(waits(&gate, 9, SHORT).await, [0, 50, 80, 128, 205, 328, 525, 839, 1000]);
        // One that lasts ends that, and so does one that carries a call.
        for life in [Life { lived: LASTED, ..SHORT }, Life { carried_a_call: true, ..SHORT }] {
            assert_eq!(waits(&gate, 3, life).await[1..], [0, 0]);
            assert_eq!(waits(&gate, 3, SHORT).await, [0, 50, 80]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_gate_has_stayed_proven_the_pauses_begin_anew() {
        let gate = Gate::new(Backoff { jitter: 0.0, ..Backoff::POOL });
        waits(&gate, 5, SHORT).await;
        turn(gate.enter().await).succeeded();
        tokio::time::sleep(LASTED).await;
        // This one was made later.
        gate.lost(SHORT);
        assert_eq!(waits(&gate, 1, SHORT).await, [50]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_began_before_a_short_lived_connection_was_lost_does_not_end_the_pause() {
        let gate = Gate::new(Backoff { jitter: 0.0, ..Backoff::POOL });
        turn(gate.enter().await).succeeded();
        let earlier = turn(gate.enter().await);
        gate.lost(SHORT);
        earlier.succeeded();
        drop(earlier);
        let before = Instant::now();
        turn(gate.enter().await).succeeded();
        assert_eq!(before.elapsed().as_millis(), 50);
    }
}
