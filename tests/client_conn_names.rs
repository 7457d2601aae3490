//! Each kind of name that a target may have, to the server behind it.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use cenote::grpc::{ClientConn, DialPhase, Error};
use cenote_proto::greeter_client::GreeterClient;

use support::{TonicServer, cause, hello, refused_target};

async fn greet(target: &str) -> Result<String, tonic::Status> {
    let conn = ClientConn::builder(target).connect_timeout(Duration::from_secs(10)).build().unwrap();
    let reply = GreeterClient::new(conn).say_hello(hello("ada")).await?;
    Ok(reply.into_inner().message)
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_server_in_the_abstract_namespace_is_reached_by_its_name() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let name = format!("cenote names {}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(support::greeter("abstract"));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    let escaped = name.replace(' ', "%20");
    for target in [format!("unix-abstract:{name}"), format!("unix-abstract:{escaped}")] {
        assert!(greet(&target).await.unwrap().contains("ada"), "{target}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_list_of_addresses_is_dialed_as_those_of_one_host() {
    let server = TonicServer::start();
    let address = server.target().replace("http://", "");
    let refused = refused_target().replace("http://", "");
    for target in
        [format!("ipv4:{address}"), format!("ipv4:{refused},{address}"), format!("ipv4:{address},{refused}")]
    {
        assert!(greet(&target).await.unwrap().contains("ada"), "{target}");
    }
    let status = greet(&format!("ipv4:{refused}")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Dial { phase: DialPhase::Connect, .. }), "{status:?}");
}

#[tokio::test]
async fn an_address_with_a_zone_is_dialed_and_the_zone_does_not_leave_this_machine() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        eprintln!("skipped: there is no IPv6 here");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(support::greeter("zoned"));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    // Interface 1 is the loopback. A zone that is not there fails in the resolver or in the system.
    for target in [format!("ipv6:[::1%251]:{port}"), format!("ipv6:[::1]:{port}"), format!("[::1]:{port}")] {
        assert!(greet(&target).await.unwrap().contains("ada"), "{target}");
    }
    let status = greet(&format!("http://[fe80::1%25no-such-interface]:{port}")).await.unwrap_err();
    let Error::Dial { phase, .. } = cause(&status) else { panic!("{status:?}") };
    assert!(matches!(phase, DialPhase::Resolve | DialPhase::Connect), "{status:?}");
    serving.abort();
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_vsock_that_nobody_listens_on_is_a_failed_dial() {
    let conn = ClientConn::builder("vsock:1:4242").connect_timeout(Duration::from_secs(1)).build().unwrap();
    let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Dial { phase: DialPhase::Connect, .. }), "{status:?}");
}
