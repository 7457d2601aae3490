//! The gateway: HTTP on this side, gRPC on the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use cenote::grpc::{PooledConn, get_client};
use cenote_proto::HelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use tonic::{Code, Status};

use crate::page::{BUFFERS, Page};

/// How long a request may wait for the gRPC server: for a connection and for the answer, together.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gets that brought a connection already known to be broken. The pool promises that there are none.
pub static BROKEN_GETS: AtomicU64 = AtomicU64::new(0);

pub fn router() -> Router {
    Router::new().route("/", get(home)).route("/hello/{name}", get(hello)).route("/stats", get(stats))
}

async fn home() -> Html<&'static str> {
    Html(include_str!("home.html"))
}

async fn hello(Path(name): Path<String>, headers: HeaderMap) -> Result<Page, Failure> {
    let mut request = tonic::Request::new(HelloRequest { name, delay_ms: 0 });
    request.set_timeout(DEADLINE);

    let conn = get_client().get(); // Go: conn := pool.Get(); defer pool.Put(conn)
    if !PooledConn::state_at_get(&conn).is_usable() {
        BROKEN_GETS.fetch_add(1, Ordering::Relaxed);
    }
    let reply = GreeterClient::new(conn).say_hello(request).await?;
    // The client is gone with its statement, and the connection is back in the pool.

    let greeting = reply.into_inner().message;
    Ok(if wants_json(&headers) { Page::json(&greeting) } else { Page::html(&greeting) })
}

async fn stats() -> String {
    format!("connections: {:#?}\n\nbuffers: {:#?}\n", get_client().stats(), BUFFERS.stats())
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

/// A gRPC call that failed, as HTTP says it.
struct Failure(Status);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure(status)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = match self.0.code() {
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        (code, format!("{}\n", self.0.message())).into_response()
    }
}
