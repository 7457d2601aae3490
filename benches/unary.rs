//! What does a unary call cost through a `ClientPool`, beside the same call through a bare tonic `Channel`?
//!
//! One tonic server for all, on a thread of its own; the callers share one worker thread, so that what is compared is
//! work and not parallelism. And: what does a get and put of the pool itself cost, beside a `SyncPool` of boxes?

#![allow(missing_docs, reason = "criterion's macros")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cenote::SyncPool;
use cenote::grpc::ClientPool;
use cenote_proto::greeter_client::GreeterClient;
use cenote_proto::greeter_server::{Greeter, GreeterServer};
use cenote_proto::{HelloReply, HelloRequest, StreamHelloRequest};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

struct Answering;

#[tonic::async_trait]
impl Greeter for Answering {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }

    type StreamHelloStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn stream_hello(
        &self,
        _: Request<StreamHelloRequest>,
    ) -> Result<Response<Self::StreamHelloStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    type ChatStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn chat(
        &self,
        _: Request<tonic::Streaming<HelloRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

fn start_server() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder()
                .add_service(GreeterServer::new(Answering))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
    });
    told.recv().unwrap()
}

/// `calls` calls by `callers` tasks; the time from the first to the last.
fn drive<C, F>(runtime: &Runtime, callers: u64, calls: u64, call: C) -> Duration
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<HelloReply>, Status>> + Send,
{
    runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let call = call.clone();
                let share = calls / callers + u64::from(caller < calls % callers);
                tokio::spawn(async move {
                    for _ in 0..share {
                        call().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        start.elapsed()
    })
}

fn hello() -> HelloRequest {
    HelloRequest { name: "ada".to_owned(), delay_ms: 0 }
}

fn unary(criterion: &mut Criterion) {
    let target = format!("http://{}", start_server());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let channel = {
        let _inside = runtime.enter();
        Channel::from_shared(target.clone()).unwrap().connect_lazy()
    };
    let each = ClientPool::new(&*target).unwrap();
    let one = ClientPool::builder(&*target).max_connections(1).build().unwrap();

    let mut group = criterion.benchmark_group("unary call");
    for callers in [1, 10, 90] {
        let mut bench = |name: &str, run: &dyn Fn(u64) -> Duration| {
            group.bench_function(BenchmarkId::new(name, format!("{callers} callers")), |bencher| {
                bencher.iter_custom(run);
            });
        };
        bench("tonic Channel", &|calls| {
            let channel = channel.clone();
            drive(&runtime, callers, calls, move || {
                let mut client = GreeterClient::new(channel.clone());
                async move { client.say_hello(hello()).await }
            })
        });
        bench("ClientPool, one connection", &|calls| {
            let pool = one.clone();
            drive(&runtime, callers, calls, move || {
                let mut client = GreeterClient::new(pool.get_owned());
                async move { client.say_hello(hello()).await }
            })
        });
        bench("ClientPool, one connection a caller", &|calls| {
            let pool = each.clone();
            drive(&runtime, callers, calls, move || {
                let mut client = GreeterClient::new(pool.get_owned());
                async move { client.say_hello(hello()).await }
            })
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("get and put");
    group.bench_function("ClientPool", |bencher| bencher.iter(|| each.get().state()));
    let boxes: SyncPool<Box<[u8; 64]>> = SyncPool::new(|| Box::new([0; 64]));
    group.bench_function("SyncPool of boxes", |bencher| bencher.iter(|| boxes.get()[0]));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = unary
}
criterion_main!(benches);
