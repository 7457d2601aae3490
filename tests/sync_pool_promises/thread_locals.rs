//! The pool in the last moments of a thread: its thread-local destructors.
//!
//! They run in the reverse order of registration on most platforms, so a value that is touched before the pool is
//! dropped after all that the pool knows of the thread is gone, and one that is touched later, before.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::census::{Census, Counted};

thread_local! {
    static FIRST: LastWords = const { LastWords(RefCell::new(None)) };
    static SECOND: LastWords = const { LastWords(RefCell::new(None)) };
}

/// Runs a closure in a thread-local destructor. A panic there ends the process, so nothing is asserted in it: the
/// test looks at what it left behind.
struct LastWords(RefCell<Option<Box<dyn FnOnce()>>>);

impl LastWords {
    fn are(&self, words: impl FnOnce() + 'static) {
        self.0.replace(Some(Box::new(words)));
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some(words) = self.0.take() {
            words();
        }
    }
}

thread_local! {
    /// Counts this thread's panics. Has no destructor, so it can be asked to the very end.
    static PANICS: Cell<Option<&'static AtomicUsize>> = const { Cell::new(None) };
}

/// Runs a thread to its end, destructors included.
///
/// No panic may happen in it, not even one that the pool catches: a program that aborts on panics would not get that
/// far, and others would read about it on stderr.
fn run(life: impl FnOnce() + Send + 'static) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(panics) = PANICS.get() {
                panics.fetch_add(1, Relaxed);
            }
            usual(info);
        }));
    });
    // For ever, since a destructor may ask after this function has returned by a panic.
    let panics: &'static AtomicUsize = Box::leak(Box::default());
    let thread = thread::spawn(move || {
        PANICS.set(Some(panics));
        life();
    });
    thread.join().unwrap();
    assert_eq!(panics.load(Relaxed), 0, "panics in a thread's last moments");
}

/// How many objects a thread puts, and takes of them, in its last words.
const PUT: usize = 70;
const TAKEN: usize = 50;

/// A pool with its census, in statics of the test's own.
macro_rules! watched_pool {
    () => {{
        static CENSUS: Census = Census::new();
        static POOL: SyncPool<Counted<'static>> = SyncPool::new(|| CENSUS.object());
        (&POOL, &CENSUS)
    }};
}

type Watched = (&'static SyncPool<Counted<'static>>, &'static Census);

/// Every entrance of the pool.
fn use_it((pool, census): Watched) {
    (0..PUT).for_each(|_| pool.put(census.object()));
    let out: Vec<_> = (0..TAKEN).map(|_| pool.take()).collect();
    drop(pool.get());
    pool.age();
    let shown = format!("{pool:?} {:?}", pool.stats());
    drop((out, shown));
}

/// What [`use_it`], `times` over, and nothing else, leaves behind.
fn nothing_is_lost_after((pool, census): Watched, times: usize) {
    let stats = pool.stats();
    assert_eq!(stats.kept, (times * (PUT + 1)) as u64, "{stats:?}");
    assert_eq!(census.made(), times * PUT + stats.made as usize);
    assert_eq!(stats.hits + stats.made, (times * (TAKEN + 1)) as u64, "{stats:?}");
    assert_eq!(stats.kept, stats.hits + stats.aged + stats.cleared + stats.idle as u64, "{stats:?}");
    assert_eq!(census.alive(), stats.idle);
    // And what is idle is within reach.
    let start = Instant::now();
    let mut found = 0;
    while found < stats.idle && start.elapsed() < Duration::from_secs(10) {
        found += usize::from(pool.try_take().is_some());
    }
    assert_eq!((found, pool.stats().idle), (stats.idle, 0));
    assert_eq!(census.alive(), 0);
}

#[test]
fn a_destructor_may_use_the_pool_when_its_value_is_older_than_the_pool() {
    let watched = watched_pool!();
    run(move || {
        FIRST.with(|first| first.are(move || use_it(watched)));
        use_it(watched);
    });
    nothing_is_lost_after(watched, 2);
}

#[test]
fn a_destructor_may_use_the_pool_when_its_value_is_younger_than_the_pool() {
    let watched = watched_pool!();
    run(move || {
        use_it(watched);
        FIRST.with(|first| first.are(move || use_it(watched)));
    });
    nothing_is_lost_after(watched, 2);
}

#[test]
fn a_destructor_may_be_a_threads_only_use_of_the_pool() {
    let watched = watched_pool!();
    run(move || FIRST.with(|first| first.are(move || use_it(watched))));
    nothing_is_lost_after(watched, 1);
}

#[test]
fn each_of_two_destructors_may_use_the_pool_whatever_their_age() {
    let watched = watched_pool!();
    run(move || {
        FIRST.with(|first| first.are(move || use_it(watched)));
        use_it(watched);
        SECOND.with(|second| second.are(move || use_it(watched)));
    });
    // Here both are older than the first use, which one of them makes.
    run(move || {
        FIRST.with(|first| first.are(move || use_it(watched)));
        SECOND.with(|second| second.are(move || use_it(watched)));
    });
    nothing_is_lost_after(watched, 5);
}

#[test]
fn a_late_destructor_may_be_the_first_to_use_another_pool() {
    let (watched, other) = (watched_pool!(), watched_pool!());
    run(move || {
        FIRST.with(|first| first.are(move || use_it(other)));
        use_it(watched);
    });
    nothing_is_lost_after(watched, 1);
    nothing_is_lost_after(other, 1);
}

#[test]
fn a_late_destructor_finds_the_objects_that_its_thread_put() {
    static POOL: SyncPool<usize> = SyncPool::new(|| usize::MAX);
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    run(|| {
        FIRST.with(|first| {
            first.are(|| {
                // Some lie in the thread's own shard, which it has lost: to find them is a search, which may take a moment.
                let start = Instant::now();
                while FOUND.load(Relaxed) < 5050 && start.elapsed() < Duration::from_secs(10) {
                    if let Some(object) = POOL.try_take() {
                        FOUND.fetch_add(object, Relaxed);
                    }
                }
            })
        });
        (1..=100).for_each(|i| POOL.put(i));
    });
    assert_eq!(FOUND.load(Relaxed), 5050);
}

#[test]
fn a_destructor_may_use_a_pool_that_knew_the_thread_by_an_inherited_shard() {
    let watched = watched_pool!();
    const TIMES: usize = 20;
    for _ in 0..TIMES {
        // Leaves a shard, with a number that the next thread may be given...
        run(move || use_it(watched));
        // ... which has it from elsewhere: the pool finds its shard there at once.
        run(move || {
            FIRST.with(|first| first.are(move || use_it(watched)));
            thread_local::ThreadLocal::new().get_or(|| ());
            use_it(watched);
        });
    }
    nothing_is_lost_after(watched, 3 * TIMES);
}
