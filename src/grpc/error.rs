//! What can go wrong, in which phase, and why.

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::num::ParseIntError;
use std::time::Duration;

use tonic::{Code, Status};

use crate::primitive::Arc;

/// A cause that many callers may get: one failed dial fails every call that waited for it.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a connection, a pool or a call failed.
///
/// A call through a generated client returns a [`tonic::Status`]; this error is its
/// [`source`](StdError::source):
///
/// ```
/// # use cenote::grpc::Error;
/// fn dial_phase(status: &tonic::Status) -> Option<cenote::grpc::DialPhase> {
///     let error = std::error::Error::source(status)?.downcast_ref::<Error>()?;
///     match error {
///         Error::Dial { phase, .. } => Some(*phase),
///         _ => None,
///     }
/// }
/// # assert_eq!(dial_phase(&Error::Closed.into()), None);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The target is not one that can be dialed. Status code `FailedPrecondition`.
    #[non_exhaustive]
    InvalidTarget {
        /// As it was given.
        target: String,
        /// What is wrong with it.
        source: TargetError,
    },
    /// An option of a builder has a value that cannot be. Status code `FailedPrecondition`.
    #[non_exhaustive]
    InvalidConfig {
        /// The builder's method.
        option: &'static str,
        /// What is wrong with its value.
        source: Cause,
    },
    /// The connection could not be established. Status code `Unavailable`.
    #[non_exhaustive]
    Dial {
        /// The target, as it was given.
        target: Arc<str>,
        /// How far it came.
        phase: DialPhase,
        /// What the phase failed with; an [`std::io::Error`] of kind `TimedOut` if the attempt's time was up.
        source: Cause,
    },
    /// The connection is up, but by its [health check](super::ClientConnBuilder::health_check) the server does not serve:
    /// requests are not sent. Status code `Unavailable`.
    #[non_exhaustive]
    NotServing {
        /// The target, as it was given.
        target: Arc<str>,
        /// The service that was asked about; empty for the server as a whole.
        service: Arc<str>,
        /// What the server said.
        source: HealthError,
    },
    /// The server has certainly not processed the request: it did not leave, or the server refused its stream, or sent a
    /// GOAWAY that does not cover it. It was sent again as often as that may be, or could not be because it is larger than
    /// what is [kept](super::ClientConnBuilder::resend_buffer). Status code `Unavailable`.
    #[non_exhaustive]
    NotProcessed {
        /// What HTTP/2 reported of the last attempt.
        source: Cause,
    },
    /// The exchange with the server broke off; the server may or may not have processed the request. The status
    /// code is `Unavailable` when the connection was lost, else the one that gRPC prescribes for the HTTP/2 error.
    #[non_exhaustive]
    Interrupted {
        /// How far the call came.
        phase: CallPhase,
        /// What HTTP/2 reported.
        source: Cause,
    },
    /// The answer is not one of a gRPC server, but, for example, a page of a proxy that cannot reach it, or of a web server.
    /// The status code is the one that gRPC prescribes for the HTTP status ("HTTP to gRPC Status Code Mapping"), `Internal` for
    /// 431, and `Unknown` for any other.
    #[non_exhaustive]
    NotGrpc {
        /// The HTTP status.
        status: u16,
        /// The `content-type`, escaped; `None` if there is none.
        content_type: Option<String>,
    },
    /// The server ended the response in the middle of a message, or without its status. Status code `Internal`.
    TruncatedResponse,
    /// The call's own deadline (`grpc-timeout`) passed. Status code `DeadlineExceeded`.
    #[non_exhaustive]
    DeadlineExceeded {
        /// How far the call came.
        phase: CallPhase,
        /// What the caller had allowed.
        timeout: Duration,
    },
    /// The last attempt that a [`RetryPolicy`](super::RetryPolicy) allows had no response's head within the policy's
    /// [`attempt_timeout`](super::RetryPolicy::attempt_timeout). Status code `DeadlineExceeded`.
    #[non_exhaustive]
    AttemptTimeout {
        /// The policy's.
        timeout: Duration,
    },
    /// The request asks for an `:authority` that its connection may not carry: it was not sent. Status code `Unavailable` if
    /// the server's certificate is not valid for that name (gRFC A81), else `FailedPrecondition`.
    #[non_exhaustive]
    Authority {
        /// As the request has it, without a user and a password.
        authority: String,
        /// What is wrong with it.
        source: AuthorityError,
    },
    /// A [`StreamPool`](super::StreamPool) has as many connections to the address as it may have, all their streams are taken, and it is
    /// configured not to [wait](super::Overflow). Status code `ResourceExhausted`.
    #[non_exhaustive]
    Exhausted {
        /// The address, as it was given.
        target: Arc<str>,
    },
    /// There is no address in the set that a [`BalancedChannel`](super::BalancedChannel) has to choose from. Status code
    /// `Unavailable`.
    NoAddresses,
    /// The connection, or its pool, was closed on this side. Status code `Cancelled`, as in grpc-go.
    Closed,
    /// There is no tokio runtime here to dial on. Status code `FailedPrecondition`.
    NoRuntime,
    /// The tokio runtime here has no timers, or no I/O: it was built without `enable_all`. Status code
    /// `FailedPrecondition`.
    RuntimeLacks(RuntimeDriver),
}

/// A part of a tokio runtime that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeDriver {
    /// Timers: `enable_time`.
    Time,
    /// I/O: `enable_io`.
    Io,
}

/// What is wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetError {
    /// Nothing but white space.
    Empty,
    /// A scheme other than `http`, `https`, `dns`, `ipv4`, `ipv6`, `unix`, `unix-abstract` or `vsock`.
    UnknownScheme(String),
    /// No host before the port, or no path behind `unix:`.
    MissingHost,
    /// `vsock:` needs its port.
    MissingPort,
    /// The port is no number from 1 to 65535.
    #[non_exhaustive]
    InvalidPort {
        /// As it was given.
        port: String,
        /// `None` for port 0 and for one with a sign.
        source: Option<ParseIntError>,
    },
    /// Not the form `host` or `host:port`.
    Malformed(String),
    /// Something the form allows but a gRPC connection has no use for: a path, a user, a DNS server.
    Unsupported(&'static str),
}

/// Why a connection may not carry the `:authority` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The server's certificate is not valid for it.
    NotInCertificate,
    /// The request's origin is `https` and the connection has no TLS, or the other way around.
    Scheme,
    /// It names a user.
    User,
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthorityError::NotInCertificate => "the server's certificate is not valid for it",
            AuthorityError::Scheme => "the origin's scheme is not that of the connection",
            AuthorityError::User => "it names a user",
        })
    }
}

impl StdError for AuthorityError {}

/// What a server's health service said instead of SERVING.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HealthError {
    /// NOT_SERVING.
    NotServing,
    /// SERVICE_UNKNOWN: it does not know the service, or not yet.
    ServiceUnknown,
    /// UNKNOWN, or an answer that is not in the protocol.
    Unknown,
    /// The watch ended, with status OK.
    Ended,
    /// The check failed. Some servers say NOT_FOUND for a service that they do not know.
    Failed(Status),
}

/// The phases of a dial, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialPhase {
    /// Looking the host up.
    Resolve,
    /// Connecting the socket.
    Connect,
    /// The TLS handshake, ALPN included.
    Tls,
    /// From the HTTP/2 preface to the server's SETTINGS frame.
    Settings,
    /// From there to the first answer of the server's health service, if it is
    /// [asked](super::ClientConnBuilder::health_check).
    Health,
}

/// The phases of a call, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallPhase {
    /// Waiting for a connection.
    Connect,
    /// Sent, or about to be; no response yet.
    Response,
    /// Waiting to be sent again, by a [`RetryPolicy`](super::RetryPolicy).
    Backoff,
    /// Reading the response's body.
    Body,
}

impl Error {
    pub(crate) fn config(option: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Error::InvalidConfig { option, source: Arc::from(source.into()) }
    }

    pub(crate) fn interrupted(phase: CallPhase, source: Cause) -> Self {
        Error::Interrupted { phase, source }
    }

    /// The gRPC status code of this failure.
    pub fn code(&self) -> Code {
        match self {
            Error::InvalidTarget { .. }
            | Error::InvalidConfig { .. }
            | Error::NoRuntime
            | Error::RuntimeLacks(_) => Code::FailedPrecondition,
            Error::Authority { source: AuthorityError::NotInCertificate, .. } => Code::Unavailable,
            Error::Authority { .. } => Code::FailedPrecondition,
            Error::Dial { .. }
            | Error::NotServing { .. }
            | Error::NotProcessed { .. }
            | Error::NoAddresses => Code::Unavailable,
            Error::Exhausted { .. } => Code::ResourceExhausted,
            Error::Interrupted { source, .. } => interrupted_code(&**source),
            Error::NotGrpc { status, .. } => http_code(*status),
            Error::TruncatedResponse => Code::Internal,
            Error::DeadlineExceeded { .. } | Error::AttemptTimeout { .. } => Code::DeadlineExceeded,
            Error::Closed => Code::Cancelled,
        }
    }
}

/// The table of the gRPC specification, "Errors" in PROTOCOL-HTTP2.md, for streams that the peer reset; a
/// connection that was lost under a stream is `Unavailable`.
fn interrupted_code(source: &(dyn StdError + 'static)) -> Code {
    let h2 = chain(source).find_map(|error| error.downcast_ref::<h2::Error>());
    match h2 {
        // NO_ERROR is nobody's but a reset's: see `ResponseBody`.
        Some(error) if error.is_reset() || error.reason() == Some(h2::Reason::NO_ERROR) => {
            match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
                Some(h2::Reason::CANCEL) => Code::Cancelled,
                Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
                Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
                _ => Code::Internal,
            }
        }
        _ => Code::Unavailable,
    }
}

/// "HTTP to gRPC Status Code Mapping" of the gRPC specification; 431 is grpc-go's.
fn http_code(status: u16) -> Code {
    match status {
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Whether a server says that it did nothing with a request that had been sent: RST_STREAM with REFUSED_STREAM (RFC 9113,
/// section 8.7), or a GOAWAY whose last stream is an earlier one (section 6.8). h2 reports a server's GOAWAY only to such
/// streams; those that it covers go on, or end with the socket's error.
pub(crate) fn is_not_processed(error: &(dyn StdError + 'static)) -> bool {
    chain(error).find_map(|error| error.downcast_ref::<h2::Error>()).is_some_and(|h2| {
        let is_refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        h2.is_remote() && (h2.is_go_away() || is_refused)
    })
}

/// Whether an error of HTTP/2 says no more than that the socket ended.
pub(crate) fn is_end_of_socket(error: &(dyn StdError + 'static)) -> bool {
    let h2_is_io =
        |error: &(dyn StdError + 'static)| error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_io);
    chain(error).any(|error| error.is::<std::io::Error>() || h2_is_io(error))
}

impl Error {
    /// Whether a dial failed because this process or its host has run out of something, descriptors as a rule: that says
    /// nothing of the server.
    pub(crate) fn is_shortage(&self) -> bool {
        let Error::Dial { source, .. } = self else { return false };
        let lacks = |error: &std::io::Error| {
            let codes = error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code));
            codes || matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::AddrNotAvailable)
        };
        chain(&**source).filter_map(|error| error.downcast_ref()).any(lacks)
    }
}

/// Too many files open in the process (EMFILE) or on the host (ENFILE), no buffers (ENOBUFS).
#[cfg(unix)]
const SHORTAGES: [i32; 3] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS];
/// WSAEMFILE, WSAENOBUFS.
#[cfg(not(unix))]
const SHORTAGES: [i32; 2] = [10024, 10055];

/// An error and its causes, the outermost first.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error's text, and those of its causes.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidTarget { target, .. } => write!(f, "invalid target {target:?}"),
            Error::InvalidConfig { option, .. } => write!(f, "invalid value for `{option}`"),
            Error::Dial { target, phase, .. } => write!(f, "cannot connect to {target}: {phase}"),
            Error::NotServing { target, service, .. } if service.is_empty() => {
                write!(f, "{target} is not serving")
            }
            Error::NotServing { target, service, .. } => write!(f, "{target} is not serving {service:?}"),
            Error::NotProcessed { .. } => f.write_str("the server did not process the request"),
            Error::Interrupted { phase, .. } => write!(f, "the call broke off while {phase}"),
            Error::NotGrpc { status, content_type } => {
                write!(f, "the answer is not gRPC: HTTP status {status}, ")?;
                match content_type {
                    Some(kind) => write!(f, "content-type \"{kind}\""),
                    None => f.write_str("no content-type"),
                }
            }
            Error::TruncatedResponse => f.write_str("the server ended the response before it was complete"),
            Error::DeadlineExceeded { phase, timeout } => {
                write!(f, "the call's deadline of {timeout:?} passed while {phase}")
            }
            Error::Authority { authority, .. } => {
                write!(f, "the connection cannot carry the authority {authority:?}")
            }
            Error::AttemptTimeout { timeout } => {
                write!(f, "no response to the last attempt within its {timeout:?}")
            }
            Error::Exhausted { target } => write!(f, "all streams to {target} are taken"),
            Error::NoAddresses => f.write_str("there is no address to choose from"),
            Error::Closed => f.write_str("the connection is closed"),
            Error::NoRuntime => f.write_str("there is no tokio runtime to connect on"),
            Error::RuntimeLacks(RuntimeDriver::Time) => {
                f.write_str("the tokio runtime has no timers: see `enable_time` of its builder")
            }
            Error::RuntimeLacks(RuntimeDriver::Io) => {
                f.write_str("the tokio runtime has no I/O: see `enable_io` of its builder")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::InvalidTarget { source, .. } => Some(source),
            Error::NotServing { source, .. } => Some(source),
            Error::Authority { source, .. } => Some(source),
            Error::InvalidConfig { source, .. }
            | Error::Dial { source, .. }
            | Error::NotProcessed { source, .. }
            | Error::Interrupted { source, .. } => Some(&**source),
            Error::NotGrpc { .. }
            | Error::TruncatedResponse
            | Error::DeadlineExceeded { .. }
            | Error::AttemptTimeout { .. }
            | Error::Exhausted { .. }
            | Error::NoAddresses
            | Error::Closed
            | Error::NoRuntime
            | Error::RuntimeLacks(_) => None,
        }
    }
}

/// The status has the error's [`code`](Error::code), its text with all causes, and the error as its `source()`.
impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let mut status = Status::new(error.code(), with_causes(&error));
        status.set_source(Arc::new(error));
        status
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Empty => f.write_str("it is empty"),
            TargetError::UnknownScheme(scheme) => {
                write!(
                    f,
                    "unknown scheme {scheme:?}: http, https, dns, ipv4, ipv6, unix, unix-abstract and vsock are known"
                )
            }
            TargetError::MissingHost => f.write_str("it names no host"),
            TargetError::MissingPort => f.write_str("it names no port"),
            TargetError::InvalidPort { port, .. } => write!(f, "{port:?} is no port from 1 to 65535"),
            TargetError::Malformed(why) => f.write_str(why),
            TargetError::Unsupported(what) => write!(f, "{what} has no meaning here"),
        }
    }
}

impl StdError for TargetError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            TargetError::InvalidPort { source: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for HealthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HealthError::NotServing => "its health service says NOT_SERVING",
            HealthError::ServiceUnknown => "its health service says SERVICE_UNKNOWN",
            HealthError::Unknown => "its health service says UNKNOWN",
            HealthError::Ended => "the watch of its health has ended",
            HealthError::Failed(_) => "the check of its health failed",
        })
    }
}

impl StdError for HealthError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            HealthError::Failed(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for DialPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DialPhase::Resolve => "looking up the host",
            DialPhase::Connect => "connecting",
            DialPhase::Tls => "the TLS handshake",
            DialPhase::Settings => "waiting for the server's HTTP/2 SETTINGS",
            DialPhase::Health => "waiting for the first answer of the server's health service",
        })
    }
}

impl fmt::Display for CallPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallPhase::Connect => "waiting for a connection",
            CallPhase::Response => "waiting for the response",
            CallPhase::Backoff => "waiting to be sent again",
            CallPhase::Body => "reading the response",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// As hyper has it: with h2's error as its source.
    #[derive(Debug)]
    struct Around(h2::Error);

    impl fmt::Display for Around {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("http2 error")
        }
    }

    impl StdError for Around {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    /// h2's error for a stream that the peer resets with this code. It has no constructor for it.
    async fn reset_with(code: u32) -> Around {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((_, mut response))) = server.accept().await {
                response.send_reset(h2::Reason::from(code));
            }
        });
        let (client, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::new(());
        let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
        Around(response.await.unwrap_err())
    }

    #[tokio::test]
    async fn a_reset_has_the_code_that_grpc_prescribes_for_it() {
        for (code, expected) in [
            (h2::Reason::NO_ERROR, Code::Internal),
            (h2::Reason::PROTOCOL_ERROR, Code::Internal),
            (h2::Reason::INTERNAL_ERROR, Code::Internal),
            (h2::Reason::FLOW_CONTROL_ERROR, Code::Internal),
            (h2::Reason::SETTINGS_TIMEOUT, Code::Internal),
            (h2::Reason::FRAME_SIZE_ERROR, Code::Internal),
            (h2::Reason::REFUSED_STREAM, Code::Unavailable),
            (h2::Reason::CANCEL, Code::Cancelled),
            (h2::Reason::COMPRESSION_ERROR, Code::Internal),
            (h2::Reason::CONNECT_ERROR, Code::Internal),
            (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
            (h2::Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
            // Not in the table: what is left.
            (h2::Reason::STREAM_CLOSED, Code::Internal),
            (h2::Reason::HTTP_1_1_REQUIRED, Code::Internal),
            (h2::Reason::from(0xbad), Code::Internal),
        ] {
            let error = reset_with(code.into()).await;
            assert_eq!(error.0.reason(), Some(code));
            assert_eq!(interrupted_code(&error), expected, "{code:?}");
        }
    }

    #[test]
    fn a_connection_that_is_lost_is_unavailable_whatever_the_reason() {
        let io = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(interrupted_code(&io), Code::Unavailable);
        // An error of the connection: no stream was reset with it.
        let reason = Around(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM));
        assert_eq!(interrupted_code(&reason), Code::Unavailable);
    }
}
