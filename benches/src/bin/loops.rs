//! An echo server on event loops, beside one on a multi-threaded runtime and one on the pool of `tokio-util`.
//!
//! The clients have a thread of their own. Rounds take turns, and each figure is the median of its rounds.
//! `cargo run --release -p cenote-benches --bin loops`.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cenote::runtime_pool::{Deal, RuntimePool};
use cenote_benches::median;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::LocalPoolHandle;

#[derive(Parser)]
struct Args {
    /// Rounds of each row.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of each server.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// One short round, to see that it runs.
    #[arg(long)]
    quick: bool,
}

async fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Requests of 64 bytes one after another, on so many connections.
async fn load(address: SocketAddr, connections: usize, time: Duration) -> (f64, f64) {
    let began = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                stream.set_nodelay(true).expect("an option of TCP");
                let (mut bytes, mut waits) = ([0; 64], Vec::new());
                while began.elapsed() < time {
                    let asked = Instant::now();
                    stream.write_all(&bytes).await.expect("it is there");
                    stream.read_exact(&mut bytes).await.expect("it answers");
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3).expect("3 digits");
    for client in clients {
        for wait in client.await.expect("no panic") {
            all.record(wait.as_nanos() as u64).expect("in range");
        }
    }
    (all.len() as f64 / began.elapsed().as_secs_f64(), all.value_at_quantile(0.99) as f64 / 1e6)
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

/// The answers for a server that is there while the future is awaited.
fn ask(load: impl Future<Output = (f64, f64)>) -> (f64, f64) {
    runtime(1).block_on(load)
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn main() {
    let args = Args::parse();
    let (rounds, time) = match args.quick {
        true => (1, Duration::from_millis(200)),
        false => (args.rounds, Duration::from_secs(2)),
    };
    let names = ["loops, in turn", "loops, SO_REUSEPORT", "multi-threaded runtime", "LocalPoolHandle"];
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["echo", "connections", "requests a second", "p99"]);
    for connections in [10, 200] {
        let mut figures = vec![(Vec::new(), Vec::new()); names.len()];
        for _ in 0..rounds {
            let mut rows = figures.iter_mut();
            let mut record = |(rate, tail): (f64, f64)| {
                let row = rows.next().expect("a row for each");
                row.0.push(rate);
                row.1.push(tail);
            };
            for deal in [Deal::RoundRobin, Deal::ReusePort] {
                let pool = RuntimePool::new(args.threads).expect("a pool");
                let serving = pool.serve_tcp(local(), deal, |stream, _| echo(stream)).expect("a port");
                record(ask(load(serving.local_addr(), connections, time)));
            }
            let server = runtime(args.threads);
            let listener = server.block_on(TcpListener::bind(local())).expect("a port");
            let address = listener.local_addr().expect("it is bound");
            server.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(echo(stream));
                }
            });
            record(ask(load(address, connections, time)));
            drop(server);

            let acceptor = runtime(1);
            let listener = acceptor.block_on(TcpListener::bind(local())).expect("a port");
            let address = listener.local_addr().expect("it is bound");
            let pool = LocalPoolHandle::new(args.threads);
            acceptor.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let stream = stream.into_std().expect("a socket");
                    pool.spawn_pinned(move || async move {
                        echo(TcpStream::from_std(stream).expect("a socket")).await;
                    });
                }
            });
            record(ask(load(address, connections, time)));
            drop(acceptor);
        }
        for (name, (rates, tails)) in names.into_iter().zip(figures) {
            let cells = [format!("{:.0}", median(rates)), format!("{:.2} ms", median(tails))];
            let [rate, tail] = cells;
            table.add_row([name.to_owned(), connections.to_string(), rate, tail]);
        }
    }
    println!("{table}");
}
