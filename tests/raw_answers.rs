//! What a unary call comes to, whatever a server answers: frame by frame, beside what grpc-go's client makes of the same bytes.
//!
//! Each row is a server's answer to each request that reaches it, and the outcome: the status code, and how many requests the
//! server got, since some are sent again. Where grpc-go's outcome is another one the row says which, and why ours is not
//! that. Its column is measured, too: the tests build a client on grpc-go with the `go` they find. Where that cannot be done
//! they say so and check our column alone, unless `CENOTE_REQUIRE_PEERS` is set.

mod peers;
mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote::grpc::ClientConn;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::*;
use support::hello;
use tonic::Code::{
    self, Cancelled, DeadlineExceeded, Internal, NotFound, OutOfRange, PermissionDenied, ResourceExhausted,
    Unauthenticated, Unavailable, Unimplemented, Unknown,
};
use tonic::Request;

/// What a server does, one after the other, when it has the whole request.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A good response's head.
    Head,
    /// HEADERS with these fields.
    Fields(&'static [(&'static str, &'static str)]),
    /// The same, and the end of the stream.
    LastFields(&'static [(&'static str, &'static str)]),
    /// DATA with a message.
    Message,
    /// DATA with these bytes.
    Data(&'static [u8]),
    /// The same, and the end of the stream.
    LastData(&'static [u8]),
    /// Trailers that say OK.
    Done,
    /// RST_STREAM.
    Rst(u32),
    /// GOAWAY that covers the request, or the one before it.
    GoAway { covers: bool, code: u32 },
    /// The end of the server's bytes, with all that is on the connection.
    Fin,
    /// The same, by a reset of TCP.
    Abort,
    /// A frame of this kind on the request's stream, with these flags and this payload.
    Frame(u8, u8, &'static [u8]),
    /// The same on the connection's own stream.
    OnConnection(u8, u8, &'static [u8]),
}

use Step::*;

/// A status code, and the requests that reached the server.
type Outcome = (Code, usize);

#[derive(Debug)]
struct Row {
    name: String,
    steps: Vec<Step>,
    ours: Outcome,
    go: Outcome,
    /// Why ours is not grpc-go's.
    because: &'static str,
}

/// The same outcome.
fn same(name: impl Into<String>, steps: &[Step], code: Code, requests: usize) -> Row {
    let (ours, go) = ((code, requests), (code, requests));
    Row { name: name.into(), steps: steps.to_vec(), ours, go, because: "" }
}

/// Another outcome than grpc-go's.
fn other(name: impl Into<String>, steps: &[Step], ours: Outcome, go: Outcome, because: &'static str) -> Row {
    assert!(ours != go && !because.is_empty());
    Row { name: name.into(), steps: steps.to_vec(), ours, go, because }
}

const DEADLINE: Duration = Duration::from_secs(2);

/// Plays the steps for each request of each connection.
async fn serve(server: FrameServer, steps: Vec<Step>, requests: Arc<AtomicUsize>) {
    loop {
        let mut wire = server.accept(&[]).await;
        let (steps, requests) = (steps.clone(), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Some(stream) = next_request(&mut wire).await {
                requests.fetch_add(1, Ordering::SeqCst);
                for step in &steps {
                    if !play(*step, &mut wire, stream).await {
                        return;
                    }
                }
            }
        });
    }
}

/// The stream of the next whole request; `None` at the connection's end.
async fn next_request(wire: &mut Wire) -> Option<u32> {
    loop {
        let frame = wire.read().await?;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => wire.try_write(SETTINGS, ACK, 0, &[]).await.ok()?,
            PING if frame.flags & ACK == 0 => wire.try_write(PING, ACK, 0, &frame.payload).await.ok()?,
            DATA | HEADERS if frame.flags & END_STREAM != 0 => return Some(frame.stream),
            _ => {}
        }
    }
}

/// Whether the connection is there after it. The client may have gone at any time.
async fn play(step: Step, wire: &mut Wire, stream: u32) -> bool {
    const ALL: u8 = END_HEADERS | END_STREAM;
    let written = match step {
        Head => wire.try_write(HEADERS, END_HEADERS, stream, &fields(&HEAD)).await,
        Fields(some) => wire.try_write(HEADERS, END_HEADERS, stream, &fields(some)).await,
        LastFields(some) => wire.try_write(HEADERS, ALL, stream, &fields(some)).await,
        Message => wire.try_answer_message(stream, "well").await,
        Data(bytes) => wire.try_write(DATA, 0, stream, bytes).await,
        LastData(bytes) => wire.try_write(DATA, END_STREAM, stream, bytes).await,
        Done => wire.try_write(HEADERS, ALL, stream, &fields(&[("grpc-status", "0")])).await,
        Rst(code) => wire.try_write(RST_STREAM, 0, stream, &code.to_be_bytes()).await,
        GoAway { covers, code } => {
            let last = if covers { stream } else { stream.saturating_sub(2) };
            let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
            wire.try_write(GOAWAY, 0, 0, &payload).await
        }
        Frame(kind, flags, payload) => wire.try_write(kind, flags, stream, payload).await,
        OnConnection(kind, flags, payload) => wire.try_write(kind, flags, 0, payload).await,
        Fin => return false,
        Abort => {
            wire.abort();
            return false;
        }
    };
    written.is_ok()
}

/// A server for each row; its address, and how many requests it has had.
async fn servers(rows: &[Row]) -> Vec<(String, Arc<AtomicUsize>)> {
    let mut servers = Vec::new();
    for row in rows {
        let (server, requests) = (FrameServer::start().await, Arc::new(AtomicUsize::new(0)));
        servers.push((server.addr().to_string(), Arc::clone(&requests)));
        tokio::spawn(serve(server, row.steps.clone(), requests));
    }
    servers
}

async fn ours(address: String) -> (Code, String) {
    let conn = ClientConn::new(format!("http://{address}")).unwrap();
    let mut request = Request::new(hello("ada"));
    request.set_timeout(DEADLINE);
    match GreeterClient::new(conn).say_hello(request).await {
        Result::Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// Checks a table, both columns; each difference is printed before it fails.
async fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    let all = servers(rows).await;
    // Side by side: some of them wait for their deadline.
    let calls: Vec<_> = all.iter().map(|(address, _)| tokio::spawn(ours(address.clone()))).collect();
    for (row, (call, (_, requests))) in rows.iter().zip(calls.into_iter().zip(&all)) {
        let (code, text) = call.await.unwrap();
        let outcome = (code, requests.load(Ordering::SeqCst));
        if outcome != row.ours {
            wrong.push(format!(
                "{}: ours is {outcome:?}, not {:?}: {text} {}",
                row.name, row.ours, row.because
            ));
        }
    }
    wrong.extend(check_go(rows).await);
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

async fn check_go(rows: &[Row]) -> Vec<String> {
    static PROGRAM: std::sync::OnceLock<Result<std::path::PathBuf, String>> = std::sync::OnceLock::new();
    let program = PROGRAM.get_or_init(|| peers::go_program("./raw", "grpc-go-raw"));
    let Some(program) = peers::found("grpc-go", program.as_ref()) else { return Vec::new() };
    let all = servers(rows).await;
    let mut command = Command::new(program);
    command.args(all.iter().map(|(address, _)| address));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), rows.len());
    let mut wrong = Vec::new();
    for (row, (line, (_, requests))) in rows.iter().zip(lines.into_iter().zip(&all)) {
        let (code, text) = line.split_once(' ').unwrap();
        // The number may be one that no code has.
        let code = Code::from_i32(code.parse().unwrap_or(-1));
        let outcome = (code, requests.load(Ordering::SeqCst));
        if outcome != row.go {
            wrong.push(format!("{}: grpc-go's is {outcome:?}, not {:?}: {text}", row.name, row.go));
        }
    }
    wrong
}

// ── RST_STREAM ──

/// The code, and what it is told as.
const RESET_CODES: [(&str, u32, Code); 15] = [
    ("NO_ERROR", 0, Internal),
    ("PROTOCOL_ERROR", 1, Internal),
    ("INTERNAL_ERROR", 2, Internal),
    ("FLOW_CONTROL_ERROR", 3, Internal),
    ("SETTINGS_TIMEOUT", 4, Internal),
    ("STREAM_CLOSED", 5, Internal),
    ("FRAME_SIZE_ERROR", 6, Internal),
    ("REFUSED_STREAM", REFUSED_STREAM, Unavailable),
    ("CANCEL", CANCEL, Cancelled),
    ("COMPRESSION_ERROR", 9, Internal),
    ("CONNECT_ERROR", 10, Internal),
    ("ENHANCE_YOUR_CALM", ENHANCE_YOUR_CALM, ResourceExhausted),
    ("INADEQUATE_SECURITY", 12, PermissionDenied),
    ("HTTP_1_1_REQUIRED", 13, Internal),
    ("of an unknown kind", 77, Internal),
];

/// How far a response has come.
const PHASES: [(&str, &[Step]); 3] =
    [("before the head", &[]), ("after the head", &[Head]), ("after the message", &[Head, Message])];

const COMMITTED: &str = "a call is committed to a response that has begun (gRFC A6)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_each_phase_is_told_by_its_code() {
    let mut rows = Vec::new();
    for (name, reset, code) in RESET_CODES {
        for (phase, before) in PHASES {
            let steps = [before, &[Rst(reset)]].concat();
            let name = format!("RST_STREAM {name} {phase}");
            rows.push(match reset {
                3 => other(
                    name,
                    &steps,
                    (code, 1),
                    (ResourceExhausted, 1),
                    "gRPC's table of HTTP/2 codes (PROTOCOL-HTTP2.md) has INTERNAL",
                ),
                REFUSED_STREAM if before.is_empty() => same(name, &steps, code, 2),
                REFUSED_STREAM => other(name, &steps, (code, 1), (code, 2), COMMITTED),
                77 => other(
                    name,
                    &steps,
                    (code, 1),
                    (Unknown, 1),
                    "a code that is not known may be taken for INTERNAL_ERROR (RFC 9113, section 7)",
                ),
                _ => same(name, &steps, code, 1),
            });
        }
    }
    check(&rows).await;
}

// ── grpc-status and grpc-message ──

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_told_as_it_was_sent_or_as_unknown_where_that_cannot_be_read() {
    macro_rules! trailers {
        ($name:expr, $fields:expr, $code:expr) => {
            same($name, &[Head, Message, LastFields($fields)], $code, 1)
        };
    }
    macro_rules! head_alone {
        ($name:expr, [$($field:expr),*], $code:expr) => {
            same($name, &[LastFields(&[(":status", "200"), ("content-type", "application/grpc"), $($field),*])], $code, 1)
        };
    }
    let rows = [
        trailers!("0", &[("grpc-status", "0")], Code::Ok),
        trailers!("1", &[("grpc-status", "1")], Cancelled),
        trailers!("5", &[("grpc-status", "5")], NotFound),
        trailers!("14", &[("grpc-status", "14")], Unavailable),
        trailers!("16", &[("grpc-status", "16")], Unauthenticated),
        trailers!("17", &[("grpc-status", "17")], Unknown),
        trailers!("05", &[("grpc-status", "05")], NotFound),
        trailers!("00", &[("grpc-status", "00")], Code::Ok),
        trailers!("-1", &[("grpc-status", "-1")], Unknown),
        trailers!("empty", &[("grpc-status", "")], Unknown),
        trailers!("words", &[("grpc-status", "NOT_FOUND")], Unknown),
        trailers!("4294967296", &[("grpc-status", "4294967296")], Unknown),
        other(
            "twice",
            &[Head, Message, LastFields(&[("grpc-status", "5"), ("grpc-status", "0")])],
            (NotFound, 1),
            (Code::Ok, 1),
            "an error is not overruled by what follows it",
        ),
        trailers!("missing", &[("x", "y")], Unknown),
        trailers!(
            "a message with percents",
            &[("grpc-status", "5"), ("grpc-message", "a%20b%zz%")],
            NotFound
        ),
        trailers!(
            "a message that is no UTF-8",
            &[("grpc-status", "5"), ("grpc-message", "%ff%fe")],
            NotFound
        ),
        other(
            "details that are no base64",
            &[Head, Message, LastFields(&[("grpc-status", "5"), ("grpc-status-details-bin", "%%%")])],
            (NotFound, 1),
            (Internal, 1),
            "the code can be read, and says more than that its details cannot",
        ),
        head_alone!("in a head alone, 5", [("grpc-status", "5")], NotFound),
        head_alone!("in a head alone, 0", [("grpc-status", "0")], Internal),
        head_alone!("in a head alone, missing", [], Unknown),
        same(
            "in a head, and other trailers",
            &[
                Fields(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]),
                Message,
                LastFields(&[("grpc-status", "5")]),
            ],
            NotFound,
            1,
        ),
        same(
            "in a head, and trailers without",
            &[
                Fields(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]),
                Message,
                LastFields(&[("x", "y")]),
            ],
            Unknown,
            1,
        ),
    ];
    check(&rows).await;
}

// ── HTTP ──

const BY_H2: &str = "h2 ends the connection, where grpc-go resets the stream";

const PUSH_PROMISE: u8 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_status_is_told_by_grpcs_table() {
    macro_rules! page {
        ($status:expr, $code:expr) => {
            same(
                concat!($status, ", a page"),
                &[Fields(&[(":status", $status), ("content-type", "text/html")]), LastData(b"<html></html>")],
                $code,
                1,
            )
        };
    }
    macro_rules! head {
        ($name:expr, $code:expr, $($field:expr),*) => {
            same($name, &[LastFields(&[$($field),*])], $code, 1)
        };
    }
    let rows = [
        page!("200", Unknown),
        page!("204", Unknown),
        page!("301", Unknown),
        page!("400", Internal),
        page!("401", Unauthenticated),
        page!("403", PermissionDenied),
        page!("404", Unimplemented),
        page!("408", Unknown),
        page!("418", Unknown),
        page!("429", Unavailable),
        other(
            "431, a page",
            &[Fields(&[(":status", "431"), ("content-type", "text/html")]), LastData(b"<html></html>")],
            (Internal, 1),
            (Unknown, 1),
            "a head that is too large is the client's own fault, which INTERNAL says",
        ),
        page!("500", Unknown),
        page!("502", Unavailable),
        page!("503", Unavailable),
        page!("504", Unavailable),
        head!("503 without a content-type", Unavailable, (":status", "503")),
        head!("200 without a content-type", Unknown, (":status", "200")),
        other(
            "503 with gRPC's type and no status",
            &[LastFields(&[(":status", "503"), ("content-type", "application/grpc")])],
            (Unavailable, 1),
            (Unknown, 1),
            "where there is no grpc-status, the HTTP status counts (http-grpc-status-mapping.md)",
        ),
        head!(
            "503 with gRPC's type and a status",
            NotFound,
            (":status", "503"),
            ("content-type", "application/grpc"),
            ("grpc-status", "5")
        ),
        same(
            "200 with application/grpc+proto",
            &[Fields(&[(":status", "200"), ("content-type", "application/grpc+proto")]), Message, Done],
            Code::Ok,
            1,
        ),
        same(
            "200 with application/grpc-web",
            &[Fields(&[(":status", "200"), ("content-type", "application/grpc-web")]), Message, Done],
            Unknown,
            1,
        ),
        same("100, and then an answer", &[Fields(&[(":status", "100")]), Head, Message, Done], Code::Ok, 1),
        other(
            "a head without a status",
            &[Fields(&[("content-type", "application/grpc")]), Message, Done],
            (Internal, 1),
            (Code::Ok, 1),
            "such a response is malformed (RFC 9113, section 8.3.2)",
        ),
        other(
            "a status of letters",
            &[Fields(&[(":status", "abc")]), Message, Done],
            (Unavailable, 1),
            (Internal, 1),
            BY_H2,
        ),
    ];
    check(&rows).await;
}

// ── GOAWAY, FIN and resets of TCP ──

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_connection_in_each_phase_sends_again_only_what_was_not_processed() {
    let mut rows = Vec::new();
    for (phase, before) in PHASES {
        for code in [NO_ERROR, 2, ENHANCE_YOUR_CALM] {
            for covers in [true, false] {
                for answers in [true, false] {
                    let rest = if answers { &[Head, Message, Done][before.len()..] } else { &[Fin] };
                    let steps = [before, &[GoAway { covers, code }], rest].concat();
                    let covering = if covers { "that covers it" } else { "without it" };
                    let then = if answers { "an answer" } else { "FIN" };
                    let name = format!("{phase}: GOAWAY {code} {covering}, then {then}");
                    rows.push(match (covers, answers) {
                        (true, true) => same(name, &steps, Code::Ok, 1),
                        (true, false) => same(name, &steps, Unavailable, 1),
                        (false, _) if before.is_empty() => same(name, &steps, Unavailable, 2),
                        (false, _) => other(name, &steps, (Unavailable, 1), (Unavailable, 2), COMMITTED),
                    });
                }
            }
        }
        rows.push(same(format!("{phase}: FIN"), &[before, &[Fin]].concat(), Unavailable, 1));
        rows.push(same(format!("{phase}: a reset of TCP"), &[before, &[Abort]].concat(), Unavailable, 1));
        rows.push(same(format!("{phase}: silence"), before, DeadlineExceeded, 1));
    }
    check(&rows).await;
}

// ── framing ──

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_framing_are_errors_and_no_fault_of_the_caller() {
    const SOME: &[u8] = &[0, 0, 0, 0, 6, 0x0a, 4, b'w', b'e'];
    let rows = [
        same("no message, OK", &[Head, Done], Internal, 1),
        other(
            "two messages, OK",
            &[Head, Message, Message, Done],
            (Code::Ok, 1),
            (Internal, 1),
            "tonic's client reads the first message of a unary response and no more",
        ),
        same("a message cut short, OK", &[Head, Data(SOME), Done], Internal, 1),
        same("a message's header cut short, OK", &[Head, Data(&[0, 0, 0]), Done], Internal, 1),
        other(
            "a message cut short, 5",
            &[Head, Data(SOME), LastFields(&[("grpc-status", "5")])],
            (NotFound, 1),
            (Internal, 1),
            "the server's own error says more than what is missing of its response",
        ),
        same("END_STREAM on DATA, no trailers", &[Head, LastData(&[0, 0, 0, 0, 0])], Internal, 1),
        same("END_STREAM on empty DATA", &[Head, LastData(b"")], Internal, 1),
        same("a message with an unknown flag", &[Head, Data(&[7, 0, 0, 0, 0]), Done], Internal, 1),
        same("a compressed message, no encoding told", &[Head, Data(&[1, 0, 0, 0, 0]), Done], Internal, 1),
        same("a message that is no protobuf", &[Head, Data(&[0, 0, 0, 0, 2, 0x0a, 9]), Done], Internal, 1),
        other(
            "a message of 5 MiB, announced",
            &[Head, Data(&[0, 0, 0x50, 0, 0]), Done],
            (OutOfRange, 1),
            (ResourceExhausted, 1),
            "tonic's decoder has a code of its own for its limit",
        ),
        other(
            "an encoding that was not asked for",
            &[
                Fields(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "br")]),
                Data(&[1, 0, 0, 0, 1, 0]),
                Done,
            ],
            (Unimplemented, 1),
            (Internal, 1),
            "tonic's decoder has a code of its own for it",
        ),
        other(
            "DATA before the head",
            &[Message, Head, Done],
            (Unavailable, 1),
            (Code::Ok, 1),
            "a response begins with its head (RFC 9113, section 8.1); h2 ends the connection",
        ),
        same("trailers without END_STREAM", &[Head, Message, Fields(&[("grpc-status", "0")])], Internal, 1),
        same("DATA on stream 0", &[OnConnection(DATA, 0, b"x"), Head, Message, Done], Unavailable, 1),
        same(
            "SETTINGS of 5 bytes",
            &[OnConnection(SETTINGS, 0, b"12345"), Head, Message, Done],
            Unavailable,
            1,
        ),
        same("PING of 7 bytes", &[OnConnection(PING, 0, b"1234567"), Head, Message, Done], Unavailable, 1),
        same(
            "a window update of 0",
            &[OnConnection(WINDOW_UPDATE, 0, &[0; 4]), Head, Message, Done],
            Unavailable,
            1,
        ),
        other(
            "a window update of 0 on the stream",
            &[Frame(WINDOW_UPDATE, 0, &[0; 4]), Head, Message, Done],
            (Unavailable, 1),
            (Internal, 1),
            BY_H2,
        ),
        other(
            "a window that overflows",
            &[OnConnection(WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff]), Head, Message, Done],
            (Unavailable, 1),
            (Code::Ok, 1),
            "such a connection must be ended (RFC 9113, section 6.9.1)",
        ),
        same(
            "CONTINUATION of nothing",
            &[Frame(CONTINUATION, END_HEADERS, b""), Head, Message, Done],
            Unavailable,
            1,
        ),
        other(
            "PUSH_PROMISE",
            &[Frame(PUSH_PROMISE, END_HEADERS, &[0, 0, 0, 2]), Head, Message, Done],
            (Unavailable, 1),
            (Code::Ok, 1),
            "push is switched off, so such a connection must be ended (RFC 9113, section 8.4)",
        ),
        same(
            "PRIORITY, as RFC 7540 has it",
            &[Frame(2, 0, &[0, 0, 0, 0, 15]), Head, Message, Done],
            Code::Ok,
            1,
        ),
        same(
            "an unknown frame",
            &[Frame(0xbe, 0, b"grease"), OnConnection(0xef, 7, b""), Head, Message, Done],
            Code::Ok,
            1,
        ),
        same(
            "a head that HPACK cannot read",
            &[Frame(HEADERS, END_HEADERS, &[0xff, 0xff, 0xff, 0xff]), Done],
            Unavailable,
            1,
        ),
        same("padding longer than the frame", &[Head, Frame(DATA, 8, &[200, 1]), Done], Unavailable, 1),
        other(
            "a field name in capitals",
            &[
                Fields(&[(":status", "200"), ("content-type", "application/grpc"), ("X-Loud", "1")]),
                Message,
                Done,
            ],
            (Unavailable, 1),
            (Internal, 1),
            BY_H2,
        ),
    ];
    check(&rows).await;
}
