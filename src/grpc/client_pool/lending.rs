//! Chooses a connection for a caller when the stock is empty: the shell of [`sizing::choose`](choose).
//!
//! # Protocol
//!
//! * The choice is made under the group's lock, and the caller is counted under the same lock, so two
//!   callers do not both get the last stream of a connection. Outside of that lock only a connection
//!   that was taken by hand and is put back raises a count.
//! * Dials, drops and the second look at the state happen after the lock is released.
//! * A connection that is made for the sake of a core is dialed at once and waits in `prepared` until
//!   it is Ready. Then the stock gets a handle of it, and each connection gets its share of the
//!   callers ([`cap`]); callers above the share move with their next get.
//! * A call whose request has not left may move to another connection. It counts as a caller there,
//!   and its handle goes into the stock when the call is over.

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Inner;
use super::counted::CountedConn;
use crate::grpc::conn::lease::Ticket;
use crate::grpc::conn::membership::{Elsewhere, Membership, Why};
use crate::grpc::conn::shared::Shared;
use crate::grpc::conn::{ClientConn, ConnectivityState};
use crate::grpc::counters::bump;
use crate::grpc::error::Error;
use crate::grpc::group::{Locked, Watcher};
use crate::grpc::sizing::{Choice, Load, Prepare, Wish, cap, choose};
use crate::primitive::{Arc, Weak};

/// How long a pool with a usable connection adds no other after a dial has failed.
const NO_GROWTH: std::time::Duration = std::time::Duration::from_secs(1);

/// The connection that was chosen, and how.
enum Chosen {
    New(CountedConn),
    Shared(CountedConn),
    Failing(CountedConn),
}

impl Inner {
    /// The members, as a caller on the runtime `here` sees them.
    fn loads(locked: &mut Locked<'_>, here: Option<&Handle>) -> Vec<Load> {
        let mut loads = Vec::with_capacity(locked.alive.len());
        for (id, conn) in locked.alive {
            let state = conn.state();
            if state == ConnectivityState::Shutdown {
                // The connection is about to report that itself.
                locked.retire(*id);
                continue;
            }
            let limit = conn.expected_streams(state);
            // Where there is no runtime nothing is foreign.
            let is_foreign = here.is_some_and(|here| conn.is_foreign(state, here.id()));
            loads.push(Load { id: *id, state, callers: conn.callers.now(), limit, is_foreign });
        }
        loads
    }

    fn make(&self, membership: Membership, closed: bool) -> Arc<Shared> {
        let settings = if closed { Err(Error::Closed) } else { self.settings.clone() };
        let conn = Shared::new(settings, Some(membership));
        if self.rule.exclusive {
            conn.callers.set_cap(1);
        }
        conn
    }

    /// Counts one more caller, for whom the pool has chosen this connection.
    fn counted(&self, conn: ClientConn) -> CountedConn {
        let callers = &conn.shared.callers;
        let now = callers.add();
        // Otherwise the handle would be dropped as one too many when it comes back. A second handle of
        // an exclusive connection is one too many.
        if !self.rule.exclusive {
            callers.raise_cap(now);
        }
        CountedConn::new(conn)
    }

    /// Returns a connection for one more caller. `None` means that the chosen one has failed in the
    /// meantime, and the caller is to try again.
    #[cold]
    #[inline(never)]
    pub(super) fn lend_another(&self) -> Option<(CountedConn, ConnectivityState)> {
        let chosen = if self.rule.exclusive && self.rule.most == usize::MAX {
            let (_, conn) = self.group.join(|membership, closed| self.make(membership, closed));
            Chosen::New(self.counted(conn))
        } else {
            self.choose(&[], Wish::Caller)?
        };
        let counted = match chosen {
            Chosen::New(counted) => return Some((counted, ConnectivityState::Idle)),
            Chosen::Shared(counted) => counted,
            Chosen::Failing(counted) => {
                // Closing it would break the calls that its holders make when the outage is over.
                counted.shared.forget_failure();
                counted
            }
        };
        let state = counted.state();
        if !state.is_usable() {
            self.pass_over(counted, state);
            return None;
        }
        bump(&self.group.counters.shared);
        Some((counted, state))
    }

    fn choose(&self, tried: &[u64], wish: Wish) -> Option<Chosen> {
        let may_grow = self.no_growth_until.lock().is_none_or(|until| until <= Instant::now());
        let here = Handle::try_current().ok();
        let (chosen, prepare) = self.group.locked(|locked| {
            let loads = Inner::loads(locked, here.as_ref());
            let at = |id: u64| {
                let (_, conn) = locked.alive.iter().find(|(member, _)| *member == id)?;
                Some(self.counted(ClientConn::from_shared(Arc::clone(conn))))
            };
            match choose(&loads, tried, self.rule, may_grow, wish) {
                Choice::Stay => None,
                Choice::Revive(id) => Some((Chosen::Failing(at(id)?), None)),
                Choice::Add => {
                    let (_, conn) = locked.join(|membership, closed| self.make(membership, closed));
                    Some((Chosen::New(self.counted(conn)), None))
                }
                Choice::Lend(id, prepare) => {
                    let counted = at(id)?;
                    let prepare = match prepare {
                        Prepare::Nothing => None,
                        Prepare::Another => {
                            Some(locked.join(|membership, closed| self.make(membership, closed)))
                        }
                        Prepare::Dial(id) => {
                            let idle = locked.alive.iter().find(|(member, _)| *member == id)?;
                            Some((idle.0, ClientConn::from_shared(Arc::clone(&idle.1))))
                        }
                    };
                    Some((Chosen::Shared(counted), prepare))
                }
            }
        })?;
        if let Some((id, conn)) = prepare {
            let before = self.prepared.lock().replace((id, conn.clone()));
            drop(before);
            conn.connect();
        }
        Some(chosen)
    }

    /// Takes the prepared connection out when its dial has an outcome, and stocks it if it is Ready.
    fn look_at_prepared(&self, member: u64) {
        let mut prepared = self.prepared.lock();
        let due =
            prepared.take_if(|(id, conn)| *id == member && conn.state() != ConnectivityState::Connecting);
        drop(prepared);
        if let Some((_, conn)) = due
            && conn.state() == ConnectivityState::Ready
        {
            self.keep(self.counted(conn));
        }
    }

    /// Retires the connections that neither a caller nor the stock has a handle of. Calls that still run
    /// on them go on.
    pub(super) fn retire_unused(&self) {
        // With a limit their sockets count, so the pool could not open another one.
        if self.rule.most < usize::MAX {
            return;
        }
        self.group.locked(|locked| {
            for (id, conn) in locked.alive {
                if conn.callers.now() == 0 {
                    locked.retire(*id);
                }
            }
        });
    }
}

impl Watcher for Inner {
    fn changed(self: Arc<Self>, member: u64) {
        self.look_at_prepared(member);
        let has_failed = self.group.locked(|locked| {
            let loads = Inner::loads(locked, None);
            for (id, conn) in locked.alive {
                if let Some(load) = loads.iter().find(|load| load.id == *id) {
                    conn.callers.set_cap(cap(load, &loads));
                }
            }
            let is_failing =
                |load: &Load| load.id == member && load.state == ConnectivityState::TransientFailure;
            loads.iter().any(is_failing)
        });
        if has_failed {
            *self.no_growth_until.lock() = Some(Instant::now() + NO_GROWTH);
        }
    }

    fn elsewhere(self: Arc<Self>, tried: &[u64], why: Why) -> Option<Elsewhere> {
        let wish = match why {
            Why::Full | Why::Foreign => Wish::Room,
            Why::Failed => Wish::Ready,
        };
        let counted = match self.choose(tried, wish)? {
            Chosen::New(counted) | Chosen::Shared(counted) | Chosen::Failing(counted) => counted,
        };
        let conn = Arc::clone(&counted.shared);
        let ticket = Arc::new(Visit { counted: Some(counted), pool: Arc::downgrade(&self) });
        Some(Elsewhere { conn, ticket })
    }
}

/// A call on a connection other than the one that its caller holds.
struct Visit {
    /// Taken by `drop`.
    counted: Option<CountedConn>,
    pool: Weak<Inner>,
}

impl Ticket for Visit {
    fn failed(&self) {}
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let (Some(counted), Some(pool)) = (self.counted.take(), self.pool.upgrade()) {
            pool.put(counted);
        }
    }
}
