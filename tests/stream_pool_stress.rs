//! `StreamPool` under four threads, 64 tasks that change their minds, and a server that dies again and again.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cenote::grpc::{Overflow, StreamPool};
use cenote_proto::greeter_client::GreeterClient;
use support::{TonicServer, eventually_async, hello, slow_hello};
use tokio::time::timeout;
use tonic::{Code, Request};

/// Longer than any stream takes to come back: who waits so long has been forgotten.
const PATIENCE: Duration = Duration::from_secs(10);

fn limited(addr: std::net::SocketAddr) -> TonicServer {
    TonicServer::start_at(addr, "tonic", |server| server.max_concurrent_streams(3))
}

#[derive(Default)]
struct Score {
    answered: AtomicUsize,
    cut: AtomicUsize,
}

/// One of many, until told to stop.
async fn caller(pool: StreamPool, target: String, stop: Arc<AtomicBool>, score: Arc<Score>, number: u64) {
    let mut random = random_numbers(number);
    while !stop.load(Ordering::Relaxed) {
        let Ok(lease) = pool.get(&target) else { return };
        match random() % 6 {
            0 => drop(lease),
            1 => {
                let _ = timeout(Duration::from_micros(random() % 2000), lease.granted()).await;
            }
            2 | 3 => {
                let call = GreeterClient::new(lease);
                let request = slow_hello("ada", Duration::from_millis(random() % 3));
                let cut = timeout(Duration::from_micros(random() % 4000), async move {
                    let mut call = call;
                    call.say_hello(request).await
                });
                if cut.await.is_err() {
                    score.cut.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {
                let mut request = Request::new(hello("ada"));
                request.set_timeout(PATIENCE);
                match GreeterClient::new(lease).say_hello(request).await {
                    Ok(_) => _ = score.answered.fetch_add(1, Ordering::Relaxed),
                    // The server was down, or the pool is closed.
                    Err(status) if matches!(status.code(), Code::Unavailable | Code::Cancelled) => {}
                    Err(status) => panic!("{status:?}"),
                }
            }
        }
    }
}

/// xorshift.
fn random_numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    }
}

fn callers(
    pool: &StreamPool,
    target: &str,
    stop: &Arc<AtomicBool>,
    score: &Arc<Score>,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..64)
        .map(|number| {
            let (stop, score) = (Arc::clone(stop), Arc::clone(score));
            tokio::spawn(caller(pool.clone(), target.to_owned(), stop, score, number + 1))
        })
        .collect()
}

async fn stressed(overflow: Overflow, ttl: Duration) {
    let mut server = limited("127.0.0.1:0".parse().unwrap());
    let target = server.target();
    let pool = StreamPool::builder().size(3).ttl(ttl).overflow(overflow).build().unwrap();
    let (stop, score) = (Arc::new(AtomicBool::new(false)), Arc::new(Score::default()));
    let tasks = callers(&pool, &target, &stop, &score);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let again = tokio::task::spawn_blocking(move || limited(server.kill()));
        server = again.await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(score.answered.load(Ordering::Relaxed) > 100 && score.cut.load(Ordering::Relaxed) > 20);
    // The ends of calls that were cut are told by tasks of their own.
    let stats = || pool.stats().address(&target).cloned();
    eventually_async("nothing is counted", || {
        stats().is_none_or(|stats| stats.streams() == 0 && stats.waiting == 0)
    })
    .await;

    // Once more, and closed in the middle of it.
    stop.store(false, Ordering::Relaxed);
    let tasks = callers(&pool, &target, &stop, &score);
    tokio::time::sleep(Duration::from_millis(300)).await;
    pool.close();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(pool.stats().addresses.is_empty());
    eventually_async("no socket is left", || server.seen.open() == 0).await;
    drop(pool);
    let metrics = tokio::runtime::Handle::current().metrics();
    eventually_async("no task is left", || metrics.num_alive_tasks() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_and_nothing_leaks_where_callers_wait() {
    // So long that nothing but the streams that come back brings those on who wait at the end.
    stressed(Overflow::Wait, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_where_callers_beyond_the_limits_have_connections_of_their_own() {
    stressed(Overflow::Unpooled, Duration::from_millis(200)).await;
}
