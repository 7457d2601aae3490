//! How a link is made: from a target to a socket on which the server's SETTINGS have arrived.
//!
//! * [`socket`] looks the host up ([`resolve`]) and connects ([`happy_eyeballs`]), or a user's [`connector`] does; [`tls`] goes on top.
//! * [`establish`] puts the [tap](crate::grpc::link::tap) and hyper's handshake on that.
//! * [`backoff`] is the sequence of pauses between attempts, [`gate`] what the connections of a pool dial through.
//!
//! Nothing here knows a connection: `conn` decides when to dial and what to do with the outcome.

pub(in crate::grpc) mod backoff;
pub(in crate::grpc) mod certificates;
pub(in crate::grpc) mod connector;
pub(in crate::grpc) mod gate;
mod happy_eyeballs;
pub(in crate::grpc) mod resolve;
mod socket;
pub(in crate::grpc) mod tls;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use http::Uri;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use self::connector::{BoxError, Connector};
use super::error::{DialPhase, Error};
use super::link::one_task::{Futures, OneTask};
use super::link::peer::Peer;
use super::link::read_budget::ReadBudget;
use super::link::request_body::RequestBody;
use super::link::tap::{BoxedIo, Tap, WhileOpen};
use super::link::{Link, LinkPhase};
use super::options::{Http2, Keepalive, YEAR};
use super::target::Endpoint;
use crate::primitive::{Arc, Mutex};

/// The connection's window: the largest there is, so that only the windows of the streams limit how much the server sends.
///
/// What calls have not read would use up a smaller one, and calls beside them would stall: three calls at hyper's
/// 5 MiB. grpc-go and grpc-java give the connection's window back when data arrives, which is the same in effect. h2 also
/// derives from it how many small messages may wait for their readers, all calls taken together.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// So many streams that this side has reset are remembered for a second. Frames for them are dropped; a frame for a stream that
/// is not remembered is answered with another reset.
const RESET_STREAMS: usize = 1024;

/// What holds for each socket.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Options {
    pub(in crate::grpc) keepalive: Option<Keepalive>,
    pub(in crate::grpc) http2: Http2,
    pub(in crate::grpc) tcp_nodelay: bool,
    pub(in crate::grpc) tcp_keepalive: Option<Duration>,
    pub(in crate::grpc) connector: Option<Connector>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            keepalive: None,
            http2: Http2::default(),
            // gRPC writes whole messages: Nagle's algorithm would only hold them back.
            tcp_nodelay: true,
            tcp_keepalive: None,
            connector: None,
        }
    }
}

impl Options {
    pub(in crate::grpc) fn check(&self) -> Result<(), Error> {
        if self.tcp_keepalive.is_some_and(|time| time < Duration::from_secs(1)) {
            return Err(Error::config("tcp_keepalive", "it is less than 1 s"));
        }
        if let Some(keepalive) = &self.keepalive {
            keepalive.check()?;
        }
        self.http2.check()
    }
}

/// Where an attempt goes, and what earlier attempts have taught.
pub(in crate::grpc) struct Way<'a> {
    pub(in crate::grpc) endpoint: &'a Endpoint,
    /// The target as a user's connector gets it.
    pub(in crate::grpc) uri: Uri,
    pub(in crate::grpc) tls: Option<&'a tls::Connector>,
    pub(in crate::grpc) options: &'a Options,
    /// How many addresses of the host are passed over.
    pub(in crate::grpc) passed_over: usize,
    /// As the server has been found to bear it.
    pub(in crate::grpc) keepalive: Option<Keepalive>,
}

/// How far an attempt is, for the error when its time is up.
pub(in crate::grpc) struct Progress(Mutex<DialPhase>);

impl Progress {
    pub(in crate::grpc) fn new() -> Self {
        Progress(Mutex::new(DialPhase::Resolve))
    }

    pub(in crate::grpc) fn at(&self, phase: DialPhase) {
        *self.0.lock() = phase;
    }

    pub(in crate::grpc) fn phase(&self) -> DialPhase {
        *self.0.lock()
    }
}

/// Name resolution to SETTINGS.
pub(in crate::grpc) async fn establish(
    way: &Way<'_>,
    link: &Arc<Link>,
    open: Option<WhileOpen>,
    progress: &Progress,
) -> Result<(SendRequest<RequestBody>, OneTask), BoxError> {
    let io = connect(way, link, progress).await?;
    progress.at(DialPhase::Settings);
    let budget = ReadBudget::new();
    let io_is_system = way.tls.is_none() && way.options.connector.is_none();
    let tap = Tap::new(io, io_is_system, Arc::clone(link), Arc::clone(&budget), open);
    let futures = Futures::new(link);
    let mut builder = http2::Builder::new(futures.clone());
    builder.timer(TokioTimer::new());
    if let Some(keepalive) = way.keepalive {
        builder.keep_alive_interval(keepalive.interval.min(YEAR));
        builder.keep_alive_timeout(keepalive.timeout.min(YEAR));
        builder.keep_alive_while_idle(keepalive.while_idle);
    }
    let http2 = &way.options.http2;
    builder.initial_stream_window_size(http2.stream_window);
    builder.initial_connection_window_size(http2.connection_window.unwrap_or(CONNECTION_WINDOW));
    // For a connection's whole life, and each frame counts that was under way to a call that has been given up.
    builder.max_local_error_reset_streams(None);
    builder.max_concurrent_reset_streams(RESET_STREAMS);
    if http2.adaptive_window {
        builder.adaptive_window(true);
    }
    if let Some(most) = http2.max_header_list_size {
        builder.max_header_list_size(most);
    }
    let (send, conn) = builder.handshake(TokioIo::new(tap)).await?;
    let mut conn = OneTask::new(conn, futures, budget, Arc::clone(link));
    let phase = tokio::select! {
        biased;
        phase = link.reached(LinkPhase::Open) => phase,
        result = &mut conn => {
            result?;
            // Without an error of its own hyper ended because the socket did, or is about to.
            link.reached(LinkPhase::Open).await
        }
    };
    match phase {
        LinkPhase::Open => Ok((send, conn)),
        // Draining, ended or closed.
        _ => Err(link.why_closed().into()),
    }
}

/// A connected stream, TLS included.
async fn connect(way: &Way<'_>, link: &Link, progress: &Progress) -> Result<BoxedIo, BoxError> {
    let io = match &way.options.connector {
        None => socket::connect(way.endpoint, way.options, way.passed_over, progress).await?,
        Some(connector) => {
            progress.at(DialPhase::Connect);
            // Code of a user, in a task that others wait for.
            let connecting =
                AssertUnwindSafe(async { connector.connect(way.uri.clone()).await }).catch_unwind();
            connecting.await.map_err(|_| "the connector panicked")??
        }
    };
    match way.tls {
        None => Ok(io),
        Some(tls) => {
            progress.at(DialPhase::Tls);
            let io = tls.connect(io).await?;
            let certificates = io.get_ref().1.peer_certificates();
            if let Some(certificate) = certificates.and_then(<[_]>::first) {
                link.set_peer(Peer::new(certificate.clone().into_owned()));
            }
            Ok(Box::new(io))
        }
    }
}
