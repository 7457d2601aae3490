//! PostgreSQL connections for [`cenote::bounded`], on `tokio-postgres`.
//!
//! ```no_run
//! use cenote::bounded::BoundedPool;
//! use cenote_postgres::PostgresManager;
//!
//! # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = PostgresManager::new("postgres://app:secret@127.0.0.1/app".parse()?);
//! let pool = BoundedPool::builder(manager).max_size(8).build()?;
//!
//! let mut connection = pool.get().await?;
//! let transaction = connection.transaction().await?;
//! transaction.execute("UPDATE accounts SET balance = 0", &[]).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What the next caller finds
//!
//! A connection as good as a new one. When a lease ends, the pool rolls back what was not committed, also a `BEGIN` whose
//! future was dropped while it was on the wire, and restores the role, the settings, the search path, listens, advisory locks,
//! cursors, temporary tables, sequences and statements that were prepared in SQL. Statements that the driver has prepared
//! stay. The reset takes one round trip, in a task of the pool. A connection that cannot be reset within the pool's
//! [`reset_timeout`](cenote::bounded::Builder::reset_timeout) is closed, and the server is asked to cancel what it still does.
//!
//! # Failover
//!
//! An old primary that has become a standby answers a `SELECT 1`, but refuses writes. A connection that could write when it was
//! made, and no longer can when it is reset or checked, is closed, and so are all that are as old as it. To be sure that new
//! ones can write, ask the driver: `target_session_attrs=read-write` in the configuration.
//!
//! # TLS
//!
//! [`PostgresManager::with_tls`] takes what `tokio-postgres-rustls`, `postgres-native-tls` and others make.

use std::error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use cenote::bounded::Manager;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};

pub use tokio_postgres;

/// Makes connections to one PostgreSQL server, or to the first of several that will do.
///
/// The pool must run its tasks on tokio, as it does by default when it is built within a runtime.
#[derive(Clone)]
pub struct PostgresManager<T = NoTls> {
    config: Config,
    tls: T,
}

impl PostgresManager {
    /// Connects without TLS.
    pub fn new(config: Config) -> Self {
        PostgresManager { config, tls: NoTls }
    }
}

impl<T> PostgresManager<T> {
    /// Connects with TLS, as far as the configuration's `sslmode` asks for it.
    pub fn with_tls(config: Config, tls: T) -> Self {
        PostgresManager { config, tls }
    }
}

impl<T> fmt::Debug for PostgresManager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver leaves the password out.
        f.debug_struct("PostgresManager").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A connection of the pool: a [`Client`].
pub struct Connection {
    client: Client,
    /// Moves the bytes. It ends by itself when the client is gone.
    driver: JoinHandle<Result<(), tokio_postgres::Error>>,
    /// Whether the server accepted writes when the connection was made.
    could_write: bool,
    is_read_only: bool,
    /// A reset has begun and has not succeeded: the server may still be at work on something.
    is_busy: bool,
}

impl Connection {
    /// Whether the server has stopped to accept writes since the connection was made.
    fn is_demoted(&self) -> bool {
        self.could_write && self.is_read_only
    }

    /// Asks whether the session may write.
    async fn look(&mut self) -> Result<(), Error> {
        let answers = self.client.simple_query(STATE).await?;
        self.is_read_only = last_row(&answers, 0).is_some_and(|value| value == "t");
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("is_closed", &self.client.is_closed())
            .field("could_write", &self.could_write)
            .field("is_read_only", &self.is_read_only)
            .finish_non_exhaustive()
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Why a connection could not be made, or is not to be used any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The driver's error.
    Driver(tokio_postgres::Error),
    /// The server accepted writes when the connection was made, and no longer does.
    Demoted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Driver(_) => f.write_str("PostgreSQL failed"),
            Error::Demoted => f.write_str("the PostgreSQL server no longer accepts writes"),
        }
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

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Driver(error)
    }
}

/// Whether the session may write, and the names of the statements that were prepared in SQL. `transaction_read_only` would
/// speak of the transaction alone, which may have begun with a setting of the last caller's.
const STATE: &str = "SELECT pg_catalog.pg_is_in_recovery() \
     OR pg_catalog.current_setting('default_transaction_read_only')::pg_catalog.bool, \
     (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(name), '; DEALLOCATE ') \
     FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

/// Ends a transaction, if there is one. A `ROLLBACK` alone would have the server log a warning for each lease that left none.
const ROLL_BACK: &str = "BEGIN; ROLLBACK; ";

/// The parts of `DISCARD ALL`, but for the driver's own statements. `RESET ALL` leaves the role, the second does not.
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

fn last_row(answers: &[SimpleQueryMessage], column: usize) -> Option<&str> {
    answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row.get(column)),
        _ => None,
    })?
}

impl<T> Manager for PostgresManager<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    type Object = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let driver = tokio::spawn(connection);
        let mut connection =
            Connection { client, driver, could_write: false, is_read_only: false, is_busy: false };
        connection.look().await?;
        connection.could_write = !connection.is_read_only;
        Ok(connection)
    }

    async fn check(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.look().await?;
        if connection.is_demoted() { Err(Error::Demoted) } else { Ok(()) }
    }

    async fn reset(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.is_busy = true;
        let client = &connection.client;
        let answers = match client.simple_query(&format!("{ROLL_BACK}{CLEAN}{STATE}")).await {
            // A `BEGIN` is refused in a transaction that has failed.
            Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                client.batch_execute("ROLLBACK").await?;
                client.simple_query(&format!("{CLEAN}{STATE}")).await
            }
            answers => answers,
        }?;
        if let Some(names) = last_row(&answers, 1) {
            client.batch_execute(&format!("DEALLOCATE {names}")).await?;
        }
        connection.is_read_only = last_row(&answers, 0).is_some_and(|value| value == "t");
        connection.is_busy = false;
        if connection.is_demoted() { Err(Error::Demoted) } else { Ok(()) }
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.client.is_closed() || connection.is_demoted()
    }

    fn outdates_all(&self, connection: &mut Connection) -> bool {
        connection.is_demoted()
    }

    fn resets_in_flight(&self) -> bool {
        // The driver drops the answers that nobody waits for, and the reset comes after them.
        true
    }

    fn close(&self, connection: Connection) -> impl Future<Output = ()> + Send {
        let Connection { client, driver, is_busy, .. } = connection;
        let driver = Aborted(driver);
        async move {
            if is_busy && !client.is_closed() {
                let _ = client.cancel_token().cancel_query(self.tls.clone()).await;
            }
            drop(client);
            driver.join().await;
        }
    }
}

/// Aborts the task if it does not end before the value does: a server that takes no goodbye keeps no socket open.
struct Aborted(JoinHandle<Result<(), tokio_postgres::Error>>);

impl Aborted {
    async fn join(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
