//! What a call may fail with.

use std::error::Error as _;

use cenote::grpc::Error;
use tonic::{Code, Status};

/// What there was to disturb a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// No fault but servers that take leave (GOAWAY) when another is there, and let their calls end.
    pub(crate) gentle: bool,
    /// Its connection was closed on this side before it ended.
    pub(crate) closed: bool,
}

/// What a loss of the connection, a server that is not there and a deadline may end in. `Cancelled` is what tonic's
/// server says of a deadline that it sees first. Anything else no fault here explains.
const ALLOWED: [Code; 3] = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];

fn cause(status: &Status) -> Option<&Error> {
    status.source()?.downcast_ref()
}

/// What is wrong with it, if something is.
pub(crate) fn wrong(status: &Status, circumstances: Circumstances) -> Option<&'static str> {
    let Circumstances { gentle, closed } = circumstances;
    match cause(status) {
        Some(Error::Closed) if closed => None,
        Some(Error::Closed) => Some("nobody has closed it"),
        _ if !ALLOWED.contains(&status.code()) => Some("no fault explains this code"),
        _ if !gentle => None,
        _ if closed => Some("closed, and not told so"),
        _ if socket_broke(status) => None,
        _ => Some("no server did more than take leave"),
    }
}

/// Whether the call ended because its socket did. A tonic server that takes leave closes while the client's last frames are
/// still on their way; the system answers those with a reset, and what the client has not read yet is lost.
pub(crate) fn socket_broke(status: &Status) -> bool {
    // By its text, which ends with the system's: h2's error does not hand out its source.
    let text = status.message().to_lowercase();
    let broke = [
        "broken pipe",
        "connection reset",
        "bytes remaining on stream",
        "unexpected eof",
        "the server closed",
    ];
    matches!(cause(status), Some(Error::Interrupted { .. })) && broke.iter().any(|broke| text.contains(broke))
}

/// Whether hyper gave the request up, at a GOAWAY, when its head may have left. For a stream of messages a server may begin with
/// that alone, so it is not sent again.
pub(crate) fn gave_up_undecided(status: &Status) -> bool {
    matches!(cause(status), Some(Error::Interrupted { .. }))
        && status.message().ends_with("runtime dropped the dispatch task")
}
