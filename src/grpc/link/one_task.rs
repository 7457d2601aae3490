//! hyper's two tasks of a connection as one.
//!
//! hyper drives an HTTP/2 connection with two futures: the one that it returns takes requests and begins their streams; the
//! other, which it hands to its executor first of all, reads and writes the socket. In two tasks they are in each other's way: a
//! caller that has its response and calls again wakes both, a runtime with more than one worker runs them side by side, and
//! both need the lock of h2's streams for all that they do. In one task a new request is on the socket in the poll that took
//! it, and a wake-up of another worker, most of the time with a wait for that lock, is spared.
//!
//! For each call hyper spawns two futures more: one sends what is left of the request's body, because a stream that has not been
//! opened on the socket has no room to send in; one waits for the response. They are [kept](Futures) until the socket has been
//! polled, which [keeps its write back](ReadBudget::cork), and polled once: then the body of a unary call is done, and only what is not
//! becomes a task. The socket is polled again, and all of it leaves.
//!
//! What sends a body may wait for room that the server never gives, while the server has answered and the call is over. hyper
//! does not look at the body then. So such a task [ends with its call](WhileCallRuns), and h2 resets the stream.
//!
//! When the requests' part is over, because the server sent GOAWAY or no sender is left, it is kept up to the end of the
//! last call: hyper's keepalive counts the holders of its state, takes the last of the streams for that part, and would
//! not ping for it any more. But requests that it has, and has not begun, come back only when it is dropped: these go first.
//!
//! The socket's part has a [waker](SubWaker) of its own: the requests' part wakes it with each request, and as the task's waker
//! that would have the runtime poll the task once more, on whichever worker, for what this poll is about to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use hyper::client::conn::http2::Connection;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;

use super::Link;
use super::read_budget::ReadBudget;
use super::request_body::{Attempt, RequestBody};
use super::tap::{BoxedIo, Tap};
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::sub_waker::SubWaker;
use crate::primitive::{Arc, Mutex};

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;
type Requests = Connection<TokioIo<Tap<BoxedIo>>, RequestBody, Futures>;

/// For hyper's builder: keeps what it is to spawn, for the [`OneTask`].
#[derive(Clone)]
pub(in crate::grpc) struct Futures(Arc<Kept>);

struct Kept {
    link: Arc<Link>,
    /// Whether the requests' part is being polled, at whose end somebody looks at `new`.
    kept: AtomicBool,
    new: Mutex<Vec<WhileCallRuns>>,
}

impl Futures {
    pub(in crate::grpc) fn new(link: &Arc<Link>) -> Self {
        let (kept, new) = (AtomicBool::new(true), Mutex::new(Vec::new()));
        Futures(Arc::new(Kept { link: Arc::clone(link), kept, new }))
    }
}

/// A future of hyper's, and the attempt that it is for. What hyper spawns first for a stream is what sends the body, if that
/// has not been sent at once.
struct WhileCallRuns {
    future: BoxFuture,
    attempt: Option<Attempt>,
}

impl Future for WhileCallRuns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Before the look: its end wakes this.
        let is_over = this.attempt.as_ref().is_some_and(|attempt| attempt.is_over(cx.waker()));
        // It has its turn all the same: it may be able to end the stream itself.
        let polled = this.future.as_mut().poll(cx);
        if is_over { Poll::Ready(()) } else { polled }
    }
}

impl<F> Executor<F> for Futures
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Relaxed: hyper calls this from the poll during which it is set, and once in an upgrade, which gRPC has not.
        if self.0.kept.load(Ordering::Relaxed) {
            let attempt = self.0.link.take_begun();
            self.0.new.lock().push(WhileCallRuns { future: Box::pin(future), attempt });
        } else {
            drop(tokio::spawn(future));
        }
    }
}

/// A whole connection of hyper's: ready when nothing is left to do, on the socket neither.
///
/// It takes requests as long as there is a sender; streams that are open then, or at a GOAWAY, go on.
pub(in crate::grpc) struct OneTask {
    requests: Option<Requests>,
    /// `requests`, when that is over.
    over: Option<Requests>,
    socket: Option<WhileCallRuns>,
    futures: Futures,
    failure: Option<hyper::Error>,
    budget: Arc<ReadBudget>,
    link: Arc<Link>,
    socket_waker: Arc<Socket>,
    waker: Waker,
}

/// The socket's part as something to wake.
struct Socket(SubWaker);

impl Wake for Socket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}

impl OneTask {
    /// After hyper's handshake with this executor, over a tap with this link that keeps to this budget.
    pub(in crate::grpc) fn new(
        requests: Requests,
        futures: Futures,
        budget: Arc<ReadBudget>,
        link: Arc<Link>,
    ) -> Self {
        let socket_waker = Arc::new(Socket(SubWaker::new()));
        // The one thing that hyper's handshake spawns.
        let socket = futures.0.new.lock().pop();
        futures.0.kept.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&socket_waker));
        OneTask {
            requests: Some(requests),
            over: None,
            socket,
            futures,
            failure: None,
            budget,
            link,
            socket_waker,
            waker,
        }
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        if let Some(requests) = &mut self.requests {
            self.futures.0.kept.store(true, Ordering::Relaxed);
            if let Poll::Ready(result) = Pin::new(requests).poll(cx) {
                self.over = self.requests.take();
                self.failure = result.err();
                self.link.takes_no_more();
            }
            self.futures.0.kept.store(false, Ordering::Relaxed);
        }
    }

    fn poll_socket(&mut self) {
        if let Some(socket) = &mut self.socket
            && Pin::new(socket).poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            self.socket = None;
        }
    }

    /// Sends what has just been begun, as far as it will go.
    fn poll_new(&mut self, new: Vec<WhileCallRuns>) {
        self.budget.cork();
        self.poll_socket();
        self.budget.uncork();
        for mut future in new {
            // As in a task of its own, whose panic is its own: in here is the user's stream of messages. Nobody looks at what it
            // leaves half done, it is dropped; hyper resets its stream.
            let _ = catch_unwind(AssertUnwindSafe(move || {
                // What is not done is polled again as a task: this waker is of no use to it.
                if Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    drop(tokio::spawn(future));
                }
            }));
        }
    }
}

impl Drop for OneTask {
    fn drop(&mut self) {
        // The socket goes with hyper's parts, and what its end has to report is delivered after them.
        (self.requests, self.over, self.socket) = (None, None, None);
        self.link.deliver();
        // After a panic there may be some, and each holds this executor, which holds it.
        let new = std::mem::take(&mut *self.futures.0.new.lock());
        drop(new);
    }
}

impl Future for OneTask {
    type Output = Result<(), hyper::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.budget.begin(this.link.calls());
        this.socket_waker.0.begin(cx.waker());
        // First the requests, so that they are written at once. Either may end first, and wakes the other: the requests by the
        // socket's waker, the socket by this task's.
        this.poll_requests(cx);
        let new = std::mem::take(&mut *this.futures.0.new.lock());
        if new.is_empty() {
            if this.socket_waker.0.take() {
                this.poll_socket();
            }
        } else {
            this.socket_waker.0.take();
            this.poll_new(new);
            // Whether it was notified again or not: something is kept back.
            this.socket_waker.0.take();
            this.poll_socket();
        }
        // hyper hears of the drop, and says goodbye.
        if this.over.is_some() && (this.link.is_vacant() || this.link.has_unbegun()) {
            this.over = None;
        }
        this.link.deliver();
        if this.socket_waker.0.end() && this.socket.is_some() {
            cx.waker().wake_by_ref();
        }
        match (&this.requests, &this.socket) {
            (None, None) => Poll::Ready(this.failure.take().map_or(Ok(()), Err)),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use futures_util::FutureExt;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use hyper::client::conn::http2::{Builder, SendRequest};
    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
    use tonic::body::Body;

    use super::*;
    use crate::grpc::link::read_budget::ANSWERS;
    use crate::grpc::link::request_body::CallBody;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// Keeps what is written, write by write.
    struct Wire {
        io: DuplexStream,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        broken: Arc<AtomicBool>,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.writes.lock().push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection whose task is polled by hand, and whose server writes frames by hand.
    struct Rig {
        task: OneTask,
        send: SendRequest<RequestBody>,
        server: DuplexStream,
        link: Arc<Link>,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        broken: Arc<AtomicBool>,
        wakes: Arc<Wakes>,
    }

    impl Rig {
        async fn new() -> Self {
            let (io, mut server) = duplex(1 << 20);
            server.write_all(SETTINGS).await.unwrap();
            let writes = Arc::new(Mutex::new(Vec::new()));
            let broken = Arc::new(AtomicBool::new(false));
            let wire = Wire { io, writes: Arc::clone(&writes), broken: Arc::clone(&broken) };
            let io: BoxedIo = Box::new(wire);
            let link = Link::new(0, crate::grpc::link::nobody());
            let (budget, futures) = (ReadBudget::new(), Futures::new(&link));
            let tap = Tap::new(io, true, Arc::clone(&link), Arc::clone(&budget), None);
            let (send, conn) = Builder::new(futures.clone()).handshake(TokioIo::new(tap)).await.unwrap();
            let task = OneTask::new(conn, futures, budget, Arc::clone(&link));
            let mut rig = Rig { task, send, server, link, writes, broken, wakes: Arc::default() };
            while rig.poll() > 0 {}
            rig.writes.lock().clear();
            rig
        }

        /// Polls once, and lets run whom that has woken; how often the task has been woken meanwhile.
        fn poll(&mut self) -> usize {
            let waker = Waker::from(Arc::clone(&self.wakes));
            assert!(Pin::new(&mut self.task).poll(&mut Context::from_waker(&waker)).is_pending());
            self.wakes.0.swap(0, Ordering::Relaxed)
        }

        fn break_writes(&self) {
            self.broken.store(true, Ordering::Relaxed);
        }

        fn call(
            &mut self,
            messages: &'static [&'static [u8]],
        ) -> impl Future<Output = hyper::Result<u16>> + use<> {
            self.call_with(messages, None)
        }

        fn call_with(
            &mut self,
            messages: &'static [&'static [u8]],
            header: Option<String>,
        ) -> impl Future<Output = hyper::Result<u16>> + use<> {
            let frames = messages.iter().map(|data| Ok::<_, tonic::Status>(Frame::data(Bytes::from(*data))));
            let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
            let (_, mut body) = CallBody::new(body, 0, None);
            body.goes_on(&self.link);
            let mut request = http::Request::post("http://server/call").body(body).unwrap();
            if let Some(header) = header {
                let mut value = http::HeaderValue::try_from(header).unwrap();
                // So that it is not left out as one that is known.
                value.set_sensitive(true);
                request.headers_mut().insert("header", value);
            }
            let response = self.send.send_request(request);
            async move { Ok(response.await?.status().as_u16()) }
        }

        /// The frames of each write: their types and streams.
        fn written(&self) -> Vec<Vec<(u8, u8)>> {
            let frames = |mut rest: &[u8]| {
                let mut frames = Vec::new();
                while let [a, b, c, kind, _, _, _, _, stream, behind @ ..] = rest {
                    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                    frames.push((*kind, *stream));
                    rest = &behind[length..];
                }
                frames
            };
            self.writes.lock().drain(..).map(|write| frames(&write)).collect()
        }

        async fn answer(&mut self, streams: impl Iterator<Item = u8>) {
            // ":status: 200", and that is all.
            let frames: Vec<u8> = streams.flat_map(|id| [0, 0, 1, HEADERS, 5, 0, 0, 0, id, 0x88]).collect();
            self.server.write_all(&frames).await.unwrap();
        }
    }

    /// Lets the tasks run that are ready to.
    async fn others() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_heads_of_requests_and_their_messages_leave_in_one_write_of_the_poll_that_takes_them() {
        let mut rig = Rig::new().await;
        let _calls = [rig.call(&[b"one"]), rig.call(&[b"two"])];
        rig.poll();
        assert_eq!(rig.written(), [[(HEADERS, 1), (HEADERS, 3), (DATA, 1), (DATA, 3)]]);
    }

    #[tokio::test]
    async fn a_poll_without_news_writes_nothing_and_wakes_nobody() {
        let mut rig = Rig::new().await;
        let _call = rig.call(&[b"one"]);
        rig.poll();
        rig.writes.lock().clear();
        while rig.poll() > 0 {}
        assert_eq!(rig.poll(), 0);
        assert_eq!(rig.written(), [[]; 0]);
    }

    #[tokio::test]
    async fn what_is_worth_a_write_of_its_own_is_not_kept_back() {
        let mut rig = Rig::new().await;
        // Heads of 1 KB each, together more than hyper holds.
        let name = || "n".repeat(1_000);
        let _calls: Vec<_> = (0..30).map(|_| rig.call_with(&[b"one"], Some(name()))).collect();
        rig.poll();
        let kinds = |write: &[(u8, u8)]| write.iter().filter(|(kind, _)| *kind == DATA).count();
        let written = rig.written();
        assert!(written.len() > 1, "{written:?}");
        assert_eq!(kinds(&written[0]), 0, "heads alone");
        assert_eq!(written.iter().map(|write| kinds(write)).sum::<usize>(), 30);
    }

    #[tokio::test]
    async fn what_a_server_sent_before_it_died_reaches_its_callers_also_when_a_write_fails_meanwhile() {
        const CALLS: usize = 4 * ANSWERS as usize;
        let mut rig = Rig::new().await;
        let calls: Vec<_> = (0..CALLS).map(|_| rig.call(&[b"one"])).collect();
        while rig.poll() > 0 {}
        rig.answer((0..CALLS as u8).map(|call| 2 * call + 1)).await;
        rig.break_writes();
        // As a caller does whose answer was in the first round.
        let late = rig.call(&[b"one"]);
        let Rig { task, .. } = rig;
        let ended = tokio::spawn(task);
        for call in calls {
            assert_eq!(call.await.unwrap(), 200);
        }
        assert!(late.await.is_err());
        assert!(ended.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_burst_of_answers_reaches_its_callers_a_few_a_poll_and_the_task_stays_awake_for_the_rest() {
        const CALLS: usize = 2 * ANSWERS as usize + 5;
        let mut rig = Rig::new().await;
        // So many that a quarter of them is more than a round reads.
        (0..5 * ANSWERS).for_each(|_| rig.link.begin_call());
        let mut calls: Vec<_> = (0..CALLS).map(|_| Box::pin(rig.call(&[b"one"]))).collect();
        while rig.poll() > 0 {}
        rig.answer((0..CALLS as u8).map(|call| 2 * call + 1)).await;
        assert!(rig.wakes.0.swap(0, Ordering::Relaxed) > 0, "the socket is readable");
        let mut answered = Vec::new();
        loop {
            let woken = rig.poll();
            others().await;
            let before = calls.len();
            calls.retain_mut(|call| match call.now_or_never() {
                Some(status) => status.unwrap() != 200,
                None => true,
            });
            if before == calls.len() {
                break;
            }
            answered.push(before - calls.len());
            assert!(woken > 0 || calls.is_empty(), "{} calls wait for what has been read", calls.len());
        }
        assert_eq!(answered, [ANSWERS as usize, ANSWERS as usize, 5]);
    }

    /// Two calls that are counted, with a limit of two streams; the second is taken in the poll that hears of a GOAWAY without it,
    /// or after.
    #[tokio::test]
    async fn a_request_that_a_goaway_finds_unbegun_comes_back_while_another_call_goes_on() {
        for queued in [false, true] {
            let mut rig = Rig::new().await;
            rig.server.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2]).await.unwrap();
            while rig.poll() > 0 {}
            (0..2).for_each(|_| rig.link.begin_call());
            let mut open = Box::pin(rig.call(&[b"one"]));
            while rig.poll() > 0 {}
            rig.server.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
            if queued {
                while rig.poll() > 0 {}
            }
            let mut late = Box::pin(rig.call(&[b"two"]));
            for _ in 0..5 {
                rig.poll();
                others().await;
            }
            assert!((&mut late).now_or_never().expect("an answer").is_err(), "queued: {queued}");
            assert!((&mut open).now_or_never().is_none(), "queued: {queued}");
        }
    }

    #[tokio::test]
    async fn it_ends_when_its_senders_are_gone_and_its_last_stream_is_done() {
        let mut rig = Rig::new().await;
        let call = rig.call(&[b"one"]);
        let Rig { task, send, mut server, .. } = rig;
        drop(send);
        let mut task = tokio::spawn(task);
        others().await;
        assert!((&mut task).now_or_never().is_none(), "a stream is open");
        server.write_all(&[0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
        assert_eq!(call.await.unwrap(), 200);
        task.await.unwrap().unwrap();
    }
}
