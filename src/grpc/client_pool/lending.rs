//! Which connection a caller gets that the stock has none for: the shell of [`sizing::choose`](choose).
//!
//! # Protocol
//!
//! * A choice is made under the group's lock, and the caller is counted under it: two who choose at once do not both
//!   get a connection's last stream. Nobody else adds a caller, but for a connection that was taken by hand and is put back.
//! * What must not happen under that lock happens after it: dials, reading the state again, drops.
//! * A connection that is made for the sake of a core is dialed at once, and waits in `prepared` until it is Ready. Then the
//!   stock gets a handle of it, and each connection its share of the callers ([`cap`]); those above it move
//!   with their next get.
//! * A call that has not left may be sent elsewhere. It counts as a caller there, and leaves its place to the stock.

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Inner;
use super::place::Place;
use crate::grpc::conn::lease::Ticket;
use crate::grpc::conn::membership::{Elsewhere, Membership, Why};
use crate::grpc::conn::shared::Shared;
use crate::grpc::conn::{ClientConn, ConnectivityState};
use crate::grpc::counters::bump;
use crate::grpc::error::Error;
use crate::grpc::group::{Locked, Watcher};
use crate::grpc::sizing::{Choice, Load, Prepare, Wish, cap, choose};
use crate::primitive::{Arc, Weak};

/// How long a pool that has a connection makes no other after it could not connect one.
const NO_GROWTH: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection that was chosen, and what is to be done after the lock is released.
enum Chosen {
    New(Place),
    Shared(Place),
    Failing(Place),
}

impl Inner {
    /// As who asks sees them, on his runtime.
    fn loads(locked: &mut Locked<'_>, here: Option<&Handle>) -> Vec<Load> {
        let mut loads = Vec::with_capacity(locked.alive.len());
        for (id, conn) in locked.alive {
            let state = conn.state();
            if state == ConnectivityState::Shutdown {
                // It is about to say so itself.
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

    /// A place for one more caller, whom the pool has chosen to come here.
    fn place(&self, conn: ClientConn) -> Place {
        let callers = &conn.shared.callers;
        let now = callers.add();
        // Else the place would be one too many when it comes back. Of an exclusive connection it is.
        if !self.rule.exclusive {
            callers.raise_cap(now);
        }
        Place::counted(conn)
    }

    /// A connection for one more caller; `None`: that has changed meanwhile, to be tried again.
    #[cold]
    #[inline(never)]
    pub(super) fn lend_another(&self) -> Option<(Place, ConnectivityState)> {
        let chosen = if self.rule.exclusive && self.rule.most == usize::MAX {
            let (_, conn) = self.group.join(|membership, closed| self.make(membership, closed));
            Chosen::New(self.place(conn))
        } else {
            self.choose(&[], Wish::Caller)?
        };
        let place = match chosen {
            Chosen::New(place) => return Some((place, ConnectivityState::Idle)),
            Chosen::Shared(place) => place,
            Chosen::Failing(place) => {
                // To close it under its holder would break the calls that the holder will make when the outage is over.
                place.shared.forget_failure();
                place
            }
        };
        let state = place.state();
        if !state.is_usable() {
            self.pass_over(place, state);
            return None;
        }
        bump(&self.group.counters.shared);
        Some((place, state))
    }

    fn choose(&self, tried: &[u64], wish: Wish) -> Option<Chosen> {
        let may_grow = self.no_growth_until.lock().is_none_or(|until| until <= Instant::now());
        let here = Handle::try_current().ok();
        let (chosen, prepare) = self.group.locked(|locked| {
            let loads = Inner::loads(locked, here.as_ref());
            let at = |id: u64| {
                let (_, conn) = locked.alive.iter().find(|(member, _)| *member == id)?;
                Some(self.place(ClientConn::from_shared(Arc::clone(conn))))
            };
            match choose(&loads, tried, self.rule, may_grow, wish) {
                Choice::Stay => None,
                Choice::Revive(id) => Some((Chosen::Failing(at(id)?), None)),
                Choice::Add => {
                    let (_, conn) = locked.join(|membership, closed| self.make(membership, closed));
                    Some((Chosen::New(self.place(conn)), None))
                }
                Choice::Lend(id, prepare) => {
                    let place = at(id)?;
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
                    Some((Chosen::Shared(place), prepare))
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

    /// What is prepared is Ready, or never will be.
    fn look_at_prepared(&self, member: u64) {
        let mut prepared = self.prepared.lock();
        let due =
            prepared.take_if(|(id, conn)| *id == member && conn.state() != ConnectivityState::Connecting);
        drop(prepared);
        if let Some((_, conn)) = due
            && conn.state() == ConnectivityState::Ready
        {
            self.keep(self.place(conn));
        }
    }

    /// Connections that nobody has and that the stock has no handle of are not lent again, also if calls still run on them.
    pub(super) fn retire_unused(&self) {
        // A limit counts their sockets, so that another could not be had in their place.
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
        let place = match self.choose(tried, wish)? {
            Chosen::New(place) | Chosen::Shared(place) | Chosen::Failing(place) => place,
        };
        let conn = Arc::clone(&place.shared);
        let ticket = Arc::new(Visit { place: Some(place), pool: Arc::downgrade(&self) });
        Some(Elsewhere { conn, ticket })
    }
}

/// A call on a connection that its caller does not have.
struct Visit {
    /// Taken by `drop`.
    place: Option<Place>,
    pool: Weak<Inner>,
}

impl Ticket for Visit {
    fn failed(&self) {}
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let (Some(place), Some(pool)) = (self.place.take(), self.pool.upgrade()) {
            pool.put(place);
        }
    }
}
