//! Response bodies out of a pool: rendered into a buffer that was used before, sent without a copy.

use std::io::Write;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use cenote::{Pooled, SyncPool};

/// What an outsized page has grown is not kept: a pool of large buffers for small pages is a leak.
const MOST_KEPT: usize = 64 * 1024;

pub static BUFFERS: SyncPool<Vec<u8>> = SyncPool::with_recycle(Vec::new, |buffer| {
    buffer.clear();
    buffer.capacity() <= MOST_KEPT
});

/// A rendered page, in a pooled buffer.
pub struct Page {
    content_type: &'static str,
    body: Pooled<'static, Vec<u8>>,
}

impl Page {
    pub fn html(greeting: &str) -> Self {
        let mut body = BUFFERS.get(); // Go: buf := bufs.Get(); and Put when it is written
        body.extend_from_slice(b"<!doctype html>\n<title>Greeting</title>\n<p>");
        escape_html(&mut body, greeting);
        body.extend_from_slice(b"</p>\n");
        Page { content_type: "text/html; charset=utf-8", body }
    }

    pub fn json(greeting: &str) -> Self {
        let mut body = BUFFERS.get();
        body.extend_from_slice(b"{\"greeting\":\"");
        escape_json(&mut body, greeting);
        body.extend_from_slice(b"\"}\n");
        Page { content_type: "application/json", body }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        // `Bytes` owns the guard: it drops it, and the buffer is back, when hyper has written the last byte.
        let body = Bytes::from_owner(Buffer(self.body));
        ([(header::CONTENT_TYPE, self.content_type)], body).into_response()
    }
}

/// The guard is an `AsRef<Vec<u8>>`; `Bytes` asks for an `AsRef<[u8]>`.
struct Buffer(Pooled<'static, Vec<u8>>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn escape_html(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            _ => out.push(byte),
        }
    }
}

fn escape_json(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            // Writing to a Vec does not fail.
            0..0x20 => _ = write!(out, "\\u{byte:04x}"),
            _ => out.push(byte),
        }
    }
}
