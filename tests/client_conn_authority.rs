//! The `:authority` that a server gets: of the target, of the options, of the request.

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cenote::grpc::{
    Addresses, AuthorityError, CallAuthority, ClientConn, ClientConnBuilder, Error, StreamPool,
};
use cenote_proto::greeter_client::GreeterClient;
use http::Uri;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request};

use support::authority::Authority;
use support::{cause, hello};

/// A greeter that notes the authority of each request.
struct Noting {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn serve(tls: Option<Identity>) -> Noting {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let note = move |request: http::Request<tonic::body::Body>| {
        let authority = request.uri().authority().map_or_else(String::new, ToString::to_string);
        noted.lock().unwrap().push(authority);
        request
    };
    let mut server = Server::builder();
    if let Some(identity) = tls {
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    }
    let server =
        server.layer(tower::util::MapRequestLayer::new(note)).add_service(support::greeter("noting"));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(server.serve_with_incoming(incoming));
    Noting { addr, seen }
}

impl Noting {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    async fn authority_of(&self, builder: ClientConnBuilder) -> String {
        GreeterClient::new(builder.build().unwrap()).say_hello(hello("ada")).await.unwrap();
        self.take().pop().unwrap()
    }
}

#[tokio::test]
async fn the_authority_is_the_targets_unless_an_option_says_otherwise() {
    let server = serve(None).await;
    let addr = server.addr;
    let conn = || ClientConn::builder(format!("http://{addr}"));
    assert_eq!(server.authority_of(conn()).await, addr.to_string());
    assert_eq!(server.authority_of(conn().authority("greeter.test")).await, "greeter.test");
    assert_eq!(server.authority_of(conn().authority("greeter.test:7")).await, "greeter.test:7");
    for bad in ["", "u@h", "a b", "a/b", "[::1"] {
        let error = conn().authority(bad).build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { option: "authority", .. }), "{bad:?}: {error:?}");
    }
}

#[tokio::test]
async fn over_tls_the_authority_is_the_name_of_the_certificate() {
    let ca = Authority::new();
    let server = serve(Some(ca.identity("greeter.test"))).await;
    let conn = || ClientConn::builder(format!("https://{}", server.addr));
    let named = ca.trusted().server_name("greeter.test");
    assert_eq!(server.authority_of(conn().tls(named.clone())).await, "greeter.test");
    assert_eq!(
        server.authority_of(conn().tls(ca.trusted()).authority("greeter.test:8")).await,
        "greeter.test:8"
    );
    assert_eq!(
        server.authority_of(conn().tls(named.clone()).authority("Greeter.test:8")).await,
        "Greeter.test:8"
    );
    let error = conn().tls(named).authority("other.test").build().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "authority", .. }), "{error:?}");
    let other = conn().tls(ca.trusted()).authority("other.test").build().unwrap();
    let status = GreeterClient::new(other).say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Dial { .. }), "{status:?}");
}

#[tokio::test]
async fn a_request_has_its_own_authority_by_extension_or_origin() {
    let server = serve(None).await;
    let conn = ClientConn::new(format!("http://{}", server.addr)).unwrap();
    let request = || {
        let mut request = Request::new(hello("ada"));
        request.extensions_mut().insert(CallAuthority::new("own.test:9").unwrap());
        request
    };
    GreeterClient::new(conn.clone()).say_hello(request()).await.unwrap();
    let origin = |uri: &'static str| GreeterClient::with_origin(conn.clone(), Uri::from_static(uri));
    origin("http://origin.test:7").say_hello(hello("ada")).await.unwrap();
    origin("http://origin.test:7").say_hello(request()).await.unwrap();
    GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap();
    let own = server.addr.to_string();
    assert_eq!(server.take(), ["own.test:9", "origin.test:7", "own.test:9", &own]);
    for (uri, source, secret) in [
        ("https://origin.test:7", AuthorityError::Scheme, "nothing"),
        ("http://me:password@origin.test", AuthorityError::User, "password"),
    ] {
        let status = origin(uri).say_hello(hello("ada")).await.unwrap_err();
        let Error::Authority { source: found, .. } = cause(&status) else { panic!("{status:?}") };
        assert_eq!((*found, status.code()), (source, Code::FailedPrecondition));
        assert!(!format!("{status} {status:?}").contains(secret), "{status:?}");
    }
    assert!(server.take().is_empty());
}

#[tokio::test]
async fn over_tls_a_request_may_ask_for_the_names_of_the_servers_certificate_and_no_other() {
    let ca = Authority::new();
    let (certificate, key) = ca.issue_all(&["localhost", "own.test", "*.wild.test"]);
    let server = serve(Some(Identity::from_pem(certificate.pem(), key.serialize_pem()))).await;
    let target = format!("https://localhost:{}", server.addr.port());
    let conn = ClientConn::builder(&target).tls(ca.trusted()).build().unwrap();
    let call = async |conn: ClientConn, name: &str| {
        let mut request = Request::new(hello("ada"));
        request.extensions_mut().insert(CallAuthority::new(name).unwrap());
        GreeterClient::new(conn).say_hello(request).await
    };
    for name in ["own.test", "own.test:7", "a.wild.test"] {
        call(conn.clone(), name).await.unwrap();
    }
    assert_eq!(server.take(), ["own.test", "own.test:7", "a.wild.test"]);
    for name in ["other.test", "127.0.0.1", "a.b.wild.test"] {
        let status = call(conn.clone(), name).await.unwrap_err();
        let Error::Authority { source, .. } = cause(&status) else { panic!("{status:?}") };
        assert_eq!((*source, status.code()), (AuthorityError::NotInCertificate, Code::Unavailable));
    }
    // The connection is none the worse for it.
    GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap();
    assert_eq!(server.take().len(), 1);
    let plain =
        GreeterClient::with_origin(conn, Uri::from_static("http://own.test")).say_hello(hello("ada")).await;
    assert_eq!(plain.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn the_servers_of_a_name_get_the_name_and_an_option_comes_before_it() {
    let server = serve(None).await;
    let port = server.addr.port();
    for (option, seen) in
        [(None, format!("127.0.0.1:{port}")), (Some("greeter.test"), "greeter.test".to_owned())]
    {
        let mut builder = StreamPool::builder();
        if let Some(option) = option {
            builder = builder.authority(option);
        }
        let pool = builder.build().unwrap();
        let addresses = Addresses::dns("http", "127.0.0.1", port, Duration::from_secs(60));
        GreeterClient::new(pool.balance(addresses)).say_hello(hello("ada")).await.unwrap();
        assert_eq!(server.take(), [seen]);
    }
}
