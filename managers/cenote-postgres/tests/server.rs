//! The manager against a real PostgreSQL.

#![cfg(unix)]

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cenote::bounded::{BoundedPool, Builder, CheckWhen, GetError, Lease};
use cenote_postgres::PostgresManager;
use cenote_postgres::tokio_postgres::config::TargetSessionAttrs;
use cenote_postgres::tokio_postgres::{Client, Config, NoTls};
use cenote_test_servers::{Common, Kind, Mode, PASSWORD, Proxy, Server, restart_under_load, whole_text};
use tokio::time::{sleep, timeout};

static COMMON: Common = Common::new(Kind::Postgres);

type Pool = BoundedPool<PostgresManager>;

fn config(server: &Server, port: u16, name: &str) -> Config {
    let mut config: Config = server.url(port).parse().unwrap();
    config.application_name(name);
    config
}

fn builder(server: &Server, name: &str) -> Builder<PostgresManager> {
    BoundedPool::builder(PostgresManager::new(config(server, server.port(), name)))
}

fn pool_of(objects: usize, server: &Server, name: &str) -> Pool {
    builder(server, name).max_size(objects).check(CheckWhen::Suspect).build().unwrap()
}

/// A connection that is none of a pool's.
async fn outside(server: &Server) -> Client {
    let (client, connection) = config(server, server.port(), "outside").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn scalar(client: &Client, sql: &str) -> String {
    client.query_one_scalar(sql, &[]).await.unwrap()
}

/// Waits until the answer is the expected one.
async fn until(client: &Client, sql: &str, expected: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = scalar(client, sql).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {found} instead of {expected}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_next_caller_finds_a_session_as_new() {
    let Some(server) = COMMON.start_or_skip() else { return };
    outside(&server)
        .await
        .batch_execute(
            "DROP ROLE IF EXISTS guest; CREATE ROLE guest; DROP SEQUENCE IF EXISTS s; CREATE SEQUENCE s",
        )
        .await
        .unwrap();
    let pool = pool_of(1, &server, "as_new");
    let connection = pool.get().await.unwrap();
    let process = scalar(&connection, "SELECT pg_backend_pid()::text").await;
    connection
        .batch_execute(
            "SET ROLE guest; SET statement_timeout = 0; SET search_path = nowhere; SET TIME ZONE 'Asia/Tokyo'; \
             SET default_transaction_read_only = on; SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        )
        .await
        .unwrap();
    drop(connection);

    let connection = pool.get().await.unwrap();
    assert_eq!(
        scalar(&connection, "SELECT pg_backend_pid()::text").await,
        process,
        "it was reset, not replaced"
    );
    for (sql, expected) in [
        ("SELECT current_user::text", "cenote"),
        ("SHOW search_path", "\"$user\", public"),
        ("SHOW default_transaction_read_only", "off"),
        ("SHOW default_transaction_isolation", "read committed"),
    ] {
        assert_eq!(scalar(&connection, sql).await, expected, "{sql}");
    }
    assert_ne!(scalar(&connection, "SHOW TimeZone").await, "Asia/Tokyo");
    connection
        .batch_execute(
            "SET SESSION AUTHORIZATION guest; RESET SESSION AUTHORIZATION; LISTEN news; SELECT pg_advisory_lock(7); \
             SELECT nextval('s'); CREATE TEMP TABLE t (n int); PREPARE \"mine; too\" AS SELECT 1; PREPARE p AS SELECT 1; \
             BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        )
        .await
        .unwrap();
    drop(connection);

    let connection = pool.get().await.unwrap();
    assert_eq!(scalar(&connection, "SELECT pg_backend_pid()::text").await, process);
    for sql in [
        "SELECT count(*)::text FROM pg_listening_channels()",
        "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT count(*)::text FROM pg_class WHERE relname = 't'",
        "SELECT count(*)::text FROM pg_prepared_statements WHERE from_sql",
        "SELECT count(*)::text FROM pg_cursors WHERE name = 'c'",
    ] {
        assert_eq!(scalar(&connection, sql).await, "0", "{sql}");
    }
    let error = connection.query_one("SELECT currval('s')", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55000", "the sequence has no value in a new session");
}

#[tokio::test]
async fn what_the_driver_has_prepared_survives_the_reset() {
    let Some(server) = COMMON.start_or_skip() else { return };
    outside(&server)
        .await
        .batch_execute("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('fine')")
        .await
        .unwrap();
    let pool = pool_of(1, &server, "prepared");
    let connection = pool.get().await.unwrap();
    let statement = connection.prepare("SELECT $1::int + 1").await.unwrap();
    // The driver looks an unknown type up with statements that it keeps.
    connection.query("SELECT 'fine'::mood", &[]).await.unwrap();
    drop(connection);

    let connection = pool.get().await.unwrap();
    assert_eq!(connection.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 2);
    connection.query("SELECT 'fine'::mood, NULL::information_schema.sql_identifier", &[]).await.unwrap();
}

#[tokio::test]
async fn a_failed_transaction_and_an_open_one_are_rolled_back() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server, "rolled_back");
    let connection = pool.get().await.unwrap();
    let process = scalar(&connection, "SELECT pg_backend_pid()::text").await;
    connection.batch_execute("BEGIN").await.unwrap();
    connection.batch_execute("SELECT 1 / 0").await.unwrap_err();
    drop(connection);
    let connection = pool.get().await.unwrap();
    connection.batch_execute("BEGIN; CREATE TABLE not_committed (n int)").await.unwrap();
    drop(connection);
    let connection = pool.get().await.unwrap();
    assert_eq!(scalar(&connection, "SELECT pg_backend_pid()::text").await, process);
    assert_eq!(
        scalar(&connection, "SELECT count(*)::text FROM pg_class WHERE relname = 'not_committed'").await,
        "0"
    );
}

#[tokio::test]
async fn an_ordinary_return_leaves_no_warning_in_the_servers_log() {
    let Some(server) = Server::start_or_skip(Kind::Postgres) else { return };
    let pool = pool_of(1, &server, "no_warning");
    for _ in 0..3 {
        assert_eq!(scalar(&pool.get().await.unwrap(), "SELECT 1::text").await, "1");
    }
    drop(pool.get().await.unwrap());
    assert!(!server.log().contains("WARNING"), "{}", server.log());
}

/// sqlx#4393: the future of a `BEGIN` is dropped while it is on the wire, and the next caller works within the dead
/// transaction.
#[tokio::test]
async fn a_begin_that_is_dropped_at_any_poll_leaves_no_transaction() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server, "dropped_begin");
    let mut outcomes = BTreeSet::new();
    for polls in (0..4).cycle().take(200) {
        let mut connection = pool.get().await.unwrap();
        let outcome = {
            let mut begin = pin!(connection.build_transaction().read_only(true).start());
            let mut outcome = "dropped";
            for _ in 0..polls {
                if begin.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    outcome = "begun";
                    break;
                }
                tokio::task::yield_now().await;
                sleep(Duration::from_micros(50 * polls)).await;
            }
            outcome
        };
        // As above, by hand: the driver takes no notice of this one.
        {
            let mut by_hand = pin!(connection.batch_execute("BEGIN READ ONLY"));
            assert!(by_hand.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        outcomes.insert(outcome);
        drop(connection);
        let connection = pool.get().await.unwrap();
        assert_eq!(scalar(&connection, "SHOW transaction_read_only").await, "off");
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    drop(pool.get().await.unwrap());
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE state LIKE 'idle in%' AND application_name = 'dropped_begin'";
    until(&outside(&server).await, sql, "0").await;
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_is_canceled_and_its_place_is_free_again() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool =
        builder(&server, "abandoned").max_size(1).reset_timeout(Duration::from_millis(100)).build().unwrap();
    let connection = pool.get().await.unwrap();
    timeout(Duration::from_millis(50), connection.query("SELECT pg_sleep(1000)", &[])).await.unwrap_err();
    drop(connection);
    let connection = timeout(Duration::from_secs(5), pool.get()).await.unwrap().unwrap();
    assert_eq!(scalar(&connection, "SELECT 1::text").await, "1");
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(%'";
    until(&outside(&server).await, sql, "0").await;
}

#[tokio::test]
async fn a_server_that_hangs_on_return_costs_the_reset_timeout() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let proxy = Proxy::start(server.port()).await.unwrap();
    let pool = BoundedPool::builder(PostgresManager::new(config(&server, proxy.port(), "hangs")))
        .max_size(1)
        .reset_timeout(Duration::from_millis(100))
        .close_timeout(Duration::from_millis(100))
        .create_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let connection = pool.get().await.unwrap();
    proxy.set(Mode::Mute);
    drop(connection);
    // The proxy accepts and stays mute: each creation ends with its own limit, and the error says why.
    let error = pool.get_timeout(Duration::from_secs(1)).await.unwrap_err();
    let text = whole_text(&error);
    assert!(matches!(&error, GetError::TimedOut(_)), "{text}");
    assert!(error.source().unwrap().to_string().contains("200ms"), "{text}");
    proxy.set(Mode::Forward);
    let connection = timeout(Duration::from_secs(5), pool.get()).await.unwrap().unwrap();
    assert_eq!(scalar(&connection, "SELECT 1::text").await, "1");
    drop(connection);
    // Nobody asks, and all that hung is gone from the server all the same.
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'hangs'";
    until(&outside(&server).await, sql, "1").await;
}

/// gpustack#6107: the old primary answers a `SELECT 1` for days, and refuses writes.
#[tokio::test]
async fn a_server_that_no_longer_writes_loses_all_its_connections() {
    let Some(mut server) = Server::start_or_skip(Kind::Postgres) else { return };
    let mut config = config(&server, server.port(), "failover");
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let pool = BoundedPool::builder(PostgresManager::new(config))
        .max_size(3)
        .get_timeout(Some(Duration::from_millis(500)))
        .build()
        .unwrap();
    let (first, second, third) =
        (pool.get().await.unwrap(), pool.get().await.unwrap(), pool.get().await.unwrap());
    drop((second, third));
    let admin = outside(&server).await;
    admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&first, "SHOW default_transaction_read_only", "on").await;
    drop(first);
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'failover'";
    until(&admin, sql, "0").await;
    let text = whole_text(&pool.get().await.unwrap_err());
    assert!(text.contains("does not allow writes"), "{text}");
    admin.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    assert_eq!(
        scalar(&pool.get_timeout(Duration::from_secs(10)).await.unwrap(), "SELECT 1::text").await,
        "1"
    );

    // And for good: the server comes back as a standby, and is promoted.
    server.stop();
    fs::write(server.data().join("standby.signal"), "").unwrap();
    server.start().unwrap();
    let text = whole_text(&pool.get().await.unwrap_err());
    assert!(text.contains("does not allow writes"), "{text}");
    outside(&server).await.batch_execute("SELECT pg_promote()").await.unwrap();
    let connection = pool.get_timeout(Duration::from_secs(10)).await.unwrap();
    connection.batch_execute("CREATE TABLE written (n int)").await.unwrap();
}

#[tokio::test]
async fn a_pool_of_readers_on_a_standby_works() {
    let Some(mut server) = Server::start_or_skip(Kind::Postgres) else { return };
    server.stop();
    fs::write(server.data().join("standby.signal"), "").unwrap();
    server.start().unwrap();
    let pool = pool_of(1, &server, "readers");
    let connection = pool.get().await.unwrap();
    let process = scalar(&connection, "SELECT pg_backend_pid()::text").await;
    drop(connection);
    assert_eq!(scalar(&pool.get().await.unwrap(), "SELECT pg_backend_pid()::text").await, process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_leaves_nothing_stuck_and_never_exceeds_the_limit() {
    let Some(server) = Server::start_or_skip(Kind::Postgres) else { return };
    let pool = builder(&server, "restart")
        .max_size(5)
        .get_timeout(Some(Duration::from_millis(500)))
        .retry_pauses(Duration::from_millis(20), Duration::from_millis(100))
        .build()
        .unwrap();
    let asked = pool.clone();
    let server = restart_under_load(server, move || {
        let pool = asked.clone();
        async move {
            let connection = pool.get().await.map_err(|error| whole_text(&error))?;
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'restart'";
            let count: i64 =
                connection.query_one_scalar(sql, &[]).await.map_err(|error| whole_text(&error))?;
            assert!(count <= 5, "{count} connections");
            Ok(())
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(
            scalar(&pool.get_timeout(Duration::from_secs(5)).await.unwrap(), "SELECT 1::text").await,
            "1"
        );
    }
    let sql =
        "SELECT (count(*) BETWEEN 1 AND 5)::text FROM pg_stat_activity WHERE application_name = 'restart'";
    until(&outside(&server).await, sql, "true").await;
}

#[tokio::test]
async fn a_wrong_password_is_named_and_no_password_is_printed() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let mut wrong = config(&server, server.port(), "wrong");
    wrong.password("not-this-one");
    let manager = PostgresManager::new(wrong);
    let shown = format!("{manager:?}");
    let pool = BoundedPool::builder(manager).fail_fast(true).build().unwrap();
    let error = pool.get().await.unwrap_err();
    let text = format!("{shown} {pool:?} {}", whole_text(&error));
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("not-this-one"), "{text}");

    let pool = Arc::new(pool_of(1, &server, "right"));
    let lease: Lease<_> = pool.get().await.unwrap();
    assert!(!format!("{pool:?} {lease:?} {:?}", *lease).contains(PASSWORD));
}

#[tokio::test]
async fn a_get_that_is_dropped_at_any_poll_loses_no_connection() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = builder(&server, "dropped_get").max_size(2).check(CheckWhen::Borrowed).build().unwrap();
    for polls in (0..6_u64).cycle().take(300) {
        let mut get = pin!(pool.get());
        for _ in 0..polls {
            if let Poll::Ready(lease) = get.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                drop(lease.unwrap());
                break;
            }
            sleep(Duration::from_micros(100 * polls)).await;
        }
    }
    let both = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    assert_eq!(pool.stats().leased, 2);
    drop(both);
}
