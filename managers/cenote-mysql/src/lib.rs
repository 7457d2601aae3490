//! MySQL and MariaDB connections for [`cenote::bounded`], on `mysql_async`.
//!
//! ```no_run
//! use cenote::bounded::BoundedPool;
//! use cenote_mysql::MySqlManager;
//! use cenote_mysql::mysql_async::{Opts, prelude::Queryable};
//!
//! # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = MySqlManager::new(Opts::from_url("mysql://app:secret@127.0.0.1/app")?);
//! let pool = BoundedPool::builder(manager).max_size(8).build()?;
//!
//! let mut connection = pool.get().await?;
//! let balances: Vec<i64> = connection.query("SELECT balance FROM accounts").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What the next caller finds
//!
//! A connection as good as a new one. When a lease ends, the pool reads the results that were left unread, and sends
//! `COM_RESET_CONNECTION`: it rolls back what was not committed, and restores variables, locks, temporary tables and prepared
//! statements; then come the driver's `setup` commands. If the caller has changed the database or the user, or the server is
//! old (before MySQL 5.7.3 and MariaDB 10.2.4), the pool sends `COM_CHANGE_USER` instead. The reset takes two round trips, in a
//! task of the pool.
//!
//! A connection whose operation was canceled within a request or an answer is closed: the driver knows. The server goes on
//! with the query until it notices; `max_statement_time` (MySQL: `max_execution_time`) bounds that.
//!
//! # Failover
//!
//! An old primary that has become a replica answers a ping, but refuses writes (error 1290 or 1792). A connection that could
//! write when it was made, and whose server is `read_only` when it is reset or checked, is closed, and so are all that are as
//! old as it.
//!
//! # TLS
//!
//! As the [`Opts`] say; the driver's features `rustls-tls` and `native-tls-tls` bring it.

use std::error;
use std::fmt;
use std::ops::{Deref, DerefMut};

use cenote::bounded::Manager;
use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder};

pub use mysql_async;

/// Makes connections to one server.
///
/// The pool must run its tasks on tokio, as it does by default when it is built within a runtime.
#[derive(Clone)]
pub struct MySqlManager {
    opts: Opts,
}

impl MySqlManager {
    /// Connects as the options say. What they say of the driver's own pool has no effect, and a server on this machine is
    /// reached by its Unix socket only if they name it: by itself the driver would open a second connection beside the first,
    /// and exceed the pool's limit.
    pub fn new(opts: Opts) -> Self {
        MySqlManager { opts: OptsBuilder::from_opts(opts).prefer_socket(false).into() }
    }
}

impl fmt::Debug for MySqlManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver would print the password.
        f.debug_struct("MySqlManager")
            .field("host", &self.opts.ip_or_hostname())
            .field("port", &self.opts.tcp_port())
            .field("user", &self.opts.user())
            .field("database", &self.opts.db_name())
            .finish_non_exhaustive()
    }
}

/// A connection of the pool: a [`Conn`].
pub struct Connection {
    conn: Conn,
    /// Whether the server accepted writes when the connection was made.
    could_write: bool,
    is_read_only: bool,
}

impl Connection {
    /// Whether the server has stopped to accept writes since the connection was made.
    fn is_demoted(&self) -> bool {
        self.could_write && self.is_read_only
    }

    /// Reads what was left unread, and asks whether the server accepts writes, and for the database.
    async fn look(&mut self) -> Result<Option<String>, Error> {
        let sql =
            "SELECT CAST(@@global.read_only AS CHAR), CAST(@@global.innodb_read_only AS CHAR), DATABASE()";
        let (read_only, storage, database) =
            self.conn.query_first::<(String, String, Option<String>), _>(sql).await?.unwrap_or_default();
        // A number, or since MariaDB 12 one of several words.
        let is_on = |value: &str| !matches!(value, "" | "0" | "OFF");
        self.is_read_only = is_on(&read_only) || is_on(&storage);
        Ok(database)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.conn.id())
            .field("is_disconnected", &self.conn.is_disconnected())
            .field("could_write", &self.could_write)
            .field("is_read_only", &self.is_read_only)
            .finish_non_exhaustive()
    }
}

impl Deref for Connection {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

/// Why a connection could not be made, or is not to be used any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The driver's error.
    Driver(mysql_async::Error),
    /// The server accepted writes when the connection was made, and no longer does.
    Demoted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Driver(_) => "MySQL failed",
            Error::Demoted => "the MySQL server no longer accepts writes",
        })
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Driver(error) => Some(error),
            Error::Demoted => None,
        }
    }
}

impl From<mysql_async::Error> for Error {
    fn from(error: mysql_async::Error) -> Self {
        Error::Driver(error)
    }
}

impl Manager for MySqlManager {
    type Object = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let conn = Conn::new(self.opts.clone()).await?;
        let mut connection = Connection { conn, could_write: false, is_read_only: false };
        connection.look().await?;
        connection.could_write = !connection.is_read_only;
        Ok(connection)
    }

    async fn check(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.look().await?;
        if connection.is_demoted() { Err(Error::Demoted) } else { Ok(()) }
    }

    async fn reset(&self, connection: &mut Connection) -> Result<(), Error> {
        let database = connection.look().await?;
        if connection.is_demoted() {
            return Err(Error::Demoted);
        }
        let has = connection.conn.opts();
        let is_same_user = (has.user(), has.pass()) == (self.opts.user(), self.opts.pass());
        // The reset leaves the database and the user as they are, and old servers do not know it.
        if !is_same_user || database.as_deref() != self.opts.db_name() || !connection.conn.reset().await? {
            let opts = ChangeUserOpts::new()
                .with_user(self.opts.user().map(str::to_owned))
                .with_pass(self.opts.pass().map(str::to_owned))
                .with_db_name(self.opts.db_name().map(str::to_owned));
            connection.conn.change_user(opts).await?;
        }
        Ok(())
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.conn.is_disconnected() || connection.is_demoted()
    }

    fn outdates_all(&self, connection: &mut Connection) -> bool {
        connection.is_demoted()
    }

    fn resets_in_flight(&self) -> bool {
        // The driver marks a connection as disconnected while a request or an answer is incomplete.
        true
    }

    async fn close(&self, connection: Connection) {
        let _ = connection.conn.disconnect().await;
    }
}
