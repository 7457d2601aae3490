//! The process-wide client pool: `get_client()` anywhere, no pool passed around.
//!
//! ```sh
//! cargo run --example global_client                                         # starts a server for itself
//! CENOTE_TARGET=http://127.0.0.1:5000 cargo run --example global_client     # uses that one
//! ```

use std::env;
use std::error::Error;
use std::process::ExitCode;

use cenote::grpc::{ClientPool, get_client, init_client};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    // With the variable set there is nothing to do: the first get_client() reads it.
    if env::var_os("CENOTE_TARGET").is_none() {
        init_client(ClientPool::new(start_server()?)?)?;
    }

    let calls: JoinSet<_> = (1..=8).map(|number| greet(format!("task {number}"))).collect();
    let mut code = ExitCode::SUCCESS;
    for result in calls.join_all().await {
        match result {
            Ok(greeting) => println!("{greeting}"),
            Err(status) => {
                eprintln!("{}: {}", status.code(), status.message());
                code = ExitCode::FAILURE;
            }
        }
    }
    println!("{:#?}", get_client().stats());
    Ok(code)
}

async fn greet(name: String) -> Result<String, Status> {
    let conn = get_client().get(); // back on drop
    let reply = GreeterClient::new(conn).say_hello(HelloRequest { name, delay_ms: 0 }).await?;
    Ok(reply.into_inner().message)
}

/// Serves on a free port until the process ends, and returns the target.
fn start_server() -> Result<String, Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    let target = format!("http://{}", incoming.local_addr()?);
    tokio::spawn(Server::builder().add_service(GreeterServer::new(Greetings)).serve_with_incoming(incoming));
    Ok(target)
}

struct Greetings;

#[tonic::async_trait]
impl Greeter for Greetings {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello, {}!", request.into_inner().name) }))
    }

    type StreamHelloStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn stream_hello(
        &self,
        _: Request<StreamHelloRequest>,
    ) -> Result<Response<Self::StreamHelloStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type ChatStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn chat(
        &self,
        _: Request<tonic::Streaming<HelloRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}
