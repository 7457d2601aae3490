//! A link's life after Ready: the task that drives one socket until it is closed.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::health::{self, Health};
use super::shared::{Shared, StateUpdate};
use crate::grpc::config::Settings;
use crate::grpc::error::with_causes;
use crate::grpc::link::one_task::OneTask;
use crate::grpc::link::{Link, LinkPhase};
use crate::grpc::options::{YEAR, about};
use crate::grpc::trace::trace_event;
use crate::primitive::{Arc, Weak};

/// How long hyper may take to say goodbye on a socket that nobody wants any more, before it is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Drives a connection from SETTINGS to the close of its socket.
///
/// 1. hyper's part, the socket's included, is polled all along. The server's health is followed up to the end of this stage at most.
/// 2. When the last handle is gone, or no call has run for the idle timeout, no stream is left (calls and bodies are
///    handles), and hyper's request senders are dropped: hyper says goodbye and closes.
/// 3. When the connection was closed with a grace, the same happens; what still runs at the grace's end is cut.
/// 4. The same goes for a socket that takes no more requests, when its last call is over, and for one whose peer has sent its last
///    byte: hyper gives up what was open on it, and closes.
/// 5. If that takes too long, for a peer that does not read, the socket is cut.
pub(super) async fn drive(
    mut conn: OneTask,
    owner: Weak<Shared>,
    link: Arc<Link>,
    settings: Arc<Settings>,
    health: Option<Box<Health>>,
    mut updates: watch::Receiver<StateUpdate>,
) {
    let hyper = async {
        let conn = poll_fn(|cx| {
            link.driven();
            conn.poll_unpin(cx)
        });
        if let Err(error) = conn.await {
            trace_event!("HTTP/2 ended", error = with_causes(&error));
        }
        std::future::pending::<()>().await
    };
    tokio::pin!(hyper);
    let health = health::follow(health, &owner, &link, updates.clone());
    let end = async {
        tokio::select! {
            biased;
            _ = link.reached(LinkPhase::Vacant) => {}
            () = released(&mut updates, &link) => {}
            () = idle(&owner, &link, settings.tuning.idle_timeout) => {}
            () = grow_old(&owner, &link, settings.tuning.max_connection_age) => {}
            () = health => {}
        }
    };
    // With a waker of its own: hyper is polled for each call, and looking at all of these each time took 3 % of it.
    let mut end: FuturesUnordered<_> = std::iter::once(end).collect();
    tokio::select! {
        biased;
        () = &mut hyper => {}
        _ = end.next() => {}
    }
    drop(end);
    if link.phase() == LinkPhase::Closed {
        return;
    }
    if link.is_doomed() {
        tokio::select! {
            _ = link.reached(LinkPhase::Closed) => return,
            () = &mut hyper => {}
            () = sleep(settings.tuning.close_grace.min(YEAR)) => link.kill(),
        }
    }
    tokio::select! {
        _ = link.reached(LinkPhase::Closed) => (),
        () = &mut hyper => {}
        () = sleep(LINGER) => link.kill(),
    }
}

/// Returns when it has retired the link because no call has run on it for `timeout`.
async fn idle(owner: &Weak<Shared>, link: &Link, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    loop {
        match link.idle_since().and_then(|since| since.checked_add(timeout)) {
            Some(due) if due > Instant::now() => sleep_until(due).await,
            // A call is running, or the link is no longer the connection's current one.
            _ => sleep(timeout).await,
        }
        if owner.upgrade().is_some_and(|owner| owner.link_idle(link.id, timeout)) {
            return;
        }
    }
}

/// Returns when the connection's last handle is gone, or it was closed with a grace; which, says the link.
async fn released(updates: &mut watch::Receiver<StateUpdate>, link: &Link) {
    while !link.is_doomed() && updates.changed().await.is_ok() {}
}

/// Makes room for another link when this one has lived for its time, give or take a tenth: calls that run on it may end.
async fn grow_old(owner: &Weak<Shared>, link: &Link, most: Option<Duration>) {
    if let Some(most) = most {
        sleep(about(most)).await;
        if let Some(owner) = owner.upgrade() {
            owner.link_aged(link);
        }
    }
    std::future::pending().await
}
