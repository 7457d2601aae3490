//! The way into a loop: what it has accepted, in order, and what became of it.
//!
//! All decisions are made under one lock: a job is accepted while the door is open, or its owner gets it back. A loop that
//! stops takes no more jobs, and drops those that it has accepted and not begun on its own thread. Each accepted job has a
//! [`Ticket`], which counts it out when its future is gone: at its end, or dropped.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::primitive::{Arc, Condvar, Mutex};

/// Begins a task, on the loop.
pub(super) type Job = Box<dyn FnOnce(Ticket) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// No new jobs; what was accepted goes on.
    Draining,
    /// What was accepted is dropped.
    Stopping,
    /// The thread has ended.
    Ended(Outcome),
}

/// How a loop's thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stopped,
    Panicked,
}

/// What became of the jobs of a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    /// Ran to their end, in a panic too.
    pub(super) finished: u64,
    pub(super) dropped: u64,
}

impl Counts {
    pub(super) fn active(&self) -> u64 {
        self.accepted - self.finished - self.dropped
    }
}

struct State {
    stage: Stage,
    jobs: VecDeque<Job>,
    counts: Counts,
    /// The loop's, while it waits.
    waker: Option<Waker>,
}

pub(super) struct Door {
    state: Mutex<State>,
    /// The stage, or the number of active jobs, has changed to what somebody may wait for.
    changed: Condvar,
}

impl Door {
    pub(super) fn new() -> Self {
        let state =
            State { stage: Stage::Open, jobs: VecDeque::new(), counts: Counts::default(), waker: None };
        Door { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Accepts a job, or gives back what it would have been made of.
    pub(super) fn accept<F>(&self, input: F, job: impl FnOnce(F) -> Job) -> Result<(), F> {
        let mut state = self.state.lock();
        if state.stage != Stage::Open {
            drop(state);
            return Err(input);
        }
        state.jobs.push_back(job(input));
        state.counts.accepted += 1;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(super) fn stage(&self) -> Stage {
        self.state.lock().stage
    }

    pub(super) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Goes on to a stage, if that is a later one. A loop in its last stage is not notified.
    pub(super) fn advance(&self, stage: Stage) {
        let mut state = self.state.lock();
        let is_later = match (state.stage, stage) {
            (Stage::Ended(_), _) | (Stage::Stopping, Stage::Draining | Stage::Open) => false,
            (from, to) => from != to,
        };
        if !is_later {
            return;
        }
        state.stage = stage;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next job; `Ready(None)` when the loop is to stop.
    pub(super) fn poll_job(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Option<(Job, Ticket)>> {
        let mut state = self.state.lock();
        if matches!(state.stage, Stage::Stopping | Stage::Ended(_)) {
            return Poll::Ready(None);
        }
        if let Some(job) = state.jobs.pop_front() {
            return Poll::Ready(Some((job, Ticket::new(self))));
        }
        let old = state.waker.replace(context.waker().clone());
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Drops what was accepted and not begun: on the loop's thread. Returns whether there was any.
    pub(super) fn drop_jobs(self: &Arc<Self>) -> bool {
        let jobs = std::mem::take(&mut self.state.lock().jobs);
        let any = !jobs.is_empty();
        for job in jobs {
            let ticket = Ticket::new(self);
            drop(job);
            drop(ticket);
        }
        any
    }

    /// Waits until the loop's thread has ended. Returns how, or `None` at the deadline.
    pub(super) fn wait_for_end(&self, deadline: Option<Instant>) -> Option<Outcome> {
        self.wait(deadline, |state| match state.stage {
            Stage::Ended(outcome) => Some(outcome),
            _ => None,
        })
    }

    /// Waits until no job is active. Returns whether that is so.
    pub(super) fn wait_for_jobs(&self, deadline: Option<Instant>) -> bool {
        self.wait(deadline, |state| (state.counts.active() == 0).then_some(())).is_some()
    }

    fn wait<R>(&self, deadline: Option<Instant>, what: impl Fn(&State) -> Option<R>) -> Option<R> {
        const LONG: Duration = Duration::from_secs(3_600);
        let mut state = self.state.lock();
        loop {
            if let Some(result) = what(&state) {
                return Some(result);
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => LONG,
            };
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left);
        }
    }
}

/// One accepted job. Its drop counts it out.
pub(super) struct Ticket {
    door: Arc<Door>,
    is_finished: bool,
}

impl Ticket {
    fn new(door: &Arc<Door>) -> Self {
        Ticket { door: Arc::clone(door), is_finished: false }
    }

    /// The future has come to its end.
    pub(super) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.door.state.lock();
        match self.is_finished {
            true => state.counts.finished += 1,
            false => state.counts.dropped += 1,
        }
        let is_last = state.counts.active() == 0;
        drop(state);
        if is_last {
            self.door.changed.notify_all();
        }
    }
}
