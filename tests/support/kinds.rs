//! The four kinds of channel of this crate behind one type, for tests whose promise is the same over each.

use cenote::grpc::{
    Addresses, BalancedChannel, ClientConn, ClientPool, Error, StreamChannel, StreamPool, TlsConfig,
};
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxService;

/// A service for one of tonic's generated clients.
pub type AnyService = BoxService<http::Request<Body>, http::Response<Body>, Status>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClientConn,
    ClientPool,
    StreamChannel,
    BalancedChannel,
}

impl Kind {
    pub const ALL: [Kind; 4] =
        [Kind::ClientConn, Kind::ClientPool, Kind::StreamChannel, Kind::BalancedChannel];

    /// To this target, with the defaults of its kind.
    pub fn connect(self, target: &str, tls: Option<&TlsConfig>) -> Result<AnyChannel, Error> {
        let streams = || {
            let builder = StreamPool::builder();
            match tls {
                Some(tls) => builder.tls(tls.clone()).build(),
                None => builder.build(),
            }
        };
        Ok(match self {
            Kind::ClientConn => {
                let builder = ClientConn::builder(target);
                AnyChannel::Conn(match tls {
                    Some(tls) => builder.tls(tls.clone()).build()?,
                    None => builder.build()?,
                })
            }
            Kind::ClientPool => {
                let builder = ClientPool::builder(target);
                AnyChannel::Pool(match tls {
                    Some(tls) => builder.tls(tls.clone()).build()?,
                    None => builder.build()?,
                })
            }
            Kind::StreamChannel => AnyChannel::Stream(streams()?.channel(target)?),
            Kind::BalancedChannel => AnyChannel::Balanced(streams()?.balance(Addresses::list([target]))),
        })
    }
}

pub enum AnyChannel {
    Conn(ClientConn),
    Pool(ClientPool),
    Stream(StreamChannel),
    Balanced(BalancedChannel),
}

impl AnyChannel {
    /// A clone of the channel; of a `ClientPool`, a connection of it, which goes back with the service.
    pub fn service(&self) -> AnyService {
        match self {
            AnyChannel::Conn(conn) => erased(conn.clone()),
            AnyChannel::Pool(pool) => erased(pool.get_owned()),
            AnyChannel::Stream(channel) => erased(channel.clone()),
            AnyChannel::Balanced(channel) => erased(channel.clone()),
        }
    }
}

fn erased<S, B>(service: S) -> AnyService
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>, Error = Status> + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    BoxService::new(service.map_response(|response: http::Response<B>| response.map(Body::new)))
}
