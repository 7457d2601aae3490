//! Where the servers are.

use std::time::Duration;

use tokio::time::sleep;

use crate::greeter::Greeting;
use crate::proxy::{Manner, Proxy};
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
}

impl Place {
    pub(crate) async fn new(number: usize, tally: &Tally) -> Self {
        let backend = Backend::start(Greeting { place: number, tally: tally.clone() }).await;
        let proxy = Proxy::start(backend.addr).await.expect("a proxy");
        Place { proxy, backend }
    }

    pub(crate) fn target(&self) -> String {
        format!("http://{}", self.proxy.addr)
    }

    /// Whole again, with nothing left of what was.
    pub(crate) async fn heal(&self) {
        self.proxy.behave(Manner::Pass);
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

/// All of them.
pub(crate) struct Places {
    pub(crate) rough: Vec<Place>,
    pub(crate) gentle: Place,
    pub(crate) quiet: Place,
}

impl Places {
    pub(crate) async fn new(tally: &Tally) -> Self {
        let mut rough = Vec::new();
        for number in 0..3 {
            rough.push(Place::new(number, tally).await);
        }
        let (gentle, quiet) = (Place::new(3, tally).await, Place::new(4, tally).await);
        quiet.heal().await;
        Places { rough, gentle, quiet }
    }
}
