//! A web service that counts visits in a database, with at most eight connections.
//!
//! ```text
//! cargo run --example database                               # SQLite, in a file of its own: nothing to install
//! cargo run --example database -- --postgres postgres://app:secret@127.0.0.1/app
//! cargo run --example database -- --mysql mysql://app:secret@127.0.0.1/app
//! cargo run --example database -- --redis redis://127.0.0.1/
//! curl http://127.0.0.1:3000/visits/home
//! ```
//!
//! `--drill` stops the database for 5 s under 200 tasks, and starts it again. It works on a server that it starts itself
//! (`--drill --postgres`, without a URL), or on SQLite, where another connection keeps the database locked.

mod drill;
mod outage;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use tokio::net::TcpListener;

use outage::Outage;
use store::Store;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Counts visits in a database.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
    /// The file of an SQLite database. By default a temporary one is made.
    #[arg(long, group = "database")]
    sqlite: Option<PathBuf>,
    /// The URL of a PostgreSQL server; without a URL, one is started.
    #[arg(long, group = "database", value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    postgres: Option<String>,
    /// The URL of a MySQL or MariaDB server; without a URL, one is started.
    #[arg(long, group = "database", value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    mysql: Option<String>,
    /// The URL of a Redis server; without a URL, one is started.
    #[arg(long, group = "database", value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    redis: Option<String>,
    /// Stops the database for 5 s under 200 tasks, says what they met, and ends.
    #[arg(long)]
    drill: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let (store, outage) = open(&arguments).await?;
    store.prepare().await?;
    if arguments.drill {
        let outage = outage.ok_or("the drill stops only a server that it has started: leave the URL out")?;
        return drill::run(store, outage).await;
    }
    let routes = Router::new()
        .route("/visits/{page}", get(visit))
        .route("/pool", get(async |State(store): State<Arc<Store>>| format!("{:#?}\n", store.stats())))
        .with_state(store);
    let listener = TcpListener::bind(&arguments.listen).await?;
    println!("listening on http://{}/visits/home", listener.local_addr()?);
    // Dropped after the last request: a server that was started ends with its value.
    let _outage = outage;
    axum::serve(listener, routes)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}

async fn visit(
    State(store): State<Arc<Store>>,
    Path(page): Path<String>,
) -> Result<String, (StatusCode, String)> {
    match store.visit(&page).await {
        Ok(count) => Ok(format!("{count}\n")),
        Err(failure) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n"))),
    }
}

async fn open(arguments: &Arguments) -> Result<(Arc<Store>, Option<Outage>), Error> {
    let servers = [
        (&arguments.postgres, outage::Kind::Postgres),
        (&arguments.mysql, outage::Kind::MariaDb),
        (&arguments.redis, outage::Kind::Redis),
    ];
    let Some((url, kind)) = servers.into_iter().find_map(|(url, kind)| Some((url.clone()?, kind))) else {
        let (path, outage) = Outage::of_file(arguments.sqlite.clone())?;
        return Ok((Arc::new(Store::sqlite(&path)?), Some(outage)));
    };
    let (url, outage) = match url.is_empty() {
        true => {
            println!("starting {kind:?}");
            let (url, outage) = tokio::task::spawn_blocking(move || Outage::of_server(kind)).await??;
            (url, Some(outage))
        }
        false => (url, None),
    };
    let store = match kind {
        outage::Kind::Postgres => Store::postgres(&url)?,
        outage::Kind::MariaDb => Store::mysql(&url)?,
        outage::Kind::Redis => Store::redis(&url)?,
    };
    Ok((Arc::new(store), outage))
}
