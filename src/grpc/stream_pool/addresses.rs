//! [`Addresses`]: where the addresses of a set come from.

use std::fmt;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;
use tower::discover::{Change, Discover};

use crate::grpc::config::YEAR;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// All addresses of the set, each time that they have changed.
pub(super) type Feed = BoxStream<'static, Result<Vec<String>, BoxError>>;

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
}

impl Addresses {
    /// These, and no others.
    pub fn list(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let all: Vec<String> = addresses.into_iter().map(Into::into).collect();
        Addresses { feed: stream::iter([Ok(all)]).boxed(), what: "list" }
    }

    /// Each address that `host` resolves to, with this port, as `scheme://address:port` (`http` or `https`); looked up again
    /// after `period`, at least 100 ms. A look-up that fails changes nothing, and is repeated after the same time, at most 5 s. With `https` the
    /// connections need [`TlsConfig::server_name`](crate::grpc::TlsConfig), since the certificates bear the name.
    pub fn dns(scheme: impl Into<String>, host: impl Into<String>, port: u16, period: Duration) -> Self {
        let (scheme, host) = (scheme.into(), host.into());
        let period = period.clamp(Duration::from_millis(100), YEAR);
        let feed = stream::unfold(Duration::ZERO, move |pause| {
            let (scheme, host) = (scheme.clone(), host.clone());
            async move {
                sleep(pause).await;
                let (found, pause) = match tokio::net::lookup_host((host.as_str(), port)).await {
                    Ok(found) => (Ok(found.map(|addr| format!("{scheme}://{addr}")).collect()), period),
                    Err(error) => (Err(error.into()), period.min(Duration::from_secs(5))),
                };
                Some((found, pause))
            }
        });
        Addresses { feed: feed.boxed(), what: "dns" }
    }

    /// What a tower [`Discover`] tells, which may be any stream of [`Change`]s: of an xDS client, of Kubernetes' API, of a
    /// file that is watched. When it ends, the last addresses stay; an error changes nothing.
    pub fn discover<D>(discover: D) -> Self
    where
        D: Discover<Service = String> + Send + 'static,
        D::Key: Send + 'static,
        D::Error: Into<BoxError>,
    {
        let state = (Box::pin(discover), Vec::<(D::Key, String)>::new());
        let feed = stream::unfold(state, |(mut discover, mut known)| async move {
            let news = poll_fn(|cx| {
                let mut changed = false;
                // All that is there at once, so that a set which comes in pieces is not used in pieces.
                loop {
                    match discover.as_mut().poll_discover(cx) {
                        Poll::Ready(Some(Ok(change))) => {
                            apply(&mut known, change);
                            changed = true;
                        }
                        _ if changed => return Poll::Ready(Some(Ok(()))),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                        Poll::Ready(None) => return Poll::Ready(None),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            });
            let news = news.await?;
            let all = news.map(|()| known.iter().map(|(_, address)| address.clone()).collect());
            Some((all, (discover, known)))
        });
        Addresses { feed: feed.boxed(), what: "discover" }
    }

    pub(super) fn into_feed(self) -> Feed {
        self.feed
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
