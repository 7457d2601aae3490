//! A waiter for a stream.

use tokio::sync::Notify;

use super::address::Address;
use super::member::Slot;
use crate::grpc::error::Error;
use crate::primitive::{Arc, Mutex};

/// A place in an address's queue. The queue holds it, and by way of [`Pending`] a lease and its calls.
pub(super) struct Waiter {
    state: Mutex<State>,
    /// Notified when the state has changed, or the waiter should dial for the address itself.
    changed: Notify,
}

enum State {
    /// In the queue.
    Waiting,
    /// Taken out of the queue by the thread that is about to settle it.
    Taken,
    Granted(Arc<Slot>),
    Failed(Error),
    /// Nobody waits any more.
    Gone,
}

impl Waiter {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Waiter { state: Mutex::new(State::Waiting), changed: Notify::new() })
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(*self.state.lock(), State::Gone)
    }

    /// To be called when it leaves the queue, under the address's lock. False: nobody waits any more.
    pub(super) fn take(&self) -> bool {
        let mut state = self.state.lock();
        let waits = matches!(*state, State::Waiting);
        if waits {
            *state = State::Taken;
        }
        waits
    }

    /// The other way round.
    pub(super) fn put_back(&self) -> bool {
        let mut state = self.state.lock();
        let waits = matches!(*state, State::Taken);
        if waits {
            *state = State::Waiting;
        }
        waits
    }

    /// Not under the address's lock: a slot that nobody wants goes back there, and wakers are foreign code.
    pub(super) fn grant(&self, slot: Slot) {
        let unwanted = self.settle(State::Granted(Arc::new(slot)));
        drop(unwanted);
    }

    /// Not under the address's lock.
    pub(super) fn fail(&self, error: Error) {
        self.settle(State::Failed(error));
    }

    /// Has the waiter look again. Not under the address's lock.
    pub(super) fn nudge(&self) {
        self.changed.notify_waiters();
    }

    fn settle(&self, to: State) -> Option<State> {
        let mut state = self.state.lock();
        if !matches!(*state, State::Taken) {
            return Some(to);
        }
        *state = to;
        drop(state);
        self.changed.notify_waiters();
        None
    }
}

/// A lease's hold on its place in the queue.
pub(super) struct Pending {
    address: Arc<Address>,
    waiter: Arc<Waiter>,
}

impl Pending {
    pub(super) fn new(address: Arc<Address>, waiter: Arc<Waiter>) -> Self {
        Pending { address, waiter }
    }

    pub(super) fn address(&self) -> &Arc<Address> {
        &self.address
    }

    /// The stream, if it has come.
    pub(super) fn slot(&self) -> Option<Arc<Slot>> {
        match &*self.waiter.state.lock() {
            State::Granted(slot) => Some(Arc::clone(slot)),
            _ => None,
        }
    }

    /// Whether it has failed, or come to a connection that is lost.
    pub(super) fn is_lost(&self) -> bool {
        match &*self.waiter.state.lock() {
            State::Granted(slot) => slot.is_lost(),
            State::Failed(_) => true,
            State::Waiting | State::Taken | State::Gone => false,
        }
    }

    /// Waits for the stream; all callers get the same one. Cancel safe.
    pub(super) async fn granted(&self) -> Result<Arc<Slot>, Error> {
        loop {
            let changed = self.waiter.changed.notified();
            tokio::pin!(changed);
            // Before the look: nothing is missed.
            changed.as_mut().enable();
            match &*self.waiter.state.lock() {
                State::Granted(slot) => return Ok(Arc::clone(slot)),
                State::Failed(error) => return Err(error.clone()),
                State::Waiting | State::Taken | State::Gone => {}
            }
            // Here is a runtime, and where the lease was made there may have been none.
            self.address.dial_what_is_due()?;
            changed.await;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.waiter.state.lock(), State::Gone);
        if matches!(before, State::Waiting) {
            self.address.waiter_left();
        }
        // A stream that had come goes back, unless a call still has it.
        drop(before);
    }
}
