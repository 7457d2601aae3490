//! [`Place`]: a connection, as one caller has it.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;

use crate::grpc::conn::ClientConn;

/// A handle of a connection that counts as one of its callers until it is dropped, wherever it is: with a caller or in the
/// stock. So a connection has as many as it has had callers at once, and where the next caller goes follows from that.
pub(super) struct Place(ClientConn);

impl Place {
    /// A place that has been counted.
    #[inline]
    pub(super) fn counted(conn: ClientConn) -> Self {
        Place(conn)
    }

    /// The connection, which no longer counts a caller.
    pub(super) fn leave(self) -> ClientConn {
        self.0.shared.callers.remove();
        self.uncounted()
    }

    /// The connection of a place that has been taken off the count.
    pub(super) fn uncounted(self) -> ClientConn {
        let place = ManuallyDrop::new(self);
        // SAFETY: the place is not used again, and is not dropped.
        unsafe { ptr::read(&place.0) }
    }
}

impl Deref for Place {
    type Target = ClientConn;

    #[inline]
    fn deref(&self) -> &ClientConn {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.shared.callers.remove();
    }
}
