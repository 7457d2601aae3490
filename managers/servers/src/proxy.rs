//! A TCP proxy that misbehaves when told to.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How a [`Proxy`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It forwards all.
    Forward,
    /// It accepts connections and takes requests, but holds all answers back, of the connections that it has too.
    Mute,
    /// It closes the connections that it has, and each new one at once.
    Cut,
}

/// Stands between a client and a server. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before the server at a loopback port.
    ///
    /// # Errors
    ///
    /// If it gets no port.
    pub async fn start(upstream: u16) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (mode, modes) = watch::channel(Mode::Forward);
        let upstream = SocketAddr::from(([127, 0, 0, 1], upstream));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream, modes.clone()));
            }
        });
        Ok(Proxy { port, mode, task })
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes how it behaves, for all connections.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, upstream: SocketAddr, mut modes: watch::Receiver<Mode>) {
    let answers = modes.clone();
    let both = async {
        let server = TcpStream::connect(upstream).await?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            ended = forward(from_client, to_server, None) => ended,
            ended = forward(from_server, to_client, Some(answers)) => ended,
        }
    };
    tokio::select! {
        _ = both => {}
        // Or the proxy is gone, and its connections with it.
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: Option<watch::Receiver<Mode>>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut bytes).await?;
        if let Some(modes) = &mut held {
            let _ = modes.wait_for(|mode| *mode != Mode::Mute).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..length]).await?;
    }
}
