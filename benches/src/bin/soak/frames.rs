//! What a proxy that understands HTTP/2 adds to a connection, and takes out of it.
//!
//! * *Empty DATA frames*: one behind each DATA frame of the server's that does not end its stream, as some proxies send them.
//! * *Another limit of streams*: a SETTINGS frame in the server's name, between two frames of its own. The client's
//!   acknowledgment is kept from the server, which has sent SETTINGS once.

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const HEADER: usize = 9;

/// The length of what a client says first.
const PREFACE: usize = 24;

/// A direction of a connection, as bytes pass by.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes that are of no frame.
    preface: usize,
    /// The header of the frame that is on its way, as far as it is known.
    header: Vec<u8>,
    /// What is left of its payload.
    payload: usize,
}

impl Frames {
    fn kind(&self) -> u8 {
        self.header[3]
    }

    fn flags(&self) -> u8 {
        self.header[4]
    }

    fn is_between(&self) -> bool {
        self.preface == 0 && self.header.is_empty()
    }

    /// Takes bytes up to the end of a header or of a frame; how many, and whether the frame is over.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        if self.preface > 0 {
            let some = self.preface.min(bytes.len());
            self.preface -= some;
            return (some, false);
        }
        if self.header.len() < HEADER {
            let some = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..some]);
            if self.header.len() == HEADER {
                let [a, b, c] = [0, 1, 2].map(|at| usize::from(self.header[at]));
                self.payload = a << 16 | b << 8 | c;
            }
            return (some, self.header.len() == HEADER && self.payload == 0);
        }
        let some = self.payload.min(bytes.len());
        self.payload -= some;
        (some, self.payload == 0)
    }
}

/// From the server to the client.
#[derive(Debug, Default)]
pub(crate) struct FromServer {
    frames: Frames,
    /// Whether its own SETTINGS have passed, which come first.
    has_begun: bool,
    limit: u32,
    /// The limit that the client is yet to be told.
    to_tell: Option<u32>,
}

impl FromServer {
    /// Tells the client that there may be so many streams at once; 0 leaves it at what the server says.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        if limit != self.limit {
            self.limit = limit;
            self.to_tell = Some(limit).filter(|limit| *limit > 0);
        }
    }

    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let (some, is_over) = self.frames.take(bytes);
            out.extend_from_slice(&bytes[..some]);
            bytes = &bytes[some..];
            if !is_over {
                continue;
            }
            self.has_begun = true;
            let (kind, flags) = (self.frames.kind(), self.frames.flags());
            let mut header = std::mem::take(&mut self.frames.header);
            if kind == DATA && flags & END_STREAM == 0 {
                header[..5].fill(0);
                out.extend_from_slice(&header);
            }
            self.tell(out);
        }
    }

    /// To be called when nothing passes, too.
    pub(crate) fn tell(&mut self, out: &mut Vec<u8>) {
        if !self.has_begun || !self.frames.is_between() {
            return;
        }
        if let Some(limit) = self.to_tell.take() {
            out.extend_from_slice(&[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&MAX_CONCURRENT_STREAMS.to_be_bytes());
            out.extend_from_slice(&limit.to_be_bytes());
        }
    }
}

/// From the client to the server.
#[derive(Debug)]
pub(crate) struct FromClient {
    frames: Frames,
    acknowledged: bool,
}

impl FromClient {
    pub(crate) fn new() -> Self {
        FromClient { frames: Frames { preface: PREFACE, ..Frames::default() }, acknowledged: false }
    }

    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let in_header = self.frames.preface == 0 && self.frames.header.len() < HEADER;
            let (some, is_over) = self.frames.take(bytes);
            // A header is held back until it is whole.
            if !in_header {
                out.extend_from_slice(&bytes[..some]);
            } else if self.frames.header.len() == HEADER {
                let is_ack = self.frames.kind() == SETTINGS && self.frames.flags() & ACK != 0;
                if !(is_ack && std::mem::replace(&mut self.acknowledged, true)) {
                    out.extend_from_slice(&self.frames.header);
                }
            }
            bytes = &bytes[some..];
            if is_over {
                self.frames.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn cut(bytes: &[u8], at: usize, mut pass: impl FnMut(&[u8], &mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        bytes.chunks(at).for_each(|piece| pass(piece, &mut out));
        out
    }

    #[test]
    fn wherever_reads_are_cut_frames_are_added_between_frames_and_acknowledgments_taken_out() {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let (data, last) = (frame(DATA, 0, 5, b"abc"), frame(DATA, END_STREAM, 5, b""));
        let empty = frame(DATA, 0, 5, b"");
        let said = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2]);
        let ack = frame(SETTINGS, ACK, 0, &[]);
        for at in 1..40 {
            let mut server = FromServer::default();
            server.set_limit(2);
            let sent = [&settings[..], &data, &last].concat();
            let expected = [&settings[..], &said, &data, &empty, &last].concat();
            assert_eq!(cut(&sent, at, |bytes, out| server.pass(bytes, out)), expected, "cut at {at}");

            let mut client = FromClient::new();
            let preface = [7; PREFACE];
            let sent = [&preface[..], &settings, &ack, &data, &ack, &last].concat();
            let expected = [&preface[..], &settings, &ack, &data, &last].concat();
            assert_eq!(cut(&sent, at, |bytes, out| client.pass(bytes, out)), expected, "cut at {at}");
        }
    }
}
