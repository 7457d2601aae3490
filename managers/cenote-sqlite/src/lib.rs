//! SQLite connections for [`cenote::bounded`], on `rusqlite`.
//!
//! ```
//! use cenote::bounded::{Blocking, BoundedPool};
//! use cenote_sqlite::SqliteManager;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("app.db");
//! let manager = SqliteManager::new(path).on_open(|connection| {
//!     connection.pragma_update(None, "journal_mode", "wal")?;
//!     connection.pragma_update(None, "foreign_keys", true)
//! });
//! let pool = BoundedPool::builder(Blocking(manager)).max_size(4).build()?;
//!
//! let mut connection = pool.get_blocking()?; // or `pool.get().await?`
//! let transaction = connection.transaction()?;
//! transaction.execute("CREATE TABLE accounts (balance INT)", [])?;
//! transaction.commit()?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! In async code, run queries that may take long within `spawn_blocking`: the pool waits without blocking, SQLite does not.
//! SQLite has one writer at a time. A pool of one connection for writes beside one for reads keeps writers from
//! running into each other's locks.
//!
//! # What the next caller finds
//!
//! A connection as good as a new one. When a lease ends, the pool rolls back what was not committed, detaches databases, drops
//! temporary tables, and sets those of the connection's pragmas back that were changed, to what they were after
//! [`on_open`](SqliteManager::on_open). The cache of prepared statements stays. So do functions, collations and hooks,
//! which SQLite does not list: register them in `on_open`.
//!
//! # Databases in memory
//!
//! A database `:memory:` is private to its connection. Name a common one: `file:name?mode=memory&cache=shared`. It lives as
//! long as one of its connections, so keep one open.

use std::error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use cenote::bounded::BlockingManager;
use rusqlite::types::Value;
use rusqlite::{OpenFlags, OptionalExtension};

pub use rusqlite;

type OnOpen = dyn Fn(&mut rusqlite::Connection) -> rusqlite::Result<()> + Send + Sync;

/// Opens connections to one database. [`Blocking`](cenote::bounded::Blocking) makes a manager for a pool of it.
pub struct SqliteManager {
    path: PathBuf,
    flags: OpenFlags,
    on_open: Option<Box<OnOpen>>,
}

impl SqliteManager {
    /// Opens the database at a path, or at an URI that begins with `file:`. It is created if it does not exist.
    pub fn new(path: impl AsRef<Path>) -> Self {
        SqliteManager { path: path.as_ref().to_owned(), flags: OpenFlags::default(), on_open: None }
    }

    /// Opens it with other flags: read-only, for example.
    #[must_use]
    pub fn flags(mut self, flags: OpenFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Runs on each new connection: sets pragmas, registers functions. What it sets is what the next callers find.
    #[must_use]
    pub fn on_open(
        mut self,
        run: impl Fn(&mut rusqlite::Connection) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_open = Some(Box::new(run));
        self
    }
}

impl fmt::Debug for SqliteManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteManager")
            .field("path", &self.path)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// A connection of the pool: a [`rusqlite::Connection`].
#[derive(Debug)]
pub struct Connection {
    inner: rusqlite::Connection,
    /// The values of `PRAGMAS` after `on_open`.
    settings: Vec<Value>,
}

impl Deref for Connection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        &self.inner
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut rusqlite::Connection {
        &mut self.inner
    }
}

/// Why a connection could not be opened, or is not to be used any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database could not be opened.
    Open(rusqlite::Error),
    /// The function that [`on_open`](SqliteManager::on_open) was given failed.
    OnOpen(rusqlite::Error),
    /// The connection could not be reset.
    Reset(rusqlite::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Open(_) => "the SQLite database could not be opened",
            Error::OnOpen(_) => "a new SQLite connection could not be set up",
            Error::Reset(_) => "the SQLite connection could not be reset",
        })
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Open(error) | Error::OnOpen(error) | Error::Reset(error) => Some(error),
        }
    }
}

/// The pragmas that hold for a connection, not for the database, and can be set to what they answer.
/// <https://www.sqlite.org/pragma.html>
const PRAGMAS: [&str; 25] = [
    "analysis_limit",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "defer_foreign_keys",
    "foreign_keys",
    "fullfsync",
    "ignore_check_constraints",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "synchronous",
    "temp_store",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
];

fn settings(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<Value>> {
    // One that this build of SQLite does not know has no value.
    let read = |name: &&str| connection.pragma_query_value(None, name, |row| row.get(0)).optional();
    PRAGMAS.iter().map(|name| Ok(read(name)?.unwrap_or(Value::Null))).collect()
}

/// The kinds and the names that a query answers.
fn names(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
    connection.prepare_cached(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn reset(connection: &Connection) -> rusqlite::Result<()> {
    let Connection { inner, settings: wanted } = connection;
    if !inner.is_autocommit() {
        inner.execute_batch("ROLLBACK")?;
    }
    // First: `query_only` would forbid the rest.
    for ((name, found), wanted) in PRAGMAS.iter().zip(settings(inner)?).zip(wanted) {
        if found != *wanted {
            inner.pragma_update(None, name, wanted)?;
        }
    }
    // Triggers and views before the tables that they name. Indexes go with their tables.
    let temporary = "SELECT type, name FROM temp.sqlite_schema WHERE type <> 'index' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' \
                     ORDER BY type DESC";
    for (kind, name) in names(inner, temporary)? {
        inner.execute_batch(&format!("DROP {kind} IF EXISTS temp.{}", quoted(&name)))?;
    }
    for (kind, name) in names(inner, "SELECT 'DATABASE', name FROM pragma_database_list WHERE seq > 1")? {
        inner.execute_batch(&format!("DETACH {kind} {}", quoted(&name)))?;
    }
    Ok(())
}

impl BlockingManager for SqliteManager {
    type Object = Connection;
    type Error = Error;

    fn create(&self) -> Result<Connection, Error> {
        let mut inner = rusqlite::Connection::open_with_flags(&self.path, self.flags).map_err(Error::Open)?;
        if let Some(on_open) = &self.on_open {
            on_open(&mut inner).map_err(Error::OnOpen)?;
        }
        let settings = settings(&inner).map_err(Error::Open)?;
        Ok(Connection { inner, settings })
    }

    fn reset(&self, connection: &mut Connection) -> Result<(), Error> {
        reset(connection).map_err(Error::Reset)
    }
}
