//! The thread that keeps the time for all pools of the process, and hands their tasks to executors.
//!
//! It runs no code of a user but `Executor::spawn` and wakers. So a pool keeps its deadlines whatever its executor does: one that
//! is stuck, or a runtime that is not being driven, delays creations, but no waiter for longer than it asked for.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::time::Time;
use crate::primitive::{Arc, Condvar, Mutex, Weak, clock, process, spawn_thread};

/// A pool, as the driver sees it.
pub(super) trait Turn: Send + Sync {
    /// Does what there is to do. Returns when there is more.
    fn turn(self: Arc<Self>) -> Time;
}

pub(super) struct Driver {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: Vec<Arc<dyn Turn>>,
    /// By time and address: the pool that keeps the address taken.
    timers: BTreeMap<(Time, usize), Weak<dyn Turn>>,
    /// The time of each pool in `timers`.
    due: HashMap<usize, Time>,
    is_running: bool,
}

/// How long the thread stays when there is nothing to wait for.
const LINGER: Duration = Duration::from_secs(10);

/// The shortest sleep, so that many deadlines are one wake-up.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) fn driver() -> Arc<Driver> {
    static DRIVER: process::PerProcess<Driver> = process::PerProcess::new();
    DRIVER.get(|| Driver { state: Mutex::new(State::default()), changed: Condvar::new() })
}

fn now() -> Time {
    Time::from_nanos(clock::now_ns())
}

impl Driver {
    /// The pool has a turn soon.
    pub(super) fn kick(self: &Arc<Self>, pool: Arc<dyn Turn>) {
        let mut state = self.state.lock();
        state.ready.push(pool);
        let starts = !std::mem::replace(&mut state.is_running, true);
        drop(state);
        self.changed.notify_one();
        if starts {
            let own = Arc::clone(self);
            if spawn_thread("cenote-bounded-time", move || own.run()).is_err() {
                // The next kick tries again.
                self.state.lock().is_running = false;
            }
        }
    }

    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            let now = now();
            let mut turns = std::mem::take(&mut state.ready);
            let mut gone = Vec::new();
            while let Some(first) = state.timers.first_entry().filter(|first| first.key().0 <= now) {
                let (_, id) = *first.key();
                let pool = first.remove();
                state.due.remove(&id);
                match pool.upgrade() {
                    Some(pool) => turns.push(pool),
                    None => gone.push(pool),
                }
            }
            if turns.is_empty() && gone.is_empty() {
                let pause = match state.timers.first_key_value() {
                    Some(((due, _), _)) => due.since(now).max(SHORTEST),
                    None => LINGER,
                };
                let has_timers = !state.timers.is_empty();
                state = self.changed.wait_timeout(state, pause);
                if !has_timers && state.ready.is_empty() && state.timers.is_empty() {
                    state.is_running = false;
                    return;
                }
                continue;
            }
            drop(state);
            drop(gone);
            for pool in turns {
                let (weak, id) = (Arc::downgrade(&pool), Arc::as_ptr(&pool).cast::<()>() as usize);
                let due = pool.turn();
                self.schedule(id, weak, due);
            }
        }
    }

    fn schedule(&self, id: usize, pool: Weak<dyn Turn>, due: Time) {
        let mut state = self.state.lock();
        let old = state.due.remove(&id).and_then(|at| state.timers.remove(&(at, id)));
        if !due.is_never() {
            state.timers.insert((due, id), pool);
            state.due.insert(id, due);
        }
        drop(state);
        drop(old);
    }
}
