//! A database that can be taken away and given back.

use std::path::{Path, PathBuf};

use cenote_sqlite::rusqlite::{Connection, TransactionBehavior};
use tempfile::TempDir;

use crate::Error;

#[cfg(unix)]
pub(crate) use cenote_test_servers::Kind;

#[cfg(not(unix))]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
    Redis,
}

pub(crate) enum Outage {
    /// A server of our own.
    #[cfg(unix)]
    Server(cenote_test_servers::Server),
    /// A file that somebody else can lock.
    File { path: PathBuf, lock: Option<Connection>, _directory: Option<TempDir> },
}

impl Outage {
    #[cfg(unix)]
    pub(crate) fn of_server(kind: Kind) -> Result<(String, Outage), Error> {
        let server = cenote_test_servers::Server::start_or_skip(kind).ok_or("it is not installed")?;
        Ok((server.url(server.port()), Outage::Server(server)))
    }

    #[cfg(not(unix))]
    pub(crate) fn of_server(_: Kind) -> Result<(String, Outage), Error> {
        Err("a server is only started on Unix: give its URL".into())
    }

    pub(crate) fn of_file(path: Option<PathBuf>) -> Result<(PathBuf, Outage), Error> {
        let (path, directory) = match path {
            Some(path) => (path, None),
            None => {
                let directory = tempfile::tempdir()?;
                (directory.path().join("visits.db"), Some(directory))
            }
        };
        Ok((path.clone(), Outage::File { path, lock: None, _directory: directory }))
    }

    /// What the drill does.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            #[cfg(unix)]
            Outage::Server(_) => "the server is killed",
            Outage::File { .. } => "another connection locks the database",
        }
    }

    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        match self {
            #[cfg(unix)]
            Outage::Server(server) => server.kill(),
            Outage::File { path, lock, .. } => *lock = Some(locked(path)?),
        }
        Ok(())
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        match self {
            #[cfg(unix)]
            Outage::Server(server) => server.start()?,
            Outage::File { lock, .. } => *lock = None,
        }
        Ok(())
    }
}

fn locked(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(60))?;
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // The transaction ends with its connection.
    transaction.set_drop_behavior(cenote_sqlite::rusqlite::DropBehavior::Ignore);
    drop(transaction);
    Ok(connection)
}
