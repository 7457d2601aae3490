//! The tap: between hyper and the socket (above TLS), it reads along.
//!
//! hyper tells when its own preface is written, not when the server has answered, and says nothing of a GOAWAY
//! while streams are open. Both are plain to see in the 9-byte headers of the frames that come in (RFC 9113,
//! section 4.1), so the tap watches for two of them: SETTINGS, the first of which makes the connection Ready and any of which
//! may say how many streams it carries, and GOAWAY.
//!
//! It counts the ends of answers, too, and keeps to what the [`Pace`] allows: what came behind the last of them is hyper's in the
//! next round. And of what goes out it counts the heads of requests, so that a call that breaks off can know whether its own has left.
//!
//! The tap also is the one place that can end a socket whatever hyper is waiting for: [`Link::kill`] makes
//! each read and write fail from then on, hyper gives up the connection, and the socket closes.
//!
//! A [`Link`] is what remains in the hands of the others: its [`LinkPhase`] only moves forward,
//! `Preface -> Open -> Draining -> Vacant -> Ended -> Closed`, phases may be skipped, and `Closed` is told by the drop of the tap, so
//! it means that the socket is gone.

#[cfg(any(test, fuzzing))]
pub(super) mod reading;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::grpc::group::OpenSocket;
use crate::primitive::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::primitive::{Arc, Mutex, OnceLock, Weak};

use super::pace::Pace;
use super::shared::Shared;
use super::slots::Slots;

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
    owner: Weak<Shared>,
    phase: watch::Sender<LinkPhase>,
    /// Whether it has been Open: who waits for that may see only what came after.
    opened: AtomicBool,
    killed: AtomicBool,
    /// Whether the connection was closed with a grace, at whose end this is killed.
    doomed: AtomicBool,
    /// The task that polls the socket, for `kill` and for the end of the last call. hyper polls reading and writing from one task.
    waker: AtomicWaker,
    /// Calls that run on this socket or wait for a slot of it, up to the end of their response bodies. Raised under the
    /// owner's lock, so that under it a zero stays zero.
    calls: AtomicUsize,
    /// Whether hyper takes no more requests, and waits for the last call to end.
    finished: AtomicBool,
    /// Requests that were given to hyper, or are about to be, and of which it has asked for nothing yet.
    unbegun: AtomicUsize,
    /// How many streams have been begun on it.
    begun: AtomicU32,
    /// The highest number of a stream whose head, or the beginning of that, has been written. Trailers have an earlier one's.
    head_left: AtomicU32,
    /// Whether one of its streams is the health check's.
    watched: AtomicBool,
    /// The streams that it may carry.
    pub(crate) slots: Slots,
    /// When the last call ended, in ms since `born`.
    last_call: AtomicU64,
    born: Instant,
    /// A GOAWAY, what the socket's last read said, if it was the end, or a write that failed: whichever came first.
    end: OnceLock<io::Error>,
    /// The place among the pool's sockets, where those are limited; given back with the socket, or when only its last calls
    /// run on it.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Link {
    pub(crate) fn new(id: u64, owner: Weak<Shared>) -> Arc<Self> {
        Arc::new(Link {
            id,
            owner,
            phase: watch::Sender::new(LinkPhase::Preface),
            opened: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            calls: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
            unbegun: AtomicUsize::new(0),
            begun: AtomicU32::new(0),
            head_left: AtomicU32::new(0),
            watched: AtomicBool::new(false),
            slots: Slots::new(),
            last_call: AtomicU64::new(0),
            born: Instant::now(),
            end: OnceLock::new(),
            place: Mutex::new(None),
        })
    }

    pub(crate) fn owner(&self) -> Option<Arc<Shared>> {
        self.owner.upgrade()
    }

    /// Why a link is no good any more that never came to be used.
    pub(crate) fn why_closed(&self) -> io::Error {
        // Or it was hyper that closed it, without a word to us, over what it had read.
        let not_http2 = || io::Error::new(io::ErrorKind::InvalidData, "what the server sent is not HTTP/2");
        self.end().unwrap_or_else(not_http2)
    }

    /// What the server's part of it ended with, if that has: see the field.
    pub(super) fn end(&self) -> Option<io::Error> {
        self.end.get().map(copy)
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

    /// To be called before the connection's shutdown is told: the driver looks when it hears of that.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// To be called under the owner's lock: see `calls`.
    pub(crate) fn begin_call(&self) {
        // Relaxed: the owner's lock orders it for those who look for zero.
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_call(&self) {
        self.last_call.store(self.age_ms(), Ordering::Relaxed);
        // Release, at least: who reads the zero (Acquire, in `idle_since`) also reads this call's end time. SeqCst, with
        // `is_vacant`: either this sees that it is waited for, or who waits sees the zero.
        if self.calls.fetch_sub(1, Ordering::SeqCst) == 1 && self.finished.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// hyper is about to get a request.
    pub(super) fn expect_request(&self) {
        // SeqCst, as in `end_call`: who waits in `takes_no_more` for the last call is not to hold on to this one.
        self.unbegun.fetch_add(1, Ordering::SeqCst);
        if self.finished.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// hyper has begun with it, or has dropped it.
    pub(super) fn request_begun(&self) {
        // Relaxed: nobody waits for it.
        self.unbegun.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn has_unbegun(&self) -> bool {
        self.unbegun.load(Ordering::SeqCst) > 0
    }

    /// The number of the stream that hyper is about to begin: a client's are 1, 3, 5 and so on.
    pub(super) fn next_stream(&self) -> u32 {
        // Relaxed, here and below: only the task that drives the connection writes these.
        self.begun.fetch_add(1, Ordering::Relaxed).saturating_mul(2).saturating_add(1)
    }

    pub(super) fn wrote_head(&self, stream: u32) {
        self.head_left.fetch_max(stream, Ordering::Relaxed);
    }

    /// See `head_left`, the field.
    pub(super) fn head_left(&self) -> u32 {
        self.head_left.load(Ordering::Relaxed)
    }

    pub(super) fn watch(&self, watched: bool) {
        // Relaxed: the owner looks when it is told, by way of locks.
        self.watched.store(watched, Ordering::Relaxed);
        if let Some(owner) = self.owner.upgrade() {
            owner.limit_changed();
        }
    }

    /// How many calls it may carry.
    pub(super) fn limit(&self) -> u32 {
        self.slots.limit().saturating_sub(u32::from(self.watched.load(Ordering::Relaxed)))
    }

    /// hyper takes no more requests: because of the server, or because there is nobody who could send one.
    pub(super) fn takes_no_more(&self) {
        self.finished.store(true, Ordering::SeqCst);
        self.drain("hyper takes no more requests");
    }

    /// Whether the last call is over, after `takes_no_more`. If not, its end wakes the task that polls the socket.
    pub(super) fn is_vacant(&self) -> bool {
        let vacant = self.calls.load(Ordering::SeqCst) == 0;
        if vacant {
            self.advance(LinkPhase::Vacant);
        }
        vacant
    }

    /// The socket counts among its pool's, or no longer does.
    pub(super) fn swap_place(&self, place: &mut Option<OwnedSemaphorePermit>) {
        std::mem::swap(&mut *self.place.lock(), place);
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

    fn on_settings(&self, settings: Settings) {
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
        } else if let Some(owner) = self.owner.upgrade() {
            owner.limit_changed();
        }
    }

    fn on_goaway(&self, goaway: GoAway) {
        let code = h2::Reason::from(goaway.code);
        if code == h2::Reason::ENHANCE_YOUR_CALM
            && let Some(owner) = self.owner.upgrade()
        {
            owner.calm_down();
        }
        let why = format!("the server sent GOAWAY ({code:?})");
        let _ = self.end.set(io::Error::new(io::ErrorKind::ConnectionReset, why.as_str()));
        self.drain(&why);
    }

    /// No new calls from here on.
    fn drain(&self, why: &str) {
        if self.advance(LinkPhase::Draining) {
            // The pool may open another socket now, while this one's calls run out.
            self.give_place_back();
            self.tell_owner(why);
        }
    }

    fn on_end(&self, how: io::Error) {
        let why = how.to_string();
        let _ = self.end.set(how);
        if self.advance(LinkPhase::Ended) {
            self.tell_owner(&why);
        }
    }

    /// The permit's drop wakes who waits for one: not under our lock.
    fn give_place_back(&self) {
        let place = self.place.lock().take();
        drop(place);
    }

    /// To be called when no new call comes here, though the server has not said so: while its last ones run, the pool may open
    /// another socket.
    pub(crate) fn run_out(&self) {
        // Without a call the socket closes now, and gives its place back with that.
        if self.idle_since().is_none() {
            self.give_place_back();
        }
    }

    fn on_close(&self) {
        self.give_place_back();
        if self.advance(LinkPhase::Closed) {
            self.tell_owner("the socket closed");
        }
    }

    /// After the phase has moved, never before: whoever makes a link the owner's current one looks at the
    /// phase under the owner's lock, and either sees the move there or is undone by this call.
    fn tell_owner(&self, why: &str) {
        if let Some(owner) = self.owner.upgrade() {
            owner.link_down(self.id, why);
        }
    }
}

/// An error of the same kind with the same text.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// A socket with a [`Link`]; what hyper reads and writes.
pub(crate) struct Tap<Io> {
    io: Io,
    frames: FrameReader,
    heads: HeadReader,
    /// Read off the socket, and not yet by `frames` and hyper.
    held: BytesMut,
    link: Arc<Link>,
    pace: Arc<Pace>,
    /// What a write failed with.
    failure: Option<io::Error>,
    /// Whether `io` is the system's own socket: a write that fails has written nothing.
    io_is_system: bool,
    /// Counts this socket among its pool's open ones.
    _open: Option<OpenSocket>,
}

impl<Io> Tap<Io> {
    pub(super) fn new(
        io: Io,
        io_is_system: bool,
        link: Arc<Link>,
        pace: Arc<Pace>,
        open: Option<OpenSocket>,
    ) -> Self {
        Tap {
            io,
            frames: FrameReader::default(),
            heads: HeadReader::default(),
            held: BytesMut::new(),
            link,
            pace,
            failure: None,
            io_is_system,
            _open: open,
        }
    }

    /// Fails if the link has been killed, else makes sure that `kill` wakes this task.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        // Registered before the look: a kill in between wakes us.
        self.link.waker.register(cx.waker());
        match self.link.is_killed() {
            false => Ok(()),
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed on this side")),
        }
    }
}

/// Reads up to the end of what is hyper's in this round; how much that is.
fn on_bytes(frames: &mut FrameReader, bytes: &[u8], link: &Link, pace: &Pace) -> usize {
    let mut rest = bytes;
    while let Some(event) = frames.next(&mut rest) {
        match event {
            Event::Settings(settings) => link.on_settings(settings),
            Event::GoAway(goaway) => link.on_goaway(goaway),
            Event::Answer if pace.answer().is_break() => break,
            Event::Answer => {}
        }
    }
    bytes.len() - rest.len()
}

impl<Io: AsyncWrite + Unpin> Tap<Io> {
    /// Writes, unless a write has failed. The first failure is told when all has been read.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check(cx)?;
        if let Some(failure) = &self.failure {
            if self.pace.is_limited() {
                // Still the round in which it failed.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Err(copy(failure)));
        }
        let error = match ready!(write(Pin::new(&mut self.io), cx)) {
            Ok(done) => return Poll::Ready(Ok(done)),
            Err(error) => error,
        };
        let _ = self.link.end.set(copy(&error));
        if !self.pace.lift() {
            return Poll::Ready(Err(error));
        }
        self.failure = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Notes which heads have left.
    fn on_write<'b>(
        &mut self,
        bufs: impl IntoIterator<Item = &'b [u8]>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut written = match &result {
            Poll::Ready(Ok(written)) => *written,
            // One that is more than a system call may have failed halfway.
            _ if self.failure.is_some() && !self.io_is_system => usize::MAX,
            _ => 0,
        };
        for buf in bufs {
            let part = &buf[..written.min(buf.len())];
            written -= part.len();
            if let Some(stream) = self.heads.read(part) {
                self.link.wrote_head(stream);
            }
        }
        result
    }
}

impl<Io> Drop for Tap<Io> {
    fn drop(&mut self) {
        self.link.on_close();
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Tap<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(cx)?;
        if this.pace.is_over() {
            // The next one is due.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.held.is_empty() {
            let room = this.held.len().min(buf.remaining());
            let read = on_bytes(&mut this.frames, &this.held[..room], &this.link, &this.pace);
            buf.put_slice(&this.held[..read]);
            this.held.advance(read);
            if this.held.is_empty() {
                // Its memory is for bursts.
                this.held = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let link = &this.link;
        match ready!(Pin::new(&mut this.io).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before || !had_room => {}
            Ok(()) => {
                link.on_end(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            Err(error) => {
                link.on_end(copy(&error));
                return Poll::Ready(Err(error));
            }
        }
        let new = &buf.filled()[before..];
        let read = on_bytes(&mut this.frames, new, link, &this.pace);
        if read < new.len() {
            this.held.extend_from_slice(&new[read..]);
            buf.set_filled(before + read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Tap<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.pace.keeps_back(buf.len()) {
            // Without a waker: see `Pace::cork`.
            return Poll::Pending;
        }
        let result = self.write(cx, |io, cx| io.poll_write(cx, buf));
        self.on_write([buf], result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.pace.keeps_back(bufs.iter().map(|buf| buf.len()).sum()) {
            return Poll::Pending;
        }
        let result = self.write(cx, |io, cx| io.poll_write_vectored(cx, bufs));
        self.on_write(bufs.iter().map(|buf| &**buf), result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What the tap looks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All of a SETTINGS frame of the server's has arrived that is the connection's first frame, as it must be, or has
    /// something in it for us.
    Settings(Settings),
    GoAway(GoAway),
    /// All of a HEADERS frame has arrived that ends its stream: an answer's trailers, or all of the answer (but for CONTINUATION).
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) first: bool,
    max_streams: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoAway {
    code: u32,
}

const HEADER: usize = 9;
const TYPE_HEADERS: u8 = 1;
const TYPE_SETTINGS: u8 = 4;
const TYPE_GOAWAY: u8 = 7;
/// Last stream id and error code; debug data may follow.
const GOAWAY_PAYLOAD: usize = 8;
/// The flag of a SETTINGS frame that acknowledges one.
const FLAG_ACK: u8 = 1;
/// The flag of a HEADERS frame behind which its sender has nothing more to say.
const FLAG_END_STREAM: u8 = 1;
/// A setting: its identifier and its value.
const SETTING: usize = 6;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

/// Reads frame headers out of a byte stream that is cut anywhere.
///
/// It does not judge what it reads: hyper reads the same bytes and closes the connection over those
/// that break the protocol.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// The start of the current frame: its header, and of a GOAWAY the first bytes of the payload.
    head: [u8; HEADER + GOAWAY_PAYLOAD],
    /// How much of `head` has been read.
    have: usize,
    /// Payload of the current frame that is still to be passed over.
    skip: usize,
    /// Whether a whole frame header has been read before.
    begun: bool,
    /// What to tell when the current frame, a SETTINGS frame, has been passed over.
    settings: Option<Settings>,
    /// Whether to tell of an answer then.
    answer: bool,
    /// The start of the setting that is being passed over, and how much of it has been.
    setting: [u8; SETTING],
    have_setting: usize,
}

impl FrameReader {
    /// Reads on, up to an event or to the end of `bytes`, which afterwards are those that have not been read.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        while !bytes.is_empty() {
            let event = if self.skip > 0 {
                let passed = split_off(bytes, self.skip);
                self.skip -= passed.len();
                if self.settings.is_some() {
                    self.read_settings(passed);
                }
                self.ended()
            } else {
                let taken = split_off(bytes, self.wanted() - self.have);
                self.head[self.have..][..taken.len()].copy_from_slice(taken);
                self.have += taken.len();
                if self.have == self.wanted() { self.head_full() } else { None }
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn is_goaway(&self) -> bool {
        self.head[3] == TYPE_GOAWAY && self.length() >= GOAWAY_PAYLOAD
    }

    fn length(&self) -> usize {
        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2])
    }

    /// How much of `head` the current frame fills.
    fn wanted(&self) -> usize {
        if self.have >= HEADER && self.is_goaway() { HEADER + GOAWAY_PAYLOAD } else { HEADER }
    }

    /// `head` has just become full.
    fn head_full(&mut self) -> Option<Event> {
        if self.have < self.wanted() {
            // It is a GOAWAY.
            return None;
        }
        let [_, _, _, kind, flags, ..] = self.head;
        let [.., a, b, c, d] = self.head;
        self.skip = self.length() + HEADER - self.have;
        self.answer = kind == TYPE_HEADERS && flags & FLAG_END_STREAM != 0;
        self.settings = self.is_settings().then_some(Settings { first: !self.begun, max_streams: None });
        self.have_setting = 0;
        self.begun = true;
        self.have = 0;
        match self.is_goaway() {
            true => Some(Event::GoAway(GoAway { code: u32::from_be_bytes([a, b, c, d]) })),
            false => self.ended(),
        }
    }

    /// SETTINGS on the connection itself, and no acknowledgement of ours.
    fn is_settings(&self) -> bool {
        let [_, _, _, kind, flags, a, b, c, d, ..] = self.head;
        // The highest bit is reserved, and not part of the stream's number.
        kind == TYPE_SETTINGS && flags & FLAG_ACK == 0 && [a & 0x7f, b, c, d] == [0; 4]
    }

    fn read_settings(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = split_off(&mut bytes, SETTING - self.have_setting);
            self.setting[self.have_setting..][..taken.len()].copy_from_slice(taken);
            self.have_setting += taken.len();
            if self.have_setting < SETTING {
                return;
            }
            self.have_setting = 0;
            let [id @ .., a, b, c, d] = self.setting;
            if let (MAX_CONCURRENT_STREAMS, Some(settings)) = (id, &mut self.settings) {
                settings.max_streams = Some(u32::from_be_bytes([a, b, c, d]));
            }
        }
    }

    /// Of the current frame, if that has been passed over.
    fn ended(&mut self) -> Option<Event> {
        if self.skip > 0 {
            return None;
        }
        if std::mem::take(&mut self.answer) {
            return Some(Event::Answer);
        }
        let settings = self.settings.take()?;
        (settings.first || settings.max_streams.is_some()).then_some(Event::Settings(settings))
    }
}

/// Reads the numbers of streams out of what a client writes, behind its preface.
#[derive(Debug)]
struct HeadReader {
    head: [u8; HEADER],
    have: usize,
    /// What is still to be passed over: of the preface, or of the current frame's payload.
    skip: usize,
}

impl Default for HeadReader {
    fn default() -> Self {
        const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
        HeadReader { head: [0; HEADER], have: 0, skip: PREFACE }
    }
}

impl HeadReader {
    /// The highest stream of the HEADERS frames whose own header ends in these bytes. What follows on it belongs to it.
    fn read(&mut self, mut bytes: &[u8]) -> Option<u32> {
        let mut highest = None;
        while !bytes.is_empty() {
            if self.skip > 0 {
                self.skip -= split_off(&mut bytes, self.skip).len();
                continue;
            }
            let taken = split_off(&mut bytes, HEADER - self.have);
            self.head[self.have..][..taken.len()].copy_from_slice(taken);
            self.have += taken.len();
            if self.have == HEADER {
                let [a, b, c, kind, _, stream @ ..] = self.head;
                if kind == TYPE_HEADERS {
                    highest = highest.max(Some(u32::from_be_bytes(stream)));
                }
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
            }
        }
        highest
    }
}

/// The first `most` bytes, or as many as there are.
fn split_off<'b>(bytes: &mut &'b [u8], most: usize) -> &'b [u8] {
    let (first, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    first
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::conn::pace::ANSWERS;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn goaway(code: u32, debug: &[u8]) -> Vec<u8> {
        let mut payload = 7u32.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        payload.extend(debug);
        frame(TYPE_GOAWAY, &payload)
    }

    fn settings(first: bool, max_streams: Option<u32>) -> Event {
        Event::Settings(Settings { first, max_streams })
    }

    fn read_in_pieces_of(piece: usize, bytes: &[u8]) -> Vec<Event> {
        let mut reader = FrameReader::default();
        let mut events = Vec::new();
        for mut bytes in bytes.chunks(piece) {
            events.extend(std::iter::from_fn(|| reader.next(&mut bytes)));
        }
        events
    }

    #[test]
    fn first_settings_and_goaway_are_seen_wherever_the_stream_is_cut() {
        let mut stream = frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 100]);
        stream.extend(frame(TYPE_SETTINGS, &[]));
        stream.extend(frame(0, &[TYPE_GOAWAY; 300]));
        stream.extend(goaway(11, b"too_many_pings"));
        stream.extend(frame(6, &[0; 8]));
        stream.extend(goaway(0, b""));
        stream.extend(frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 9, 0, 4, 0, 1, 0, 0, 0, 3, 0, 0, 0, 7]));
        let expected = [
            settings(true, Some(100)),
            Event::GoAway(GoAway { code: 11 }),
            Event::GoAway(GoAway { code: 0 }),
            settings(false, Some(7)),
        ];
        for piece in 1..=stream.len() {
            assert_eq!(read_in_pieces_of(piece, &stream), expected, "in pieces of {piece}");
        }
    }

    /// All that a tap reads, a piece each time; a new round whenever it says that one is over.
    fn read_through_tap(stream: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let (pace, link) = (Pace::new(), Link::new(0, Weak::new()));
        let mut tap = Tap::new(stream, true, link, Arc::clone(&pace), None);
        pace.begin();
        let mut rounds = vec![Vec::new()];
        for size in sizes.iter().copied().chain(std::iter::repeat(100)) {
            let mut memory = vec![0; size];
            let mut buf = ReadBuf::new(&mut memory);
            match Pin::new(&mut tap).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
                Poll::Ready(result) => {
                    result.unwrap();
                    if size > 0 && buf.filled().is_empty() {
                        break;
                    }
                    rounds.last_mut().unwrap().extend(buf.filled());
                }
                Poll::Pending => {
                    pace.begin();
                    rounds.push(Vec::new());
                }
            }
        }
        rounds
    }

    proptest! {
        #[test]
        fn bytes_come_through_whole_and_in_order_and_each_round_has_its_share_of_answers(
            frames in vec((0..3u8, 0..40usize), 0..120), sizes in vec(0..200usize, 0..100),
        ) {
            let frames = frames.iter().map(|(kind, length)| {
                let mut frame = frame(*kind, &[9; 40][..*length]);
                frame[4] = FLAG_END_STREAM;
                frame
            });
            let stream = frames.collect::<Vec<_>>().concat();
            let rounds = read_through_tap(&stream, &sizes);
            prop_assert_eq!(rounds.concat(), &stream[..]);
            let answers = |bytes: &Vec<u8>| read_in_pieces_of(1, bytes).iter().filter(|event| **event == Event::Answer).count();
            let (last, full) = rounds.split_last().unwrap();
            prop_assert!(full.iter().all(|round| answers(round) == ANSWERS as usize));
            prop_assert!(answers(last) < ANSWERS as usize);
        }
    }

    #[test]
    fn the_heads_that_were_written_are_counted_wherever_the_writes_are_cut() {
        let head =
            |stream: u8| [&[0, 0, 3, TYPE_HEADERS, 4, 0, 0, 0, stream][..], &[TYPE_HEADERS; 3]].concat();
        let stream = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 0]),
            head(1),
            frame(0, &[TYPE_HEADERS; 40]),
            head(3),
            head(7),
            head(1),
        ]
        .concat();
        let behind = |number: usize| stream.len() - number;
        // How much must have been written for each to have left: its frame's header.
        let left = |written: usize| match written {
            _ if written >= behind(3 + 12) => Some(7),
            _ if written >= behind(3 + 12 + 12) => Some(3),
            _ if written >= behind(3 + 12 + 12 + 12 + 49) => Some(1),
            _ => None,
        };
        for piece in 1..=stream.len() {
            let (mut reader, mut last, mut written) = (HeadReader::default(), None, 0);
            for bytes in stream.chunks(piece) {
                last = reader.read(bytes).max(last);
                written += bytes.len();
                assert_eq!(last, left(written), "after {written} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_not_http2_tells_nothing() {
        assert_eq!(read_in_pieces_of(7, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), []);
        let mut late = frame(6, &[0; 8]);
        late.extend(frame(TYPE_SETTINGS, &[]));
        assert_eq!(read_in_pieces_of(5, &late), [], "SETTINGS that are not the first frame");
    }

    #[test]
    fn settings_count_only_when_they_are_whole_and_no_acknowledgement() {
        let whole = frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 100]);
        assert_eq!(read_in_pieces_of(1, &whole[..whole.len() - 1]), []);
        assert_eq!(read_in_pieces_of(1, &whole), [settings(true, Some(100))]);
        assert_eq!(read_in_pieces_of(1, &frame(TYPE_SETTINGS, &[])), [settings(true, None)]);
        let mut ack = frame(TYPE_SETTINGS, &[]);
        ack[4] = FLAG_ACK;
        ack.extend(frame(TYPE_SETTINGS, &[]));
        assert_eq!(read_in_pieces_of(3, &ack), []);
    }

    #[test]
    fn a_goaway_too_short_for_its_code_tells_nothing_and_costs_no_sync() {
        let mut stream = frame(TYPE_GOAWAY, &[0; 3]);
        stream.extend(goaway(2, b""));
        assert_eq!(read_in_pieces_of(4, &stream), [Event::GoAway(GoAway { code: 2 })]);
    }
}
