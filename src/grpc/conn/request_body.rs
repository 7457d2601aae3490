//! The body of a request, which can be sent again, and ends when its call does.
//!
//! *Sent again*: the server may say that it has not processed a request (it refused the stream, or took leave with a GOAWAY that
//! does not cover it), when a part of the body has been sent already. So the frames are kept as they go out, as long as they are
//! small enough, and until the response begins. hyper gets a [`RequestBody`], a handle for one attempt; the body itself stays in
//! the [`CallBody`] that all attempts share.
//!
//! *Left or not*: hyper asks for the body of a request only when its head has gone to the connection. When the server takes leave
//! in between, hyper drops the request without a word, and h2 resets its stream if that had begun. So of an attempt whose
//! body was never asked for no message has left, and a server cannot have acted on it, though it may have seen a head.
//!
//! *Known to be the last*: a body does not say that it is over before it is asked once more. So it is asked for its second frame
//! along with the first, and a unary call's one message ends its stream itself, without an empty frame behind it.
//!
//! *Ends*: hyper goes on sending a request's stream after the caller has dropped the response: for HTTP that is right, for a
//! gRPC call it is not, which is over when its response is. So an attempt that is [over](CallBody::end_attempt) has a
//! body that fails with CANCEL, unless it has ended, and hyper resets the stream with that.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use crate::primitive::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::primitive::{Arc, Mutex};

/// What the attempts of one call share.
#[derive(Debug)]
pub(super) struct CallBody {
    /// The attempt that may send; the handles of others fail.
    attempt: AtomicU32,
    /// Whether that attempt's body has been asked for.
    asked_for: AtomicBool,
    /// The task that sends the body.
    sender: AtomicWaker,
    /// Only the attempts of this one call come here, one at a time but for the moment in which one takes over; so it may be
    /// held while the body, which is the user's code, is polled.
    source: Mutex<Source>,
}

#[derive(Debug)]
struct Source {
    body: Body,
    ended: bool,
    /// The body's second frame, when it was there with the first.
    second: Option<Result<Frame<Bytes>, tonic::Status>>,
    /// What has been sent, from the beginning; `None` when that is no longer known.
    sent: Option<Sent>,
    /// Bytes that may be kept yet.
    room: usize,
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
pub(super) struct RequestBody {
    call: Arc<CallBody>,
    attempt: u32,
    /// Frames that this attempt has sent.
    position: usize,
}

impl CallBody {
    /// With the first attempt. Keeps up to `limit` bytes for another.
    pub(super) fn new(body: Body, limit: usize) -> (Arc<Self>, RequestBody) {
        let source = Source { body, ended: false, second: None, sent: Some(Sent::default()), room: limit };
        let call = Arc::new(CallBody {
            attempt: AtomicU32::new(0),
            asked_for: AtomicBool::new(false),
            sender: AtomicWaker::new(),
            source: Mutex::new(source),
        });
        let first = RequestBody { call: Arc::clone(&call), attempt: 0, position: 0 };
        (call, first)
    }

    /// The body from its beginning, for the attempt that is on; `None` if the beginning is lost.
    pub(super) fn begin_attempt(self: &Arc<Self>) -> Option<RequestBody> {
        self.source.lock().sent.as_ref()?;
        let attempt = self.attempt.load(Ordering::Acquire);
        // Relaxed: hyper gets the attempt after this, by way of a channel.
        self.asked_for.store(false, Ordering::Relaxed);
        Some(RequestBody { call: Arc::clone(self), attempt, position: 0 })
    }

    /// Whether no message of the attempt, which hyper has given up, has left. A request without any is whole with its head.
    pub(super) fn has_not_left(&self) -> bool {
        // Acquire: pairs with the Release in `poll_frame`.
        !self.asked_for.load(Ordering::Acquire) && !self.source.lock().is_at_end(0)
    }

    /// Cancels what the attempt is still sending.
    pub(super) fn end_attempt(&self) {
        // Release: pairs with the Acquire of who is about to sleep; nothing but the number is passed on.
        self.attempt.fetch_add(1, Ordering::Release);
        self.sender.wake();
    }

    /// The response has begun: nothing will be sent again.
    pub(super) fn settle(&self) {
        let _sent = self.source.lock().sent.take();
    }
}

impl Source {
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
            Poll::Ready(Some(Ok(frame))) => self.keep(frame.data_ref()),
            Poll::Ready(Some(Err(_))) => self.sent = None,
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
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.ended = matches!(frame, Poll::Ready(None));
        frame
    }

    fn keep(&mut self, data: Option<&Bytes>) {
        let Some(sent) = &mut self.sent else { return };
        match data {
            Some(data) if data.len() <= self.room => {
                self.room -= data.len();
                sent.push(data.clone());
            }
            // Too large, or trailers, which no gRPC client sends.
            _ => self.sent = None,
        }
    }

    fn is_at_end(&self, position: usize) -> bool {
        self.sent.as_ref().is_none_or(|sent| sent.get(position).is_none())
            && self.second.is_none()
            && (self.ended || self.body.is_end_stream())
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let call = Arc::clone(&self.call);
        let is_over = || call.attempt.load(Ordering::Acquire) != self.attempt;
        let cancelled = || Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        let mut source = call.source.lock();
        // Under the lock: the next attempt's frames are not this one's.
        if is_over() {
            if !source.is_at_end(self.position) {
                return cancelled();
            }
        } else {
            // Release: pairs with the Acquire in `has_not_left`.
            call.asked_for.store(true, Ordering::Release);
        }
        if let Poll::Ready(frame) = source.poll_frame(self.position, cx) {
            self.position += 1;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        drop(source);
        // Registered before the look: an end in between wakes us.
        call.sender.register(cx.waker());
        if is_over() { cancelled() } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.call.source.lock().is_at_end(self.position)
    }

    fn size_hint(&self) -> SizeHint {
        match self.position {
            0 if self.attempt == 0 => self.call.source.lock().body.size_hint(),
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
        CallBody::new(Body::new(StreamBody::new(iter(frames))), limit)
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
        let (_, mut body) = CallBody::new(Body::new(StreamBody::new(frames)), 10);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "1", "not held up by what follows");
        assert!(!body.is_end_stream());
        later.send(frame(b"2")).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "2");

        let failing =
            iter([Ok(Frame::data(Bytes::from("1"))), Err(tonic::Status::aborted("the source broke"))]);
        let (_, mut body) = CallBody::new(Body::new(StreamBody::new(failing)), 10);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "1");
        assert!(!body.is_end_stream(), "an error is to come");
        assert!(next(&mut body).await.unwrap().unwrap_err().contains("the source broke"));
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
    async fn an_attempt_has_not_left_until_its_body_is_asked_for_and_one_without_messages_may_have() {
        let (call, mut first) = call_of(&[b"1"], 10);
        assert!(call.has_not_left());
        next(&mut first).await;
        assert!(!call.has_not_left());
        call.end_attempt();
        let _second = call.begin_attempt().unwrap();
        let _ = next(&mut first).await;
        assert!(call.has_not_left(), "the first says nothing of the second");
        assert!(!CallBody::new(Body::empty(), 10).0.has_not_left());
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
}
