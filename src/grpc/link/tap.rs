//! The tap: between hyper and the socket (above TLS), it reads along. It implements [`AsyncRead`] and [`AsyncWrite`], no more.
//!
//! hyper reports when its own preface is written, not when the server has answered, and says nothing of a GOAWAY
//! while streams are open. Both are plain to see in the headers of the frames that come in, so the tap looks for two of them:
//! SETTINGS, the first of which makes the connection Ready and any of which may say how many streams it carries, and GOAWAY.
//!
//! It counts the ends of answers, too, and keeps to what the [`ReadBudget`] allows: what came behind the last of them is hyper's
//! in the next round. And of what goes out it counts the heads of requests, so that a call that breaks off can know whether
//! its own has left.
//!
//! The tap also is the one place that can end a socket whatever hyper is waiting for: [`Link::kill`] makes
//! each read and write fail from then on, hyper gives up the connection, and the socket closes.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Event, FrameReader, HeadReader};
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
    /// Read off the socket, and not yet by `frames` and hyper.
    held: BytesMut,
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

/// Reads up to the end of what is hyper's in this round; how much that is.
fn on_bytes(frames: &mut FrameReader, bytes: &[u8], link: &Link, budget: &ReadBudget) -> usize {
    let mut rest = bytes;
    while let Some(event) = frames.next(&mut rest) {
        match event {
            Event::Settings(settings) => link.on_settings(settings),
            Event::GoAway(goaway) => link.on_goaway(goaway),
            Event::Answer if budget.answer().is_break() => break,
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
            if self.budget.is_limited() {
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
        if this.budget.is_over() {
            // The next one is due.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.held.is_empty() {
            let room = this.held.len().min(buf.remaining());
            let read = on_bytes(&mut this.frames, &this.held[..room], &this.link, &this.budget);
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
        let read = on_bytes(&mut this.frames, new, link, &this.budget);
        if read < new.len() {
            this.held.extend_from_slice(&new[read..]);
            buf.set_filled(before + read);
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
        self.write(cx, |io, cx| io.poll_flush(cx))
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
    fn read_through_tap(stream: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let (budget, link) = (ReadBudget::new(), Link::new(0, crate::grpc::link::nobody()));
        let mut tap = Tap::new(stream, true, link, Arc::clone(&budget), None);
        budget.begin();
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
                    budget.begin();
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
}
