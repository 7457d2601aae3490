//! What has been seen of one channel.
//!
//! tonic makes one attempt at a time, but the socket of an earlier one may live on: streams that are open at a GOAWAY go
//! on. So each attempt has a number, and only reports of the current one count; one that is lost is no longer current,
//! whatever it reports then.
//!
//! The truth is [`Inner`], under the lock of its watch channel; `state` is its mirror, stored under that lock, so that it is
//! never older than what a waiter has been notified of.

use tokio::sync::watch;

use crate::grpc::conn::ConnectivityState::{self, Connecting, Idle, Ready, Shutdown, TransientFailure};
use crate::grpc::trace::trace_event;
use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicU8, Ordering};

pub(super) struct Seen {
    target: String,
    /// Mirror of `inner.state`.
    state: AtomicU8,
    inner: watch::Sender<Inner>,
}

struct Inner {
    state: ConnectivityState,
    /// The number of the latest attempt.
    last: u64,
    /// Whether that attempt is under way, or its connection is there.
    live: bool,
}

impl Seen {
    pub(super) fn new(target: String) -> Arc<Self> {
        let inner = Inner { state: Idle, last: 0, live: false };
        Arc::new(Seen { target, state: AtomicU8::new(Idle as u8), inner: watch::Sender::new(inner) })
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    #[inline]
    pub(super) fn state(&self) -> ConnectivityState {
        // Acquire: a thread that sees Ready also sees what led to it.
        ConnectivityState::from_u8(self.state.load(Ordering::Acquire))
    }

    pub(super) async fn changed_from(&self, from: ConnectivityState) -> ConnectivityState {
        let mut watch = self.inner.subscribe();
        // The sender is in `self`: no error.
        watch.wait_for(|inner| inner.state != from).await.map_or_else(|_| self.state(), |inner| inner.state)
    }

    /// The channel dials.
    pub(super) fn attempt(self: &Arc<Self>) -> Attempt {
        let mut number = 0;
        self.update(|inner| {
            inner.last += 1;
            number = inner.last;
            inner.live = true;
            // A failure is reported until an attempt succeeds.
            if inner.state != TransientFailure {
                inner.state = Connecting;
            }
        });
        Attempt { seen: Arc::clone(self), number }
    }

    /// The channel is dropped, permanently: nothing is reported after it.
    pub(super) fn shut_down(&self) {
        self.update(|inner| inner.state = Shutdown);
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        let mut moved = None;
        self.inner.send_if_modified(|inner| {
            let before = inner.state;
            if before != Shutdown {
                change(inner);
                // Release: see `state`.
                self.state.store(inner.state as u8, Ordering::Release);
            }
            moved = (before != inner.state).then_some((before, inner.state));
            moved.is_some()
        });
        if let Some((before, now)) = moved {
            trace_event!("connectivity changed", target = self.target, from = before, to = now);
        }
    }
}

/// One attempt, and the connection that comes of it. Its drop is their end.
pub(super) struct Attempt {
    seen: Arc<Seen>,
    number: u64,
}

impl Attempt {
    /// The server has answered.
    pub(super) fn ready(&self) {
        self.update(|inner| inner.state = Ready);
    }

    /// The attempt failed, or its connection takes no more calls.
    pub(super) fn lost(&self) {
        self.update(|inner| {
            inner.live = false;
            inner.state = if inner.state == Ready { Idle } else { TransientFailure };
        });
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        self.seen.update(|inner| {
            if inner.live && inner.last == self.number {
                change(inner);
            }
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_is_dropped_has_failed_and_a_connection_that_is_dropped_is_lost() {
        let seen = Seen::new(String::new());
        let attempt = seen.attempt();
        assert_eq!(seen.state(), Connecting);
        drop(attempt);
        assert_eq!(seen.state(), TransientFailure);
        let attempt = seen.attempt();
        assert_eq!(seen.state(), TransientFailure, "until one succeeds");
        attempt.ready();
        assert_eq!(seen.state(), Ready);
        drop(attempt);
        assert_eq!(seen.state(), Idle);
    }

    #[test]
    fn an_earlier_attempt_and_one_that_is_lost_have_no_say() {
        let seen = Seen::new(String::new());
        let old = seen.attempt();
        old.ready();
        old.lost();
        old.ready();
        assert_eq!(seen.state(), Idle, "the socket of a GOAWAY lives on");
        let new = seen.attempt();
        old.ready();
        assert_eq!(seen.state(), Connecting);
        new.ready();
        drop(old);
        assert_eq!(seen.state(), Ready);
    }

    #[test]
    fn nothing_follows_shutdown() {
        let seen = Seen::new(String::new());
        let attempt = seen.attempt();
        attempt.ready();
        seen.shut_down();
        drop(attempt);
        assert_eq!(seen.state(), Shutdown);
        seen.attempt().ready();
        assert_eq!(seen.state(), Shutdown);
    }
}
