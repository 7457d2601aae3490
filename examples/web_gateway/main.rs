//! A web server whose handlers call a gRPC service: connections and response buffers come out of pools.
//!
//! ```sh
//! cargo run --release --example web_gateway                  # serves until Ctrl-C, and says what to open
//! cargo run --release --example web_gateway -- --self-test   # load, a killed gRPC server, a verdict
//! ```
//!
//! `gateway.rs` and `page.rs` are the parts to copy. `greeter.rs` is the gRPC service behind them; `self_test.rs`,
//! `load.rs` and `report.rs` are the self-test.
#![allow(unreachable_pub, reason = "in a binary, `pub` says that other modules use it")]

mod gateway;
mod greeter;
mod load;
mod page;
mod report;
mod self_test;

use std::error::Error;
use std::iter::successors;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use cenote::grpc::{ClientPool, init_client};
use clap::Parser;
use tokio::net::TcpListener;

use self::greeter::Greeter;

type BoxError = Box<dyn Error + Send + Sync>;

/// A free port of this machine, that no other machine can reach.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A web server whose handlers call a gRPC service through pools.
#[derive(Parser)]
struct Args {
    /// Where to serve HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", conflicts_with = "self_test")]
    listen: SocketAddr,

    /// The gRPC server to call; without one, the example starts its own
    #[arg(long, value_name = "URL", conflicts_with = "self_test")]
    target: Option<String>,

    /// Drive load through the gateway, kill the gRPC server in the middle, and judge what came of it
    #[arg(long)]
    self_test: bool,

    /// A connection for each request at once, as Go's `sync.Pool` of connections has it, instead of shared ones
    #[arg(long)]
    exclusive: bool,

    /// Requests that the self-test makes
    #[arg(long, value_name = "N", default_value_t = 20_000, requires = "self_test")]
    #[arg(value_parser = clap::value_parser!(u64).range(5_000..))]
    requests: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.self_test {
        true => self_test::run(args.requests, args.exclusive).await,
        false => serve(args).await.map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", with_causes(&*error));
        ExitCode::FAILURE
    })
}

async fn serve(args: Args) -> Result<(), BoxError> {
    // Held until the end: the own server lives as long as this.
    let own = if args.target.is_none() { Some(Greeter::start(ANY_PORT)?) } else { None };
    let target = args.target.or(own.as_ref().map(Greeter::target)).unwrap_or_default();
    init_client(pool(&target, args.exclusive)?)?;

    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let http = listener.local_addr()?;
    println!("gRPC server  {target}{}", if own.is_some() { " (own)" } else { "" });
    for path in ["/", "/hello/ada", "/stats"] {
        println!("open         http://{http}{path}");
    }
    println!("Ctrl-C ends it.");

    axum::serve(listener, gateway::router()).with_graceful_shutdown(ctrl_c()).await?;
    println!("\nGoodbye.");
    Ok(())
}

fn pool(target: &str, exclusive: bool) -> Result<ClientPool, cenote::grpc::Error> {
    let builder = ClientPool::builder(target);
    if exclusive { builder.exclusive().build() } else { builder.build() }
}

async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot listen for Ctrl-C: {error}");
        std::future::pending().await
    }
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let chain = successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
