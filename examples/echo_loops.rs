//! A TCP and an HTTP server on event loops, with a bounded load of their own.
//!
//! ```sh
//! cargo run --release --example echo_loops
//! cargo run --release --example echo_loops -- --loops 4 --deal reuse-port --connections 200
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cenote::runtime_pool::{Deal, RuntimePool};
use clap::{Parser, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Echo and HTTP on event loops.
#[derive(Parser)]
struct Arguments {
    /// Loops.
    #[arg(long, default_value_t = 2)]
    loops: usize,
    /// How connections come to the loops.
    #[arg(long, value_enum, default_value_t = How::InTurn)]
    deal: How,
    /// Connections at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long the load on each server lasts, in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    InTurn,
    LeastLoaded,
    ReusePort,
}

thread_local!(static SERVED: Cell<u64> = const { Cell::new(0) });

/// A request on this loop. No atomic: the thread is the loop.
fn count() {
    SERVED.set(SERVED.get() + 1);
}

fn main() -> Result<(), Error> {
    let Arguments { loops, deal, connections, seconds } = Arguments::parse();
    let deal = match deal {
        How::InTurn => Deal::RoundRobin,
        How::LeastLoaded => Deal::LeastLoaded,
        How::ReusePort => Deal::ReusePort,
    };
    let pool = RuntimePool::builder(loops).name("echo-").build()?;
    let local: SocketAddr = "127.0.0.1:0".parse()?;
    let echo = pool.serve_tcp(local, deal, |stream, _| async move { drop(echo(stream).await) })?;
    let http = pool.serve_tcp(local, deal, |stream, _| async move {
        let answer = service_fn(async |_| {
            count();
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"hello\n"))))
        });
        // A client that goes away is no error of ours.
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    })?;
    println!("echo on {}, HTTP on http://{}/", echo.local_addr(), http.local_addr());

    let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["server", "requests a second", "p50", "p99"]);
    let (echo_addr, http_addr) = (echo.local_addr(), http.local_addr());
    let time = Duration::from_secs(seconds);
    for (name, address, request) in [
        ("echo", echo_addr, &b"hello"[..]),
        ("HTTP", http_addr, &b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"[..]),
    ] {
        let waits = clients.block_on(load(address, request, connections, time))?;
        let ms = |quantile| format!("{:.2} ms", waits.value_at_quantile(quantile) as f64 / 1e6);
        let rate = waits.len() as f64 / time.as_secs_f64();
        table.add_row([name.to_owned(), format!("{rate:.0}"), ms(0.5), ms(0.99)]);
    }
    println!("{table}");
    for index in 0..pool.len() {
        let served = pool.spawn_local_on(index, || async { SERVED.get() })?;
        println!("loop {index} has served {} requests", clients.block_on(served)?);
    }
    println!("{:?}", pool.drain(Duration::from_secs(5))?);
    println!("{:?}", pool.stop(Duration::from_secs(5))?);
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1024];
    loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        count();
        stream.write_all(&bytes[..length]).await?;
    }
}

/// Sends requests one after another on so many connections, for so long. An answer is what one read brings.
async fn load(
    address: SocketAddr,
    request: &'static [u8],
    connections: usize,
    time: Duration,
) -> Result<Histogram<u64>, Error> {
    let end = Instant::now() + time;
    let failed = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let failed = Arc::clone(&failed);
        clients.spawn(async move {
            let mut waits = Vec::new();
            let talk = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let mut answer = [0; 1024];
                while Instant::now() < end {
                    let start = Instant::now();
                    stream.write_all(request).await?;
                    if stream.read(&mut answer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    waits.push(start.elapsed());
                }
                io::Result::Ok(())
            };
            failed.fetch_add(usize::from(talk.await.is_err()), Ordering::Relaxed);
            waits
        });
    }
    let mut all = Histogram::new(3)?;
    for waits in clients.join_all().await {
        for wait in waits {
            all.record(wait.as_nanos() as u64)?;
        }
    }
    match failed.load(Ordering::Relaxed) {
        0 => Ok(all),
        failed => Err(format!("{failed} clients failed").into()),
    }
}
