//! gRPC's own interoperability cases (`doc/interop-test-descriptions.md` of the gRPC repository) against grpc-go's
//! implementation of their service: over each kind of channel of this crate, in plaintext and over TLS.
//!
//! The tests build the server with the `go` they find. Where that cannot be done they say so and pass, unless
//! `CENOTE_REQUIRE_PEERS` is set.

mod peers;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use cenote::grpc::TlsConfig;
use cenote_proto::interop::test_service_client::TestServiceClient;
use cenote_proto::interop::unimplemented_service_client::UnimplementedServiceClient;
use cenote_proto::interop::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use peers::Peer;
use support::authority::Authority;
use support::kinds::{AnyChannel, AnyService, Kind};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
use tonic::{Code, Request, Streaming};

const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: usize = 314_159;
const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [i32; 4] = [31_415, 9, 2_653, 58_979];

/// A running server, and how to reach it.
struct Server {
    peer: Peer,
    tls: Option<TlsConfig>,
}

impl Server {
    /// `None` where it cannot be built, after having said so.
    fn start(tls: bool) -> Option<Self> {
        static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| peers::go_program("./interop", "grpc-go-interop"));
        let mut command = Command::new(peers::found("grpc-go", program.as_ref())?);
        let authority = tls.then(Authority::new);
        if let Some(authority) = &authority {
            let (certificate, key) = authority.issue("localhost");
            command.env("CERTIFICATE", certificate.pem()).env("KEY", key.serialize_pem());
        }
        Some(Server { peer: Peer::start(&mut command), tls: authority.map(|authority| authority.trusted()) })
    }

    fn connect(&self, kind: Kind) -> AnyChannel {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let target = format!("{scheme}://localhost:{}", self.peer.port);
        kind.connect(&target, self.tls.as_ref()).unwrap()
    }
}

type Client = TestServiceClient<AnyService>;

/// Runs a case over each kind of channel, in plaintext and over TLS.
async fn in_each_cell(case: impl AsyncFn(&AnyChannel, &str)) {
    for tls in [false, true] {
        let Some(server) = Server::start(tls) else { return };
        for kind in Kind::ALL {
            let cell = format!("{kind:?} {}", if tls { "over TLS" } else { "in plaintext" });
            let channel = server.connect(kind);
            let run = case(&channel, &cell);
            timeout(Duration::from_secs(60), run)
                .await
                .unwrap_or_else(|_| panic!("{cell}: not done in time"));
        }
    }
}

fn client(channel: &AnyChannel) -> Client {
    TestServiceClient::new(channel.service())
}

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { body: vec![0; size] })
}

fn sizes(sizes: &[i32]) -> Vec<ResponseParameters> {
    sizes.iter().map(|size| ResponseParameters { size: *size, interval_us: 0 }).collect()
}

async fn next_size(responses: &mut Streaming<StreamingOutputCallResponse>) -> Option<usize> {
    Some(responses.message().await.unwrap()?.payload.unwrap().body.len())
}

#[tokio::test]
async fn empty_unary() {
    in_each_cell(async |channel, cell| {
        assert_eq!(client(channel).empty_call(Empty {}).await.unwrap().into_inner(), Empty {}, "{cell}");
    })
    .await;
}

#[tokio::test]
async fn large_unary() {
    in_each_cell(async |channel, cell| {
        let request = SimpleRequest {
            response_size: LARGE_RESPONSE as i32,
            payload: zeros(LARGE_REQUEST),
            response_status: None,
        };
        let response = client(channel).unary_call(request).await.unwrap().into_inner();
        assert_eq!(response.payload, zeros(LARGE_RESPONSE), "{cell}");
    })
    .await;
}

#[tokio::test]
async fn client_streaming() {
    in_each_cell(async |channel, cell| {
        let requests = REQUESTS.map(|size| StreamingInputCallRequest { payload: zeros(size) });
        let response = client(channel).streaming_input_call(tokio_stream::iter(requests)).await.unwrap();
        assert_eq!(response.into_inner().aggregated_payload_size, 74_922, "{cell}");
    })
    .await;
}

#[tokio::test]
async fn server_streaming() {
    in_each_cell(async |channel, cell| {
        let request = StreamingOutputCallRequest {
            response_parameters: sizes(&RESPONSES),
            payload: None,
            response_status: None,
        };
        let mut responses = client(channel).streaming_output_call(request).await.unwrap().into_inner();
        for size in RESPONSES {
            assert_eq!(next_size(&mut responses).await, Some(size as usize), "{cell}");
        }
        assert_eq!(next_size(&mut responses).await, None, "{cell}");
    })
    .await;
}

#[tokio::test]
async fn ping_pong() {
    in_each_cell(async |channel, cell| {
        let (send, receive) = mpsc::channel(1);
        let call = async |client: &mut Client| client.full_duplex_call(ReceiverStream::new(receive)).await;
        let ask = |index: usize| StreamingOutputCallRequest {
            response_parameters: sizes(&RESPONSES[index..=index]),
            payload: zeros(REQUESTS[index]),
            response_status: None,
        };
        send.send(ask(0)).await.unwrap();
        let mut responses = call(&mut client(channel)).await.unwrap().into_inner();
        for (index, size) in RESPONSES.into_iter().enumerate() {
            assert_eq!(next_size(&mut responses).await, Some(size as usize), "{cell}");
            if index + 1 < RESPONSES.len() {
                send.send(ask(index + 1)).await.unwrap();
            }
        }
        drop(send);
        assert_eq!(next_size(&mut responses).await, None, "{cell}");
    })
    .await;
}

#[tokio::test]
async fn empty_stream() {
    in_each_cell(async |channel, cell| {
        let mut responses =
            client(channel).full_duplex_call(tokio_stream::empty()).await.unwrap().into_inner();
        assert_eq!(next_size(&mut responses).await, None, "{cell}");
    })
    .await;
}

#[tokio::test]
async fn custom_metadata() {
    const ASCII: &str = "x-grpc-test-echo-initial";
    const BINARY: &str = "x-grpc-test-echo-trailing-bin";
    in_each_cell(async |channel, cell| {
        let value = AsciiMetadataValue::from_static("test_initial_metadata_value");
        let bytes = BinaryMetadataValue::from_bytes(&[0xab, 0xab, 0xab]);
        let mut request =
            Request::new(SimpleRequest { response_size: 1, payload: zeros(1), response_status: None });
        request.metadata_mut().insert(ASCII, value.clone());
        request.metadata_mut().insert_bin(BINARY, bytes.clone());
        // tonic puts the trailers of a unary call with its head.
        let response = client(channel).unary_call(request).await.unwrap();
        assert_eq!(response.metadata().get(ASCII), Some(&value), "{cell}");
        assert_eq!(response.metadata().get_bin(BINARY), Some(&bytes), "{cell}");

        let mut request = Request::new(tokio_stream::iter([StreamingOutputCallRequest {
            response_parameters: sizes(&[1]),
            payload: zeros(1),
            response_status: None,
        }]));
        request.metadata_mut().insert(ASCII, value.clone());
        request.metadata_mut().insert_bin(BINARY, bytes.clone());
        let response = client(channel).full_duplex_call(request).await.unwrap();
        assert_eq!(response.metadata().get(ASCII), Some(&value), "{cell}");
        let mut responses = response.into_inner();
        while next_size(&mut responses).await.is_some() {}
        let trailers = responses.trailers().await.unwrap().unwrap();
        assert_eq!(trailers.get_bin(BINARY), Some(&bytes), "{cell}");
    })
    .await;
}

#[tokio::test]
async fn status_code_and_message_and_special_status_message() {
    in_each_cell(async |channel, cell| {
        for message in
            ["test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"]
        {
            let wanted = Some(EchoStatus { code: 2, message: message.to_owned() });
            let request = SimpleRequest { response_size: 0, payload: None, response_status: wanted.clone() };
            let status = client(channel).unary_call(request).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::Unknown, message), "{cell}");

            let request = StreamingOutputCallRequest {
                response_parameters: Vec::new(),
                payload: None,
                response_status: wanted,
            };
            let responses = client(channel).full_duplex_call(tokio_stream::iter([request])).await;
            // grpc-go answers with its head and its trailers in one.
            let status = match responses {
                Ok(responses) => responses.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            };
            assert_eq!((status.code(), status.message()), (Code::Unknown, message), "{cell}");
        }
    })
    .await;
}

#[tokio::test]
async fn unimplemented_method_and_unimplemented_service() {
    in_each_cell(async |channel, cell| {
        let status = client(channel).unimplemented_call(Empty {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{cell}");
        let mut client = UnimplementedServiceClient::new(channel.service());
        let status = client.unimplemented_call(Empty {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{cell}");
    })
    .await;
}

/// A call is canceled by its drop. The channel is as good as before.
#[tokio::test]
async fn cancel_after_begin_and_cancel_after_first_response() {
    in_each_cell(async |channel, cell| {
        let (_send, receive) = mpsc::channel::<StreamingInputCallRequest>(1);
        let mut begun = client(channel);
        let call = begun.streaming_input_call(ReceiverStream::new(receive));
        assert!(timeout(Duration::from_millis(20), call).await.is_err(), "{cell}: it waits for requests");

        let (send, receive) = mpsc::channel(1);
        let request = StreamingOutputCallRequest {
            response_parameters: sizes(&RESPONSES[..1]),
            payload: zeros(REQUESTS[0]),
            response_status: None,
        };
        send.send(request).await.unwrap();
        let responses = client(channel).full_duplex_call(ReceiverStream::new(receive)).await.unwrap();
        let mut responses = responses.into_inner();
        assert_eq!(next_size(&mut responses).await, Some(RESPONSES[0] as usize), "{cell}");
        drop(responses);
        // The stream of requests ends with its call.
        timeout(Duration::from_secs(10), send.closed())
            .await
            .unwrap_or_else(|_| panic!("{cell}: requests go on"));
        client(channel).empty_call(Empty {}).await.unwrap();
    })
    .await;
}

/// The server does not answer, and resets the stream with CANCEL when its own timer for the call fires, at the same moment as
/// the client's: whichever is first, the outcome is the deadline's.
#[tokio::test]
async fn timeout_on_sleeping_server_200_times() {
    in_each_cell(async |channel, cell| {
        for number in 0..200 {
            let (send, receive) = mpsc::channel(1);
            let request = StreamingOutputCallRequest {
                response_parameters: Vec::new(),
                payload: zeros(27_182),
                response_status: None,
            };
            send.send(request).await.unwrap();
            let mut request = Request::new(ReceiverStream::new(receive));
            // The case has 1 ms. Longer ones meet the other phases.
            request.set_timeout(Duration::from_millis(1 + number % 5));
            let status = match client(channel).full_duplex_call(request).await {
                Ok(responses) => responses.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            };
            assert_eq!(status.code(), Code::DeadlineExceeded, "{cell}, call {number}: {status:?}");
        }
    })
    .await;
}
