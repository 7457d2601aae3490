//! TCP connections for the loops.
//!
//! The listeners belong to the pool. With `SO_REUSEPORT` each loop has one, of which it accepts with a copy of its descriptor;
//! when the loop leaves, another takes the listener over, with what the kernel has queued there. Closed before its queue is
//! empty, it would reset those who wait in it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as Listener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::pool::{Inner, RuntimePool, Stopped};
use crate::primitive::{Arc, Mutex, Weak};

/// How connections come to the loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deal {
    /// One listener, on a loop; each connection goes to the next one in turn.
    RoundRobin,
    /// One listener, on a loop; each connection goes to the one with the fewest tasks.
    LeastLoaded,
    /// A listener for each loop, with `SO_REUSEPORT`: the kernel deals, by the addresses of a connection. Unix only.
    ReusePort,
}

/// How many connections may wait to be accepted, at each listener.
const BACKLOG: i32 = 1024;

/// The pause after an error of `accept`: no descriptors, for example.
const PAUSE: Duration = Duration::from_millis(20);

/// A server on a [`RuntimePool`]. Its drop closes the listeners; connections go on.
#[must_use = "the listeners are closed when it is dropped"]
pub struct Serving {
    address: SocketAddr,
    service: Arc<dyn Service>,
    pool: Weak<Inner>,
}

impl Serving {
    /// Where it listens: the port that was given out, if it was asked for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.service.close();
        if let Some(pool) = self.pool.upgrade() {
            pool.forget(&self.service);
        }
    }
}

/// A server, as the pool sees it.
pub(super) trait Service: Send + Sync {
    /// The loop of this index takes no more connections: others take its listeners over.
    fn leave(self: Arc<Self>, index: usize);
    /// The listeners are closed.
    fn close(&self);
}

/// A listener, and the loop that accepts from it.
struct Post {
    listener: Listener,
    by: usize,
    /// Tells the accepting task to end.
    end: Option<oneshot::Sender<()>>,
}

struct Tcp<H> {
    pool: Weak<Inner>,
    deal: Deal,
    handler: H,
    posts: Mutex<Vec<Post>>,
}

impl RuntimePool {
    /// Listens at an address, and runs the handler's future for each connection, on the loop that the connection is dealt to. The
    /// future needs not be `Send`.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened at, or no loop takes tasks.
    pub fn serve_tcp<H, F>(&self, address: SocketAddr, deal: Deal, handler: H) -> io::Result<Serving>
    where
        H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let first = listen(address, deal)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        if deal == Deal::ReusePort {
            for _ in 1..self.len() {
                listeners.push(listen(address, deal)?);
            }
        }
        let post = |(by, listener)| Post { listener, by, end: None };
        let posts: Vec<_> = listeners.into_iter().enumerate().map(post).collect();
        let count = posts.len();
        let service = Arc::new(Tcp { pool: self.downgrade(), deal, handler, posts: Mutex::new(posts) });
        let own: Arc<dyn Service> = Arc::clone(&service) as Arc<dyn Service>;
        self.remember(&own);
        let serving = Serving { address, service: own, pool: self.downgrade() };
        for at in 0..count {
            service.accept_at(self, at, None)?;
        }
        Ok(serving)
    }
}

fn listen(address: SocketAddr, deal: Deal) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    #[cfg(unix)]
    {
        socket.set_reuse_address(true)?;
        if deal == Deal::ReusePort {
            socket.set_reuse_port(true)?;
        }
    }
    #[cfg(not(unix))]
    if deal == Deal::ReusePort {
        return Err(io::ErrorKind::Unsupported.into());
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl<H, F> Tcp<H>
where
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    /// Has a loop accept from a listener: the one that it is assigned to, or the next that can.
    fn accept_at(self: &Arc<Self>, pool: &RuntimePool, at: usize, leaving: Option<usize>) -> io::Result<()> {
        let mut posts = self.posts.lock();
        let Some(post) = posts.get_mut(at) else { return Ok(()) };
        let indexes = (0..pool.len()).map(|offset| (post.by + offset) % pool.len());
        for index in indexes.filter(|index| Some(*index) != leaving) {
            let (end, ended) = oneshot::channel();
            let input = (Arc::clone(self), post.listener.try_clone()?, ended);
            let own = pool.at(index).expect("an index of the pool");
            if own.spawn_with(input, move |(service, copy, ended)| service.accept(copy, index, ended)).is_ok()
            {
                post.by = index;
                // The task that it replaces ends when its sender is gone.
                post.end = Some(end);
                return Ok(());
            }
        }
        Err(io::Error::other("no loop takes tasks"))
    }

    async fn accept(self: Arc<Self>, listener: Listener, index: usize, mut ended: oneshot::Receiver<()>) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut ended => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                // It is registered with this loop; the other one registers it anew.
                Ok((stream, peer)) => match stream.into_std() {
                    Ok(stream) => self.deal(stream, peer, index),
                    Err(_) => continue,
                },
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Gives a connection to a loop. If none takes it, it is closed.
    fn deal(self: &Arc<Self>, stream: std::net::TcpStream, peer: SocketAddr, index: usize) {
        let Some(pool) = self.pool.upgrade().map(RuntimePool::from_inner) else { return };
        let mut input = (Arc::clone(self), stream);
        for turn in 0..=pool.len() {
            let to = match self.deal {
                Deal::ReusePort if turn == 0 => pool.at(index).expect("an index of the pool"),
                Deal::LeastLoaded => pool.least_loaded(),
                Deal::RoundRobin | Deal::ReusePort => pool.next(),
            };
            let serve = move |(service, stream): (Arc<Self>, std::net::TcpStream)| async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    (service.handler)(stream, peer).await;
                }
            };
            match to.spawn_with(input, serve) {
                Ok(_) => return,
                Err(Stopped(refused)) => input = refused,
            }
        }
    }
}

impl<H, F> Service for Tcp<H>
where
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    fn leave(self: Arc<Self>, index: usize) {
        let Some(pool) = self.pool.upgrade().map(RuntimePool::from_inner) else { return };
        let count = self.posts.lock().len();
        for at in 0..count {
            let is_own = self.posts.lock().get(at).is_some_and(|post| post.by == index);
            // If there is no other loop, nobody accepts any more.
            if is_own && self.accept_at(&pool, at, Some(index)).is_err() {
                self.posts.lock().get_mut(at).map(|post| post.end.take());
            }
        }
    }

    fn close(&self) {
        self.posts.lock().clear();
    }
}
