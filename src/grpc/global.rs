//! [`get_client`]: one pool for the whole process, made on first use, as a Go service does with `sync.Once`.

use std::env;
use std::error::Error as StdError;
use std::fmt;

use super::client_pool::ClientPool;
use super::error::{Error, TargetError};
use crate::primitive::OnceLock;

static CLIENT: OnceLock<ClientPool> = OnceLock::new();

/// The target where neither `init_client` nor the environment says another.
const DEFAULT_TARGET: &str = "http://127.0.0.1:5000";

/// The variable that names the target.
const VARIABLE: &str = "CENOTE_TARGET";

/// The process-wide pool. The first call makes it, unless [`init_client`] was there before: for the target in the
/// environment variable `CENOTE_TARGET`, or without one for `http://127.0.0.1:5000`. However many threads make that first
/// call at once, one pool is made.
///
/// ```no_run
/// # use cenote::grpc::get_client;
/// # use cenote_proto::{HelloRequest, greeter_client::GreeterClient};
/// async fn handler(name: String) -> Result<String, tonic::Status> {
///     let conn = get_client().get(); // back on drop
///     let reply = GreeterClient::new(conn).say_hello(HelloRequest { name, delay_ms: 0 }).await?;
///     Ok(reply.into_inner().message)
/// }
/// ```
///
/// Does no I/O and never fails: if the variable holds no valid target, every call on every connection of the pool fails
/// with the [`Error::InvalidTarget`] that says why.
pub fn get_client() -> &'static ClientPool {
    CLIENT.get_or_init(|| from_variable(env::var(VARIABLE)))
}

/// Sets the pool that [`get_client`] returns: once, before its first call.
///
/// # Errors
///
/// [`AlreadyInitialized`] if there is a pool already; it holds the one that was given.
pub fn init_client(pool: ClientPool) -> Result<(), AlreadyInitialized> {
    CLIENT.set(pool).map_err(|pool| AlreadyInitialized { pool })
}

fn from_variable(value: Result<String, env::VarError>) -> ClientPool {
    let made = match value {
        Ok(target) => ClientPool::new(target),
        Err(env::VarError::NotPresent) => ClientPool::new(DEFAULT_TARGET),
        Err(env::VarError::NotUnicode(bytes)) => Err(Error::InvalidTarget {
            target: bytes.to_string_lossy().into_owned(),
            source: TargetError::Malformed(format!("{VARIABLE} is not Unicode")),
        }),
    };
    made.unwrap_or_else(ClientPool::failing)
}

/// [`init_client`] came after another one, or after the first [`get_client`].
#[derive(Debug)]
pub struct AlreadyInitialized {
    pool: ClientPool,
}

impl AlreadyInitialized {
    /// The pool that was not taken.
    pub fn into_pool(self) -> ClientPool {
        self.pool
    }
}

impl fmt::Display for AlreadyInitialized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the process-wide gRPC client pool exists already")
    }
}

impl StdError for AlreadyInitialized {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_the_target_and_without_it_there_is_a_default() {
        let target = |value| format!("{:?}", from_variable(value));
        assert!(target(Ok("http://10.0.0.1:7".to_owned())).contains("http://10.0.0.1:7"));
        assert!(target(Err(env::VarError::NotPresent)).contains(DEFAULT_TARGET));
    }

    #[test]
    fn a_bad_variable_makes_a_pool_whose_calls_fail_with_what_is_wrong() {
        let pool = from_variable(Ok("ftp://x:1".to_owned()));
        assert!(format!("{pool:?}").contains("UnknownScheme"), "{pool:?}");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let bytes = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
            let pool = from_variable(Err(env::VarError::NotUnicode(bytes)));
            assert!(format!("{pool:?}").contains("not Unicode"), "{pool:?}");
        }
    }
}
