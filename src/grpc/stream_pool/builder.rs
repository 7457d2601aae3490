//! The options of a [`StreamPool`].

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::StreamPool;
use crate::grpc::config::{Options, connection_options};
use crate::grpc::error::Error;
use crate::grpc::options::{Backoff, YEAR};

/// What [`StreamPool::get`] does when an address has all the connections that it may have, and all their streams are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The lease waits for a stream, in order; its calls wait within their deadlines.
    Wait,
    /// The lease gets a connection of its own, which closes with it: go-micro's way.
    Unpooled,
    /// [`Error::Exhausted`](crate::grpc::Error::Exhausted), at once.
    Fail,
}

/// What holds for all addresses.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) size: usize,
    pub(super) ttl: Duration,
    pub(super) max_idle: usize,
    pub(super) min_idle: usize,
    pub(super) max_streams: Option<u32>,
    pub(super) overflow: Overflow,
    /// So many connections may share the work before their limits require it: as there are cores.
    pub(super) spread: usize,
    /// Of each connection; its target is a placeholder.
    pub(super) template: Options,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            size: 100,
            ttl: Duration::from_secs(60),
            max_idle: 50,
            min_idle: 0,
            max_streams: None,
            overflow: Overflow::Wait,
            spread: crate::primitive::available_parallelism(),
            template: Options::new(String::new(), Backoff::POOL),
        }
    }
}

impl Config {
    /// What a connection takes whose server takes `limit`.
    pub(super) fn capped(&self, limit: u32) -> u32 {
        self.max_streams.map_or(limit, |most| most.min(limit))
    }
}

/// Options of a [`StreamPool`] and of its connections.
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `build`"]
pub struct StreamPoolBuilder {
    /// Of the connections. `config.template` is what becomes of them.
    options: Options,
    config: Config,
}

impl StreamPoolBuilder {
    pub(super) fn new() -> Self {
        let config = Config::default();
        StreamPoolBuilder { options: config.template.clone(), config }
    }

    connection_options!();

    /// At most this many connections to one address. More than 0; default: 100. One that is running out (it was lost, got a GOAWAY to
    /// go away, or has grown old) does not count.
    pub fn size(mut self, connections: usize) -> Self {
        self.config.size = connections;
        self
    }

    /// How long a connection takes new streams, give or take a tenth; then another takes its place, if there is use for one.
    /// Connections above need, and addresses that nobody has asked for, go after the same time, a quarter more at most.
    /// More than zero; default: 1 minute.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// At most this many connections of one address stay when they have no stream, but for those that
    /// [`min_idle`](Self::min_idle) or a [`BalancedChannel`](super::BalancedChannel) keeps. Default: 50.
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.config.max_idle = connections;
        self
    }

    /// So many connections of each address are kept connected, used or not, until nobody has asked for the address in ten
    /// `ttl`. At most `size`; default: 0.
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.config.min_idle = connections;
        self
    }

    /// At most this many streams on one connection, and never more than its server's SETTINGS allow. More than 0; default:
    /// what those allow.
    pub fn max_streams(mut self, streams: impl Into<Option<u32>>) -> Self {
        self.config.max_streams = streams.into();
        self
    }

    /// What happens beyond `size` connections with all their streams taken. Default: [`Overflow::Wait`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.config.overflow = overflow;
        self
    }

    /// The numbers of go-micro's pool: 20 streams a connection, and unpooled connections above 100.
    pub fn like_go_micro(self) -> Self {
        self.size(100).ttl(Duration::from_secs(60)).max_idle(50).max_streams(20).overflow(Overflow::Unpooled)
    }

    /// The pauses between the attempts to connect to one address, while it does not answer. Default:
    /// [`Backoff::POOL`], from 50 ms to 1 s.
    pub fn redial(mut self, pauses: Backoff) -> Self {
        self.options.tuning.backoff = pauses;
        self
    }

    /// Checks the options. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], with what is wrong as its source.
    pub fn build(self) -> Result<StreamPool, Error> {
        let StreamPoolBuilder { options, mut config } = self;
        NonZeroUsize::try_from(config.size).map_err(|e| Error::config("size", e))?;
        if let Some(streams) = config.max_streams {
            NonZeroU32::try_from(streams).map_err(|e| Error::config("max_streams", e))?;
        }
        if config.ttl.is_zero() {
            return Err(Error::config("ttl", "it is zero"));
        }
        if config.min_idle > config.size {
            return Err(Error::config("min_idle", "it is more than `size`"));
        }
        options.tuning.backoff.check("redial")?;
        // An error in the template is returned here, and not by each address.
        options.for_target("localhost:1", None).check()?;
        config.ttl = config.ttl.min(YEAR);
        // Else each get beyond `SPREAD_AT` would look for a connection that may not be.
        config.spread = config.spread.min(config.size);
        config.template = options;
        config.template.share_retry_budget();
        Ok(StreamPool::from_config(config))
    }
}
