//! The names that a server has proved over TLS.

use std::collections::HashMap;
use std::fmt;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;

use crate::primitive::Mutex;

/// So many names are remembered.
const MOST: usize = 256;

/// A server's certificate, which was verified for the connection's own name in the handshake.
pub(in crate::grpc) struct Peer {
    certificate: CertificateDer<'static>,
    /// Whether it is valid for these.
    checked: Mutex<HashMap<Box<str>, bool>>,
}

impl Peer {
    pub(in crate::grpc) fn new(certificate: CertificateDer<'static>) -> Self {
        Peer { certificate, checked: Mutex::new(HashMap::new()) }
    }

    /// Whether the certificate is valid for this name, too.
    pub(in crate::grpc) fn has_name(&self, name: &str) -> bool {
        if let Some(known) = self.checked.lock().get(name) {
            return *known;
        }
        let is_valid = self.verify(name);
        let mut checked = self.checked.lock();
        if checked.len() >= MOST {
            checked.clear();
        }
        checked.insert(name.into(), is_valid);
        is_valid
    }

    fn verify(&self, name: &str) -> bool {
        let certificate = ParsedCertificate::try_from(&self.certificate);
        let name = ServerName::try_from(name);
        matches!((certificate, name), (Ok(certificate), Ok(name)) if verify_server_name(&certificate, &name).is_ok())
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_names_of_its_certificate_however_many_are_asked_for() {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["one.test", "*.two.test", "192.0.2.1"].map(str::to_owned).to_vec();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let peer = Peer::new(certificate.der().clone());
        for _ in 0..2 {
            for (name, has) in [
                ("one.test", true),
                ("ONE.test", true),
                ("a.two.test", true),
                ("two.test", false),
                ("a.b.two.test", false),
                ("192.0.2.1", true),
                ("192.0.2.2", false),
                ("three.test", false),
                ("not a name", false),
            ] {
                assert_eq!(peer.has_name(name), has, "{name}");
            }
            (0..1000).for_each(|n| assert!(!peer.has_name(&format!("{n}.test"))));
            assert!(peer.checked.lock().len() <= MOST);
        }
    }
}
