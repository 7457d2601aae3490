//! [`ClientPool`]: a `SyncPool` of connections that hands out no broken one.
//!
//! # Who holds what
//!
//! * The stock is a [`SyncPool`] of [`CountedConn`]s: per-thread, with two generations. Each is a handle
//!   that counts as one caller of its connection. The stock has as many handles of a shared connection
//!   as that has had callers at once, so a get or put writes nothing that other threads write. Aging,
//!   `clear` and the drop of the stock drop handles; a call that runs on the connection is a handle,
//!   too.
//! * The [`Group`] has weak references to the connections and holds what they have in common. Its lock
//!   is taken when the stock is empty, when a handle comes back whose connection is broken or has too
//!   many callers, and when a connection changes its state. [`lending`] decides what happens then.
//! * The last handle of a broken connection discards the connection, so no caller's connection is closed
//!   by a neighbor.

mod counted;
mod guard;
mod lending;
mod stats;

use std::fmt;
use std::num::NonZeroUsize;

use tokio::time::Instant;

use self::counted::CountedConn;
pub use self::guard::PooledConn;
pub use self::stats::{ClientPoolStats, Discards};
use super::config::{Options, Settings, connection_options};
use super::conn::{ClientConn, ConnectivityState};
use super::counters::bump;
use super::error::Error;
use super::group::{Group, Watcher};
use super::options::Backoff;
use super::sizing::Rule;
use super::trace::trace_event;
use crate::aging::{Ageable, sealed};
use crate::primitive::{Arc, Mutex, Weak};
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
/// TransientFailure or Shutdown; it drops such a handle and takes the next. If the pool holds none, it
/// lends a connection that other callers have as well, or makes a new one, which is Idle and dials with
/// its first call. It never waits and does no I/O. The guard gives the connection back when it is
/// dropped, and the pool reads the state again. A broken connection is closed when the last caller has
/// given it back. [`stats`](Self::stats) counts these discards.
///
/// # How many connections
///
/// Callers share connections: HTTP/2 carries many calls side by side, and each socket costs system calls
/// at both ends. A caller gets the Ready connection that has the fewest callers.
///
/// * The pool adds a connection when each one has 32 callers, up to one for each core. The new one takes
///   callers when it is Ready; no call waits for its dial.
/// * Beyond that it adds a connection only when each one has as many callers as its server allows
///   streams.
/// * A connection ends with the tokio runtime that drives it, so callers on another runtime get
///   connections of their own.
/// * A call that finds no stream free, or whose connection cannot be established, goes out on another
///   connection of the pool, if there is a better one.
/// * [Aging](Self::age) closes connections that the load no longer needs.
///
/// [`exclusive`](ClientPoolBuilder::exclusive) gives each caller a connection to itself, and
/// [`max_connections`](ClientPoolBuilder::max_connections) bounds the number of sockets. When the process
/// has no descriptors left for another socket, callers share the existing ones.
///
/// # Outages
///
/// All connections of a pool dial through one gate. While the server does not answer, one attempt at a time is made, with
/// a pause between attempts that grows from 50 ms to 1 s ([`redial`](ClientPoolBuilder::redial)), however
/// many calls are waiting; a call waits for the next attempt, within its deadline, and fails with its error. When an attempt
/// succeeds, all waiting connections dial. A server that says that it does not serve
/// ([`health_check`](ClientPoolBuilder::health_check)) is an outage, too.
///
/// # The end of a connection
///
/// Aging, [`clear`](Self::clear), the drop of the pool and the idle timeout release a connection: calls that run on it
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
    stock: SyncPool<CountedConn, ()>,
    group: Arc<Group>,
    rule: Rule,
    /// A connection that is lent as soon as it is Ready, and its number.
    prepared: Mutex<Option<(u64, ClientConn)>>,
    /// Until when the pool adds no connection beside a usable one, because a dial has failed.
    no_growth_until: Mutex<Option<Instant>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Here, and not by the drop glue, only so that the counters are right if they are read later.
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
        let options = Options::new(target.into(), Backoff::POOL);
        ClientPoolBuilder { options, exclusive: false, max_connections: None }
    }

    /// A pool all of whose calls fail with `error`.
    pub(super) fn failing(error: Error) -> Self {
        Self::from_parts(Err(error), Backoff::POOL, false, None)
    }

    fn from_parts(
        settings: Result<Settings, Error>,
        redial: Backoff,
        exclusive: bool,
        limit: Option<NonZeroUsize>,
    ) -> Self {
        let settings = settings.map(Arc::new);
        let group = Group::new(redial, limit);
        let cores = crate::primitive::available_parallelism();
        let rule = Rule { exclusive, cores, most: group.most() };
        let inner = Arc::new(Inner {
            settings,
            stock: SyncPool::expensive(()),
            group,
            rule,
            prepared: Mutex::new(None),
            no_growth_until: Mutex::new(None),
        });
        if !exclusive {
            let watcher: Weak<dyn Watcher> = Arc::downgrade(&inner) as Weak<dyn Watcher>;
            inner.group.watch(watcher);
        }
        ClientPool { inner }
    }

    /// A connection whose state, read in here, was neither TransientFailure nor Shutdown; back on drop.
    ///
    /// Never waits and does no I/O; needs no runtime.
    #[inline]
    pub fn get(&self) -> PooledConn<'_> {
        PooledConn::borrowed(self, self.inner.check_out())
    }

    /// As [`get`](Self::get), with a guard that holds a handle of the pool: to move into a spawned task.
    #[inline]
    pub fn get_owned(&self) -> PooledConn<'static> {
        PooledConn::owned(self.clone(), self.inner.check_out())
    }

    /// As [`get`](Self::get), without a guard: [`put`](Self::put) gives it back. One that is dropped instead is released.
    ///
    /// The pool does not count a connection that was taken by hand as in use: it may lend it to more callers
    /// than it would otherwise, and close it when it has failed.
    pub fn take(&self) -> ClientConn {
        self.inner.check_out().0.leave()
    }

    /// Gives a connection to the pool. A connection in TransientFailure or Shutdown is closed instead, unless
    /// other callers still have it. A connection that this pool did not make is released.
    #[inline]
    pub fn put(&self, conn: ClientConn) {
        if conn.shared.number_in(&self.inner.group).is_some() {
            conn.shared.callers.add();
            self.inner.put(CountedConn::new(conn));
        }
    }

    /// Lets one generation pass: connections that nobody has taken since the `age` before this one are released.
    pub fn age(&self) {
        self.inner.stock.age();
    }

    /// Releases every connection that the pool holds and no caller has.
    pub fn clear(&self) {
        self.inner.stock.clear();
        let prepared = self.inner.prepared.lock().take();
        drop(prepared);
        self.inner.retire_unused();
    }

    /// Closes every connection of the pool, also those that callers have, and those discarded ones on which calls still
    /// run: their calls break off with [`Error::Closed`], at once or after the [grace](ClientPoolBuilder::close_grace). Those
    /// that `get` hands out from now on fail every call with it. Does not wait.
    pub fn close(&self) {
        for conn in self.inner.group.close() {
            conn.close();
        }
        self.clear();
    }

    /// The counters, and what there is now.
    pub fn stats(&self) -> ClientPoolStats {
        let Inner { stock, group, .. } = &*self.inner;
        // In this order: a handle that is taken in between counts as lent.
        let idle = stock.stats();
        ClientPoolStats::read(&idle, group.callers(), &group.counters)
    }
}

impl Inner {
    // Compiled into the caller, as `put` is: between calls the connection would go through memory, again and again, which
    // takes longer than all the rest.
    #[inline]
    fn check_out(&self) -> (CountedConn, ConnectivityState) {
        loop {
            let Some(counted) = self.stock.try_take() else {
                match self.lend_another() {
                    Some(found) => return found,
                    None => continue,
                }
            };
            let state = counted.state();
            if state.is_usable() {
                return (counted, state);
            }
            bump(&self.group.counters.passed_over);
            self.pass_over(counted, state);
        }
    }

    #[inline]
    fn put(&self, counted: CountedConn) {
        let state = counted.state();
        if state.is_usable() && !counted.shared.callers.are_too_many() {
            self.keep(counted);
        } else {
            self.put_slowly(counted, state);
        }
    }

    #[inline]
    fn keep(&self, counted: CountedConn) {
        self.stock.put(counted);
        if self.group.is_closed() {
            self.stock.clear();
        }
    }

    #[cold]
    fn put_slowly(&self, counted: CountedConn, state: ConnectivityState) {
        if !state.is_usable() {
            self.give_up(counted, When::Put, state);
        } else if counted.shared.callers.remove_if_too_many() {
            // The next get finds a connection with fewer callers.
            drop(counted.uncounted());
        } else {
            self.keep(counted);
        }
    }

    /// Gives up a handle whose connection turned out to be broken in a get.
    #[cold]
    fn pass_over(&self, counted: CountedConn, state: ConnectivityState) {
        self.give_up(counted, When::Get, state);
    }

    /// Drops a handle of a broken connection, and discards the connection with its last handle.
    fn give_up(&self, counted: CountedConn, when: When, state: ConnectivityState) {
        let Some(id) = counted.shared.number_in(&self.group) else { return };
        let is_last = self.group.give_up(&counted.shared, id);
        let conn = counted.uncounted();
        if is_last {
            self.discard(&conn, when, state);
        }
    }

    #[cold]
    fn discard(&self, conn: &ClientConn, when: When, state: ConnectivityState) {
        if conn.shared.discard() {
            let counters = &self.group.counters;
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
    exclusive: bool,
    max_connections: Option<usize>,
}

impl ClientPoolBuilder {
    connection_options!();

    /// Gives each caller a connection to itself, as a Go `sync.Pool` of connections does: for servers that
    /// keep state by connection, or that limit what one connection may use. Default: callers
    /// [share](ClientPool#how-many-connections) connections.
    ///
    /// With many callers at once it costs throughput, because each socket is read and written by itself.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// At most this many sockets at once; callers share them, also in an
    /// [exclusive](Self::exclusive) pool. Default: no limit beyond what the load
    /// [needs](ClientPool#how-many-connections).
    ///
    /// A connection that takes no new calls (the server sent GOAWAY, or does not serve, or it is
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
        Ok(ClientPool::from_parts(Ok(self.options.check()?), redial, self.exclusive, limit))
    }
}
