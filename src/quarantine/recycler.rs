//! The thread that ends quarantines.

use std::time::Duration;

use super::table::Table;
use crate::primitive::{Arc, Condvar, JoinHandle, Mutex, Weak, current_thread, process, spawn_thread};

/// The longest sleep of a thread that has nothing to do.
const LONG: Duration = Duration::from_secs(3_600);

/// Wakes the recycler.
pub(super) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_notified: bool,
    stops: bool,
}

impl Default for Signal {
    fn default() -> Self {
        Signal { state: Mutex::new(State::default()), changed: Condvar::new() }
    }
}

impl Signal {
    /// Something may be due.
    #[cold]
    pub(super) fn notify(&self) {
        self.state.lock().is_notified = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.state.lock().stops = true;
        self.changed.notify_one();
    }

    /// Waits for so long, or until there is something to do. Returns whether to go on.
    fn wait(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.is_notified && !state.stops {
            state = self.changed.wait_timeout(state, time);
        }
        state.is_notified = false;
        !state.stops
    }
}

/// The thread of a pool, which ends with its last handle.
pub(super) struct Recycler {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
    forks: u32,
}

impl Recycler {
    pub(super) fn start<T: Send + Sync + 'static>(table: &Arc<Table<T>>) -> std::io::Result<Self> {
        process::count_forks();
        let (signal, weak) = (Arc::clone(&table.signal), Arc::downgrade(table));
        let thread = spawn_thread("cenote-quarantine", move || run(&signal, &weak))?;
        Ok(Recycler { signal: Arc::clone(&table.signal), thread: Some(thread), forks: process::forks() })
    }
}

fn run<T>(signal: &Signal, table: &Weak<Table<T>>) {
    let mut pause = LONG;
    while signal.wait(pause) {
        let Some(table) = table.upgrade() else { return };
        pause = match table.run_due() {
            Some(due) => due.saturating_sub(table.now()).max(Duration::from_millis(1)),
            None => LONG,
        };
    }
}

impl Drop for Recycler {
    fn drop(&mut self) {
        // A forked child has no such thread.
        if self.forks != process::forks() {
            return;
        }
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            // Dropped by a reset or a hook: the thread cannot wait for itself.
            && thread.thread().id() != current_thread()
        {
            let _ = thread.join();
        }
    }
}
