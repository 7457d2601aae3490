//! The body of a request, which can be sent again, and ends when its call does.
//!
//! *Sent again*: the server may say that it has not processed a request (it refused the stream, or sent a GOAWAY that
//! does not cover it), when a part of the body has been sent already. So the frames are kept as they go out, as long as they are
//! small enough, and until the response begins. hyper gets a [`RequestBody`], a handle for one attempt; the body itself stays in
//! the [`CallBody`] that all attempts share.
//!
//! *Left or not*: when the connection ends, or the server sends GOAWAY, hyper drops requests that it has taken and not sent, without a
//! word. HTTP/2 numbers the streams of a connection in the order in which their requests were begun, and their heads leave in
//! that order. hyper asks each body once, just before it begins the stream, whether it is empty: so an attempt
//! [knows](RequestBody::is_end_stream) its stream's number, and with the highest number of a head that was written
//! ([`Link::head_left`]) whether any of it has left. Of a body that was never asked for no message has, whatever became of the
//! head.
//!
//! *Withdrawn*: a request whose driver is not polled can be taken back, as long as hyper has not begun its stream. hyper
//! passes over requests whose callers are gone. Should it come to begin the stream at that very moment, the link is
//! [sealed](Link::seal): nothing of the request leaves.
//!
//! *Known to be the last*: a body does not say that it is over before it is asked once more. So it is asked for its second frame
//! along with the first, and a unary call's one message ends its stream itself, without an empty frame behind it.
//!
//! *Hedged*: the attempts of a hedged call run beside each other. Each has a [`CallBody`] of its own, and they share a [`Source`],
//! from which each reads at its own position. When the source no longer keeps what it has read, only the attempt that has
//! read the most can go on, and the others are [left behind](CallBody::is_left_behind).
//!
//! *Fails*: what a body fails with hyper keeps to itself, and the caller would hear of a stream that was reset. So it is
//! [kept](CallBody::failure) for the caller.
//!
//! *Ends*: hyper goes on sending a request's stream after the caller has dropped the response: for HTTP that is right, for a
//! gRPC call it is not, which is over when its response is. So an attempt that is [over](CallBody::end_attempt) has a
//! body that fails with CANCEL, unless it has ended, and hyper resets the stream with that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use super::{Link, LinkPhase};
use crate::grpc::retry::budget::Share;
use crate::primitive::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::primitive::{Arc, Mutex, MutexGuard};

/// What the attempts of one call share, as far as they follow one another.
#[derive(Debug)]
pub(in crate::grpc) struct CallBody {
    /// The attempt that may send; the handles of others fail.
    attempt: AtomicU32,
    /// The number of that attempt's stream; 0 until hyper begins it.
    stream: AtomicU32,
    /// Whether hyper has asked for a frame of that attempt.
    asked: AtomicBool,
    /// Attempts below this were taken back, and hyper may yet come to begin one.
    withdrawn: AtomicU32,
    /// The task that sends the body.
    sender: AtomicWaker,
    /// Whether the source no longer has what the attempt would have to send next.
    left_behind: AtomicBool,
    source: Held,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one, in an `Arc` already")]
enum Held {
    Own(Mutex<Source>),
    /// The attempts of a hedged call share it.
    Shared(Arc<Mutex<Source>>),
}

/// A request's body, for the attempts of a hedged call.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct SharedBody(Arc<Mutex<Source>>);

impl SharedBody {
    pub(in crate::grpc) fn new(body: Body, limit: usize, share: Share) -> Self {
        let mut source = Source::new(body, limit, Some(share));
        source.sleepers = Some(Arc::new(Sleepers(Mutex::new(Vec::new()))));
        SharedBody(Arc::new(Mutex::new(source)))
    }

    /// For one more attempt; `None` if the body's beginning is lost.
    pub(in crate::grpc) fn attempt(&self) -> Option<(Arc<CallBody>, RequestBody)> {
        self.0.lock().sent.as_ref()?;
        Some(CallBody::on(Held::Shared(Arc::clone(&self.0))))
    }
}

/// The tasks that wait for the next frame of a body: one of each attempt.
#[derive(Debug)]
struct Sleepers(Mutex<Vec<Waker>>);

impl Sleepers {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.0.lock();
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Sleepers {
    fn wake(self: Arc<Self>) {
        // Not under the lock: they are foreign code.
        let wakers = std::mem::take(&mut *self.0.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Only the attempts of one call come to its lock, one at a time but for the moment in which one takes over, or those of a hedged
/// call; so it may be held while the body, which is the user's code, is polled.
#[derive(Debug)]
struct Source {
    body: Body,
    /// How many frames have come out of `body`, `second` not counted.
    taken: usize,
    /// Of a body that is shared by attempts beside each other.
    sleepers: Option<Arc<Sleepers>>,
    ended: bool,
    /// The body's second frame, when it was there with the first.
    second: Option<Result<Frame<Bytes>, tonic::Status>>,
    /// What has been sent, from the beginning; `None` when that is no longer known.
    sent: Option<Sent>,
    /// Bytes that may be kept yet.
    room: usize,
    /// Of the pool's memory for what is kept; `None` if it is not counted there.
    share: Option<Share>,
    /// What the body failed with.
    failure: Option<tonic::Status>,
}

/// Frames; a unary call, which has one, allocates nothing for them.
#[derive(Debug, Default)]
struct Sent {
    first: Option<Bytes>,
    more: Vec<Bytes>,
}

impl Sent {
    fn get(&self, position: usize) -> Option<&Bytes> {
        position.checked_sub(1).map_or(self.first.as_ref(), |position| self.more.get(position))
    }

    fn push(&mut self, data: Bytes) {
        match self.first {
            None => self.first = Some(data),
            Some(_) => self.more.push(data),
        }
    }
}

/// A body for one attempt.
#[derive(Debug)]
pub(in crate::grpc) struct RequestBody {
    call: Arc<CallBody>,
    attempt: u32,
    /// Where it goes, for the number of its stream.
    link: Option<Arc<Link>>,
    /// Whether hyper has begun its stream.
    numbered: AtomicBool,
    /// Whether hyper has asked for a frame.
    begun: bool,
    /// Frames that this attempt has sent.
    position: usize,
}

/// One attempt of a call.
#[derive(Debug)]
pub(super) struct Attempt {
    call: Arc<CallBody>,
    number: u32,
}

impl Attempt {
    /// Whether it is over. Else its end wakes `waker`, which is the one that sends the body.
    pub(super) fn is_over(&self, waker: &Waker) -> bool {
        self.call.sender.register(waker);
        self.call.attempt.load(Ordering::Acquire) != self.number
    }
}

impl CallBody {
    /// With the first attempt. Keeps up to `limit` bytes for another, as far as its share of the pool's memory can grow.
    pub(in crate::grpc) fn new(body: Body, limit: usize, share: Option<Share>) -> (Arc<Self>, RequestBody) {
        Self::on(Held::Own(Mutex::new(Source::new(body, limit, share))))
    }

    fn on(source: Held) -> (Arc<Self>, RequestBody) {
        let call = Arc::new(CallBody {
            attempt: AtomicU32::new(0),
            stream: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            withdrawn: AtomicU32::new(0),
            sender: AtomicWaker::new(),
            left_behind: AtomicBool::new(false),
            source,
        });
        let first = RequestBody::new(Arc::clone(&call), 0);
        (call, first)
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        match &self.source {
            Held::Own(source) => source.lock(),
            Held::Shared(source) => source.lock(),
        }
    }

    /// Whether the attempt broke off because another one of the same call has read on, and the body is too large to be kept.
    pub(in crate::grpc) fn is_left_behind(&self) -> bool {
        // Relaxed: it was written by the task that reset the stream, and the caller has learned of the reset.
        self.left_behind.load(Ordering::Relaxed)
    }

    /// The body from its beginning, for the attempt that is on; `None` if the beginning is lost.
    pub(in crate::grpc) fn begin_attempt(self: &Arc<Self>) -> Option<RequestBody> {
        self.source().sent.as_ref()?;
        let attempt = self.attempt.load(Ordering::Acquire);
        // Relaxed: hyper gets the attempt after this, by way of a channel.
        self.stream.store(0, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        Some(RequestBody::new(Arc::clone(self), attempt))
    }

    /// Whether no server can have begun with the attempt, which was on this link and which hyper has given up.
    pub(in crate::grpc) fn has_not_left(&self, link: &Link) -> bool {
        // Relaxed: both were written by the task that gave the attempt up, and said so by way of a channel.
        let stream = self.stream.load(Ordering::Relaxed);
        if stream == 0 {
            return true;
        }
        let head_left = link.head_left() >= stream;
        if head_left && self.asked.load(Ordering::Relaxed) {
            // A message may have left, too.
            return false;
        }
        // h2 may have both in its buffer, and writes that before it closes, or as long as other calls go on.
        if link.phase() >= LinkPhase::Ended && link.seal(stream) {
            return true;
        }
        // No message has left, nor will one: hyper has not asked for it. But as long as the socket is there h2 may yet open the
        // stream, only to reset it: so a head may leave, or has. What handles a single message begins with that.
        !self.asked.load(Ordering::Relaxed) && self.source().is_one_message()
    }

    /// Whether hyper has begun the stream of the attempt.
    pub(in crate::grpc) fn has_stream(&self) -> bool {
        self.stream.load(Ordering::Relaxed) != 0
    }

    /// Takes the attempt back; false if hyper has begun its stream. What is returned by hyper after that is to be dropped.
    pub(in crate::grpc) fn withdraw(&self) -> bool {
        // The lock under which hyper asks, and numbers the stream: either it comes first, or it finds the attempt over.
        let source = self.source();
        let is_early = !self.has_stream();
        if is_early {
            self.withdrawn.store(self.attempt.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.end_attempt();
        }
        drop(source);
        is_early
    }

    /// Cancels what the attempt is still sending.
    pub(in crate::grpc) fn end_attempt(&self) {
        // Release: pairs with the Acquire of a task that is about to sleep; nothing but the number is passed on.
        self.attempt.fetch_add(1, Ordering::Release);
        self.sender.wake();
    }

    /// What the body failed with, of which HTTP/2 knows only that it broke off.
    pub(in crate::grpc) fn failure(&self) -> Option<tonic::Status> {
        self.source().failure.clone()
    }

    /// The response has begun: nothing will be sent again.
    pub(in crate::grpc) fn settle(&self) {
        let mut source = self.source();
        let forgotten = (source.sent.take(), source.share.take());
        drop(source);
        drop(forgotten);
    }
}

impl Source {
    fn new(body: Body, limit: usize, share: Option<Share>) -> Self {
        Source {
            body,
            taken: 0,
            sleepers: None,
            ended: false,
            second: None,
            sent: Some(Sent::default()),
            room: limit,
            share,
            failure: None,
        }
    }

    /// Whether the frame at `position` has been read, and is not kept.
    fn has_lost(&self, position: usize) -> bool {
        position < self.taken && self.sent.is_none()
    }

    /// The frame at `position`, either one that is known or the body's next.
    fn poll_frame(
        &mut self,
        position: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if let Some(data) = self.sent.as_ref().and_then(|sent| sent.get(position)) {
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let frame = match self.second.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_body(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.taken += 1;
                self.keep(frame.data_ref());
            }
            Poll::Ready(Some(Err(failure))) => {
                self.forget();
                self.failure = Some(failure.clone());
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        if position == 0
            && let Poll::Ready(Some(Ok(_))) = frame
            && let Poll::Ready(second) = self.poll_body(cx)
        {
            self.second = second;
        }
        frame
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let body = Pin::new(&mut self.body);
        let waker = self.sleepers.as_ref().map(|sleepers| {
            sleepers.add(cx.waker());
            Waker::from(Arc::clone(sleepers))
        });
        let cx = &mut Context::from_waker(waker.as_ref().unwrap_or(cx.waker()));
        // A panic in a task of hyper's would leave the caller waiting for a response to half a request.
        let frame = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))).unwrap_or_else(|_| {
            let status = tonic::Status::internal("the stream of the request's messages panicked");
            Poll::Ready(Some(Err(status)))
        });
        self.ended = matches!(frame, Poll::Ready(None | Some(Err(_))));
        if let (Some(waker), true) = (waker, frame.is_ready()) {
            // The body need not wake those that it did not give the frame to.
            waker.wake();
        }
        frame
    }

    fn keep(&mut self, data: Option<&Bytes>) {
        let Some(sent) = &mut self.sent else { return };
        match data {
            Some(data)
                if data.len() <= self.room
                    && self.share.as_mut().is_none_or(|share| share.grow(data.len())) =>
            {
                self.room -= data.len();
                sent.push(data.clone());
            }
            // Too large, or trailers, which no gRPC client sends.
            _ => self.forget(),
        }
    }

    /// Nothing of it will be sent again.
    fn forget(&mut self) {
        self.sent = None;
        self.share = None;
    }

    /// Whether the body is one message, and that is known already.
    fn is_one_message(&mut self) -> bool {
        let first = self.poll_frame(0, &mut Context::from_waker(Waker::noop()));
        matches!(first, Poll::Ready(Some(Ok(_)))) && self.is_at_end(1)
    }

    fn is_at_end(&self, position: usize) -> bool {
        self.sent.as_ref().is_none_or(|sent| sent.get(position).is_none())
            && !self.has_lost(position)
            && self.second.is_none()
            && (self.ended || self.body.is_end_stream())
    }
}

impl RequestBody {
    fn new(call: Arc<CallBody>, attempt: u32) -> Self {
        RequestBody { call, attempt, link: None, numbered: AtomicBool::new(false), begun: false, position: 0 }
    }

    /// To be called before hyper gets it.
    pub(in crate::grpc) fn goes_on(&mut self, link: &Arc<Link>) {
        link.expect_request();
        self.link = Some(Arc::clone(link));
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true)
            && let Some(link) = &self.link
        {
            link.request_begun();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.begin();
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.begin();
        let call = Arc::clone(&self.call);
        let is_over = || call.attempt.load(Ordering::Acquire) != self.attempt;
        let cancelled = || Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        let mut source = call.source();
        // Under the lock: the next attempt's frames are not this one's.
        if is_over() {
            if !source.is_at_end(self.position) {
                return cancelled();
            }
        } else {
            call.asked.store(true, Ordering::Relaxed);
        }
        if source.has_lost(self.position) {
            call.left_behind.store(true, Ordering::Relaxed);
            return cancelled();
        }
        if let Poll::Ready(frame) = source.poll_frame(self.position, cx) {
            self.position += 1;
            // The server gets the same reset as for any call that is given up.
            return frame.map_or(Poll::Ready(None), |frame| {
                frame.map_or_else(|_| cancelled(), |frame| Poll::Ready(Some(Ok(frame))))
            });
        }
        drop(source);
        // Registered before the look: an end in between wakes us.
        call.sender.register(cx.waker());
        if is_over() { cancelled() } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        let source = self.call.source();
        // The first time that hyper asks. Relaxed: nobody else asks.
        if let Some(link) = &self.link
            && !self.numbered.swap(true, Ordering::Relaxed)
        {
            let number = link.next_stream();
            link.begins(Attempt { call: Arc::clone(&self.call), number: self.attempt });
            // Under the lock, as above.
            if self.call.attempt.load(Ordering::Acquire) == self.attempt {
                self.call.stream.store(number, Ordering::Relaxed);
            } else if self.attempt < self.call.withdrawn.load(Ordering::Relaxed) {
                // This is the task that writes: nothing of the stream has left, and the call is on its way elsewhere.
                link.seal(number);
            }
        }
        source.is_at_end(self.position)
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.call.source();
        match self.position {
            0 if self.attempt == 0 && source.taken == 0 => source.body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{BodyExt, StreamBody};
    use tokio_stream::iter;

    use super::*;

    fn call_of(frames: &'static [&'static [u8]], limit: usize) -> (Arc<CallBody>, RequestBody) {
        let frames = frames.iter().map(|data| Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(data))));
        CallBody::new(Body::new(StreamBody::new(iter(frames))), limit, None)
    }

    async fn next(body: &mut RequestBody) -> Option<Result<Bytes, String>> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.to_string()))
    }

    async fn all(body: RequestBody) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn another_attempt_sends_what_was_sent_and_what_was_not() {
        let (call, mut first) = call_of(&[b"one, ", b"two, ", b"three"], 100);
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "one, ");
        call.end_attempt();
        let mut second = call.begin_attempt().unwrap();
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "one, ");
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "two, ");
        assert!(next(&mut first).await.unwrap().is_err(), "it takes nothing from the second");
        call.end_attempt();
        assert_eq!(all(call.begin_attempt().unwrap()).await, "one, two, three");
        call.end_attempt();
        assert_eq!(all(call.begin_attempt().unwrap()).await, "one, two, three", "also what has ended");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_beginning_is_lost_and_the_attempt_goes_on() {
        let (call, mut first) = call_of(&[b"1234", b"5678", b"9"], 8);
        next(&mut first).await;
        next(&mut first).await;
        assert!(call.begin_attempt().is_some());
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "9");
        assert!(call.begin_attempt().is_none());
        assert!(next(&mut first).await.is_none());
    }

    #[tokio::test]
    async fn a_single_frame_is_known_to_be_the_last_when_it_is_handed_out() {
        let (call, mut body) = call_of(&[b"1"], 10);
        assert!(!body.is_end_stream());
        next(&mut body).await;
        assert!(body.is_end_stream());
        call.end_attempt();
        let mut again = call.begin_attempt().unwrap();
        next(&mut again).await;
        assert!(again.is_end_stream());
    }

    #[tokio::test]
    async fn what_comes_behind_the_first_frame_is_neither_lost_nor_early() {
        let (later, frames) = tokio::sync::mpsc::unbounded_channel();
        let frame = |data: &'static [u8]| Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(data)));
        later.send(frame(b"1")).unwrap();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(frames);
        let (_, mut body) = CallBody::new(Body::new(StreamBody::new(frames)), 10, None);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "1", "not held up by what follows");
        assert!(!body.is_end_stream());
        later.send(frame(b"2")).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "2");

        let failing =
            iter([Ok(Frame::data(Bytes::from("1"))), Err(tonic::Status::aborted("the source broke"))]);
        let (call, mut body) = CallBody::new(Body::new(StreamBody::new(failing)), 10, None);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "1");
        assert!(!body.is_end_stream(), "an error is to come");
        assert!(next(&mut body).await.unwrap().is_err());
        assert_eq!(call.failure().unwrap().message(), "the source broke");
    }

    #[tokio::test]
    async fn an_attempt_that_was_withdrawn_leaves_nothing_on_its_link_and_the_next_one_is_not_disturbed() {
        let links = [0, 1].map(|id| Link::new(id, crate::grpc::link::nobody()));
        let (call, mut first) = call_of(&[b"1"], 10);
        first.goes_on(&links[0]);
        assert!(call.withdraw());
        let mut second = call.begin_attempt().unwrap();
        second.goes_on(&links[1]);
        // hyper did not hear of it in time.
        assert!(!first.is_end_stream());
        assert!(!links[0].begin_write(), "the head would leave");
        assert!(next(&mut first).await.unwrap().is_err());

        assert!(!second.is_end_stream());
        assert!(!call.withdraw(), "it may leave at any time");
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "1");
        // A call that is dropped before hyper has begun it seals nothing.
        let (other, mut first) = call_of(&[b"1"], 10);
        first.goes_on(&links[1]);
        other.end_attempt();
        assert!(!first.is_end_stream());
        assert!(links[1].begin_write());
    }

    #[tokio::test]
    async fn with_a_limit_of_nothing_a_body_that_was_not_begun_can_be_sent_again() {
        let (call, first) = call_of(&[b"1"], 0);
        drop(first);
        call.end_attempt();
        let mut second = call.begin_attempt().unwrap();
        next(&mut second).await;
        assert!(call.begin_attempt().is_none());
    }

    #[tokio::test]
    async fn an_attempt_knows_the_number_of_its_stream_from_when_hyper_begins_it() {
        let link = Link::new(0, crate::grpc::link::nobody());
        let number = |call: &CallBody| call.stream.load(Ordering::Relaxed);
        let (one, mut first) = call_of(&[b"1"], 10);
        let (other, mut second) = call_of(&[b"1"], 10);
        first.goes_on(&link);
        second.goes_on(&link);
        assert!(one.has_not_left(&link), "not begun");
        assert!(!second.is_end_stream());
        assert!(!first.is_end_stream());
        assert!(!first.is_end_stream());
        assert_eq!((number(&other), number(&one)), (1, 3));
        next(&mut first).await;
        assert!(first.is_end_stream());
        assert_eq!(number(&one), 3, "asked again, at its end");
        one.end_attempt();
        let mut again = one.begin_attempt().unwrap();
        assert_eq!(number(&one), 0);
        again.goes_on(&link);
        first.is_end_stream();
        assert_eq!(number(&one), 0, "the first has no say any more");
        again.is_end_stream();
        assert_eq!(number(&one), 5);
        assert!(one.has_not_left(&link), "no head has been written");

        // A head that may leave yet is enough for some servers to begin with a stream of messages.
        let (many, mut body) = call_of(&[b"1", b"2"], 10);
        body.goes_on(&link);
        assert!(many.has_not_left(&link));
        body.is_end_stream();
        assert!(!many.has_not_left(&link));
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "1", "the look took nothing");
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "2");

        // A head that has left is not, for one message that has not.
        let (single, mut body) = call_of(&[b"1"], 10);
        body.goes_on(&link);
        body.is_end_stream();
        link.wrote_head(number(&single));
        assert!(single.has_not_left(&link));
        next(&mut body).await;
        assert!(!single.has_not_left(&link));
    }

    #[tokio::test]
    async fn an_attempt_that_has_sent_all_ends_well_also_when_it_is_over() {
        let (call, mut body) = call_of(&[b"1"], 10);
        next(&mut body).await;
        assert!(next(&mut body).await.is_none());
        call.settle();
        call.end_attempt();
        assert!(next(&mut body).await.is_none());
        assert!(call.begin_attempt().is_none(), "the response has begun");
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn an_attempt_that_waits_for_a_frame_is_woken_when_another_one_gets_it() {
        // A body that wakes nobody: it owes that to its last poll alone, which found the frame.
        let mut polls = 0;
        let frames = futures_util::stream::poll_fn(move |_| {
            polls += 1;
            match polls {
                2 => Poll::Ready(Some(Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(b"1"))))),
                _ => Poll::Pending,
            }
        });
        let share = Share::new(crate::grpc::retry::budget::Budget::new(100));
        let shared = SharedBody::new(Body::new(StreamBody::new(frames)), 100, share);
        let [(_one, mut first), (_other, mut second)] = [(); 2].map(|()| shared.attempt().unwrap());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker)).is_pending());
        let found = Pin::new(&mut second).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(found, Poll::Ready(Some(Ok(_)))));
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 1);
        let kept = Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker));
        assert!(matches!(kept, Poll::Ready(Some(Ok(_)))));
    }
}
