//! Dials over TLS, to a server of rustls at the other end of a pipe: what it is asked, what it hears, and what becomes of the
//! connection's state. The clock is paused. TLS to real servers is in `client_conn.rs`.

mod support;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cenote::grpc::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use cenote::grpc::{DialPhase, TlsConfig};
use support::authority::Authority;
use support::frames::{FOREVER, Wire};
use support::hello;
use support::memory::*;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError, ServerConfig};
use tokio_rustls::server::TlsStream;
use tonic::Status;

const SECOND: Duration = Duration::from_secs(1);

/// A server of this name, which speaks these protocols.
fn server(authority: &Authority, name: &str, protocols: &[&[u8]]) -> TlsServer {
    let (certificate, key) = authority.issue(name);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let certified = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider).unwrap();
    let asked = Arc::new(Asked { certified: Arc::new(certified), names: Mutex::default() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&asked) as _);
    // No word behind the handshake, for which a client that has closed would be an error.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsServer { acceptor: TlsAcceptor::from(Arc::new(config)), asked }
}

struct TlsServer {
    acceptor: TlsAcceptor,
    asked: Arc<Asked>,
}

impl TlsServer {
    async fn accept(&self, socket: DuplexStream) -> std::io::Result<TlsStream<DuplexStream>> {
        timeout(FOREVER, self.acceptor.accept(socket)).await.expect("an end of the handshake")
    }

    /// The names that clients asked for (SNI).
    fn names(&self) -> Vec<Option<String>> {
        self.asked.names.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct Asked {
    certified: Arc<CertifiedKey>,
    names: Mutex<Vec<Option<String>>>,
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.names.lock().unwrap().push(hello.server_name().map(str::to_owned));
        Some(Arc::clone(&self.certified))
    }
}

const H2: &[&[u8]] = &[b"h2"];

/// What rustls said, on our side, of a dial that failed in the phase of TLS.
#[track_caller]
fn tls_error(status: &Status) -> &TlsError {
    assert_eq!(dial_failure(status), (DialPhase::Tls, Some(ErrorKind::InvalidData)));
    let cause = std::error::Error::source(support::cause(status)).unwrap();
    let io = cause.downcast_ref::<std::io::Error>().unwrap();
    io.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{io:?}"))
}

#[tokio::test(start_paused = true)]
async fn the_name_that_the_server_is_asked_for_is_the_targets_host_or_the_one_that_was_set() {
    let authority = Authority::new();
    for (target, set, name) in [
        ("https://greeter.example", None, Some("greeter.example")),
        ("https://greeter.example", Some("greeter.internal"), Some("greeter.internal")),
        ("https://10.0.0.7:443", Some("greeter.internal"), Some("greeter.internal")),
        // RFC 6066, section 3: an address is no name.
        ("https://10.0.0.7:443", None, None),
    ] {
        let server = server(&authority, name.unwrap_or("10.0.0.7"), H2);
        let (builder, mut pipes) = in_memory_for(target);
        let tls = set.iter().fold(authority.trusted(), |tls, name| tls.server_name(*name));
        let conn = builder.tls(tls).build().unwrap();
        let states = States::of(&conn);
        let first = call(&conn, hello("ada"));
        let mut wire = Wire::over(server.accept(pipes.dialed().await).await.unwrap(), &[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        assert_eq!(reply(first).await, "well");
        assert_eq!(server.names(), [name.map(str::to_owned)], "{target}, {set:?}");
        assert_eq!(states.seen(), [Idle, Connecting, Ready]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_agree_on_http_2_fails_the_dial_and_hears_nothing_of_it() {
    let authority = Authority::new();
    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        let server = server(&authority, "a", protocols);
        let (builder, mut pipes) = in_memory();
        let conn = builder.tls(authority.trusted().server_name("a")).build().unwrap();
        let states = States::of(&conn);
        let first = call(&conn, hello("ada"));
        let accepted = server.accept(pipes.dialed().await).await;
        let status = failure(first).await;
        match accepted {
            // It has no opinion: that is no agreement.
            Ok(mut stream) => {
                assert!(protocols.is_empty());
                assert_eq!(dial_failure(&status), (DialPhase::Tls, Some(ErrorKind::Other)));
                assert!(status.message().contains("ALPN"), "{status:?}");
                let mut heard = Vec::new();
                // However it ends.
                let _ = stream.read_to_end(&mut heard).await;
                assert!(heard.is_empty(), "{heard:?}");
            }
            // It has another: the handshake is not completed, so nothing can have been heard.
            Err(_) => {
                assert!(!protocols.is_empty());
                let told = TlsError::AlertReceived(AlertDescription::NoApplicationProtocol);
                assert_eq!(*tls_error(&status), told);
            }
        }
        assert_eq!(states.seen(), [Idle, Connecting, TransientFailure]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_authority_or_name_is_a_transient_failure_and_nothing_is_sent() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (trusted, name) in [(&stranger, "a"), (&authority, "b")] {
        let server = server(&authority, "a", H2);
        let (builder, mut pipes) = in_memory();
        let conn = builder.tls(trusted.trusted().server_name(name)).build().unwrap();
        let states = States::of(&conn);
        let first = call(&conn, hello("ada"));
        let accepted = server.accept(pipes.dialed().await).await;
        assert!(accepted.is_err(), "the client does not complete the handshake");
        let status = failure(first).await;
        let TlsError::InvalidCertificate(why) = tls_error(&status) else { panic!("{status:?}") };
        match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => assert_eq!(name, "a"),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                assert_eq!(name, "b");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(states.seen(), [Idle, Connecting, TransientFailure]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_a_transient_failure_when_the_attempts_time_is_up() {
    let (builder, mut pipes) = in_memory_after(3 * SECOND);
    let tls = TlsConfig::new().server_name("a");
    let conn = builder.tls(tls).connect_timeout(5 * SECOND).build().unwrap();
    let states = States::of(&conn);
    let start = Instant::now();
    let first = call(&conn, hello("ada"));
    let mut mute = pipes.dialed().await;
    assert_about(start.elapsed(), 3 * SECOND);
    assert_eq!(dial_failure(&failure(first).await), (DialPhase::Tls, Some(ErrorKind::TimedOut)));
    assert_about(start.elapsed(), 5 * SECOND);
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure]);
    hung_up(&mut mute).await;
    assert_about(start.elapsed(), 5 * SECOND);
}

/// A time for each of them would allow ten seconds.
#[tokio::test(start_paused = true)]
async fn connecting_tls_and_settings_share_the_time_of_one_attempt() {
    let authority = Authority::new();
    let server = server(&authority, "a", H2);
    let (builder, mut pipes) = in_memory_after(2 * SECOND);
    let tls = authority.trusted().server_name("a");
    let conn = builder.tls(tls).connect_timeout(5 * SECOND).build().unwrap();
    let states = States::of(&conn);
    let start = Instant::now();
    let first = call(&conn, hello("ada"));
    let socket = pipes.dialed().await;
    sleep(2 * SECOND).await;
    let _mute = server.accept(socket).await.unwrap();
    assert_about(start.elapsed(), 4 * SECOND);
    assert_eq!(dial_failure(&failure(first).await), (DialPhase::Settings, Some(ErrorKind::TimedOut)));
    assert_about(start.elapsed(), 5 * SECOND);
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure]);
}
