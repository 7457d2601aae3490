//! What a peer sends as metadata, before tonic reads it.
//!
//! tonic panics on a `grpc-status-details-bin` that is not base64, and replaces the status code by UNKNOWN if
//! `grpc-message` is not UTF-8. Every head and every trailer block that tonic makes a status from
//! passes through [`sanitize`] first.

use std::borrow::Cow;
use std::fmt::Write;

use http::{HeaderMap, HeaderValue};

const DETAILS: &str = "grpc-status-details-bin";
const MESSAGE: &str = "grpc-message";
const STATUS: &str = "grpc-status";

/// Drops or mends what tonic cannot decode of a status; the code stays.
///
/// * `grpc-status-details-bin` that is not base64 is dropped. Padding is optional (gRPC's HTTP/2 mapping), and padding of a
///   wrong length is removed.
/// * `grpc-message` that is not UTF-8 once decoded has U+FFFD where it is not.
/// * `grpc-status` loses leading zeros, which the grammar allows (`1*DIGIT`).
///
/// `-bin` fields of the application stay as they are: tonic returns an error to the caller that decodes one.
pub(in crate::grpc) fn sanitize(fields: &mut HeaderMap) {
    // One walk over the block, which has one to three fields, costs less than a look-up by name.
    let mut mended: [Option<(&'static str, Mended)>; 3] = [const { None }; 3];
    for (name, value) in &*fields {
        let (place, name, value) = match name.as_str() {
            STATUS => (0, STATUS, without_leading_zeros(value.as_bytes())),
            MESSAGE => (1, MESSAGE, mended_text(value.as_bytes())),
            DETAILS => (2, DETAILS, mended_base64(value.as_bytes())),
            _ => continue,
        };
        // Of several, tonic reads the first.
        mended[place].get_or_insert((name, value));
    }
    for (name, value) in mended.into_iter().flatten() {
        match value {
            Mended::Sane => {}
            Mended::As(value) => drop(fields.insert(name, value)),
            Mended::Not => drop(fields.remove(name)),
        }
    }
}

/// Removes the fields of a status.
pub(in crate::grpc) fn remove_status(fields: &mut HeaderMap) {
    const NAMES: [&str; 3] = [STATUS, MESSAGE, DETAILS];
    if fields.keys().any(|name| NAMES.contains(&name.as_str())) {
        for name in NAMES {
            fields.remove(name);
        }
    }
}

fn without_leading_zeros(code: &[u8]) -> Mended {
    match code {
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => {
            let first = rest.iter().position(|digit| *digit != b'0');
            as_value(first.map_or(b"0", |first| &rest[first..]))
        }
        _ => Mended::Sane,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Mended {
    /// There is nothing to mend.
    Sane,
    As(HeaderValue),
    /// It cannot be mended.
    Not,
}

/// Accepts no more than tonic's decoder does: the standard alphabet, no unused bits, and padding that is absent or
/// complete.
fn mended_base64(value: &[u8]) -> Mended {
    let end = value.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let (data, padding) = value.split_at(end);
    let Some(last) = data.last() else {
        return if padding.is_empty() { Mended::Sane } else { as_value(b"") };
    };
    if !data.iter().all(|byte| sextet(*byte).is_some()) {
        return Mended::Not;
    }
    let unused_bits = match data.len() % 4 {
        0 => 0,
        2 => 0b1111,
        3 => 0b11,
        // Six bits are no byte.
        _ => return Mended::Not,
    };
    if sextet(*last).is_none_or(|bits| bits & unused_bits != 0) {
        return Mended::Not;
    }
    match padding.len() {
        0 => Mended::Sane,
        _ if value.len().is_multiple_of(4) && padding.len() <= 2 => Mended::Sane,
        _ => as_value(data),
    }
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// The percent-encoded text again, if it does not decode to UTF-8.
fn mended_text(value: &[u8]) -> Mended {
    let decoded = percent_decoded(value);
    match String::from_utf8_lossy(&decoded) {
        Cow::Borrowed(_) => Mended::Sane,
        Cow::Owned(text) => as_value(percent_encoded(&text).as_bytes()),
    }
}

/// A `%` that no two hexadecimal digits follow stands for itself, as gRPC asks of decoders.
fn percent_decoded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let hex = |at: usize| value.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two digits of 16 fit into a byte.
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// Of visible ASCII, which every header value may consist of.
fn as_value(text: &[u8]) -> Mended {
    HeaderValue::from_bytes(text).map_or(Mended::Not, Mended::As)
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    fn block(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    /// What tonic makes of the block.
    fn status(fields: &[(&'static str, &[u8])]) -> Status {
        let mut block = block(fields);
        sanitize(&mut block);
        Status::from_header_map(&block).unwrap()
    }

    #[test]
    fn a_code_loses_its_leading_zeros_and_nothing_else() {
        for (sent, read) in
            [("05", "5"), ("0016", "16"), ("00", "0"), ("0", "0"), ("5", "5"), ("", ""), ("0x5", "0x5")]
        {
            let mut fields = HeaderMap::new();
            fields.insert(STATUS, HeaderValue::from_static(sent));
            sanitize(&mut fields);
            assert_eq!(fields[STATUS], read, "{sent:?}");
        }
    }

    #[test]
    fn details_are_decoded_or_dropped_and_the_code_stays() {
        let rows: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"YQ", b"a"),
            (b"YQ==", b"a"),
            (b"YWI=", b"ab"),
            (b"YWI", b"ab"),
            (b"YWJj", b"abc"),
            (b"+/+/", &[0xfb, 0xff, 0xbf]),
            // The wrong padding.
            (b"YQ=", b"a"),
            (b"YQ===", b"a"),
            (b"YWJj====", b"abc"),
            (b"=", b""),
            (b"====", b""),
            // Not to be mended.
            (b"%%%", b""),
            (b"Y", b""),
            (b"YWJjY", b""),
            (b"YR", b""),
            (b"YWK", b""),
            (b"-_-_", b""),
            (b"YQ==YQ==", b""),
            (b"YQ,YQ", b""),
            (b"Y Q", b""),
            (b"\xff\xff", b""),
        ];
        for (value, details) in rows {
            let status = status(&[("grpc-status", b"5"), ("grpc-message", b"no"), (DETAILS, value)]);
            assert_eq!(status.details(), *details, "{:?}", String::from_utf8_lossy(value));
            assert_eq!((status.code(), status.message()), (Code::NotFound, "no"));
        }
    }

    #[test]
    fn no_short_value_of_details_makes_tonic_panic() {
        let bytes = b"AQg/+=%-\xff";
        for length in 0..=5u32 {
            for number in 0..bytes.len().pow(length) {
                let value: Vec<u8> =
                    (0..length).map(|place| bytes[number / bytes.len().pow(place) % bytes.len()]).collect();
                assert_eq!(status(&[("grpc-status", b"5"), (DETAILS, &value)]).code(), Code::NotFound);
            }
        }
    }

    #[test]
    fn a_message_that_is_not_utf8_keeps_the_code_and_what_can_be_read() {
        let rows: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"plain", "plain"),
            (b"100%", "100%"),
            (b"%zz%4", "%zz%4"),
            (b"%C3%A4", "\u{e4}"),
            (b"a%FFb", "a\u{fffd}b"),
            (b"100%25 %FF %0A", "100% \u{fffd} \n"),
            (b"raw \xff", "raw \u{fffd}"),
            (b"raw \xc3\xa4", "raw \u{e4}"),
        ];
        for (value, message) in rows {
            let status = status(&[("grpc-status", b"5"), (MESSAGE, value)]);
            assert_eq!((status.code(), status.message()), (Code::NotFound, *message));
        }
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        let fields: &[(&str, &[u8])] =
            &[("grpc-status", b"0"), ("own-bin", b"%%%"), ("own", b"%FF"), ("own", b"\xff")];
        let before = block(fields);
        let mut after = before.clone();
        sanitize(&mut after);
        assert_eq!(after, before);
    }
}
