//! The load: many workers, each of which sends one HTTP request after the other, until all are sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::header::ACCEPT;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::BoxError;

/// Requests in flight at once.
const WORKERS: usize = 64;

/// After a failure a worker waits for this long: else an outage, where failures are quick, would use all requests up.
const PAUSE: Duration = Duration::from_millis(20);

/// The gateway answers within its own deadline, with an error if need be. A request that takes this long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// One request.
pub struct Sample {
    pub start: Instant,
    pub end: Instant,
    pub outcome: Outcome,
}

pub enum Outcome {
    Greeted,
    /// No greeting, and why.
    Failed(String),
    /// The greeting was not for this visitor, or not whole.
    Mangled(String),
}

pub struct Load {
    pub bar: ProgressBar,
    workers: JoinSet<Vec<Sample>>,
}

impl Load {
    pub fn start(gateway: SocketAddr, requests: u64, bar: ProgressBar) -> Self {
        // Keep-alive: the client holds on to as many connections as there are workers.
        let client = Client::builder(TokioExecutor::new()).build_http();
        let numbers = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let visitor = Visitor { client: client.clone(), gateway };
            let (numbers, bar) = (Arc::clone(&numbers), bar.clone());
            workers.spawn(async move {
                let mut samples = Vec::new();
                loop {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return samples;
                    }
                    let start = Instant::now();
                    let outcome = visitor.visit(number).await;
                    let failed = matches!(outcome, Outcome::Failed(_));
                    samples.push(Sample { start, end: Instant::now(), outcome });
                    bar.inc(1);
                    if failed {
                        sleep(PAUSE).await;
                    }
                }
            });
        }
        Load { bar, workers }
    }

    /// Waits until that many requests have their answer.
    pub async fn done(&self, requests: u64) {
        while self.bar.position() < requests {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until all have it.
    pub async fn finish(self) -> Vec<Sample> {
        let samples = self.workers.join_all().await.into_iter().flatten().collect();
        self.bar.finish_and_clear();
        samples
    }
}

struct Visitor {
    client: Client<HttpConnector, Empty<Bytes>>,
    gateway: SocketAddr,
}

impl Visitor {
    async fn visit(&self, number: u64) -> Outcome {
        let (status, body) = match timeout(HANGS, self.exchange(number)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Outcome::Failed(crate::with_causes(&*error)),
            Err(_) => return Outcome::Failed(format!("no answer within {HANGS:?}")),
        };
        if status != StatusCode::OK {
            return Outcome::Failed(format!("{status}: {}", body.trim_end()));
        }
        let expected = format!("Hello, visitor-{number}!");
        if body.matches("Hello").count() == 1 && body.contains(&expected) {
            Outcome::Greeted
        } else {
            Outcome::Mangled(format!("{body:?} instead of {expected:?}"))
        }
    }

    async fn exchange(&self, number: u64) -> Result<(StatusCode, String), BoxError> {
        let accept = if number.is_multiple_of(2) { "text/html" } else { "application/json" };
        let request = Request::get(format!("http://{}/hello/visitor-{number}", self.gateway))
            .header(ACCEPT, accept)
            .body(Empty::new())?;
        let response = self.client.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.into())?))
    }
}
