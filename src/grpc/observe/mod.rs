//! [`observe`]: what can be seen of a `Channel` of tonic's own, from its connector.
//!
//! A channel owns its connector and takes its sockets from it, and that is all it shows. So the [`connector`] counts
//! the attempts and wraps each socket into a [`stream`] that reads along; both report what they see to one [`Seen`],
//! which the observer holds as well. The channel's end is seen too: its connector is dropped with it.

mod connector;
mod records;
mod seen;
mod stream;

use std::fmt;

use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint};

use self::connector::Connector;
use self::seen::Seen;
use super::conn::ConnectivityState;
use super::error::{Error, TargetError};
use crate::primitive::Arc;

/// A [`Channel`] of tonic's own, and what can be seen of its state: for programs that must keep that type.
///
/// Where the type is free, [`ClientConn`](super::ClientConn) knows more and does more.
///
/// ```no_run
/// use cenote::grpc::{ConnectivityState, observe};
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
/// use tonic::transport::{Channel, Endpoint};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let (channel, observer) = observe(Endpoint::from_static("http://127.0.0.1:5000"))?;
/// assert_eq!(observer.state(), ConnectivityState::Idle); // tonic dials with the first call
///
/// let mut client: GreeterClient<Channel> = GreeterClient::new(channel);
/// client.say_hello(HelloRequest { name: "ada".into(), delay_ms: 0 }).await?;
/// assert_eq!(observer.state(), ConnectivityState::Ready);
///
/// tokio::spawn(async move {
///     let mut state = observer.state();
///     while state != ConnectivityState::Shutdown {
///         state = observer.wait_for_state_change(state).await;
///         println!("{observer:?}");
///     }
/// });
/// # Ok(()) }
/// ```
///
/// # What can be seen
///
/// The [`ConnectivityState`] of the channel's latest attempt to connect, and of the connection that came of it:
///
/// * `Idle`: no attempt yet, or the connection is lost: its socket has ended, or the server has sent GOAWAY.
/// * `Connecting`: from the beginning of an attempt to the server's SETTINGS frame. tonic sends calls before that; with a
///   server that accepts and says nothing they hang, and the state stays here.
/// * `Ready`: the SETTINGS frame has arrived. (With TLS, see below.)
/// * `TransientFailure`: the last attempt failed, and none has succeeded since.
/// * `Shutdown`: the last clone of the channel is gone, or the runtime that it was made on. It dials no more; calls
///   may still run to their end.
///
/// # What cannot be seen
///
/// * **Below TLS**: tonic lays its TLS over the socket that is watched, and that hides the frames. There `Ready` means that
///   the channel has accepted the server's certificate and that something encrypted has come back. Where the server does not
///   accept the *client's* certificate, that may be the refusal. No GOAWAY is seen: the state is Ready until the
///   socket ends.
/// * **What tonic makes of it**: a call that follows a GOAWAY may still be given to the old connection, and fail; then
///   the state is Idle and nothing was dialed. Calls that wait in the channel's buffer, or for its limits, are not seen.
/// * **Attempts at rest**: tonic works on an attempt only while a call waits for it. When the last of these is given up, the
///   attempt rests, and with it the state, until the next call.
/// * **Balanced channels** (`Channel::balance_list` and `balance_channel`): they make their own connectors.
///
/// # What it does not do
///
/// The channel stays tonic's: it has no backoff (each call in `TransientFailure` dials), sends no request again, and is in no
/// pool that would discard it. The observer cannot make it connect or close.
///
/// # The endpoint's options
///
/// All are kept but one, `local_address`, which tonic does not pass to a connector: the system chooses it.
/// `connect_timeout` covers name resolution and the TLS handshake too, not the wait for SETTINGS.
///
/// # Errors
///
/// * [`Error::NoRuntime`] outside of a tokio runtime, where tonic would panic; also if the endpoint has an executor of its own.
/// * [`Error::InvalidTarget`] for a Unix socket, whose path tonic does not expose. Its address appears as `http://tonic`, so a host of
///   that name must be given with its port.
pub fn observe(endpoint: Endpoint) -> Result<(Channel, ChannelObserver), Error> {
    if *endpoint.uri() == UNIX {
        let source = TargetError::Unsupported("a Unix socket, whose path tonic does not tell,");
        return Err(Error::InvalidTarget { target: endpoint.uri().to_string(), source });
    }
    Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let seen = Seen::new(endpoint.uri().to_string());
    let connector = Connector::new(&endpoint, Arc::clone(&seen));
    Ok((endpoint.connect_with_connector_lazy(connector), ChannelObserver { seen }))
}

/// What tonic gives as the address of an endpoint that is a Unix socket.
const UNIX: &str = "http://tonic/";

/// Shows the state of the [`Channel`] that [`observe`] made with it.
///
/// Clones show the same channel. An observer keeps neither the channel nor its socket.
#[derive(Clone)]
pub struct ChannelObserver {
    seen: Arc<Seen>,
}

impl ChannelObserver {
    /// The state now: one atomic load. Neither blocks nor connects.
    #[inline]
    pub fn state(&self) -> ConnectivityState {
        self.seen.state()
    }

    /// Waits until the state is another than `from`, and returns it; at once if it is already.
    ///
    /// States that come and go while the task is not polled may be missed. Needs no runtime of its own. Cancel safe.
    pub async fn wait_for_state_change(&self, from: ConnectivityState) -> ConnectivityState {
        self.seen.changed_from(from).await
    }
}

impl fmt::Debug for ChannelObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelObserver")
            .field("target", &self.seen.target())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
