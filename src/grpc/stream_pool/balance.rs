//! [`BalancedChannel`]: a set of addresses as one service.
//!
//! # Protocol
//!
//! * `Set::members` is what a call chooses from, and is replaced as a whole by [`Set::apply`], with what the feed reported last. Each
//!   member is counted in its address's `sets`, which keeps it connected.
//! * The feed is polled by one task at most (`driven`), on the runtime of a call that found none; when that runtime ends, the
//!   next call starts another, with the feed where it was. The task holds the set weakly.
//! * Until the feed has reported something, calls wait for it (`reported`). While that is only an error, they fail with it, unless
//!   they wait for ready.

use std::collections::HashSet;
use std::fmt;
use std::task::{Context, Poll};

use crossbeam_utils::sync::ShardedLock;
use futures_util::StreamExt;
use http::{Request, Response};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::address::{Address, read, write};
use super::addresses::{Addresses, Feed, Node};
use super::lease::LeaseSource;
use super::{Inner, StreamPool};
use crate::grpc::call::{ResponseBody, ResponseFuture, Source};
use crate::grpc::config::{Rules, Settings};
use crate::grpc::conn::lease::Lease;
use crate::grpc::error::{Cause, DialPhase, Error, with_causes};
use crate::grpc::retry::Retries;
use crate::grpc::runtime;
use crate::grpc::target::redacted;
use crate::grpc::trace::trace_event;
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::{Arc, Mutex, Weak};

/// A set of addresses as one service for tonic's generated clients: each request goes to the one of two, drawn at random, that
/// has fewer streams under way. Made by [`StreamPool::balance`].
///
/// Clones are the same set. It holds the pool. It needs a runtime for its calls, as others do; there it also follows
/// the source of its addresses.
///
/// The choice of two is from M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996).
#[derive(Clone)]
pub struct BalancedChannel {
    pool: StreamPool,
    set: Arc<Set>,
}

struct Set {
    members: ShardedLock<Vec<Arc<Address>>>,
    /// `None` once the feed has ended.
    feed: tokio::sync::Mutex<Option<Feed>>,
    /// Whether a task polls `feed`.
    driven: AtomicBool,
    reported: watch::Sender<Reported>,
    /// What the feed looks up.
    name: Arc<str>,
    retries: Arc<Retries>,
}

/// What the feed has reported so far.
#[derive(Clone, Debug)]
enum Reported {
    Nothing,
    /// No addresses, but this error.
    Failed(Cause),
    Addresses,
}

impl BalancedChannel {
    pub(super) fn new(pool: StreamPool, addresses: Addresses) -> Self {
        let (name, feed) = addresses.into_feed();
        let set = Arc::new(Set {
            members: ShardedLock::new(Vec::new()),
            feed: tokio::sync::Mutex::new(Some(feed)),
            driven: AtomicBool::new(false),
            reported: watch::Sender::new(Reported::Nothing),
            name,
            retries: pool.inner.config.template.retries(),
        });
        let channel = BalancedChannel { pool, set };
        channel.follow();
        channel
    }

    /// The addresses that are in the set now.
    pub fn addresses(&self) -> Vec<String> {
        read(&self.set.members).iter().map(|address| address.name.to_string()).collect()
    }

    /// Makes sure that the feed is followed, where there is a runtime.
    fn follow(&self) {
        if self.set.driven.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = runtime::current() else { return };
        if !self.set.driven.swap(true, Ordering::AcqRel) {
            let guard = Driving(Arc::downgrade(&self.set));
            drop(runtime.spawn(follow(guard, Arc::downgrade(&self.pool.inner))));
        }
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedChannel").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// Always ready: see [`StreamLease`](super::StreamLease).
impl Service<Request<Body>> for BalancedChannel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.follow();
        let source = BalancedSource { channel: self.clone(), used: Used::Own(Vec::new()) };
        ResponseFuture::new(source, request)
    }
}

/// Says that the feed is not polled any more.
struct Driving(Weak<Set>);

impl Drop for Driving {
    fn drop(&mut self) {
        if let Some(set) = self.0.upgrade() {
            set.driven.store(false, Ordering::Release);
        }
    }
}

async fn follow(driving: Driving, pool: Weak<Inner>) {
    let Some(set) = driving.0.upgrade() else { return };
    let mut reported = set.reported.subscribe();
    // Dials that were begun elsewhere may have ended with their runtime. Not under the lock: it may wake waiters.
    let members = read(&set.members).clone();
    drop(set);
    members.iter().for_each(Address::warm);
    drop(members);
    // The set is gone when the sender of `reported` is.
    let gone = async move { while reported.changed().await.is_ok() {} };
    tokio::select! {
        () = gone => {}
        () = follow_feed(&driving.0, &pool) => {}
    }
}

async fn follow_feed(set: &Weak<Set>, pool: &Weak<Inner>) {
    loop {
        // The feed is taken out while it is polled, so that the set is not held; it comes back if the task is dropped.
        let Some(mut lent) = set.upgrade().and_then(Lent::new) else { break };
        let Some(update) = lent.next().await else {
            lent.ended();
            break;
        };
        drop(lent);
        let (Some(set), Some(inner)) = (set.upgrade(), pool.upgrade()) else { return };
        match update {
            Ok(addresses) => set.apply(&StreamPool { inner }, addresses),
            Err(error) => {
                trace_event!("addresses not updated", error = with_causes(&*error));
                set.failed(Arc::from(error));
            }
        }
    }
    // Nothing more will be reported: let nobody start another task for it.
    std::future::pending().await
}

/// The set's feed, on loan to the task that polls it.
struct Lent {
    set: Weak<Set>,
    feed: Option<Feed>,
}

impl Lent {
    fn new(set: Arc<Set>) -> Option<Self> {
        let feed = set.feed.try_lock().ok()?.take()?;
        Some(Lent { set: Arc::downgrade(&set), feed: Some(feed) })
    }

    async fn next(&mut self) -> Option<Result<Vec<Node>, super::addresses::BoxError>> {
        self.feed.as_mut()?.next().await
    }

    fn ended(mut self) {
        self.feed = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(set), Some(feed)) = (self.set.upgrade(), self.feed.take())
            && let Ok(mut place) = set.feed.try_lock()
        {
            *place = Some(feed);
        }
    }
}

impl Set {
    /// The set is these addresses from now on. Streams that run on others go on.
    fn apply(&self, pool: &StreamPool, nodes: Vec<Node>) {
        let mut seen = HashSet::new();
        let mut now = Vec::new();
        for node in nodes {
            match pool.find_node(&node) {
                _ if seen.contains(&node) => {}
                Ok(address) => now.push(address),
                Err(error) => {
                    let address = redacted(&node.address);
                    trace_event!("address left out", address = address, error = with_causes(&error));
                }
            }
            seen.insert(node);
        }
        for address in &now {
            address.sets.fetch_add(1, Ordering::Relaxed);
            address.warm();
        }
        let before = std::mem::replace(&mut *write(&self.members), now);
        for address in before {
            address.sets.fetch_sub(1, Ordering::Relaxed);
        }
        self.reported.send_replace(Reported::Addresses);
    }

    /// The feed has an error in the place of addresses. Those that there are stay.
    fn failed(&self, error: Cause) {
        self.reported.send_if_modified(|reported| {
            let is_first = !matches!(reported, Reported::Addresses);
            if is_first {
                *reported = Reported::Failed(error);
            }
            is_first
        });
    }

    /// The better of two, of those whose keys are not in `tried`.
    fn choose(&self, tried: &[Arc<str>]) -> Option<Arc<Address>> {
        let members = read(&self.members);
        if members.is_empty() {
            return None;
        }
        // Mostly all are as they should be.
        let first = fastrand::usize(..members.len());
        let second = match members.len() - 1 {
            0 => first,
            others => (first + 1 + fastrand::usize(..others)) % members.len(),
        };
        let two = [&members[first], &members[second]];
        if tried.is_empty() && two.iter().all(|address| address.is_ready()) {
            return Some(Arc::clone(less_loaded(two)));
        }
        let untried = || members.iter().filter(|address| !tried.contains(&address.key));
        let mut open: Vec<_> = untried().filter(|address| address.is_ready()).collect();
        if open.is_empty() {
            open = untried().filter(|address| !address.is_failing()).collect();
        }
        if open.is_empty() {
            open = untried().collect();
        }
        if open.is_empty() {
            return None;
        }
        let one = open.swap_remove(fastrand::usize(..open.len()));
        let other = fastrand::choice(&open).copied().unwrap_or(one);
        Some(Arc::clone(less_loaded([one, other])))
    }
}

fn less_loaded([one, other]: [&Arc<Address>; 2]) -> &Arc<Address> {
    if other.load() < one.load() { other } else { one }
}

impl Drop for Set {
    fn drop(&mut self) {
        for address in read(&self.members).iter() {
            address.sets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One request's way to a connection: another address for each attempt.
struct BalancedSource {
    channel: BalancedChannel,
    used: Used,
}

/// The addresses of earlier attempts, the last one at the end. They are used again only when there is no other.
enum Used {
    Own(Vec<Arc<str>>),
    /// By the attempts of a hedged call.
    Shared(Arc<Mutex<Vec<Arc<str>>>>),
}

impl Used {
    fn list(&self) -> Vec<Arc<str>> {
        match self {
            Used::Own(names) => names.clone(),
            Used::Shared(names) => names.lock().clone(),
        }
    }

    fn push(&mut self, name: Arc<str>) {
        match self {
            Used::Own(names) => names.push(name),
            Used::Shared(names) => names.lock().push(name),
        }
    }

    fn share(&mut self) -> Self {
        if let Used::Own(names) = self {
            *self = Used::Shared(Arc::new(Mutex::new(std::mem::take(names))));
        }
        match self {
            Used::Shared(names) => Used::Shared(Arc::clone(names)),
            Used::Own(_) => Used::Own(Vec::new()),
        }
    }
}

impl Source for BalancedSource {
    fn rules(&self) -> Result<Rules<'_>, Error> {
        let tuning = &self.channel.pool.inner.config.template.tuning;
        Ok(Rules { tuning, retries: &self.channel.set.retries })
    }

    fn fork(&mut self) -> Self {
        BalancedSource { channel: self.channel.clone(), used: self.used.share() }
    }

    async fn lease(&mut self, wait_for_ready: bool) -> Result<(Lease, Arc<Settings>), Error> {
        let set = &self.channel.set;
        let mut reported = set.reported.subscribe();
        let mut closed = self.channel.pool.inner.closed.subscribe();
        let _ = runtime::current()?;
        // The senders are in `self`: no error, here and below.
        let is_enough = |reported: &Reported| match reported {
            Reported::Nothing => false,
            Reported::Failed(_) => !wait_for_ready,
            Reported::Addresses => true,
        };
        let first_report = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
            now = reported.wait_for(is_enough) => now.map_or(Reported::Nothing, |now| now.clone()),
        };
        if let Reported::Failed(source) = first_report {
            return Err(Error::Dial { target: Arc::clone(&set.name), phase: DialPhase::Resolve, source });
        }
        let used = self.used.list();
        let mut tried = used.clone();
        let mut failed = Vec::new();
        let mut last = Error::NoAddresses;
        loop {
            let Some(address) = set.choose(&tried) else {
                // The others have failed, or there is none: back to one that was used, unless it has failed as well; to the one
                // that was used last only if there is no other.
                let before = tried.len();
                let is_out = |name: &Arc<str>| !used.contains(name) || failed.contains(name);
                tried.retain(|name| is_out(name) || used.last() == Some(name));
                if tried.len() == before {
                    tried.retain(is_out);
                }
                if tried.len() < before {
                    continue;
                }
                match last {
                    // Each failed dial took its time, and their gates pace what follows.
                    Error::Dial { .. } | Error::NotServing { .. } if wait_for_ready => {
                        tried.clear();
                        failed.clear();
                    }
                    // An empty set, until the feed reports another.
                    Error::NoAddresses if wait_for_ready => tokio::select! {
                        _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
                        _ = reported.changed() => {}
                    },
                    _ => return Err(last),
                }
                last = Error::NoAddresses;
                continue;
            };
            let key = Arc::clone(&address.key);
            match LeaseSource::new(address).lease(false).await {
                Ok(lease) => {
                    self.used.push(key);
                    return Ok(lease);
                }
                Err(error) => {
                    last = error;
                    failed.push(Arc::clone(&key));
                    tried.push(key);
                }
            }
        }
    }
}
