//! `ClientConn` and `ClientPool` through a proxy of another make: nginx, between them and a tonic server.
//!
//! Where there is no nginx the tests say so and pass, unless `CENOTE_REQUIRE_PEERS` is set.
#![cfg(unix)]

mod peers;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use cenote::grpc::{CallPhase, ClientConn, ClientPool, ConnectivityState, DialPhase, Error, TlsConfig};
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use peers::{Peer, no_call_fails_while, run, until_state};
use support::{TonicServer, cause, eventually, eventually_async, hello, refused_target, slow_hello};
use tokio::time::sleep;
use tonic::Code;

fn find() -> Result<PathBuf, String> {
    let mut places = ["nginx", "/usr/sbin/nginx"].into_iter();
    places
        .find(|nginx| run(Command::new(nginx).arg("-v")).is_ok())
        .map(PathBuf::from)
        .ok_or_else(|| "neither in PATH nor in /usr/sbin".to_owned())
}

/// An nginx that passes all calls on to one server, with files of its own.
struct Nginx {
    /// Its processes; dropped before the files.
    peer: Peer,
    files: Files,
}

/// A directory that goes with its handle.
struct Files(PathBuf);

impl Files {
    fn new(what: &str) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{what}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let dir = peers::workshop().join(name);
        fs::create_dir_all(&dir).unwrap();
        Files(dir)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Nginx {
    /// On a port of its own, with these parameters of `listen` and directives of the server. `None` where there is no nginx,
    /// after having said so.
    fn start(upstream: &str, listen: &str, directives: &str) -> Option<Self> {
        Self::start_at(None, upstream, listen, directives)
    }

    fn start_at(port: Option<u16>, upstream: &str, listen: &str, directives: &str) -> Option<Self> {
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let program = peers::found("nginx", FOUND.get_or_init(find).as_ref())?;
        // A free port may be taken by another before nginx has it, and that of a predecessor be free a moment later.
        for _ in 0..50 {
            let port = port.unwrap_or_else(free_port);
            match Self::try_start(program, port, upstream, listen, directives) {
                Ok(nginx) => return Some(nginx),
                Err(log) if log.contains("Address already in use") => {
                    thread::sleep(Duration::from_millis(100))
                }
                Err(log) => panic!("{log}"),
            }
        }
        panic!("no port to listen on");
    }

    /// Fails with what nginx said.
    fn try_start(
        program: &Path,
        port: u16,
        upstream: &str,
        listen: &str,
        directives: &str,
    ) -> Result<Self, String> {
        let files = Files::new("nginx");
        let upstream = upstream.trim_start_matches("http://");
        let config = format!(
            "daemon off; worker_processes 1; pid pid; error_log stderr warn;
             events {{ worker_connections 256; }}
             http {{
                 access_log off;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 upstream greeter {{ server {upstream}; keepalive 8; }}
                 server {{ listen 127.0.0.1:{port} {listen}; {directives} location / {{ grpc_pass greeter; }} }}
             }}"
        );
        fs::write(files.0.join("nginx.conf"), config).unwrap();
        let log = files.0.join("log");
        // nginx does not look at its standard input, so a shell does, and at its end ends both.
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" & read -r _; kill -KILL 0", "sh"]).arg(program);
        command.args(["-c", "nginx.conf", "-p"]).arg(&files.0);
        command.stderr(Stdio::from(fs::File::create(&log).unwrap()));
        let peer = Peer::start_at(port, &mut command);
        let (ready, said) = (files.0.join("pid"), || fs::read_to_string(&log).unwrap());
        // It writes its process id when it listens.
        eventually("nginx listens, or says why not", || {
            ready.metadata().is_ok_and(|pid| pid.len() > 0) || said().contains("[emerg]")
        });
        match said() {
            log if log.contains("[emerg]") => Err(log),
            _ => Ok(Nginx { peer, files }),
        }
    }

    fn target(&self) -> String {
        self.peer.target()
    }

    /// QUIT: no new connections, and calls that run may end. HUP: the same, with a new worker that takes over.
    fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.files.0.join("pid")).unwrap();
        run(Command::new("kill").args(["-s", signal, pid.trim()])).unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The call has reached the server behind.
async fn until_called(server: &TonicServer, calls: usize) {
    eventually_async("the call is there", || server.seen.calls.load(Ordering::SeqCst) == calls).await;
}

#[tokio::test]
async fn calls_and_streams_pass() {
    let server = TonicServer::start();
    let Some(nginx) = Nginx::start(&server.target(), "http2", "") else { return };
    let conn = ClientConn::new(nginx.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    assert_eq!(client.say_hello(hello("ada")).await.unwrap().into_inner().message, "tonic: hello, ada");
    assert_eq!(client.say_hello(hello("nobody")).await.unwrap_err().code(), Code::NotFound);
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 1000, pause_ms: 0 };
    let mut replies = client.stream_hello(request).await.unwrap().into_inner();
    for i in 0..1000 {
        assert_eq!(replies.message().await.unwrap().unwrap().message, format!("{i}: hello, ada"));
    }
    assert!(replies.message().await.unwrap().is_none());
    let names = tokio_stream::iter(["ada".to_owned(), "b".repeat(300_000)].map(|name| hello(&name)));
    let mut replies = client.chat(names).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "hello, ada");
    assert_eq!(replies.message().await.unwrap().unwrap().message.len(), "hello, ".len() + 300_000);
    assert!(replies.message().await.unwrap().is_none());
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn no_call_fails_while_each_connection_may_carry_but_ten() {
    let server = TonicServer::start();
    let Some(nginx) = Nginx::start(&server.target(), "http2", "keepalive_requests 10;") else { return };
    let pool = ClientPool::builder(nginx.target()).max_connections(2).build().unwrap();
    let calls = no_call_fails_while(&pool, sleep(Duration::from_secs(1))).await;
    let stats = pool.stats();
    assert!(calls > 20 && stats.dials * 10 >= calls, "{calls} calls, {stats:?}");
    assert_eq!((stats.failed_dials, stats.discarded.total()), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn no_call_fails_while_nginx_reloads() {
    let server = TonicServer::start();
    let Some(nginx) = Nginx::start(&server.target(), "http2", "") else { return };
    let pool = ClientPool::builder(nginx.target()).max_connections(1).build().unwrap();
    no_call_fails_while(&pool, async {
        for dials in 2..7 {
            sleep(Duration::from_millis(100)).await;
            nginx.signal("HUP");
            eventually_async("the connection is replaced", || pool.stats().dials >= dials).await;
        }
    })
    .await;
    let stats = pool.stats();
    assert_eq!((stats.failed_dials, stats.discarded.total()), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn when_nginx_quits_it_is_idle_at_once_the_open_call_completes_and_the_next_nginx_is_found() {
    let server = TonicServer::start();
    let Some(nginx) = Nginx::start(&server.target(), "http2", "") else { return };
    let conn = ClientConn::new(nginx.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let mut open = client.clone();
    let call =
        tokio::spawn(async move { open.say_hello(slow_hello("ada", Duration::from_millis(1500))).await });
    until_called(&server, 1).await;
    nginx.signal("QUIT");
    until_state(&conn, ConnectivityState::Idle).await;
    assert!(!call.is_finished());
    let Some(_next) = Nginx::start_at(Some(nginx.peer.port), &server.target(), "http2", "") else { return };
    client.say_hello(hello("grace")).await.unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_is_under_way_when_nginx_is_killed_is_unavailable_and_not_sent_twice() {
    let server = TonicServer::start();
    let Some(nginx) = Nginx::start(&server.target(), "http2", "") else { return };
    let conn = ClientConn::new(nginx.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let call =
        tokio::spawn(async move { client.say_hello(slow_hello("ada", Duration::from_secs(60))).await });
    until_called(&server, 1).await;
    drop(nginx);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(matches!(cause(&status), Error::Interrupted { phase: CallPhase::Response, .. }), "{status:?}");
    until_state(&conn, ConnectivityState::Idle).await;
    assert_eq!(server.seen.calls.load(Ordering::SeqCst), 1);
}

/// nginx answers with a page of HTML and HTTP's status 502.
#[tokio::test]
async fn a_server_that_nginx_cannot_reach_is_unavailable_while_the_connection_to_nginx_is_ready() {
    let Some(nginx) = Nginx::start(&refused_target(), "http2", "") else { return };
    let conn = ClientConn::new(nginx.target()).unwrap();
    let mut client = GreeterClient::new(conn.clone());
    let status = client.say_hello(hello("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("502"), "{status:?}");
    let request = StreamHelloRequest { name: "ada".to_owned(), count: 1, pause_ms: 0 };
    let status = client.stream_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(cause(&status), Error::NotGrpc { status: 502, .. }), "{status:?}");
    assert_eq!(conn.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn tls_with_openssl_agrees_on_http2_and_without_it_the_dial_fails_in_that_phase() {
    let server = TonicServer::start();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Files::new("certificate");
    let (certificate, key) = (files.0.join("certificate.pem"), files.0.join("key.pem"));
    fs::write(&certificate, issued.cert.pem()).unwrap();
    fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let directives = format!("ssl_certificate {certificate:?}; ssl_certificate_key {key:?};");
    for (listen, agrees) in [("ssl http2", true), ("ssl", false)] {
        let Some(nginx) = Nginx::start(&server.target(), listen, &directives) else { return };
        let target = format!("https://localhost:{}", nginx.peer.port);
        let tls = TlsConfig::new().ca_certificate_pem(issued.cert.pem());
        let conn = ClientConn::builder(target).tls(tls).build().unwrap();
        match GreeterClient::new(conn).say_hello(hello("ada")).await {
            Ok(reply) => assert!(agrees, "{reply:?}"),
            Err(status) => {
                assert!(!agrees, "{status:?}");
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(matches!(cause(&status), Error::Dial { phase: DialPhase::Tls, .. }), "{status:?}");
                // nginx's alert, or where it goes on without an agreement, our own word.
                let text = format!("{status:?}");
                assert!(text.contains("NoApplicationProtocol") || text.contains("ALPN"), "{text}");
            }
        }
    }
}
