//! The five states, after gRPC's "Connectivity Semantics and API".

use std::fmt;

/// What a [`ClientConn`](super::ClientConn) is doing.
///
/// ```text
///            a call, connect()            SETTINGS arrived
///   Idle ──────────────────▶ Connecting ──────────────────▶ Ready
///    ▲                            │  the attempt failed       │
///    │                            ▼                           │
///    │                    TransientFailure ──── (a later ────▶│
///    │                                      attempt succeeds) │
///    └──────────── lost, told to go away, idle ◀──────────────┘
///   any ── close() ──▶ Shutdown
/// ```
///
/// With a [health check](super::ClientConnBuilder::health_check), Ready takes the server's SERVING besides; and while it is
/// connected, the server's word moves it from Ready to TransientFailure and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectivityState {
    /// No connection, and none wanted: the next call dials.
    Idle,
    /// The first dial is under way. Calls wait for it.
    Connecting,
    /// The server's SETTINGS frame has arrived, and nothing has gone wrong since.
    Ready,
    /// The last attempt failed. The state stays through later attempts until one succeeds. Or there is a connection, but the
    /// server says that it does not serve.
    TransientFailure,
    /// Closed on this side, permanently.
    Shutdown,
}

impl ConnectivityState {
    /// Whether a pool may keep and hand out a connection in this state: not in TransientFailure and Shutdown.
    #[inline]
    pub fn is_usable(self) -> bool {
        !matches!(self, ConnectivityState::TransientFailure | ConnectivityState::Shutdown)
    }

    /// The inverse of `self as u8`.
    #[inline]
    pub(crate) fn from_u8(byte: u8) -> Self {
        match byte {
            0 => ConnectivityState::Idle,
            1 => ConnectivityState::Connecting,
            2 => ConnectivityState::Ready,
            3 => ConnectivityState::TransientFailure,
            _ => ConnectivityState::Shutdown,
        }
    }
}

/// The names of the gRPC specification: `IDLE`, `TRANSIENT_FAILURE`.
impl fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectivityState::Idle => "IDLE",
            ConnectivityState::Connecting => "CONNECTING",
            ConnectivityState::Ready => "READY",
            ConnectivityState::TransientFailure => "TRANSIENT_FAILURE",
            ConnectivityState::Shutdown => "SHUTDOWN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectivityState::{self, *};

    #[test]
    fn a_state_survives_its_byte() {
        for state in [Idle, Connecting, Ready, TransientFailure, Shutdown] {
            assert_eq!(ConnectivityState::from_u8(state as u8), state);
        }
    }
}
