//! [`ClientConn`]: one gRPC connection that knows its state.

mod dialing;
mod driver;
mod health;
pub(in crate::grpc) mod lease;
mod machine;
pub(in crate::grpc) mod membership;
pub(crate) mod shared;
mod state;

use std::fmt;

use self::shared::Shared;
pub use self::state::ConnectivityState;
use super::config::{Options, connection_options};
use super::error::Error;
use super::options::Backoff;
use crate::primitive::Arc;

/// A gRPC connection with a connectivity state, as grpc-go's `ClientConn` has one: a channel for tonic's generated
/// clients.
///
/// ```no_run
/// # use cenote::grpc::{ClientConn, ConnectivityState};
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let conn = ClientConn::new("http://127.0.0.1:5000")?;
/// assert_eq!(conn.state(), ConnectivityState::Idle); // no I/O yet
///
/// let mut client = GreeterClient::new(conn.clone());
/// let reply = client.say_hello(HelloRequest { name: "ada".into(), delay_ms: 0 }).await?;
/// assert_eq!(conn.state(), ConnectivityState::Ready);
/// # Ok(()) }
/// ```
///
/// # States
///
/// It starts [`Idle`](ConnectivityState::Idle). A call or [`connect`](Self::connect) dials: one attempt at a time, each
/// with one time budget over name resolution, TCP, TLS and the server's SETTINGS. Only with those is it
/// [`Ready`](ConnectivityState::Ready). A failed attempt makes it
/// [`TransientFailure`](ConnectivityState::TransientFailure): calls fail at once with the attempt's error, and it dials
/// again after a pause that grows from 1 s to 120 s, until it succeeds, is closed, or no call has come for the idle timeout; with
/// [`WaitForReady`](super::WaitForReady) they wait. (In a pool it dials again with its
/// next call, when the pool's gate lets it through, and that call waits.) A connection that is lost (closed by
/// the server, told to go away, unused for the idle timeout) is Idle; one that is lost with the server's SETTINGS is dialed
/// again at once, and is a failed attempt if that happens twice; so are connections that are lost one after the other within a
/// second of SETTINGS and have carried no call, from the second on. [`close`](Self::close) is
/// [`Shutdown`](ConnectivityState::Shutdown), permanently.
///
/// The addresses of a host are tried beside each other (RFC 8305); the first that connects is the attempt's. If TLS or HTTP/2 fail on
/// it, the next attempt begins with the next address.
///
/// With a [health check](ClientConnBuilder::health_check) the server's own word counts, too: it is Ready when the server says
/// that it serves, and TransientFailure while it says otherwise, on a connection that stays.
///
/// # Calls
///
/// A call on a connection that is Idle or Connecting waits for the dial; its deadline (`grpc-timeout`, set by
/// `tonic::Request::set_timeout`) holds while it waits, until the end of the response's body; a body that nobody polls keeps its
/// stream past it. What is left of it is sent to the server. A request of which nothing had left
/// when the connection was lost goes out on the next one. One that the server refused, or that its GOAWAY does not cover, is
/// sent again once (gRFC A6), if no more than [64 KiB](ClientConnBuilder::resend_buffer) of it were sent. One that may have
/// been processed is never sent twice.
///
/// Errors are a [`tonic::Status`] with an [`Error`] as its source, except where the request's own messages fail (one is
/// too large, their stream panics): the caller gets that status. A failure after the deadline is always `DeadlineExceeded`.
/// The response body checks that messages are complete when the trailers say OK, ignores a status in a head that other
/// frames follow, and drops what tonic could not decode of a status. Some answers are judged by tonic, not as
/// grpc-go does: two messages in a unary response are no error, an encoding that was not asked for is `Unimplemented`,
/// and a message above the decoder's limit of 4 MiB is `OutOfRange`.
///
/// Cancel safe: a call that is dropped, or whose response body is dropped, resets its own stream, also one on which the
/// client is still sending, and disturbs no other.
///
/// # Handles
///
/// Clones are handles of the same connection, and so are calls under way and response bodies. When the last one is
/// dropped the connection sends GOAWAY and closes its socket, within a second; `close` cuts it, at once or after the
/// [grace](ClientConnBuilder::close_grace).
///
/// # Runtimes
///
/// Nothing here panics outside of a tokio runtime; a call that must dial, or has a deadline to keep, fails there with
/// [`Error::NoRuntime`]. A dial runs on the runtime of the call that asked for it, which needs
/// its I/O and time drivers on: without them it fails with [`Error::RuntimeLacks`], which names the one that is missing. When that
/// runtime ends, the connection is Idle, and the next call dials on its own.
/// A runtime that still exists but no longer runs (a current-thread one after its `block_on`) cannot be distinguished
/// from a slow one: calls that it has been given wait. When one has waited for a second, the connection is given up, and the
/// next call dials on its own runtime.
///
/// Names are looked up on a thread of their own, `cenote-resolve`, for which no runtime waits at its end; one look-up of a
/// name at a time.
#[derive(Clone)]
pub struct ClientConn {
    pub(super) shared: Arc<Shared>,
}

impl ClientConn {
    /// A connection to a target, with all options at their defaults. Does no I/O.
    ///
    /// | target | goes to |
    /// |---|---|
    /// | `http://host[:port]`, `https://host[:port]` | the host's addresses; port 80 or 443 |
    /// | `host[:port]`, `dns:host[:port]`, `dns:///host[:port]` | the host's addresses; port 443, with TLS and without |
    /// | `ipv4:address[:port][,...]` | these addresses, as those of one host; port 443 |
    /// | `ipv6:address`, `ipv6:[address][:port][,...]` | the same |
    /// | `unix:path`, `unix:///absolute/path` | a Unix socket |
    /// | `unix-abstract:name` | a Unix socket of Linux's abstract namespace |
    /// | `vsock:cid:port` | a socket between a virtual machine and its host (Linux, feature `vsock`) |
    ///
    /// The zone of an IPv6 address is written `[fe80::1%25eth0]`, as in RFC 6874; `%` and two hexadecimal digits in a path or
    /// an abstract name are a byte. Sockets of this machine have `localhost` as their `:authority`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`], with what is wrong as its source.
    pub fn new(target: impl Into<String>) -> Result<Self, Error> {
        Self::builder(target).build()
    }

    /// A connection with options.
    pub fn builder(target: impl Into<String>) -> ClientConnBuilder {
        ClientConnBuilder { options: Options::new(target.into(), Backoff::default()) }
    }

    pub(super) fn from_shared(shared: Arc<Shared>) -> Self {
        ClientConn { shared }
    }

    /// The state now: one atomic load. Neither blocks nor connects.
    #[inline]
    pub fn state(&self) -> ConnectivityState {
        self.shared.state()
    }

    /// Starts to dial, if the connection is Idle, and does not wait for it.
    ///
    /// Outside of a tokio runtime there is nothing to dial on: the dial begins with the next call.
    pub fn connect(&self) {
        // The next call returns the error.
        let _ = self.shared.dial();
    }

    /// Waits until the state is another than `from`, and returns it; at once if it is already.
    ///
    /// States that come and go while the task is not polled may be missed. Needs no runtime of its own. Cancel safe.
    pub async fn wait_for_state_change(&self, from: ConnectivityState) -> ConnectivityState {
        let mut updates = self.shared.updates();
        loop {
            // Not the state in the update, which arrives a moment later: no caller may see an older state
            // than one that it has seen before.
            let state = self.state();
            if state != from {
                return state;
            }
            // The sender is in `self`: no error.
            let _ = updates.changed().await;
        }
    }

    /// Ends the pause before the next attempt, if one is running, and starts the sequence of pauses anew. During an attempt
    /// it does nothing.
    ///
    /// A connection of a pool has no pause of its own: there the pool's gate decides.
    pub fn reset_connect_backoff(&self) {
        self.shared.retry_now.notify_waiters();
    }

    /// Shuts the connection down, permanently: calls that wait or come later fail with [`Error::Closed`]. Those that run may
    /// end within the [grace](ClientConnBuilder::close_grace), which is none by default, and then break off with the same
    /// error; the socket closes. All handles are affected. Does not wait.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl fmt::Debug for ClientConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// Options of a [`ClientConn`].
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `build`"]
pub struct ClientConnBuilder {
    options: Options,
}

impl ClientConnBuilder {
    connection_options!();

    /// The pauses between attempts. Default: 1 s, times 1.6, give or take 20 %, at most 120 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.tuning.backoff = backoff;
        self
    }

    /// Checks the options. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`] or [`Error::InvalidConfig`], with what is wrong as its source.
    pub fn build(self) -> Result<ClientConn, Error> {
        let settings = self.options.check()?;
        Ok(ClientConn::from_shared(Shared::new(Ok(Arc::new(settings)), None)))
    }
}
