//! Redis connections for [`cenote::bounded`], on `redis`.
//!
//! ```no_run
//! use cenote::bounded::BoundedPool;
//! use cenote_redis::RedisManager;
//! use cenote_redis::redis::{self, AsyncCommands};
//!
//! # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = RedisManager::new(redis::Client::open("redis://:secret@127.0.0.1/0")?);
//! let pool = BoundedPool::builder(manager).max_size(8).build()?;
//!
//! let mut connection = pool.get().await?;
//! let value: Option<String> = connection.get("key").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When not to use it
//!
//! A `MultiplexedConnection` of the driver serves many tasks by itself. Pool connections for what needs one alone: `WATCH`,
//! `MULTI` by hand, `BLPOP` and its like, `SELECT`, `CLIENT TRACKING`.
//!
//! # What the next caller finds
//!
//! A connection as good as a new one. If the last caller sent a command that changes the state of a connection, or dropped a
//! request before its answer, the pool sends `RESET` (before Redis 6.2: `DISCARD` and `UNWATCH`) and the handshake again, in one
//! round trip in a task of the pool. Otherwise there is nothing to reset, and nothing is sent. Answers never reach another
//! caller: the driver drops those that nobody waits for. A `BLPOP` that nobody waits for keeps its connection until the
//! driver's limit for an answer or the pool's [`reset_timeout`](cenote::bounded::Builder::reset_timeout); then it is closed.
//!
//! # Failover
//!
//! A master that has become a replica answers a `PING`, but refuses writes. A connection that gets the answer `READONLY` is
//! closed, and so are all that are as old as it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use cenote::bounded::Manager;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisError, RedisFuture,
    RedisResult, ServerErrorKind, Value,
};

pub use redis;

/// Makes connections to one server.
///
/// The pool must run its tasks on tokio, as it does by default when it is built within a runtime.
pub struct RedisManager {
    client: Client,
    config: AsyncConnectionConfig,
    /// The server does not know `RESET`. It is only a hint, which no other memory depends on.
    lacks_reset: AtomicBool,
}

impl RedisManager {
    /// Connects as the client does.
    pub fn new(client: Client) -> Self {
        RedisManager::with_config(client, AsyncConnectionConfig::default())
    }

    /// Connects as the client does, with other time limits than the driver's: its 500 ms for an answer are too short for
    /// blocking commands.
    pub fn with_config(client: Client, config: AsyncConnectionConfig) -> Self {
        RedisManager { client, config, lacks_reset: AtomicBool::new(false) }
    }

    /// What brings a connection back to the state that it had after the driver's handshake.
    fn handshake(&self, lacks_reset: bool) -> Pipeline {
        let settings = self.client.get_connection_info().redis_settings();
        let mut pipeline = Pipeline::new();
        if lacks_reset {
            // `DISCARD` fails where there is no transaction; it is sent first, and alone.
            pipeline.cmd("UNWATCH").ignore();
        } else {
            pipeline.cmd("RESET").ignore();
            let is_resp3 = settings.protocol() != ProtocolVersion::RESP2;
            match (settings.username(), settings.password()) {
                (user, Some(password)) if is_resp3 => pipeline
                    .cmd("HELLO")
                    .arg(3)
                    .arg("AUTH")
                    .arg(user.unwrap_or("default"))
                    .arg(password)
                    .ignore(),
                (Some(user), Some(password)) => pipeline.cmd("AUTH").arg(user).arg(password).ignore(),
                (None, Some(password)) => pipeline.cmd("AUTH").arg(password).ignore(),
                (_, None) if is_resp3 => pipeline.cmd("HELLO").arg(3).ignore(),
                (_, None) => &mut pipeline,
            };
        }
        pipeline.cmd("SELECT").arg(settings.db()).ignore();
        pipeline
    }
}

impl fmt::Debug for RedisManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver leaves the password out.
        f.debug_struct("RedisManager")
            .field("connection_info", self.client.get_connection_info())
            .finish_non_exhaustive()
    }
}

/// A connection of the pool. The methods of [`redis::AsyncCommands`] work on it, and so do commands, pipelines and scripts.
pub struct Connection {
    inner: MultiplexedConnection,
    /// A request has not got its answer, or a command has changed the state of the connection.
    needs_reset: bool,
    is_closed: bool,
    /// The server refused a write.
    is_read_only: bool,
}

impl Connection {
    /// A request goes out. Until its answer is there, its future may be dropped.
    fn begin(&mut self) -> bool {
        std::mem::replace(&mut self.needs_reset, true)
    }

    fn end(&mut self, needs_reset: bool, answer: Result<&[Value], &RedisError>) {
        // An error of the server is an answer, any other leaves it unknown whether one is still to come.
        self.needs_reset = needs_reset || answer.is_err_and(|error| !is_answer(error));
        self.is_closed |= answer.is_err_and(RedisError::is_unrecoverable_error);
        self.is_read_only |= match answer {
            Ok(values) => values.iter().any(refuses_writes),
            Err(error) => error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly),
        };
    }
}

fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::Client)
}

fn refuses_writes(answer: &Value) -> bool {
    match answer {
        Value::ServerError(error) => error.kind() == Some(ServerErrorKind::ReadOnly),
        Value::Array(values) => values.iter().any(refuses_writes),
        _ => false,
    }
}

/// Whether a command changes what `RESET` resets.
fn changes_state(command: &Cmd) -> bool {
    const COMMANDS: [&[u8]; 15] = [
        b"ASKING",
        b"AUTH",
        b"CLIENT",
        b"HELLO",
        b"MONITOR",
        b"MULTI",
        b"PSUBSCRIBE",
        b"QUIT",
        b"READONLY",
        b"READWRITE",
        b"RESET",
        b"SELECT",
        b"SSUBSCRIBE",
        b"SUBSCRIBE",
        b"WATCH",
    ];
    matches!(command.args_iter().next(), Some(redis::Arg::Simple(name))
        if COMMANDS.iter().any(|command| name.eq_ignore_ascii_case(command)))
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let needs_reset = self.begin() || changes_state(command);
            let answer = self.inner.req_packed_command(command).await;
            self.end(needs_reset, answer.as_ref().map(std::slice::from_ref));
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let needs_reset = self.begin() || pipeline.cmd_iter().any(changes_state);
            let answer = self.inner.req_packed_commands(pipeline, offset, count).await;
            self.end(needs_reset, answer.as_deref());
            answer
        })
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("needs_reset", &self.needs_reset)
            .field("is_closed", &self.is_closed)
            .field("is_read_only", &self.is_read_only)
            .finish_non_exhaustive()
    }
}

impl Manager for RedisManager {
    type Object = Connection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Connection> {
        let inner = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
        Ok(Connection { inner, needs_reset: false, is_closed: false, is_read_only: false })
    }

    async fn check(&self, connection: &mut Connection) -> RedisResult<()> {
        redis::cmd("PING").exec_async(&mut connection.inner).await
    }

    async fn reset(&self, connection: &mut Connection) -> RedisResult<()> {
        if !connection.needs_reset {
            return Ok(());
        }
        let inner = &mut connection.inner;
        let mut lacks_reset = self.lacks_reset.load(Ordering::Relaxed);
        if !lacks_reset {
            match self.handshake(false).exec_async(inner).await {
                Err(error) if error.to_string().contains("unknown command 'RESET'") => {
                    lacks_reset = true;
                    self.lacks_reset.store(true, Ordering::Relaxed);
                }
                done => done?,
            }
        }
        if lacks_reset {
            match redis::cmd("DISCARD").exec_async(inner).await {
                Err(error) if !is_answer(&error) => return Err(error),
                _ => self.handshake(true).exec_async(inner).await?,
            }
        }
        connection.needs_reset = false;
        Ok(())
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.is_closed || connection.is_read_only
    }

    fn outdates_all(&self, connection: &mut Connection) -> bool {
        connection.is_read_only
    }

    fn resets_in_flight(&self) -> bool {
        true
    }
}
