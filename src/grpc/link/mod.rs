//! A frame's way back: one socket, from its preface to its close, and what the others know of it.
//!
//! * [`frames`] reads frame headers; [`tap`] applies it to a socket between hyper and TLS; [`read_budget`] bounds what one
//!   poll reads.
//! * [`one_task`] drives hyper's two halves of a connection as one; [`request_body`] is what hyper sends, and knows whether any of
//!   it has left.
//! * [`Link`] is what remains in the hands of the others: its [`LinkPhase`] only moves forward,
//!   `Preface -> Open -> Draining -> Vacant -> Ended -> Closed`; phases may be skipped. The drop of the tap reports `Closed`, so
//!   it means that the socket is gone. [`slots`] are the streams that it may carry.
//!
//! A link knows no connection: it reports to an [`Observer`]. What the tap finds it finds inside of a poll of hyper's, under
//! locks of h2's; and a report may wake tasks, and have a pool dial. So the tap's [reports](Report) are kept, and
//! [delivered](Link::deliver) by the task that drives the link when hyper's poll is over. What the tap has found holds at once
//! all the same: the phase has moved before the report is made.

pub(in crate::grpc) mod frames;
pub(in crate::grpc) mod one_task;
pub(in crate::grpc) mod peer;
pub(in crate::grpc) mod read_budget;
#[cfg(any(test, fuzzing))]
pub(in crate::grpc) mod reading;
pub(in crate::grpc) mod request_body;
pub(in crate::grpc) mod slots;
pub(in crate::grpc) mod tap;

use std::io;

use futures_util::task::AtomicWaker;
use tokio::runtime::{self, Handle};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use self::frames::{GoAway, Settings};
use self::peer::Peer;
use self::request_body::Attempt;
use self::slots::Slots;
use crate::primitive::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::primitive::{Arc, Mutex, OnceLock, Weak};

/// How long a request may wait for the driver to be polled before the link is not lent any more, and a caller for a dial
/// task to be polled.
pub(in crate::grpc) const UNDRIVEN: std::time::Duration = std::time::Duration::from_secs(1);

/// For tests of what uses a link.
#[cfg(test)]
fn nobody() -> Weak<dyn Observer> {
    struct Nobody;
    impl Observer for Nobody {
        fn link_down(&self, _: u64, _: &str) {}
        fn too_many_pings(&self) {}
        fn limit_changed(&self) {}
    }
    Weak::<Nobody>::new()
}

/// What a link reports.
pub(in crate::grpc) trait Observer: Send + Sync {
    /// The link takes no more calls.
    fn link_down(&self, link: u64, why: &str);

    /// The server sent GOAWAY with ENHANCE_YOUR_CALM.
    fn too_many_pings(&self);

    /// The number of calls that it may carry has changed.
    fn limit_changed(&self);
}

/// What the tap has found, for the observer.
#[derive(Debug)]
enum Report {
    Down(String),
    TooManyPings,
    LimitChanged,
}

/// How far a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkPhase {
    /// From before the connect to the server's SETTINGS.
    Preface,
    /// Calls may be sent.
    Open,
    /// The server sent GOAWAY, or hyper takes no more requests: streams that are open go on, no new ones.
    Draining,
    /// And the last call is over.
    Vacant,
    /// The server's last byte has been read, or reading failed.
    Ended,
    /// The socket is closed.
    Closed,
}

/// What the tap, the driver, the calls and the connection know of one socket.
#[derive(Debug)]
pub(crate) struct Link {
    /// Unique within its connection.
    pub(crate) id: u64,
    owner: Weak<dyn Observer>,
    /// Not delivered yet.
    reports: Mutex<Vec<Report>>,
    /// Whether there are any. Relaxed: written and read by the task that drives the link.
    has_reports: AtomicBool,
    phase: watch::Sender<LinkPhase>,
    /// Whether it has been Open: a task that waits for that may see only a later phase.
    opened: AtomicBool,
    killed: AtomicBool,
    /// Whether the connection was closed with a grace, at whose end this is killed.
    doomed: AtomicBool,
    /// The task that polls the socket, for `kill` and for the end of the last call. hyper polls reading and writing from one task.
    pub(super) waker: AtomicWaker,
    /// Calls that run on this socket or wait for a slot of it, up to the end of their response bodies. Raised under the
    /// owner's lock, so that under it a zero stays zero.
    calls: AtomicUsize,
    /// Whether hyper takes no more requests, and waits for the last call to end.
    finished: AtomicBool,
    /// Requests that were given to hyper, or are about to be, and of which it has asked for nothing yet.
    unbegun: AtomicUsize,
    /// Since when a request has waited for the driver to be polled, in ms since `born` and at least 1; 0 if none has.
    undriven_since: AtomicU64,
    /// How many streams have been begun on it.
    begun: AtomicU32,
    /// Whose stream hyper has begun, until hyper spawns what sends the body.
    begun_for: Mutex<Option<Attempt>>,
    /// The highest number of a stream whose head, or the beginning of that, has been written. Trailers have an earlier one's.
    head_left: AtomicU32,
    /// Whether the tap is in a write, and whether it must not write any more. Both SeqCst: see [`seal`](Link::seal).
    writing: AtomicBool,
    sealed: AtomicBool,
    /// Whether one of its streams is the health check's.
    watched: AtomicBool,
    /// The streams that it may carry.
    pub(crate) slots: Slots,
    /// When the last call ended, in ms since `born`.
    last_call: AtomicU64,
    born: Instant,
    /// On which runtime it is driven.
    runtime: OnceLock<runtime::Id>,
    /// Whose certificate was verified; absent without TLS.
    peer: OnceLock<Peer>,
    /// When it was handed over to calls.
    in_use_since: OnceLock<Instant>,
    /// Whether a call was ever counted on it.
    carried_a_call: AtomicBool,
    /// What the first GOAWAY says.
    goaway: OnceLock<String>,
    /// What the socket's last read said, if it was the end, or a write that failed: whichever came first.
    pub(super) end: OnceLock<io::Error>,
    /// The permit for a socket, where the pool's sockets are limited; released with the socket, or when only its last calls
    /// run on it.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Link {
    pub(crate) fn new(id: u64, owner: Weak<dyn Observer>) -> Arc<Self> {
        Arc::new(Link {
            id,
            owner,
            reports: Mutex::new(Vec::new()),
            has_reports: AtomicBool::new(false),
            phase: watch::Sender::new(LinkPhase::Preface),
            opened: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            calls: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
            unbegun: AtomicUsize::new(0),
            undriven_since: AtomicU64::new(0),
            begun: AtomicU32::new(0),
            begun_for: Mutex::new(None),
            head_left: AtomicU32::new(0),
            writing: AtomicBool::new(false),
            peer: OnceLock::new(),
            sealed: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            slots: Slots::new(),
            last_call: AtomicU64::new(0),
            born: Instant::now(),
            runtime: OnceLock::new(),
            in_use_since: OnceLock::new(),
            carried_a_call: AtomicBool::new(false),
            goaway: OnceLock::new(),
            end: OnceLock::new(),
            permit: Mutex::new(None),
        })
    }

    /// Why a link ended before it came into use.
    pub(crate) fn why_closed(&self) -> io::Error {
        // Or it was hyper that closed it, without a word to us, over what it had read.
        let not_http2 = || io::Error::new(io::ErrorKind::InvalidData, "what the server sent is not HTTP/2");
        self.end().unwrap_or_else(not_http2)
    }

    /// What the server's part of it ended with, if that has, and what the server said of it before.
    pub(in crate::grpc) fn end(&self) -> Option<io::Error> {
        match (self.end.get(), self.goaway.get()) {
            (None, None) => None,
            (Some(end), None) => Some(copy(end)),
            (None, Some(goaway)) => Some(io::Error::new(io::ErrorKind::ConnectionReset, goaway.as_str())),
            (Some(end), Some(goaway)) => {
                Some(io::Error::new(end.kind(), format!("{end}; before that, {goaway}")))
            }
        }
    }

    pub(crate) fn phase(&self) -> LinkPhase {
        *self.phase.borrow()
    }

    /// Whether the server's SETTINGS came, whatever came after them.
    pub(crate) fn has_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Waits until the link is at `phase` or past it; which it is, is returned.
    pub(crate) async fn reached(&self, phase: LinkPhase) -> LinkPhase {
        let mut watch = self.phase.subscribe();
        // The sender is in `self`, so the wait cannot fail.
        watch.wait_for(|now| *now >= phase).await.map_or(LinkPhase::Closed, |now| *now)
    }

    fn advance(&self, to: LinkPhase) -> bool {
        self.phase.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        })
    }

    /// Ends the socket now, with whatever is on it.
    pub(crate) fn kill(&self) {
        // Release: pairs with the Acquire in `Tap::check`, though nothing but the flag itself is passed on.
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// To be called before the connection's shutdown is published: the driver looks at this then.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    pub(in crate::grpc) fn peer(&self) -> Option<&Peer> {
        self.peer.get()
    }

    /// The server has proved its name.
    pub(in crate::grpc) fn set_peer(&self, peer: Peer) {
        let _ = self.peer.set(peer);
    }

    /// To be called under the owner's lock: see `calls`.
    pub(crate) fn begin_call(&self) {
        // Relaxed: the owner's lock orders it for the code that looks for zero.
        self.calls.fetch_add(1, Ordering::Relaxed);
        // Relaxed: under the owner's lock, too, and read there. Looked at first, so that the line is not written twice.
        if !self.carried_a_call.load(Ordering::Relaxed) {
            self.carried_a_call.store(true, Ordering::Relaxed);
        }
    }

    /// How many calls are under way.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether the caller is on the runtime that drives it.
    pub(in crate::grpc) fn is_driven_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| self.runtime.get() == Some(&here.id()))
    }

    /// To be called before calls can see it, on the runtime that is to drive it.
    pub(in crate::grpc) fn comes_into_use(&self) {
        if let Ok(here) = Handle::try_current() {
            let _ = self.runtime.set(here.id());
        }
        let _ = self.in_use_since.set(Instant::now());
        // Up to here the dial has driven it: a health check may have waited for long.
        self.driven();
    }

    /// For how long it has been in use, and whether a call ever ran on it.
    pub(in crate::grpc) fn life(&self) -> (std::time::Duration, bool) {
        let lived = self.in_use_since.get().map_or(std::time::Duration::ZERO, Instant::elapsed);
        (lived, self.carried_a_call.load(Ordering::Relaxed))
    }

    pub(crate) fn end_call(&self) {
        self.last_call.store(self.age_ms(), Ordering::Relaxed);
        // Release, at least: a thread that reads the zero (Acquire, in `idle_since`) also reads this call's end
        // time. SeqCst, with `is_vacant`: either this sees that it is waited for, or the waiter sees the zero.
        if self.calls.fetch_sub(1, Ordering::SeqCst) == 1 && self.finished.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// hyper is about to get a request.
    pub(in crate::grpc) fn expect_request(&self) {
        // Relaxed, here and in `driven`: it is a hint. One that is lost costs a second until the next request.
        if self.undriven_since.load(Ordering::Relaxed) == 0 {
            self.undriven_since.store(self.age_ms().max(1), Ordering::Relaxed);
        }
        // SeqCst, as in `end_call`: the task that waits for the last call after `takes_no_more` is not to wait for
        // this one.
        self.unbegun.fetch_add(1, Ordering::SeqCst);
        if self.finished.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// The task that drives the socket is being polled.
    pub(in crate::grpc) fn driven(&self) {
        if self.undriven_since.load(Ordering::Relaxed) != 0 {
            self.undriven_since.store(0, Ordering::Relaxed);
        }
    }

    /// Whether requests have waited for [`UNDRIVEN`] without the driver being polled: its runtime rests, as a current-thread
    /// one does after its `block_on`, or all its workers are busy.
    pub(in crate::grpc) fn is_undriven(&self) -> bool {
        match self.undriven_since.load(Ordering::Relaxed) {
            0 => false,
            since => self.age_ms().saturating_sub(since) >= UNDRIVEN.as_millis() as u64,
        }
    }

    /// hyper has begun with it, or has dropped it.
    pub(in crate::grpc) fn request_begun(&self) {
        // Relaxed: nobody waits for it.
        self.unbegun.fetch_sub(1, Ordering::Relaxed);
    }

    pub(in crate::grpc) fn has_unbegun(&self) -> bool {
        self.unbegun.load(Ordering::SeqCst) > 0
    }

    /// The number of the stream that hyper is about to begin: a client's are 1, 3, 5 and so on.
    pub(in crate::grpc) fn next_stream(&self) -> u32 {
        // Relaxed, here and below: only the task that drives the connection writes these.
        self.begun.fetch_add(1, Ordering::Relaxed).saturating_mul(2).saturating_add(1)
    }

    /// hyper is about to begin a stream for this attempt.
    fn begins(&self, attempt: Attempt) {
        let before = self.begun_for.lock().replace(attempt);
        drop(before);
    }

    fn take_begun(&self) -> Option<Attempt> {
        self.begun_for.lock().take()
    }

    pub(in crate::grpc) fn wrote_head(&self, stream: u32) {
        self.head_left.fetch_max(stream, Ordering::Relaxed);
    }

    /// See `head_left`, the field.
    pub(in crate::grpc) fn head_left(&self) -> u32 {
        self.head_left.load(Ordering::Relaxed)
    }

    /// The tap is about to write, if that returns true; then it calls `end_write` afterwards.
    pub(super) fn begin_write(&self) -> bool {
        self.writing.store(true, Ordering::SeqCst);
        let may_write = !self.sealed.load(Ordering::SeqCst);
        if !may_write {
            self.end_write();
        }
        may_write
    }

    /// After `wrote_head`.
    pub(super) fn end_write(&self) {
        // Release: a seal that sees this sees the heads that were written, too.
        self.writing.store(false, Ordering::Release);
    }

    /// Makes sure that nothing of a stream leaves any more; true if nothing has. For a link whose server has ended its side:
    /// no call on it can be answered, whatever is still to be written.
    ///
    /// h2 flushes what it has buffered before it closes, and a server that has only ended its own side reads it.
    ///
    /// The tap stores `writing` and then reads `sealed`, this stores `sealed` and then reads `writing`: one of the two sees
    /// the other. So either the tap does not begin a write any more, or this sees that one is under way and does not know
    /// what is in it.
    pub(super) fn seal(&self, stream: u32) -> bool {
        self.sealed.store(true, Ordering::SeqCst);
        !self.writing.load(Ordering::SeqCst) && self.head_left() < stream
    }

    pub(in crate::grpc) fn watch(&self, watched: bool) {
        // Relaxed: the owner looks when it is notified, by way of locks.
        self.watched.store(watched, Ordering::Relaxed);
        if let Some(owner) = self.owner.upgrade() {
            owner.limit_changed();
        }
    }

    /// How many calls it may carry.
    pub(in crate::grpc) fn limit(&self) -> u32 {
        self.slots.limit().saturating_sub(u32::from(self.watched.load(Ordering::Relaxed)))
    }

    /// hyper takes no more requests: because of the server, or because no sender is left.
    pub(in crate::grpc) fn takes_no_more(&self) {
        self.finished.store(true, Ordering::SeqCst);
        self.drain("hyper takes no more requests");
    }

    /// Whether the last call is over, after `takes_no_more`. If not, its end wakes the task that polls the socket.
    pub(in crate::grpc) fn is_vacant(&self) -> bool {
        let vacant = self.calls.load(Ordering::SeqCst) == 0;
        if vacant {
            self.advance(LinkPhase::Vacant);
        }
        vacant
    }

    /// The socket counts among its pool's, or no longer does.
    pub(in crate::grpc) fn swap_permit(&self, permit: &mut Option<OwnedSemaphorePermit>) {
        std::mem::swap(&mut *self.permit.lock(), permit);
    }

    /// Since when no call has run; `None` while one does.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        if self.calls.load(Ordering::Acquire) > 0 {
            return None;
        }
        Some(self.born + std::time::Duration::from_millis(self.last_call.load(Ordering::Relaxed)))
    }

    fn age_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    pub(super) fn on_settings(&self, settings: Settings) {
        match settings.max_streams {
            Some(most) => self.slots.set_limit(most),
            // RFC 9113, section 6.5.2: without a word there is no limit.
            None if settings.first => self.slots.set_limit(u32::MAX),
            None => {}
        }
        if settings.first {
            // Relaxed: for the task that polls this.
            self.opened.store(true, Ordering::Relaxed);
            self.advance(LinkPhase::Open);
        } else {
            self.report(Report::LimitChanged);
        }
    }

    pub(super) fn on_goaway(&self, goaway: GoAway) {
        let code = h2::Reason::from(goaway.code);
        // Other servers, and proxies, say with the same code that they are overloaded.
        if code == h2::Reason::ENHANCE_YOUR_CALM && goaway.debug == TOO_MANY_PINGS {
            self.report(Report::TooManyPings);
        }
        let why = describe(&goaway);
        let _ = self.goaway.set(why.clone());
        self.drain(&why);
    }

    /// No new calls from here on.
    fn drain(&self, why: &str) {
        if self.advance(LinkPhase::Draining) {
            // The pool may open another socket now, while this one's calls run out.
            self.release_permit();
            self.report(Report::Down(why.to_owned()));
        }
    }

    pub(super) fn on_end(&self, how: io::Error) {
        let why = how.to_string();
        let _ = self.end.set(how);
        if self.advance(LinkPhase::Ended) {
            self.report(Report::Down(why));
        }
    }

    /// The permit's drop wakes a dial that waits for one, which must not happen under our lock.
    fn release_permit(&self) {
        let permit = self.permit.lock().take();
        drop(permit);
    }

    /// To be called when no new call comes here, though the server has not said so: while its last ones run, the pool may open
    /// another socket.
    pub(crate) fn run_out(&self) {
        // Without a call the socket closes now, and releases its permit with that.
        if self.idle_since().is_none() {
            self.release_permit();
        }
    }

    /// To be called when the driver is not polled any more: the socket may stay open for ever, and does not count.
    pub(in crate::grpc) fn give_up(&self) {
        self.release_permit();
    }

    pub(super) fn on_close(&self) {
        self.release_permit();
        if self.advance(LinkPhase::Closed) {
            self.report(Report::Down("the socket closed".to_owned()));
        }
    }

    /// After the phase has moved, never before: what makes a link the owner's current one looks at the phase under the owner's
    /// lock, and either sees the move there or is undone by this report.
    fn report(&self, report: Report) {
        self.reports.lock().push(report);
        self.has_reports.store(true, Ordering::Relaxed);
    }

    /// To be called by the task that drives the link, outside of hyper.
    pub(super) fn deliver(&self) {
        if !self.has_reports.load(Ordering::Relaxed) {
            return;
        }
        self.has_reports.store(false, Ordering::Relaxed);
        let reports = std::mem::take(&mut *self.reports.lock());
        let Some(owner) = self.owner.upgrade() else { return };
        for report in reports {
            match report {
                Report::Down(why) => owner.link_down(self.id, &why),
                Report::TooManyPings => owner.too_many_pings(),
                Report::LimitChanged => owner.limit_changed(),
            }
        }
    }
}

/// What grpc-core, grpc-go and others send to a client that pings too much (gRFC A8).
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// For people to read, on one line: the server's own words are escaped, and those that were cut end with dots.
fn describe(GoAway { code, debug, .. }: &GoAway) -> String {
    let code = h2::Reason::from(*code);
    let dots = if debug.len() == frames::MAX_DEBUG { "..." } else { "" };
    match debug.is_empty() {
        true => format!("the server sent GOAWAY ({code:?})"),
        false => format!("the server sent GOAWAY ({code:?}): \"{}{dots}\"", debug.escape_ascii()),
    }
}

/// An error of the same kind with the same text.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
