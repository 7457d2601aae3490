//! TLS from outside: the headers of its records are not encrypted (RFC 8446, section 5.1).

const HEADER: usize = 5;
/// The first record of a client is of this type.
pub(super) const HANDSHAKE: u8 = 22;
/// In TLS 1.2 what HTTP/2 says; in TLS 1.3 everything that is encrypted, the end of the handshake included.
const APPLICATION_DATA: u8 = 23;

/// Reads record headers out of a byte stream that is cut anywhere.
#[derive(Debug, Default)]
pub(super) struct RecordReader {
    head: [u8; HEADER],
    /// How much of `head` has been read.
    have: usize,
    /// What of the current record is still to be passed over.
    skip: usize,
}

impl RecordReader {
    /// Whether a record of application data begins in these bytes, its header ending there.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                let [kind, _, _, length @ ..] = self.head;
                found |= kind == APPLICATION_DATA;
                self.skip = u16::from_be_bytes(length).into();
                self.have = 0;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [&[kind, 3, 3, length[0], length[1]][..], payload].concat()
    }

    #[test]
    fn application_data_is_seen_wherever_the_stream_is_cut_and_payloads_are_not_taken_for_it() {
        let mut stream = record(HANDSHAKE, &[APPLICATION_DATA; 300]);
        stream.extend(record(20, &[1]));
        stream.extend(record(HANDSHAKE, &[]));
        let whole = stream.len() + HEADER;
        stream.extend(record(APPLICATION_DATA, &[0; 9]));
        for piece in 1..=stream.len() {
            let mut reader = RecordReader::default();
            let mut read = 0;
            for bytes in stream.chunks(piece) {
                let found = reader.read(bytes);
                let ends_here = read < whole && read + bytes.len() >= whole;
                assert_eq!(found, ends_here, "in pieces of {piece}, at {read}");
                read += bytes.len();
            }
        }
    }
}
