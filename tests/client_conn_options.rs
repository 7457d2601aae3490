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
use support::frames::{FOREVER, FrameServer, NO_ERROR, REFUSED_STREAM, Wire};
use support::memory::*;
use support::{TonicServer, cause, eventually_async, hello, refused_target, slow_hello};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

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

#[tokio::test(start_paused = true)]
async fn by_the_builders_option_calls_wait_through_a_failure_and_are_served_by_the_next_dial() {
    let (builder, mut server) = in_memory();
    let conn = builder.wait_for_ready(true).build().unwrap();
    let before = call(&conn, hello("ada"));
    let failed = server.hang_up().await;
    settle().await;
    assert_eq!(conn.state(), ConnectivityState::TransientFailure);
    let after = call(&conn, hello("bob"));
    let impatient = failure(call(&conn, waiting("eve", false))).await;
    assert_eq!(dial_failure(&impatient).0, DialPhase::Settings);
    assert!(failed.elapsed() < Duration::from_millis(800), "the pause is not over yet");
    assert!(!before.is_finished() && !after.is_finished());
    let mut wire = server.accept(&[]).await;
    for _ in 0..2 {
        let (stream, _) = wire.request().await;
        wire.answer(stream, "at last").await;
    }
    assert_eq!((reply(before).await, reply(after).await), ("at last".to_owned(), "at last".to_owned()));
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

// ── the time of an attempt ──

/// A time for each of them would allow eight seconds.
#[tokio::test(start_paused = true)]
async fn connecting_and_settings_share_the_connect_timeout() {
    let (builder, mut server) = in_memory_after(Duration::from_secs(3));
    let conn = builder.connect_timeout(Duration::from_secs(5)).build().unwrap();
    let start = tokio::time::Instant::now();
    let waits = call(&conn, hello("ada"));
    let mut mute = server.dialed().await;
    assert_about(start.elapsed(), Duration::from_secs(3));
    let status = failure(waits).await;
    assert_about(start.elapsed(), Duration::from_secs(5));
    assert_eq!(dial_failure(&status), (DialPhase::Settings, Some(io::ErrorKind::TimedOut)));
    hung_up(&mut mute).await;
    assert_about(start.elapsed(), Duration::from_secs(5));
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
    while server.seen.accepted() < 4 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} connections", server.seen.accepted());
        client.say_hello(hello("ada")).await.unwrap();
    }
    // One for each nine tenths of the age, and no more.
    let most = 2 + start.elapsed().as_millis() as usize / 90;
    assert!(server.seen.accepted() <= most, "{}, not {most}", server.seen.accepted());
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 8, "the stream outlives the age of its connection");
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

// ── what is kept of a request ──

/// What a default of 64 KiB comes to.
const RESEND_BUFFER: usize = 64 << 10;

/// A message of so many bytes on the wire: five of gRPC's prefix, one for the field, three for the length of the name.
fn message_of(bytes: usize) -> HelloRequest {
    hello(&"a".repeat(bytes - 9))
}

/// With windows that a large request fits into.
async fn accept_wide(server: &mut Pipes) -> Wire<DuplexStream> {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut wire = server.accept(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await;
    wire.widen(1 << 20).await;
    wire
}

/// What becomes of a call that [`send`] has made.
async fn sent(call: JoinHandle<Result<String, Status>>) -> Result<String, Status> {
    tokio::time::timeout(FOREVER, call).await.expect("an outcome").unwrap()
}

/// A call with messages of these sizes.
fn send(conn: &ClientConn, sizes: &[usize]) -> JoinHandle<Result<String, Status>> {
    let mut client = GreeterClient::new(conn.clone());
    let messages: Vec<_> = sizes.iter().copied().map(message_of).collect();
    tokio::spawn(async move {
        let reply = match <[HelloRequest; 1]>::try_from(messages) {
            Ok([only]) => client.say_hello(only).await?.into_inner(),
            Err(many) => client.chat(tokio_stream::iter(many)).await?.into_inner().message().await?.unwrap(),
        };
        Ok(reply.message)
    })
}

#[tokio::test(start_paused = true)]
async fn by_default_a_request_of_64_kib_in_all_is_sent_again_and_one_of_a_byte_more_is_not() {
    const KIB: usize = 1 << 10;
    let requests: [(&[usize], _); 5] = [
        (&[RESEND_BUFFER], true),
        (&[RESEND_BUFFER + 1], false),
        (&[40 * KIB, 24 * KIB], true),
        (&[40 * KIB, 24 * KIB + 1], false),
        (&[RESEND_BUFFER + 1, 17 * KIB], false),
    ];
    for (sizes, fits) in requests {
        for goaway in [false, true] {
            let (builder, mut server) = in_memory();
            let conn = builder.build().unwrap();
            let only = send(&conn, sizes);
            let mut wire = accept_wide(&mut server).await;
            let (stream, body) = wire.request().await;
            assert_eq!(body.len(), sizes.iter().sum::<usize>());
            match goaway {
                true => wire.goaway(0, NO_ERROR, b"").await,
                false => wire.reset(stream, REFUSED_STREAM).await,
            }
            if fits {
                if goaway {
                    wire = accept_wide(&mut server).await;
                }
                let (again, same) = wire.request().await;
                assert!(same == body, "whole, from its beginning");
                wire.answer(again, "at last").await;
                assert_eq!(sent(only).await.unwrap(), "at last");
            } else {
                let status = sent(only).await.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(matches!(cause(&status), Error::NotProcessed { .. }), "{status:?}");
                settle().await;
                assert!(server.is_empty(), "nothing is dialed for it");
                if !goaway {
                    // The next request is the next call's.
                    served(&conn, &mut wire).await;
                }
            }
        }
    }
}

// ── the user agent ──

/// What a server is told of who calls, when a request is sent and when it is sent again.
async fn user_agents(conn: ClientConn, server: &mut Pipes, own: Option<&'static str>) -> Vec<String> {
    let mut request = Request::new(hello("ada"));
    if let Some(own) = own {
        request.metadata_mut().insert("user-agent", own.parse().unwrap());
    }
    let refused = call(&conn, request);
    let mut connection = h2::server::handshake(server.dialed().await).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let accepted = tokio::time::timeout(FOREVER, connection.accept()).await.expect("a request");
        let (request, mut response) = accepted.unwrap().unwrap();
        let values = request.headers().get_all(http::header::USER_AGENT);
        seen.extend(values.iter().map(|value| value.to_str().unwrap().to_owned()));
        response.send_reset(h2::Reason::REFUSED_STREAM);
    }
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert!(matches!(cause(&failure(refused).await), Error::NotProcessed { .. }));
    seen
}

#[tokio::test(start_paused = true)]
async fn a_servers_user_agent_is_the_requests_then_the_builders_then_our_own() {
    const OURS: &str = concat!("cenote/", env!("CARGO_PKG_VERSION"));
    for (of_builder, of_request, expected) in [
        (None, None, OURS.to_owned()),
        (Some("shop/7"), None, format!("shop/7 {OURS}")),
        (None, Some("cart/3"), format!("cart/3 {OURS}")),
        (Some("shop/7"), Some("cart/3"), format!("cart/3 shop/7 {OURS}")),
    ] {
        let (builder, mut server) = in_memory();
        let builder = of_builder.into_iter().fold(builder, |builder, name| builder.user_agent(name));
        let conn = builder.build().unwrap();
        let seen = user_agents(conn, &mut server, of_request).await;
        assert_eq!(seen, [expected.clone(), expected]);
    }
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

/// As the system has them.
#[cfg(target_os = "linux")]
mod of_our_socket {
    use std::ffi::c_int;
    use std::net::SocketAddr;

    /// A file of this process that is a socket connected to this peer; the server's end has another.
    fn connected_to(peer: SocketAddr) -> c_int {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok());
        numbers.find(|file| peer_of(*file) == Some(peer)).expect("a connected socket")
    }

    fn peer_of(file: c_int) -> Option<SocketAddr> {
        // SAFETY: plain numbers, for which all zeroes are a value.
        let mut name: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&name) as libc::socklen_t;
        // SAFETY: it writes no more than `length` bytes to `name`; a file that is none, or no socket, is an error.
        let failed = unsafe { libc::getpeername(file, (&raw mut name).cast(), &mut length) };
        let is_v4 = failed == 0 && c_int::from(name.sin_family) == libc::AF_INET;
        let address = u32::from_be(name.sin_addr.s_addr).to_be_bytes();
        is_v4.then(|| (address, u16::from_be(name.sin_port)).into())
    }

    fn option(file: c_int, level: c_int, name: c_int) -> c_int {
        let mut value: c_int = 0;
        let mut length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: it writes no more than `length` bytes to `value`.
        let failed = unsafe { libc::getsockopt(file, level, name, (&raw mut value).cast(), &mut length) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
        value
    }

    pub(super) fn nodelay(peer: SocketAddr) -> bool {
        option(connected_to(peer), libc::IPPROTO_TCP, libc::TCP_NODELAY) != 0
    }

    /// In seconds; `None` if it is off.
    pub(super) fn keepalive(peer: SocketAddr) -> Option<c_int> {
        let socket = connected_to(peer);
        let on = option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE) != 0;
        on.then(|| option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE))
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_socket_has_the_options_that_were_set() {
    for (nodelay, expected) in [(None, true), (Some(true), true), (Some(false), false)] {
        let server = FrameServer::start().await;
        let builder = ClientConn::builder(server.target());
        let conn = nodelay.into_iter().fold(builder, |builder, on| builder.tcp_nodelay(on)).build().unwrap();
        conn.connect();
        let _wire = server.accept(&[]).await;
        assert_eq!(of_our_socket::nodelay(server.addr()), expected, "{nodelay:?}");
    }
    for (time, expected) in
        [(None, None), (Some(Duration::from_secs(77)), Some(77)), (Some(Duration::MAX), Some(32_767))]
    {
        let server = FrameServer::start().await;
        let conn = ClientConn::builder(server.target()).tcp_keepalive(time).build().unwrap();
        conn.connect();
        let _wire = server.accept(&[]).await;
        assert_eq!(of_our_socket::keepalive(server.addr()), expected, "{time:?}");
    }
}

/// Where `localhost` has addresses of both families: at the first nobody gets through, as the queue of connections that are to be
/// accepted is full, and the system drops what else comes; at the other is the server.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_swallows_packets_does_not_keep_a_dial_from_the_next_one() {
    use tokio::net::{TcpSocket, TcpStream};

    let addresses: Vec<_> = tokio::net::lookup_host("localhost:0").await.unwrap().collect();
    let first = addresses[0];
    let Some(other) = addresses.iter().find(|address| address.is_ipv6() != first.is_ipv6()) else {
        eprintln!("skipped: `localhost` has addresses of one family only");
        return;
    };
    // A port that is free on both.
    let (full, listener) = loop {
        let socket = if first.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }.unwrap();
        socket.bind(first).unwrap();
        let port = socket.local_addr().unwrap().port();
        if let Ok(listener) = TcpListener::bind((other.ip(), port)).await {
            break (socket.listen(0).unwrap(), listener);
        }
    };
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    // The first that does not get through is given up: the next ones do not, either.
    while let Ok(stream) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let conn = ClientConn::new(format!("http://localhost:{}", address.port())).unwrap();
    let start = Instant::now();
    let served = call(&conn, hello("ada"));
    let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    let (socket, _) = accepted.expect("a dial of the other address").unwrap();
    let mut wire = Wire::over(socket, &[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "here").await;
    assert_eq!(reply(served).await, "here");
    // A quarter of a second, where nothing else keeps the machine busy; the first address's own end is its time of 20 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
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
