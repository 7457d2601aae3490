//! `ClientConn` against real servers, good and bad.

mod support;

use cenote::grpc::{ClientConn, ConnectivityState};
use cenote_proto::greeter_client::GreeterClient;
use support::*;

#[tokio::test]
async fn it_starts_idle_without_io_and_is_ready_after_the_first_call() {
    let server = TonicServer::start();
    let conn = ClientConn::new(server.target()).unwrap();
    assert_eq!(conn.state(), ConnectivityState::Idle);
    assert_eq!(server.seen.accepted(), 0);
    let mut client = GreeterClient::new(conn.clone());
    let reply = client.say_hello(hello("ada")).await.unwrap();
    assert_eq!(reply.into_inner().message, "tonic: hello, ada");
    assert_eq!(conn.state(), ConnectivityState::Ready);
    assert_eq!(server.seen.accepted(), 1);
}
