//! [`CountedConn`]: a handle that counts as one caller of its connection.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;

use crate::grpc::conn::ClientConn;

/// A handle of a connection that counts as one of its callers until it is dropped, whether a caller
/// or the stock holds it. So a connection has as many of these as it has had callers at once, and
/// the pool places the next caller by that number.
pub(super) struct CountedConn(ClientConn);

impl CountedConn {
    /// Wraps a connection whose count has been raised already.
    #[inline]
    pub(super) fn new(conn: ClientConn) -> Self {
        CountedConn(conn)
    }

    /// Lowers the count, and returns the connection.
    pub(super) fn leave(self) -> ClientConn {
        self.0.shared.callers.remove();
        self.uncounted()
    }

    /// Returns the connection. The caller has lowered its count already.
    pub(super) fn uncounted(self) -> ClientConn {
        let counted = ManuallyDrop::new(self);
        // SAFETY: `counted` is neither used again nor dropped.
        unsafe { ptr::read(&counted.0) }
    }
}

impl Deref for CountedConn {
    type Target = ClientConn;

    #[inline]
    fn deref(&self) -> &ClientConn {
        &self.0
    }
}

impl Drop for CountedConn {
    fn drop(&mut self) {
        self.0.shared.callers.remove();
    }
}
