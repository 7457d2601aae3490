//! What a connection of a pool has from its pool, and what it carries for it.

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::Ticket;
use super::shared::Shared;
use crate::grpc::counters::Counters;
use crate::grpc::server::Server;
use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicU32, Ordering};

/// What a connection reports to its pool. No lock of the connection is held.
pub(in crate::grpc) trait Pool: Send + Sync {
    /// The state of the member has changed, or the number of calls that it carries at once.
    fn changed(&self, member: u64);

    /// The member is shut down.
    fn shut_down(&self, member: u64);

    /// The last handle of the member has been dropped.
    fn forget(&self, member: u64);

    /// Another member for a call that has not left; `None`: it stays where it is. `tried` are the members that it has been on.
    fn elsewhere(&self, tried: &[u64], why: Why) -> Option<Elsewhere>;
}

/// Why a call asks for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Why {
    /// Its own has no stream free.
    Full,
    /// Its own cannot be established.
    Failed,
    /// Its own is driven by another runtime, and ends with that.
    Foreign,
}

/// Another connection for a call, on which it counts while the ticket lives.
pub(in crate::grpc) struct Elsewhere {
    pub(in crate::grpc) conn: Arc<Shared>,
    pub(in crate::grpc) ticket: Arc<dyn Ticket>,
}

/// How many callers a pool has given a connection to. Only the pool changes it.
///
/// Relaxed throughout: the pool adds and decides on zero under its own lock; in between the numbers only say where the load is.
#[derive(Debug)]
pub(in crate::grpc) struct Callers {
    now: AtomicU32,
    /// A handle that comes back is dropped while there are more than this, so that its caller's next get
    /// finds another connection.
    cap: AtomicU32,
    /// So many more of the handles that come back are dropped, whatever the cap.
    unwelcome: AtomicU32,
}

impl Callers {
    pub(super) fn new() -> Self {
        Callers { now: AtomicU32::new(0), cap: AtomicU32::new(u32::MAX), unwelcome: AtomicU32::new(0) }
    }

    #[inline]
    pub(in crate::grpc) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    pub(in crate::grpc) fn set_cap(&self, cap: u32) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    /// One more; how many there are.
    #[inline]
    pub(in crate::grpc) fn add(&self) -> u32 {
        self.now.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One of those that there are is to go elsewhere.
    pub(in crate::grpc) fn one_is_unwelcome(&self) {
        let now = self.now();
        let add = |unwelcome: u32| (unwelcome < now).then(|| unwelcome + 1);
        let _ = self.unwelcome.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(in crate::grpc) fn raise_cap(&self, cap: u32) {
        self.cap.fetch_max(cap, Ordering::Relaxed);
    }

    /// One less; how many are left.
    #[inline]
    pub(in crate::grpc) fn remove(&self) -> u32 {
        self.now.fetch_sub(1, Ordering::Relaxed) - 1
    }

    #[inline]
    pub(in crate::grpc) fn are_too_many(&self) -> bool {
        self.now() > self.cap.load(Ordering::Relaxed) || self.unwelcome.load(Ordering::Relaxed) > 0
    }

    /// One less, if there are too many: never fewer than the cap, however many ask at once, but for the unwelcome.
    pub(in crate::grpc) fn remove_if_too_many(&self) -> bool {
        let take = |unwelcome: u32| unwelcome.checked_sub(1);
        if self.unwelcome.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            self.remove();
            return true;
        }
        let cap = self.cap.load(Ordering::Relaxed);
        let lower = |now: u32| (now > cap).then(|| now - 1);
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).is_ok()
    }
}

#[derive(Clone)]
pub(in crate::grpc) struct Membership {
    /// The number of the connection in its pool.
    pub(in crate::grpc) id: u64,
    pub(in crate::grpc) pool: Arc<dyn Pool>,
    /// What the pool's connections have learned of their server.
    pub(in crate::grpc) server: Arc<Server>,
    pub(in crate::grpc) counters: Arc<Counters>,
    /// One permit for each socket, from its dial to its close, where the pool's sockets are limited.
    pub(in crate::grpc) sockets: Option<Arc<Semaphore>>,
}

impl Membership {
    /// A permit for one more socket; waits until a socket that is being closed is gone. Cancel safe.
    pub(super) async fn socket_permit(&self) -> Option<OwnedSemaphorePermit> {
        match &self.sockets {
            // The semaphore is never closed.
            Some(sockets) => Arc::clone(sockets).acquire_owned().await.ok(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_come_back_are_sent_away_down_to_the_cap_and_as_many_as_are_unwelcome() {
        let callers = Callers::new();
        for _ in 0..5 {
            callers.add();
        }
        assert!(!callers.are_too_many() && !callers.remove_if_too_many());
        callers.set_cap(3);
        assert!(callers.are_too_many());
        assert!(
            callers.remove_if_too_many() && callers.remove_if_too_many() && !callers.remove_if_too_many()
        );
        assert_eq!(callers.now(), 3);
        callers.raise_cap(2);
        for _ in 0..9 {
            callers.one_is_unwelcome();
        }
        for left in (0..3).rev() {
            assert!(callers.are_too_many() && callers.remove_if_too_many());
            assert_eq!(callers.now(), left);
        }
        assert!(!callers.are_too_many() && !callers.remove_if_too_many(), "no more than there were");
    }
}
