//! Where the messages of a response begin and end: pure. A message is a byte of flags, four of its length, and as many as
//! these say (gRPC over HTTP/2, "Length-Prefixed-Message").

/// Follows the messages through the frames of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    /// The prefix of the current message, as far as it has been read.
    prefix: [u8; 5],
    have: u8,
    /// Bytes of the current message that are still to come, once its prefix has been read.
    left: u32,
}

impl Framing {
    pub(super) fn read(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let passed = data.len().min(self.left as usize);
                self.left -= passed as u32;
                data = &data[passed..];
                continue;
            }
            let missing = self.prefix.len() - usize::from(self.have);
            let (taken, rest) = data.split_at(missing.min(data.len()));
            self.prefix[usize::from(self.have)..][..taken.len()].copy_from_slice(taken);
            self.have += taken.len() as u8;
            data = rest;
            if let [_, a, b, c, d] = self.prefix
                && usize::from(self.have) == self.prefix.len()
            {
                self.left = u32::from_be_bytes([a, b, c, d]);
                self.have = 0;
            }
        }
    }

    /// Whether a message has begun that is not complete.
    pub(super) fn is_within_message(&self) -> bool {
        self.have > 0 || self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat()
    }

    proptest! {
        #[test]
        fn only_a_cut_between_messages_is_no_cut(
            lengths in vec(0..40usize, 0..8), cut in 0..400usize, pieces in vec(0..20usize, 0..60),
        ) {
            let messages: Vec<_> = lengths.into_iter().map(message).collect();
            let ends: Vec<_> = messages.iter().scan(0, |end, message| {
                *end += message.len();
                Some(*end)
            }).collect();
            let stream = messages.concat();
            let stream = &stream[..cut.min(stream.len())];
            let mut framing = Framing::default();
            let mut rest = stream;
            for piece in pieces {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                framing.read(now);
                rest = later;
            }
            framing.read(rest);
            let is_between = stream.is_empty() || ends.contains(&stream.len());
            prop_assert_eq!(framing.is_within_message(), !is_between);
        }
    }
}
