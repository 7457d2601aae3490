//! Connections and stubs for a bounded pool.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::conn::{ClientConn, ClientConnBuilder, ConnectivityState};
use super::error::Error;
use crate::bounded::Manager;

type Make<S> = dyn Fn(ClientConn) -> S + Send + Sync;

/// Makes connections, or stubs with a connection each, for a [`BoundedPool`](crate::bounded::BoundedPool).
///
/// One connection carries many calls at once, so a [`StreamPool`](super::StreamPool) or a [`ClientPool`](super::ClientPool) does
/// more with less. A bounded pool of stubs is for what must not run more often than N times at once, one caller to a connection.
///
/// A new connection is dialed, and the pool hands it out when it is Ready. One that is in TransientFailure or Shutdown when its
/// lease ends is closed. An Idle one is kept, as in grpc-go: its next call dials, or the pool's check does. A canceled call
/// costs its stream, not its connection.
///
/// ```no_run
/// use cenote::bounded::BoundedPool;
/// use cenote::grpc::{ClientConn, ConnManager};
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
///
/// # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = ConnManager::stubs(ClientConn::builder("http://127.0.0.1:5000"), GreeterClient::new);
/// let pool = BoundedPool::builder(manager).max_size(4).build()?;
///
/// let mut stub = pool.get().await?;
/// let reply = stub.say_hello(HelloRequest { name: "you".into(), delay_ms: 0 }).await?;
/// # Ok(())
/// # }
/// ```
pub struct ConnManager<S = ClientConn> {
    builder: ClientConnBuilder,
    make: Box<Make<S>>,
}

impl ConnManager {
    /// Makes connections with these options. The pool's creations fail if the options do not hold.
    pub fn new(builder: ClientConnBuilder) -> Self {
        ConnManager::stubs(builder, |conn| conn)
    }
}

impl<S> ConnManager<S> {
    /// Makes stubs: `make` is the `new` of a client that tonic generates, as a rule.
    pub fn stubs(builder: ClientConnBuilder, make: impl Fn(ClientConn) -> S + Send + Sync + 'static) -> Self {
        ConnManager { builder, make: Box::new(make) }
    }
}

impl<S> fmt::Debug for ConnManager<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnManager").field("builder", &self.builder).finish_non_exhaustive()
    }
}

/// A stub with its connection: what a [`ConnManager`] makes. It is used as the stub.
pub struct Stub<S> {
    conn: ClientConn,
    stub: S,
}

impl<S> Stub<S> {
    /// The connection. A clone that outlives the lease shares it with the next caller.
    pub fn conn(stub: &Self) -> &ClientConn {
        &stub.conn
    }
}

impl<S> Deref for Stub<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stub
    }
}

impl<S> DerefMut for Stub<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stub
    }
}

impl<S> fmt::Debug for Stub<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("conn", &self.conn).finish_non_exhaustive()
    }
}

impl<S: Send + 'static> Manager for ConnManager<S> {
    type Object = Stub<S>;
    type Error = Error;

    async fn create(&self) -> Result<Stub<S>, Error> {
        let conn = self.builder.clone().build()?;
        ready(&conn).await?;
        Ok(Stub { stub: (self.make)(conn.clone()), conn })
    }

    async fn check(&self, stub: &mut Stub<S>) -> Result<(), Error> {
        ready(&stub.conn).await
    }

    fn is_broken(&self, stub: &mut Stub<S>) -> bool {
        !stub.conn.state().is_usable()
    }

    fn resets_in_flight(&self) -> bool {
        true
    }

    async fn close(&self, stub: Stub<S>) {
        stub.conn.close();
    }
}

/// Waits until the connection is Ready; dials if it is Idle. Cancel safe.
async fn ready(conn: &ClientConn) -> Result<(), Error> {
    loop {
        let state = conn.state();
        match state {
            ConnectivityState::Ready => return Ok(()),
            ConnectivityState::Idle => conn.shared.dial()?,
            ConnectivityState::Connecting => {}
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                return Err(conn.shared.failure().unwrap_or(Error::Closed));
            }
        }
        conn.wait_for_state_change(state).await;
    }
}
