//! The manager and a real database.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cenote::bounded::{Blocking, BoundedPool, Builder, GetError};
use cenote_sqlite::SqliteManager;
use cenote_sqlite::rusqlite::{self, ErrorCode, OpenFlags};
use tempfile::TempDir;

type Pool = BoundedPool<Blocking<SqliteManager>>;

static OPENED: AtomicUsize = AtomicUsize::new(0);

fn manager(directory: &TempDir) -> SqliteManager {
    SqliteManager::new(directory.path().join("test.db")).on_open(|connection| {
        // Tells connections apart.
        connection.pragma_update(
            None,
            "cache_size",
            1_000 + OPENED.fetch_add(1, Ordering::Relaxed) as i64,
        )?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "foreign_keys", true)
    })
}

fn builder(directory: &TempDir) -> Builder<Blocking<SqliteManager>> {
    BoundedPool::builder(Blocking(manager(directory)))
}

fn pool_of(objects: usize, directory: &TempDir) -> Pool {
    builder(directory).max_size(objects).build().unwrap()
}

fn pragma(connection: &rusqlite::Connection, name: &str) -> i64 {
    connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

fn count(connection: &rusqlite::Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn the_next_caller_finds_a_connection_as_new() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_of(1, &directory);
    let connection = pool.get_blocking().unwrap();
    let identity = pragma(&connection, "cache_size");
    connection
        .execute_batch(
            "CREATE TABLE kept (n); BEGIN; INSERT INTO kept VALUES (1); \
             CREATE TEMP TABLE \"a\"\"b\" (n); CREATE INDEX temp.i ON \"a\"\"b\" (n); \
             CREATE TEMP VIEW v AS SELECT * FROM \"a\"\"b\"; \
             CREATE TEMP TRIGGER t AFTER INSERT ON kept BEGIN SELECT RAISE(FAIL, 'trigger'); END; COMMIT; \
             ATTACH ':memory:' AS \"an \"\"other\"; \
             PRAGMA foreign_keys = OFF; PRAGMA busy_timeout = 1; PRAGMA query_only = ON; PRAGMA synchronous = OFF; \
             PRAGMA locking_mode = EXCLUSIVE; PRAGMA max_page_count = 3",
        )
        .unwrap();
    drop(connection);

    let connection = pool.get_blocking().unwrap();
    assert_eq!(pragma(&connection, "cache_size"), identity, "it was reset, not replaced");
    for (name, expected) in
        [("foreign_keys", 1), ("busy_timeout", 5_000), ("query_only", 0), ("synchronous", 2)]
    {
        assert_eq!(pragma(&connection, name), expected, "{name}");
    }
    assert!(pragma(&connection, "max_page_count") > 1_000_000);
    assert_eq!(count(&connection, "SELECT count(*) FROM temp.sqlite_schema"), 0);
    assert_eq!(count(&connection, "SELECT count(*) FROM pragma_database_list WHERE seq > 1"), 0);
    assert_eq!(connection.execute("INSERT INTO kept VALUES (2)", []).unwrap(), 1);
    // Another connection gets at the database: the exclusive lock is gone.
    let outside = rusqlite::Connection::open(directory.path().join("test.db")).unwrap();
    assert_eq!(count(&outside, "SELECT count(*) FROM kept"), 2);
}

#[test]
fn what_was_not_committed_is_rolled_back_also_after_a_panic_or_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_of(1, &directory);
    pool.get_blocking().unwrap().execute_batch("CREATE TABLE t (n INT UNIQUE)").unwrap();
    let connection = pool.get_blocking().unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    drop(connection);
    let connection = pool.get_blocking().unwrap();
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)").unwrap_err();
    drop(connection);
    let panicking = pool.clone();
    let ended = thread::spawn(move || {
        let connection = panicking.get_blocking().unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        panic!("on purpose");
    });
    ended.join().unwrap_err();
    assert_eq!(count(&pool.get_blocking().unwrap(), "SELECT count(*) FROM t"), 0);
}

#[test]
fn a_full_disk_fails_one_statement_and_no_connection() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_of(1, &directory);
    let connection = pool.get_blocking().unwrap();
    let identity = pragma(&connection, "cache_size");
    connection.execute_batch("CREATE TABLE t (n); PRAGMA max_page_count = 4; BEGIN").unwrap();
    let error = connection.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DiskFull));
    drop(connection);
    let connection = pool.get_blocking().unwrap();
    assert_eq!(pragma(&connection, "cache_size"), identity);
    assert_eq!(connection.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap(), 1);
}

#[test]
fn statements_that_were_prepared_for_the_cache_stay() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_of(1, &directory);
    for n in 0..3 {
        let connection = pool.get_blocking().unwrap();
        let found: i64 =
            connection.prepare_cached("SELECT ?1 + 1").unwrap().query_row([n], |row| row.get(0)).unwrap();
        assert_eq!(found, n + 1);
    }
}

#[test]
fn a_database_that_cannot_be_opened_says_which_step_failed() {
    let directory = tempfile::tempdir().unwrap();
    let absent = SqliteManager::new(directory.path().join("absent")).flags(OpenFlags::SQLITE_OPEN_READ_ONLY);
    let broken = SqliteManager::new(":memory:").on_open(|connection| connection.execute_batch("NONSENSE"));
    for (manager, expected) in [(absent, "could not be opened"), (broken, "could not be set up")] {
        let pool = BoundedPool::builder(Blocking(manager)).fail_fast(true).build().unwrap();
        let error = pool.get_blocking().unwrap_err();
        let GetError::Create(error) = &error else { panic!("{error:?}") };
        let text = std::error::Error::source(&**error).unwrap().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn threads_that_write_at_once_all_get_through() {
    let directory = tempfile::tempdir().unwrap();
    let pool = pool_of(3, &directory);
    pool.get_blocking().unwrap().execute_batch("CREATE TABLE t (n INT)").unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..20 {
                    let mut connection = pool.get_blocking_timeout(Duration::from_secs(60)).unwrap();
                    let behavior = rusqlite::TransactionBehavior::Immediate;
                    let transaction = connection.transaction_with_behavior(behavior).unwrap();
                    transaction.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
                    // Each third is left to the rollback.
                    if n % 3 != 0 {
                        transaction.commit().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(count(&pool.get_blocking().unwrap(), "SELECT count(*) FROM t"), 8 * 13);
    assert!(pool.stats().size <= 3);
}
