//! The options of a connection, each by what a server or a caller sees of it.

mod support;

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cenote::grpc::{
    ClientConn, ClientPool, ConnectivityState, DialPhase, Error, Keepalive, TlsConfig, WaitForReady,
};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::{HelloRequest, StreamHelloRequest};
use support::{TonicServer, cause, eventually_async, hello, refused_target, slow_hello};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tonic::{Code, Request};

fn waiting(name: &str, wait: bool) -> Request<HelloRequest> {
    let mut request = Request::new(hello(name));
    request.extensions_mut().insert(WaitForReady(wait));
    request
}

fn address_of(target: &str) -> std::net::SocketAddr {
    target.trim_start_matches("http://").parse().unwrap()
}

async fn until_failed(conn: &ClientConn) {
    eventually_async("the dial has failed", || conn.state() == ConnectivityState::TransientFailure).await;
}

// ── wait for ready ──

#[tokio::test]
async fn a_call_that_waits_for_ready_is_served_when_the_server_comes() {
    let target = refused_target();
    let conn = ClientConn::new(&target).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(waiting("ada", true)).await });
    until_failed(&conn).await;
    let _server = TonicServer::start_at(address_of(&target), "late", |server| server);
    assert!(!call.is_finished());
    conn.reset_connect_backoff();
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "late: hello, ada");
}

#[tokio::test]
async fn a_request_may_decide_otherwise_than_the_builder() {
    let conn = ClientConn::builder(refused_target()).wait_for_ready(true).build().unwrap();
    let status = GreeterClient::new(conn).say_hello(waiting("ada", false)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn close_ends_a_call_that_waits_for_ready() {
    let conn = ClientConn::new(refused_target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call = tokio::spawn(async move { client.say_hello(waiting("ada", true)).await });
    until_failed(&conn).await;
    conn.close();
    let status = call.await.unwrap().unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
}

#[tokio::test]
async fn through_a_pool_a_call_waits_for_ready_too_and_dials_by_the_pools_gate() {
    let target = refused_target();
    let pool = ClientPool::builder(&target).wait_for_ready(true).build().unwrap();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let mut client = GreeterClient::new(pool.get_owned());
            tokio::spawn(async move { client.say_hello(hello("ada")).await })
        })
        .collect();
    eventually_async("a few attempts have failed", || pool.stats().failed_dials >= 3).await;
    let server = TonicServer::start_at(address_of(&target), "late", |server| server);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.seen.calls.load(Ordering::SeqCst), 10);
    assert!(pool.stats().dials < 60, "{:?}", pool.stats());
}

// ── the grace ──

#[tokio::test]
async fn with_a_grace_what_runs_ends_well_and_what_comes_later_fails() {
    let server = TonicServer::start();
    let conn = ClientConn::builder(server.target()).close_grace(Duration::from_secs(30)).build().unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let three = StreamHelloRequest { name: "ada".into(), count: 3, pause_ms: 100 };
    let mut stream = client.stream_hello(three).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let mut other = GreeterClient::new(conn.clone());
    let call =
        tokio::spawn(async move { other.say_hello(slow_hello("ada", Duration::from_millis(300))).await });
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the call has arrived", || seen.calls.load(Ordering::SeqCst) == 2).await;

    conn.close();
    assert_eq!(conn.state(), ConnectivityState::Shutdown);
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    call.await.unwrap().unwrap();
    stream.message().await.unwrap().unwrap();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
    eventually_async("the socket closes with the last of them", || seen.open() == 0).await;
    assert_eq!(seen.cancelled(), 0);
}

#[tokio::test]
async fn with_a_grace_too_a_connection_that_was_failing_says_that_it_is_closed() {
    let grace = Duration::from_secs(30);
    let conn = ClientConn::builder(refused_target()).close_grace(grace).build().unwrap();
    conn.connect();
    until_failed(&conn).await;
    conn.close();
    let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
}

// ── age ──

#[tokio::test]
async fn times_beyond_what_a_clock_or_the_system_can_count_are_as_good_as_never() {
    let server = TonicServer::start();
    let conn = ClientConn::builder(server.target())
        .max_connection_age(Duration::MAX)
        .close_grace(Duration::MAX)
        .tcp_keepalive(Duration::MAX)
        .build()
        .unwrap();
    let mut client = GreeterClient::new(conn.clone());
    client.say_hello(hello("ada")).await.unwrap();
    let slow = slow_hello("ada", Duration::from_millis(100));
    let call = tokio::spawn(async move { client.say_hello(slow).await });
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the call has arrived", || seen.calls.load(Ordering::SeqCst) == 2).await;
    conn.close();
    call.await.unwrap().unwrap();
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_is_old_makes_room_for_a_new_one_and_no_call_is_hurt() {
    let server = TonicServer::start();
    let conn =
        ClientConn::builder(server.target()).max_connection_age(Duration::from_millis(100)).build().unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let long = StreamHelloRequest { name: "ada".into(), count: 8, pause_ms: 100 };
    let mut stream = client.stream_hello(long).await.unwrap().into_inner();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        client.say_hello(hello("ada")).await.unwrap();
    }
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 8, "the stream outlives the age of its connection");
    assert!((3..=9).contains(&server.seen.accepted()), "{}", server.seen.accepted());
    let seen = std::sync::Arc::clone(&server.seen);
    eventually_async("the old ones are gone", || seen.open() <= 1).await;
}

// ── a connector ──

#[tokio::test]
async fn a_connector_makes_the_sockets_and_is_told_the_target() {
    let server = TonicServer::start();
    let addr = server.addr;
    let (told, heard) = std::sync::mpsc::channel();
    let connector = tower::service_fn(move |uri: http::Uri| {
        told.send(uri.to_string()).unwrap();
        tokio::net::TcpStream::connect(addr)
    });
    let conn = ClientConn::builder("http://nowhere.invalid:7").connector(connector.clone()).build().unwrap();
    GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap();
    assert_eq!(heard.recv().unwrap(), "http://nowhere.invalid:7/");
    let pool = ClientPool::builder("http://nowhere.invalid:8").connector(connector).build().unwrap();
    GreeterClient::new(pool.get_owned()).say_hello(hello("ada")).await.unwrap();
    assert_eq!(heard.recv().unwrap(), "http://nowhere.invalid:8/");
}

/// Takes the client's preface and no more, and has nothing to say.
struct TakesNoMore {
    has_preface: bool,
}

impl AsyncRead for TakesNoMore {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for TakesNoMore {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match std::mem::replace(&mut self.has_preface, true) {
            false => Poll::Ready(Ok(buf.len())),
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_socket_that_takes_no_more_fails_the_dial_with_what_the_write_failed_with() {
    let connector = tower::service_fn(|_| async { Ok::<_, io::Error>(TakesNoMore { has_preface: false }) });
    let conn = ClientConn::builder("http://a:1").connector(connector).build().unwrap();
    let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
    let Error::Dial { phase, source, .. } = cause(&status) else { panic!("{status:?}") };
    assert_eq!(*phase, DialPhase::Settings);
    let io = source.downcast_ref::<io::Error>().unwrap_or_else(|| panic!("{source:?}"));
    assert_eq!(io.kind(), io::ErrorKind::BrokenPipe, "{io}");
}

#[tokio::test]
async fn a_connector_that_fails_fails_the_dial_in_that_phase_with_its_error() {
    let phase = |status: &tonic::Status| match cause(status) {
        Error::Dial { phase, source, .. } => (*phase, source.to_string()),
        other => panic!("{other:?}"),
    };
    let fails = tower::service_fn(|_| async { Err::<tokio::net::TcpStream, _>("no way") });
    let conn = ClientConn::builder("http://a:1").connector(fails).build().unwrap();
    let status = GreeterClient::new(conn).say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(phase(&status), (DialPhase::Connect, "no way".to_owned()));
}

// ── HTTP/2 and TCP ──

/// The client's first SETTINGS, and the growth of the connection's window that it announces.
async fn settings_of(
    configure: impl FnOnce(cenote::grpc::ClientConnBuilder) -> ClientConn,
) -> Vec<(u16, u32)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let conn = configure(ClientConn::builder(target));
    conn.connect();
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut found = Vec::new();
    // SETTINGS, and a WINDOW_UPDATE of the connection if its window is not the initial 65,535.
    while let Ok(Ok(frame)) = tokio::time::timeout(Duration::from_millis(200), read_frame(&mut socket)).await
    {
        match frame {
            (4, payload) => found.extend(payload.chunks_exact(6).map(|setting| {
                let (id, value) = setting.split_at(2);
                (u16::from_be_bytes(id.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
            })),
            (8, payload) => found.push((0, 65_535 + u32::from_be_bytes(payload.try_into().unwrap()))),
            _ => {}
        }
    }
    conn.close();
    found
}

async fn read_frame(socket: &mut tokio::net::TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    socket.read_exact(&mut payload).await?;
    Ok((head[3], payload))
}

#[tokio::test]
async fn windows_and_the_header_limit_are_what_the_server_is_told() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let told = settings_of(|builder| {
        let builder = builder.initial_stream_window_size(123_456).initial_connection_window_size(7_654_321);
        builder.max_header_list_size(4_321).build().unwrap()
    })
    .await;
    assert!(told.contains(&(INITIAL_WINDOW_SIZE, 123_456)), "{told:?}");
    assert!(told.contains(&(MAX_HEADER_LIST_SIZE, 4_321)), "{told:?}");
    assert!(told.contains(&(0, 7_654_321)), "{told:?}");

    let told = settings_of(|builder| builder.adaptive_window(true).build().unwrap()).await;
    assert!(
        told.contains(&(INITIAL_WINDOW_SIZE, 65_535)) || !told.iter().any(|(id, _)| *id == 4),
        "{told:?}"
    );
}

/// The kernel's table of TCP sockets says whether a keepalive timer runs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn tcp_keepalive_sets_the_systems_timer() {
    let keepalive_timer_to = |port: u16| {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let row = table.lines().find(|row| {
            let words: Vec<&str> = row.split_whitespace().collect();
            words.get(2).is_some_and(|remote| remote.ends_with(&format!(":{port:04X}"))) && words[3] == "01"
        });
        row.expect("an established socket").split_whitespace().nth(5).unwrap().starts_with("02:")
    };
    for (time, expected) in [(None, false), (Some(Duration::from_secs(60)), true)] {
        let server = TonicServer::start();
        let conn = ClientConn::builder(server.target()).tcp_keepalive(time).build().unwrap();
        GreeterClient::new(conn.clone()).say_hello(hello("ada")).await.unwrap();
        let port = server.addr.port();
        eventually_async("the timer is as asked", || keepalive_timer_to(port) == expected).await;
    }
}

#[test]
fn values_that_cannot_be_are_errors_that_name_their_option() {
    let builder = || ClientConn::builder("http://127.0.0.1:1");
    let failures = [
        (builder().initial_stream_window_size(0), "initial_stream_window_size"),
        (builder().initial_stream_window_size(1 << 31), "initial_stream_window_size"),
        (builder().initial_connection_window_size(1 << 31), "initial_connection_window_size"),
        (builder().max_connection_age(Duration::ZERO), "max_connection_age"),
        (builder().tcp_keepalive(Duration::from_millis(999)), "tcp_keepalive"),
        (builder().keepalive(Keepalive::every(Duration::from_secs(9))), "keepalive"),
    ];
    for (builder, expected) in failures {
        match builder.build().unwrap_err() {
            Error::InvalidConfig { option, .. } => assert_eq!(option, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let nothing = TlsConfig::new().client_identity_pem("", "");
    let error = ClientConn::builder("https://a").tls(nothing).build().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { option: "client_identity_pem", .. }), "{error:?}");
}
