//! [`PooledConn`]: a connection that goes back when it is dropped.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::counted::CountedConn;
use super::{ClientPool, Inner};
use crate::grpc::call::{ResponseBody, ResponseFuture};
use crate::grpc::conn::{ClientConn, ConnectivityState};

/// A connection out of a [`ClientPool`], which goes back when this is dropped.
///
/// It is a service for tonic's generated clients, by value (`GreeterClient::new(conn)`: it goes back with the client) or by
/// reference (`GreeterClient::new(&mut conn)`). `(*conn).clone()` is a handle of the connection inside; the guard
/// itself is not `Clone`, as it can go back only once. Calls and response bodies that outlive the guard go on; but a call
/// that has no connection yet when the last guard gives back one that is TransientFailure fails, with the error of the last
/// dial.
///
/// Other callers may have the same connection: [`close`](ClientConn::close) closes it for them, too.
#[must_use = "the connection goes back to the pool at once if the guard is not held"]
pub struct PooledConn<'a> {
    pool: Holder<'a>,
    /// Holds a connection until `drop` moves it out.
    counted: ManuallyDrop<CountedConn>,
    state: ConnectivityState,
}

enum Holder<'a> {
    Borrowed(&'a ClientPool),
    Owned(ClientPool),
}

impl<'a> PooledConn<'a> {
    #[inline]
    pub(super) fn borrowed(pool: &'a ClientPool, (counted, state): (CountedConn, ConnectivityState)) -> Self {
        PooledConn { pool: Holder::Borrowed(pool), counted: ManuallyDrop::new(counted), state }
    }

    #[inline]
    pub(super) fn owned(pool: ClientPool, (counted, state): (CountedConn, ConnectivityState)) -> Self {
        PooledConn { pool: Holder::Owned(pool), counted: ManuallyDrop::new(counted), state }
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
        let counted = unsafe { ManuallyDrop::take(&mut self.counted) };
        let inner: &Inner = match &self.pool {
            Holder::Borrowed(pool) => &pool.inner,
            Holder::Owned(pool) => &pool.inner,
        };
        inner.put(counted);
    }
}

impl Deref for PooledConn<'_> {
    type Target = ClientConn;

    #[inline]
    fn deref(&self) -> &ClientConn {
        &self.counted
    }
}

impl Service<Request<Body>> for PooledConn<'_> {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // As a `ClientConn` is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture::new((**self).clone(), request)
    }
}

impl fmt::Debug for PooledConn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConn").field(&**self).finish()
    }
}
