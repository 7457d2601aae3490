//! TLS by rustls, with ring named as its provider: no process-wide default is asked for or set.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::connector::BoxError;
use crate::grpc::error::Error;
use crate::primitive::{Arc, OnceLock};

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
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TlsConfig {
    roots: Roots,
    ca_pem: Vec<Vec<u8>>,
    server_name: Option<String>,
    /// Certificates and key, in PEM form.
    identity: Option<(Vec<u8>, Secret)>,
}

/// Does not show in `Debug`.
#[derive(Clone)]
struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Roots {
    #[default]
    Webpki,
    #[cfg(feature = "native-roots")]
    Native,
    /// Only what `ca_certificate_pem` gave.
    Given,
}

impl TlsConfig {
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

    /// The name to ask for (SNI) and to expect in the server's certificate. Requests have it as their `:authority`, too. Default:
    /// the target's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

/// A [`TlsConfig`] and what rustls made of it, once for all the connections of a pool, whatever their addresses: it is
/// expensive to make, and sessions that can be resumed are kept in it. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct SharedConfig(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    config: TlsConfig,
    /// Made by the first check of the options, from what was given; the roots of the operating system are not in it.
    given: OnceLock<Result<Arc<ClientConfig>, Error>>,
    /// With those roots, if they are asked for: they are files, read by the first dial.
    #[cfg(feature = "native-roots")]
    native: tokio::sync::OnceCell<Arc<ClientConfig>>,
}

impl SharedConfig {
    pub(in crate::grpc) fn new(config: TlsConfig) -> Self {
        SharedConfig(Arc::new(Inner { config, ..Inner::default() }))
    }

    /// The name that was given in place of the target's host.
    pub(in crate::grpc) fn server_name(&self) -> Option<&str> {
        self.0.config.server_name.as_deref()
    }

    fn check(&self) -> Result<Arc<ClientConfig>, Error> {
        let Inner { config, given, .. } = &*self.0;
        given.get_or_init(|| client_config(config, given_roots(config)?)).clone()
    }

    /// What a dial uses, after the check.
    async fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        #[cfg(feature = "native-roots")]
        if self.0.config.roots == Roots::Native {
            // In turn: the first dial reads them for all. A dial that is dropped meanwhile leaves it to the next.
            let load = || async {
                let inner = Arc::clone(&self.0);
                let load = move || client_config(&inner.config, native_roots(&inner.config)?);
                // Not on a worker of the runtime: these are hundreds of files on some systems.
                tokio::task::spawn_blocking(load).await.map_err(|error| Error::config("tls", error))?
            };
            return self.0.native.get_or_try_init(load).await.cloned();
        }
        self.check()
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

const ALPN_H2: &[u8] = b"h2";

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

fn client_config(config: &TlsConfig, roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("tls", error))?
        .with_root_certificates(roots);
    let mut client = match &config.identity {
        None => client.with_no_client_auth(),
        Some((certificates, key)) => {
            let wrong = |error| Error::config("client_identity_pem", error);
            let certificates: Vec<_> =
                CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(wrong)?;
            let key = PrivateKeyDer::from_pem_slice(&key.0).map_err(wrong)?;
            if certificates.is_empty() {
                return Err(Error::config("client_identity_pem", "there is no certificate in it"));
            }
            client
                .with_client_auth_cert(certificates, key)
                .map_err(|error| Error::config("client_identity_pem", error))?
        }
    };
    client.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(client))
}

/// All but those of the operating system.
fn given_roots(config: &TlsConfig) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if config.roots == Roots::Webpki {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for pem in &config.ca_pem {
        let before = store.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| Error::config("ca_certificate_pem", error))?;
            store.add(certificate).map_err(|error| Error::config("ca_certificate_pem", error))?;
        }
        if store.len() == before {
            return Err(Error::config("ca_certificate_pem", "there is no certificate in it"));
        }
    }
    Ok(store)
}

/// Those of the operating system, and what was given beside them. Reads files.
#[cfg(feature = "native-roots")]
fn native_roots(config: &TlsConfig) -> Result<RootCertStore, Error> {
    let mut store = given_roots(config)?;
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(store);
    }
    Err(match found.errors.into_iter().next() {
        Some(error) => Error::config("tls", error),
        None => Error::config("tls", "the operating system has no root certificates"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_pool_share_what_is_made_of_its_configuration() {
        let shared = SharedConfig::new(TlsConfig::new());
        let [one, other] = ["one", "other"].map(|host| Connector::new(shared.clone(), host).unwrap());
        assert!(Arc::ptr_eq(&one.shared.check().unwrap(), &other.shared.check().unwrap()));
        assert_ne!(one.name, other.name);
    }
}
