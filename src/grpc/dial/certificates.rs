//! From a [`TlsConfig`] to what rustls makes of it, again when its certificates change.
//!
//! # Protocol
//!
//! * A configuration without files is made by the check of the options, once. One with files, or with the roots of the operating
//!   system, is made by the first dial.
//! * `current` is what dials use, and when it must be looked at again. Its lock is held for no longer than a copy takes. `loading` is
//!   held while files are read, on a thread for blocking work, so that one dial reads them for all that wait.
//! * A change makes a new configuration of rustls, and never changes one: rustls resumes a session only with the same
//!   verifier and the same identity, and checks neither again.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

#[cfg(feature = "rustls")]
use super::tls::Custom;
use super::tls::{ALPN_H2, Roots, Secret, TlsConfig};
use crate::grpc::error::{Error, with_causes};
use crate::grpc::trace::trace_event;
use crate::primitive::{Arc, Mutex, OnceLock};

/// How old the content of files may be, unless the configuration says otherwise.
const INTERVAL: Duration = Duration::from_secs(600);

/// When files are read again that could not be used.
const RETRY: Duration = Duration::from_secs(5);

/// A [`TlsConfig`] and what rustls made of it, once for all the connections of a pool, whatever their addresses: it is
/// expensive to make, and sessions that can be resumed are kept in it. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct SharedConfig(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: TlsConfig,
    /// Made by the first check of the options, if nothing has to be read for it.
    given: OnceLock<Result<Arc<ClientConfig>, Error>>,
    current: Mutex<Current>,
    loading: Mutex<()>,
}

/// What was read, and made of that.
#[derive(Debug, Default)]
struct Current {
    client: Option<Arc<ClientConfig>>,
    material: Option<Material>,
    /// From when on the files are read again; `None` if they never are.
    expires: Option<Instant>,
}

/// What may be in files.
#[derive(Debug, PartialEq, Eq)]
struct Material {
    ca_pem: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Secret)>,
}

impl Material {
    fn given(config: &TlsConfig) -> Self {
        Material { ca_pem: Vec::new(), identity: config.identity.clone() }
    }

    fn read(config: &TlsConfig) -> Result<Self, Error> {
        let read = |option, path: &Path| {
            fs::read(path).map_err(|error| Error::config(option, format!("{}: {error}", path.display())))
        };
        let ca_pem = config.ca_files.iter().map(|path| read("ca_certificate_file", path));
        let ca_pem = ca_pem.collect::<Result<_, _>>()?;
        let identity = match &config.identity_files {
            None => config.identity.clone(),
            Some((certificates, key)) => {
                let option = "client_identity_files";
                Some((read(option, certificates)?, Secret(read(option, key)?)))
            }
        };
        Ok(Material { ca_pem, identity })
    }
}

impl SharedConfig {
    pub(in crate::grpc) fn new(config: TlsConfig) -> Self {
        SharedConfig(Arc::new(Inner {
            config,
            given: OnceLock::new(),
            current: Mutex::new(Current::default()),
            loading: Mutex::new(()),
        }))
    }

    /// The name that was given in place of the target's host.
    pub(in crate::grpc) fn server_name(&self) -> Option<&str> {
        self.0.config.given_server_name()
    }

    /// What can be checked without reading anything.
    pub(super) fn check(&self) -> Result<(), Error> {
        let config = &self.0.config;
        if config.reload_interval.is_some_and(|interval| interval.is_zero()) {
            return Err(Error::config("reload_interval", "it is zero"));
        }
        match config.pushed.is_some() || self.0.is_read() {
            true => Ok(()),
            false => self.0.given().map(drop),
        }
    }

    /// What a handshake that begins now uses.
    pub(super) async fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let shared = match &self.0.config.pushed {
            None => self.clone(),
            Some(pushed) => pushed.current(),
        };
        if !shared.0.is_read() {
            return shared.0.given();
        }
        let now = Instant::now();
        if let Some(client) = shared.0.unexpired(now) {
            return Ok(client);
        }
        // Not on a worker of the runtime. A dial that is dropped meanwhile leaves the outcome to the next.
        let load = move || shared.0.load(now);
        tokio::task::spawn_blocking(load).await.map_err(|error| Error::config("tls", error))?
    }
}

impl Inner {
    /// Whether the configuration is made of what has to be read.
    fn is_read(&self) -> bool {
        #[cfg(feature = "rustls")]
        if self.config.custom.is_some() {
            return false;
        }
        #[cfg(feature = "native-roots")]
        if self.config.roots == Roots::Native {
            return true;
        }
        self.has_files()
    }

    fn has_files(&self) -> bool {
        !self.config.ca_files.is_empty() || self.config.identity_files.is_some()
    }

    fn given(&self) -> Result<Arc<ClientConfig>, Error> {
        #[cfg(feature = "rustls")]
        if let Some(Custom(config)) = &self.config.custom {
            return Ok(Arc::clone(config));
        }
        let make = || client_config(&self.config, &Material::given(&self.config));
        self.given.get_or_init(make).clone()
    }

    fn unexpired(&self, now: Instant) -> Option<Arc<ClientConfig>> {
        let current = self.current.lock();
        current.client.as_ref().filter(|_| current.expires.is_none_or(|expires| now < expires)).cloned()
    }

    /// Reads the files if that is due, and makes a configuration of them if they have changed. Blocks.
    fn load(&self, now: Instant) -> Result<Arc<ClientConfig>, Error> {
        let _in_turn = self.loading.lock();
        if let Some(client) = self.unexpired(now) {
            return Ok(client);
        }
        let interval = self.config.reload_interval.unwrap_or(INTERVAL);
        let made = Material::read(&self.config).and_then(|material| self.make(material));
        let mut current = self.current.lock();
        let pause = if made.is_ok() { interval } else { interval.min(RETRY) };
        current.expires = if self.has_files() { now.checked_add(pause) } else { None };
        match (made, &current.client) {
            (Ok(None), Some(client)) => Ok(Arc::clone(client)),
            (Ok(Some((client, material))), _) => {
                let old = (current.client.replace(Arc::clone(&client)), current.material.replace(material));
                drop(current);
                drop(old);
                Ok(client)
            }
            (Err(error), Some(client)) => {
                trace_event!("certificates not reloaded", error = with_causes(&error));
                Ok(Arc::clone(client))
            }
            (Err(error), None) => Err(error),
            (Ok(None), None) => Err(Error::config("tls", "there is no configuration")),
        }
    }

    /// `None` if nothing has changed.
    fn make(&self, material: Material) -> Result<Option<(Arc<ClientConfig>, Material)>, Error> {
        if self.current.lock().material.as_ref() == Some(&material) {
            return Ok(None);
        }
        Ok(Some((client_config(&self.config, &material)?, material)))
    }
}

/// What a [`TlsHandle`](super::tls::TlsHandle) and the configurations that follow it share.
#[derive(Clone)]
pub(super) struct Pushed(Arc<Mutex<SharedConfig>>);

impl Pushed {
    pub(super) fn new(config: TlsConfig) -> Result<Self, Error> {
        Ok(Pushed(Arc::new(Mutex::new(Self::checked(config)?))))
    }

    pub(super) fn set(&self, config: TlsConfig) -> Result<(), Error> {
        let checked = Self::checked(config)?;
        let old = std::mem::replace(&mut *self.0.lock(), checked);
        drop(old);
        Ok(())
    }

    fn current(&self) -> SharedConfig {
        self.0.lock().clone()
    }

    fn checked(config: TlsConfig) -> Result<SharedConfig, Error> {
        if config.pushed.is_some() {
            return Err(Error::config("tls", "a handle follows no other handle"));
        }
        let shared = SharedConfig::new(config);
        shared.check()?;
        if shared.0.is_read() {
            shared.0.load(Instant::now())?;
        }
        Ok(shared)
    }
}

impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushed").finish_non_exhaustive()
    }
}

fn client_config(config: &TlsConfig, material: &Material) -> Result<Arc<ClientConfig>, Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("tls", error))?
        .with_root_certificates(roots(config, material)?);
    let mut client = match &material.identity {
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

/// Those of the operating system among them: then it reads files.
fn roots(config: &TlsConfig, material: &Material) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if config.roots == Roots::Webpki {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for pem in config.ca_pem.iter().chain(&material.ca_pem) {
        let before = store.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| Error::config("ca_certificate_pem", error))?;
            store.add(certificate).map_err(|error| Error::config("ca_certificate_pem", error))?;
        }
        if store.len() == before {
            return Err(Error::config("ca_certificate_pem", "there is no certificate in it"));
        }
    }
    #[cfg(feature = "native-roots")]
    if config.roots == Roots::Native {
        add_native_roots(&mut store)?;
    }
    Ok(store)
}

#[cfg(feature = "native-roots")]
fn add_native_roots(store: &mut RootCertStore) -> Result<(), Error> {
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
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
        let other = shared.clone();
        assert!(Arc::ptr_eq(&shared.0.given().unwrap(), &other.0.given().unwrap()));
    }
}
