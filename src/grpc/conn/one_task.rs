//! hyper's two tasks of a connection as one.
//!
//! hyper drives an HTTP/2 connection with two futures: the one that it returns takes requests and begins their streams; the
//! other, which it hands to its executor first of all, reads and writes the socket. In two tasks they are in each other's way: a
//! caller who has its response and calls again wakes both, a runtime with more than one worker runs them side by side, and
//! both need the lock of h2's streams for all that they do. In one task a new request is on the socket in the poll that took
//! it, and a wake-up of another worker, most of the time with a wait for that lock, is spared.
//!
//! For each call hyper spawns two futures more: one sends what is left of the request's body, because a stream that has not been
//! opened on the socket has no room to send in; one waits for the response. They are [kept](Futures) until the socket has been
//! polled, and polled once: then the body of a unary call is done, and only what is not becomes a task.
//!
//! The socket's part has a [waker](Knock) of its own: the requests' part wakes it with each request, and as the task's waker
//! that would have the runtime poll the task once more, on whichever worker, for what this poll is about to do.

use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http2::Connection;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;

use super::connector::BoxedIo;
use super::request_body::RequestBody;
use super::tap::Tap;
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::{Arc, Mutex};

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// For hyper's builder: keeps what it is to spawn, for the [`OneTask`].
#[derive(Clone)]
pub(super) struct Futures(Arc<Kept>);

struct Kept {
    /// Whether the requests' part is being polled, at whose end somebody looks at `new`.
    kept: AtomicBool,
    new: Mutex<Vec<BoxFuture>>,
}

impl Futures {
    pub(super) fn new() -> Self {
        Futures(Arc::new(Kept { kept: AtomicBool::new(true), new: Mutex::new(Vec::new()) }))
    }
}

impl<F> Executor<F> for Futures
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Relaxed: hyper calls this from the poll during which it is set, and once in an upgrade, which gRPC has not.
        if self.0.kept.load(Ordering::Relaxed) {
            self.0.new.lock().push(Box::pin(future));
        } else {
            drop(tokio::spawn(future));
        }
    }
}

/// A whole connection of hyper's: ready when nothing is left to do, on the socket neither.
///
/// It takes requests as long as there is a sender; streams that are open then, or at a GOAWAY, go on.
pub(super) struct OneTask {
    requests: Option<Connection<TokioIo<Tap<BoxedIo>>, RequestBody, Futures>>,
    socket: Option<BoxFuture>,
    futures: Futures,
    failure: Option<hyper::Error>,
    knock: Arc<Knock>,
    waker: Waker,
}

/// Wakes the task for the socket's part, unless the task is just being polled: then that looks.
struct Knock {
    task: AtomicWaker,
    polling: AtomicBool,
    knocked: AtomicBool,
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // SeqCst, as in `poll`: who knocks looks at `polling` after, who ends a poll looks at `knocked` after. One sees the other.
        self.knocked.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl OneTask {
    /// After hyper's handshake with this executor.
    pub(super) fn new(
        requests: Connection<TokioIo<Tap<BoxedIo>>, RequestBody, Futures>,
        futures: Futures,
    ) -> Self {
        let knock = Arc::new(Knock {
            task: AtomicWaker::new(),
            polling: AtomicBool::new(false),
            // Its first poll is due.
            knocked: AtomicBool::new(true),
        });
        // The one thing that hyper's handshake spawns.
        let socket = futures.0.new.lock().pop();
        futures.0.kept.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&knock));
        OneTask { requests: Some(requests), socket, futures, failure: None, knock, waker }
    }

    /// If there is reason to.
    fn poll_socket(&mut self) {
        if let Some(socket) = &mut self.socket
            && self.knock.knocked.swap(false, Ordering::SeqCst)
            && socket.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            self.socket = None;
        }
    }
}

impl Future for OneTask {
    type Output = Result<(), hyper::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.knock.task.register(cx.waker());
        this.knock.polling.store(true, Ordering::SeqCst);
        // First what was asked, so that it is written at once. Either may end first, and tells the other by its waker, which is
        // this task's.
        if let Some(requests) = &mut this.requests {
            this.futures.0.kept.store(true, Ordering::Relaxed);
            if let Poll::Ready(result) = Pin::new(requests).poll(cx) {
                this.requests = None;
                this.failure = result.err();
            }
            this.futures.0.kept.store(false, Ordering::Relaxed);
        }
        this.poll_socket();
        let new = std::mem::take(&mut *this.futures.0.new.lock());
        if !new.is_empty() {
            // What is not done is polled again as a task: this waker is of no use to it.
            let mut cx = Context::from_waker(Waker::noop());
            for mut future in new {
                if future.as_mut().poll(&mut cx).is_pending() {
                    drop(tokio::spawn(future));
                }
            }
            this.poll_socket();
        }
        this.knock.polling.store(false, Ordering::SeqCst);
        if this.knock.knocked.load(Ordering::SeqCst) && this.socket.is_some() {
            cx.waker().wake_by_ref();
        }
        match (&this.requests, &this.socket) {
            (None, None) => Poll::Ready(this.failure.take().map_or(Ok(()), Err)),
            _ => Poll::Pending,
        }
    }
}
