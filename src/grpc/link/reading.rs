//! A second reading of what the tap reads, to hold the first one to.
//!
//! The tap's reader sees each piece of the stream once, as it comes, and keeps a few bytes. This one has all bytes at hand and
//! keeps nothing, so there is little in it that can go wrong. It is not compiled into the crate: the tests below use it, and
//! `fuzz/`.

use super::frames::{Event, FrameReader, GoAway, MAX_DEBUG, Settings};

/// RFC 9113: sections 4.1 for the header of a frame, 6.2, 6.5 and 6.8 for those that matter.
fn second_reading(bytes: &[u8]) -> Vec<Event> {
    let mut told = Vec::new();
    let mut rest = bytes;
    let mut first = true;
    while let [a, b, c, kind, flags, stream @ ..] = rest
        && let Some((stream, behind)) = stream.split_first_chunk()
    {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let whole = behind.get(..length);
        let payload = whole.unwrap_or(behind);
        match kind {
            4 if flags & 1 == 0 && number(*stream) == 0 && whole.is_some() => {
                let mut last_first = payload.chunks_exact(6).rev();
                let limit = last_first.find(|setting| setting.starts_with(&[0, 3]));
                let max_streams = match limit {
                    Some(&[_, _, a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d])),
                    _ => None,
                };
                // Of those that are not the first only what concerns us.
                if first || max_streams.is_some() {
                    told.push(Event::Settings(Settings { first, max_streams }));
                }
            }
            1 if flags & 1 == 1 && whole.is_some() => told.push(Event::Answer),
            0 if length == 0 && flags & 0b1001 == 0 => told.push(Event::EmptyData),
            7 if length >= 8 && whole.is_some() => {
                let (numbers, debug) = payload.split_at(8);
                told.push(Event::GoAway(GoAway {
                    last_stream: number([numbers[0], numbers[1], numbers[2], numbers[3]]),
                    code: u32::from_be_bytes([numbers[4], numbers[5], numbers[6], numbers[7]]),
                    debug: debug[..debug.len().min(MAX_DEBUG)].to_vec(),
                }));
            }
            _ => {}
        }
        first = false;
        let Some(next) = behind.get(length..) else { break };
        rest = next;
    }
    told
}

/// The number of a stream: 31 bits; the bit before them is reserved, and receivers ignore it.
fn number(stream: [u8; 4]) -> u32 {
    u32::from_be_bytes(stream) & (u32::MAX >> 1)
}

/// Both readings agree on the stream, cut into pieces of these sizes and what is left; after each piece the first has told what
/// the second finds in what has come so far: no less, and no more.
fn readings_agree(bytes: &[u8], sizes: impl IntoIterator<Item = usize>) {
    let mut reader = FrameReader::default();
    let mut told = Vec::new();
    let mut read = 0;
    for size in sizes.into_iter().chain([bytes.len()]) {
        let end = bytes.len().min(read + size);
        let mut piece = &bytes[read..end];
        told.extend(std::iter::from_fn(|| reader.next(&mut piece)));
        assert!(piece.is_empty());
        read = end;
        assert_eq!(told, second_reading(&bytes[..read]), "after {read} of {bytes:?}");
    }
}

/// The fuzzer's bytes: how many pieces, their sizes, and the stream.
#[cfg(fuzzing)]
pub fn fuzz_frame_tap(input: &[u8]) {
    let Some((&pieces, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(rest.len().min(usize::from(pieces)));
    readings_agree(stream, []);
    readings_agree(stream, sizes.iter().map(|size| usize::from(*size)));
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn payload_of_settings() -> impl Strategy<Value = Vec<u8>> {
        let setting = (prop_oneof![Just(3u16), 0..=8u16], any::<u32>())
            .prop_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        // A few bytes too many make it one that hyper will not have.
        (vec(setting, 0..5), prop_oneof![9 => Just(0), 1 => 1..6usize]).prop_map(|(settings, more)| {
            let mut payload = settings.concat();
            payload.resize(payload.len() + more, 3);
            payload
        })
    }

    fn a_frame() -> impl Strategy<Value = Vec<u8>> {
        const RESERVED: u32 = 1 << 31;
        let stream = prop_oneof![4 => Just(0), 1 => Just(RESERVED), 2 => 1..9u32, 1 => any::<u32>()];
        let flags = prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => any::<u8>()];
        let body = prop_oneof![
            3 => payload_of_settings().prop_map(|payload| (4, payload)),
            3 => prop_oneof![9 => vec(any::<u8>(), 0..30), 1 => vec(any::<u8>(), 0..400)]
                .prop_map(|payload| (7, payload)),
            2 => Just((0, Vec::new())),
            3 => vec(any::<u8>(), 0..30).prop_map(|payload| (1, payload)),
            // What looks like frames may stand inside of one.
            2 => (any::<u8>(), vec(0..8u8, 0..300)),
        ];
        (body, flags, stream)
            .prop_map(|((kind, payload), flags, stream)| frame(kind, flags, stream, &payload))
    }

    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![vec(0..4usize, 0..400), vec(0..40usize, 0..40)]
    }

    proptest! {
        #[test]
        fn frames_cut_anywhere_and_ended_anywhere_tell_the_same_twice(
            frames in vec(a_frame(), 0..12), sizes in sizes(), missing in 0..40usize,
        ) {
            let stream = frames.concat();
            readings_agree(&stream[..stream.len().saturating_sub(missing)], sizes);
        }

        #[test]
        fn any_bytes_cut_anywhere_tell_the_same_twice(
            // Mostly small ones, so that there are frames, and these end.
            stream in vec(prop_oneof![6 => Just(0u8), 5 => 0..10u8, 1 => any::<u8>()], 0..600), sizes in sizes(),
        ) {
            readings_agree(&stream, sizes);
        }
    }

    #[test]
    fn the_second_reading_finds_what_was_written() {
        let limits = [&[0, 3, 0, 0, 0, 9][..], &[0, 4, 1, 1, 1, 1], &[0, 3, 0, 0, 1, 0]].concat();
        let stream = [
            frame(4, 0, 1 << 31, &limits),
            frame(4, 1, 0, &[]),
            frame(0, 0, 1, &frame(7, 0, 0, &[0; 8])),
            frame(4, 0, 3, &limits),
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 7, 0, 3]),
            frame(1, 4, 5, &[1; 9]),
            frame(1, 5, 5, &[]),
            frame(1, 1, 7, &[1; 9]),
            frame(7, 0, 0, &[0x80, 0, 0, 5, 0, 0, 0, 11, b'c', b'a', b'l', b'm']),
            frame(7, 0, 0, &[0; 7]),
        ]
        .concat();
        let told = [
            Event::Settings(Settings { first: true, max_streams: Some(256) }),
            Event::Settings(Settings { first: false, max_streams: Some(7) }),
            Event::Answer,
            Event::Answer,
            Event::GoAway(GoAway { last_stream: 5, code: 11, debug: b"calm".to_vec() }),
        ];
        assert_eq!(second_reading(&stream), told);
        assert_eq!(second_reading(&frame(7, 0, 0, &[0; 9])[..16]), []);
        assert_eq!(second_reading(&frame(1, 1, 1, &[0; 9])[..17]), []);
        assert_eq!(second_reading(&[frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, &[])].concat()), []);
    }
}
