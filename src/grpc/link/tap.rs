//! The tap: between hyper and the socket (above TLS), it reads along. It implements [`AsyncRead`] and [`AsyncWrite`], no more.
//!
//! hyper reports when its own preface is written, not when the server has answered, and reports no GOAWAY
//! while streams are open. Both are plain to see in the headers of the frames that come in, so the tap looks for two of them:
//! SETTINGS, the first of which makes the connection Ready and any of which may say how many streams it carries, and GOAWAY.
//!
//! It drops DATA frames that are empty and do not end their stream. They are legal and mean nothing, and some proxies send one
//! with each answer; h2 closes a connection on which it has seen 100 of them, however long that took.
//!
//! It counts the ends of answers, too, and keeps to what the [`ReadBudget`] allows: what came behind the last of them is passed
//! to hyper in the next round. And of what goes out it counts the heads of requests, so that a call that breaks off can know
//! whether its own has left.
//!
//! The tap also is the one place that can end a socket whatever hyper is waiting for: [`Link::kill`] makes
//! each read and write fail from then on, hyper gives up the connection, and the socket closes.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Event, FrameReader, HEADER, HeadReader};
use super::read_budget::ReadBudget;
use super::{Link, copy};
use crate::primitive::Arc;

/// A connected stream, whatever it is made of.
pub(in crate::grpc) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(in crate::grpc) type BoxedIo = Box<dyn Io>;

/// What is dropped with the socket: it counts the socket among its pool's open ones.
pub(in crate::grpc) type WhileOpen = Box<dyn Any + Send + Sync>;

/// A socket with a [`Link`]; what hyper reads and writes.
pub(crate) struct Tap<Io> {
    io: Io,
    frames: FrameReader,
    heads: HeadReader,
    /// Bytes off the socket that neither `frames` nor hyper has read. Less than a header only if its rest has not arrived.
    held: BytesMut,
    /// Bytes that `frames` has read, and hyper had no room for.
    passed: BytesMut,
    link: Arc<Link>,
    budget: Arc<ReadBudget>,
    /// What a write failed with.
    failure: Option<io::Error>,
    /// Whether `io` is the system's own socket: a write that fails has written nothing.
    io_is_system: bool,
    /// Counts this socket among its pool's open ones.
    _open: Option<WhileOpen>,
}

impl<Io> Tap<Io> {
    pub(in crate::grpc) fn new(
        io: Io,
        io_is_system: bool,
        link: Arc<Link>,
        budget: Arc<ReadBudget>,
        open: Option<WhileOpen>,
    ) -> Self {
        Tap {
            io,
            frames: FrameReader::default(),
            heads: HeadReader::default(),
            held: BytesMut::new(),
            passed: BytesMut::new(),
            link,
            budget,
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

/// What a stretch of bytes has for hyper in this round.
struct Stretch {
    /// So many bytes have been read; the rest is for later.
    read: usize,
    /// Where in them a header begins that hyper is not to see.
    dropped: Vec<usize>,
}

/// Reads up to the end of this round's bytes. A header that is cut is not read: whether hyper is to see it is not known yet.
fn on_bytes(frames: &mut FrameReader, bytes: &[u8], link: &Link, budget: &ReadBudget) -> Stretch {
    let mut rest = bytes;
    let mut dropped = Vec::new();
    while let Some(event) = frames.next(&mut rest) {
        match event {
            Event::Settings(settings) => link.on_settings(settings),
            Event::GoAway(goaway) => link.on_goaway(goaway),
            Event::EmptyData => dropped.push(bytes.len() - rest.len() - HEADER),
            Event::Answer if budget.answer().is_break() => break,
            Event::Answer => {}
        }
    }
    Stretch { read: bytes.len() - rest.len() - frames.take_back(), dropped }
}

impl Stretch {
    /// The parts of the bytes that are hyper's.
    fn parts(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let ends = self.dropped.iter().copied().chain([self.read]);
        let starts = [0].into_iter().chain(self.dropped.iter().map(|at| at + HEADER));
        starts.zip(ends).map(|(start, end)| start..end)
    }

    /// Moves them to the beginning of `bytes`; returns how many they are.
    fn compact(&self, bytes: &mut [u8]) -> usize {
        if self.dropped.is_empty() {
            return self.read;
        }
        self.parts().fold(0, |to, part| {
            let length = part.len();
            bytes.copy_within(part, to);
            to + length
        })
    }
}

impl<Io: AsyncRead + Unpin> Tap<Io> {
    /// Passes on what is held; returns false if that is a header that is cut.
    fn pass_held(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        // At least a header's length, of which hyper may not have room for all.
        let some = self.held.len().min(buf.remaining().max(HEADER));
        let stretch = on_bytes(&mut self.frames, &self.held[..some], &self.link, &self.budget);
        for part in stretch.parts() {
            let part = &self.held[part];
            let (now, later) = part.split_at(part.len().min(buf.remaining()));
            buf.put_slice(now);
            self.passed.extend_from_slice(later);
        }
        self.held.advance(stretch.read);
        if self.held.is_empty() {
            // Its memory is for bursts.
            self.held = BytesMut::new();
        }
        stretch.read > 0
    }

    /// Reads the rest of a header that is held in part. `Ready(false)`: there is none.
    fn poll_rest_of_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut rest = [0; HEADER];
        let mut rest = ReadBuf::new(&mut rest[self.held.len()..]);
        ready!(self.poll_socket(cx, &mut rest))?;
        self.held.extend_from_slice(rest.filled());
        Poll::Ready(Ok(!rest.filled().is_empty()))
    }

    /// Reads off the socket, and reports its end.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => {}
            Ok(()) => {
                let end = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                self.link.on_end(end);
            }
            Err(error) => {
                self.link.on_end(copy(&error));
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> Tap<Io> {
    /// Writes, unless a write has failed. The first failure is reported when all has been read.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check(cx)?;
        if let Some(failure) = &self.failure {
            if self.budget.is_limited() {
                // Still the round in which it failed.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Err(copy(failure)));
        }
        if !self.link.begin_write() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the server ended the connection",
            )));
        }
        let error = match ready!(write(Pin::new(&mut self.io), cx)) {
            Ok(done) => return Poll::Ready(Ok(done)),
            Err(error) => error,
        };
        let _ = self.link.end.set(copy(&error));
        if !self.budget.lift() {
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
        self.link.end_write();
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
        let before = buf.filled().len();
        // Until there is something for hyper, or the end: a read without a byte would be taken for that.
        while buf.remaining() > 0 && buf.filled().len() == before {
            if !this.passed.is_empty() {
                buf.put_slice(&this.passed.split_to(this.passed.len().min(buf.remaining())));
            } else if this.budget.is_over() {
                // The next one is due.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            } else if this.held.is_empty() {
                ready!(this.poll_socket(cx, buf))?;
                let new = &mut buf.filled_mut()[before..];
                if new.is_empty() {
                    break;
                }
                let stretch = on_bytes(&mut this.frames, new, &this.link, &this.budget);
                this.held.extend_from_slice(&new[stretch.read..]);
                let length = stretch.compact(new);
                buf.set_filled(before + length);
            } else if !this.pass_held(buf) && !ready!(this.poll_rest_of_header(cx))? {
                // The socket ended in the middle of a header.
                std::mem::swap(&mut this.held, &mut this.passed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Tap<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.budget.keeps_back(buf.len()) {
            // Without a waker: see `ReadBudget::cork`.
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
        if self.budget.keeps_back(bufs.iter().map(|buf| buf.len()).sum()) {
            return Poll::Pending;
        }
        let result = self.write(cx, |io, cx| io.poll_write_vectored(cx, bufs));
        self.on_write(bufs.iter().map(|buf| &**buf), result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.write(cx, |io, cx| io.poll_flush(cx));
        self.link.end_write();
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::link::frames::FLAG_END_STREAM;
    use crate::grpc::link::frames::tests::{frame, read_in_pieces_of};
    use crate::grpc::link::read_budget::ANSWERS;

    /// All that a tap reads, a piece each time; a new round whenever it says that one is over.
    fn read_through_tap(stream: &[u8], pieces: Vec<usize>, sizes: &[usize]) -> Vec<Vec<u8>> {
        let stream = InPieces(stream, pieces, 0);
        let (budget, link) = (ReadBudget::new(), Link::new(0, crate::grpc::link::nobody()));
        let mut tap = Tap::new(stream, true, link, Arc::clone(&budget), None);
        budget.begin(usize::MAX);
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
                    budget.begin(usize::MAX);
                    rounds.push(Vec::new());
                }
            }
        }
        rounds
    }

    /// Records what it is notified of.
    struct Records(crate::primitive::Mutex<Vec<String>>);

    impl crate::grpc::link::Observer for Records {
        fn link_down(&self, _: u64, why: &str) {
            self.0.lock().push(why.to_owned());
        }

        fn too_many_pings(&self) {
            self.0.lock().push("pings".to_owned());
        }

        fn limit_changed(&self) {
            self.0.lock().push("limit".to_owned());
        }
    }

    #[test]
    fn what_the_tap_finds_moves_the_link_at_once_and_is_reported_only_when_it_is_delivered() {
        let observer = Arc::new(Records(crate::primitive::Mutex::new(Vec::new())));
        let weak = Arc::downgrade(&observer) as crate::primitive::Weak<dyn crate::grpc::link::Observer>;
        let link = Link::new(0, weak);
        let goaway = [&[0, 0, 0, 0, 0, 0, 0, 11][..], b"too_many_pings"].concat();
        let stream = [frame(4, &[]), frame(4, &[0, 3, 0, 0, 0, 7]), frame(7, &goaway)].concat();
        let mut tap = Tap::new(&stream[..], true, Arc::clone(&link), ReadBudget::new(), None);
        let mut memory = [0; 200];
        let mut buf = ReadBuf::new(&mut memory);
        let read = Pin::new(&mut tap).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        assert!(read.is_ready());
        assert_eq!((link.phase(), link.limit()), (crate::grpc::link::LinkPhase::Draining, 7));
        assert!(observer.0.lock().is_empty(), "hyper's poll is not over");
        link.deliver();
        let why = r#"the server sent GOAWAY (ENHANCE_YOUR_CALM): "too_many_pings""#;
        assert_eq!(*observer.0.lock(), ["limit", "pings", why]);
        link.deliver();
        assert_eq!(observer.0.lock().len(), 3, "once");
    }

    /// Gives at most so many bytes at a time, and now and then none yet.
    struct InPieces<'a>(&'a [u8], Vec<usize>, usize);

    impl AsyncRead for InPieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.2 += 1;
            let size = self.1.get(self.2).copied().unwrap_or(100);
            if size == 0 {
                return Poll::Pending;
            }
            let (now, rest) = self.0.split_at(size.min(self.0.len()).min(buf.remaining()));
            buf.put_slice(now);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn bytes_come_through_whole_and_in_order_and_each_round_has_its_share_of_answers(
            frames in vec((0..3u8, 0..40usize), 0..120),
            pieces in vec(1..200usize, 0..100),
            sizes in vec(0..200usize, 0..100),
        ) {
            let frames = frames.iter().map(|(kind, length)| {
                let mut frame = frame(*kind, &[9; 40][..*length]);
                frame[4] = FLAG_END_STREAM;
                frame
            });
            let stream = frames.collect::<Vec<_>>().concat();
            let rounds = read_through_tap(&stream, pieces, &sizes);
            prop_assert_eq!(rounds.concat(), &stream[..]);
            let answers = |bytes: &Vec<u8>| read_in_pieces_of(1, bytes).iter().filter(|event| **event == Event::Answer).count();
            let (last, full) = rounds.split_last().unwrap();
            prop_assert!(full.iter().all(|round| answers(round) == ANSWERS as usize));
            prop_assert!(answers(last) < ANSWERS as usize);
        }

        #[test]
        fn empty_data_frames_are_dropped_wherever_reads_are_cut_and_all_else_comes_through(
            frames in vec(prop_oneof![
                2 => Just(frame(0, b"")),
                1 => (0..3u8, 0..20usize).prop_map(|(kind, length)| frame(kind, &[0; 20][..length])),
            ], 0..60),
            missing in 0..12usize,
            pieces in prop_oneof![vec(0..4usize, 0..400), vec(0..40usize, 0..40)],
            sizes in prop_oneof![vec(0..4usize, 0..400), vec(0..40usize, 0..40)],
        ) {
            let stream = frames.concat();
            let stream = &stream[..stream.len().saturating_sub(missing)];
            let (mut left, mut at) = (Vec::<u8>::new(), 0);
            for frame in &frames {
                let end = stream.len().min(at + frame.len());
                if at + frame.len() > stream.len() || frame[..4] != [0; 4] {
                    left.extend(&stream[at.min(end)..end]);
                }
                at += frame.len();
            }
            prop_assert_eq!(read_through_tap(stream, pieces, &sizes).concat(), left);
        }
    }
}
