//! A server that can die as a process does, and come back on the same port, or have a successor on another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cenote_proto::greeter_server::GreeterServer;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::greeter::Greeting;
use crate::proxy;

/// How a server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) max_streams: Option<u32>,
    pub(crate) max_age: Option<Duration>,
    /// After the age. With one tonic 0.14.9 sends no GOAWAY, but cuts the connection after it.
    pub(crate) grace: Option<Duration>,
}

/// A server that runs.
struct Life {
    runtime: Runtime,
    health: HealthReporter,
    take_leave: Option<oneshot::Sender<()>>,
    /// Ends with the last connection, after the leave.
    served: JoinHandle<()>,
}

/// A server, or the place of one.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    greeting: Greeting,
    identity: Option<Identity>,
    life: Arc<Mutex<Option<Life>>>,
}

impl Backend {
    /// With TLS, if it has an identity.
    pub(crate) async fn start(greeting: Greeting, identity: Option<Identity>) -> Self {
        // Port 0 once; later lives are on the port that this one got.
        let (life, addr) = live(greeting.clone(), identity.clone(), ANY_PORT, Setup::default()).await;
        Backend { addr, greeting, identity, life: Arc::new(Mutex::new(Some(life))) }
    }

    /// What its health service says until it is restarted.
    pub(crate) async fn say(&self, status: ServingStatus) {
        if let Some(life) = &*self.life.lock().await {
            life.health.set_service_status("", status).await;
        }
    }

    pub(crate) fn place(&self) -> usize {
        self.greeting.place
    }

    /// As kill -9 does; `down` later there is another. Those who come meanwhile wait for their turn.
    pub(crate) async fn restart(&self, down: Duration, setup: Setup) {
        let mut life = self.life.lock().await;
        if let Some(life) = life.take() {
            end(life).await;
        }
        sleep(down).await;
        *life = Some(live(self.greeting.clone(), self.identity.clone(), self.addr, setup).await.0);
    }

    /// GOAWAY to all, and no new connections; open streams may end until somebody restarts it.
    pub(crate) async fn take_leave(&self) {
        if let Some(take_leave) = self.life.lock().await.as_mut().and_then(|life| life.take_leave.take()) {
            let _ = take_leave.send(());
        }
    }

    /// Another server takes over, at another address, and this one is left to its connections.
    pub(crate) async fn succeed(&self, setup: Setup) -> (Leaving, SocketAddr) {
        let (life, addr) = live(self.greeting.clone(), self.identity.clone(), ANY_PORT, setup).await;
        (Leaving(self.life.lock().await.replace(life)), addr)
    }
}

/// A server that has a successor.
pub(crate) struct Leaving(Option<Life>);

impl Leaving {
    /// GOAWAY to all; true if its last connection was gone within this time.
    pub(crate) async fn take_leave(self, patience: Duration) -> bool {
        let Some(mut life) = self.0 else { return true };
        if let Some(take_leave) = life.take_leave.take() {
            let _ = take_leave.send(());
        }
        let is_gone = timeout(patience, &mut life.served).await.is_ok();
        end(life).await;
        is_gone
    }
}

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn end(life: Life) {
    let ended = tokio::task::spawn_blocking(move || life.runtime.shutdown_timeout(Duration::from_secs(5)));
    ended.await.expect("a runtime ends");
}

async fn live(
    greeting: Greeting,
    identity: Option<Identity>,
    addr: SocketAddr,
    setup: Setup,
) -> (Life, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("server")
        .enable_all()
        .build()
        .expect("a runtime");
    let (tell, told) = oneshot::channel();
    let (take_leave, leave) = oneshot::channel();
    let mut server = Server::builder().max_concurrent_streams(setup.max_streams);
    if let Some(age) = setup.max_age {
        server = server.max_connection_age(age);
    }
    if let Some(grace) = setup.grace {
        server = server.max_connection_age_grace(grace);
    }
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    let served = runtime.spawn(async move {
        let listener = proxy::bind(addr).await;
        let _ = tell.send(listener.local_addr().expect("a bound socket has an address"));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let leave = async {
            if leave.await.is_err() {
                std::future::pending().await
            }
        };
        let greeter = GreeterServer::new(greeting);
        let server = server.add_service(greeter).add_service(health_service);
        let _ = server.serve_with_incoming_shutdown(incoming, leave).await;
    });
    let addr = told.await.expect("the server is bound");
    (Life { runtime, health, take_leave: Some(take_leave), served }, addr)
}
