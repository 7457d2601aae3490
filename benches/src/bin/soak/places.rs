//! Where the servers are.

use std::time::Duration;

use cenote::grpc::TlsConfig;
use tokio::time::sleep;
use tonic::transport::Identity;

use crate::greeter::Greeting;
use crate::proxy::{Kind, Manner, Proxy};
use crate::server::{Backend, Leaving, Setup};
use crate::tally::Tally;

/// Streams at once, at a server that is whole again: fewer than there are callers, so that some wait for their turn.
pub(crate) const FEW: u32 = 5;

pub(crate) fn whole() -> Setup {
    Setup { max_streams: Some(FEW), ..Setup::default() }
}

/// A server behind its proxy.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) proxy: Proxy,
    pub(crate) backend: Backend,
    scheme: &'static str,
}

impl Place {
    pub(crate) async fn new(number: usize, kind: Kind, tally: &Tally) -> Self {
        Self::with_identity(number, kind, None, tally).await
    }

    async fn with_identity(number: usize, kind: Kind, identity: Option<Identity>, tally: &Tally) -> Self {
        let scheme = if identity.is_some() { "https" } else { "http" };
        let backend = Backend::start(Greeting { place: number, tally: tally.clone() }, identity).await;
        let proxy = Proxy::start(backend.addr, kind).await.expect("a proxy");
        Place { proxy, backend, scheme }
    }

    pub(crate) fn target(&self) -> String {
        format!("{}://{}", self.scheme, self.proxy.addr)
    }

    /// Whole again, with nothing left of what was.
    pub(crate) async fn heal(&self) {
        self.proxy.behave(Manner::Pass);
        self.proxy.limit_streams(0);
        self.proxy.cut(false);
        self.backend.restart(Duration::ZERO, whole()).await;
    }

    /// A successor takes over; the old server is yet to take leave of its clients.
    pub(crate) async fn roll(&self, setup: Setup) -> Leaving {
        let (old, addr) = self.backend.succeed(setup).await;
        self.proxy.lead_to(addr);
        // Whoever is on the way to the old one arrives.
        sleep(Duration::from_millis(300)).await;
        old
    }
}

/// All of them. Their proxies send empty DATA frames, but for those that see only TLS, and one that leaves all as it is.
pub(crate) struct Places {
    pub(crate) rough: Vec<Place>,
    pub(crate) gentle: Place,
    pub(crate) quiet: Place,
    /// As rough as the others.
    pub(crate) secure: Place,
    /// For that one.
    pub(crate) trust: TlsConfig,
}

impl Places {
    pub(crate) async fn new(tally: &Tally) -> Self {
        let mut rough = Vec::new();
        for (number, kind) in [Kind::Http2, Kind::Bytes, Kind::Http2].into_iter().enumerate() {
            rough.push(Place::new(number, kind, tally).await);
        }
        let gentle = Place::new(3, Kind::Http2, tally).await;
        let quiet = Place::new(4, Kind::Http2, tally).await;
        quiet.heal().await;
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
        let trust = TlsConfig::new().ca_certificate_pem(own.cert.pem());
        let secure = Place::with_identity(5, Kind::Bytes, Some(identity), tally).await;
        Places { rough, gentle, quiet, secure, trust }
    }

    /// Those that faults are inflicted on.
    pub(crate) fn unlucky(&self) -> Vec<Place> {
        self.rough.iter().chain([&self.secure]).cloned().collect()
    }
}
