//! Options: plain data with their defaults, and the checks that a builder makes once.

use std::time::Duration;

use http::header::USER_AGENT;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request};

use super::dial;
use super::dial::certificates;
use super::dial::tls::{self, TlsConfig};
use super::error::Error;
use super::options::Backoff;
use super::retry::budget::Budget;
use super::retry::{Retries, RetryOptions};
use super::target::{self, Endpoint, Given, Target};
use crate::primitive::Arc;

/// What a builder collects and a connection works with as it is.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// For one whole attempt, name resolution to SETTINGS. `None`: gRPC's rule, 20 s or the current backoff,
    /// whichever is longer.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) backoff: Backoff,
    pub(crate) wait_for_ready: bool,
    pub(crate) close_grace: Duration,
    pub(crate) resend_buffer: usize,
    pub(crate) retry: RetryOptions,
    pub(crate) max_connection_age: Option<Duration>,
    /// The service to ask about.
    pub(crate) health_check: Option<String>,
    pub(crate) dial: dial::Options,
}

impl Tuning {
    fn new(backoff: Backoff) -> Self {
        Tuning {
            connect_timeout: None,
            idle_timeout: Some(Duration::from_secs(30 * 60)),
            backoff,
            wait_for_ready: false,
            close_grace: Duration::ZERO,
            resend_buffer: 64 << 10,
            retry: RetryOptions::default(),
            max_connection_age: None,
            health_check: None,
            dial: dial::Options::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("idle_timeout", self.idle_timeout),
            ("max_connection_age", self.max_connection_age),
        ];
        for (option, time) in times {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(Error::config(option, "it is zero"));
            }
        }
        self.dial.check()?;
        self.retry.check()?;
        self.backoff.check("backoff")
    }
}

/// What a builder collects.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) target: Given,
    /// What goes into `:authority`, and is the name for TLS, in the target's place: as the user has it.
    pub(crate) authority: Option<String>,
    /// The same as the balancer has it, which knows the name that the target's address is one of.
    resolved: Option<Arc<str>>,
    pub(crate) tls: Option<certificates::SharedConfig>,
    /// For targets that use TLS where `tls` is not given.
    default_tls: certificates::SharedConfig,
    pub(crate) user_agent: Option<String>,
    pub(crate) tuning: Tuning,
    /// Of all the targets of a pool.
    retry_budget: Option<Arc<Budget>>,
}

impl Options {
    pub(crate) fn new(target: String, backoff: Backoff) -> Self {
        let default_tls = certificates::SharedConfig::new(TlsConfig::new());
        Options {
            target: Given(target),
            authority: None,
            resolved: None,
            tls: None,
            default_tls,
            user_agent: None,
            tuning: Tuning::new(backoff),
            retry_budget: None,
        }
    }

    /// What is made for other targets from now on shares one budget of memory.
    pub(crate) fn share_retry_budget(&mut self) {
        self.retry_budget = Some(Budget::new(self.tuning.retry.pool_buffer));
    }

    /// For calls to another target.
    pub(crate) fn retries(&self) -> Arc<Retries> {
        let retry = &self.tuning.retry;
        Retries::new(retry, &self.retry_budget.clone().unwrap_or_else(|| Budget::new(retry.pool_buffer)))
    }

    /// The same options for another target, which may bear the name of `authority`.
    pub(crate) fn for_target(&self, target: &str, authority: Option<&Arc<str>>) -> Self {
        Options { target: Given(target.to_owned()), resolved: authority.cloned(), ..self.clone() }
    }

    pub(crate) fn check(self) -> Result<Settings, Error> {
        let target = Target::parse(&self.target.0)?;
        let retries = self.retries();
        let tls = match (target.tls, self.tls) {
            (Some(false), Some(_)) => {
                return Err(Error::config("tls", "the target's scheme is http, not https"));
            }
            (Some(true), given) => Some(given.unwrap_or(self.default_tls)),
            (_, given) => given,
        };
        let (authority, host) = named(
            self.authority.as_deref(),
            tls.as_ref().and_then(certificates::SharedConfig::server_name),
            self.resolved.as_deref(),
            &target,
        )?;
        let tls = match tls {
            Some(config) => Some(tls::Connector::new(config, &host)?),
            None => None,
        };
        self.tuning.check()?;
        let user_agent = user_agent(self.user_agent.as_deref())?;
        Ok(Settings { target, authority, tls, user_agent, retries, tuning: self.tuning })
    }
}

/// What holds for the calls to a target.
pub(in crate::grpc) struct Rules<'a> {
    pub(in crate::grpc) tuning: &'a Tuning,
    pub(in crate::grpc) retries: &'a Arc<Retries>,
}

/// What a connection works with: checked once, never changed.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    /// What goes into `:authority` of requests.
    authority: Authority,
    pub(crate) tls: Option<tls::Connector>,
    pub(crate) user_agent: HeaderValue,
    pub(in crate::grpc) retries: Arc<Retries>,
    pub(crate) tuning: Tuning,
}

impl Settings {
    /// What holds for the calls to the target.
    pub(in crate::grpc) fn rules(&self) -> Rules<'_> {
        Rules { tuning: &self.tuning, retries: &self.retries }
    }

    /// The target as a user's connector gets it.
    pub(crate) fn dial_uri(&self) -> Uri {
        self.uri(&self.target.authority, None)
    }

    fn uri(&self, authority: &Authority, path: Option<PathAndQuery>) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        // With all three parts given it is a valid one.
        Uri::from_parts(parts).unwrap_or_default()
    }

    /// Makes the request one to this target: scheme, authority and user agent, the request's own before the connection's.
    pub(crate) fn address<B>(
        &self,
        request: &mut Request<B>,
        path: Option<PathAndQuery>,
        own_authority: Option<&Authority>,
        own_agent: Option<&HeaderValue>,
    ) {
        *request.uri_mut() = self.uri(own_authority.unwrap_or(&self.authority), path);
        let agent = own_agent.map_or_else(|| self.user_agent.clone(), |own| joined(own, &self.user_agent));
        request.headers_mut().insert(USER_AGENT, agent);
    }
}

/// What goes into `:authority`, and the host for TLS. As in grpc-go the order is: the user's option, the server name of TLS,
/// what a resolver says, the target.
fn named(
    own: Option<&str>,
    server_name: Option<&str>,
    resolved: Option<&str>,
    target: &Target,
) -> Result<(Authority, String), Error> {
    let authority = match own {
        Some(own) => target::authority(own).map_err(|error| Error::config("authority", error))?,
        None => {
            // A name that is no authority is reported by TLS.
            let server_name = server_name.and_then(|name| match name.contains(':') {
                true => target::authority(&format!("[{name}]")).ok(),
                false => target::authority(name).ok(),
            });
            match (server_name, resolved) {
                (Some(name), _) => name,
                (None, Some(resolved)) => target::authority(resolved)?,
                (None, None) => return Ok((target.authority.clone(), host(target).to_owned())),
            }
        }
    };
    let host = target::host_of(&authority).to_owned();
    // Requests for one name on a connection to another are what the check of the certificate is there to prevent.
    if own.is_some() && server_name.is_some_and(|name| !name.eq_ignore_ascii_case(&host)) {
        return Err(Error::config("authority", "its host is not the `server_name` of `tls`"));
    }
    Ok((authority, host))
}

fn joined(own: &HeaderValue, ours: &HeaderValue) -> HeaderValue {
    let text = [own.as_bytes(), b" ", ours.as_bytes()].concat();
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| ours.clone())
}

fn host(target: &Target) -> &str {
    match &target.endpoint {
        // Without its zone.
        Endpoint::Tcp { host, .. } => host.split_once('%').map_or(host, |(address, _)| address),
        _ => target::host_of(&target.authority),
    }
}

fn user_agent(given: Option<&str>) -> Result<HeaderValue, Error> {
    const OWN: &str = concat!("cenote/", env!("CARGO_PKG_VERSION"));
    match given {
        None => Ok(HeaderValue::from_static(OWN)),
        Some(given) => {
            HeaderValue::try_from(format!("{given} {OWN}")).map_err(|e| Error::config("user_agent", e))
        }
    }
}

/// The options that `ClientConnBuilder` and `ClientPoolBuilder` share. Each has a field `options: Options`.
macro_rules! connection_options {
    () => {
        /// TLS settings. An `https` target without them trusts the webpki roots; `host:port`, `dns:` and `unix:`
        /// targets use TLS only if this is set.
        pub fn tls(mut self, tls: $crate::grpc::TlsConfig) -> Self {
            self.options.tls = Some($crate::grpc::dial::certificates::SharedConfig::new(tls));
            self
        }

        /// The `:authority` of requests, `host` or `host:port`, in the place of the target's. Over TLS it is also the name that is
        /// asked for (SNI) and expected in the certificate; a `server_name` of [`tls`](Self::tls) must be the same. A request may
        /// have a [`CallAuthority`]($crate::grpc::CallAuthority). Default: the `server_name`, or else the target's host.
        pub fn authority(mut self, authority: impl Into<String>) -> Self {
            self.options.authority = Some(authority.into());
            self
        }

        /// How long one attempt to connect may take in all: name resolution, TCP, TLS and the server's SETTINGS, and the first
        /// answer to a [health check](Self::health_check). Default: 20 s, or the current backoff where that is longer.
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.tuning.connect_timeout = Some(timeout);
            self
        }

        /// A connection on which no call was open for this long closes its socket and becomes Idle, and so does one that has tried in
        /// vain to connect while no call has come; the next call dials again. Default: 30 minutes. `None` turns it off.
        pub fn idle_timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
            self.options.tuning.idle_timeout = timeout.into();
            self
        }

        /// HTTP/2 pings on a silent connection. Default: none.
        pub fn keepalive(mut self, keepalive: impl Into<Option<$crate::grpc::Keepalive>>) -> Self {
            self.options.tuning.dial.keepalive = keepalive.into();
            self
        }

        /// What stands before `cenote/x.y.z` in the `user-agent` header. Default: nothing. A request's own stands before both.
        pub fn user_agent(mut self, name: impl Into<String>) -> Self {
            self.options.user_agent = Some(name.into());
            self
        }

        /// Whether a call waits while the connection cannot be established, instead of failing with the reason; a request
        /// may say otherwise by [`WaitForReady`]($crate::grpc::WaitForReady). Default: no.
        pub fn wait_for_ready(mut self, wait: bool) -> Self {
            self.options.tuning.wait_for_ready = wait;
            self
        }

        /// How long calls that run may go on after `close`, before they are cut. Default: not at all.
        pub fn close_grace(mut self, grace: std::time::Duration) -> Self {
            self.options.tuning.close_grace = grace;
            self
        }

        /// How many bytes of a request are kept until its response begins, so that it can be sent again when the server has
        /// certainly not processed it: it refused the stream, or sent a GOAWAY that does not cover it. A larger request then
        /// fails with [`Error::NotProcessed`]($crate::grpc::Error::NotProcessed), and so does each with 0. Default: 64
        /// KiB.
        pub fn resend_buffer(mut self, bytes: usize) -> Self {
            self.options.tuning.resend_buffer = bytes;
            self
        }

        /// Sends calls again that have failed, or several times beside each other: a
        /// [`RetryPolicy`]($crate::grpc::RetryPolicy) or a [`HedgingPolicy`]($crate::grpc::HedgingPolicy) for the methods that
        /// `pattern` names. That is `package.Service/Method`; `package.Service` for all methods of a service; or `""` for all.
        /// The most specific pattern counts, and of two policies for the same pattern the later one. A request may
        /// have a [`CallPolicy`]($crate::grpc::CallPolicy) of its own. Default: none.
        ///
        /// ```
        /// # use cenote::grpc::{ClientPool, Error, HedgingPolicy, RetryPolicy};
        /// # use std::time::Duration;
        /// # use tonic::Code;
        /// # fn main() -> Result<(), Error> {
        /// let pool = ClientPool::builder("http://127.0.0.1:5000")
        ///     .retry("greet.Greeter", RetryPolicy::new([Code::Unavailable]).max_attempts(4))
        ///     .retry("greet.Greeter/Find", HedgingPolicy::new(2).delay(Duration::from_millis(50)))
        ///     .retry_throttling(100, 0.1)
        ///     .build()?;
        /// # Ok(()) }
        /// ```
        ///
        /// * The first response headers commit a call: it is not sent again, and neither is one whose request does not fit
        ///   the [buffer](Self::retry_buffer).
        /// * Each attempt asks for a connection anew. In a [`BalancedChannel`]($crate::grpc::BalancedChannel) it goes to another address
        ///   than the attempt before, if there is one.
        /// * The server sees in the header `grpc-previous-rpc-attempts` that an attempt is not the first, and so does the
        ///   caller in the response's metadata.
        pub fn retry(
            mut self,
            pattern: impl Into<String>,
            policy: impl Into<$crate::grpc::CallPolicy>,
        ) -> Self {
            self.options.tuning.retry.methods.set_policy(pattern.into(), policy.into());
            self
        }

        /// Sends no call again while too many fail: gRPC's `retryThrottling`. All calls to one target share a bucket
        /// that begins with `max_tokens`, from 1 to 1000. A failed attempt takes one token, if its code is one that its policy
        /// retries; a call that succeeds returns `token_ratio` of one, at least 0.001. While half of the tokens or fewer are
        /// left, no call is sent again. Default: no throttling.
        ///
        /// So the attempts that fail are at most `max_tokens / 2` and `token_ratio` for each call that succeeds: a server that
        /// fails for long gets hardly more load than without retries. A server that refuses a share `p` of all attempts gets
        /// `1 / (1 - p)` times the load, and it takes a ratio of at least `p / (1 - p)` for that: 0.43 where it refuses 30 %.
        /// Of such calls `p` to the power of the attempts fail still: 0.24 % with 5 attempts, 0.6 in 100,000 with 10.
        pub fn retry_throttling(mut self, max_tokens: u32, token_ratio: f64) -> Self {
            self.options.tuning.retry.throttling =
                Some($crate::grpc::retry::throttle::Throttling { max_tokens, token_ratio });
            self
        }

        /// Reads `methodConfig` (policies, timeouts, `waitForReady`), `retryThrottling` and `healthCheckConfig` from the JSON of a
        /// gRPC service config. A method that was configured before has what the JSON says; a timeout shortens a request's own.
        ///
        /// ```
        /// # use cenote::grpc::{ClientConn, Error};
        /// # fn main() -> Result<(), Error> {
        /// let config = r#"{"methodConfig": [{
        ///     "name": [{"service": "greet.Greeter"}],
        ///     "timeout": "2s",
        ///     "retryPolicy": {
        ///         "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
        ///         "retryableStatusCodes": ["UNAVAILABLE"]
        ///     }
        /// }]}"#;
        /// let conn = ClientConn::builder("http://127.0.0.1:5000").service_config(config)?.build()?;
        /// # Ok(()) }
        /// ```
        ///
        /// # Errors
        ///
        /// [`Error::InvalidConfig`]($crate::grpc::Error::InvalidConfig), whose source names the field that is wrong. A field that
        /// is not supported is an error, too.
        #[cfg(feature = "service-config")]
        #[cfg_attr(docsrs, doc(cfg(feature = "service-config")))]
        pub fn service_config(mut self, json: &str) -> Result<Self, $crate::grpc::Error> {
            let tuning = &mut self.options.tuning;
            let read = $crate::grpc::retry::service_config::read(json, &mut tuning.retry)?;
            if read.health_check.is_some() {
                tuning.health_check = read.health_check;
            }
            Ok(self)
        }

        /// How many bytes of its request a call with a policy keeps until its response begins, and how many all calls of the pool
        /// keep together. A call that does not fit is sent on, and not again. Default: 256 KiB and 16 MiB.
        pub fn retry_buffer(mut self, call: usize, pool: usize) -> Self {
            let retry = &mut self.options.tuning.retry;
            (retry.call_buffer, retry.pool_buffer) = (call, pool);
            self
        }

        /// No policy sends a call more often than this. More than zero; default: 5, as in gRPC.
        pub fn max_call_attempts(mut self, attempts: u32) -> Self {
            self.options.tuning.retry.max_attempts = attempts;
            self
        }

        /// A socket that is older than this, give or take a tenth, takes no new calls; the connection is Idle, and the next call
        /// dials, while those that run on the old one end. So a client finds servers that were added behind a load
        /// balancer. Default: none.
        pub fn max_connection_age(mut self, age: impl Into<Option<std::time::Duration>>) -> Self {
            self.options.tuning.max_connection_age = age.into();
            self
        }

        /// Health checks: asks the server's `grpc.health.v1.Health` about this service, `""` being the server as a whole, on each
        /// connection and as long as it lasts. Default: off.
        ///
        /// * The connection is Ready only when the answer is SERVING. The first answer is part of the attempt to connect, and of
        ///   its [time](Self::connect_timeout).
        /// * With any other answer it is TransientFailure: calls fail with
        ///   [`Error::NotServing`]($crate::grpc::Error::NotServing) and are not sent; those that run go on. Its socket stays
        ///   open, and with the next SERVING it is Ready.
        /// * The server is asked by `Watch`. One that says UNIMPLEMENTED is asked by `Check` every 5 s; one that says so to that,
        ///   too, counts as SERVING, and is asked no more.
        /// * A watch that ends, or fails otherwise, is no SERVING. It is opened again: at once if it has lasted, else after
        ///   the pauses of [`Backoff::default`]($crate::grpc::Backoff).
        ///
        /// The watch is an open stream: it counts among those that the server allows at a time (MAX_CONCURRENT_STREAMS; a server
        /// that allows one leaves none for calls), and [`keepalive`](Self::keepalive) pings while it is open. It is no
        /// call: a connection without calls becomes Idle as ever.
        pub fn health_check(mut self, service: impl Into<String>) -> Self {
            self.options.tuning.health_check = Some(service.into());
            self
        }

        /// HTTP/2 flow control: how many bytes of one response the server may send ahead of the reader. From 1 to
        /// 2^31 - 1. Default: 2 MiB. It has no effect with `adaptive_window`. So much memory each response that nobody reads
        /// may take.
        pub fn initial_stream_window_size(mut self, bytes: impl Into<Option<u32>>) -> Self {
            self.options.tuning.dial.http2.stream_window = bytes.into();
            self
        }

        /// The same for all responses on one connection together; less than 65,535 has no effect, as HTTP/2 begins with that.
        /// Default: 2^31 - 1, so that only the windows of the streams count.
        ///
        /// With a smaller one, responses that nobody reads stall the calls beside them on the connection once they have used it
        /// up. It also bounds how many messages of less than 256 bytes may wait for their readers: one for each 512 bytes of
        /// this window; with more of them the connection ends (`too_many_data_frames`).
        pub fn initial_connection_window_size(mut self, bytes: impl Into<Option<u32>>) -> Self {
            self.options.tuning.dial.http2.connection_window = bytes.into();
            self
        }

        /// Has both windows follow the bandwidth and delay that are measured. Default: no. The connection's window is then as
        /// large as that of one stream, so a response that nobody reads stalls the calls beside it.
        pub fn adaptive_window(mut self, adaptive: bool) -> Self {
            self.options.tuning.dial.http2.adaptive_window = adaptive;
            self
        }

        /// The most bytes that the headers of one response may have, and its trailers as many; HTTP/2 counts 32 more for each field.
        /// Default: hyper's, 16 KiB.
        pub fn max_header_list_size(mut self, bytes: impl Into<Option<u32>>) -> Self {
            self.options.tuning.dial.http2.max_header_list_size = bytes.into();
            self
        }

        /// Who makes the sockets, in the place of TCP or `unix:`: a tower service (any `MakeConnection`) that gets the target
        /// as `http://host:port/` or `https://host:port/` (of a `unix:` target, which it replaces, `http://localhost/`). Name resolution and the options of TCP are its business; TLS, where
        /// it is due, is put on top of what it returns, and the connect timeout holds for it, too. A clone of it
        /// is made for each attempt.
        ///
        /// ```
        /// # use cenote::grpc::{ClientConn, Error};
        /// use tokio::net::TcpStream;
        ///
        /// # fn main() -> Result<(), Error> {
        /// // By way of a forwarder on this machine, wherever the target is.
        /// let by_forwarder = tower::service_fn(|_| TcpStream::connect("127.0.0.1:1080"));
        /// let conn = ClientConn::builder("http://far.example:80").connector(by_forwarder).build()?;
        /// # Ok(()) }
        /// ```
        pub fn connector<C>(mut self, connector: C) -> Self
        where
            C: tower_service::Service<http::Uri> + Clone + Send + 'static,
            C::Response: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
            C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            C::Future: Send,
        {
            self.options.tuning.dial.connector =
                Some($crate::grpc::dial::connector::Connector::new(connector));
            self
        }

        /// `TCP_NODELAY`: small messages are not held back for others to join them. Default: on.
        pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
            self.options.tuning.dial.tcp_nodelay = nodelay;
            self
        }

        /// `SO_KEEPALIVE`: after this long without a word the system asks the peer's system whether it is still there. At
        /// least 1 s; more than 32,767 s count as that. Default: off. [`keepalive`](Self::keepalive) asks the server itself.
        pub fn tcp_keepalive(mut self, time: impl Into<Option<std::time::Duration>>) -> Self {
            self.options.tuning.dial.tcp_keepalive = time.into();
            self
        }
    };
}
pub(crate) use connection_options;
