//! `RuntimePool::serve_tcp`: connections come to the loops, also while one of them leaves.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cenote::runtime_pool::{Deal, RuntimePool, Serving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(20);

type Served = Arc<Mutex<BTreeMap<String, usize>>>;

/// Echoes one byte for each connection, and counts by threads.
fn echo(pool: &RuntimePool, deal: Deal) -> (Serving, Served) {
    let served = Served::default();
    let counted = Arc::clone(&served);
    let serving = pool.serve_tcp("127.0.0.1:0".parse().unwrap(), deal, move |mut stream, _| {
        let counted = Arc::clone(&counted);
        async move {
            // What is not `Send` may live across an await.
            let byte = Rc::new(std::cell::Cell::new(0));
            if let Ok(read) = stream.read_u8().await {
                byte.set(read);
                let name = thread::current().name().unwrap_or_default().to_owned();
                *counted.lock().unwrap().entry(name).or_default() += 1;
                let _ = stream.write_all(&[byte.get()]).await;
            }
        }
    });
    (serving.unwrap(), served)
}

fn ask(address: SocketAddr, byte: u8) -> io::Result<u8> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(&[byte])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn connections_are_dealt_in_turn() {
    let pool = RuntimePool::builder(3).name("deal-").build().unwrap();
    let (serving, served) = echo(&pool, Deal::RoundRobin);
    for byte in 0..30 {
        assert_eq!(ask(serving.local_addr(), byte).unwrap(), byte);
    }
    let served: Vec<_> = served.lock().unwrap().values().copied().collect();
    assert_eq!(served, [10, 10, 10]);
}

#[test]
fn a_loop_that_is_busy_gets_fewer_connections_from_the_least_loaded_dealer() {
    let pool = RuntimePool::builder(2).name("least-").build().unwrap();
    for _ in 0..50 {
        drop(pool.at(0).unwrap().spawn(std::future::pending::<()>()).unwrap());
    }
    let (serving, served) = echo(&pool, Deal::LeastLoaded);
    (0..20).for_each(|byte| assert_eq!(ask(serving.local_addr(), byte).unwrap(), byte));
    let served: Vec<_> = served.lock().unwrap().clone().into_iter().collect();
    assert_eq!(served, [("least-1".to_owned(), 20)]);
}

#[cfg(unix)]
#[test]
fn with_a_listener_for_each_loop_all_of_them_serve() {
    let pool = RuntimePool::builder(3).name("port-").build().unwrap();
    let (serving, served) = echo(&pool, Deal::ReusePort);
    (0..200).for_each(|byte| assert_eq!(ask(serving.local_addr(), byte).unwrap(), byte));
    let served = served.lock().unwrap();
    assert_eq!((served.len(), served.values().sum::<usize>()), (3, 200), "{served:?}");
}

/// granian#567, envoy#8031: a loop leaves, and those who wait at its listener are reset, or hang.
fn connect_while_loops_leave(deal: Deal) -> Vec<io::Error> {
    const CONNECTS: usize = 10_000;
    let pool = RuntimePool::new(4).unwrap();
    let (serving, _served) = echo(&pool, deal);
    let address = serving.local_addr();
    let (done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let has_left = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while done.fetch_add(1, Ordering::Relaxed) < CONNECTS {
                    if let Err(error) = ask(address, 1) {
                        failed.lock().unwrap().push(error);
                    }
                }
            });
        }
        scope.spawn(|| {
            for index in 0..3 {
                while done.load(Ordering::Relaxed) < CONNECTS / 5 * (index + 1) {
                    thread::yield_now();
                }
                assert!(pool.drain_loop(index, LONG).unwrap().is_complete());
                assert_eq!(pool.stop_loop(index, LONG).unwrap().joined, [index]);
            }
            has_left.store(done.load(Ordering::Relaxed) < CONNECTS, Ordering::Relaxed);
        });
    });
    assert!(has_left.load(Ordering::Relaxed), "the loops left after the last connect");
    failed.into_inner().unwrap()
}

#[test]
fn ten_thousand_connects_while_loops_leave_lose_none_with_one_acceptor() {
    assert!(connect_while_loops_leave(Deal::RoundRobin).is_empty());
}

#[cfg(unix)]
#[test]
fn ten_thousand_connects_while_loops_leave_lose_none_with_a_listener_each() {
    let failed = connect_while_loops_leave(Deal::ReusePort);
    assert!(failed.is_empty(), "{} of 10,000: {:?}", failed.len(), failed[0]);
}

#[test]
fn the_listeners_close_with_their_handle_and_connections_go_on() {
    let pool = RuntimePool::new(2).unwrap();
    let (serving, _served) = echo(&pool, Deal::RoundRobin);
    let address = serving.local_addr();
    let mut open = TcpStream::connect(address).unwrap();
    open.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(ask(address, 1).unwrap(), 1);
    drop(serving);
    let deadline = std::time::Instant::now() + LONG;
    while TcpStream::connect(address).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens");
        thread::sleep(Duration::from_millis(1));
    }
    open.write_all(&[7]).unwrap();
    let mut answer = [0];
    open.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [7]);
    assert!(pool.drain(LONG).unwrap().is_complete());
}

#[test]
fn an_address_that_is_taken_is_an_error_and_a_stopped_pool_serves_nothing() {
    let pool = RuntimePool::new(1).unwrap();
    let (serving, _served) = echo(&pool, Deal::RoundRobin);
    let again = pool.serve_tcp(serving.local_addr(), Deal::RoundRobin, |_, _| async {});
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    pool.stop(LONG).unwrap();
    assert!(pool.serve_tcp("127.0.0.1:0".parse().unwrap(), Deal::RoundRobin, |_, _| async {}).is_err());
}
