//! [`StreamPool`]: many calls, many addresses, as few connections as the load needs.
//!
//! * [`address`] is the heart: one address's connections, the choice among them, and the queue.
//! * [`member`] is one connection with its count of streams, [`waiter`] a waiter for a stream.
//! * [`lease`] and [`channel`] are what callers hold; [`balance`] spreads over several addresses.
//! * [`keeper`] comes by from time to time, and lets go of what is not needed.

mod address;
mod addresses;
mod balance;
mod builder;
mod channel;
mod keeper;
mod lease;
mod member;
mod stats;
mod waiter;

use std::collections::HashMap;
use std::fmt;

use crossbeam_utils::sync::ShardedLock;
use tokio::sync::watch;

use self::address::{Address, Got, read, write};
pub use self::addresses::Addresses;
use self::addresses::Node;
pub use self::balance::BalancedChannel;
use self::builder::Config;
pub use self::builder::{Overflow, StreamPoolBuilder};
pub use self::channel::StreamChannel;
pub use self::lease::StreamLease;
pub use self::stats::{AddressStats, ConnectionStats, StreamPoolStats};
use super::error::Error;
use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicBool, Ordering};

/// A pool of gRPC connections to any number of addresses, which counts their streams.
///
/// ```no_run
/// # use cenote::grpc::StreamPool;
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = StreamPool::new();
///
/// let stream = pool.get("http://127.0.0.1:5000")?; // at once
/// let mut client = GreeterClient::new(stream);
/// client.say_hello(HelloRequest { name: "ada".into(), delay_ms: 0 }).await?;
/// # Ok(()) } // the stream is free again
/// ```
///
/// One HTTP/2 connection carries as many calls at once as its server allows, often 100; more of them wait. This pool
/// opens another when those that there are have no room, and lets go of it when it has not been needed for a while.
///
/// # Get
///
/// [`get`](Self::get) takes a stream of the Ready connection that has the fewest. If there is none, the lease joins the
/// address's queue: the waiters share one dial, and streams are handed out in their order. Only when an address has
/// [`size`](StreamPoolBuilder::size) connections whose streams are all taken, [`overflow`](StreamPoolBuilder::overflow) decides.
/// For clients that live long, [`channel`](Self::channel) picks a connection for each request, and [`balance`](Self::balance)
/// spreads requests over several addresses.
///
/// # Faults
///
/// A connection that is lost, gets a GOAWAY or cannot be established takes no new stream from that moment on; streams that
/// run on it go on, and its socket closes with the last. An error that the server answers with, whatever its code, is
/// no fault of the connection. If there is no other connection, waiters get the dial's error, and while the address does
/// not answer, it is dialed at a bounded rate, as in a [`ClientPool`](super::ClientPool).
///
/// # The end of a connection
///
/// The drop of the pool, and the end of a connection's time, cut nothing that runs. [`close`](Self::close) gives what
/// runs [`close_grace`](StreamPoolBuilder::close_grace), and then cuts it.
///
/// `StreamPool` is a cheap handle; clones are the same pool. A task of its own, on the runtime of the gets, lets go of what is
/// not needed; it ends with the addresses, and starts with the next.
#[derive(Clone)]
pub struct StreamPool {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    /// Looked up by each get, changed by few.
    addresses: ShardedLock<HashMap<Arc<str>, Arc<Address>>>,
    /// Whether it is closed, for tasks that wait for other things than streams; the keeper ends with it.
    closed: watch::Sender<bool>,
    /// Whether there is a keeper. It clears this when it ends; when it ends because there is no address left, under the lock
    /// of `addresses`.
    kept: AtomicBool,
}

impl Inner {
    /// The keeper's round. False: there is nothing left to look after.
    fn look_after(&self) -> bool {
        let all: Vec<_> = read(&self.addresses).values().cloned().collect();
        let unused: Vec<_> = all.into_iter().filter(|address| !address.look_after()).collect();
        if unused.is_empty() && !read(&self.addresses).is_empty() {
            return true;
        }
        let mut addresses = write(&self.addresses);
        let mut gone = Vec::new();
        for address in unused {
            // One in the map, one here: nobody is about to use it.
            if Arc::strong_count(&address) <= 2 {
                gone.push(addresses.remove(&address.key));
            }
        }
        let any = !addresses.is_empty();
        if !any {
            self.kept.store(false, Ordering::Release);
        }
        drop(addresses);
        any
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for address in read(&self.addresses).values() {
            drop(address.empty());
        }
    }
}

impl Default for StreamPool {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamPool {
    /// A pool with all options at their defaults.
    pub fn new() -> Self {
        Self::from_config(Config::default())
    }

    /// A pool with options.
    pub fn builder() -> StreamPoolBuilder {
        StreamPoolBuilder::new()
    }

    fn from_config(config: Config) -> Self {
        StreamPool {
            inner: Arc::new(Inner {
                config: Arc::new(config),
                addresses: ShardedLock::new(HashMap::new()),
                closed: watch::Sender::new(false),
                kept: AtomicBool::new(false),
            }),
        }
    }

    /// A stream to `address`, or a place in the queue for one. For the forms of an address see
    /// [`ClientConn::new`](super::ClientConn::new).
    ///
    /// Never waits and does no I/O; within a runtime it starts the dial that is needed, elsewhere the first call does.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`], with what is wrong as its source; [`Error::InvalidConfig`] where the target forbids an option (TLS
    /// with `http`); [`Error::Exhausted`], with [`Overflow::Fail`]; [`Error::Closed`].
    #[inline]
    pub fn get(&self, address: impl AsRef<str>) -> Result<StreamLease, Error> {
        let name = address.as_ref();
        let inner = &self.inner;
        if inner.kept.load(Ordering::Relaxed) {
            let slot = read(&inner.addresses).get(name).and_then(|address| address.try_get());
            if let Some(slot) = slot {
                slot.member().address.consider_spreading(&slot);
                return Ok(StreamLease::new(Got::Slot(slot)));
            }
        }
        Ok(StreamLease::new(self.find(name)?.get()?))
    }

    /// A service for the whole address, which takes a stream for each request.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), but for `Exhausted`, which then is an error of the request.
    pub fn channel(&self, address: impl AsRef<str>) -> Result<StreamChannel, Error> {
        let address = self.find(address.as_ref())?;
        Ok(StreamChannel::new(self.clone(), Arc::clone(&address.name)))
    }

    /// A service for a set of addresses, which takes a stream of one of them for each request.
    ///
    /// Of two that are drawn at random it is the one with fewer streams; addresses that have no Ready connection are passed over,
    /// unless none has. A request that was certainly not processed by one goes to another. Each address is kept connected
    /// while it is in the set, and dialed again at a bounded rate while it does not answer.
    pub fn balance(&self, addresses: Addresses) -> BalancedChannel {
        BalancedChannel::new(self.clone(), addresses)
    }

    #[inline]
    fn find(&self, name: &str) -> Result<Arc<Address>, Error> {
        let inner = &self.inner;
        let found = read(&inner.addresses).get(name).cloned();
        self.kept(match found {
            Some(address) => address,
            None => self.make(name.into(), name, None)?,
        })
    }

    /// As `find`, for an address of a set.
    fn find_node(&self, node: &Node) -> Result<Arc<Address>, Error> {
        let Node { address, authority } = node;
        // No address has a space in it: these are apart from those that bear their own name.
        let Some(authority) = authority else { return self.find(address) };
        let key: Arc<str> = Arc::from(format!("{address} as {authority}"));
        let found = read(&self.inner.addresses).get(&key).cloned();
        self.kept(match found {
            Some(address) => address,
            None => self.make(key, address, Some(authority))?,
        })
    }

    #[inline]
    fn kept(&self, address: Arc<Address>) -> Result<Arc<Address>, Error> {
        let inner = &self.inner;
        if !inner.kept.load(Ordering::Relaxed) {
            keeper::start(inner);
        }
        Ok(address)
    }

    #[cold]
    fn make(&self, key: Arc<str>, name: &str, authority: Option<&Arc<str>>) -> Result<Arc<Address>, Error> {
        let inner = &self.inner;
        // Checks and TLS settings take their time: not under the lock.
        let settings = inner.config.template.for_target(name, authority).check()?;
        let new = Address::new(Arc::clone(&key), name.into(), settings, Arc::clone(&inner.config));
        let address = {
            let mut addresses = write(&inner.addresses);
            // Under the lock under which `close` takes them out.
            if *inner.closed.borrow() {
                return Err(Error::Closed);
            }
            Arc::clone(addresses.entry(key).or_insert(new))
        };
        address.warm();
        Ok(address)
    }

    /// Closes the pool, permanently: all waiters, and each later `get`, fail with [`Error::Closed`]. Calls that run have
    /// [`close_grace`](StreamPoolBuilder::close_grace), none by default, to end; then they break off with the same error. Does not wait.
    pub fn close(&self) {
        let all = {
            let mut addresses = write(&self.inner.addresses);
            // The watchers' wakers run after the lock.
            self.inner.closed.send_if_modified(|closed| {
                *closed = true;
                false
            });
            std::mem::take(&mut *addresses)
        };
        self.inner.closed.send_replace(true);
        for address in all.values() {
            address.close();
        }
    }

    /// What there is now, and the counters.
    pub fn stats(&self) -> StreamPoolStats {
        let mut all: Vec<_> = read(&self.inner.addresses).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        StreamPoolStats { addresses: all.iter().map(AddressStats::read).collect() }
    }
}

impl fmt::Debug for StreamPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPool")
            .field("addresses", &read(&self.inner.addresses).len())
            .field("closed", &*self.inner.closed.borrow())
            .finish_non_exhaustive()
    }
}
