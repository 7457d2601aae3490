//! [`Addresses`]: where the addresses of a set come from.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;
use tower::discover::{Change, Discover};

use crate::grpc::dial::resolve::look_up;
use crate::grpc::options::YEAR;
use crate::primitive::Arc;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// All addresses of the set, each time that they have changed.
pub(super) type Feed = BoxStream<'static, Result<Vec<Node>, BoxError>>;

/// One address of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) address: String,
    /// The name and the port that were looked up, where the address was found so: requests and certificates bear the name.
    pub(super) authority: Option<Arc<str>>,
}

impl From<String> for Node {
    fn from(address: String) -> Self {
        Node { address, authority: None }
    }
}

/// Where the addresses of a [`BalancedChannel`](super::BalancedChannel) come from.
///
/// ```
/// # use std::time::Duration;
/// # use cenote::grpc::Addresses;
/// // Known beforehand.
/// let some = Addresses::list(["http://10.0.0.1:5000", "http://10.0.0.2:5000"]);
/// // All addresses that a name resolves to, looked up again each 30 s: a headless service of Kubernetes.
/// let pods = Addresses::dns("http", "greeter.default.svc.cluster.local", 5000, Duration::from_secs(30));
/// ```
pub struct Addresses {
    feed: Feed,
    what: &'static str,
    /// What is looked up, for errors.
    name: Arc<str>,
}

impl Addresses {
    /// These, and no others.
    pub fn list(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let all: Vec<Node> = addresses.into_iter().map(|address| Node::from(address.into())).collect();
        Addresses { feed: stream::iter([Ok(all)]).boxed(), what: "list", name: Arc::from("a list") }
    }

    /// Each address that `host` resolves to, with this port, as `scheme://address:port` (`http` or `https`); looked up again
    /// after `period`, at least 100 ms. A look-up that fails changes nothing, and is repeated after the same time, at most 5 s;
    /// until one has succeeded, calls fail with its error ([`Error::Dial`](crate::grpc::Error), code `Unavailable`), or wait with
    /// [`WaitForReady`](crate::grpc::WaitForReady).
    ///
    /// Requests bear `host:port` as their `:authority`, and with `https` the certificates must be for `host`, unless there is a
    /// [`TlsConfig::server_name`](crate::grpc::TlsConfig::server_name).
    pub fn dns(scheme: impl Into<String>, host: impl Into<String>, port: u16, period: Duration) -> Self {
        let (scheme, host) = (scheme.into(), host.into());
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let name: Arc<str> = Arc::from(format!("{bracketed}:{port}"));
        let authority = Arc::clone(&name);
        let period = period.clamp(Duration::from_millis(100), YEAR);
        let feed = stream::unfold(Duration::ZERO, move |pause| {
            let (scheme, host, authority) = (scheme.clone(), host.clone(), Arc::clone(&authority));
            async move {
                sleep(pause).await;
                let (found, pause) = match look_up(&host, port).await {
                    Ok(found) => {
                        let node = |addr: &SocketAddr| Node {
                            // The `%` before a zone is escaped in a target.
                            address: format!("{scheme}://{addr}").replace('%', "%25"),
                            authority: Some(Arc::clone(&authority)),
                        };
                        (Ok(found.iter().map(node).collect()), period)
                    }
                    Err(error) => (Err(error.into()), period.min(Duration::from_secs(5))),
                };
                Some((found, pause))
            }
        });
        Addresses { feed: feed.boxed(), what: "dns", name }
    }

    /// What a tower [`Discover`] reports, which may be any stream of `Result<Change<_, String>, _>`: of an xDS client, of Kubernetes'
    /// API, of a file that is watched. When it ends, the last addresses stay; an error changes nothing, but
    /// before the first addresses calls fail with it.
    pub fn discover<D>(discover: D) -> Self
    where
        D: Discover<Service = String> + Send + 'static,
        D::Key: Send + 'static,
        D::Error: Into<BoxError>,
    {
        let discovered =
            Discovered { discover: Box::pin(discover), known: Vec::new(), failed: None, ended: false };
        let feed = stream::unfold(discovered, |mut discovered| async move {
            let changes = poll_fn(|cx| discovered.poll_changes(cx)).await?;
            let all = changes
                .map(|()| discovered.known.iter().map(|(_, address)| Node::from(address.clone())).collect());
            Some((all, discovered))
        });
        Addresses { feed: feed.boxed(), what: "discover", name: Arc::from("a discovered set of addresses") }
    }

    pub(super) fn into_feed(self) -> (Arc<str>, Feed) {
        (self.name, self.feed)
    }
}

/// What a discover has reported.
struct Discovered<D: Discover<Service = String>> {
    discover: Pin<Box<D>>,
    known: Vec<(D::Key, String)>,
    /// An error, and the end, that came together with changes: reported after those.
    failed: Option<BoxError>,
    ended: bool,
}

impl<D: Discover<Service = String, Error: Into<BoxError>>> Discovered<D> {
    /// `Ok`: `known` has changed. Takes all that is there at once, so that a set which comes in pieces is not used in pieces.
    fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), BoxError>>> {
        let mut changed = false;
        while self.failed.is_none() && !self.ended {
            match self.discover.as_mut().poll_discover(cx) {
                Poll::Ready(Some(Ok(change))) => {
                    apply(&mut self.known, change);
                    changed = true;
                }
                Poll::Ready(Some(Err(error))) => self.failed = Some(error.into()),
                // Not to be asked again: some streams panic then.
                Poll::Ready(None) => self.ended = true,
                Poll::Pending if changed => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(match changed {
            true => Some(Ok(())),
            false => self.failed.take().map(Err),
        })
    }
}

fn apply<K: Eq>(known: &mut Vec<(K, String)>, change: Change<K, String>) {
    match change {
        Change::Insert(key, address) => match known.iter_mut().find(|(other, _)| *other == key) {
            Some((_, old)) => *old = address,
            None => known.push((key, address)),
        },
        Change::Remove(key) => known.retain(|(other, _)| *other != key),
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Addresses").field(&self.what).finish()
    }
}
