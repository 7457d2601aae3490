//! TLS by rustls, with ring named as its provider: no process-wide default is asked for or set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
#[cfg(feature = "rustls")]
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::certificates::{Pushed, SharedConfig};
use super::connector::BoxError;
use crate::grpc::error::Error;
#[cfg(feature = "rustls")]
use crate::primitive::Arc;

/// Whom an `https` connection trusts, and by which name it asks.
///
/// ```
/// # use cenote::grpc::{ClientConn, TlsConfig};
/// # fn main() -> Result<(), cenote::grpc::Error> {
/// let conn = ClientConn::builder("https://10.0.0.7:443")
///     .tls(TlsConfig::new().server_name("greeter.internal"))
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Certificates that change
///
/// What is given as files is read by the first dial, and again by a dial that comes after the
/// [interval](Self::reload_interval), on a thread for blocking work. If the files have changed, that handshake and all later
/// ones use what is in them now. If they cannot be read, or the key is not that of the certificate, the last good ones
/// stay in use and the files are read again after 5 s or the interval, whichever is shorter; a certificate and its key need not be
/// replaced at the same instant.
///
/// A program that gets its certificates otherwise pushes them through a [`TlsHandle`].
///
/// Either way connections that are up stay, and their calls go on;
/// [`max_connection_age`](super::super::ClientConnBuilder::max_connection_age) bounds how long. TLS sessions are resumed by the
/// connections of a pool, and not beyond a change: a resumed session skips the check of the server's certificate.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TlsConfig {
    pub(super) roots: Roots,
    pub(super) ca_pem: Vec<Vec<u8>>,
    pub(super) ca_files: Vec<PathBuf>,
    server_name: Option<String>,
    /// Certificates and key, in PEM form.
    pub(super) identity: Option<(Vec<u8>, Secret)>,
    /// The files of the same.
    pub(super) identity_files: Option<(PathBuf, PathBuf)>,
    pub(super) reload_interval: Option<Duration>,
    /// In the place of all that but the name.
    #[cfg(feature = "rustls")]
    pub(super) custom: Option<Custom>,
    /// The same.
    pub(super) pushed: Option<Pushed>,
}

/// Made by the user.
#[cfg(feature = "rustls")]
#[derive(Clone)]
pub(super) struct Custom(pub(super) Arc<ClientConfig>);

#[cfg(feature = "rustls")]
impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").finish_non_exhaustive()
    }
}

/// Does not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Roots {
    #[default]
    Webpki,
    #[cfg(feature = "native-roots")]
    Native,
    /// Only what `ca_certificate_pem` gave.
    Given,
}

impl TlsConfig {
    pub(super) fn given_server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// A configuration that was made with rustls 0.23: with a verifier, a provider of cryptography or a source of client
    /// certificates of one's own. All other options of this type but [`server_name`](Self::server_name) are ignored. If it does not
    /// offer the protocol `h2` (ALPN), a copy that offers `h2` alone is used.
    ///
    /// rustls resumes a session without asking the verifier again. To change what a verifier trusts, push another
    /// configuration through a [`TlsHandle`].
    #[cfg(feature = "rustls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "rustls")))]
    pub fn from_rustls(config: Arc<ClientConfig>) -> Self {
        let offers_h2 = config.alpn_protocols.iter().any(|protocol| protocol == ALPN_H2);
        let config = match offers_h2 {
            true => config,
            false => {
                let mut config = ClientConfig::clone(&config);
                config.alpn_protocols = vec![ALPN_H2.to_vec()];
                Arc::new(config)
            }
        };
        TlsConfig { custom: Some(Custom(config)), ..Self::default() }
    }

    /// Trusts the roots that the `webpki-roots` crate carries: Mozilla's list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the roots of the operating system instead. They are read by the first dial, once for all connections of a pool; one
    /// that finds none fails.
    #[cfg(feature = "native-roots")]
    pub fn native_roots(mut self) -> Self {
        self.roots = Roots::Native;
        self
    }

    /// Trusts these certificates, in PEM form, and no others. May be called more than once.
    pub fn ca_certificate_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots = Roots::Given;
        self.ca_pem.push(pem.as_ref().to_vec());
        self
    }

    /// Who we are, for servers that ask (mutual TLS): a certificate, with those that lead to its authority behind it, and its
    /// private key, both in PEM form.
    pub fn client_identity_pem(mut self, certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some((certificates.as_ref().to_vec(), Secret(key.as_ref().to_vec())));
        self
    }

    /// The same, in a file, which may [change](Self#certificates-that-change).
    pub fn ca_certificate_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = Roots::Given;
        self.ca_files.push(path.into());
        self
    }

    /// The same as [`client_identity_pem`](Self::client_identity_pem), in two files, which may
    /// [change](Self#certificates-that-change). Takes precedence over it.
    pub fn client_identity_files(
        mut self,
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity_files = Some((certificates.into(), key.into()));
        self
    }

    /// How old what was read from files may be for a new connection. More than zero; default: 10 minutes.
    pub fn reload_interval(mut self, interval: Duration) -> Self {
        self.reload_interval = Some(interval);
        self
    }

    /// The name to ask for (SNI) and to expect in the server's certificate. Requests have it as their `:authority`, too. Default:
    /// the target's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

/// Pushes certificates into connections and pools that exist: their next handshakes use them.
///
/// ```
/// # use cenote::grpc::{ClientPool, Error, TlsConfig, TlsHandle};
/// # fn main() -> Result<(), Error> {
/// let tls = TlsHandle::new(TlsConfig::new())?;
/// let pool = ClientPool::builder("https://greeter.internal").tls(tls.config()).build()?;
/// // Later, with what the secret store says now:
/// tls.set(TlsConfig::new())?;
/// # Ok(()) }
/// ```
///
/// Clones are the same handle. Its drop changes nothing: the last configuration stays in use.
#[derive(Clone, Debug)]
pub struct TlsHandle(Pushed);

impl TlsHandle {
    /// A handle, with the configuration that is in use until another is [set](Self::set). Reads its files, if it has any: on the
    /// thread that calls, which blocks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], with what is wrong as its source.
    pub fn new(config: TlsConfig) -> Result<Self, Error> {
        Pushed::new(config).map(TlsHandle)
    }

    /// The configuration for a builder. It follows the handle, but for a [`server_name`](TlsConfig::server_name), which the
    /// builder's has to itself.
    pub fn config(&self) -> TlsConfig {
        TlsConfig { pushed: Some(self.0.clone()), ..TlsConfig::new() }
    }

    /// Replaces the configuration. Handshakes that run go on with the old one. Reads its files as [`new`](Self::new) does; its
    /// `server_name` has no effect.
    ///
    /// # Errors
    ///
    /// As of [`new`](Self::new). The last good configuration stays in use.
    pub fn set(&self, config: TlsConfig) -> Result<(), Error> {
        self.0.set(config)
    }
}

/// Made once a connection's settings; each dial uses it.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: SharedConfig,
    name: ServerName<'static>,
}

impl Connector {
    pub(in crate::grpc) fn new(shared: SharedConfig, host: &str) -> Result<Self, Error> {
        let name = shared.server_name().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|error| Error::config("tls", error))?;
        shared.check()?;
        Ok(Connector { shared, name })
    }

    /// Fails if the peer does not agree on HTTP/2.
    pub(crate) async fn connect<Io>(&self, io: Io) -> Result<TlsStream<Io>, BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.shared.client().await?);
        let stream = connector.connect(self.name.clone(), io).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_H2) => Ok(stream),
            _ => Err(std::io::Error::other("the server did not agree on HTTP/2 (ALPN h2)").into()),
        }
    }
}

pub(super) const ALPN_H2: &[u8] = b"h2";

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}
