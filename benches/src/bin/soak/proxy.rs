//! A TCP proxy that misbehaves on demand.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::frames::{FromClient, FromServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// What it does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Pass,
    /// Reads nothing, so that the sender's buffers fill.
    Stall,
    /// Reads and forgets. A connection on which it has done so is no good any more, and forgets all until it is cut.
    Discard,
    /// A few bytes at a time.
    Drip,
    /// Nobody listens. Connections that there are go on.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    /// Where new connections go.
    to: SocketAddr,
    manner: Manner,
    /// Stepped to cut all connections.
    cuts: u64,
    with_reset: bool,
    /// How many streams clients are told that there may be at once; 0: what the server tells them.
    limit: u32,
}

/// Whether it understands what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bytes,
    /// It sends empty DATA frames, and can tell clients another limit of streams.
    Http2,
}

/// It lives, with its connections, on the runtime that it was started on.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    orders: watch::Sender<Order>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr, kind: Kind) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let orders =
            watch::Sender::new(Order { to, manner: Manner::Pass, cuts: 0, with_reset: false, limit: 0 });
        tokio::spawn(listen(listener, addr, kind, orders.subscribe()));
        Ok(Proxy { addr, orders })
    }

    pub(crate) fn lead_to(&self, to: SocketAddr) {
        self.orders.send_modify(|order| order.to = to);
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.orders.send_modify(|order| order.manner = manner);
    }

    /// What clients are told from now on, by a proxy that understands HTTP/2.
    pub(crate) fn limit_streams(&self, limit: u32) {
        self.orders.send_modify(|order| order.limit = limit);
    }

    pub(crate) fn cut(&self, with_reset: bool) {
        self.orders.send_modify(|order| {
            order.cuts += 1;
            order.with_reset = with_reset;
        });
    }
}

/// Binds, with patience: while nobody listens, an outgoing connection of this machine may have the port.
pub(crate) async fn bind(addr: SocketAddr) -> TcpListener {
    loop {
        let bound = TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            socket.listen(1024)
        });
        match bound {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn listen(mut listener: TcpListener, addr: SocketAddr, kind: Kind, mut orders: watch::Receiver<Order>) {
    loop {
        if orders.borrow_and_update().manner == Manner::Refuse {
            drop(listener);
            if orders.wait_for(|order| order.manner != Manner::Refuse).await.is_err() {
                return;
            }
            listener = bind(addr).await;
        }
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(relay(client, kind, orders.clone()));
            },
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

async fn relay(mut client: TcpStream, kind: Kind, mut orders: watch::Receiver<Order>) {
    let Order { to, cuts, .. } = *orders.borrow_and_update();
    // A server that is down: the client sees its connection close.
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let with_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (there, back) = match kind {
            Kind::Bytes => (Passage::Bytes, Passage::Bytes),
            Kind::Http2 => {
                (Passage::FromClient(FromClient::new()), Passage::FromServer(FromServer::default()))
            }
        };
        let there = copy(from_client, to_server, there, orders.clone());
        let back = copy(from_server, to_client, back, orders.clone());
        tokio::select! {
            _ = async { tokio::try_join!(there, back) } => false,
            order = orders.wait_for(|order| order.cuts != cuts) => order.is_ok_and(|order| order.with_reset),
        }
    };
    if with_reset {
        for socket in [&client, &server] {
            // It may be gone already.
            let _ = socket.set_zero_linger();
        }
    }
}

/// What becomes of the bytes of a direction.
enum Passage {
    Bytes,
    FromClient(FromClient),
    FromServer(FromServer),
}

impl Passage {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Passage::Bytes => out.extend_from_slice(bytes),
            Passage::FromClient(frames) => frames.pass(bytes, out),
            Passage::FromServer(frames) => frames.pass(bytes, out),
        }
    }

    fn set_limit(&mut self, limit: u32, out: &mut Vec<u8>) {
        if let Passage::FromServer(frames) = self {
            frames.set_limit(limit);
            frames.tell(out);
        }
    }
}

async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut passage: Passage,
    mut orders: watch::Receiver<Order>,
) -> io::Result<()> {
    let mut buf = vec![0; 16 * 1024];
    let mut out = Vec::new();
    let mut spoilt = false;
    loop {
        let Order { manner, limit, .. } = *orders.borrow_and_update();
        out.clear();
        passage.set_limit(limit, &mut out);
        // Who does not listen any more may have said something before: the other direction ends the connection.
        if !spoilt && to.write_all(&out).await.is_err() {
            return Ok(());
        }
        if manner == Manner::Stall {
            orders.changed().await.map_err(io::Error::other)?;
            continue;
        }
        let read = tokio::select! {
            read = from.read(&mut buf) => read?,
            changed = orders.changed() => {
                changed.map_err(io::Error::other)?;
                continue;
            }
        };
        if read == 0 {
            return to.shutdown().await;
        }
        spoilt |= manner == Manner::Discard;
        if spoilt {
            continue;
        }
        out.clear();
        passage.pass(&buf[..read], &mut out);
        let piece = if manner == Manner::Drip { 50 } else { buf.len() };
        for bytes in out.chunks(piece) {
            if to.write_all(bytes).await.is_err() {
                return Ok(());
            }
            if manner == Manner::Drip && orders.borrow().manner == Manner::Drip {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
