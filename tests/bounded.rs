//! `BoundedPool`: what a caller may rely on, in real time and with real runtimes.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cenote::bounded::{
    BlockingManager, BoundedPool, BuildError, CreateError, GetError, Lease, Manager, Phase, Threads,
    from_blocking_fn, from_fn,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A server that counts its connections.
#[derive(Clone, Default)]
struct Server(Arc<ServerState>);

#[derive(Default)]
struct ServerState {
    open: AtomicUsize,
    most: AtomicUsize,
    made: AtomicUsize,
    is_down: AtomicBool,
    is_mute: AtomicBool,
    panics: AtomicBool,
    resets: AtomicUsize,
    checks: AtomicUsize,
}

struct Connection {
    server: Server,
    is_broken: bool,
    number: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    fn set(&self, what: impl Fn(&ServerState) -> &AtomicBool, to: bool) {
        what(&self.0).store(to, Ordering::SeqCst);
    }

    fn connection(&self) -> io::Result<Connection> {
        assert!(!self.0.panics.load(Ordering::SeqCst), "a bug in the driver");
        if self.0.is_down.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the server is down"));
        }
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(open, Ordering::SeqCst);
        let number = self.0.made.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Connection { server: self.clone(), is_broken: false, number })
    }
}

impl Manager for Server {
    type Object = Connection;
    type Error = io::Error;

    async fn create(&self) -> io::Result<Connection> {
        while self.0.is_mute.load(Ordering::SeqCst) {
            tokio::time::sleep(ms(1)).await;
        }
        self.connection()
    }

    async fn check(&self, connection: &mut Connection) -> io::Result<()> {
        self.0.checks.fetch_add(1, Ordering::SeqCst);
        if connection.is_broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    async fn reset(&self, _: &mut Connection) -> io::Result<()> {
        self.0.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.is_broken
    }
}

impl BlockingManager for Server {
    type Object = Connection;
    type Error = io::Error;

    fn create(&self) -> io::Result<Connection> {
        self.connection()
    }
}

fn plain(server: &Server) -> impl Manager<Object = Connection, Error = io::Error> + use<> {
    let server = server.clone();
    from_fn(move || {
        let server = server.clone();
        async move { Manager::create(&server).await }
    })
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if what() {
            return;
        }
        tokio::time::sleep(ms(1)).await;
    }
    panic!("it never came to pass");
}

fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn an_object_is_used_again_and_reset_in_between() {
    let server = Server::default();
    let pool = BoundedPool::builder(server.clone()).build().unwrap();
    let first = pool.get().await.unwrap().number;
    until(|| pool.stats().idle == 1).await;
    assert_eq!(pool.get().await.unwrap().number, first);
    assert!(server.0.resets.load(Ordering::SeqCst) >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_for_the_server_under_breakage_and_cancellation() {
    let server = Server::default();
    let pool = BoundedPool::builder(server.clone()).max_size(3).retry_pauses(ms(1), ms(2)).build().unwrap();
    let tasks: Vec<_> = (0..50usize)
        .map(|task| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for turn in 0..60 {
                    let get = pool.get();
                    if (task + turn) % 5 == 0 {
                        let _ = tokio::time::timeout(Duration::from_micros(turn as u64 * 7), get).await;
                        continue;
                    }
                    let mut lease = get.await.unwrap();
                    match (task * 7 + turn) % 11 {
                        0 => lease.is_broken = true,
                        1 => Lease::discard(lease),
                        2 => drop(Lease::detach(lease)),
                        3 => drop(Lease::in_flight(&mut lease)),
                        _ => tokio::task::yield_now().await,
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // A detached connection is the caller's: there may be one for each task at worst.
    until(|| pool.stats().leased + pool.stats().checking + pool.stats().closing == 0).await;
    let stats = pool.stats();
    assert_eq!(stats.size, stats.idle + stats.creating);
    assert!(stats.size <= 3 && stats.waiting == 0, "{stats:?}");
    until(|| pool.stats().creating == 0).await;
    assert_eq!(server.open(), pool.stats().idle);
    drop(pool);
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn waiters_are_served_in_order_and_a_newcomer_overtakes_none() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server)).max_size(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let (mut first, mut second) = (pin!(pool.get()), pin!(pool.get()));
    assert!(is_pending(first.as_mut()) && is_pending(second.as_mut()));
    drop(lease);
    assert!(matches!(pool.try_get(), Err(GetError::Exhausted)));
    assert!(is_pending(second.as_mut()));
    let lease = first.await.unwrap();
    assert!(is_pending(second.as_mut()));
    drop(lease);
    drop(second.await.unwrap());
}

#[tokio::test]
async fn a_canceled_waiter_hands_its_grant_to_the_next() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server)).max_size(1).build().unwrap();
    for _ in 0..10_000 {
        let lease = pool.get().await.unwrap();
        let mut first = Box::pin(pool.get());
        let mut second = pin!(pool.get());
        assert!(is_pending(first.as_mut()) && is_pending(second.as_mut()));
        drop(lease);
        drop(first);
        let Poll::Ready(lease) = second.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the object is lost");
        };
        drop(lease.unwrap());
    }
    assert_eq!(server.open(), 1);
}

#[tokio::test]
async fn a_future_that_nobody_polls_delays_the_next_waiter_and_no_more() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server)).max_size(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let mut abandoned = pin!(pool.get());
    let mut second = pin!(pool.get());
    assert!(is_pending(abandoned.as_mut()) && is_pending(second.as_mut()));
    drop(lease);
    let lease = tokio::time::timeout(Duration::from_secs(5), second).await.unwrap().unwrap();
    assert!(is_pending(abandoned.as_mut()));
    drop(lease);
    drop(abandoned.await.unwrap());
}

#[tokio::test]
async fn a_timeout_names_its_phase_and_what_the_pool_held() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server))
        .max_size(1)
        .track_leases(Some(Duration::from_secs(60)))
        .build()
        .unwrap();
    let _held = pool.get().await.unwrap();
    let Err(GetError::TimedOut(error)) = pool.get_timeout(ms(20)).await else { panic!("no timeout") };
    assert_eq!((error.phase, error.stats.leased, error.stats.max_size), (Phase::Lease, 1, 1));
    assert!(error.waited >= ms(20), "{:?}", error.waited);
    assert_eq!(error.waiters_with_lease, Some(1), "this task waits for itself: {error}");
    assert_eq!(pool.stats().waiting, 0);
}

#[tokio::test]
async fn a_server_that_is_down_shows_as_the_cause_and_its_return_needs_no_newcomer() {
    let server = Server::default();
    server.set(|state| &state.is_down, true);
    let pool = BoundedPool::builder(plain(&server)).retry_pauses(ms(1), ms(5)).build().unwrap();
    let error = pool.get_timeout(ms(500)).await.unwrap_err();
    assert!(matches!(&error, GetError::TimedOut(error) if error.phase == Phase::Creation), "{error}");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(std::error::Error::source(cause).unwrap().to_string(), "the server is down");
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(|lease| lease.number) }
    });
    until(|| pool.stats().waiting == 1).await;
    server.set(|state| &state.is_down, false);
    waiter.await.unwrap().unwrap();
}

#[tokio::test]
async fn with_fail_fast_a_waiter_gets_the_managers_error_at_once() {
    let server = Server::default();
    server.set(|state| &state.is_down, true);
    let pool = BoundedPool::builder(plain(&server)).fail_fast(true).build().unwrap();
    let Err(GetError::Create(error)) = pool.get().await else { panic!("no error") };
    assert!(
        matches!(&*error, CreateError::Manager(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    );
}

#[tokio::test]
async fn a_creation_that_hangs_is_given_up_and_one_that_panics_costs_nothing() {
    let server = Server::default();
    server.set(|state| &state.is_mute, true);
    let pool = BoundedPool::builder(plain(&server))
        .max_size(1)
        .create_timeout(ms(20))
        .retry_pauses(ms(1), ms(2))
        .build()
        .unwrap();
    let mut waiter = pin!(pool.get());
    assert!(is_pending(waiter.as_mut()));
    until(|| pool.stats().create_failures >= 2).await;
    server.set(|state| &state.is_mute, false);
    drop(waiter.await.unwrap());
    pool.invalidate_all();
    server.set(|state| &state.panics, true);
    let error = pool.get_timeout(ms(500)).await.unwrap_err();
    let GetError::TimedOut(error) = error else { panic!("{error}") };
    assert!(
        matches!(error.cause.as_deref(), Some(CreateError::Panicked(text)) if text == "a bug in the driver")
    );
    server.set(|state| &state.panics, false);
    drop(pool.get().await.unwrap());
}

#[tokio::test]
async fn broken_idle_objects_are_found_all_at_once() {
    let server = Server::default();
    let pool = BoundedPool::builder(server.clone()).max_size(6).max_creating(6).build().unwrap();
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(pool.get().await.unwrap());
    }
    drop(leases);
    until(|| pool.stats().idle == 6).await;
    let mut one = pool.get().await.unwrap();
    let checks = server.0.checks.load(Ordering::SeqCst);
    one.is_broken = true;
    drop(one);
    until(|| server.0.checks.load(Ordering::SeqCst) >= checks + 5 && pool.stats().idle == 5).await;
}

#[tokio::test]
async fn close_fails_tasks_and_threads_at_once_and_a_late_lease_is_closed() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server)).max_size(1).build().unwrap();
    let lease = pool.get().await.unwrap();
    let thread = thread::spawn({
        let pool = pool.clone();
        move || pool.get_blocking().map(|_| ())
    });
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(|_| ()) }
    });
    until(|| pool.stats().waiting == 2).await;
    pool.close();
    pool.close();
    assert!(matches!(task.await.unwrap(), Err(GetError::Closed)));
    assert!(matches!(thread.join().unwrap(), Err(GetError::Closed)));
    assert!(matches!(pool.get().await, Err(GetError::Closed)));
    assert_eq!(server.open(), 1);
    drop(lease);
    until(|| server.open() == 0 && pool.stats().size == 0).await;
}

#[tokio::test]
async fn a_drain_waits_for_leases_and_reports_what_is_left() {
    let server = Server::default();
    let pool = BoundedPool::builder(plain(&server)).build().unwrap();
    let lease = pool.get().await.unwrap();
    let report = pool.drain(ms(20)).await;
    assert_eq!((report.leased, report.is_complete()), (1, false));
    assert!(matches!(pool.get().await, Err(GetError::Closed)));
    let (report, ()) = tokio::join!(pool.drain(Duration::from_secs(10)), async { drop(lease) });
    assert!(report.is_complete() && report.waited < Duration::from_secs(5), "{report:?}");
    assert_eq!(server.open(), 0);
}

#[test]
fn leases_end_without_a_runtime_while_unwinding_and_after_the_pool() {
    let server = Server::default();
    let pool = BoundedPool::builder(cenote::bounded::Blocking(server.clone())).max_size(2).build().unwrap();
    let (one, other) = (pool.get_blocking().unwrap(), pool.get_blocking().unwrap());
    let number = one.number;
    let panicked = thread::spawn(move || {
        let _one = one;
        panic!("while it holds a lease");
    });
    panicked.join().unwrap_err();
    let again = pool.get_blocking().unwrap();
    assert_ne!(again.number, number, "the object of a panic is not used again");
    drop((pool, other, again));
    let began = Instant::now();
    while server.open() > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "{} are left open", server.open());
        thread::sleep(ms(1));
    }
}

#[test]
fn a_pool_outlives_the_runtime_that_it_was_built_in() {
    let server = Server::default();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let pool = first.block_on(async {
        let pool = BoundedPool::builder(plain(&server)).max_size(1).build().unwrap();
        drop(pool.get().await.unwrap());
        pool
    });
    drop(first);
    pool.invalidate_all();
    // Nothing can be created here.
    assert!(matches!(pool.get_blocking(), Err(GetError::NoRuntime)));
    runtime().block_on(async { pool.get().await.map(|lease| lease.number) }).unwrap();
}

#[test]
fn the_creation_is_not_canceled_with_its_getter() {
    let server = Server::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        server.set(|state| &state.is_mute, true);
        let pool = BoundedPool::builder(plain(&server)).build().unwrap();
        let mut getter = Box::pin(pool.get());
        assert!(is_pending(getter.as_mut()));
        until(|| pool.stats().creating == 1).await;
        drop(getter);
        server.set(|state| &state.is_mute, false);
        until(|| pool.stats().idle >= 1).await;
    });
}

#[test]
fn an_async_manager_without_a_runtime_runs_on_threads_if_asked() {
    let manager = from_fn(|| async { Ok::<_, Infallible>(7) });
    let pool = BoundedPool::builder(manager).executor(Threads).build().unwrap();
    assert_eq!(*pool.get_blocking().unwrap(), 7);
    let pool = BoundedPool::builder(from_fn(|| async { Ok::<_, Infallible>(7) })).build().unwrap();
    assert!(matches!(pool.get_blocking(), Err(GetError::NoRuntime)));
}

#[test]
fn contradictory_options_are_refused() {
    let builder = || BoundedPool::builder(from_blocking_fn(|| Ok::<_, Infallible>(0)));
    assert_eq!(builder().max_size(0).build().unwrap_err(), BuildError::Zero("max_size"));
    assert_eq!(builder().max_creating(0).build().unwrap_err(), BuildError::Zero("max_creating"));
    assert_eq!(builder().max_size(1).min_idle(2).build().unwrap_err(), BuildError::MinAboveMax);
    assert_eq!(builder().lifetime_jitter(f64::NAN).build().unwrap_err(), BuildError::Jitter);
}

#[test]
fn grants_and_cancellations_that_race_lose_nothing() {
    let pool =
        BoundedPool::builder(from_blocking_fn(|| Ok::<_, Infallible>(0u64))).max_size(2).build().unwrap();
    thread::scope(|scope| {
        for seed in 0..4u32 {
            let pool = &pool;
            scope.spawn(move || {
                for turn in 0..30_000u32 {
                    match turn.wrapping_mul(seed + 3) % 4 {
                        0 => drop(pool.get_blocking_timeout(Duration::from_micros(u64::from(turn % 50)))),
                        1 => {
                            let mut get = pin!(pool.get());
                            let _ = is_pending(get.as_mut());
                        }
                        _ => *pool.get_blocking().unwrap() += 1,
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!(
        (stats.size, stats.idle, stats.leased, stats.waiting),
        (stats.idle, stats.idle, 0, 0),
        "{stats:?}"
    );
    assert!((1..=2).contains(&stats.size));
}

#[tokio::test]
async fn a_lease_that_is_out_for_long_is_reported_with_its_call_site() {
    let (report, reports) = std::sync::mpsc::channel();
    let report = std::sync::Mutex::new(report);
    let pool = BoundedPool::builder(from_blocking_fn(|| Ok::<_, Infallible>(0)))
        .track_leases(Some(ms(10)))
        .on_leak(move |leak| report.lock().unwrap().send(leak).unwrap())
        .build()
        .unwrap();
    let line = line!() + 1;
    let _leaked = pool.get().await.unwrap();
    let leak = reports.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!((leak.call_site.file(), leak.call_site.line()), (file!(), line));
}

#[cfg(unix)]
#[test]
fn a_forked_child_closes_nothing_that_it_inherited() {
    let server = Server::default();
    let pool = BoundedPool::builder(cenote::bounded::Blocking(server.clone())).max_size(2).build().unwrap();
    let lease = pool.get_blocking().unwrap();
    drop(pool.get_blocking().unwrap());
    let began = Instant::now();
    while pool.stats().idle == 0 {
        assert!(began.elapsed() < Duration::from_secs(5));
        thread::sleep(ms(1));
    }
    // SAFETY: the child takes no lock that a thread of the parent may hold: that is what is tested.
    match unsafe { libc::fork() } {
        0 => {
            let is_refused = matches!(pool.get_blocking(), Err(GetError::Closed));
            drop((lease, pool));
            let code = i32::from(!is_refused || server.open() != 2);
            // SAFETY: the child ends here.
            unsafe { libc::_exit(code) };
        }
        child => {
            let mut status = 0;
            // SAFETY: the pointer is to an integer that outlives the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child: {status}");
        }
    }
    drop(lease);
    drop(pool.get_blocking().unwrap());
    assert_eq!(server.open(), 2);
}
