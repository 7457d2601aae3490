//! The contenders. All hold objects of 64 bytes that cost nothing to make, sqlx's excepted, which are connections to
//! databases in memory; none checks or resets them.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use cenote::bounded::{BoundedPool, FromFn, Lease, from_fn};

type Object = [u64; 8];

/// What is asked of a pool in an async row.
pub(crate) trait Pool: Clone + Send + Sync + 'static {
    type Guard: Send;
    /// How much fewer turns it takes in the rows that count them.
    const FEWER: u32 = 1;
    fn make(size: usize) -> impl Future<Output = Self> + Send;
    fn get(&self) -> impl Future<Output = Self::Guard> + Send;
    /// `None` if there was none in time.
    fn get_within(&self, time: Duration) -> impl Future<Output = Option<Self::Guard>> + Send {
        async move { tokio::time::timeout(time, self.get()).await.ok() }
    }
}

type Make = fn() -> std::future::Ready<Result<Object, Infallible>>;

pub(crate) type Ours = BoundedPool<FromFn<Make>>;

impl Pool for Ours {
    type Guard = Lease<FromFn<Make>>;
    async fn make(size: usize) -> Self {
        let make: Make = || std::future::ready(Ok([0; 8]));
        BoundedPool::builder(from_fn(make)).max_size(size).build().expect("a pool")
    }
    async fn get(&self) -> Self::Guard {
        BoundedPool::get(self).await.expect("an object")
    }
    async fn get_within(&self, time: Duration) -> Option<Self::Guard> {
        self.get_timeout(time).await.ok()
    }
}

pub(crate) struct ForDeadpool;

impl deadpool::managed::Manager for ForDeadpool {
    type Type = Object;
    type Error = Infallible;
    async fn create(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    async fn recycle(
        &self,
        _: &mut Object,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Infallible> {
        Ok(())
    }
}

pub(crate) type Deadpool = deadpool::managed::Pool<ForDeadpool>;

impl Pool for Deadpool {
    type Guard = deadpool::managed::Object<ForDeadpool>;
    async fn make(size: usize) -> Self {
        deadpool::managed::Pool::builder(ForDeadpool).max_size(size).build().expect("a pool")
    }
    async fn get(&self) -> Self::Guard {
        deadpool::managed::Pool::get(self).await.expect("an object")
    }
}

pub(crate) struct ForBb8;

impl bb8::ManageConnection for ForBb8 {
    type Connection = Object;
    type Error = Infallible;
    async fn connect(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    async fn is_valid(&self, _: &mut Object) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut Object) -> bool {
        false
    }
}

pub(crate) type Bb8 = bb8::Pool<ForBb8>;

impl Pool for Bb8 {
    type Guard = bb8::PooledConnection<'static, ForBb8>;
    async fn make(size: usize) -> Self {
        let builder = bb8::Pool::builder().max_size(size as u32).test_on_check_out(false);
        builder.build(ForBb8).await.expect("a pool")
    }
    async fn get(&self) -> Self::Guard {
        self.get_owned().await.expect("an object")
    }
}

pub(crate) struct ForMobc;

#[async_trait]
impl mobc::Manager for ForMobc {
    type Connection = Object;
    type Error = Infallible;
    async fn connect(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    async fn check(&self, object: Object) -> Result<Object, Infallible> {
        Ok(object)
    }
}

pub(crate) type Mobc = mobc::Pool<ForMobc>;

impl Pool for Mobc {
    type Guard = mobc::Connection<ForMobc>;
    const FEWER: u32 = 5;
    async fn make(size: usize) -> Self {
        let builder = mobc::Pool::builder().max_open(size as u64).max_idle(size as u64);
        builder.test_on_check_out(false).build(ForMobc)
    }
    async fn get(&self) -> Self::Guard {
        mobc::Pool::get(self).await.expect("an object")
    }
}

pub(crate) type Sqlx = sqlx::SqlitePool;

impl Pool for Sqlx {
    type Guard = sqlx::pool::PoolConnection<sqlx::Sqlite>;
    const FEWER: u32 = 30;
    async fn make(size: usize) -> Self {
        let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(size as u32);
        options.test_before_acquire(false).connect("sqlite::memory:").await.expect("a pool")
    }
    async fn get(&self) -> Self::Guard {
        self.acquire().await.expect("an object")
    }
}

#[derive(Debug)]
pub(crate) struct ForFastPool;

impl fast_pool::Manager for ForFastPool {
    type Connection = Object;
    type Error = String;
    async fn connect(&self) -> Result<Object, String> {
        Ok([0; 8])
    }
    async fn check(&self, _: &mut Object) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) type FastPool = fast_pool::Pool<ForFastPool>;

impl Pool for FastPool {
    type Guard = fast_pool::ConnectionGuard<ForFastPool>;
    async fn make(size: usize) -> Self {
        let pool = fast_pool::Pool::new(ForFastPool);
        pool.set_max_open(size as u64);
        pool.set_max_idle_conns(size as u64);
        pool
    }
    async fn get(&self) -> Self::Guard {
        fast_pool::Pool::get(self).await.expect("an object")
    }
}

pub(crate) struct ForR2d2;

impl r2d2::ManageConnection for ForR2d2 {
    type Connection = Object;
    type Error = Infallible;
    fn connect(&self) -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    fn is_valid(&self, _: &mut Object) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut Object) -> bool {
        false
    }
}

pub(crate) fn r2d2(size: usize) -> r2d2::Pool<ForR2d2> {
    r2d2::Pool::builder().max_size(size as u32).test_on_check_out(false).build(ForR2d2).expect("a pool")
}

pub(crate) type Blocking = cenote::bounded::Blocking<FromFn<fn() -> Result<Object, Infallible>>>;

pub(crate) fn blocking(size: usize) -> BoundedPool<Blocking> {
    fn make() -> Result<Object, Infallible> {
        Ok([0; 8])
    }
    let manager = cenote::bounded::from_blocking_fn(make as fn() -> Result<Object, Infallible>);
    let pool = BoundedPool::builder(manager).max_size(size).build().expect("a pool");
    // The first return finds out that there is no reset.
    drop(pool.get_blocking().expect("an object"));
    drop(pool.get_blocking().expect("an object"));
    pool
}
