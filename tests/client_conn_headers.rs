//! Heads and trailers that are too large, or are none: the call gets a status, and the connection is as good as before, or the
//! next call has another.

mod support;

use cenote::grpc::ConnectivityState::{Idle, Ready};
use cenote::grpc::{CallPhase, ClientConn, ConnectivityState, Error};
use support::frames::*;
use support::memory::*;
use support::{cause, hello};
use tokio::io::DuplexStream;
use tonic::{Code, Status};

const KIB: usize = 1 << 10;

/// A response, in blocks of fields.
#[derive(Clone, Default)]
struct Answer {
    head: Vec<u8>,
    /// With a message before them; without trailers the head is all.
    trailers: Option<Vec<u8>>,
}

impl Answer {
    fn with_head(more: &[(&str, &str)]) -> Self {
        let head = [fields(&HEAD), fields(more)].concat();
        Answer { head, trailers: Some(fields(&[("grpc-status", "0")])) }
    }

    fn with_trailers(trailers: &[(&str, &str)]) -> Self {
        Answer { head: fields(&HEAD), trailers: Some(fields(trailers)) }
    }

    fn with_bytes_as_head(head: Vec<u8>) -> Self {
        Answer { head, trailers: None }
    }

    /// As much of it as the client takes, in bytes.
    async fn send(&self, wire: &mut Wire<DuplexStream>, stream: u32) -> usize {
        let Answer { head, trailers } = self;
        let end = if trailers.is_some() { 0 } else { END_STREAM };
        let mut taken = wire.write_fields_while_taken(end, stream, head).await;
        if let Some(trailers) = trailers {
            // Its head may have been the end of it.
            let _ = wire.try_answer_message(stream, "told").await;
            taken += wire.write_fields_while_taken(END_STREAM, stream, trailers).await;
        }
        taken
    }
}

struct Outcome {
    result: Result<String, Status>,
    state: ConnectivityState,
    /// Of the fields.
    taken: usize,
}

/// What becomes of a call that is answered so. One beside it completes if the connection stays Ready. Afterwards another one is
/// served, on the same connection or the next, and nothing is sent twice.
async fn answered_with(answer: &Answer) -> Outcome {
    let (builder, mut server) = in_memory();
    on_connection(&builder.build().unwrap(), &mut server, answer).await
}

async fn on_connection(conn: &ClientConn, server: &mut Pipes, answer: &Answer) -> Outcome {
    let beside = call(conn, hello("eve"));
    let mut wire = server.accept(&[]).await;
    let (other, _) = wire.request().await;
    let first = call(conn, hello("ada"));
    let (stream, _) = wire.request().await;
    let taken = answer.send(&mut wire, stream).await;
    let result = outcome(first).await;
    settle().await;
    let state = conn.state();
    if state == Ready {
        wire.answer(other, "beside").await;
        assert_eq!(reply(beside).await, "beside");
    } else {
        assert_broken_off(&failure(beside).await, Code::Unavailable, CallPhase::Response);
    }
    let next = call(conn, hello("bob"));
    if state != Ready {
        wire = server.accept(&[]).await;
    }
    let (stream, body) = wire.request().await;
    assert!(body.ends_with(b"bob"), "the request of the first call was sent again");
    wire.answer(stream, "next").await;
    assert_eq!(reply(next).await, "next");
    assert!(server.is_empty());
    Outcome { result, state, taken }
}

#[track_caller]
fn assert_broken_off(status: &Status, code: Code, expected: CallPhase) {
    assert_eq!(status.code(), code, "{status:?}");
    match cause(status) {
        Error::Interrupted { phase, .. } => assert_eq!(*phase, expected, "{status:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_beyond_the_limit_fails_its_call_and_no_other() {
    let long = "x".repeat(20 * KIB);
    let with_trailers = Answer::with_head(&[("x", &long)]);
    let alone = Answer { trailers: None, ..with_trailers.clone() };
    for answer in [with_trailers, alone] {
        let Outcome { result, state, .. } = answered_with(&answer).await;
        assert_broken_off(&result.unwrap_err(), Code::Internal, CallPhase::Response);
        assert_eq!(state, Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_the_one_that_was_set() {
    for (limit, size, fits) in [(KIB, 2 * KIB, false), (4 * KIB, 2 * KIB, true), (64 * KIB, 50 * KIB, true)] {
        let (builder, mut server) = in_memory();
        let conn = builder.max_header_list_size(limit as u32).build().unwrap();
        let answer = Answer::with_head(&[("x", &"x".repeat(size))]);
        let Outcome { result, state, .. } = on_connection(&conn, &mut server, &answer).await;
        assert_eq!(
            result.map_err(|status| status.code()),
            if fits { Ok("told".to_owned()) } else { Err(Code::Internal) }
        );
        assert_eq!(state, Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn of_trailers_beyond_the_limit_counts_what_stands_before_it() {
    let long = "x".repeat(20 * KIB);
    let status_first = Answer::with_trailers(&[("grpc-status", "0"), ("x", &long)]);
    let Outcome { result, state, .. } = answered_with(&status_first).await;
    assert_eq!(result.unwrap(), "told");
    assert_eq!(state, Ready);

    let status_last = Answer::with_trailers(&[("x", &long), ("grpc-status", "0")]);
    let Outcome { result, state, .. } = answered_with(&status_last).await;
    assert_eq!(result.unwrap_err().code(), Code::Unknown, "no status is no success");
    assert_eq!(state, Ready);

    let failure = Answer::with_trailers(&[("grpc-status", "5"), ("grpc-message", &long)]);
    let Outcome { result, .. } = answered_with(&failure).await;
    assert_eq!(result.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn megabytes_of_fields_are_not_read_to_their_end_but_end_the_connection() {
    let many: Vec<String> = (0..17 * KIB).map(|i| format!("x-{i}")).collect();
    let value = "v".repeat(KIB);
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), value.as_str())).collect();
    let phases =
        [(Answer::with_head(&many), CallPhase::Response), (Answer::with_trailers(&many), CallPhase::Body)];
    for (answer, phase) in phases {
        let Outcome { result, state, taken } = answered_with(&answer).await;
        assert_broken_off(&result.unwrap_err(), Code::Unavailable, phase);
        assert_eq!(state, Idle);
        assert!(taken < 1024 * KIB, "{taken} bytes of 17 MiB");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_none_fails_its_call_and_the_next_one_is_served() {
    let only = |head: &[(&str, &str)]| Answer { head: fields(head), ..Answer::with_head(&[]) };
    let grpc = ("content-type", "application/grpc");
    let malformed = [
        ("no :status", only(&[grpc])),
        ("two of them", only(&[(":status", "200"), (":status", "200"), grpc])),
        ("one of four digits", only(&[(":status", "1000"), grpc])),
        ("one that is no number", only(&[(":status", "fine"), grpc])),
        ("an empty one", only(&[(":status", ""), grpc])),
        ("one behind other fields", only(&[grpc, (":status", "200")])),
        ("a pseudo field that there is not", only(&[(":state", "good"), (":status", "200"), grpc])),
        ("a name in capitals", Answer::with_head(&[("X-Name", "x")])),
        ("an empty name", Answer::with_head(&[("", "x")])),
        ("a name with a space", Answer::with_head(&[("a b", "x")])),
        ("a value of two lines", Answer::with_head(&[("x", "a\r\nb")])),
        ("a field of HTTP/1's connections", Answer::with_head(&[("connection", "close")])),
        ("an encoding of HTTP/1's", Answer::with_head(&[("transfer-encoding", "chunked")])),
        ("a length that is none", Answer::with_head(&[("content-length", "some")])),
        ("what is no HPACK", Answer::with_bytes_as_head(vec![0xff; 20])),
        ("HPACK's index 0", Answer::with_bytes_as_head(vec![0x80])),
        ("HPACK that breaks off", Answer::with_bytes_as_head(fields(&HEAD)[..20].to_vec())),
    ];
    for (what, answer) in malformed {
        let Outcome { result, state, .. } = answered_with(&answer).await;
        let status = result.expect_err(what);
        // HTTP/2 leaves it to the client whether the stream is lost or the connection.
        let code = if state == Ready { Code::Internal } else { Code::Unavailable };
        assert_broken_off(&status, code, CallPhase::Response);
        assert!(matches!(state, Ready | Idle), "{what}: {state}");
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_and_lengths_that_are_none_fail_the_call_in_its_body() {
    let malformed = [
        ("a name in capitals", Answer::with_trailers(&[("grpc-status", "0"), ("X-Name", "x")])),
        ("a value of two lines", Answer::with_trailers(&[("grpc-status", "0"), ("x", "a\nb")])),
        ("a length of something else", Answer::with_head(&[("content-length", "3")])),
    ];
    for (what, answer) in malformed {
        let Outcome { result, state, .. } = answered_with(&answer).await;
        let status = result.expect_err(what);
        let code = if state == Ready { Code::Internal } else { Code::Unavailable };
        assert_broken_off(&status, code, CallPhase::Body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_that_is_none_is_unknown_and_says_nothing_of_the_connection() {
    for value in ["", "fine", "-1", "17", "99", "4294967296"] {
        let Outcome { result, state, .. } =
            answered_with(&Answer::with_trailers(&[("grpc-status", value)])).await;
        assert_eq!(result.unwrap_err().code(), Code::Unknown, "{value:?}");
        assert_eq!(state, Ready);
    }
    let nothing = Answer::with_trailers(&[("x", "no status")]);
    let only_a_head = Answer::with_bytes_as_head(fields(&HEAD));
    for answer in [nothing, only_a_head] {
        let Outcome { result, state, .. } = answered_with(&answer).await;
        assert_eq!(result.unwrap_err().code(), Code::Unknown);
        assert_eq!(state, Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_web_server_answers_is_a_status_by_its_http_code() {
    // PROTOCOL-HTTP2.md and http-grpc-status-mapping.md of the gRPC specification.
    let codes = [
        ("400", Code::Internal),
        ("401", Code::Unauthenticated),
        ("403", Code::PermissionDenied),
        ("404", Code::Unimplemented),
        ("429", Code::Unavailable),
        ("502", Code::Unavailable),
        ("503", Code::Unavailable),
        ("504", Code::Unavailable),
        ("500", Code::Unknown),
        ("418", Code::Unknown),
    ];
    for (http, code) in codes {
        let page = Answer::with_bytes_as_head(fields(&[(":status", http), ("content-type", "text/html")]));
        let Outcome { result, state, .. } = answered_with(&page).await;
        assert_eq!(result.unwrap_err().code(), code, "{http}");
        assert_eq!(state, Ready);
    }
}
