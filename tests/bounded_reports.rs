//! Faults of other pools, by their public reports, that `BoundedPool` does not have. Each test tells the sequence of its report.
//! The two about sessions that survive a lease (pgdog#1341, sqlx#4393) are told against the real servers, in `managers/`.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cenote::bounded::{
    BoundedPool, Builder, CheckWhen, CreateError, GetError, Lease, Manager, Phase, Threads, from_blocking_fn,
};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a step of a peer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Does {
    #[default]
    Work,
    Fail,
    Hang,
    Panic,
}

impl Does {
    async fn go(self) -> io::Result<()> {
        match self {
            Does::Work => Ok(()),
            Does::Fail => Err(io::ErrorKind::ConnectionRefused.into()),
            Does::Hang => std::future::pending().await,
            Does::Panic => panic!("a bug in the driver"),
        }
    }
}

/// A server that counts its connections, and whose steps go as a test says.
#[derive(Clone, Default)]
struct Peer(Arc<State>);

#[derive(Default)]
struct State {
    open: AtomicUsize,
    most_open: AtomicUsize,
    made: AtomicUsize,
    dialing: AtomicUsize,
    most_dialing: AtomicUsize,
    dials: AtomicUsize,
    /// What the first dials do; the later ones do as `dial` says.
    script: Mutex<Vec<Does>>,
    dial: Mutex<Does>,
    check: Mutex<Does>,
    reset: Mutex<Does>,
    goodbye: Mutex<Does>,
    /// Dials and checks wait for a permit, if this is set.
    gate: Mutex<Option<Arc<Semaphore>>>,
    has_failed_over: AtomicBool,
}

struct Connection {
    peer: Peer,
    number: usize,
    is_broken: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Peer {
    fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    fn most_open(&self) -> usize {
        self.0.most_open.load(Ordering::SeqCst)
    }

    fn dials(&self) -> usize {
        self.0.dials.load(Ordering::SeqCst)
    }

    fn close_gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    async fn pass(&self) {
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
    }

    fn pool(&self) -> Builder<Peer> {
        BoundedPool::builder(self.clone())
            .check(CheckWhen::Suspect)
            .get_timeout(Some(Duration::from_secs(10)))
            .retry_pauses(ms(5), ms(20))
    }
}

fn set(step: &Mutex<Does>, to: Does) {
    *step.lock().unwrap() = to;
}

fn get(step: &Mutex<Does>) -> Does {
    *step.lock().unwrap()
}

/// Counts while it lives.
struct Dialing<'a>(&'a State);

impl<'a> Dialing<'a> {
    fn begin(state: &'a State) -> Self {
        state.dials.fetch_add(1, Ordering::SeqCst);
        let now = state.dialing.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_dialing.fetch_max(now, Ordering::SeqCst);
        Dialing(state)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Manager for Peer {
    type Object = Connection;
    type Error = io::Error;

    async fn create(&self) -> io::Result<Connection> {
        let _dialing = Dialing::begin(&self.0);
        // The server sees the socket from the first moment on.
        let now = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(now, Ordering::SeqCst);
        let mut connection = Connection { peer: self.clone(), number: 0, is_broken: false };
        let scripted = {
            let mut script = self.0.script.lock().unwrap();
            if script.is_empty() { None } else { Some(script.remove(0)) }
        };
        scripted.unwrap_or_else(|| get(&self.0.dial)).go().await?;
        self.pass().await;
        connection.number = self.0.made.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(connection)
    }

    async fn check(&self, connection: &mut Connection) -> io::Result<()> {
        self.pass().await;
        if connection.is_broken {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            get(&self.0.check).go().await
        }
    }

    async fn reset(&self, _: &mut Connection) -> io::Result<()> {
        get(&self.0.reset).go().await
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.is_broken
    }

    fn outdates_all(&self, _: &mut Connection) -> bool {
        self.0.has_failed_over.load(Ordering::SeqCst)
    }

    async fn close(&self, connection: Connection) {
        let _ = get(&self.0.goodbye).go().await;
        drop(connection);
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(ms(1)).await;
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// As many idle connections as the limit.
async fn fill(pool: &BoundedPool<Peer>) {
    let most = pool.stats().max_size;
    let mut leases = Vec::new();
    for _ in 0..most {
        leases.push(pool.get().await.unwrap());
    }
    drop(leases);
    until("all are idle", || pool.stats().idle == most).await;
}

/// vitess#20310: the front waiters have expired, each returned connection goes to one of them, and no work is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_expired_waiters_leaves_the_work_to_those_who_can_do_it() {
    let pool = Peer::default().pool().max_size(4).build().unwrap();
    fill(&pool).await;
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(2);
    let work = |pool: BoundedPool<Peer>, done: Arc<AtomicU64>| async move {
        while Instant::now() < end {
            if let Ok(_lease) = pool.get_timeout(ms(20)).await {
                sleep(ms(10)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let storm: Vec<_> = (0..1_000).map(|_| tokio::spawn(work(pool.clone(), Arc::clone(&done)))).collect();
    // A part of them is never polled again, and stands in the queue.
    let abandoned = pool.clone();
    let never_polled = thread::spawn(move || {
        let mut gets: Vec<_> = (0..200).map(|_| Box::pin(abandoned.get_timeout(ms(20)))).collect();
        gets.iter_mut().for_each(|get| drop(poll_once(get.as_mut())));
        thread::sleep(end - Instant::now());
    });
    for task in storm {
        task.await.unwrap();
    }
    never_polled.join().unwrap();
    // 4 x 200 could be done; the tests beside this one want the machine too, and 132 were seen on a busy one.
    let done = done.load(Ordering::Relaxed);
    assert!(done > 60, "{done} of at most 800");

    let patient: Vec<_> = (0..100)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { drop((pool.get().await.unwrap(), sleep(ms(1)).await)) })
        })
        .collect();
    for task in patient {
        timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}

/// npgsql#1788, meshtastic#6658: an object is handed to a waiter whose cancellation has just won, and belongs to nobody.
#[test]
fn a_million_races_of_grant_and_cancellation_lose_no_object() {
    let pool = BoundedPool::builder(from_blocking_fn(|| Ok::<_, io::Error>(()))).max_size(2).build().unwrap();
    drop((pool.get_blocking().unwrap(), pool.get_blocking().unwrap()));
    thread::scope(|scope| {
        for seed in 0..2_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = seed;
                for _ in 0..500_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    // Two places in the queue, so that the grant of the other thread's drop meets this one's.
                    let (mut first, mut second) = (pin!(pool.get()), pin!(pool.get()));
                    let mut third = pin!(pool.get());
                    let held = [poll_once(first.as_mut()).is_ready(), poll_once(second.as_mut()).is_ready()];
                    let _ = poll_once(third.as_mut());
                    for _ in 0..random >> 60 {
                        std::hint::spin_loop();
                    }
                    std::hint::black_box(held);
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.size, stats.idle, stats.waiting), (2, 2, 0), "{stats:?}");
}

/// clickhouse-go#1759, quarkus#56393: canceled between two steps of a get, which keeps the slot.
#[tokio::test]
async fn ten_thousand_cancellations_at_each_await_keep_no_slot() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(3).check(CheckWhen::Borrowed).build().unwrap();
    for round in 0..10_000_u32 {
        let mut get = Box::pin(pool.get());
        for _ in 0..round % 7 {
            match poll_once(get.as_mut()) {
                Poll::Pending => tokio::task::yield_now().await,
                Poll::Ready(lease) => {
                    let mut lease = lease.unwrap();
                    lease.is_broken = round % 5 == 0;
                    break;
                }
            }
        }
    }
    until("all is at rest", || {
        let stats = pool.stats();
        stats.size == stats.idle && stats.waiting == 0
    })
    .await;
    assert!(peer.most_open() <= 3);
    fill(&pool).await;
    assert_eq!(peer.open(), 3);
}

/// asyncpg#547: a get with a timeout is canceled in its first turn, then `close` never ends.
#[tokio::test]
async fn a_drain_after_a_get_that_was_canceled_in_its_first_turn_ends_at_once() {
    let peer = Peer::default();
    let pool = peer.pool().build().unwrap();
    let gate = peer.close_gate();
    assert!(poll_once(pin!(pool.get_timeout(ms(500)))).is_pending());
    gate.add_permits(100);
    let start = Instant::now();
    assert!(pool.drain(Duration::from_secs(10)).await.is_complete());
    assert!(start.elapsed() < Duration::from_secs(2));
    until("nothing is open", || peer.open() == 0).await;
}

/// vitess#21189, mssql-python#797: a get passes the check of the limit, then comes a close or a resize, then the get dials.
#[tokio::test]
async fn a_creation_that_passed_the_limit_is_known_to_resize_and_close() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(4).max_creating(4).build().unwrap();
    let gate = peer.close_gate();
    let mut gets: Vec<_> = (0..4).map(|_| Box::pin(pool.get())).collect();
    gets.iter_mut().for_each(|get| assert!(poll_once(get.as_mut()).is_pending()));
    until("four dials", || peer.dials() == 4).await;
    pool.resize(1);
    gate.add_permits(4);
    until("the surplus is closed", || pool.stats().size == 1 && peer.open() == 1).await;
    assert_eq!(peer.dials(), 4);
    drop(gets);

    let pool = peer.pool().max_size(4).build().unwrap();
    let gate = peer.close_gate();
    let mut get = Box::pin(pool.get());
    assert!(poll_once(get.as_mut()).is_pending());
    until("a dial", || peer.dials() == 5).await;
    pool.close();
    assert!(matches!(get.await, Err(GetError::Closed)));
    gate.add_permits(1);
    until("the late one is closed", || peer.open() == 1 && pool.stats().size == 0).await;
}

/// pgx#1660: max 1, min 1, a get at once after the construction: two connections.
#[tokio::test]
async fn the_minimum_and_the_first_get_share_one_creation() {
    for _ in 0..50 {
        let peer = Peer::default();
        let pool = peer.pool().max_size(1).min_size(1).min_idle(1).build().unwrap();
        drop(pool.get().await.unwrap());
        assert_eq!((peer.dials(), peer.most_open()), (1, 1));
    }
}

/// vitess#20187, SqlClient#4376, go-redis#89: waiters, and all leases come back broken: nobody creates.
#[tokio::test]
async fn waiters_are_served_when_all_leases_come_back_broken_and_nobody_else_comes() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(2).build().unwrap();
    let (mut first, mut second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { drop(pool.get().await.unwrap()) })
        })
        .collect();
    until("five wait", || pool.stats().waiting == 5).await;
    (first.is_broken, second.is_broken) = (true, true);
    drop((first, second));
    for waiter in waiters {
        timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap();
    }
    assert_eq!(peer.dials(), 4);
}

/// The same when `invalidate_all` made them stale, and while a failed creation gives its turn back.
#[tokio::test]
async fn waiters_are_served_when_all_leases_are_stale_and_a_creation_fails() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(2).build().unwrap();
    let leases = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get().await.unwrap().number })
        })
        .collect();
    until("five wait", || pool.stats().waiting == 5).await;
    pool.invalidate_all();
    *peer.0.script.lock().unwrap() = vec![Does::Fail, Does::Panic, Does::Fail];
    drop(leases);
    for waiter in waiters {
        assert!(timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap() > 2, "a stale one");
    }
    assert!(peer.most_open() <= 2);
}

/// HikariCP#2186, go-redis#3088, SqlClient#601: one dial that never ends stops all others, or they come one after another.
#[tokio::test]
async fn a_dial_that_hangs_keeps_no_other_from_its_work() {
    let peer = Peer::default();
    *peer.0.script.lock().unwrap() = vec![Does::Hang];
    let pool = peer.pool().max_size(4).max_creating(2).create_timeout(ms(300)).build().unwrap();
    let start = Instant::now();
    let (first, second) = tokio::join!(pool.get(), pool.get_timeout(ms(200)));
    // The one that hangs is the business of one of the two.
    assert!(start.elapsed() < ms(290) || second.is_err());
    let mut leases = vec![first.unwrap()];
    leases.extend(second.ok());
    while leases.len() < 3 {
        leases.push(pool.get().await.unwrap());
    }
    // It gives its place back.
    leases.push(pool.get().await.unwrap());
    assert!(peer.0.most_dialing.load(Ordering::SeqCst) <= 2 && peer.most_open() <= 4);
    assert_eq!(peer.open(), 4);

    // All dials hang: every waiter learns it within its own time, not the k-th after k limits.
    set(&peer.0.dial, Does::Hang);
    pool.invalidate_all();
    drop(leases);
    let start = Instant::now();
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get_timeout(ms(700)).await.map(drop) })
        })
        .collect();
    for waiter in waiters {
        let error = waiter.await.unwrap().unwrap_err();
        let GetError::TimedOut(error) = &error else { panic!("{error}") };
        assert_eq!(error.phase, Phase::Creation);
        assert!(matches!(error.cause.as_deref(), Some(CreateError::TimedOut(_))), "{error:?}");
    }
    assert!(start.elapsed() < ms(1_500), "{:?}", start.elapsed());
    // And it recovers when they no longer do.
    set(&peer.0.dial, Does::Work);
    drop(pool.get().await.unwrap());
}

/// sqlx#2848: the server allows fewer than the pool; a getter in its retries never looks at the idle ones again.
#[tokio::test]
async fn a_getter_whose_creation_fails_is_served_by_what_comes_back() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(10).build().unwrap();
    let lease = pool.get().await.unwrap();
    set(&peer.0.dial, Does::Fail);
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap().number }
    });
    until("some dials have failed", || peer.dials() > 3).await;
    drop(lease);
    assert_eq!(timeout(ms(500), waiter).await.unwrap().unwrap(), 1);
}

/// node-mysql2#4498: each dead connection on the way starts the whole timeout anew. mysql_async#212: it also costs the place.
#[tokio::test]
async fn a_waiter_keeps_its_deadline_and_its_place_whatever_it_meets() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(1).create_timeout(ms(60)).build().unwrap();
    set(&peer.0.dial, Does::Hang);
    let start = Instant::now();
    assert!(matches!(pool.get_timeout(ms(200)).await, Err(GetError::TimedOut(_))));
    assert!((ms(200)..ms(600)).contains(&start.elapsed()), "{:?}", start.elapsed());

    set(&peer.0.dial, Does::Work);
    let mut lease = pool.get().await.unwrap();
    let mut gets: Vec<_> = (0..3).map(|_| Box::pin(pool.get())).collect();
    gets.iter_mut().for_each(|get| assert!(poll_once(get.as_mut()).is_pending()));
    for place in 0..3 {
        // What the first waiter was waiting for is broken; the next object is its own all the same.
        lease.is_broken = true;
        drop(lease);
        lease = timeout(Duration::from_secs(5), gets[place].as_mut()).await.unwrap().unwrap();
        gets[place + 1..].iter_mut().for_each(|get| assert!(poll_once(get.as_mut()).is_pending()));
    }
}

/// fecfile-web-api#2208, psycopg#709: after a restart six idle ones are stale, and are found one by one, with pauses between.
#[tokio::test]
async fn stale_idle_connections_are_found_at_once_and_without_pauses() {
    let peer = Peer::default();
    let pool = peer
        .pool()
        .max_size(6)
        .check(CheckWhen::IdleFor(ms(1)))
        .retry_pauses(Duration::from_secs(60), Duration::from_secs(60))
        .build()
        .unwrap();
    fill(&pool).await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(pool.get().await.unwrap());
    }
    set(&peer.0.check, Does::Fail);
    drop(leases);
    until("all are idle", || pool.stats().idle == 6).await;
    sleep(ms(5)).await;
    let start = Instant::now();
    let get = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(|lease| lease.number) }
    });
    until("the old ones are gone", || peer.open() < 6).await;
    set(&peer.0.check, Does::Work);
    assert!(get.await.unwrap().unwrap() > 6);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// psycopg#370: after `reconnect_timeout` nobody reconnects until a request comes. sqlx#848: and the processor is busy meanwhile.
#[tokio::test]
async fn the_minimum_comes_back_without_traffic_and_the_attempts_are_few() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(3).min_size(2).retry_pauses(ms(20), ms(100)).build().unwrap();
    until("the minimum", || pool.stats().idle == 2).await;
    set(&peer.0.dial, Does::Fail);
    pool.invalidate_all();
    let before = peer.dials();
    sleep(ms(500)).await;
    let attempts = peer.dials() - before;
    assert!((1..=24).contains(&attempts), "{attempts} attempts in half a second");
    set(&peer.0.dial, Does::Work);
    until("the minimum again", || pool.stats().idle == 2).await;
}

/// gpustack#6107, HikariCP#1971, mysqljs#2556: after a failover connections to the old primary are never evicted.
#[tokio::test]
async fn a_failover_seen_by_one_connection_closes_all_as_old() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(4).build().unwrap();
    fill(&pool).await;
    let (mut first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    peer.0.has_failed_over.store(true, Ordering::SeqCst);
    first.is_broken = true;
    drop(first);
    until("the idle ones are closed", || peer.open() == 1).await;
    drop(second);
    until("the leased one too", || peer.open() == 0).await;
    assert!(pool.get().await.unwrap().number > 4);
}

/// sqlx#4393, redis-py#2665, rama#868: a request is canceled on the wire, and the connection is used again as it is.
#[tokio::test]
async fn a_connection_with_a_request_in_flight_is_not_used_again() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(1).build().unwrap();
    let mut lease = pool.get().await.unwrap();
    let request = async {
        let request = Lease::in_flight(&mut lease);
        std::future::pending::<()>().await;
        request.complete();
    };
    assert!(timeout(ms(1), request).await.is_err());
    drop(lease);
    let mut lease = pool.get().await.unwrap();
    assert_eq!(lease.number, 2);
    Lease::in_flight(&mut lease).complete();
    drop(lease);
    assert_eq!(pool.get().await.unwrap().number, 2);
}

/// asyncpg#1356, r2dbc-mysql#349 and the reset of pgdog#1341: a reset or a goodbye that fails, hangs or panics.
#[tokio::test]
async fn a_reset_or_a_goodbye_that_goes_wrong_costs_one_connection_and_its_own_limit() {
    for step in [Does::Fail, Does::Hang, Does::Panic] {
        let peer = Peer::default();
        let pool = peer.pool().max_size(1).reset_timeout(ms(50)).close_timeout(ms(50)).build().unwrap();
        set(&peer.0.reset, step);
        set(&peer.0.goodbye, step);
        for number in 1..=3 {
            let lease = timeout(Duration::from_secs(2), pool.get()).await.unwrap().unwrap();
            assert_eq!(lease.number, number, "{step:?}");
        }
        let report = pool.drain(Duration::from_secs(5)).await;
        assert!(report.is_complete() && report.waited < Duration::from_secs(2), "{step:?} {report:?}");
        until("nothing is open", || peer.open() == 0).await;
        assert_eq!(peer.most_open(), 1, "{step:?}");
    }
}

/// go-redis#3625, npgsql#4425: the turn of a timed-out dial is given back twice, or an object breaks while it is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_that_time_out_fail_or_panic_give_their_turn_back_once() {
    let peer = Peer::default();
    let steps = [Does::Hang, Does::Fail, Does::Work, Does::Panic];
    *peer.0.script.lock().unwrap() = steps.into_iter().cycle().take(200).collect();
    let pool = peer
        .pool()
        .max_size(3)
        .max_creating(3)
        .create_timeout(ms(10))
        .retry_pauses(Duration::from_micros(1), Duration::from_micros(1))
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    pool.get().await.unwrap().is_broken = true;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(peer.most_open() <= 3, "{}", peer.most_open());
    until("all is at rest", || pool.stats().size == pool.stats().idle).await;
    set(&peer.0.dial, Does::Work);
    fill(&pool).await;
    assert_eq!(peer.open(), 3);
}

/// databend-go#215: the connection keeps the context of the getter that asked for it.
#[tokio::test]
async fn a_creation_sees_nothing_of_its_getter() {
    tokio::task_local!(static USER: u32);
    struct Nosy;
    impl Manager for Nosy {
        type Object = bool;
        type Error = io::Error;
        async fn create(&self) -> io::Result<bool> {
            sleep(ms(30)).await;
            Ok(USER.try_with(|_| ()).is_err())
        }
    }
    let pool = BoundedPool::builder(Nosy).build().unwrap();
    // The getter's time ends, and its task too; the creation goes on and serves the next.
    let error = USER.scope(7, pool.get_timeout(ms(1))).await.unwrap_err();
    assert!(matches!(error, GetError::TimedOut(_)));
    assert!(*pool.get().await.unwrap(), "it saw the getter's task-local");
    assert_eq!(pool.stats().created, 1);
}

/// golang/go#68949, vitess#20158: get, resize and close at once: a panic, or a closed pool with a size.
#[test]
fn get_resize_and_close_at_once_leave_nothing() {
    for _ in 0..100 {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let manager = from_blocking_fn(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, io::Error>(Counted(Arc::clone(&counted)))
        });
        let pool = BoundedPool::builder(manager).max_size(2).build().unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while pool.get_blocking().is_ok() {});
            }
            scope.spawn(|| (1..50).for_each(|most| pool.resize(most % 4)));
            scope.spawn(|| pool.close());
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while open.load(Ordering::SeqCst) + pool.stats().size > 0 {
            assert!(Instant::now() < deadline, "{:?}", pool.stats());
            thread::yield_now();
        }
    }
}

/// mysql_async#171: a lease that is dropped in a panic is never accounted. bb8#211, deadpool#239: or the object is used again.
#[test]
fn a_hundred_panics_with_a_lease_leave_the_pool_as_large_as_it_was() {
    let number = AtomicUsize::new(0);
    let manager = from_blocking_fn(move || Ok::<_, io::Error>(number.fetch_add(1, Ordering::SeqCst)));
    let pool = BoundedPool::builder(manager).max_size(2).build().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let pool = pool.clone();
        let panicked = thread::spawn(move || {
            let lease = pool.get_blocking().unwrap();
            std::panic::resume_unwind(Box::new(*lease));
        });
        let number = *panicked.join().unwrap_err().downcast::<usize>().unwrap();
        assert!(seen.insert(number), "{number} was used again");
    }
    let both = (pool.get_blocking().unwrap(), pool.get_blocking().unwrap());
    assert_eq!(pool.stats().size, 2);
    drop(both);
}

/// vertx-sql-client#1625, deadpool#92, micrometer#3618: gauges that grow with each failed get, or fall below zero.
#[tokio::test]
async fn the_counts_are_right_after_each_way_out_of_a_get() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(1).max_waiters(1).build().unwrap();
    let sum = |leased| {
        let stats = pool.stats();
        assert_eq!(stats.size, stats.idle + stats.leased + stats.creating + stats.checking + stats.closing);
        assert_eq!((stats.waiting, stats.leased), (0, leased), "{stats:?}");
    };
    let lease = pool.get().await.unwrap();
    sum(1);
    assert!(matches!(pool.get_timeout(ms(5)).await, Err(GetError::TimedOut(_))));
    sum(1);
    assert!(matches!(pool.try_get(), Err(GetError::Exhausted)));
    sum(1);
    {
        let mut get = pin!(pool.get());
        assert!(poll_once(get.as_mut()).is_pending());
        assert!(matches!(pool.get().await, Err(GetError::TooManyWaiters)));
    }
    sum(1);
    drop(lease);
    until("it is idle", || pool.stats().idle == 1).await;
    sum(0);
    set(&peer.0.reset, Does::Panic);
    drop(pool.get().await.unwrap());
    until("it is closed", || pool.stats().size == 0).await;
    sum(0);
    set(&peer.0.dial, Does::Fail);
    assert!(pool.get_timeout(ms(20)).await.is_err());
    until("no dial", || pool.stats().creating == 0).await;
    sum(0);
    pool.close();
    assert!(matches!(pool.get().await, Err(GetError::Closed)));
    sum(0);
}

/// vitess#20080, HikariCP#379: what is refreshed is taken away first, and getters time out beside it.
#[tokio::test]
async fn checks_and_replacements_in_the_background_keep_no_getter_waiting() {
    let peer = Peer::default();
    let pool = peer
        .pool()
        .max_size(3)
        .min_size(2)
        .max_lifetime(Some(ms(1_000)))
        .lifetime_jitter(0.0)
        .build()
        .unwrap();
    until("the minimum", || pool.stats().idle == 2).await;
    // A dial takes longer than a getter is ready to wait.
    let gate = peer.close_gate();
    let end = Instant::now() + ms(2_500);
    while Instant::now() < end {
        drop(pool.get_timeout(ms(200)).await.expect("one is ready, or about to be"));
        if peer.0.dialing.load(Ordering::SeqCst) > 0 {
            sleep(ms(5)).await;
            gate.add_permits(1);
        }
        sleep(ms(1)).await;
    }
    assert!(peer.dials() > 4 && peer.most_open() <= 3, "{} {}", peer.dials(), peer.most_open());
}

/// r2dbc-pool#166, go-redis#3575: all are touched in turn, so that none is ever idle; or they are closed only when asked for.
#[tokio::test]
async fn what_a_burst_left_idle_is_closed_without_traffic_and_beside_it() {
    let peer = Peer::default();
    let pool = peer.pool().max_size(5).min_size(1).idle_timeout(Some(ms(100))).build().unwrap();
    fill(&pool).await;
    let end = Instant::now() + ms(400);
    while Instant::now() < end {
        drop(pool.get().await.unwrap());
        sleep(ms(2)).await;
    }
    assert!(peer.open() <= 2, "{}", peer.open());
    until("only the minimum", || peer.open() == 1).await;
}

/// memorizer#209, r2dbc-pool#213: each task holds one and asks for a second.
#[tokio::test]
async fn a_deadlock_of_nested_gets_is_named_by_the_error() {
    let pool = Peer::default().pool().max_size(2).build().unwrap();
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let _outer = pool.get().await.unwrap();
                until("both hold one", || pool.stats().leased == 2).await;
                let error = pool.get_timeout(ms(100)).await.unwrap_err();
                // Until all have failed: the first to end would serve the other.
                sleep(ms(100)).await;
                error
            })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        assert!(error.to_string().contains("hold a lease of this pool already"), "{error}");
    }
}

/// HikariCP#2398: returners spin while many wait, and nothing else runs.
#[tokio::test]
async fn many_waiters_leave_time_for_other_tasks() {
    let pool = Peer::default().pool().max_size(2).build().unwrap();
    let mut tasks: Vec<_> = (0..300)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let _lease = pool.get().await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    while let Some(task) = tasks.pop() {
        while !task.is_finished() {
            let start = Instant::now();
            sleep(ms(1)).await;
            longest = longest.max(start.elapsed());
        }
        task.await.unwrap();
    }
    assert!(longest < ms(500), "{longest:?}");
}

/// r2d2#142: the build waits for N connections, one dies meanwhile, and it waits for ever. r2d2#75: one caller takes the error,
/// the others get none.
#[test]
fn a_build_waits_for_no_connection_and_each_caller_gets_the_error() {
    let manager = from_blocking_fn(|| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)));
    let start = Instant::now();
    let pool =
        BoundedPool::builder(manager).max_size(4).min_size(4).fail_fast(true).executor(Threads).build();
    let pool = pool.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = pool.get_blocking_timeout(Duration::from_secs(20)).unwrap_err();
                assert!(matches!(error, GetError::Create(_)), "{error}");
            });
        }
    });
}
