//! Streams counted per connection: 200 calls at once through one client, to a server that takes ten on a connection.
//!
//! ```sh
//! cargo run --example stream_pool
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use cenote::grpc::{StreamPool, StreamPoolStats};
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const CALLS: usize = 200;
const STREAMS: u32 = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let target = start_server()?;
    let pool = StreamPool::new();
    let client = GreeterClient::new(pool.channel(&target)?);

    let start = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let mut client = client.clone();
        let request = HelloRequest { name: format!("caller {number}"), delay_ms: 200 };
        calls.spawn(async move { client.say_hello(request).await });
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    print("under way", &pool.stats());
    while let Some(call) = calls.join_next().await {
        call??;
    }
    println!("{CALLS} calls of 200 ms each took {} ms\n", start.elapsed().as_millis());
    print("afterwards", &pool.stats());

    // Calls that still ran would be cut: there is no grace by default.
    pool.close();
    Ok(())
}

fn print(when: &str, stats: &StreamPoolStats) {
    for address in &stats.addresses {
        println!(
            "{when}, {}: {} connections, {} streams, {} waiting, {} dials",
            address.address,
            address.connections.len(),
            address.streams(),
            address.waiting,
            address.dials
        );
        for conn in &address.connections {
            println!(
                "  {:<10} {:>3} of {} streams, {:>3} calls, {:>4} ms old",
                conn.state.to_string(),
                conn.streams,
                conn.max_streams,
                conn.calls,
                conn.age.as_millis()
            );
        }
    }
    println!();
}

/// Serves on a free port until the process ends, and returns the target.
fn start_server() -> Result<String, Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    let target = format!("http://{}", incoming.local_addr()?);
    let mut server = Server::builder().max_concurrent_streams(STREAMS);
    tokio::spawn(server.add_service(GreeterServer::new(Greetings)).serve_with_incoming(incoming));
    Ok(target)
}

struct Greetings;

#[tonic::async_trait]
impl Greeter for Greetings {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let HelloRequest { name, delay_ms } = request.into_inner();
        tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
        Ok(Response::new(HelloReply { message: format!("Hello, {name}!") }))
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
