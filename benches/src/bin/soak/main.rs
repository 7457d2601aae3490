//! Does anything leak or hang when all goes wrong for long?
//!
//! `cargo run --release -p cenote-benches --bin soak -- [--minutes 30] [--seed N]`
//!
//! Calls of all kinds through everything that the crate has for them, to three servers behind proxies that misbehave, while the
//! servers come and go. Each call has a deadline and must end by then, give or take a second for the machine, with one
//! of the codes that such faults explain. When the faults are over, each way must work again within ten seconds; when
//! the pools are gone, no task, no socket and no stream may be left within another ten. The seed fixes which faults and
//! calls come, not how threads and sockets take turns.
//!
//! Loopback only. Linux, for `/proc/self/fd`. Exits with 1 if something is wrong.

mod faults;
mod load;
mod proxy;
mod server;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cenote::grpc::{
    Addresses, ClientConn, ClientPool, ConnectivityState, Keepalive, StreamPool, StreamPoolStats,
};
use cenote_benches::machine;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::faults::Place;
use self::load::{Source, redial};
use self::tally::Tally;

/// Callers side by side, on each source.
const CALLERS: usize = 8;

/// How long anything may take to be over, or to work again.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    minutes: f64,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let mut options = Options { minutes: 30.0, seed: clock % 1_000_000 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        let bad = |_| format!("{arg}: {value} is no number");
        match arg.as_str() {
            "--minutes" => options.minutes = value.parse().map_err(|_| bad(()))?,
            "--seed" => options.seed = value.parse().map_err(|_| bad(()))?,
            _ => return Err(format!("unknown option {arg}; there are --minutes and --seed")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let Options { minutes, seed } = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    println!("{}; {minutes} minutes, seed {seed}, load {}", machine(), load_average());
    let tally = Tally::default();
    // The servers' and proxies' tasks are none of the client's.
    let world = runtime("world", 1);
    let client = runtime("client", 2);
    let places: Vec<Place> =
        world.block_on(async { vec![Place::new().await, Place::new().await, Place::new().await] });
    let sockets = sockets();
    soak(&world, &client, &places, minutes, seed, &tally);
    let tasks = || client.metrics().num_alive_tasks();
    for (what, left) in [
        ("tasks of the client", left_over(tasks)),
        ("sockets", left_over(|| self::sockets().saturating_sub(sockets))),
        ("streams on the servers", left_over(server::running)),
    ] {
        println!("{what} left over: {left}");
        if left > 0 {
            tally.violation(format!("{left} {what} left over after {PATIENCE:?}"));
        }
    }
    let well = tally.print();
    println!("seed {seed}, load {}: {}", load_average(), if well { "all is well" } else { "NOT WELL" });
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runtime(name: &str, threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// How many of `what` there are yet, when they are none or time is up.
fn left_over(what: impl Fn() -> usize) -> usize {
    let start = std::time::Instant::now();
    while what() > 0 && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    what()
}

/// The sockets that this process has open.
fn sockets() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    all.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|to| to.to_string_lossy().starts_with("socket:"))
        .count()
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// All of it, from the first pool to the last one's drop.
fn soak(world: &Runtime, client: &Runtime, places: &[Place], minutes: f64, seed: u64, tally: &Tally) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let targets: Vec<String> = places.iter().map(Place::target).collect();
    let keepalive = Keepalive { timeout: Duration::from_secs(2), ..Keepalive::every(PATIENCE) };
    let timeout = Duration::from_secs(2);
    let conns = targets.iter().map(|target| {
        let conn = ClientConn::builder(target).backoff(redial()).connect_timeout(timeout);
        conn.keepalive(keepalive).idle_timeout(Duration::from_secs(1)).build().expect("valid")
    });
    let conns: Vec<ClientConn> = conns.collect();
    let of_one = |most: Option<usize>| {
        let pool = ClientPool::builder(&targets[0]).connect_timeout(timeout).keepalive(keepalive);
        let pool = most.into_iter().fold(pool, |pool, most| pool.max_connections(most));
        pool.build().expect("valid")
    };
    let (pool, bounded) = (of_one(None), of_one(Some(2)));
    let streams = StreamPool::builder().connect_timeout(timeout).keepalive(keepalive);
    let small = streams.clone().size(3).ttl(Duration::from_secs(3)).max_streams(4);
    let (streams, small) = (streams.build().expect("valid"), small.build().expect("valid"));

    let mut sources = vec![
        Source::Pool(pool.clone()),
        Source::Bounded(bounded.clone()),
        Source::Leases(streams.clone(), targets.clone()),
        Source::Leases(small.clone(), targets.clone()),
        Source::Channel(streams.channel(&targets[1]).expect("valid")),
        Source::Channel(small.channel(&targets[2]).expect("valid")),
        client.block_on(async { Source::Balanced(streams.balance(Addresses::list(targets.clone()))) }),
        Source::ShortLived(targets.clone()),
    ];
    sources.extend(conns.iter().cloned().map(Source::Conn));

    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let faults = world.spawn(faults::inflict(places.to_vec(), rng.fork(), tally.clone(), end));
    client.block_on(async {
        let mut callers = JoinSet::new();
        for source in &sources {
            for _ in 0..CALLERS {
                callers.spawn(load::keep_calling(source.clone(), rng.fork(), tally.clone(), end));
            }
        }
        callers.spawn(look_after(pool.clone(), rng.fork(), tally.clone(), end));
        while let Some(ended) = callers.join_next().await {
            if let Err(panic) = ended {
                tally.violation(format!("a caller: {panic}"));
            }
        }
        faults.await.expect("faults do not panic");
        for source in &sources {
            let start = Instant::now();
            while !source.comes_through().await {
                if start.elapsed() > PATIENCE {
                    tally.violation(format!("{}: not well {PATIENCE:?} after the faults", source.name()));
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    });
    drop(sources);
    for (name, pool) in [("the pool", &streams), ("the small pool", &small)] {
        let taken = |stats: StreamPoolStats| {
            stats.addresses.iter().map(|address| address.streams() + address.waiting).sum::<usize>()
        };
        if left_over(|| taken(pool.stats())) > 0 {
            tally.violation(format!("{name} counts streams when no call is left: {:?}", pool.stats()));
        }
    }
    // Some are closed, the others dropped.
    bounded.close();
    small.close();
    conns[0].close();
    assert_eq!(conns[0].state(), ConnectivityState::Shutdown, "closed");
    let open = |pool: &StreamPool| pool.stats().addresses.iter().map(|address| address.open).sum::<usize>();
    if left_over(|| bounded.stats().open + open(&small)) > 0 {
        tally.violation(format!("open after close: {:?} {:?}", bounded.stats(), small.stats()));
    }
}

/// Lets generations pass and clears, as an `Ager` and its owner may, and tells how it goes.
async fn look_after(pool: ClientPool, mut rng: fastrand::Rng, tally: Tally, end: Instant) {
    let mut told = Instant::now();
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.u64(50..3000))).await;
        match rng.u32(..5) {
            0 => pool.clear(),
            _ => pool.age(),
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            let left = end.saturating_duration_since(told).as_secs();
            println!("{left} s to go: {} calls, {tasks} tasks, {} sockets", tally.calls(), sockets());
        }
    }
}
