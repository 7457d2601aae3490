//! [`PooledConn`]: a connection that goes back when it is dropped.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::ClientPool;
use crate::grpc::call::{ResponseBody, ResponseFuture};
use crate::grpc::conn::{ClientConn, ConnectivityState};

/// A connection out of a [`ClientPool`], which goes back when this is dropped.
///
/// It is a service for tonic's generated clients, by value (`GreeterClient::new(conn)`: it goes back with the client) or by
/// reference (`GreeterClient::new(&mut conn)`). `(*conn).clone()` is a handle of the connection inside; the guard
/// itself is not `Clone`, as it can go back only once. Calls and response bodies that outlive the guard go on; but a call
/// that has no connection yet when the guard gives back one that is TransientFailure fails, with the error of the last
/// dial.
#[must_use = "the connection goes back to the pool at once if the guard is not held"]
pub struct PooledConn<'a> {
    pool: Holder<'a>,
    /// Holds a connection until `drop` moves it out.
    conn: ManuallyDrop<ClientConn>,
    state: ConnectivityState,
}

enum Holder<'a> {
    Borrowed(&'a ClientPool),
    Owned(ClientPool),
}

impl<'a> PooledConn<'a> {
    #[inline]
    pub(super) fn borrowed(pool: &'a ClientPool, (conn, state): (ClientConn, ConnectivityState)) -> Self {
        PooledConn { pool: Holder::Borrowed(pool), conn: ManuallyDrop::new(conn), state }
    }

    #[inline]
    pub(super) fn owned(pool: ClientPool, (conn, state): (ClientConn, ConnectivityState)) -> Self {
        PooledConn { pool: Holder::Owned(pool), conn: ManuallyDrop::new(conn), state }
    }

    /// The state that `get` read before it handed this connection out: Idle, Connecting or Ready.
    pub fn state_at_get(conn: &Self) -> ConnectivityState {
        conn.state
    }
}

impl Drop for PooledConn<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: nothing else moves the connection out, and a drop runs once.
        let conn = unsafe { ManuallyDrop::take(&mut self.conn) };
        match &self.pool {
            Holder::Borrowed(pool) => pool.put(conn),
            Holder::Owned(pool) => pool.put(conn),
        }
    }
}

impl Deref for PooledConn<'_> {
    type Target = ClientConn;

    #[inline]
    fn deref(&self) -> &ClientConn {
        &self.conn
    }
}

impl Service<Request<Body>> for PooledConn<'_> {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.conn.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.conn.call(request)
    }
}

impl fmt::Debug for PooledConn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConn").field(&**self).finish()
    }
}
