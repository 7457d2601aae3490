//! The pools that calls go through.

use std::time::Duration;

use cenote::grpc::{Addresses, ClientPool, ClientPoolBuilder, StreamPool};

use crate::LARGE;
use crate::closing::Closer;
use crate::conns::keepalive;
use crate::places::Places;
use crate::source::{Means, Source};

const CONNECT: Duration = Duration::from_secs(2);

fn of_one(target: &str) -> ClientPoolBuilder {
    ClientPool::builder(target).connect_timeout(CONNECT).keepalive(keepalive())
}

/// To the servers that all kinds of things happen to.
pub(crate) struct Pools {
    pub(crate) pool: ClientPool,
    pub(crate) exclusive: ClientPool,
    pub(crate) bounded: ClientPool,
    pub(crate) streams: StreamPool,
    pub(crate) small: StreamPool,
    /// To the server with TLS, and to one that is asked for its health.
    pub(crate) secure: ClientPool,
    pub(crate) secure_streams: StreamPool,
    pub(crate) healthy: ClientPool,
    secure_target: String,
}

impl Pools {
    pub(crate) fn new(targets: &[String], places: &Places) -> Self {
        let secure = places.secure.target();
        let streams = StreamPool::builder().connect_timeout(CONNECT).keepalive(keepalive());
        let small = streams.clone().size(3).ttl(Duration::from_secs(3)).max_streams(4);
        let secure_streams = streams.clone().tls(places.trust.clone()).build().expect("valid");
        Pools {
            secure: of_one(&secure).tls(places.trust.clone()).build().expect("valid"),
            secure_streams,
            healthy: of_one(&targets[1]).health_check("").build().expect("valid"),
            secure_target: secure,
            pool: of_one(&targets[0]).build().expect("valid"),
            exclusive: of_one(&targets[0]).exclusive().build().expect("valid"),
            bounded: of_one(&targets[0]).max_connections(2).build().expect("valid"),
            streams: streams.build().expect("valid"),
            small: small.build().expect("valid"),
        }
    }

    /// On a runtime.
    pub(crate) fn sources(&self, targets: &[String]) -> Vec<Source> {
        let channel = |pool: &StreamPool, target: &str| Means::Channel(pool.channel(target).expect("valid"));
        let leases = |pool: &StreamPool| Means::Leases(pool.clone(), targets.to_vec());
        let balanced = self.streams.balance(Addresses::list(targets.to_vec()));
        vec![
            Source::new("by ClientPool", Means::Pool(self.pool.clone())),
            Source::new("by ClientPool, exclusive", Means::Pool(self.exclusive.clone())),
            Source::new("by ClientPool, at most 2", Means::Pool(self.bounded.clone())),
            Source::new("by StreamPool, leases", leases(&self.streams)),
            Source::new("by StreamPool, leases", leases(&self.small)),
            Source::new("by StreamPool, channel", channel(&self.streams, &targets[1])),
            Source::new("by StreamPool, channel", channel(&self.small, &targets[2])),
            Source::new("by StreamPool, balance", Means::Balanced(balanced)),
            Source::new("by ClientPool, TLS", Means::Pool(self.secure.clone())),
            Source::new("by StreamPool, TLS", channel(&self.secure_streams, &self.secure_target)),
            Source::new("by ClientPool, health check", Means::Pool(self.healthy.clone())),
            Source::new("by one that is made anew", Means::ShortLived(targets.to_vec())),
        ]
    }

    pub(crate) fn closer(&self, targets: &[String]) -> Closer {
        // Of shared ones it would close what others use.
        let pool = self.exclusive.clone();
        Closer { name: "closed", gentle: false, targets: targets.to_vec(), pool, grace: Duration::ZERO }
    }
}

/// To the server that does no worse than take leave.
pub(crate) struct GentlePools {
    pub(crate) pool: ClientPool,
    pub(crate) exclusive: ClientPool,
    pub(crate) bounded: ClientPool,
    pub(crate) streams: StreamPool,
}

/// How long the calls of its pools may go on after a close.
const GRACE: Duration = Duration::from_millis(200);

impl GentlePools {
    pub(crate) fn new(target: &str) -> Self {
        // A call can be sent again, however large it is.
        let pool = of_one(target).resend_buffer(LARGE);
        let streams = StreamPool::builder().connect_timeout(CONNECT).keepalive(keepalive());
        let streams = streams.resend_buffer(LARGE).ttl(Duration::from_secs(3));
        GentlePools {
            pool: pool.clone().build().expect("valid"),
            exclusive: pool.clone().exclusive().close_grace(GRACE).build().expect("valid"),
            bounded: pool.max_connections(2).build().expect("valid"),
            streams: streams.build().expect("valid"),
        }
    }

    pub(crate) fn sources(&self, target: &str) -> Vec<Source> {
        let leases = Means::Leases(self.streams.clone(), vec![target.to_owned()]);
        vec![
            Source::gentle("gentle, by ClientPool", Means::Pool(self.pool.clone())),
            Source::gentle("gentle, ClientPool of 2", Means::Pool(self.bounded.clone())),
            Source::gentle("gentle, by StreamPool", leases),
        ]
    }

    pub(crate) fn closer(&self, target: &str) -> Closer {
        let (targets, pool) = (vec![target.to_owned()], self.exclusive.clone());
        Closer { name: "gentle, closed", gentle: true, targets, pool, grace: GRACE }
    }
}
