//! The socket that the channel is given: it reads along.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::records::{HANDSHAKE, RecordReader};
use super::seen::Attempt;
use crate::grpc::link::frames::{Event, FrameReader};

/// What tonic reads and writes, TLS included: that is above.
pub(super) struct Stream<Io> {
    io: Io,
    protocol: Protocol,
    attempt: Attempt,
}

/// What is spoken on the socket. The client speaks first, so its first byte shows which it is.
///
/// The endpoint's scheme does not: built without TLS, tonic speaks plain HTTP/2 to an `https` endpoint.
enum Protocol {
    Unknown,
    Http2(FrameReader),
    TlsHandshake {
        ours: RecordReader,
        theirs: RecordReader,
        /// Whether we have sent application data, as TLS 1.3 calls all that is encrypted.
        encrypted: bool,
    },
    /// There is no more to be seen in it.
    Tls,
}

impl Protocol {
    fn on_written(&mut self, bytes: &[u8]) {
        if let (Protocol::Unknown, Some(first)) = (&*self, bytes.first()) {
            *self = match *first {
                HANDSHAKE => Protocol::TlsHandshake {
                    ours: RecordReader::default(),
                    theirs: RecordReader::default(),
                    encrypted: false,
                },
                _ => Protocol::Http2(FrameReader::default()),
            };
        }
        if let Protocol::TlsHandshake { ours, encrypted, .. } = self {
            *encrypted |= ours.read(bytes);
        }
    }

    fn on_read(&mut self, mut bytes: &[u8], attempt: &Attempt) {
        match self {
            Protocol::Http2(frames) => {
                while let Some(event) = frames.next(&mut bytes) {
                    match event {
                        Event::Settings(settings) if settings.first => attempt.ready(),
                        Event::GoAway(_) => attempt.lost(),
                        Event::Settings(_) | Event::Answer | Event::EmptyData => {}
                    }
                }
            }
            // A client encrypts application data when it is content with the server's part of the handshake, or to say that
            // it is not; then it reads no more.
            Protocol::TlsHandshake { theirs, encrypted, .. } => {
                if theirs.read(bytes) && *encrypted {
                    attempt.ready();
                    *self = Protocol::Tls;
                }
            }
            Protocol::Unknown | Protocol::Tls => {}
        }
    }
}

impl<Io> Stream<Io> {
    pub(super) fn new(io: Io, attempt: Attempt) -> Self {
        Stream { io, protocol: Protocol::Unknown, attempt }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Stream<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = ready!(Pin::new(&mut this.io).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if result.is_err() || (read.is_empty() && room > 0) {
            this.attempt.lost();
        }
        this.protocol.on_read(read, &this.attempt);
        Poll::Ready(result)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Stream<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.protocol.on_written(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut rest = written;
        for buf in bufs {
            let part = rest.min(buf.len());
            self.protocol.on_written(&buf[..part]);
            rest -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::grpc::conn::ConnectivityState::{self, Connecting, Idle, Ready, TransientFailure};
    use crate::grpc::observe::seen::Seen;
    use crate::primitive::Arc;

    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const CLIENT_HELLO: &[u8] = &[HANDSHAKE, 3, 1, 0, 2, 1, 0];
    const ENCRYPTED: &[u8] = &[23, 3, 3, 0, 1, 0];

    struct Client {
        seen: Arc<Seen>,
        stream: Stream<DuplexStream>,
        server: DuplexStream,
    }

    impl Client {
        fn new() -> Self {
            let seen = Seen::new(String::new());
            let (io, server) = duplex(1024);
            Client { stream: Stream::new(io, seen.attempt()), seen, server }
        }

        async fn sends(&mut self, bytes: &[u8]) -> ConnectivityState {
            self.stream.write_all(bytes).await.unwrap();
            self.seen.state()
        }

        async fn is_sent(&mut self, bytes: &[u8]) -> ConnectivityState {
            self.server.write_all(bytes).await.unwrap();
            self.stream.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
            self.seen.state()
        }

        async fn reads_to_the_end(&mut self) -> ConnectivityState {
            self.server.shutdown().await.unwrap();
            assert_eq!(self.stream.read(&mut [0; 1]).await.unwrap(), 0);
            self.seen.state()
        }
    }

    #[tokio::test]
    async fn the_servers_last_byte_is_the_end_though_the_socket_is_still_held() {
        let mut client = Client::new();
        client.sends(b"PRI * HTTP/2.0").await;
        assert_eq!(client.is_sent(SETTINGS).await, Ready);
        assert_eq!(client.stream.read(&mut []).await.unwrap(), 0);
        assert_eq!(client.seen.state(), Ready, "nothing was asked for, and nothing read");
        assert_eq!(client.reads_to_the_end().await, Idle);

        let mut client = Client::new();
        client.sends(b"PRI * HTTP/2.0").await;
        assert_eq!(client.reads_to_the_end().await, TransientFailure);
    }

    #[tokio::test]
    async fn under_tls_what_looks_like_a_frame_is_none_and_ready_takes_encryption_on_both_sides() {
        let mut client = Client::new();
        client.sends(CLIENT_HELLO).await;
        // The server's certificate comes encrypted in TLS 1.3, and is not accepted yet.
        for bytes in [ENCRYPTED, SETTINGS, GOAWAY] {
            assert_eq!(client.is_sent(bytes).await, Connecting);
        }
        let mut client = Client::new();
        client.sends(CLIENT_HELLO).await;
        assert_eq!(client.is_sent(ENCRYPTED).await, Connecting);
        assert_eq!(client.sends(ENCRYPTED).await, Connecting);
        assert_eq!(client.is_sent(ENCRYPTED).await, Ready);
        assert_eq!(client.is_sent(SETTINGS).await, Ready);
        assert_eq!(client.is_sent(GOAWAY).await, Ready);
        assert_eq!(client.reads_to_the_end().await, Idle);
    }
}
