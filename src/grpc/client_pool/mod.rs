//! [`ClientPool`]: a `SyncPool` of connections that hands out no broken one.
//!
//! # Who holds what
//!
//! * The stock is a [`SyncPool`]: per-thread, with two generations. What it drops (`age`, `clear`, its own drop) loses
//!   one handle, no more: a call that runs on the connection is a handle, too.
//! * The [`Group`] knows the connections weakly, and is known by them: it holds what they have in common.
//! * Without a limit each caller has a connection to itself, and the group's lock is taken only when one is made or
//!   ends. With a limit, the group counts how many have each connection out; the last to give it back puts
//!   it into the stock, or discards it if it is broken. So nobody's connection is closed by a neighbour.

mod guard;
mod stats;

use std::fmt;
use std::num::NonZeroUsize;

pub use self::guard::PooledConn;
pub use self::stats::{ClientPoolStats, Discards};
use super::config::{Options, Settings, connection_options};
use super::conn::membership::Pool;
use super::conn::shared::Shared;
use super::conn::{ClientConn, ConnectivityState};
use super::counters::bump;
use super::error::Error;
use super::group::{Group, Return};
use super::options::Backoff;
use super::trace::trace_event;
use crate::aging::{Ageable, sealed};
use crate::primitive::Arc;
use crate::sync_pool::SyncPool;

/// A pool of gRPC connections to one target, which hands out none that it knows to be broken.
///
/// ```no_run
/// # use cenote::grpc::ClientPool;
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = ClientPool::new("http://127.0.0.1:5000")?;
///
/// let conn = pool.get(); // Go: conn := pool.Get(); defer pool.Put(conn)
/// let mut client = GreeterClient::new(conn);
/// client.say_hello(HelloRequest { name: "ada".into(), delay_ms: 0 }).await?;
/// # Ok(()) } // the client goes, and with it the guard: the connection is back
/// ```
///
/// # Get and put
///
/// [`get`](Self::get) takes a connection that the pool holds, reads its state, and hands it out unless it is
/// TransientFailure or Shutdown; such a one it closes, and looks on. If none is left it makes one, which is Idle and dials
/// with its first call. It never waits and does no I/O. The guard gives the connection back when it is dropped, and then
/// the state is looked at again. Both kinds of discard are counted in [`stats`](Self::stats).
///
/// # Outages
///
/// All connections of a pool dial through one gate. While the server does not answer, one attempt at a time is made, with
/// a pause between attempts that grows from 50 ms to 1 s ([`redial`](ClientPoolBuilder::redial)), however
/// many calls are waiting; a call waits for the next attempt, within its deadline, and fails with its error. When an attempt
/// succeeds, all who are waiting connect. A server that says that it does not serve
/// ([`health_check`](ClientPoolBuilder::health_check)) is an outage, too.
///
/// # The end of a connection
///
/// Ageing, [`clear`](Self::clear), the drop of the pool and the idle timeout release a connection: calls that run on it
/// go on, and its socket closes with the last of its handles. [`close`](Self::close) cuts.
///
/// `ClientPool` is a cheap handle; clones are the same pool.
#[derive(Clone)]
pub struct ClientPool {
    inner: Arc<Inner>,
}

struct Inner {
    /// An error here is the answer to every call on every connection.
    settings: Result<Arc<Settings>, Error>,
    stock: SyncPool<ClientConn, ()>,
    group: Arc<Group>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Here, and not by the drop glue, only so that the counters are right for whoever still reads them.
        self.stock.clear();
    }
}

impl ClientPool {
    /// A pool of connections to `target`, with all options at their defaults. Does no I/O. For the forms of a target see
    /// [`ClientConn::new`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`], with what is wrong as its source.
    pub fn new(target: impl Into<String>) -> Result<Self, Error> {
        Self::builder(target).build()
    }

    /// A pool with options.
    pub fn builder(target: impl Into<String>) -> ClientPoolBuilder {
        ClientPoolBuilder { options: Options::new(target.into(), Backoff::POOL), max_connections: None }
    }

    /// A pool all of whose calls fail with `error`.
    pub(super) fn failing(error: Error) -> Self {
        Self::from_parts(Err(error), Backoff::POOL, None)
    }

    fn from_parts(settings: Result<Settings, Error>, redial: Backoff, limit: Option<NonZeroUsize>) -> Self {
        let settings = settings.map(Arc::new);
        ClientPool {
            inner: Arc::new(Inner {
                settings,
                stock: SyncPool::expensive(()),
                group: Group::new(redial, limit),
            }),
        }
    }

    /// A connection whose state, read in here, was neither TransientFailure nor Shutdown; back on drop.
    ///
    /// Never waits and does no I/O; needs no runtime.
    #[inline]
    pub fn get(&self) -> PooledConn<'_> {
        PooledConn::borrowed(self, self.check_out())
    }

    /// As [`get`](Self::get), with a guard that holds a handle of the pool: to move into a spawned task.
    #[inline]
    pub fn get_owned(&self) -> PooledConn<'static> {
        PooledConn::owned(self.clone(), self.check_out())
    }

    /// As [`get`](Self::get), without a guard: [`put`](Self::put) gives it back. One that is dropped instead is released.
    pub fn take(&self) -> ClientConn {
        self.check_out().0
    }

    /// Gives a connection to the pool. One that is TransientFailure or Shutdown is closed instead, and one that this
    /// pool did not make is released.
    #[inline]
    pub fn put(&self, conn: ClientConn) {
        let Inner { stock, group, .. } = &*self.inner;
        let Some(id) = conn.shared.number_in(group) else { return };
        let state = conn.state();
        match group.check_in(id, !state.is_usable()) {
            Return::LetGo => {}
            Return::Discard => self.discard(&conn, When::Put, state),
            Return::Keep => {
                stock.put(conn);
                if group.is_closed() {
                    stock.clear();
                }
            }
        }
    }

    // Compiled into the caller, as `put` is: between calls the connection would go through memory, again and again, which
    // takes longer than all the rest.
    #[inline]
    fn check_out(&self) -> (ClientConn, ConnectivityState) {
        let Inner { stock, group, .. } = &*self.inner;
        loop {
            let Some(conn) = stock.try_take() else {
                match self.make_or_share() {
                    Some(found) => return found,
                    None => continue,
                }
            };
            let state = conn.state();
            let Some(id) = conn.shared.number_in(group) else { continue };
            if state.is_usable() {
                group.check_out(id);
                return (conn, state);
            }
            self.pass_over(&conn, id, state);
        }
    }

    #[cold]
    fn pass_over(&self, conn: &ClientConn, id: u64, state: ConnectivityState) {
        let group = &self.inner.group;
        bump(&group.counters.passed_over);
        if group.found_broken(id) == Return::Discard {
            self.discard(conn, When::Get, state);
        }
    }

    #[cold]
    #[inline(never)]
    fn make_or_share(&self) -> Option<(ClientConn, ConnectivityState)> {
        let Inner { settings, group, .. } = &*self.inner;
        let new = group.try_join(|membership, closed| {
            let settings = if closed { Err(Error::Closed) } else { settings.clone() };
            Shared::new(settings, Some(membership))
        });
        match new {
            Some(conn) => Some((conn, ConnectivityState::Idle)),
            None => self.share(),
        }
    }

    /// At the limit: a clone of a connection that somebody else has. One that is usable, if there is one; else one that is
    /// failing has its failure forgotten: to close it under its holder would break the calls that the holder
    /// will make when the outage is over, and to make another would be one too many.
    #[cold]
    fn share(&self) -> Option<(ClientConn, ConnectivityState)> {
        let group = &self.inner.group;
        let mut failing = None;
        // Most often the first will do; to look at all of them, one may look at as many as there are now.
        let mut looks = 0;
        while looks == 0 || looks < group.members() {
            looks += 1;
            let (id, conn) = group.share_next()?;
            match conn.state() {
                ConnectivityState::Shutdown => group.shut_down(id),
                ConnectivityState::TransientFailure if failing.is_none() => failing = Some(conn),
                ConnectivityState::TransientFailure => self.put(conn),
                state => {
                    if let Some(failing) = failing {
                        self.put(failing);
                    }
                    bump(&group.counters.shared);
                    return Some((conn, state));
                }
            }
        }
        let conn = failing?;
        conn.shared.forget_failure();
        let state = conn.state();
        if !state.is_usable() {
            self.put(conn);
            return None;
        }
        bump(&group.counters.shared);
        Some((conn, state))
    }

    #[cold]
    fn discard(&self, conn: &ClientConn, when: When, state: ConnectivityState) {
        if conn.shared.discard() {
            let counters = &self.inner.group.counters;
            let by_state = match when {
                When::Get => &counters.discarded_on_get,
                When::Put => &counters.discarded_on_put,
            };
            bump(match state {
                ConnectivityState::Shutdown => &by_state.shutdown,
                _ => &by_state.transient_failure,
            });
            trace_event!(
                "connection discarded",
                target = conn.shared.target(),
                on = when.name(),
                reason = state
            );
        }
    }

    /// Lets one generation pass: connections that nobody has taken since the `age` before this one are released.
    pub fn age(&self) {
        self.inner.stock.age();
    }

    /// Releases every connection that the pool holds.
    pub fn clear(&self) {
        self.inner.stock.clear();
    }

    /// Closes every connection of the pool, also those that callers have, and those discarded ones on which calls still
    /// run: their calls break off with [`Error::Closed`], at once or after the [grace](ClientPoolBuilder::close_grace). Those
    /// that `get` hands out from now on fail every call with it. Does not wait.
    pub fn close(&self) {
        for conn in self.inner.group.close() {
            conn.close();
        }
        self.inner.stock.clear();
    }

    /// The counters, and what there is now.
    pub fn stats(&self) -> ClientPoolStats {
        ClientPoolStats::read(&self.inner.stock.stats(), &self.inner.group.counters)
    }
}

impl sealed::Sealed for &'static ClientPool {}

impl Ageable for &'static ClientPool {
    fn pass_generation(&self) -> sealed::Outcome {
        self.inner.stock.pass_generation()
    }
}

/// Where a broken connection was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Get,
    Put,
}

impl When {
    fn name(self) -> &'static str {
        match self {
            When::Get => "get",
            When::Put => "put",
        }
    }
}

impl fmt::Debug for ClientPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { settings, stock, .. } = &*self.inner;
        let target = settings.as_ref().map(|settings| &*settings.target.text);
        f.debug_struct("ClientPool").field("target", &target).field("stock", stock).finish_non_exhaustive()
    }
}

/// Options of a [`ClientPool`] and of its connections.
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `build`"]
pub struct ClientPoolBuilder {
    options: Options,
    max_connections: Option<usize>,
}

impl ClientPoolBuilder {
    connection_options!();

    /// At most this many sockets at once. When they are all out, `get` hands out a clone of a connection that another
    /// caller has, and HTTP/2 carries the calls of both side by side. Default: no limit, each caller gets a
    /// connection to itself.
    ///
    /// A connection that takes no new calls (the server told it to go away, or does not serve, or it is
    /// [old](Self::max_connection_age)) does not count while its last ones run out.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections);
        self
    }

    /// The pauses between the attempts to connect, of all connections together, while the server does not answer.
    /// Default: [`Backoff::POOL`], from 50 ms to 1 s.
    pub fn redial(mut self, pauses: Backoff) -> Self {
        self.options.tuning.backoff = pauses;
        self
    }

    /// Checks the options. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`] or [`Error::InvalidConfig`], with what is wrong as its source.
    pub fn build(self) -> Result<ClientPool, Error> {
        let limit = match self.max_connections {
            None => None,
            Some(most) => {
                Some(NonZeroUsize::try_from(most).map_err(|e| Error::config("max_connections", e))?)
            }
        };
        self.options.tuning.backoff.check("redial")?;
        let redial = self.options.tuning.backoff;
        Ok(ClientPool::from_parts(Ok(self.options.check()?), redial, limit))
    }
}
