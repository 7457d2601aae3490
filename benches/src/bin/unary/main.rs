//! What does a unary call cost through this crate, beside the same through a bare tonic `Channel`?
//!
//! `cargo run --release -p cenote-benches --bin unary -- [--rounds 60] [--seconds 0.25] [--only NAME] [--workers N] [--callers N] [--size BYTES]`
//!
//! One server with one thread, in a process of its own. Each contender is measured beside another, the `Channel` as a rule, in
//! short rounds that take turns (A B, B A, A B, ...), so that whatever else the machine does falls on both; what is reported are the ratios of neighbors: their
//! median and, in brackets, the quartiles. A ratio above 1 is in this crate's favour. A call's CPU time is that of the whole client
//! process, its kernel part included. Allocations are counted in rounds of their own, since counting takes time.

mod count;
mod rounds;

use std::hint::black_box;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cenote::SyncPool;
use cenote::grpc::{ClientConn, ClientPool, RetryPolicy, StreamPool};
use cenote_benches::server::{Server, serve_if_asked};
use cenote_benches::{date, machine};
use cenote_proto::HelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use tonic::Code;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::transport::Channel;

use self::rounds::{Compared, compare, compare_loops};

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

const CALLERS: [usize; 4] = [1, 8, 64, 256];
const WORKERS: [usize; 2] = [1, 2];

/// How long the name is that the server answers with.
static SIZE: AtomicUsize = AtomicUsize::new(3);

fn hello() -> HelloRequest {
    HelloRequest { name: "a".repeat(SIZE.load(Ordering::Relaxed)), delay_ms: 0 }
}

/// Something that calls go through: one caller's calls, one after another, until it is time; how many they were.
type Caller = Box<dyn Fn() -> BoxFuture<u64>>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Each caller has a client of its own for all its calls.
fn through<S>(service: S) -> Caller
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<StdError>,
    S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    Box::new(move || {
        let mut client = GreeterClient::new(service.clone());
        Box::pin(async move {
            let mut calls = 0;
            while !rounds::is_over() {
                client.say_hello(hello()).await.expect("the server answers");
                calls += 1;
            }
            calls
        })
    })
}

/// Each call takes a connection out of the pool, and gives it back.
fn through_pool(pool: ClientPool) -> Caller {
    Box::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            let mut calls = 0;
            while !rounds::is_over() {
                let mut client = GreeterClient::new(pool.get_owned());
                client.say_hello(hello()).await.expect("the server answers");
                calls += 1;
            }
            calls
        })
    })
}

fn calls(options: &Options, target: &str) {
    println!(
        "| through | beside | workers | callers | that one's calls/s | calls/s | calls per CPU-second | allocations | bytes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for workers in WORKERS.into_iter().filter(|workers| options.workers.is_none_or(|only| only == *workers)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        let channel = through(Channel::from_shared(target.to_owned()).expect("a target").connect_lazy());
        let streams = through(StreamPool::new().channel(target).expect("a target"));
        let conn = through(ClientConn::new(target).expect("a target"));
        let retry = ClientConn::builder(target).retry("", RetryPolicy::new([Code::Unavailable])).build();
        let pool = through_pool(ClientPool::new(target).expect("a target"));
        let exclusive = ClientPool::builder(target).exclusive().build().expect("a target");
        let contenders = [
            ("`ClientConn` with a retry policy", through(retry.expect("a policy")), ("`ClientConn`", &conn)),
            ("`StreamPool::channel`", streams, ("`Channel`", &channel)),
            ("`ClientPool`", pool, ("`Channel`", &channel)),
            ("`ClientPool`, exclusive", through_pool(exclusive), ("`Channel`", &channel)),
        ];
        // The two that choose among connections, beside each other.
        let both = ("`ClientPool`", &contenders[2].1, ("`StreamPool::channel`", &contenders[1].1));
        let one = ("`ClientConn`", &conn, ("`Channel`", &channel));
        let rows = contenders.iter().map(|(name, contender, beside)| (*name, contender, *beside));
        for (name, contender, (beside, other)) in [one].into_iter().chain(rows).chain([both]) {
            if !options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
                continue;
            }
            let all = CALLERS.into_iter().filter(|_| options.callers.is_none());
            for callers in all.chain(options.callers) {
                let Compared { calls, by_cpu, bare, counted } =
                    compare(&runtime, callers, options, other, contender);
                let [(a, a_bytes), (b, b_bytes)] = counted;
                println!(
                    "| {name} | {beside} | {workers} | {callers} | {bare:.0} | {calls} | {by_cpu} | {b:.1} : {a:.1} \
                     | {b_bytes:.0} : {a_bytes:.0} |"
                );
            }
        }
    }
}

fn cheap_things(options: &Options, target: &str) {
    let pool = ClientPool::new(target).expect("a target");
    let boxes: SyncPool<Box<[u8; 64]>> = SyncPool::new(|| Box::new([0; 64]));
    for threads in [1, 2] {
        let (ratio, ns) = compare_loops(
            options.rounds,
            threads,
            || drop(black_box(boxes.get())),
            || drop(black_box(pool.get())),
        );
        println!(
            "get and put of a `ClientPool` on {threads} thread(s), in those of a `SyncPool` of boxes: {ratio} ({ns:.1} ns)"
        );
    }
    let conn = ClientConn::new(target).expect("a target");
    let atomic = Arc::new(AtomicU8::new(0));
    let load = || {
        black_box(black_box(&atomic).load(Ordering::Acquire));
    };
    let state = || {
        black_box(black_box(&conn).state());
    };
    let (ratio, ns) = compare_loops(options.rounds, 1, load, state);
    println!("`state()`, in atomic loads behind an `Arc`: {ratio} ({ns:.2} ns)");
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}

struct Options {
    rounds: usize,
    round: Duration,
    /// Contenders whose names have this in them.
    only: Option<String>,
    workers: Option<usize>,
    callers: Option<usize>,
}

fn options() -> Option<Options> {
    let mut options =
        Options { rounds: 60, round: Duration::from_millis(250), only: None, workers: None, callers: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next()?;
        match arg.as_str() {
            "--rounds" => options.rounds = value.parse().ok()?,
            "--seconds" => options.round = Duration::from_secs_f64(value.parse().ok()?),
            "--only" => options.only = Some(value),
            "--workers" => options.workers = Some(value.parse().ok()?),
            "--callers" => options.callers = Some(value.parse().ok()?),
            "--size" => SIZE.store(value.parse().ok()?, Ordering::Relaxed),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    let Some(options) = options() else {
        eprintln!(
            "there are --rounds, --seconds, --workers, --callers and --size with a NUMBER, and --only NAME"
        );
        return ExitCode::from(2);
    };
    println!("{}, {}; load {}", date(SystemTime::now()), machine(), load_average());
    println!(
        "{} rounds of {:?} each; ratios to the `Channel`, more than 1 is better\n",
        options.rounds, options.round
    );
    let server = Server::start(1, None);
    calls(&options, &server.target());
    println!();
    cheap_things(&options, &server.target());
    println!("load {}", load_average());
    ExitCode::SUCCESS
}
