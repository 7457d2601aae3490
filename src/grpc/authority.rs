//! The `:authority` of a request, where it is not its connection's.

use std::fmt;

use http::uri::{Authority, Scheme};

use super::error::{AuthorityError, Error};
use super::link::Link;
use super::target::{host_of, redacted};

/// In a request's extensions: what goes into its `:authority`, in the place of the connection's. A proxy or a server with several
/// names routes by it.
///
/// Over TLS the server's certificate must be valid for this name, too (gRFC A81), or the call fails with
/// [`Error::Authority`] and is not sent. Without TLS any name is sent. A client that was made with an origin
/// (`GreeterClient::with_origin`) has the same effect; there the scheme must be that of the connection, too.
///
/// ```
/// # use cenote::grpc::{CallAuthority, Error};
/// # use cenote_proto::HelloRequest;
/// # fn main() -> Result<(), Error> {
/// let mut request = tonic::Request::new(HelloRequest { name: "ada".into(), delay_ms: 0 });
/// request.extensions_mut().insert(CallAuthority::new("greeter.internal")?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallAuthority(pub(super) Authority);

impl CallAuthority {
    /// `host` or `host:port`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTarget`], with what is wrong as its source.
    pub fn new(authority: &str) -> Result<Self, Error> {
        super::target::authority(authority).map(CallAuthority)
    }
}

impl fmt::Display for CallAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a request says of where it goes.
#[derive(Clone)]
pub(in crate::grpc) struct Origin {
    authority: Authority,
    /// `None` if it says nothing of it.
    scheme: Option<Scheme>,
}

impl Origin {
    /// The request's own authority comes before that of its URI.
    pub(in crate::grpc) fn new(
        own: Option<CallAuthority>,
        scheme: Option<Scheme>,
        authority: Option<Authority>,
    ) -> Result<Option<Box<Self>>, Error> {
        if let Some(CallAuthority(authority)) = own {
            return Ok(Some(Box::new(Origin { authority, scheme: None })));
        }
        let Some(authority) = authority else { return Ok(None) };
        let origin = Origin { authority, scheme };
        match origin.authority.as_str().contains('@') {
            true => Err(origin.refused(AuthorityError::User)),
            false => Ok(Some(Box::new(origin))),
        }
    }

    /// The authority, if the connection may carry it.
    pub(in crate::grpc) fn checked(&self, is_tls: bool, link: &Link) -> Result<&Authority, Error> {
        let expected = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        if self.scheme.as_ref().is_some_and(|scheme| *scheme != expected) {
            return Err(self.refused(AuthorityError::Scheme));
        }
        let host = host_of(&self.authority);
        match is_tls && !link.peer().is_some_and(|peer| peer.has_name(host)) {
            true => Err(self.refused(AuthorityError::NotInCertificate)),
            false => Ok(&self.authority),
        }
    }

    fn refused(&self, source: AuthorityError) -> Error {
        Error::Authority { authority: redacted(self.authority.as_str()), source }
    }
}
