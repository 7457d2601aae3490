//! Counts of visits, in one of four databases.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use cenote::bounded::{Blocking, BoundedPool, BoundedStats, GetError, Manager, Phase};
use cenote_mysql::MySqlManager;
use cenote_mysql::mysql_async::Opts;
use cenote_mysql::mysql_async::prelude::Queryable;
use cenote_postgres::PostgresManager;
use cenote_redis::RedisManager;
use cenote_redis::redis::{AsyncCommands, Client};
use cenote_sqlite::SqliteManager;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::Error;

/// How long a caller waits for a connection.
const GET: Duration = Duration::from_secs(2);
/// How long a caller waits for an answer.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) enum Store {
    Sqlite(BoundedPool<Blocking<SqliteManager>>),
    Postgres(BoundedPool<PostgresManager>),
    MySql(BoundedPool<MySqlManager>),
    Redis(BoundedPool<RedisManager>),
}

fn pool<M: Manager>(manager: M) -> Result<BoundedPool<M>, Error> {
    Ok(BoundedPool::builder(manager).max_size(8).get_timeout(Some(GET)).build()?)
}

impl Store {
    pub(crate) fn sqlite(path: &Path) -> Result<Store, Error> {
        let manager = SqliteManager::new(path).on_open(|connection| {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.busy_timeout(ANSWER)
        });
        Ok(Store::Sqlite(pool(Blocking(manager))?))
    }

    pub(crate) fn postgres(url: &str) -> Result<Store, Error> {
        Ok(Store::Postgres(pool(PostgresManager::new(url.parse()?))?))
    }

    pub(crate) fn mysql(url: &str) -> Result<Store, Error> {
        Ok(Store::MySql(pool(MySqlManager::new(Opts::from_url(url)?))?))
    }

    pub(crate) fn redis(url: &str) -> Result<Store, Error> {
        Ok(Store::Redis(pool(RedisManager::new(Client::open(url)?))?))
    }

    /// Makes the table.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        const SQL: &str =
            "CREATE TABLE IF NOT EXISTS visits (page VARCHAR(200) PRIMARY KEY, count BIGINT NOT NULL)";
        match self {
            Store::Sqlite(pool) => {
                let connection = pool.get().await?;
                answer(spawn_blocking(move || connection.execute_batch(SQL)))
                    .await?
                    .map_err(Failure::of_query)
            }
            Store::Postgres(pool) => answer(pool.get().await?.batch_execute(SQL)).await,
            Store::MySql(pool) => answer(pool.get().await?.query_drop(SQL)).await,
            Store::Redis(_) => Ok(()),
        }
    }

    /// Counts a visit, and says which one it was.
    pub(crate) async fn visit(&self, page: &str) -> Result<i64, Failure> {
        match self {
            Store::Sqlite(pool) => {
                let connection = pool.get().await?;
                let page = page.to_owned();
                // SQLite blocks. The connection goes back when the query ends, also if nobody waits for it any more.
                let count = spawn_blocking(move || {
                    let sql = "INSERT INTO visits VALUES (?1, 1) ON CONFLICT (page) DO UPDATE SET count = count + 1 RETURNING count";
                    connection.prepare_cached(sql)?.query_row([page], |row| row.get(0))
                });
                answer(count).await?.map_err(|error: cenote_sqlite::rusqlite::Error| Failure::of_query(error))
            }
            Store::Postgres(pool) => {
                let connection = pool.get().await?;
                let sql = "INSERT INTO visits VALUES ($1, 1) ON CONFLICT (page) DO UPDATE SET count = visits.count + 1 \
                           RETURNING count";
                answer(connection.query_one_scalar(sql, &[&page])).await
            }
            Store::MySql(pool) => {
                let mut connection = pool.get().await?;
                let sql = "INSERT INTO visits VALUES (?, LAST_INSERT_ID(1)) \
                           ON DUPLICATE KEY UPDATE count = LAST_INSERT_ID(count + 1)";
                answer(connection.exec_drop(sql, (page,))).await?;
                Ok(connection.last_insert_id().unwrap_or(1) as i64)
            }
            Store::Redis(pool) => answer(pool.get().await?.incr(format!("visits:{page}"), 1)).await,
        }
    }

    pub(crate) fn stats(&self) -> BoundedStats {
        match self {
            Store::Sqlite(pool) => pool.stats(),
            Store::Postgres(pool) => pool.stats(),
            Store::MySql(pool) => pool.stats(),
            Store::Redis(pool) => pool.stats(),
        }
    }
}

/// Waits for an answer, but not for ever. The manager sees to a connection whose answer nobody waits for.
async fn answer<T, E: StdError + Send + Sync + 'static>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    timeout(ANSWER, future).await.map_err(|_| Failure::NoAnswer)?.map_err(Failure::of_query)
}

/// Why a visit could not be counted.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no connection, and if it timed out: what it waited for.
    Get(Error, Option<Phase>),
    /// The database refused, or the connection broke.
    Query(Error),
    /// There was no answer in time.
    NoAnswer,
}

impl Failure {
    fn of_query(error: impl StdError + Send + Sync + 'static) -> Failure {
        Failure::Query(Box::new(error))
    }

    /// The error, and the innermost of its causes.
    pub(crate) fn summary(&self) -> (&'static str, String) {
        let (what, error) = match self {
            // All connections were in use, and none of them has failed.
            Failure::Get(error, Some(phase)) if error.source().is_none() => {
                return ("no connection", format!("{phase:?} timed out"));
            }
            Failure::Get(error, _) => ("no connection", error),
            Failure::Query(error) => ("query failed", error),
            Failure::NoAnswer => return ("no answer", format!("within {ANSWER:?}")),
        };
        let mut cause: &(dyn StdError + 'static) = error.as_ref();
        while let Some(next) = cause.source() {
            cause = next;
        }
        (what, cause.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, cause) = self.summary();
        write!(f, "{what}: {cause}")
    }
}

impl StdError for Failure {}

impl<E: StdError + Send + Sync + 'static> From<GetError<E>> for Failure {
    fn from(error: GetError<E>) -> Self {
        let phase = match &error {
            GetError::TimedOut(error) => Some(error.phase),
            _ => None,
        };
        Failure::Get(Box::new(error), phase)
    }
}
