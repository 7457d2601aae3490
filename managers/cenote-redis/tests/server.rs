//! The manager against a real Redis.

#![cfg(unix)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use cenote::bounded::{BoundedPool, Builder, CheckWhen, GetError};
use cenote_redis::redis::{self, AsyncCommands, AsyncConnectionConfig, Client, FromRedisValue, RedisResult};
use cenote_redis::{Connection, RedisManager};
use cenote_test_servers::{Common, Kind, Mode, PASSWORD, Proxy, Server, restart_under_load, whole_text};
use tokio::time::{sleep, timeout};

static COMMON: Common = Common::new(Kind::Redis);

fn client(server: &Server, port: u16) -> Client {
    Client::open(server.url(port)).unwrap()
}

fn builder(server: &Server) -> Builder<RedisManager> {
    BoundedPool::builder(RedisManager::new(client(server, server.port())))
}

fn pool_of(objects: usize, server: &Server) -> BoundedPool<RedisManager> {
    builder(server).max_size(objects).check(CheckWhen::Suspect).build().unwrap()
}

async fn ask<T: FromRedisValue>(connection: &mut Connection, command: &str) -> RedisResult<T> {
    let mut words = command.split(' ');
    let mut sent = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        sent.arg(word);
    });
    sent.query_async(connection).await
}

async fn expect_a_session_as_new(pool: &BoundedPool<RedisManager>) {
    let mut connection = pool.get().await.unwrap();
    let id: i64 = ask(&mut connection, "CLIENT ID").await.unwrap();
    ask::<()>(&mut connection, "ACL SETUSER guest on >guest +@all ~*").await.unwrap();
    for command in [
        "SET watched 1",
        "CLIENT SETNAME mine",
        "SELECT 3",
        "SET here 1",
        "AUTH guest guest",
        "WATCH watched",
        "MULTI",
    ] {
        ask::<()>(&mut connection, command).await.unwrap();
    }
    ask::<String>(&mut connection, "SET queued 1").await.unwrap();
    drop(connection);

    let mut connection = pool.get().await.unwrap();
    assert_eq!(ask::<i64>(&mut connection, "CLIENT ID").await.unwrap(), id, "it was reset, not replaced");
    let about: String = ask(&mut connection, "CLIENT INFO").await.unwrap();
    for part in [" db=0 ", " multi=-1 ", " name= ", " user=default "] {
        assert!(about.contains(part), "{part} {about}");
    }
    assert_eq!(ask::<Option<String>>(&mut connection, "GET queued").await.unwrap(), None);
    ask::<()>(&mut connection, "SELECT 3").await.unwrap();
    assert_eq!(ask::<i64>(&mut connection, "DEL here").await.unwrap(), 1);
}

#[tokio::test]
async fn the_next_caller_finds_a_session_as_new() {
    let Some(server) = COMMON.start_or_skip() else { return };
    expect_a_session_as_new(&pool_of(1, &server)).await;
}

#[tokio::test]
async fn the_next_caller_finds_a_session_as_new_with_resp3() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let client = Client::open(format!("{}?protocol=resp3", server.url(server.port()))).unwrap();
    let pool = BoundedPool::builder(RedisManager::new(client)).max_size(1).build().unwrap();
    expect_a_session_as_new(&pool).await;
    let about: String = ask(&mut pool.get().await.unwrap(), "CLIENT INFO").await.unwrap();
    assert!(about.contains(" resp=3"), "{about}");
}

#[tokio::test]
async fn a_server_without_reset_is_reset_by_hand() {
    let Some(server) = Server::start_or_skip_with(Kind::Redis, &["--rename-command", "RESET", ""]) else {
        return;
    };
    let pool = pool_of(1, &server);
    let mut connection = pool.get().await.unwrap();
    let id: i64 = ask(&mut connection, "CLIENT ID").await.unwrap();
    for command in ["SET watched 1", "SELECT 3", "WATCH watched", "MULTI"] {
        ask::<()>(&mut connection, command).await.unwrap();
    }
    drop(connection);
    for _ in 0..2 {
        let mut connection = pool.get().await.unwrap();
        let about: String = ask(&mut connection, "CLIENT INFO").await.unwrap();
        assert!(
            about.contains(&format!("id={id} ")) && about.contains(" db=0 ") && about.contains(" multi=-1 "),
            "{about}"
        );
    }
}

#[tokio::test]
async fn callers_that_change_nothing_cost_no_reset() {
    let Some(server) = Server::start_or_skip(Kind::Redis) else { return };
    let pool = pool_of(1, &server);
    for _ in 0..5 {
        let mut connection = pool.get().await.unwrap();
        let () = connection.set("key", 1).await.unwrap();
        let () =
            redis::pipe().atomic().incr("key", 1).incr("key", 1).exec_async(&mut *connection).await.unwrap();
        let script = redis::Script::new("return redis.call('GET', KEYS[1])");
        assert_eq!(script.key("key").invoke_async::<i32>(&mut *connection).await.unwrap(), 3);
    }
    let stats: String = ask(&mut pool.get().await.unwrap(), "INFO commandstats").await.unwrap();
    assert!(!stats.contains("cmdstat_reset"), "{stats}");
    drop(pool.get().await.unwrap());
}

/// redis-py#2665: the answer of the canceled request is read by the next one.
#[tokio::test]
async fn a_request_that_is_dropped_at_any_poll_leaves_no_answer_to_the_next() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let pool = pool_of(1, &server);
    let mut connection = pool.get().await.unwrap();
    let () = connection.set("mine", "mine").await.unwrap();
    let () = connection.set("foreign", "foreign").await.unwrap();
    drop(connection);
    for round in 0..1_000_u64 {
        let mut connection = pool.get().await.unwrap();
        {
            let mut request = pin!(async {
                let () = redis::cmd("MULTI").exec_async(&mut *connection).await?;
                connection.get::<_, String>("foreign").await
            });
            for _ in 0..round % 6 {
                if request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                sleep(Duration::from_micros(50)).await;
            }
        }
        drop(connection);
        assert_eq!(pool.get().await.unwrap().get::<_, String>("mine").await.unwrap(), "mine");
    }
}

#[tokio::test]
async fn a_blocking_command_that_nobody_waits_for_gives_its_place_back() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let manager = RedisManager::with_config(client(&server, server.port()), config);
    let pool =
        BoundedPool::builder(manager).max_size(1).reset_timeout(Duration::from_millis(100)).build().unwrap();
    let mut connection = pool.get().await.unwrap();
    timeout(Duration::from_millis(50), ask::<()>(&mut connection, "BLPOP nothing 0")).await.unwrap_err();
    drop(connection);
    let mut connection = timeout(Duration::from_secs(5), pool.get()).await.unwrap().unwrap();
    assert_eq!(ask::<String>(&mut connection, "PING").await.unwrap(), "PONG");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_loses_all_its_connections() {
    let Some(server) = Server::start_or_skip(Kind::Redis) else { return };
    let pool = pool_of(2, &server);
    let (mut first, mut second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let ids: [i64; 2] =
        [ask(&mut first, "CLIENT ID").await.unwrap(), ask(&mut second, "CLIENT ID").await.unwrap()];
    drop(second);
    ask::<()>(&mut first, "REPLICAOF 127.0.0.1 1").await.unwrap();
    let () = redis::pipe().get("key").exec_async(&mut *first).await.unwrap();
    let error = redis::pipe().get("key").set("key", 1).exec_async(&mut *first).await.unwrap_err();
    assert_eq!(error.code(), Some("READONLY"));
    drop(first);
    let (mut first, mut second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    for connection in [&mut first, &mut second] {
        assert!(!ids.contains(&ask(connection, "CLIENT ID").await.unwrap()));
    }
    let error = ask::<()>(&mut first, "SET key 1").await.unwrap_err();
    assert_eq!(error.code(), Some("READONLY"));
    ask::<()>(&mut first, "REPLICAOF NO ONE").await.unwrap();
    drop((first, second));
    ask::<()>(&mut pool.get().await.unwrap(), "SET key 1").await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_on_return_costs_the_reset_timeout() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let proxy = Proxy::start(server.port()).await.unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let pool = BoundedPool::builder(RedisManager::with_config(client(&server, proxy.port()), config))
        .max_size(1)
        .reset_timeout(Duration::from_millis(100))
        .create_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let mut connection = pool.get().await.unwrap();
    ask::<()>(&mut connection, "SELECT 1").await.unwrap();
    proxy.set(Mode::Mute);
    drop(connection);
    let error = pool.get_timeout(Duration::from_secs(1)).await.unwrap_err();
    let text = whole_text(&error);
    assert!(matches!(&error, GetError::TimedOut(_)) && text.contains("200ms"), "{text}");
    proxy.set(Mode::Forward);
    let mut connection = timeout(Duration::from_secs(5), pool.get()).await.unwrap().unwrap();
    assert_eq!(ask::<String>(&mut connection, "PING").await.unwrap(), "PONG");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_leaves_nothing_stuck_and_never_exceeds_the_limit() {
    let Some(server) = Server::start_or_skip(Kind::Redis) else { return };
    let pool = builder(&server)
        .max_size(5)
        .get_timeout(Some(Duration::from_millis(500)))
        .retry_pauses(Duration::from_millis(20), Duration::from_millis(100))
        .build()
        .unwrap();
    let asked = pool.clone();
    let _server = restart_under_load(server, move || {
        let pool = asked.clone();
        async move {
            let mut connection = pool.get().await.map_err(|error| whole_text(&error))?;
            let clients: String =
                ask(&mut connection, "CLIENT LIST").await.map_err(|error| whole_text(&error))?;
            assert!(clients.lines().count() <= 5, "{clients}");
            Ok(())
        }
    })
    .await;
    let mut connection = pool.get_timeout(Duration::from_secs(5)).await.unwrap();
    assert_eq!(ask::<String>(&mut connection, "PING").await.unwrap(), "PONG");
}

#[tokio::test]
async fn a_wrong_password_is_named_and_no_password_is_printed() {
    let Some(server) = COMMON.start_or_skip() else { return };
    let url = format!("redis://:not-this-one@127.0.0.1:{}/0", server.port());
    let manager = RedisManager::new(Client::open(url).unwrap());
    let shown = format!("{manager:?}");
    let pool = BoundedPool::builder(manager).fail_fast(true).build().unwrap();
    let text = format!("{shown} {pool:?} {}", whole_text(&pool.get().await.unwrap_err()));
    assert!(text.contains("authentication failed") || text.contains("WRONGPASS"), "{text}");
    assert!(!text.contains("not-this-one"), "{text}");

    let pool = pool_of(1, &server);
    let lease = pool.get().await.unwrap();
    assert!(!format!("{pool:?} {lease:?} {:?}", *lease).contains(PASSWORD));
}
