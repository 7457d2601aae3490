//! The single connections that calls go through.

use std::time::Duration;

use cenote::grpc::{Backoff, ClientConn, ClientConnBuilder, Keepalive};

use crate::places::{FEW, Place, Places};
use crate::source::{Means, Source};
use crate::{LARGE, PATIENCE};

pub(crate) fn keepalive() -> Keepalive {
    Keepalive { timeout: Duration::from_secs(2), ..Keepalive::every(PATIENCE) }
}

/// Those that live through all of it, and how many calls each must carry at once in the end.
pub(crate) fn conns(places: &Places) -> Vec<(Source, usize)> {
    let plain = |place: &Place| {
        let redial = Backoff { max: Duration::from_secs(1), ..Backoff::POOL };
        let conn = ClientConn::builder(place.target()).backoff(redial).keepalive(keepalive());
        conn.connect_timeout(Duration::from_secs(2))
    };
    let few = FEW as usize;
    // The others keep their last socket to the end, and what was lost on it.
    let short = |conn: ClientConnBuilder| {
        conn.max_connection_age(Duration::from_millis(700)).idle_timeout(Duration::from_secs(1))
    };
    let rough = |name, conn: ClientConnBuilder| Source::new(name, Means::Conn(conn.build().expect("valid")));
    // A call to a server that is gentle can be sent again, however large it is.
    let gentle = |name, conn: ClientConnBuilder| {
        Source::gentle(name, Means::Conn(conn.resend_buffer(LARGE).build().expect("valid")))
    };
    vec![
        (rough("by ClientConn", plain(&places.rough[0])), few),
        // Its watch takes a stream, too.
        (rough("by ClientConn, health check", plain(&places.rough[1]).health_check("")), few - 1),
        (rough("by ClientConn, TLS", plain(&places.secure).tls(places.trust.clone())), few),
        (rough("by ClientConn with age", short(plain(&places.rough[2]))), few),
        (gentle("gentle, by ClientConn", plain(&places.gentle)), few),
        (gentle("gentle, ClientConn with age", short(plain(&places.gentle))), few),
        (gentle("quiet, by ClientConn", plain(&places.quiet)), few),
    ]
}
