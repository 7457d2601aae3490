//! What goes wrong, at random.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::proxy::{Manner, Proxy};
use crate::server::{Backend, Setup};
use crate::tally::Tally;

/// A server behind its proxy.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) proxy: Proxy,
    pub(crate) backend: Backend,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let backend = Backend::start().await;
        let proxy = Proxy::start(backend.addr).await.expect("a proxy");
        Place { proxy, backend }
    }

    pub(crate) fn target(&self) -> String {
        format!("http://{}", self.proxy.addr)
    }

    /// Whole again, with nothing left of what was.
    async fn heal(&self) {
        self.proxy.behave(Manner::Pass);
        self.proxy.cut(false);
        self.backend.restart(Duration::ZERO, Setup::default()).await;
    }
}

fn ms(rng: &mut fastrand::Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

/// Faults each 50 to 2,000 ms, which may overlap, until `end`; then all places are whole.
pub(crate) async fn inflict(places: Vec<Place>, mut rng: fastrand::Rng, tally: Tally, end: Instant) {
    let mut under_way = JoinSet::new();
    loop {
        let next = Instant::now() + ms(&mut rng, 50, 2000);
        if next >= end {
            break;
        }
        sleep_until(next).await;
        while under_way.try_join_next().is_some() {}
        let place = places[rng.usize(..places.len())].clone();
        under_way.spawn(inflict_one(place, rng.fork(), tally.clone()));
    }
    under_way.join_all().await;
    for place in &places {
        place.heal().await;
    }
}

async fn inflict_one(Place { proxy, backend }: Place, mut rng: fastrand::Rng, tally: Tally) {
    let rng = &mut rng;
    let plain = Setup::default();
    match rng.u32(..10) {
        0 => {
            tally.fault("server killed");
            backend.restart(ms(rng, 0, 1500), plain).await;
        }
        1 => {
            tally.fault("server shut down gracefully");
            backend.take_leave().await;
            sleep(ms(rng, 0, 1500)).await;
            backend.restart(ms(rng, 0, 300), plain).await;
        }
        2 => {
            tally.fault("server with max_connection_age");
            let max_age = Some((ms(rng, 50, 1000), ms(rng, 50, 500)));
            backend.restart(Duration::ZERO, Setup { max_age, ..plain }).await;
        }
        3 => {
            tally.fault("server with few streams");
            let max_streams = Some(rng.u32(1..=5));
            backend.restart(Duration::ZERO, Setup { max_streams, ..plain }).await;
        }
        4 => {
            tally.fault("cut, RST");
            proxy.cut(true);
        }
        5 => {
            tally.fault("cut, FIN");
            proxy.cut(false);
        }
        6 => {
            tally.fault("black hole");
            proxy.behave(Manner::Discard);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
            // Half of the time those who were in the hole are left there, and find out by themselves.
            if rng.bool() {
                proxy.cut(true);
            }
        }
        7 => {
            tally.fault("stalled");
            proxy.behave(Manner::Stall);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
        }
        8 => {
            tally.fault("dripping");
            proxy.behave(Manner::Drip);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
        }
        _ => {
            tally.fault("connections refused");
            proxy.behave(Manner::Refuse);
            proxy.cut(rng.bool());
            sleep(ms(rng, 50, 2000)).await;
            proxy.behave(Manner::Pass);
        }
    }
}
