//! Who is put under load: our pool, by a channel or by a lease a call, and fixed numbers of connections.

use std::time::Duration;

use cenote::grpc::{StreamChannel, StreamPool};
use cenote_proto::HelloReply;
use cenote_proto::greeter_client::GreeterClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::load::hello;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Contender {
    /// A `StreamPool` as it comes; the callers share its `channel`.
    Pool,
    /// The same, with a lease for each call.
    Leases,
    /// A `StreamPool` held at so many connections.
    Fixed(usize),
    /// So many tonic `Channel`s; each caller keeps to one of them, in turn.
    Tonic(usize),
}

/// What one caller calls by.
pub(crate) enum Client {
    Channel(GreeterClient<StreamChannel>),
    Leases(StreamPool, String),
    Tonic(GreeterClient<Channel>),
}

impl Contender {
    pub(crate) fn name(self) -> String {
        match self {
            Contender::Pool => "StreamPool, its channel".to_owned(),
            Contender::Leases => "StreamPool, a lease a call".to_owned(),
            Contender::Fixed(n) => format!("StreamPool held at {n}"),
            Contender::Tonic(n) => format!("tonic Channel x {n}"),
        }
    }

    /// For as many callers. To be called within a runtime.
    pub(crate) fn clients(self, target: &str, callers: usize) -> Vec<Client> {
        match self {
            Contender::Pool => by_channel(&StreamPool::new(), target, callers),
            Contender::Fixed(n) => {
                let pool = StreamPool::builder().size(n).min_idle(n).build().expect("plain options");
                by_channel(&pool, target, callers)
            }
            Contender::Leases => {
                let pool = StreamPool::new();
                (0..callers).map(|_| Client::Leases(pool.clone(), target.to_owned())).collect()
            }
            Contender::Tonic(n) => {
                let channels: Vec<_> = (0..n).map(|_| tonic_channel(target)).collect();
                (0..callers)
                    .map(|caller| Client::Tonic(GreeterClient::new(channels[caller % n].clone())))
                    .collect()
            }
        }
    }
}

pub(crate) fn by_channel(pool: &StreamPool, target: &str, callers: usize) -> Vec<Client> {
    let channel = pool.channel(target).expect("an address");
    (0..callers).map(|_| Client::Channel(GreeterClient::new(channel.clone()))).collect()
}

pub(crate) fn tonic_channel(target: &str) -> Channel {
    let endpoint = Channel::from_shared(target.to_owned()).expect("an address");
    endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy()
}

impl Client {
    pub(crate) async fn call(&mut self, delay_ms: u32) -> Result<Response<HelloReply>, Status> {
        match self {
            Client::Channel(client) => client.say_hello(hello(delay_ms)).await,
            Client::Tonic(client) => client.say_hello(hello(delay_ms)).await,
            Client::Leases(pool, target) => {
                GreeterClient::new(pool.get(&**target)?).say_hello(hello(delay_ms)).await
            }
        }
    }
}
