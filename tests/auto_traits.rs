//! Which auto traits the public types have, and which they must not have, for objects and factories of every sort.
//!
//! What must not even compile (a pool of what is not `Send`) stands as `compile_fail` doctests beside the types.

use std::cell::{Cell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

use cenote::{OwnedPooled, Pooled, Stats, SyncPool};
use static_assertions::{assert_impl_all, assert_not_impl_any};

// Objects: by what they are themselves.
type Plain = Vec<u8>; // all
type Unsync = Cell<u8>; // Send, not Sync
type UnsyncDeep = RefCell<Vec<Cell<u8>>>; // Send, not Sync

// Factories. A closure has the auto traits of what it captures, and so has a box that says which.
type Shared = Box<dyn Fn() -> Plain + Send + Sync>;
type SendOnly = Box<dyn Fn() -> Plain + Send>;
type Neither = Box<dyn Fn() -> Plain>;
type Poisonless = Box<dyn Fn() -> Plain + Send + Sync + UnwindSafe + RefUnwindSafe>;

// The pool: what the objects lack in `Sync` does not matter, since each has one holder at a time.
assert_impl_all!(SyncPool<Plain>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_impl_all!(SyncPool<Unsync>: Send, Sync, Unpin);
assert_impl_all!(SyncPool<UnsyncDeep>: Send, Sync, Unpin);
assert_impl_all!(SyncPool<&'static str>: Send, Sync);
assert_not_impl_any!(SyncPool<Plain>: Clone, Copy);

// The factory is called from any thread at once.
assert_impl_all!(SyncPool<Plain, Shared>: Send, Sync, Unpin);
assert_impl_all!(SyncPool<Plain, Poisonless>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_not_impl_any!(SyncPool<Plain, Shared>: UnwindSafe, RefUnwindSafe);
assert_impl_all!(SyncPool<Plain, SendOnly>: Send);
assert_not_impl_any!(SyncPool<Plain, SendOnly>: Sync);
assert_not_impl_any!(SyncPool<Plain, Neither>: Send, Sync);
assert_not_impl_any!(SyncPool<Plain, Rc<u8>>: Send, Sync);

// The guard that borrows: it shares the pool and owns the object.
assert_impl_all!(Pooled<'static, Plain>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_impl_all!(Pooled<'static, Unsync>: Send, Unpin);
assert_impl_all!(Pooled<'static, UnsyncDeep>: Send, Unpin);
assert_not_impl_any!(Pooled<'static, Unsync>: Sync);
assert_not_impl_any!(Pooled<'static, UnsyncDeep>: Sync);
assert_impl_all!(Pooled<'static, Plain, Shared>: Send, Sync);
assert_not_impl_any!(Pooled<'static, Plain, SendOnly>: Send, Sync);
assert_not_impl_any!(Pooled<'static, Plain, Neither>: Send, Sync);
// Two guards of one object would give it back twice.
assert_not_impl_any!(Pooled<'static, Plain>: Clone, Copy);
assert_not_impl_any!(Pooled<'static, u8>: Clone, Copy);

// The bounded pool: a lease shares the pool and owns the object; the getters run in tasks that move.
type Bounded<T> = cenote::bounded::Blocking<cenote::bounded::FromFn<fn() -> Result<T, std::io::Error>>>;
assert_impl_all!(cenote::bounded::BoundedPool<Bounded<Plain>>: Send, Sync, Clone, Unpin);
assert_impl_all!(cenote::bounded::BoundedPool<Bounded<Unsync>>: Send, Sync);
assert_impl_all!(cenote::bounded::Lease<Bounded<Plain>>: Send, Sync, Unpin);
assert_impl_all!(cenote::bounded::Lease<Bounded<Unsync>>: Send);
assert_not_impl_any!(cenote::bounded::Lease<Bounded<Unsync>>: Sync, Clone, Copy);
assert_impl_all!(cenote::bounded::Get<'static, Bounded<Unsync>>: Send, Unpin);
assert_impl_all!(cenote::bounded::GetError<std::io::Error>: std::error::Error, Send, Sync, Clone);

// The guard that owns a share of the pool.
assert_impl_all!(OwnedPooled<Plain>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_impl_all!(OwnedPooled<Unsync>: Send, Unpin);
assert_impl_all!(OwnedPooled<UnsyncDeep>: Send, Unpin);
assert_not_impl_any!(OwnedPooled<Unsync>: Sync);
assert_not_impl_any!(OwnedPooled<UnsyncDeep>: Sync);
assert_impl_all!(OwnedPooled<Plain, Shared>: Send, Sync);
// As with any `Arc`: two owners on two threads share the factory.
assert_not_impl_any!(OwnedPooled<Plain, SendOnly>: Send, Sync);
assert_not_impl_any!(OwnedPooled<Plain, Neither>: Send, Sync);
assert_not_impl_any!(OwnedPooled<Plain>: Clone, Copy);
assert_not_impl_any!(OwnedPooled<u8>: Clone, Copy);

assert_impl_all!(Stats: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Copy);

// Blocks: memory with an owner, and boxes that are what their values are.
assert_impl_all!(cenote::BlockPool: Send, Sync, Clone, Unpin, UnwindSafe, RefUnwindSafe);
assert_impl_all!(cenote::block_pool::Block: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_not_impl_any!(cenote::block_pool::Block: Clone, Copy);
assert_impl_all!(cenote::PoolBox<Plain>: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);
assert_impl_all!(cenote::PoolBox<[u8]>: Send, Sync, AsRef<[u8]>);
assert_impl_all!(cenote::PoolBox<std::marker::PhantomPinned>: Unpin);
assert_impl_all!(cenote::PoolBox<Unsync>: Send);
assert_not_impl_any!(cenote::PoolBox<Unsync>: Sync);
assert_not_impl_any!(cenote::PoolBox<Rc<u8>>: Send, Sync);
assert_not_impl_any!(cenote::PoolBox<Plain>: Clone, Copy);
assert_impl_all!(cenote::block_pool::Exhausted: std::error::Error, Send, Sync, Unpin);

fn everywhere<T: Send + Sync + 'static>(_: &T) {}

#[test]
fn pools_and_owned_guards_with_a_closure_for_a_factory_go_everywhere() {
    let size = 16;
    let pool = std::sync::Arc::new(SyncPool::new(move || vec![0u8; size]));
    everywhere(&*pool);
    everywhere(&pool.get_owned());
}

#[test]
fn guards_of_a_static_pool_go_everywhere() {
    static POOL: SyncPool<Plain> = SyncPool::new(Vec::new);
    everywhere(&POOL.get());
}

mod grpc {
    use cenote::grpc::{
        Addresses, AlreadyInitialized, BalancedChannel, ChannelObserver, ClientConn, ClientConnBuilder,
        ClientPool, ClientPoolBuilder, ClientPoolStats, ConnectivityState, Error, HealthError, Overflow,
        PooledConn, ResponseBody, ResponseFuture, StreamChannel, StreamLease, StreamPool, StreamPoolBuilder,
        StreamPoolStats, TlsConfig,
    };
    use tonic::Status;
    use tonic::body::Body;
    use tonic::client::GrpcService;
    use tower::Service;

    use super::*;

    assert_impl_all!(ClientConn: Send, Sync, Unpin, Clone, std::fmt::Debug);
    assert_impl_all!(ChannelObserver: Send, Sync, Unpin, Clone, std::fmt::Debug);
    assert_impl_all!(ClientPool: Send, Sync, Unpin, Clone, std::fmt::Debug);
    assert_impl_all!(PooledConn<'static>: Send, Sync, Unpin, std::fmt::Debug);
    // It can go back only once.
    assert_not_impl_any!(PooledConn<'static>: Clone, Copy);
    assert_impl_all!(ClientConnBuilder: Send, Sync, Clone);
    assert_impl_all!(ClientPoolBuilder: Send, Sync, Clone);
    assert_impl_all!(TlsConfig: Send, Sync, Clone);
    // One error is told to all who waited for the same dial.
    assert_impl_all!(Error: Send, Sync, Clone, std::error::Error);
    assert_impl_all!(HealthError: Send, Sync, Clone, std::error::Error);
    assert_impl_all!(AlreadyInitialized: Send, Sync, std::error::Error);
    assert_impl_all!(ConnectivityState: Send, Sync, Copy, Eq, std::hash::Hash);
    assert_impl_all!(ClientPoolStats: Send, Sync, Copy);
    assert_impl_all!(StreamPool: Send, Sync, Unpin, Clone, Default, std::fmt::Debug);
    assert_impl_all!(StreamPoolBuilder: Send, Sync, Clone, std::fmt::Debug);
    assert_impl_all!(StreamPoolStats: Send, Sync, Unpin, Clone, Default);
    assert_impl_all!(Overflow: Send, Sync, Copy, Eq);
    // One stream, counted once.
    assert_impl_all!(StreamLease: Send, Sync, Unpin, std::fmt::Debug);
    assert_not_impl_any!(StreamLease: Clone, Copy);
    assert_impl_all!(StreamChannel: Send, Sync, Unpin, Clone, std::fmt::Debug);
    assert_impl_all!(BalancedChannel: Send, Sync, Unpin, Clone, std::fmt::Debug);
    // It holds a stream of changes, which one task polls.
    assert_impl_all!(Addresses: Send, Unpin, std::fmt::Debug);
    assert_not_impl_any!(Addresses: Sync, Clone);
    // A call runs in a task that may move; a body may be kept anywhere.
    assert_impl_all!(ResponseFuture: Send, Unpin);
    assert_impl_all!(ResponseBody: Send, Unpin, Default);
    assert_not_impl_any!(ResponseBody: Clone);

    // What tonic's generated clients ask of a service, and `with_interceptor` on top of it.
    assert_impl_all!(ClientConn: GrpcService<Body>, Service<http::Request<Body>, Error = Status>);
    assert_impl_all!(PooledConn<'static>: GrpcService<Body>, Service<http::Request<Body>, Error = Status>);
    assert_impl_all!(&'static mut PooledConn<'static>: GrpcService<Body>);
    assert_impl_all!(StreamLease: GrpcService<Body>, Service<http::Request<Body>, Error = Status>);
    assert_impl_all!(&'static mut StreamLease: GrpcService<Body>);
    assert_impl_all!(StreamChannel: GrpcService<Body>, Service<http::Request<Body>, Error = Status>);
    assert_impl_all!(BalancedChannel: GrpcService<Body>, Service<http::Request<Body>, Error = Status>);
    assert_impl_all!(<ClientConn as GrpcService<Body>>::ResponseBody: Default);

    /// As the generated clients have it in their `impl` blocks.
    fn a_generated_client_takes<T>(_: &T)
    where
        T: GrpcService<Body>,
        <T as GrpcService<Body>>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Default + Send + 'static,
        <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        T: Service<http::Request<Body>, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + Sync>,
    {
    }

    #[test]
    fn connections_guards_and_references_to_guards_are_services_for_generated_clients() {
        let pool = ClientPool::new("http://127.0.0.1:1").unwrap();
        let mut guard = pool.get();
        a_generated_client_takes(&ClientConn::new("http://127.0.0.1:1").unwrap());
        a_generated_client_takes(&(&mut guard));
        a_generated_client_takes(&guard);
        everywhere(&pool);
        everywhere(&pool.get_owned());
    }

    #[test]
    fn leases_and_channels_of_a_stream_pool_are_services_for_generated_clients_and_go_everywhere() {
        let pool = StreamPool::new();
        let mut lease = pool.get("http://127.0.0.1:1").unwrap();
        let channel = pool.channel("http://127.0.0.1:1").unwrap();
        let balanced = pool.balance(Addresses::list(["http://127.0.0.1:1"]));
        a_generated_client_takes(&(&mut lease));
        a_generated_client_takes(&lease);
        a_generated_client_takes(&channel);
        a_generated_client_takes(&balanced);
        everywhere(&pool);
        everywhere(&lease);
        everywhere(&channel);
        everywhere(&balanced);
    }
}
