//! The background ager: idle pools give their memory back.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cenote::{Ager, AgerConfig, PoolConfig, SyncPool};

/// By hand alone, so that what is seen is the ager's work.
fn pool<T: Send + Default + 'static>() -> Arc<SyncPool<T>> {
    Arc::new(SyncPool::with_config(T::default as fn() -> T, PoolConfig::new().age_by_hand()))
}

fn every(period: Duration) -> AgerConfig {
    AgerConfig { period, memory_pressure: None, memory_share: None, ..AgerConfig::default() }
}

const OFTEN: Duration = Duration::from_millis(2);
const SELDOM: Duration = Duration::from_secs(3600);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_idle_pool_ends_up_empty_also_of_what_parked_threads_hold() {
    let pool = pool::<Vec<u8>>();
    let (release, parked) = mpsc::channel::<()>();
    let (tell, filled) = mpsc::channel();
    let parked = {
        let pool = Arc::clone(&pool);
        thread::spawn(move || {
            (0..40).for_each(|i| pool.put(vec![i]));
            tell.send(()).unwrap();
            let _ = parked.recv();
        })
    };
    (0..40).for_each(|i| pool.put(vec![i]));
    filled.recv().unwrap();
    assert_eq!(pool.stats().idle, 80);
    let _ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&pool));
    eventually("the pool is empty", || pool.stats().idle == 0);
    assert_eq!(pool.stats().aged, 80);
    drop(release);
    parked.join().unwrap();
}

#[test]
fn a_static_pool_may_be_watched() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::with_config(Vec::new, PoolConfig::new().age_by_hand());
    POOL.put(vec![1]);
    let _ager = Ager::spawn(every(OFTEN)).watch(&POOL);
    eventually("the pool is empty", || POOL.stats().idle == 0);
}

#[test]
fn a_pool_that_is_dropped_is_gone_at_once_and_the_others_are_still_aged() {
    let (first, second) = (pool::<Vec<u8>>(), pool::<Vec<u8>>());
    let ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&first));
    ager.add(Arc::downgrade(&second)).unwrap();
    let weak = Arc::downgrade(&first);
    drop(first);
    // The ager may be in the middle of it, but keeps it no longer than that.
    eventually("the first is gone", || weak.strong_count() == 0);
    second.put(vec![1]);
    eventually("the second is empty", || second.stats().idle == 0);
}

#[test]
fn without_its_handle_it_ages_no_more() {
    let pool = pool::<Vec<u8>>();
    drop(Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&pool)));
    pool.put(vec![1]);
    thread::sleep(10 * OFTEN);
    assert_eq!(pool.stats().idle, 1);
    assert_eq!(Arc::weak_count(&pool), 0, "it has let go of the pool");
}

#[test]
fn it_stops_at_once_however_long_its_period() {
    let start = Instant::now();
    drop(Ager::spawn(every(SELDOM)));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_object_that_panics_in_its_drop_does_not_end_the_aging() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    #[derive(Default)]
    struct Touchy(bool);
    impl Drop for Touchy {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            assert!(!self.0, "as it must");
        }
    }
    let pool = pool::<Touchy>();
    let _ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&pool));
    pool.put(Touchy(true));
    eventually("the touchy one is dropped", || DROPPED.load(Ordering::Relaxed) == 1);
    pool.put(Touchy(false));
    eventually("the next one, too", || DROPPED.load(Ordering::Relaxed) == 2);
}

#[test]
fn a_panic_whose_payload_panics_in_its_drop_does_not_end_the_aging() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            panic!("the payload, on purpose");
        }
    }
    #[derive(Default)]
    struct Nasty;
    impl Drop for Nasty {
        fn drop(&mut self) {
            std::panic::panic_any(Payload);
        }
    }
    let (nasty, other) = (pool::<Nasty>(), pool::<Vec<u8>>());
    let _ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&nasty)).watch(Arc::downgrade(&other));
    nasty.put(Nasty);
    eventually("the payload is dropped", || PANICS.load(Ordering::Relaxed) == 1);
    other.put(vec![1]);
    eventually("the other pool is empty", || other.stats().idle == 0);
}

#[test]
fn an_object_may_add_pools_to_the_ager_that_drops_it() {
    static ADDED: SyncPool<Vec<u8>> = SyncPool::with_config(Vec::new, PoolConfig::new().age_by_hand());
    #[derive(Default)]
    struct Adder(Option<Arc<Ager>>);
    impl Drop for Adder {
        fn drop(&mut self) {
            if let Some(ager) = &self.0 {
                ager.add(&ADDED).unwrap();
            }
        }
    }
    let (adders, dropped) = (pool::<Adder>(), pool::<Arc<SyncPool<Adder>>>());
    let ager = Arc::new(Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&adders)));
    ADDED.put(vec![1]);
    adders.put(Adder(Some(Arc::clone(&ager))));
    eventually("the added pool is empty", || ADDED.stats().idle == 0);

    // Now in the drop of a whole pool, by the ager's thread, which has the last reference.
    ager.add(Arc::downgrade(&dropped)).unwrap();
    let last = pool::<Adder>();
    last.put(Adder(Some(Arc::clone(&ager))));
    let gone = Arc::downgrade(&last);
    dropped.put(last);
    eventually("the pool is dropped", || gone.strong_count() == 0);
    ADDED.put(vec![1]);
    eventually("the pool that was added twice is empty", || ADDED.stats().idle == 0);
}

#[test]
fn a_pool_that_is_added_while_another_ages_is_aged_from_the_next_generation_on() {
    #[derive(Default)]
    struct Slow(Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>);
    impl Drop for Slow {
        fn drop(&mut self) {
            if let Some((began, go_on)) = &self.0 {
                began.send(()).unwrap();
                go_on.recv().unwrap();
            }
        }
    }
    let (slow, added) = (pool::<Slow>(), pool::<Vec<u8>>());
    let ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&slow));
    let ((began, is_slow), (go_on, wait)) = (mpsc::channel(), mpsc::channel());
    slow.put(Slow(Some((began, wait))));
    is_slow.recv().unwrap();
    // The ager's thread is in the drop of the object.
    ager.add(Arc::downgrade(&added)).unwrap();
    added.put(vec![1]);
    assert!(format!("{ager:?}").contains("watched_pools: 2"), "{ager:?}");
    go_on.send(()).unwrap();
    eventually("the added pool is empty", || added.stats().idle == 0);
}

#[test]
fn an_object_may_own_the_handle_of_the_ager_that_drops_it() {
    let pool = pool::<Mutex<Option<Ager>>>();
    let ager = Ager::spawn(every(OFTEN)).watch(Arc::downgrade(&pool));
    pool.put(Mutex::new(Some(ager)));
    eventually("the ager has dropped itself", || Arc::weak_count(&pool) == 0);
    assert_eq!(pool.stats().idle, 0);
}

#[test]
fn memory_pressure_ages_at_once() {
    let file = std::env::temp_dir().join(format!("cenote-ager-pressure-{}", std::process::id()));
    // Each look finds a second of stall more than the last.
    let mut total = 0u64;
    let mut press = || {
        total += 1_000_000;
        // Whole or not at all: the ager may read at any time.
        let new = file.with_extension("new");
        fs::write(&new, format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\nfull total=0\n"))
            .unwrap();
        fs::rename(&new, &file).unwrap();
    };
    press();
    let config =
        AgerConfig { memory_pressure: Some(0.1), pressure_file: Some(file.clone()), ..every(SELDOM) };
    let pool = pool::<Vec<u8>>();
    pool.put(vec![1]);
    let _ager = Ager::spawn(config).watch(Arc::downgrade(&pool));
    eventually("the pool is empty, an hour early", || {
        press();
        pool.stats().idle == 0
    });
    fs::remove_file(&file).unwrap();
}

/// A control group that the test writes, in a directory of its own.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cenote-ager-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory.max"), limit).unwrap();
        let group = Group(dir);
        group.uses(10);
        group.caches(0);
        group
    }

    fn uses(&self, mib: u64) {
        fs::write(self.0.join("memory.current"), format!("{}\n", mib << 20)).unwrap();
    }

    /// In place: the ager has the file open.
    fn caches(&self, mib: u64) {
        let text = format!("active_file 0\ninactive_file {}\n", mib << 20);
        fs::write(self.0.join("memory.stat"), text).unwrap();
    }

    fn config(&self) -> AgerConfig {
        AgerConfig { memory_share: Some(0.8), cgroup_dir: Some(self.0.clone()), ..every(SELDOM) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LOOKS: Duration = Duration::from_millis(350);

#[test]
fn usage_near_the_limit_of_the_control_group_empties_an_idle_pool_at_once() {
    let group = Group::new("limit", "67108864\n");
    let pool = pool::<Vec<u8>>();
    (0..100).for_each(|_| pool.put(vec![1]));
    let _ager = Ager::spawn(group.config()).watch(Arc::downgrade(&pool));
    for mib in [10, 45, 51] {
        group.uses(mib);
        thread::sleep(LOOKS);
        assert_eq!(pool.stats().idle, 100, "at {mib} MiB");
    }
    // Of files: the kernel drops that by itself.
    group.caches(40);
    group.uses(64);
    thread::sleep(LOOKS);
    assert_eq!(pool.stats().idle, 100, "with 40 MiB of page cache");
    group.caches(0);
    eventually("the pool is empty, an hour early", || pool.stats().idle == 0);
}

#[test]
fn without_a_limit_usage_is_ignored() {
    let group = Group::new("max", "max\n");
    let pool = pool::<Vec<u8>>();
    pool.put(vec![1]);
    group.uses(1 << 30);
    let _ager = Ager::spawn(group.config()).watch(Arc::downgrade(&pool));
    thread::sleep(LOOKS);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn a_program_that_is_always_near_the_limit_ages_its_pools_once_a_second_at_most() {
    let group = Group::new("always", "67108864\n");
    group.uses(60);
    let pool = pool::<Vec<u8>>();
    let _ager = Ager::spawn(group.config()).watch(Arc::downgrade(&pool));
    // Two generations that drop nothing.
    thread::sleep(LOOKS);
    let began = Instant::now();
    pool.put(vec![1]);
    thread::sleep(LOOKS);
    let idle = pool.stats().idle;
    // It takes two generations. A machine that is very busy proves nothing.
    assert!(idle == 1 || began.elapsed() > Duration::from_secs(1));
    eventually("what stays idle is dropped all the same", || pool.stats().idle == 0);
}
