//! Does anything leak or hang when all goes wrong for long?
//!
//! `cargo run --release -p cenote-benches --bin soak -- [--minutes 30] [--seed N]`
//!
//! Calls of all kinds through everything that the crate has for them, to servers behind proxies that misbehave, while the
//! servers come and go. Each call has a deadline and must end by then, give or take a second for the machine, with one
//! of the codes that such faults explain; no server may begin to process a call that one has begun before. Connections are
//! closed with calls on them, which are told so, and no others are.
//!
//! A fourth server is replaced again and again as is proper: the next one is there before the old one takes leave. Calls to it
//! have time, and none may fail, but for a socket that closes on the client's last words. A fifth has fewer streams than
//! callers, and nothing ever happens to it. A sixth, with TLS, fares as the first three.
//!
//! Most of the proxies understand HTTP/2: they send empty DATA frames, and lower and raise the limit of streams. The servers have
//! a health service, which says at times that they do not serve.
//!
//! When the faults are over, each way must work again within ten seconds, and each connection carry as many calls as its server
//! takes; when the pools are gone, no task, no socket and no stream may be left within another ten. The seed fixes
//! which faults and calls come, not how threads and sockets take turns.
//!
//! Loopback only. Linux, for `/proc/self/fd`. Exits with 1 if something is wrong.

mod calls;
mod closing;
mod conns;
mod faults;
mod frames;
mod greeter;
mod load;
mod once;
mod places;
mod pools;
mod proxy;
mod server;
mod source;
mod tally;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cenote::grpc::{ClientPool, ConnectivityState, StreamPool, StreamPoolStats};
use cenote_benches::machine;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::load::Stop;
use self::places::{Place, Places};
use self::pools::{GentlePools, Pools};
use self::source::{Means, Source};
use self::tally::Tally;

/// Callers side by side, on each source.
const CALLERS: usize = 8;

/// More bytes than the largest call has.
const LARGE: usize = 1 << 20;

/// How long the calls go on when the faults are over.
const CALM: Duration = Duration::from_secs(3);

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
    let places = world.block_on(Places::new(&tally));
    let sockets = sockets();
    soak(&world, &client, &places, minutes, seed, &tally);
    let tasks = || client.metrics().num_alive_tasks();
    for (what, left) in [
        ("tasks of the client", left_over(tasks)),
        ("sockets", left_over(|| self::sockets().saturating_sub(sockets))),
        ("streams on the servers", left_over(greeter::running)),
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
fn soak(world: &Runtime, client: &Runtime, places: &Places, minutes: f64, seed: u64, tally: &Tally) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let targets: Vec<String> = places.rough.iter().map(Place::target).collect();
    let conns = conns::conns(places);
    let pools = Pools::new(&targets, places);
    let mut sources = client.block_on(async { pools.sources(&targets) });
    let target = places.gentle.target();
    let gentle = GentlePools::new(&target);
    sources.extend(gentle.sources(&target));
    let closers = [pools.closer(&targets), gentle.closer(&target)];
    sources.extend(conns.iter().map(|(source, _)| source.clone()));

    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let rough = faults::inflict(places.unlucky(), rng.fork(), tally.clone(), end);
    let replaced = faults::replace(places.gentle.clone(), rng.fork(), tally.clone(), end);
    let faults = [world.spawn(rough), world.spawn(replaced)];
    client.block_on(async {
        let mut callers = JoinSet::new();
        let stop = Stop::default();
        for source in &sources {
            for _ in 0..CALLERS {
                callers.spawn(load::keep_calling(source.clone(), rng.fork(), tally.clone(), stop.clone()));
            }
        }
        for closer in closers {
            for _ in 0..2 {
                callers.spawn(closer.clone().keep_closing(rng.fork(), tally.clone(), stop.clone()));
            }
        }
        callers.spawn(look_after(pools.pool.clone(), rng.fork(), tally.clone(), end));
        for faults in faults {
            faults.await.expect("faults do not panic");
        }
        all_come_through(&sources, tally).await;
        sleep(CALM).await;
        stop.now();
        while let Some(ended) = callers.join_next().await {
            if let Err(panic) = ended {
                tally.violation(format!("a caller: {panic}"));
            }
        }
        fill(&conns, tally).await;
    });
    drop(sources);
    close(&pools, &gentle, tally);
    if let Means::Conn(conn) = &conns[0].0.means {
        conn.close();
        assert_eq!(conn.state(), ConnectivityState::Shutdown, "closed");
    }
}

async fn all_come_through(sources: &[Source], tally: &Tally) {
    for source in sources {
        let start = Instant::now();
        while !source.comes_through().await {
            if start.elapsed() > PATIENCE {
                tally.violation(format!("{}: not well {PATIENCE:?} after the faults", source.name));
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Has each connection carry as many calls as it must.
async fn fill(conns: &[(Source, usize)], tally: &Tally) {
    // The last resets arrive.
    sleep(Duration::from_millis(200)).await;
    for (Source { name, means, .. }, limit) in conns {
        let Means::Conn(conn) = means else { continue };
        let answered = load::fill(conn, *limit, PATIENCE).await;
        if answered < *limit {
            tally.violation(format!("{name}: only {answered} calls of {limit} at once are answered"));
        }
    }
}

/// Looks for streams that are counted yet. Then some pools are closed; the others are dropped.
fn close(pools: &Pools, gentle: &GentlePools, tally: &Tally) {
    let Pools { streams, small, exclusive, bounded, .. } = pools;
    for (name, pool) in
        [("the pool", streams), ("the small pool", small), ("the gentle pool", &gentle.streams)]
    {
        let taken = |stats: StreamPoolStats| {
            stats.addresses.iter().map(|address| address.streams() + address.waiting).sum::<usize>()
        };
        if left_over(|| taken(pool.stats())) > 0 {
            tally.violation(format!("{name} counts streams when no call is left: {:?}", pool.stats()));
        }
    }
    for (name, pool) in [
        ("shared", &pools.pool),
        ("exclusive", exclusive),
        ("secure", &pools.secure),
        ("healthy", &pools.healthy),
        ("bounded", bounded),
        ("gentle", &gentle.pool),
    ] {
        if left_over(|| pool.stats().lent) > 0 {
            tally.violation(format!(
                "the {name} pool counts callers when no call is left: {:?}",
                pool.stats()
            ));
        }
    }
    bounded.close();
    small.close();
    let open = |pool: &StreamPool| pool.stats().addresses.iter().map(|address| address.open).sum::<usize>();
    if left_over(|| bounded.stats().open + open(small)) > 0 {
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
