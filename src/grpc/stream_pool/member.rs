//! One connection of an address, and a stream of it.

use std::time::Duration;

use tokio::time::Instant;

use super::address::Address;
use crate::grpc::conn::lease::{Lease, Ticket};
use crate::grpc::conn::{ClientConn, ConnectivityState};
use crate::grpc::error::Error;
use crate::grpc::options::about;
use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// One socket in its life: what is lost is not dialed again, another takes its place.
#[repr(C)]
pub(super) struct Member {
    /// Leases, and calls that outlive theirs. Raised only by `try_take`, up to `limit`; lowered by the drop of a [`Slot`]. First,
    /// on the line of the `Arc`'s count: each get and each drop writes both.
    streams: AtomicU32,
    pub(super) address: Arc<Address>,
    pub(super) conn: ClientConn,
    /// Its number in the address's group.
    pub(super) id: u64,
    /// Whether it is one of the address's, or made for one lease because there were too many of those.
    pub(super) pooled: bool,
    /// What the server takes, and the configuration allows. Zero until it is Ready.
    limit: AtomicU32,
    was_ready: AtomicBool,
    pub(super) born: Instant,
    /// When it has lived as long as it may.
    pub(super) due: Option<Instant>,
    pub(super) calls: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Member {
    pub(super) fn new(
        address: &Arc<Address>,
        (id, conn): (u64, ClientConn),
        pooled: bool,
        ttl: Duration,
    ) -> Self {
        let born = Instant::now();
        Member {
            address: Arc::clone(address),
            conn,
            id,
            pooled,
            streams: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            was_ready: AtomicBool::new(false),
            born,
            due: born.checked_add(about(ttl)),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.conn.state() == ConnectivityState::Ready
    }

    /// Whether it may take streams yet: also in the moment between Ready and [`open`](Self::open).
    pub(super) fn is_on_its_way(&self) -> bool {
        self.conn.state().is_usable() && !self.was_ready()
    }

    pub(super) fn was_ready(&self) -> bool {
        self.was_ready.load(Ordering::Acquire)
    }

    /// It is Ready, with this limit.
    pub(super) fn open(&self, limit: u32) {
        self.limit.store(limit, Ordering::Release);
        self.was_ready.store(true, Ordering::Release);
    }

    #[inline]
    pub(super) fn streams(&self) -> u32 {
        // SeqCst: pairs with `waiting`, see the head of `address`.
        self.streams.load(Ordering::SeqCst)
    }

    #[inline]
    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// One stream more, if there is room.
    #[inline]
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit();
        let mut now = self.streams.load(Ordering::Relaxed);
        loop {
            if now >= limit {
                return None;
            }
            // SeqCst: see the head of `address`.
            match self.streams.compare_exchange_weak(now, now + 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(newer) => now = newer,
            }
        }
        self.address.began();
        Some(Slot { member: Arc::clone(self), counted: true })
    }

    /// The one stream of a connection that is made for it.
    pub(super) fn take_unpooled(self: Arc<Self>) -> Slot {
        self.streams.store(1, Ordering::SeqCst);
        self.address.began();
        Slot { member: self, counted: true }
    }
}

/// One stream of a connection: counted until this is dropped.
pub(super) struct Slot {
    member: Arc<Member>,
    /// False when it was handed over.
    counted: bool,
}

impl Slot {
    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether its connection permanently takes no more calls.
    pub(super) fn is_lost(&self) -> bool {
        self.member.pooled && !self.member.is_ready()
    }

    /// The same stream in other hands; these are empty.
    pub(super) fn hand_over(&mut self) -> Slot {
        Slot { member: Arc::clone(&self.member), counted: std::mem::take(&mut self.counted) }
    }

    /// For one attempt to send. `None`: the connection takes no more calls.
    pub(super) async fn lease(self: &Arc<Self>, wait_for_ready: bool) -> Result<Option<Lease>, Error> {
        let shared = &self.member.conn.shared;
        let mut lease = match self.member.pooled {
            true => match shared.lease_if_ready().await {
                Some(lease) => lease,
                None => return Ok(None),
            },
            false => shared.lease(wait_for_ready).await?,
        };
        self.member.calls.fetch_add(1, Ordering::Relaxed);
        lease.hold(Arc::clone(self) as Arc<dyn Ticket>);
        Ok(Some(lease))
    }
}

impl Ticket for Slot {
    fn failed(&self) {
        self.member.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        if self.counted {
            // SeqCst: see the head of `address`.
            let before = self.member.streams.fetch_sub(1, Ordering::SeqCst);
            self.member.address.released(&self.member, before == 1);
        }
    }
}
