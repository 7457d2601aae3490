//! What `observe` shows of a `Channel` of tonic's own, against real servers, good and bad.

mod support;

use std::time::Duration;

use cenote::grpc::{ChannelObserver, ConnectivityState, Error, TargetError, observe};
use cenote_proto::HelloReply;
use cenote_proto::greeter_client::GreeterClient;
use support::frames::{self, FrameServer};
use support::*;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

type Call = JoinHandle<Result<Response<HelloReply>, Status>>;

fn endpoint(target: &str) -> Endpoint {
    Endpoint::from_shared(target.to_owned()).unwrap()
}

fn observed(target: &str) -> (Channel, ChannelObserver) {
    observe(endpoint(target)).unwrap()
}

fn call(channel: &Channel) -> Call {
    let mut client = GreeterClient::new(channel.clone());
    tokio::spawn(async move { client.say_hello(hello("ada")).await })
}

async fn within_10_s<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("not within 10 s: {what}"))
}

/// Calls until a call is answered: tonic may send the first after a loss on what is left of the lost connection.
async fn call_until_answered(channel: &Channel) {
    within_10_s("an answer", async { while call(channel).await.unwrap().is_err() {} }).await;
}

async fn until_state(observer: &ChannelObserver, wanted: ConnectivityState) {
    let wait = async {
        let mut state = observer.state();
        while state != wanted {
            state = observer.wait_for_state_change(state).await;
        }
    };
    within_10_s(&format!("{wanted}"), wait).await;
}

/// The states from now on, up to `last`.
fn states_up_to(observer: &ChannelObserver, last: ConnectivityState) -> JoinHandle<Vec<ConnectivityState>> {
    let observer = observer.clone();
    let mut states = vec![observer.state()];
    tokio::spawn(async move {
        while states.last() != Some(&last) {
            let change = observer.wait_for_state_change(states[states.len() - 1]);
            states.push(within_10_s(&format!("{last}, after {states:?}"), change).await);
        }
        states
    })
}

#[tokio::test]
async fn it_is_idle_without_io_and_ready_after_the_first_call_of_a_generated_client_for_channels() {
    let server = TonicServer::start();
    let (channel, observer) = observed(&server.target());
    assert_eq!(observer.state(), ConnectivityState::Idle);
    assert_eq!(server.seen.accepted(), 0);
    let mut client: GreeterClient<Channel> = GreeterClient::new(channel);
    for _ in 0..3 {
        let reply = client.say_hello(hello("ada")).await.unwrap();
        assert_eq!(reply.into_inner().message, "tonic: hello, ada");
        assert_eq!(observer.state(), ConnectivityState::Ready);
    }
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn it_is_connecting_until_the_settings_arrive_though_tonic_has_sent_the_call() {
    let server = FrameServer::start().await;
    let (channel, observer) = observed(&server.target());
    let call = call(&channel);
    let mut wire = server.accept_in_silence().await;
    let stream = loop {
        let frame = wire.read().await.expect("a request");
        if frame.kind == frames::HEADERS {
            break frame.stream;
        }
    };
    assert_eq!(observer.state(), ConnectivityState::Connecting);
    wire.settings(&[]).await;
    until_state(&observer, ConnectivityState::Ready).await;
    wire.answer(stream, "late").await;
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "late");
}

#[tokio::test]
async fn a_listener_that_says_nothing_is_never_ready() {
    let server = RawServer::start(Manner::Mute).await;
    let (channel, observer) = observed(&server.target());
    let call = call(&channel);
    eventually_async("TCP itself is connected", || server.accepted() == 1).await;
    assert_eq!(observer.state(), ConnectivityState::Connecting);
    let change = observer.wait_for_state_change(ConnectivityState::Connecting);
    assert!(tokio::time::timeout(Duration::from_millis(100), change).await.is_err());
    call.abort();
}

#[tokio::test]
async fn a_refused_port_is_a_transient_failure_until_an_attempt_succeeds() {
    let target = refused_target();
    let (channel, observer) = observed(&target);
    let states = states_up_to(&observer, ConnectivityState::TransientFailure);
    assert!(call(&channel).await.unwrap().is_err());
    assert!(!states.await.unwrap().contains(&ConnectivityState::Ready));

    let states = states_up_to(&observer, ConnectivityState::Ready);
    for _ in 0..2 {
        assert!(call(&channel).await.unwrap().is_err());
        assert_eq!(observer.state(), ConnectivityState::TransientFailure);
    }
    let _server = TonicServer::start_again(target.strip_prefix("http://").unwrap().parse().unwrap());
    assert!(call(&channel).await.unwrap().is_ok());
    assert_eq!(states.await.unwrap(), [ConnectivityState::TransientFailure, ConnectivityState::Ready]);
}

#[tokio::test]
async fn a_server_that_closes_before_its_settings_is_a_transient_failure_and_after_them_idle() {
    for (manner, wanted) in [
        (Manner::Fin, ConnectivityState::TransientFailure),
        (Manner::Http1, ConnectivityState::TransientFailure),
        (Manner::SettingsThenFin, ConnectivityState::Idle),
        (Manner::SettingsAndGoaway, ConnectivityState::Idle),
    ] {
        let server = RawServer::start(manner).await;
        let (channel, observer) = observed(&server.target());
        let call = call(&channel);
        until_state(&observer, ConnectivityState::Connecting).await;
        until_state(&observer, wanted).await;
        call.abort();
    }
}

/// The kernel's table of TCP sockets says whether a keepalive timer runs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_endpoints_tcp_options_are_kept() {
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
        let (channel, _observer) = observe(endpoint(&server.target()).tcp_keepalive(time)).unwrap();
        call(&channel).await.unwrap().unwrap();
        let port = server.addr.port();
        eventually_async("the timer is as asked", || keepalive_timer_to(port) == expected).await;
    }
}

#[tokio::test]
async fn it_is_idle_when_the_server_dies_and_ready_when_a_call_finds_it_again() {
    let server = TonicServer::start();
    let (channel, observer) = observed(&server.target());
    for _ in 0..3 {
        call_until_answered(&channel).await;
        assert_eq!(observer.state(), ConnectivityState::Ready);
    }
    let addr = server.kill();
    until_state(&observer, ConnectivityState::Idle).await;
    let calls = async {
        while observer.state() != ConnectivityState::TransientFailure {
            assert!(call(&channel).await.unwrap().is_err());
        }
    };
    within_10_s("a failed attempt", calls).await;
    let _server = TonicServer::start_again(addr);
    call_until_answered(&channel).await;
    assert_eq!(observer.state(), ConnectivityState::Ready);
}

#[tokio::test]
async fn it_is_idle_at_goaway_while_a_stream_is_open_and_that_ones_end_is_not_taken_for_the_next_ones() {
    let server = FrameServer::start().await;
    let (channel, observer) = observed(&server.target());
    let slow = call(&channel);
    let mut old = server.accept(&[]).await;
    let stream = old.headers().await;
    until_state(&observer, ConnectivityState::Ready).await;
    old.goaway(stream, frames::NO_ERROR, b"").await;
    until_state(&observer, ConnectivityState::Idle).await;

    let over = async |call: &Call| {
        while !call.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (call, mut new) = loop {
        let call = call(&channel);
        tokio::select! {
            wire = server.accept(&[]) => break (call, wire),
            // tonic sent it on the connection that takes no more.
            () = over(&call) => assert!(call.await.unwrap().is_err()),
        }
    };
    until_state(&observer, ConnectivityState::Ready).await;
    old.answer(stream, "old").await;
    assert_eq!(slow.await.unwrap().unwrap().into_inner().message, "old");
    while old.read().await.is_some() {}
    assert_eq!(observer.state(), ConnectivityState::Ready);
    let stream = new.headers().await;
    new.answer(stream, "new").await;
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "new");
    drop(new);
    until_state(&observer, ConnectivityState::Idle).await;
}

#[tokio::test]
async fn an_attempt_whose_call_is_given_up_is_no_failure() {
    let server = TonicServer::start();
    let (channel, observer) = observed(&server.target());
    let mut client = GreeterClient::new(channel.clone());
    tokio::select! {
        _ = client.say_hello(hello("ada")) => panic!("answered before it was connected"),
        state = observer.wait_for_state_change(ConnectivityState::Idle) => {
            assert_eq!(state, ConnectivityState::Connecting);
        }
    }
    let states = states_up_to(&observer, ConnectivityState::Ready);
    assert!(call(&channel).await.unwrap().is_ok());
    assert_eq!(states.await.unwrap(), [ConnectivityState::Connecting, ConnectivityState::Ready]);
    assert_eq!(server.seen.accepted(), 1);
}

#[tokio::test]
async fn it_is_shutdown_with_the_last_clone_of_the_channel_and_keeps_no_socket() {
    let server = TonicServer::start();
    let (channel, observer) = observed(&server.target());
    call(&channel).await.unwrap().unwrap();
    let clone = channel.clone();
    drop(channel);
    call(&clone).await.unwrap().unwrap();
    assert_eq!(observer.state(), ConnectivityState::Ready);
    let states = states_up_to(&observer, ConnectivityState::Shutdown);
    drop(clone);
    assert_eq!(states.await.unwrap(), [ConnectivityState::Ready, ConnectivityState::Shutdown]);
    eventually_async("the socket is closed", || server.seen.open() == 0).await;
    assert_eq!(observer.state(), ConnectivityState::Shutdown);
}

#[tokio::test]
async fn a_channel_that_never_dialed_is_shutdown_too_when_it_is_dropped() {
    let (channel, observer) = observed("http://127.0.0.1:1");
    drop(channel);
    let states = states_up_to(&observer, ConnectivityState::Shutdown);
    assert_eq!(states.await.unwrap(), [ConnectivityState::Idle, ConnectivityState::Shutdown]);
}

#[test]
fn outside_of_a_runtime_there_is_an_error_and_no_panic_and_an_observer_outlives_its_runtime() {
    assert!(matches!(observe(endpoint("http://127.0.0.1:1")), Err(Error::NoRuntime)));

    let server = TonicServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (channel, observer) = runtime.block_on(async {
        let (channel, observer) = observed(&server.target());
        call(&channel).await.unwrap().unwrap();
        (channel, observer)
    });
    assert_eq!(observer.state(), ConnectivityState::Ready);
    drop(runtime);
    assert_eq!(observer.state(), ConnectivityState::Shutdown);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let late = runtime.block_on(async { call(&channel).await.unwrap() });
    assert!(late.is_err(), "the channel is of no more use, as the state says");
}

#[tokio::test]
async fn a_unix_socket_is_an_error_and_a_host_of_the_name_that_tonic_gives_it_is_not() {
    for target in ["unix:/nowhere", "unix:///nowhere", "http://tonic"] {
        match observe(endpoint(target)) {
            Err(Error::InvalidTarget { source: TargetError::Unsupported(what), .. }) => {
                assert!(what.contains("Unix"), "{what}");
            }
            other => panic!("{target}: {other:?}"),
        }
    }
    observed("http://tonic:80");
}

#[tokio::test]
async fn what_is_printed_for_debugging_tells_target_and_state() {
    let (_channel, observer) = observed("http://127.0.0.1:1");
    let text = format!("{observer:?}");
    assert!(text.contains("http://127.0.0.1:1") && text.contains("Idle"), "{text}");
}

mod tls {
    use tonic::transport::{Certificate, ClientTlsConfig, ServerTlsConfig};

    use super::support::authority::Authority;

    use super::*;

    fn server(authority: &Authority) -> TonicServer {
        let tls = ServerTlsConfig::new().identity(authority.identity("localhost"));
        TonicServer::start_with(|server| server.tls_config(tls).unwrap())
    }

    fn trusting(authority: &Authority, port: u16) -> Endpoint {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
        endpoint(&format!("https://localhost:{port}")).tls_config(tls).unwrap()
    }

    #[tokio::test]
    async fn with_tls_it_is_ready_after_the_handshake_and_idle_when_the_socket_ends() {
        let authority = Authority::new();
        let server = server(&authority);
        let (channel, observer) = observe(trusting(&authority, server.addr.port())).unwrap();
        let states = states_up_to(&observer, ConnectivityState::Ready);
        let reply = call(&channel).await.unwrap().unwrap();
        assert_eq!(reply.into_inner().message, "tonic: hello, ada");
        let seen = [ConnectivityState::Idle, ConnectivityState::Connecting, ConnectivityState::Ready];
        assert_eq!(states.await.unwrap(), seen);
        // Many bytes that are no frames: none of them is taken for one.
        for _ in 0..100 {
            call(&channel).await.unwrap().unwrap();
            assert_eq!(observer.state(), ConnectivityState::Ready);
        }
        server.kill();
        until_state(&observer, ConnectivityState::Idle).await;
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_accepted_is_a_transient_failure_and_never_ready() {
        let server = server(&Authority::new());
        let (channel, observer) = observe(trusting(&Authority::new(), server.addr.port())).unwrap();
        let states = states_up_to(&observer, ConnectivityState::TransientFailure);
        assert!(call(&channel).await.unwrap().is_err());
        let seen =
            [ConnectivityState::Idle, ConnectivityState::Connecting, ConnectivityState::TransientFailure];
        assert_eq!(states.await.unwrap(), seen);
    }

    #[tokio::test]
    async fn a_server_that_answers_a_tls_handshake_with_nothing_or_plain_text_is_never_ready() {
        for manner in [Manner::Mute, Manner::Http1, Manner::SettingsThenFin, Manner::SettingsAndGoaway] {
            let server = RawServer::start(manner).await;
            let endpoint =
                trusting(&Authority::new(), server.addr.port()).connect_timeout(Duration::from_millis(300));
            let (channel, observer) = observe(endpoint).unwrap();
            let states = states_up_to(&observer, ConnectivityState::TransientFailure);
            assert!(call(&channel).await.unwrap().is_err(), "{manner:?}");
            let seen =
                [ConnectivityState::Idle, ConnectivityState::Connecting, ConnectivityState::TransientFailure];
            assert_eq!(states.await.unwrap(), seen, "{manner:?}");
        }
    }
}
