//! The frame headers that pass by in either direction, read out of byte streams that are cut anywhere. Pure: no socket,
//! no clock, no lock.
//!
//! [`FrameReader`] reads what the server sends and reports [`Event`]s; [`HeadReader`] reads what this side writes and reports
//! which streams' heads have left. Both know the 9-byte header of RFC 9113, section 4.1, and neither judges what it reads:
//! hyper reads the same bytes, and closes the connection over those that break the protocol.

/// What the tap looks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All of a SETTINGS frame of the server's has arrived that is the connection's first frame, as it must be, or has
    /// something in it for us.
    Settings(Settings),
    /// All of a GOAWAY frame has arrived.
    GoAway(GoAway),
    /// The header of a DATA frame has arrived that has no bytes and does not end its stream.
    EmptyData,
    /// All of a HEADERS frame has arrived that ends its stream: an answer's trailers, or all of the answer (but for CONTINUATION).
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) first: bool,
    pub(super) max_streams: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoAway {
    /// Streams up to this one may have been processed.
    pub(super) last_stream: u32,
    pub(super) code: u32,
    /// What the server adds for people to read, cut at [`MAX_DEBUG`] bytes.
    pub(super) debug: Vec<u8>,
}

pub(super) const HEADER: usize = 9;
const TYPE_DATA: u8 = 0;
const TYPE_HEADERS: u8 = 1;
const TYPE_SETTINGS: u8 = 4;
const TYPE_GOAWAY: u8 = 7;
/// The last stream's number and the error code; debug data may follow.
const GOAWAY_PAYLOAD: usize = 8;
/// So many bytes of a GOAWAY's debug data are kept.
pub(super) const MAX_DEBUG: usize = 256;
/// The flag of a SETTINGS frame that acknowledges one.
const FLAG_ACK: u8 = 1;
/// The flag of a HEADERS or DATA frame that ends its stream.
pub(super) const FLAG_END_STREAM: u8 = 1;
/// The flag of a frame with padding, whose first byte is the padding's length.
const FLAG_PADDED: u8 = 8;
/// A setting: its identifier and its value.
const SETTING: usize = 6;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

/// Reads frame headers out of a byte stream that is cut anywhere.
///
/// It does not judge what it reads: hyper reads the same bytes and closes the connection over those
/// that break the protocol.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// The header of the current frame.
    head: [u8; HEADER],
    /// How much of `head` has been read.
    have: usize,
    /// Payload of the current frame that is still to be passed over.
    skip: usize,
    /// Whether a whole frame header has been read before.
    begun: bool,
    /// What to report when the current frame, a SETTINGS frame, has passed.
    settings: Option<Settings>,
    /// Whether to report an answer then.
    answer: bool,
    /// The start of the current frame's payload, if it is a GOAWAY.
    goaway: Option<Vec<u8>>,
    /// The start of the setting that is being passed over, and how much of it has been.
    setting: [u8; SETTING],
    have_setting: usize,
}

impl FrameReader {
    /// Reads on, up to an event or to the end of `bytes`, which afterwards are those that have not been read.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        while !bytes.is_empty() {
            let event = if self.skip > 0 {
                let passed = split_off(bytes, self.skip);
                self.skip -= passed.len();
                if self.settings.is_some() {
                    self.read_settings(passed);
                }
                if let Some(payload) = &mut self.goaway {
                    let room = GOAWAY_PAYLOAD + MAX_DEBUG - payload.len();
                    payload.extend(&passed[..passed.len().min(room)]);
                }
                self.ended()
            } else {
                let taken = split_off(bytes, HEADER - self.have);
                self.head[self.have..][..taken.len()].copy_from_slice(taken);
                self.have += taken.len();
                if self.have == HEADER { self.head_full() } else { None }
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// Takes back the header that has been read in part, so that its bytes are read again; returns how many these are.
    pub(super) fn take_back(&mut self) -> usize {
        std::mem::take(&mut self.have)
    }

    /// `head` has just become full.
    fn head_full(&mut self) -> Option<Event> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        self.answer = kind == TYPE_HEADERS && flags & FLAG_END_STREAM != 0;
        self.settings = self.is_settings().then_some(Settings { first: !self.begun, max_streams: None });
        self.goaway = (kind == TYPE_GOAWAY && self.skip >= GOAWAY_PAYLOAD).then(Vec::new);
        self.have_setting = 0;
        self.begun = true;
        self.have = 0;
        if kind == TYPE_DATA && self.skip == 0 && flags & (FLAG_END_STREAM | FLAG_PADDED) == 0 {
            return Some(Event::EmptyData);
        }
        self.ended()
    }

    /// SETTINGS on the connection itself, and no acknowledgement of ours.
    fn is_settings(&self) -> bool {
        let [_, _, _, kind, flags, a, b, c, d, ..] = self.head;
        // The highest bit is reserved, and not part of the stream's number.
        kind == TYPE_SETTINGS && flags & FLAG_ACK == 0 && [a & 0x7f, b, c, d] == [0; 4]
    }

    fn read_settings(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = split_off(&mut bytes, SETTING - self.have_setting);
            self.setting[self.have_setting..][..taken.len()].copy_from_slice(taken);
            self.have_setting += taken.len();
            if self.have_setting < SETTING {
                return;
            }
            self.have_setting = 0;
            let [id @ .., a, b, c, d] = self.setting;
            if let (MAX_CONCURRENT_STREAMS, Some(settings)) = (id, &mut self.settings) {
                settings.max_streams = Some(u32::from_be_bytes([a, b, c, d]));
            }
        }
    }

    /// Of the current frame, if that has been passed over.
    fn ended(&mut self) -> Option<Event> {
        if self.skip > 0 {
            return None;
        }
        if std::mem::take(&mut self.answer) {
            return Some(Event::Answer);
        }
        if let Some(payload) = self.goaway.take()
            && let Some((&[a, b, c, d, e, f, g, h], debug)) = payload.split_first_chunk()
        {
            let last_stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
            let code = u32::from_be_bytes([e, f, g, h]);
            return Some(Event::GoAway(GoAway { last_stream, code, debug: debug.to_vec() }));
        }
        let settings = self.settings.take()?;
        (settings.first || settings.max_streams.is_some()).then_some(Event::Settings(settings))
    }
}

/// Reads the numbers of streams out of what a client writes, behind its preface.
#[derive(Debug)]
pub(super) struct HeadReader {
    head: [u8; HEADER],
    have: usize,
    /// What is still to be passed over: of the preface, or of the current frame's payload.
    skip: usize,
}

impl Default for HeadReader {
    fn default() -> Self {
        const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
        HeadReader { head: [0; HEADER], have: 0, skip: PREFACE }
    }
}

impl HeadReader {
    /// The highest stream of the HEADERS frames whose own header ends in these bytes. What follows on it belongs to it.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<u32> {
        let mut highest = None;
        while !bytes.is_empty() {
            if self.skip > 0 {
                self.skip -= split_off(&mut bytes, self.skip).len();
                continue;
            }
            let taken = split_off(&mut bytes, HEADER - self.have);
            self.head[self.have..][..taken.len()].copy_from_slice(taken);
            self.have += taken.len();
            if self.have == HEADER {
                let [a, b, c, kind, _, stream @ ..] = self.head;
                if kind == TYPE_HEADERS {
                    highest = highest.max(Some(u32::from_be_bytes(stream)));
                }
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
            }
        }
        highest
    }
}

/// The first `most` bytes, or as many as there are.
fn split_off<'b>(bytes: &mut &'b [u8], most: usize) -> &'b [u8] {
    let (first, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    first
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::grpc::link) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn goaway(code: u32, debug: &[u8]) -> Vec<u8> {
        let mut payload = 7u32.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        payload.extend(debug);
        frame(TYPE_GOAWAY, &payload)
    }

    fn gone(code: u32, debug: &[u8]) -> Event {
        Event::GoAway(GoAway { last_stream: 7, code, debug: debug.to_vec() })
    }

    fn settings(first: bool, max_streams: Option<u32>) -> Event {
        Event::Settings(Settings { first, max_streams })
    }

    pub(in crate::grpc::link) fn read_in_pieces_of(piece: usize, bytes: &[u8]) -> Vec<Event> {
        let mut reader = FrameReader::default();
        let mut events = Vec::new();
        for mut bytes in bytes.chunks(piece) {
            events.extend(std::iter::from_fn(|| reader.next(&mut bytes)));
        }
        events
    }

    #[test]
    fn first_settings_and_goaway_are_seen_wherever_the_stream_is_cut() {
        let mut stream = frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 100]);
        stream.extend(frame(TYPE_SETTINGS, &[]));
        stream.extend(frame(TYPE_DATA, &[TYPE_GOAWAY; 300]));
        stream.extend(goaway(11, b"too_many_pings"));
        stream.extend(frame(6, &[0; 8]));
        stream.extend(goaway(0, b""));
        stream.extend(frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 9, 0, 4, 0, 1, 0, 0, 0, 3, 0, 0, 0, 7]));
        let expected =
            [settings(true, Some(100)), gone(11, b"too_many_pings"), gone(0, b""), settings(false, Some(7))];
        for piece in 1..=stream.len() {
            assert_eq!(read_in_pieces_of(piece, &stream), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn the_heads_that_were_written_are_counted_wherever_the_writes_are_cut() {
        let head =
            |stream: u8| [&[0, 0, 3, TYPE_HEADERS, 4, 0, 0, 0, stream][..], &[TYPE_HEADERS; 3]].concat();
        let stream = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 0]),
            head(1),
            frame(0, &[TYPE_HEADERS; 40]),
            head(3),
            head(7),
            head(1),
        ]
        .concat();
        let behind = |number: usize| stream.len() - number;
        // How much must have been written for each to have left: its frame's header.
        let left = |written: usize| match written {
            _ if written >= behind(3 + 12) => Some(7),
            _ if written >= behind(3 + 12 + 12) => Some(3),
            _ if written >= behind(3 + 12 + 12 + 12 + 49) => Some(1),
            _ => None,
        };
        for piece in 1..=stream.len() {
            let (mut reader, mut last, mut written) = (HeadReader::default(), None, 0);
            for bytes in stream.chunks(piece) {
                last = reader.read(bytes).max(last);
                written += bytes.len();
                assert_eq!(last, left(written), "after {written} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn an_empty_data_frame_that_does_not_end_its_stream_is_seen_and_no_other() {
        let data = |flags: u8, payload: &[u8]| {
            let mut frame = frame(TYPE_DATA, payload);
            frame[4] = flags;
            frame
        };
        let stream = [
            data(0, b""),
            data(FLAG_END_STREAM, b""),
            data(FLAG_PADDED, &[0]),
            data(FLAG_PADDED, b""),
            data(0, b"x"),
            data(0x40, b""),
            frame(3, b""),
        ]
        .concat();
        for piece in 1..=stream.len() {
            assert_eq!(
                read_in_pieces_of(piece, &stream),
                [Event::EmptyData, Event::EmptyData],
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_goaway_is_seen_when_it_is_whole_and_the_rest_of_a_long_text_is_passed_over() {
        let long = goaway(1, &[b'x'; 1000]);
        assert_eq!(read_in_pieces_of(7, &long[..long.len() - 1]), []);
        let stream = [long, goaway(2, b"y")].concat();
        for piece in [1, 8, 9, 17, 18, 100, stream.len()] {
            assert_eq!(read_in_pieces_of(piece, &stream), [gone(1, &[b'x'; MAX_DEBUG]), gone(2, b"y")]);
        }
    }

    #[test]
    fn a_header_that_is_cut_can_be_taken_back_and_read_again() {
        let stream = [frame(TYPE_DATA, b""), goaway(2, b"")].concat();
        for cut in 1..HEADER {
            let mut reader = FrameReader::default();
            let mut bytes = &stream[..cut];
            assert_eq!(reader.next(&mut bytes), None);
            assert_eq!(reader.take_back(), cut);
            let mut bytes = &stream[..];
            assert_eq!(reader.next(&mut bytes), Some(Event::EmptyData));
            assert_eq!(reader.take_back(), 0, "behind a whole header nothing is taken back");
            assert_eq!(reader.next(&mut bytes), Some(gone(2, b"")));
        }
    }

    #[test]
    fn what_is_not_http2_tells_nothing() {
        assert_eq!(read_in_pieces_of(7, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), []);
        let mut late = frame(6, &[0; 8]);
        late.extend(frame(TYPE_SETTINGS, &[]));
        assert_eq!(read_in_pieces_of(5, &late), [], "SETTINGS that are not the first frame");
    }

    #[test]
    fn settings_count_only_when_they_are_whole_and_no_acknowledgement() {
        let whole = frame(TYPE_SETTINGS, &[0, 3, 0, 0, 0, 100]);
        assert_eq!(read_in_pieces_of(1, &whole[..whole.len() - 1]), []);
        assert_eq!(read_in_pieces_of(1, &whole), [settings(true, Some(100))]);
        assert_eq!(read_in_pieces_of(1, &frame(TYPE_SETTINGS, &[])), [settings(true, None)]);
        let mut ack = frame(TYPE_SETTINGS, &[]);
        ack[4] = FLAG_ACK;
        ack.extend(frame(TYPE_SETTINGS, &[]));
        assert_eq!(read_in_pieces_of(3, &ack), []);
    }

    #[test]
    fn a_goaway_too_short_for_its_code_tells_nothing_and_costs_no_sync() {
        let mut stream = frame(TYPE_GOAWAY, &[0; 3]);
        stream.extend(goaway(2, b""));
        assert_eq!(read_in_pieces_of(4, &stream), [gone(2, b"")]);
    }
}
