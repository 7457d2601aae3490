//! The drops that an operation runs: how many, how deep, and whether any.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{Ager, AgerConfig, PoolConfig, SyncPool};

use crate::alone::{LIMIT, alone};
use crate::stats::assert_each_has_one_fate;

const MILLION: usize = 1_000_000;

thread_local! {
    /// Drops of [`Nosy`] objects on this thread: those that are under way, the most that ever were,
    /// and those that began.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static DEEPEST: Cell<usize> = const { Cell::new(0) };
    static DROPS: Cell<usize> = const { Cell::new(0) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// A linear congruential generator with Knuth's constants. A nested drop draws other numbers than
/// the drop around it.
fn random() -> u64 {
    thread_local!(static LAST: Cell<u64> = const { Cell::new(1) });
    LAST.set(LAST.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    LAST.get() >> 33
}

/// An object whose drop does something with a pool. All of one test live on one thread.
struct Nosy {
    deed: fn(),
}

impl Nosy {
    fn new(deed: fn()) -> Self {
        MADE.set(MADE.get() + 1);
        Nosy { deed }
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        DROPS.set(DROPS.get() + 1);
        DEPTH.set(DEPTH.get() + 1);
        DEEPEST.set(DEEPEST.get().max(DEPTH.get()));
        (self.deed)();
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Runs one operation of a pool, outside any drop. The operation may drop eight objects, including
/// those that nested operations drop.
fn operation<R>(work: impl FnOnce() -> R) -> R {
    let before = DROPS.get();
    let result = work();
    let dropped = DROPS.get() - before;
    assert!(dropped <= 8, "{dropped} drops in one operation");
    result
}

/// Takes 100 objects, which is more than a thread keeps to itself, and puts them back.
fn burst(pool: &SyncPool<Nosy>) {
    let out: Vec<Nosy> = (0..50).map(|_| operation(|| pool.take())).collect();
    let guards: Vec<_> = (0..50).map(|_| operation(|| pool.get())).collect();
    out.into_iter().for_each(|object| operation(|| pool.put(object)));
    guards.into_iter().for_each(|guard| operation(|| drop(guard)));
}

/// Is what a nosy drop does: most often it does one operation or two, and sometimes so many that
/// they go beyond the thread's own shard.
fn use_pool(pool: &SyncPool<Nosy>) {
    match random() % 64 {
        0 => {
            let out: [Nosy; 40] = std::array::from_fn(|_| pool.take());
            out.into_iter().for_each(|object| pool.put(object));
        }
        1..20 => drop(pool.get()),
        20..40 => pool.put(pool.take()),
        _ => drop(pool.try_get()),
    }
}

/// Runs a trial on a thread with 2 MiB of stack, as the threads of std and tokio have.
fn on_two_mebibytes(trial: fn()) {
    thread::Builder::new().stack_size(2 << 20).spawn(trial).unwrap().join().unwrap();
}

/// No object is lost: what the pool does not hold was dropped.
fn assert_nothing_is_lost(pool: &SyncPool<Nosy>) {
    assert_each_has_one_fate(&pool.stats());
    assert_eq!(MADE.get() - DROPS.get(), pool.stats().idle, "{:?}", pool.stats());
}

/// Lets generations pass by use, and uses the pool until it holds few objects.
fn shrink_by_use(pool: &SyncPool<Nosy>, period: Duration, few: usize) {
    let began = Instant::now();
    for _ in 0..3 {
        thread::sleep(period);
        burst(pool);
    }
    while pool.stats().idle > few {
        assert!(began.elapsed() < LIMIT / 2, "{:?}", pool.stats());
        burst(pool);
    }
}

#[test]
fn a_million_expired_objects_that_use_the_pool_in_drop_do_not_overflow_the_stack() {
    const PERIOD: Duration = Duration::from_millis(400);
    static POOL: SyncPool<Nosy> =
        SyncPool::with_config(|| Nosy::new(|| use_pool(&POOL)), PoolConfig::new().period(PERIOD));
    alone(|| {
        on_two_mebibytes(|| {
            (0..MILLION).for_each(|_| operation(|| POOL.put(Nosy::new(|| use_pool(&POOL)))));
            shrink_by_use(&POOL, PERIOD, MILLION / 100);
            assert!(DEEPEST.get() <= 2, "{} drops deep", DEEPEST.get());
            assert!(POOL.stats().aged as usize > MILLION / 2, "{:?}", POOL.stats());
            assert_nothing_is_lost(&POOL);
        });
    });
}

/// As [`use_pool`], but sometimes the drop also puts so many new objects that the thread has no
/// room for them.
fn beget(pool: &'static SyncPool<Nosy>) {
    if random().is_multiple_of(128) {
        let deed = pool.get().deed;
        (0..40).for_each(|_| pool.put(Nosy::new(deed)));
    }
    use_pool(pool);
}

#[test]
fn a_million_objects_without_room_that_use_the_pool_in_drop_do_not_overflow_the_stack() {
    static POOL: SyncPool<Nosy> =
        SyncPool::with_config(|| Nosy::new(|| beget(&POOL)), PoolConfig::new().max_idle(1000).age_by_hand());
    alone(|| {
        on_two_mebibytes(|| {
            (0..MILLION).for_each(|_| operation(|| POOL.put(Nosy::new(|| beget(&POOL)))));
            assert!(DEEPEST.get() <= 2, "{} drops deep", DEEPEST.get());
            assert!(POOL.stats().shed as usize > MILLION / 10, "{:?}", POOL.stats());
            shrink_by_use(&POOL, Duration::ZERO, 1000 + 60);
            assert_nothing_is_lost(&POOL);
        });
    });
}

/// Objects whose drops age and clear the pool that drops them are dropped by `end` and the
/// operations that follow it.
fn age_and_clear_in_drop(pool: &'static SyncPool<Nosy>, end: impl Fn()) {
    const OBJECTS: usize = 3000;
    let deed = pool.get().deed;
    for _ in 0..2 {
        (0..OBJECTS).for_each(|_| pool.put(Nosy::new(deed)));
        end();
        assert!(DEEPEST.get() <= 2, "{} drops deep", DEEPEST.get());
        assert_nothing_is_lost(pool);
        // What nested calls left to later operations is dropped by later operations.
        shrink_by_use(pool, Duration::ZERO, 200);
        assert_nothing_is_lost(pool);
        pool.clear();
        assert_nothing_is_lost(pool);
        assert_eq!(pool.stats().idle, 0);
    }
    assert!(DROPS.get() >= 2 * OBJECTS);
}

fn age_or_clear(pool: &SyncPool<Nosy>) {
    match random() % 3 {
        0 => pool.clear(),
        _ => pool.age(),
    }
}

#[test]
fn objects_whose_drops_age_and_clear_the_pool_are_all_dropped_by_age() {
    static POOL: SyncPool<Nosy> =
        SyncPool::with_config(|| Nosy::new(|| age_or_clear(&POOL)), PoolConfig::new().age_by_hand());
    alone(|| on_two_mebibytes(|| age_and_clear_in_drop(&POOL, || (0..3).for_each(|_| POOL.age()))));
}

#[test]
fn objects_whose_drops_age_and_clear_the_pool_are_all_dropped_by_clear() {
    static POOL: SyncPool<Nosy> =
        SyncPool::with_config(|| Nosy::new(|| age_or_clear(&POOL)), PoolConfig::new().age_by_hand());
    alone(|| on_two_mebibytes(|| age_and_clear_in_drop(&POOL, || POOL.clear())));
}

#[test]
fn objects_whose_drops_age_and_clear_the_pool_are_all_dropped_by_use() {
    const PERIOD: Duration = Duration::from_millis(20);
    static POOL: SyncPool<Nosy> =
        SyncPool::with_config(|| Nosy::new(|| age_or_clear(&POOL)), PoolConfig::new().period(PERIOD));
    alone(|| on_two_mebibytes(|| age_and_clear_in_drop(&POOL, || shrink_by_use(&POOL, PERIOD, 200))));
}

#[test]
fn objects_of_two_pools_whose_drops_use_the_other_pool_do_not_nest() {
    const PERIOD: Duration = Duration::from_millis(30);
    const CONFIG: PoolConfig<Nosy> = PoolConfig::new().period(PERIOD);
    static ONE: SyncPool<Nosy> = SyncPool::with_config(|| Nosy::new(|| use_pool(&OTHER)), CONFIG);
    static OTHER: SyncPool<Nosy> = SyncPool::with_config(|| Nosy::new(|| use_pool(&ONE)), CONFIG);
    alone(|| {
        on_two_mebibytes(|| {
            for _ in 0..20_000 {
                ONE.put(Nosy::new(|| use_pool(&OTHER)));
                OTHER.put(Nosy::new(|| use_pool(&ONE)));
            }
            shrink_by_use(&ONE, PERIOD, 500);
            shrink_by_use(&OTHER, PERIOD, 500);
            assert!(DEEPEST.get() <= 2, "{} drops deep", DEEPEST.get());
            let idle = ONE.stats().idle + OTHER.stats().idle;
            assert_eq!(MADE.get() - DROPS.get(), idle);
        })
    });
}

/// A lock of the caller's that each object's drop takes.
static REGISTRY: Mutex<()> = Mutex::new(());
/// Drops that found the lock taken: where the caller of the pool holds it, a real one would never
/// end.
static BLOCKED: AtomicUsize = AtomicUsize::new(0);
static DEREGISTERED: AtomicUsize = AtomicUsize::new(0);

struct Registered;

impl Drop for Registered {
    fn drop(&mut self) {
        DEREGISTERED.fetch_add(1, Relaxed);
        BLOCKED.fetch_add(usize::from(REGISTRY.try_lock().is_err()), Relaxed);
    }
}

#[test]
fn with_no_drops_in_use_a_caller_may_hold_a_lock_that_the_drop_of_objects_takes() {
    const PERIOD: Duration = Duration::from_millis(5);
    static POOL: SyncPool<Registered> = SyncPool::with_config(
        || Registered,
        PoolConfig::new().period(PERIOD).max_idle(300).no_drops_in_use(),
    );
    let use_under_lock = |objects: usize| {
        let registry = REGISTRY.lock().unwrap();
        let guards: Vec<_> = (0..objects / 2).map(|_| POOL.get()).collect();
        let out: Vec<_> = (0..objects / 2).map(|_| POOL.take()).collect();
        drop(guards);
        out.into_iter().for_each(|object| POOL.put(object));
        drop(registry);
    };
    use_under_lock(1000);
    for _ in 0..6 {
        thread::sleep(2 * PERIOD);
        use_under_lock(200);
    }
    assert_eq!((DEREGISTERED.load(Relaxed), BLOCKED.load(Relaxed)), (0, 0), "nothing but age drops");
    let before = POOL.stats();
    assert_eq!((before.aged, before.shed), (0, 0));
    assert_each_has_one_fate(&before);

    POOL.age();
    let after = POOL.stats();
    assert!(after.aged > 0 && after.idle <= 300 + 60, "what found no room has expired: {after:?}");
    assert_eq!(DEREGISTERED.load(Relaxed) as u64, after.aged);
    assert_each_has_one_fate(&after);

    // An ager drops the others.
    use_under_lock(1000);
    let config = AgerConfig { period: PERIOD, memory_pressure: None, ..AgerConfig::default() };
    let _ager = Ager::spawn(config).watch(&POOL);
    let began = Instant::now();
    // Objects are no longer idle a moment before they are dropped.
    while POOL.stats().idle > 0 || (DEREGISTERED.load(Relaxed) as u64) < POOL.stats().made {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", POOL.stats());
        thread::sleep(PERIOD);
    }
    assert_eq!(BLOCKED.load(Relaxed), 0);
    assert_eq!(DEREGISTERED.load(Relaxed) as u64, POOL.stats().made, "each once");
}
