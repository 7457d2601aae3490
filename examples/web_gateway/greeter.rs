//! The gRPC service behind the gateway, so that the example needs nothing else on the machine.

use std::io;
use std::net::SocketAddr;

use cenote_proto::greeter_server::GreeterServer;
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest, greeter_server};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A running server. It has a runtime to itself: when that goes, so do the listener and all sockets at once, in the
/// middle of whatever is on them, as if the server were a process and got a SIGKILL.
pub struct Greeter {
    addr: SocketAddr,
    /// `None` while it is dead.
    runtime: Option<Runtime>,
}

impl Greeter {
    /// Port 0 picks a free one.
    pub fn start(addr: SocketAddr) -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("greeter").enable_all().build()?;
        let incoming = {
            let _inside = runtime.enter(); // sockets belong to the runtime they are made in
            TcpIncoming::bind(addr)?.with_nodelay(Some(true))
        };
        let addr = incoming.local_addr()?;
        runtime.spawn(
            Server::builder().add_service(GreeterServer::new(Greetings)).serve_with_incoming(incoming),
        );
        Ok(Greeter { addr, runtime: Some(runtime) })
    }

    /// Starts again, on the same port.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        *self = Greeter::start(self.addr)?;
        Ok(())
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a plain drop would block, which a task may not
        }
    }

    pub fn target(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Greetings;

#[tonic::async_trait]
impl greeter_server::Greeter for Greetings {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let HelloRequest { name, .. } = request.into_inner();
        Ok(Response::new(HelloReply { message: format!("Hello, {name}!") }))
    }

    type StreamHelloStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn stream_hello(
        &self,
        _: Request<StreamHelloRequest>,
    ) -> Result<Response<Self::StreamHelloStream>, Status> {
        Err(Status::unimplemented("the gateway has no use for it"))
    }

    type ChatStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn chat(
        &self,
        _: Request<tonic::Streaming<HelloRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}
