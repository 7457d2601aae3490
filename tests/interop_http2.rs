//! gRPC's negative HTTP/2 interoperability cases (`doc/negative-http2-interop-test-descriptions.md` of the gRPC repository) over
//! each kind of channel, in plaintext and over TLS. The cases' own server is a program in Python that nobody maintains; its
//! part is played here, frame by frame.

mod support;

use std::sync::Arc;
use std::time::Duration;

use cenote::grpc::TlsConfig;
use cenote_proto::greeter_client::GreeterClient;
use support::authority::Authority;
use support::frames::*;
use support::hello;
use support::kinds::{AnyChannel, AnyService, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tonic::{Code, Status};

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type AnyWire = Wire<Box<dyn Io>>;

struct Server {
    listener: TcpListener,
    tls: Option<(TlsAcceptor, TlsConfig)>,
}

impl Server {
    async fn start(tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server { listener, tls: tls.then(acceptor) }
    }

    fn connect(&self, kind: Kind) -> AnyChannel {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let target = format!("{scheme}://127.0.0.1:{}", self.listener.local_addr().unwrap().port());
        kind.connect(&target, self.tls.as_ref().map(|(_, trusted)| trusted)).unwrap()
    }

    async fn accept(&self, settings: &[(u16, u32)]) -> AnyWire {
        let (socket, _) = self.listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let socket: Box<dyn Io> = match &self.tls {
            None => Box::new(socket),
            Some((acceptor, _)) => Box::new(acceptor.accept(socket).await.unwrap()),
        };
        Wire::over(socket, settings).await
    }
}

fn acceptor() -> (TlsAcceptor, TlsConfig) {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), authority.trusted())
}

/// Runs a case over each kind of channel, in plaintext and over TLS.
async fn in_each_cell(case: impl AsyncFn(&Server, AnyChannel, &str)) {
    for tls in [false, true] {
        for kind in Kind::ALL {
            let server = Server::start(tls).await;
            let cell = format!("{kind:?} {}", if tls { "over TLS" } else { "in plaintext" });
            let run = case(&server, server.connect(kind), &cell);
            timeout(Duration::from_secs(30), run)
                .await
                .unwrap_or_else(|_| panic!("{cell}: not done in time"));
        }
    }
}

async fn greet(mut client: GreeterClient<AnyService>) -> Result<String, Status> {
    Ok(client.say_hello(hello("ada")).await?.into_inner().message)
}

fn call(channel: &AnyChannel) -> tokio::task::JoinHandle<Result<String, Status>> {
    tokio::spawn(greet(GreeterClient::new(channel.service())))
}

/// "This test verifies that the client correctly responds to a goaway sent by the server."
#[tokio::test]
async fn goaway() {
    in_each_cell(async |server, channel, cell| {
        let first = call(&channel);
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "before").await;
        wire.goaway(stream, NO_ERROR, b"").await;
        assert_eq!(first.await.unwrap().unwrap(), "before", "{cell}");
        // It closes the connection by itself, when nothing is left on it.
        wire.closed().await;
        let second = call(&channel);
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "after").await;
        assert_eq!(second.await.unwrap().unwrap(), "after", "{cell}");
    })
    .await;
}

/// A reset at some point of the response is the end of the call and of nothing else.
async fn a_reset(respond: impl AsyncFn(&mut AnyWire, u32)) {
    in_each_cell(async |server, channel, cell| {
        let broken = call(&channel);
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        respond(&mut wire, stream).await;
        // PROTOCOL_ERROR
        wire.reset(stream, 1).await;
        let status = broken.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{cell}: {status:?}");
        let next = call(&channel);
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        assert_eq!(next.await.unwrap().unwrap(), "well", "{cell}: on the same connection");
    })
    .await;
}

/// "This test verifies that the client fails correctly when the server sends a RST_STREAM immediately after sending headers."
#[tokio::test]
async fn rst_after_header() {
    a_reset(async |wire, stream| wire.answer_head(stream).await).await;
}

/// "… when the server sends a RST_STREAM halfway through sending data": the message is never whole.
#[tokio::test]
async fn rst_during_data() {
    a_reset(async |wire, stream| {
        wire.answer_head(stream).await;
        wire.write(DATA, 0, stream, &[0, 0, 0, 0, 100, 0x0a, 98, b'x', b'x']).await;
    })
    .await;
}

/// "… when the server sends a RST_STREAM after sending all of the data": there are no trailers.
#[tokio::test]
async fn rst_after_data() {
    a_reset(async |wire, stream| {
        wire.answer_head(stream).await;
        wire.answer_message(stream, "all of it").await;
    })
    .await;
}

/// "This test verifies that the client correctly acknowledges all pings it gets from the server."
#[tokio::test]
async fn ping() {
    in_each_cell(async |server, channel, cell| {
        const PINGS: u8 = 6;
        let mut sent = 0;
        let mut next = || {
            sent += 1;
            [sent; 8]
        };
        let calling = call(&channel);
        let mut wire = server.accept(&[]).await;
        wire.write(PING, 0, 0, &next()).await;
        let mut acknowledged = Vec::new();
        let stream = loop {
            let frame = wire.read().await.unwrap();
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => wire.write(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK != 0 => acknowledged.push(frame.payload[0]),
                DATA | HEADERS if frame.flags & END_STREAM != 0 => break frame.stream,
                _ => {}
            }
        };
        // "…after it receives a request, before and after each frame of the response, and after the trailers."
        wire.write(PING, 0, 0, &next()).await;
        wire.answer_head(stream).await;
        wire.write(PING, 0, 0, &next()).await;
        wire.answer_message(stream, "well").await;
        wire.write(PING, 0, 0, &next()).await;
        wire.write(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&[("grpc-status", "0")])).await;
        wire.write(PING, 0, 0, &next()).await;
        wire.write(PING, 0, 0, &next()).await;
        assert_eq!(calling.await.unwrap().unwrap(), "well", "{cell}");
        while acknowledged.len() < usize::from(PINGS) {
            let frame = wire.read().await.unwrap();
            if frame.kind == PING && frame.flags & ACK != 0 {
                acknowledged.push(frame.payload[0]);
            }
        }
        assert_eq!(acknowledged, (1..=PINGS).collect::<Vec<_>>(), "{cell}");
    })
    .await;
}

/// "This test verifies that the client observes the MAX_CONCURRENT_STREAMS limit set by the server": with the first call's
/// response it is lowered to one, and then fifteen calls come at once. A pool may bring connections of its own for them.
#[tokio::test]
async fn max_streams() {
    in_each_cell(async |server, channel, cell| {
        let first = call(&channel);
        let mut wire = server.accept(&[]).await;
        let (stream, _) = wire.request().await;
        wire.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
        wire.acknowledged().await;
        wire.answer(stream, "well").await;
        first.await.unwrap().unwrap();

        let calls: Vec<_> = (0..15).map(|_| call(&channel)).collect();
        let serving = async {
            let mut wires = JoinSet::new();
            wires.spawn(one_at_a_time(wire));
            loop {
                let wire = server.accept(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
                wires.spawn(one_at_a_time(wire));
            }
        };
        let answered = async {
            for call in calls {
                assert_eq!(call.await.unwrap().unwrap(), "well", "{cell}");
            }
        };
        tokio::select! {
            () = answered => {}
            () = serving => {}
        }
    })
    .await;
}

/// Answers each call after a while, in which no other may come.
async fn one_at_a_time(mut wire: AnyWire) {
    let mut open = None;
    while let Some(frame) = wire.read().await {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => wire.write(SETTINGS, ACK, 0, &[]).await,
            HEADERS => {
                assert!(open.replace(frame.stream).is_none(), "two streams at a limit of one");
                tokio::time::sleep(Duration::from_millis(2)).await;
                // What the client has sent by now comes before the acknowledgment.
                wire.write(PING, 0, 0, &[0; 8]).await;
            }
            PING if frame.flags & ACK != 0 => {
                if let Some(stream) = open.take() {
                    wire.answer(stream, "well").await;
                }
            }
            _ => {}
        }
    }
}
