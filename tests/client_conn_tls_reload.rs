//! Certificates that change while connections exist.

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenote::grpc::{ClientConn, ClientPool, DialPhase, Error, StreamPool, TlsConfig, TlsHandle};
use cenote_proto::greeter_client::GreeterClient;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::Status;
use tonic::transport::{Certificate, ServerTlsConfig};

use support::authority::Authority;
use support::{TonicServer, cause, hello};

/// A directory that goes with the test.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cenote-reload-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Files(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// As Kubernetes does it: by a rename.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn serve(authority: &Authority) -> (TonicServer, String) {
    let tls = ServerTlsConfig::new().identity(authority.identity("localhost"));
    let server = TonicServer::start_with(|server| server.tls_config(tls).unwrap());
    let target = format!("https://localhost:{}", server.addr.port());
    (server, target)
}

/// A server that asks for a certificate of `clients`.
fn serve_mutual(authority: &Authority, clients: &Authority) -> (TonicServer, String) {
    let tls = ServerTlsConfig::new()
        .identity(authority.identity("localhost"))
        .client_ca_root(Certificate::from_pem(clients.pem()));
    let server = TonicServer::start_with(|server| server.tls_config(tls).unwrap());
    let target = format!("https://localhost:{}", server.addr.port());
    (server, target)
}

const INTERVAL: Duration = Duration::from_millis(20);

async fn interval() {
    tokio::time::sleep(2 * INTERVAL).await;
}

async fn call(conn: ClientConn) -> Result<(), Status> {
    GreeterClient::new(conn).say_hello(hello("ada")).await.map(drop)
}

fn is_refused_by_tls(outcome: Result<(), Status>) -> bool {
    outcome.is_err_and(|status| matches!(cause(&status), Error::Dial { phase: DialPhase::Tls, .. }))
}

#[tokio::test]
async fn roots_in_a_file_are_those_of_the_next_handshake_and_connections_that_are_up_go_on() {
    let files = Files::new("roots");
    let [one, other] = [(); 2].map(|()| Authority::new());
    let ((_one, first), (_other, second)) = (serve(&one), serve(&other));
    files.write("ca.pem", &one.pem());
    let tls = TlsConfig::new().ca_certificate_file(files.path("ca.pem")).reload_interval(INTERVAL);
    let pool = StreamPool::builder().tls(tls.clone()).build().unwrap();
    let greet = async |target: &str| {
        GreeterClient::new(pool.channel(target).unwrap()).say_hello(hello("ada")).await.map(drop)
    };
    greet(&first).await.unwrap();
    assert!(is_refused_by_tls(greet(&second).await));
    // The sessions of both can be resumed, if that is not prevented.
    let builder = || ClientConn::builder(&first).tls(tls.clone());
    let conn = builder().build().unwrap();
    call(conn.clone()).await.unwrap();
    files.write("ca.pem", &other.pem());
    interval().await;
    let mut is_trusted = greet(&second).await;
    for _ in 0..100 {
        if is_trusted.is_ok() {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
        is_trusted = greet(&second).await;
    }
    is_trusted.unwrap();
    greet(&first).await.expect("the connection is up");
    call(conn).await.expect("the connection is up");
    assert!(
        is_refused_by_tls(call(builder().build().unwrap()).await),
        "the first server's authority is gone"
    );
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_a_change_of_roots() {
    let [one, other] = [(); 2].map(|()| Authority::new());
    let (_server, target) = serve(&one);
    let handle = TlsHandle::new(one.trusted()).unwrap();
    let pool = ClientPool::builder(&target).tls(handle.config()).build().unwrap();
    for _ in 0..3 {
        call(pool.take()).await.unwrap();
        pool.clear();
    }
    handle.set(other.trusted()).unwrap();
    pool.clear();
    assert!(is_refused_by_tls(call(pool.take()).await));
    handle.set(one.trusted()).unwrap();
    let mut outcome = call(pool.take()).await;
    for _ in 0..100 {
        if outcome.is_ok() {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
        outcome = call(pool.take()).await;
    }
    outcome.unwrap();
}

#[tokio::test]
async fn files_that_are_bad_leave_the_last_good_ones_in_use_and_are_read_again() {
    let files = Files::new("bad");
    let [server_ca, clients, strangers] = [(); 3].map(|()| Authority::new());
    let (_server, target) = serve_mutual(&server_ca, &clients);
    let put = |authority: &Authority| {
        let (certificate, key) = authority.issue("me");
        files.write("cert.pem", &certificate.pem());
        files.write("key.pem", &key.serialize_pem());
    };
    let tls = server_ca
        .trusted()
        .client_identity_files(files.path("cert.pem"), files.path("key.pem"))
        .reload_interval(INTERVAL);
    let pool = StreamPool::builder().tls(tls).build().unwrap();
    let again = async || {
        interval().await;
        // A connection of its own, by another name for the same server.
        GreeterClient::new(pool.get(&*target).unwrap()).say_hello(hello("ada")).await.map(drop)
    };
    // Nothing to begin with: the dial says which file is missing.
    let status = again().await.unwrap_err();
    let Error::Dial { phase, source, .. } = cause(&status) else { panic!("{status:?}") };
    assert!(*phase == DialPhase::Tls && format!("{source:?}").contains("cert.pem"), "{status:?}");
    put(&clients);
    let mut outcome = again().await;
    for _ in 0..100 {
        if outcome.is_ok() {
            break;
        }
        outcome = again().await;
    }
    outcome.unwrap();
    let fresh = || ClientConn::builder(&target).tls(pool_tls(&files, &server_ca)).build().unwrap();
    let conn = fresh();
    call(conn).await.unwrap();
    // The key is another one's.
    let (_, key) = clients.issue("me");
    files.write("key.pem", &key.serialize_pem());
    let status = call(fresh()).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Dial { phase: DialPhase::Tls, .. }), "{status:?}");
    assert!(!format!("{status} {status:?}").contains(&key.serialize_pem()));
    put(&strangers);
    assert!(call(fresh()).await.is_err(), "the server knows no such authority");
    put(&clients);
    call(fresh()).await.unwrap();
}

fn pool_tls(files: &Files, server_ca: &Authority) -> TlsConfig {
    server_ca.trusted().client_identity_files(files.path("cert.pem"), files.path("key.pem"))
}

#[tokio::test]
async fn a_pool_keeps_the_last_good_identity_while_its_files_are_bad() {
    let files = Files::new("kept");
    let [server_ca, clients] = [(); 2].map(|()| Authority::new());
    let (_server, target) = serve_mutual(&server_ca, &clients);
    let (certificate, key) = clients.issue("me");
    files.write("cert.pem", &certificate.pem());
    files.write("key.pem", &key.serialize_pem());
    let tls = pool_tls(&files, &server_ca).reload_interval(INTERVAL);
    let pool = ClientPool::builder(&target).tls(tls).build().unwrap();
    call(pool.take()).await.unwrap();
    for bad in ["", "not a key", &clients.issue("me").1.serialize_pem()] {
        files.write("key.pem", bad);
        interval().await;
        pool.clear();
        call(pool.take()).await.unwrap_or_else(|status| panic!("{bad:?}: {status:?}"));
    }
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    interval().await;
    pool.clear();
    call(pool.take()).await.unwrap();
}

#[tokio::test]
async fn an_identity_that_is_pushed_is_that_of_the_next_handshake_and_a_bad_one_changes_nothing() {
    let [server_ca, clients, strangers] = [(); 3].map(|()| Authority::new());
    let (_server, target) = serve_mutual(&server_ca, &clients);
    let identified = |authority: &Authority| {
        let (certificate, key) = authority.issue("me");
        server_ca.trusted().client_identity_pem(certificate.pem(), key.serialize_pem())
    };
    let handle = TlsHandle::new(identified(&strangers)).unwrap();
    let conn = || ClientConn::builder(&target).tls(handle.config()).build().unwrap();
    let waiting = conn();
    assert!(call(waiting.clone()).await.is_err());
    handle.set(identified(&clients)).unwrap();
    call(conn()).await.unwrap();
    waiting.reset_connect_backoff();
    waiting.wait_for_state_change(cenote::grpc::ConnectivityState::TransientFailure).await;
    call(waiting).await.expect("a connection that exists uses it, too");
    let (certificate, _) = clients.issue("me");
    let (_, key) = clients.issue("other");
    for bad in [
        server_ca.trusted().client_identity_pem(certificate.pem(), key.serialize_pem()),
        server_ca.trusted().client_identity_pem("", key.serialize_pem()),
        TlsConfig::new().ca_certificate_pem("nothing"),
        TlsConfig::new().ca_certificate_file("/no/such/file"),
        handle.config(),
    ] {
        let error = handle.set(bad).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error:?}");
    }
    call(conn()).await.unwrap();
}

/// The authority's certificate alone is trusted.
fn made_with_rustls(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn a_configuration_of_rustls_is_used_as_it_is_and_may_be_pushed() {
    let [one, other] = [(); 2].map(|()| Authority::new());
    let (_server, target) = serve(&one);
    let trusted = || TlsConfig::from_rustls(made_with_rustls(&one));
    let conn = |tls| ClientConn::builder(&target).tls(tls).build().unwrap();
    call(conn(trusted())).await.unwrap();
    assert!(is_refused_by_tls(call(conn(trusted().server_name("elsewhere"))).await));
    let handle = TlsHandle::new(trusted()).unwrap();
    call(conn(handle.config())).await.unwrap();
    handle.set(TlsConfig::from_rustls(made_with_rustls(&other))).unwrap();
    assert!(is_refused_by_tls(call(conn(handle.config())).await));
}

#[test]
fn an_interval_of_zero_is_an_error() {
    let tls = TlsConfig::new().ca_certificate_file("x").reload_interval(Duration::ZERO);
    let error = ClientConn::builder("https://localhost:1").tls(tls).build().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "reload_interval", .. }), "{error:?}");
}
