//! At most four stubs for sixteen callers, and a close that wakes them all: what C++ services build from a queue, a mutex and a
//! condition variable.
//!
//! ```sh
//! cargo run --example stub_pool
//! ```

#[allow(dead_code, unreachable_pub)] // what only the gateway needs
#[path = "web_gateway/greeter.rs"]
mod greeter;

use std::error::Error;
use std::time::Duration;

use cenote::bounded::{BoundedPool, GetError};
use cenote::grpc::{ClientConn, ConnManager};
use cenote_proto::HelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// C++: `RPConPool(4, host, port)`.
type StubPool = BoundedPool<ConnManager<GreeterClient<ClientConn>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let server = greeter::Greeter::start("127.0.0.1:0".parse()?)?;
    let manager = ConnManager::stubs(ClientConn::builder(server.target()), GreeterClient::new);
    let pool = BoundedPool::builder(manager).max_size(4).min_size(4).build()?;

    let mut callers: JoinSet<_> = (1..=16).map(|number| call(pool.clone(), number)).collect();
    // Long enough for two or three rounds of four callers.
    sleep(Duration::from_millis(250)).await;
    pool.close(); // C++: `Close()`, which notifies all who wait for the condition
    let (mut served, mut woken) = (0, 0);
    while let Some(outcome) = callers.join_next().await {
        match outcome?? {
            Some(greeting) => {
                println!("{greeting}");
                served += 1;
            }
            None => woken += 1,
        }
    }
    println!("{served} callers were served, {woken} were woken by the close");
    Ok(())
}

/// One call; `None` if the pool was closed before its turn.
async fn call(pool: StubPool, number: u32) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
    let mut stub = match pool.get().await {
        Ok(stub) => stub, // C++: `getConnection()`
        Err(GetError::Closed) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let reply = stub.say_hello(HelloRequest { name: format!("caller {number}"), delay_ms: 0 }).await?;
    sleep(Duration::from_millis(100)).await; // more work with the stub in hand
    Ok(Some(reply.into_inner().message))
} // C++: `returnConnection(std::move(stub))`, also on the way out of an error
