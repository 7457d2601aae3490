//! The socket of an attempt: the host's addresses, TCP with its options, or a Unix socket.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::connector::BoxError;
use super::{Options, Progress, happy_eyeballs, resolve};
use crate::grpc::error::DialPhase;
use crate::grpc::link::tap::BoxedIo;
use crate::grpc::target::Endpoint;

/// Linux takes no longer one for `TCP_KEEPIDLE`.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

pub(super) async fn connect(
    endpoint: &Endpoint,
    options: &Options,
    passed_over: usize,
    progress: &Progress,
) -> Result<BoxedIo, BoxError> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let addresses = resolve::look_up(host, *port).await?;
            tcp(addresses, options, passed_over, progress).await
        }
        Endpoint::Addresses(all) => tcp(all.clone(), options, passed_over, progress).await,
        #[cfg(unix)]
        Endpoint::Unix(path) => {
            progress.at(DialPhase::Connect);
            Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
        }
        #[cfg(all(target_os = "linux", feature = "vsock"))]
        Endpoint::Vsock { cid, port } => {
            progress.at(DialPhase::Connect);
            let address = tokio_vsock::VsockAddr::new(*cid, *port);
            Ok(Box::new(tokio_vsock::VsockStream::connect(address).await?))
        }
        #[cfg(not(all(target_os = "linux", feature = "vsock")))]
        Endpoint::Vsock { .. } => Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
    }
}

async fn tcp(
    mut addresses: Vec<SocketAddr>,
    options: &Options,
    passed_over: usize,
    progress: &Progress,
) -> Result<BoxedIo, BoxError> {
    let first = passed_over.checked_rem(addresses.len()).unwrap_or(0);
    addresses.rotate_left(first);
    progress.at(DialPhase::Connect);
    let stream = happy_eyeballs::connect(addresses, TcpStream::connect).await?;
    stream.set_nodelay(options.tcp_nodelay)?;
    if let Some(time) = options.tcp_keepalive {
        let time = time.min(LONGEST_KEEPALIVE);
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(time))?;
    }
    Ok(Box::new(stream))
}
