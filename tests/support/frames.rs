//! A server that speaks HTTP/2 frame by frame, to say what no decent server says.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// The longest payload that a client takes which has not said otherwise.
pub const FRAME_SIZE: usize = 16 << 10;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const ENHANCE_YOUR_CALM: u32 = 11;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Longer than anything a test waits for: on a paused clock this is over when nothing can happen any more, so that a test fails
/// and does not hang.
pub const FOREVER: std::time::Duration = std::time::Duration::from_secs(100 * 24 * 3600);

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// SETTINGS, with nothing in them, and a GOAWAY for whoever comes.
pub const WELCOME_AND_GOODBYE: [u8; 26] =
    [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0, 0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub struct FrameServer(TcpListener);

/// One connection of it, or of a server on other streams than TCP's.
pub struct Wire<S = TcpStream> {
    socket: S,
    /// SETTINGS that were sent and not acknowledged yet.
    settings_under_way: usize,
}

impl FrameServer {
    pub async fn start() -> Self {
        FrameServer(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn target(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The next connection, with these settings told and the client's preface read.
    pub async fn accept(&self, settings: &[(u16, u32)]) -> Wire {
        let (socket, _) = self.0.accept().await.unwrap();
        // Frames that are written one by one would wait for acknowledgements, 40 ms each.
        socket.set_nodelay(true).unwrap();
        Wire::over(socket, settings).await
    }

    /// The next connection, with the client's preface read and nothing said.
    pub async fn accept_in_silence(&self) -> Wire {
        let (mut socket, _) = self.0.accept().await.unwrap();
        socket.read_exact(&mut [0; 24]).await.unwrap();
        Wire { socket, settings_under_way: 0 }
    }
}

impl Wire {
    /// Has the socket's close be a reset of TCP.
    pub fn abort(&self) {
        self.socket.set_zero_linger().unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// With these settings told and the client's preface read.
    pub async fn over(socket: S, settings: &[(u16, u32)]) -> Self {
        let mut wire = Wire::after_the_preface(socket, settings).await;
        let mut preface = [0; 24];
        wire.socket.read_exact(&mut preface).await.unwrap();
        wire
    }

    /// With these settings told, where the preface has been read.
    pub async fn after_the_preface(socket: S, settings: &[(u16, u32)]) -> Self {
        let mut wire = Wire { socket, settings_under_way: 0 };
        wire.settings(settings).await;
        wire
    }

    pub async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_write(kind, flags, stream, payload).await.unwrap();
    }

    /// For a client that may not listen to the end.
    pub async fn try_write(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).await
    }

    /// A head or trailers, in as many frames as it takes, as long as the client takes them: so many bytes.
    pub async fn write_fields_while_taken(&mut self, flags: u8, stream: u32, block: &[u8]) -> usize {
        let mut frames = block.chunks(FRAME_SIZE).peekable();
        let (mut kind, mut flags) = (HEADERS, flags);
        let mut taken = 0;
        while let Some(frame) = frames.next() {
            let end = if frames.peek().is_none() { END_HEADERS } else { 0 };
            if self.try_write(kind, flags | end, stream, frame).await.is_err() {
                break;
            }
            taken += frame.len();
            (kind, flags) = (CONTINUATION, 0);
        }
        taken
    }

    /// Ends this side, and can read on.
    pub async fn end(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    pub async fn write_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    pub async fn settings(&mut self, settings: &[(u16, u32)]) {
        let setting = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let payload: Vec<u8> = settings.iter().flat_map(setting).collect();
        self.settings_under_way += 1;
        self.write(SETTINGS, 0, 0, &payload).await;
    }

    /// Reads on until all settings are acknowledged.
    pub async fn acknowledged(&mut self) {
        while self.settings_under_way > 0 {
            self.read().await.expect("an acknowledgement");
        }
    }

    /// `None` at the end of the client's bytes. Panics when nothing comes for ever, by a paused clock.
    pub async fn read(&mut self) -> Option<Frame> {
        tokio::time::timeout(FOREVER, self.next()).await.expect("a frame")
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == SETTINGS && head[4] & ACK != 0 {
            self.settings_under_way -= 1;
        }
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads on to the end of the client's bytes, and answers nothing any more.
    pub async fn closed(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Reads on to the end of a request, and returns its stream and the bytes of its body. Settings and pings are acknowledged
    /// on the way.
    pub async fn request(&mut self) -> (u32, Vec<u8>) {
        // By stream: one that was reset may still have frames under way.
        let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
        loop {
            let frame = self.read().await.expect("a request");
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.write(PING, ACK, 0, &frame.payload).await,
                DATA => bodies.entry(frame.stream).or_default().extend(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return (frame.stream, bodies.remove(&frame.stream).unwrap_or_default());
            }
        }
    }

    /// Reads on to the head of a request.
    pub async fn headers(&mut self) -> u32 {
        loop {
            let frame = self.read().await.expect("a request");
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                HEADERS => return frame.stream,
                _ => {}
            }
        }
    }

    /// Reads on to the reset of a stream: which, and why. Panics if another stream begins before it.
    pub async fn until_reset(&mut self) -> (u32, u32) {
        loop {
            let frame = self.read().await.expect("a reset");
            assert_ne!(frame.kind, HEADERS, "{frame:?} before any reset");
            if frame.kind == RST_STREAM {
                return (frame.stream, u32::from_be_bytes(frame.payload.try_into().unwrap()));
            }
        }
    }

    /// Lets the client send so many bytes more, on all streams together.
    pub async fn widen(&mut self, bytes: u32) {
        self.write(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes()).await;
    }

    /// A gRPC response with one message: an encoded `HelloReply`.
    pub async fn answer(&mut self, stream: u32, text: &str) {
        self.answer_head(stream).await;
        self.answer_message(stream, text).await;
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&[("grpc-status", "0")])).await;
    }

    pub async fn answer_head(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, &fields(&HEAD)).await;
    }

    pub async fn answer_message(&mut self, stream: u32, text: &str) {
        self.try_answer_message(stream, text).await.unwrap();
    }

    pub async fn try_answer_message(&mut self, stream: u32, text: &str) -> std::io::Result<()> {
        let text_len = u8::try_from(text.len()).unwrap();
        let message = [&[0x0a, text_len][..], text.as_bytes()].concat();
        let data = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
        self.try_write(DATA, 0, stream, &data).await
    }

    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub async fn goaway(&mut self, last: u32, code: u32, debug: &[u8]) {
        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), debug].concat();
        self.write(GOAWAY, 0, 0, &payload).await;
    }
}

/// The head of a good response.
pub const HEAD: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

/// HPACK: literal fields without indexing, each with its name.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
}

/// HPACK: a length with a prefix of seven bits, and the bytes as they are.
fn text(text: &str) -> Vec<u8> {
    const PREFIX: usize = 0x7f;
    let mut coded = vec![text.len().min(PREFIX) as u8];
    if let Some(mut rest) = text.len().checked_sub(PREFIX) {
        while rest > PREFIX {
            coded.push(0x80 | (rest & PREFIX) as u8);
            rest >>= 7;
        }
        coded.push(rest as u8);
    }
    coded.extend(text.as_bytes());
    coded
}
