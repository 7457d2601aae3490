//! What goes wrong, at random.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::PATIENCE;
use crate::places::{FEW, Place, whole};
use crate::proxy::Manner;
use crate::server::{Leaving, Setup};
use crate::tally::Tally;
use tonic_health::ServingStatus;

/// The fewest streams that the server takes which is replaced again and again.
const FEWER: u32 = 3;

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

/// Servers are replaced each 1 to 4 s, with an age for their connections or without, until `end`. No call need fail by it.
pub(crate) async fn replace(place: Place, mut rng: fastrand::Rng, tally: Tally, end: Instant) {
    let mut under_way = JoinSet::new();
    while Instant::now() < end {
        // Never more than the server takes.
        place.proxy.limit_streams(if rng.bool() { rng.u32(1..=FEWER) } else { FEWER });
        let max_age = rng.bool().then(|| ms(&mut rng, 200, 1000));
        if max_age.is_some() {
            tally.fault("gentle: max_connection_age", place.backend.place());
        }
        let max_streams = rng.bool().then(|| rng.u32(FEWER..=FEW));
        let old = place.roll(Setup { max_streams, max_age, grace: None }).await;
        tally.fault("gentle: server replaced", place.backend.place());
        under_way.spawn(see_off(old, tally.clone()));
        sleep(ms(&mut rng, 1000, 4000)).await;
        while under_way.try_join_next().is_some() {}
    }
    place.proxy.limit_streams(0);
    under_way.spawn(see_off(place.roll(whole()).await, tally));
    under_way.join_all().await;
}

async fn see_off(server: Leaving, tally: Tally) {
    if !server.take_leave(PATIENCE).await {
        tally.violation(format!("a server that took leave has connections {PATIENCE:?} later"));
    }
}

async fn inflict_one(Place { proxy, backend, .. }: Place, mut rng: fastrand::Rng, tally: Tally) {
    let rng = &mut rng;
    let tell = |kind| tally.fault(kind, backend.place());
    let plain = Setup::default();
    match rng.u32(..12) {
        0 => {
            tell("server killed");
            backend.restart(ms(rng, 0, 1500), plain).await;
        }
        1 => {
            tell("server shut down gracefully");
            backend.take_leave().await;
            sleep(ms(rng, 0, 1500)).await;
            backend.restart(ms(rng, 0, 300), plain).await;
        }
        2 => {
            let max_age = Some(ms(rng, 50, 1000));
            let grace = rng.bool().then(|| ms(rng, 50, 500));
            tell(if grace.is_some() {
                "server with age and grace"
            } else {
                "server with max_connection_age"
            });
            backend.restart(Duration::ZERO, Setup { max_age, grace, ..plain }).await;
        }
        3 => {
            tell("server with few streams");
            let max_streams = Some(rng.u32(1..=5));
            backend.restart(Duration::ZERO, Setup { max_streams, ..plain }).await;
        }
        4 => {
            tell("cut, RST");
            proxy.cut(true);
        }
        5 => {
            tell("cut, FIN");
            proxy.cut(false);
        }
        6 => {
            tell("black hole");
            proxy.behave(Manner::Discard);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
            // Half of the time those who were in the hole are left there, and find out by themselves.
            if rng.bool() {
                proxy.cut(true);
            }
        }
        7 => {
            tell("stalled");
            proxy.behave(Manner::Stall);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
        }
        8 => {
            tell("dripping");
            proxy.behave(Manner::Drip);
            sleep(ms(rng, 50, 3000)).await;
            proxy.behave(Manner::Pass);
        }
        9 => {
            tell("another limit, by the proxy");
            for _ in 0..rng.u32(1..5) {
                proxy.limit_streams(rng.u32(1..=FEW));
                sleep(ms(rng, 10, 500)).await;
            }
            proxy.limit_streams(FEW);
        }
        10 => {
            tell("not serving, by its health service");
            backend.say(ServingStatus::NotServing).await;
            sleep(ms(rng, 10, 1500)).await;
            backend.say(ServingStatus::Serving).await;
        }
        _ => {
            tell("connections refused");
            proxy.behave(Manner::Refuse);
            proxy.cut(rng.bool());
            sleep(ms(rng, 50, 2000)).await;
            proxy.behave(Manner::Pass);
        }
    }
}
