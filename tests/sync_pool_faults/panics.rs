//! Callers' code that panics in the middle of an operation: no object is lost, and the pool works
//! on.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{PoolConfig, SyncPool};

use crate::stats::assert_each_has_one_fate;

#[derive(Default)]
struct Census {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Census {
    fn object(self: &Arc<Self>, explodes: bool) -> Object {
        self.made.fetch_add(1, Relaxed);
        Object { census: Arc::clone(self), explodes }
    }

    fn alive(&self) -> usize {
        self.made.load(Relaxed) - self.dropped.load(Relaxed)
    }
}

struct Object {
    census: Arc<Census>,
    /// Whether its drop panics.
    explodes: bool,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.census.dropped.fetch_add(1, Relaxed);
        assert!(!self.explodes || thread::panicking(), "{EXPECTED}");
    }
}

const EXPECTED: &str = "an object explodes";

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Whether it panics.
fn panics<R>(work: impl FnOnce() -> R) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(_) => false,
        Err(panic) => {
            assert!(words(&*panic).contains("explodes"), "{}", words(&*panic));
            true
        }
    }
}

/// Runs `work` on a thread whose expected panics are not printed.
fn quietly(work: impl FnOnce() + Send + 'static) {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() || !words(info.payload()).contains("explodes") {
                usual(info);
            }
        }));
    });
    thread::spawn(|| {
        QUIET.set(true);
        work();
    })
    .join()
    .unwrap();
}

/// Every third object explodes. Uses the pool until most have been dropped by gets and puts, and
/// checks after each.
fn others_explode_in_use(config: PoolConfig<Object>, period: Duration) {
    let census = Arc::new(Census::default());
    let makers = Arc::clone(&census);
    let pool = SyncPool::with_config(move || makers.object(false), config);
    let explosions = Cell::new(0);
    let count = |panicked: bool| explosions.set(explosions.get() + usize::from(panicked));
    const OBJECTS: usize = 3000;
    for number in 0..OBJECTS {
        let object = census.object(number % 3 == 0);
        count(panics(|| pool.put(object)));
        assert_eq!(census.alive(), pool.stats().idle, "a put has lost an object: {:?}", pool.stats());
    }
    let began = Instant::now();
    while pool.stats().aged + pool.stats().shed < OBJECTS as u64 * 9 / 10 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", pool.stats());
        thread::sleep(period);
        // These are more than a thread keeps to itself.
        let mut out = Vec::new();
        for _ in 0..200 {
            count(panics(|| out.push(pool.get())));
            assert_eq!(census.alive(), pool.stats().idle + out.len(), "{:?}", pool.stats());
        }
        while let Some(guard) = out.pop() {
            count(panics(|| drop(guard)));
            assert_eq!(census.alive(), pool.stats().idle + out.len(), "{:?}", pool.stats());
        }
    }
    assert!(explosions.get() > OBJECTS / 30, "{explosions:?}");
    assert_each_has_one_fate(&pool.stats());
    // The test drops the rest one by one: in a `clear` the second panic would abort the process.
    let rest: Vec<_> = pool.drain().collect();
    assert_eq!((census.alive(), pool.stats().idle), (rest.len(), 0));
    rest.into_iter().for_each(|object| count(panics(|| drop(object))));
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_get_or_put_in_which_an_expired_object_panics_loses_nothing() {
    quietly(|| {
        let period = Duration::from_millis(5);
        others_explode_in_use(PoolConfig::new().period(period), period);
    });
}

#[test]
fn a_put_in_which_an_object_without_room_panics_loses_nothing() {
    quietly(|| others_explode_in_use(PoolConfig::new().max_idle(100).age_by_hand(), Duration::ZERO));
}

#[test]
fn a_factory_that_panics_leaves_the_pool_as_it_was() {
    quietly(|| {
        let census = Arc::new(Census::default());
        let (makers, calls) = (Arc::clone(&census), AtomicUsize::new(0));
        let factory = move || {
            assert!(calls.fetch_add(1, Relaxed) % 2 == 0, "the factory explodes");
            makers.object(false)
        };
        let pool = Arc::new(SyncPool::new(factory));
        let mut out = Vec::new();
        let (mut taken, mut guards) = (Vec::new(), Vec::new());
        let mut failed = 0;
        for _ in 0..100 {
            failed += usize::from(panics(|| out.push(pool.get_owned())));
            failed += usize::from(panics(|| taken.push(pool.take())));
            failed += usize::from(panics(|| guards.push(pool.get())));
            failed += usize::from(panics(|| guards.push(pool.get_or_else(|| panic!("it explodes")))));
            assert_eq!(census.alive(), out.len() + taken.len() + guards.len());
        }
        assert_eq!(failed, 100 + 150);
        assert_eq!(pool.stats().made as usize, census.alive());
        drop((taken, out, guards));
        assert_eq!(census.alive(), pool.stats().idle);
        pool.clear();
        // What was made before a panic stays.
        assert!(panics(|| pool.prefill(10)) || panics(|| pool.prefill(10)));
        assert_eq!(census.alive(), pool.stats().idle);
        assert_each_has_one_fate(&pool.stats());
    });
}

#[test]
fn a_hook_that_panics_drops_the_one_object() {
    quietly(|| {
        let census = Arc::new(Census::default());
        let makers = Arc::clone(&census);
        let calls = AtomicUsize::new(0);
        let pool = SyncPool::new(move || makers.object(false)).recycle_with(move |_| {
            assert!(!calls.fetch_add(1, Relaxed).is_multiple_of(5), "the hook explodes");
            true
        });
        for _ in 0..10 {
            let mut out: Vec<_> = (0..100).map(|_| pool.get()).collect();
            while let Some(guard) = out.pop() {
                panics(|| drop(guard));
                assert_eq!(census.alive(), pool.stats().idle + out.len());
            }
            let mut taken: Vec<_> = (0..100).map(|_| pool.take()).collect();
            while let Some(object) = taken.pop() {
                panics(|| pool.put(object));
                assert_eq!(census.alive(), pool.stats().idle + taken.len());
            }
        }
        assert_eq!(pool.stats().kept, 2000 - 400);
        assert_each_has_one_fate(&pool.stats());
    });
}

#[test]
fn a_drain_whose_rest_panics_drops_the_others() {
    quietly(|| {
        let census = Arc::new(Census::default());
        let pool: SyncPool<Object> = SyncPool::new(|| unreachable!("nobody gets"));
        (0..300).for_each(|number| pool.put(census.object(number == 150)));
        let mut drain = pool.drain();
        let first = drain.next();
        assert!(panics(|| drop(drain)));
        assert_eq!(census.alive(), 1);
        drop(first);
        assert_eq!((census.alive(), pool.stats().drained, pool.stats().idle), (0, 300, 0));
    });
}
