//! The manager against a real MariaDB.

#![cfg(unix)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use cenote::bounded::{BoundedPool, Builder, CheckWhen, GetError};
use cenote_mysql::mysql_async::prelude::Queryable;
use cenote_mysql::mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, TxOpts};
use cenote_mysql::{Connection, MySqlManager};
use cenote_test_servers::{Common, Kind, Mode, PASSWORD, Proxy, Server, restart_under_load, whole_text};
use tokio::time::{sleep, timeout};

static COMMON: Common = Common::new(Kind::MariaDb);

fn opts(server: &Server, port: u16) -> Opts {
    Opts::from_url(&server.url(port)).unwrap()
}

fn builder(server: &Server) -> Builder<MySqlManager> {
    BoundedPool::builder(MySqlManager::new(opts(server, server.port())))
}

fn pool_of(objects: usize, server: &Server) -> BoundedPool<MySqlManager> {
    builder(server).max_size(objects).check(CheckWhen::Suspect).build().unwrap()
}

async fn outside(server: &Server) -> Conn {
    Conn::new(opts(server, server.port())).await.unwrap()
}

async fn scalar(connection: &mut Connection, sql: &str) -> Option<String> {
    connection.query_first::<Option<String>, _>(sql).await.unwrap().flatten()
}

#[tokio::test]
async fn the_next_caller_finds_a_session_as_new() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server);
    let mut connection = pool.get().await.unwrap();
    let id = connection.id();
    for sql in [
        "CREATE OR REPLACE TABLE kept (n INT) ENGINE = InnoDB",
        "SET SESSION sql_mode = '', @mine = 1, NAMES latin1, max_statement_time = 100",
        "DO GET_LOCK('mine', 0)",
        "CREATE TEMPORARY TABLE t (n INT)",
        "PREPARE p FROM 'SELECT 1'",
        "SET autocommit = 0",
        "INSERT INTO kept VALUES (1)",
    ] {
        connection.query_drop(sql).await.unwrap();
    }
    drop(connection);

    let mut connection = pool.get().await.unwrap();
    assert_eq!(connection.id(), id, "it was reset, not replaced");
    for (sql, expected) in [
        ("SELECT @@sql_mode = @@global.sql_mode", Some("1")),
        ("SELECT @mine", None),
        ("SELECT @@max_statement_time = @@global.max_statement_time", Some("1")),
        ("SELECT IS_FREE_LOCK('mine')", Some("1")),
        ("SELECT @@autocommit", Some("1")),
        ("SELECT COUNT(*) FROM kept", Some("0")),
    ] {
        assert_eq!(scalar(&mut connection, sql).await.as_deref(), expected, "{sql}");
    }
    assert!(connection.query_drop("SELECT * FROM t").await.is_err());
    assert!(connection.query_drop("EXECUTE p").await.is_err());
}

#[tokio::test]
async fn another_database_or_user_of_the_last_caller_is_changed_back() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let mut admin = outside(&server).await;
    admin.query_drop("CREATE OR REPLACE USER guest@'%' IDENTIFIED BY 'guest'").await.unwrap();
    let pool = pool_of(1, &server);
    let mut connection = pool.get().await.unwrap();
    connection.query_drop("USE information_schema").await.unwrap();
    drop(connection);
    let mut connection = pool.get().await.unwrap();
    assert_eq!(scalar(&mut connection, "SELECT DATABASE()").await.as_deref(), Some("test"));
    let guest = ChangeUserOpts::new()
        .with_user(Some("guest".to_owned()))
        .with_pass(Some("guest".to_owned()))
        .with_db_name(None);
    connection.change_user(guest).await.unwrap();
    drop(connection);
    let mut connection = pool.get().await.unwrap();
    assert_eq!(scalar(&mut connection, "SELECT CURRENT_USER()").await.as_deref(), Some("cenote@%"));
    assert_eq!(scalar(&mut connection, "SELECT DATABASE()").await.as_deref(), Some("test"));
}

#[tokio::test]
async fn results_that_were_left_unread_are_read_away() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server);
    let mut connection = pool.get().await.unwrap();
    let id = connection.id();
    let mut result = connection.query_iter("SELECT seq FROM seq_1_to_10000; SELECT 2").await.unwrap();
    assert!(result.next().await.unwrap().is_some());
    drop(result);
    drop(connection);
    let mut connection = pool.get().await.unwrap();
    assert_eq!(connection.id(), id);
    assert_eq!(scalar(&mut connection, "SELECT 3").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn an_operation_that_is_dropped_at_any_poll_leaves_no_transaction_and_no_answer() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server);
    for round in 0..200_u32 {
        let mut connection = pool.get().await.unwrap();
        {
            let work = async {
                let mut transaction = connection.start_transaction(TxOpts::default()).await?;
                let found: Option<u32> = transaction.query_first("SELECT 4711").await?;
                transaction.query_iter("SELECT 1; SELECT 2").await?;
                Ok::<_, cenote_mysql::mysql_async::Error>(found)
            };
            let mut work = pin!(work);
            for _ in 0..round % 8 {
                if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                sleep(Duration::from_micros(100)).await;
            }
        }
        drop(connection);
        let mut connection = pool.get().await.unwrap();
        assert_eq!(scalar(&mut connection, "SELECT 'mine'").await.as_deref(), Some("mine"));
        assert_eq!(scalar(&mut connection, "SELECT @@in_transaction").await.as_deref(), Some("0"));
    }
}

/// The twin of gpustack#6107.
#[tokio::test]
async fn a_server_that_no_longer_writes_loses_all_its_connections() {
    let Some(server) = Server::start_or_skip(Kind::MariaDb) else { return };
    let pool = pool_of(2, &server);
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let ids = [first.id(), second.id()];
    let mut admin = outside(&server).await;
    admin.query_drop("SET GLOBAL read_only = ON").await.unwrap();
    drop(first);
    drop(second);
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert!(!ids.contains(&first.id()) && !ids.contains(&second.id()));
    // These were made to read. They stay until they can write again, and then.
    let ids = [first.id(), second.id()];
    drop((first, second));
    admin.query_drop("SET GLOBAL read_only = OFF").await.unwrap();
    assert!(ids.contains(&pool.get().await.unwrap().id()));
}

#[tokio::test]
async fn a_server_that_hangs_on_return_costs_the_reset_timeout() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let proxy = Proxy::start(server.port()).await.unwrap();
    let pool = BoundedPool::builder(MySqlManager::new(opts(&server, proxy.port())))
        .max_size(1)
        .reset_timeout(Duration::from_millis(100))
        .close_timeout(Duration::from_millis(100))
        .create_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let connection = pool.get().await.unwrap();
    proxy.set(Mode::Mute);
    drop(connection);
    let error = pool.get_timeout(Duration::from_secs(1)).await.unwrap_err();
    let text = whole_text(&error);
    assert!(matches!(&error, GetError::TimedOut(_)) && text.contains("200ms"), "{text}");
    proxy.set(Mode::Forward);
    let mut connection = timeout(Duration::from_secs(5), pool.get()).await.unwrap().unwrap();
    assert_eq!(scalar(&mut connection, "SELECT 1").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_leaves_nothing_stuck_and_never_exceeds_the_limit() {
    let Some(server) = Server::start_or_skip(Kind::MariaDb) else { return };
    let pool = builder(&server)
        .max_size(5)
        .get_timeout(Some(Duration::from_millis(500)))
        .retry_pauses(Duration::from_millis(20), Duration::from_millis(100))
        .build()
        .unwrap();
    let asked = pool.clone();
    let server = restart_under_load(server, move || {
        let pool = asked.clone();
        async move {
            let mut connection = pool.get().await.map_err(|error| whole_text(&error))?;
            let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'cenote'";
            let count: Option<u32> = connection.query_first(sql).await.map_err(|error| whole_text(&error))?;
            assert!(count.unwrap() <= 5, "{count:?} connections");
            Ok(())
        }
    })
    .await;
    let mut connection = pool
        .get_timeout(Duration::from_secs(5))
        .await
        .unwrap_or_else(|error| panic!("{error:?}: {}", server.log()));
    assert_eq!(scalar(&mut connection, "SELECT 1").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_wrong_password_is_named_and_no_password_is_printed() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let wrong = OptsBuilder::from_opts(opts(&server, server.port())).pass(Some("not-this-one"));
    let manager = MySqlManager::new(wrong.into());
    let shown = format!("{manager:?}");
    let pool = BoundedPool::builder(manager).fail_fast(true).build().unwrap();
    let text = format!("{shown} {pool:?} {}", whole_text(&pool.get().await.unwrap_err()));
    assert!(text.contains("Access denied"), "{text}");
    assert!(!text.contains("not-this-one"), "{text}");

    let pool = pool_of(1, &server);
    let lease = pool.get().await.unwrap();
    assert!(!format!("{pool:?} {lease:?} {:?}", *lease).contains(PASSWORD));
}
