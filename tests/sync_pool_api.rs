//! Every way into a [`SyncPool`] and out of it, beside `get`, `take` and `put`.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::thread;

use bytes::Bytes;
use cenote::{OwnedPooled, PoolConfig, Pooled, SyncPool};

type Bufs = SyncPool<Vec<u8>>;

#[test]
fn try_get_returns_what_is_there_and_never_calls_the_factory() {
    let pool: Bufs = SyncPool::new(|| unreachable!("nobody asks"));
    assert!(pool.try_get().is_none());
    pool.put(vec![1]);
    let mut guard = pool.try_get().unwrap();
    assert!(pool.try_get().is_none());
    guard.push(2);
    drop(guard);
    assert_eq!(*pool.try_get().unwrap(), [1, 2]);
    assert_eq!((pool.stats().made, pool.stats().hits), (0, 2));
}

#[test]
fn try_get_owned_keeps_the_pool_only_if_it_returns_an_object() {
    let pool: Arc<Bufs> = Arc::default();
    assert!(pool.try_get_owned().is_none());
    assert_eq!(Arc::strong_count(&pool), 1);
    pool.put(vec![1]);
    let guard = pool.try_get_owned().unwrap();
    assert_eq!((Arc::strong_count(&pool), &*guard), (2, &vec![1]));
    thread::spawn(|| drop(guard)).join().unwrap();
    assert_eq!((Arc::strong_count(&pool), pool.stats().idle), (1, 1));
}

#[test]
fn get_owned_or_else_makes_an_object_where_there_is_none() {
    let pool: Arc<Bufs> = Arc::default();
    let bytes = String::from("made").into_bytes();
    let guard = pool.get_owned_or_else(|| bytes);
    assert_eq!((&**guard, pool.stats().made), (b"made".as_slice(), 1));
    drop(guard);
    let again = pool.get_owned_or_else(|| unreachable!("one is idle"));
    assert_eq!((&**again, pool.stats().hits), (b"made".as_slice(), 1));
}

#[test]
fn an_attached_object_goes_to_the_pool_by_way_of_the_hook() {
    let pool = SyncPool::with_recycle(Vec::new, |buf: &mut Vec<u8>| {
        buf.clear();
        buf.capacity() <= 100
    });
    let mut guard = pool.attach(vec![1, 2]);
    guard.push(3);
    assert_eq!(*guard, [1, 2, 3]);
    drop(guard);
    assert!(pool.try_take().unwrap().is_empty(), "the hook has cleared it");
    drop(pool.attach(Vec::with_capacity(101)));
    let stats = pool.stats();
    assert_eq!((stats.made, stats.hits, stats.kept, stats.refused, stats.idle), (0, 1, 1, 1, 0));
    assert_eq!(Pooled::detach(pool.attach(vec![7])), [7]);
}

#[test]
fn an_attached_owned_object_holds_a_share_of_the_pool() {
    let pool: Arc<Bufs> = Arc::default();
    let guard = pool.attach_owned(vec![1]);
    assert!(Arc::ptr_eq(OwnedPooled::pool(&guard), &pool));
    assert_eq!(Arc::strong_count(&pool), 2);
    thread::spawn(|| drop(guard)).join().unwrap();
    assert_eq!((pool.try_take(), Arc::strong_count(&pool)), (Some(vec![1]), 1));
}

#[test]
fn a_constructor_that_fails_leaves_the_pool_as_it_was() {
    let pool: Bufs = SyncPool::default();
    let before = pool.stats();
    let error = pool.try_get_or_else(|| Err(io::Error::other("no"))).unwrap_err();
    assert_eq!(error.to_string(), "no");
    assert_eq!(pool.stats(), before);

    let guard = pool.try_get_or_else(|| Ok::<_, io::Error>(vec![1])).unwrap();
    assert_eq!((pool.stats().made, pool.stats().hits), (1, 0));
    drop(guard);
    let again = pool.try_get_or_else(|| Err("not called")).unwrap();
    assert_eq!((&*again, pool.stats().hits), (&vec![1], 1));

    let panic = catch_unwind(AssertUnwindSafe(|| pool.try_get_or_else::<()>(|| panic!("fails"))));
    assert!(panic.is_err());
    assert_eq!((pool.stats().made, pool.stats().hits), (1, 1));
}

#[test]
fn a_hook_may_capture_and_replaces_the_one_of_the_configuration() {
    let (limit, seen) = (String::from("64").parse::<usize>().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&seen);
    let config = PoolConfig::new().recycle(|_: &mut Vec<u8>| unreachable!("was replaced"));
    let pool = SyncPool::with_config(Vec::new, config).recycle_with(move |buf| {
        count.fetch_add(1, Relaxed);
        buf.clear();
        buf.capacity() <= limit
    });
    drop(pool.attach(vec![1; 64]));
    pool.put(vec![1; 65]);
    assert_eq!(pool.take(), Vec::<u8>::new());
    assert_eq!((seen.load(Relaxed), pool.stats().kept, pool.stats().refused), (2, 1, 1));
    drop(pool);
    assert_eq!(Arc::strong_count(&seen), 1, "the hook is dropped with its pool");
}

#[test]
fn a_static_pool_may_have_a_factory_and_a_hook_that_capture() {
    type Factory = Box<dyn Fn() -> Vec<u8> + Send + Sync>;
    static POOL: LazyLock<SyncPool<Vec<u8>, Factory>> = LazyLock::new(|| {
        let (size, most) = (thread::available_parallelism().map_or(1, |n| n.get()) * 1024, 1 << 20);
        let factory: Factory = Box::new(move || Vec::with_capacity(size));
        SyncPool::new(factory).recycle_with(move |buf: &mut Vec<u8>| buf.capacity() <= most)
    });
    assert!(POOL.get().capacity() >= 1024);
    thread::spawn(|| assert!(POOL.get().capacity() >= 1024)).join().unwrap();
    POOL.put(Vec::with_capacity(2 << 20));
    assert_eq!((POOL.stats().made, POOL.stats().refused), (1, 1));
}

#[test]
fn a_guard_is_borrowed_as_what_its_object_is_borrowed_as() {
    fn len(bytes: impl AsRef<[u8]>) -> usize {
        bytes.as_ref().len()
    }
    fn fill(mut bytes: impl AsMut<[u8]>) {
        bytes.as_mut().fill(7);
    }
    let pool = Arc::new(SyncPool::new(|| vec![0u8; 4]));
    assert_eq!((len(pool.get()), len(pool.get_owned())), (4, 4));
    fill(pool.get());
    assert_eq!(pool.take(), [7; 4]);
    fill(pool.attach_owned(vec![0; 2]));
    assert_eq!(pool.take(), [7; 2]);
}

#[test]
fn a_buffer_that_leaves_as_bytes_comes_back_when_the_last_bytes_are_dropped() {
    let pool = Arc::new(SyncPool::with_recycle(
        || Vec::with_capacity(100),
        |buf: &mut Vec<u8>| {
            buf.clear();
            true
        },
    ));
    for round in 0..10 {
        let mut buf = pool.get_owned();
        buf.extend_from_slice(b"hello, world");
        let address = buf.as_ptr();
        let bytes = Bytes::from_owner(buf);
        let world = bytes.slice(7..);
        assert_eq!((world.as_ref(), bytes.as_ptr()), (b"world".as_slice(), address));
        drop(bytes);
        assert_eq!(pool.stats().idle, 0, "a part of it is in use");
        thread::spawn(|| drop(world)).join().unwrap();
        assert_eq!((pool.stats().idle, pool.stats().made), (1, 1), "round {round}");
    }
}

#[test]
fn prefill_makes_objects_that_the_first_gets_find() {
    static HOOKED: AtomicUsize = AtomicUsize::new(0);
    let pool = SyncPool::with_recycle(
        || vec![1],
        |_: &mut Vec<u8>| {
            HOOKED.fetch_add(1, Relaxed);
            true
        },
    );
    pool.prefill(0);
    pool.prefill(100);
    assert_eq!((pool.stats().made, pool.stats().idle, HOOKED.load(Relaxed)), (100, 100, 0));
    let guards: Vec<_> = (0..100).map(|_| pool.get()).collect();
    assert_eq!((pool.stats().made, pool.stats().hits), (100, 100));
    drop(guards);
    assert_eq!(HOOKED.load(Relaxed), 100);
}

#[test]
fn extend_puts_each_object_and_runs_the_hook() {
    let pool = SyncPool::with_recycle(|| 0, |object| *object % 2 == 0);
    pool.extend(0..200);
    let stats = pool.stats();
    assert_eq!((stats.made, stats.kept, stats.refused, stats.idle), (0, 100, 100, 100));
    // What was put before the iterator panics stays.
    let panic = catch_unwind(AssertUnwindSafe(|| {
        pool.extend((0..4).map(|number| if number < 3 { number } else { panic!("no more") }));
    }));
    assert!(panic.is_err());
    assert_eq!(pool.stats().idle, 102);
}

/// Counts its drops.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn drain_takes_the_objects_of_every_thread_and_of_every_age() {
    let pool: SyncPool<usize> = SyncPool::default();
    thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let mut alarms = Vec::new();
        for thread in 0..4 {
            let ((alarm, rings), ready, pool) = (mpsc::channel::<()>(), ready.clone(), &pool);
            alarms.push(alarm);
            scope.spawn(move || {
                (0..100).for_each(|number| pool.put(100 * thread + number));
                ready.send(()).unwrap();
                let _ = rings.recv();
            });
        }
        (0..4).for_each(|_| is_ready.recv().unwrap());
        pool.age();
        (400..500).for_each(|number| pool.put(number));
        let out = pool.take();
        let mut drain = pool.drain();
        assert_eq!((drain.len(), drain.size_hint()), (499, (499, Some(499))));
        assert_eq!((pool.stats().idle, pool.stats().drained), (0, 499));
        let mut all: Vec<usize> = drain.by_ref().chain([out]).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..500));
        assert_eq!((drain.next(), drain.len()), (None, 0));
        assert!(pool.try_take().is_none());
    });
}

#[test]
fn what_a_drain_has_not_returned_is_dropped_with_it() {
    let drops = AtomicUsize::new(0);
    let pool = SyncPool::new(|| Counted(&drops));
    (0..100).for_each(|_| pool.put(Counted(&drops)));
    let mut drain = pool.drain();
    let first: Vec<_> = drain.by_ref().take(10).collect();
    assert_eq!((drain.len(), drops.load(Relaxed)), (90, 0));
    // An object that is put meanwhile does not belong to the drain.
    pool.put(Counted(&drops));
    assert!(format!("{drain:?}").contains("90"));
    drop(drain);
    assert_eq!((drops.load(Relaxed), pool.stats().idle, pool.stats().drained), (90, 1, 100));
    drop(first);
    assert_eq!(drops.load(Relaxed), 100);
    // One of them goes back.
    pool.drain().for_each(|object| pool.put(object));
    assert_eq!((drops.load(Relaxed), pool.stats().idle, pool.stats().drained), (100, 1, 101));
}

#[test]
fn a_drain_may_be_used_up_on_another_thread() {
    let pool: SyncPool<Vec<u8>> = SyncPool::default();
    pool.extend((0..100).map(|_| vec![1]));
    let drain = pool.drain();
    thread::scope(|scope| {
        scope.spawn(move || assert_eq!(drain.flatten().count(), 100));
    });
}

#[test]
fn a_guard_knows_its_pool() {
    fn another<'a>(guard: &Pooled<'a, Vec<u8>>) -> Pooled<'a, Vec<u8>> {
        Pooled::pool(guard).get()
    }
    let pool: Bufs = SyncPool::default();
    let first = pool.get();
    assert!(std::ptr::eq(Pooled::pool(&first), &pool));
    let second = another(&first);
    // It outlives the guard that it came from.
    drop(first);
    drop(second);
    assert_eq!(pool.stats().idle, 2);
}

#[test]
fn a_guard_is_two_words_whatever_the_object_is() {
    fn check<T: Send>() {
        assert_eq!(size_of::<Pooled<'_, T>>(), 2 * size_of::<usize>());
        assert_eq!(size_of::<OwnedPooled<T>>(), 2 * size_of::<usize>());
        assert_eq!(size_of::<Option<Pooled<'_, T>>>(), 2 * size_of::<usize>());
    }
    check::<()>();
    check::<u8>();
    check::<Vec<u8>>();
    check::<[u8; 4096]>();
    check::<[u64; 1 << 20]>();
    check::<Aligned>();
}

#[test]
fn an_object_has_one_address_as_long_as_its_guard_lives() {
    let pool = Arc::new(SyncPool::new(|| [0u8; 300]));
    let guard = pool.get();
    let address = guard.as_ptr();
    let boxed = Box::new(guard);
    let vec = vec![*boxed];
    thread::scope(|scope| {
        let guard = scope.spawn(|| vec.into_iter().next().unwrap()).join().unwrap();
        assert_eq!(guard.as_ptr(), address);
    });
    let owned = pool.get_owned();
    let address = owned.as_ptr();
    let owned = thread::spawn(|| owned).join().unwrap();
    assert_eq!(owned.as_ptr(), address);
}

#[test]
fn an_object_stays_in_its_place_while_it_is_idle() {
    let pool = SyncPool::new(|| [0u8; 300]);
    let guards: Vec<_> = (0..200).map(|_| pool.get()).collect();
    let mut before: Vec<usize> = guards.iter().map(|guard| guard.as_ptr().addr()).collect();
    drop(guards);
    pool.age();
    let guards: Vec<_> = (0..200).map(|_| pool.get()).collect();
    let mut after: Vec<usize> = guards.iter().map(|guard| guard.as_ptr().addr()).collect();
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(before, after);
    assert_eq!(pool.stats().made, 200);
}

#[test]
fn objects_may_borrow_from_what_outlives_the_pool() {
    let words = String::from("to be or not to be");
    let pool: SyncPool<Vec<&str>> = SyncPool::new(Vec::new);
    let mut guard = pool.get();
    guard.extend(words.split(' '));
    assert_eq!(guard.len(), 6);
    drop(guard);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(pool.get()[1], "be"));
    });
    let drops = AtomicUsize::new(0);
    let pool = SyncPool::new(|| Counted(&drops));
    drop((pool.get(), pool.get()));
    drop(pool);
    assert_eq!(drops.load(Relaxed), 2);
}

#[test]
fn objects_need_not_be_sync() {
    let pool = SyncPool::new(|| Cell::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cell = pool.get();
                cell.set(cell.get() + 1);
            });
        }
    });
    let drained: i32 = pool.drain().map(Cell::into_inner).sum();
    assert_eq!(drained, 4);
}

#[test]
fn objects_of_no_size_are_counted_and_dropped_as_others() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Relaxed);
        }
    }
    const { assert!(size_of::<Nothing>() == 0) };
    let pool = SyncPool::new(|| Nothing);
    let guards: Vec<_> = (0..500).map(|_| pool.get()).collect();
    drop(guards);
    (0..500).for_each(|_| pool.put(Nothing));
    drop(pool.attach(Pooled::detach(pool.get())));
    assert_eq!((pool.stats().idle, DROPS.load(Relaxed)), (1000, 0));
    assert_eq!(pool.drain().take(100).count(), 100);
    assert_eq!(DROPS.load(Relaxed), 1000);
    pool.put(Nothing);
    drop(pool);
    assert_eq!(DROPS.load(Relaxed), 1001);
}

#[repr(align(4096))]
struct Aligned(u8);

#[test]
fn objects_keep_their_alignment_by_every_way() {
    #[track_caller]
    fn check(object: &Aligned) -> u8 {
        assert!(std::ptr::from_ref(object).addr().is_multiple_of(4096));
        object.0
    }
    let pool = Arc::new(SyncPool::new(|| Aligned(1)));
    let guards: Vec<_> = (0..100).map(|_| pool.get()).collect();
    guards.iter().for_each(|guard| assert_eq!(check(guard), 1));
    drop(guards);
    check(&pool.get_owned());
    let mut out: Vec<_> = (0..100).map(|_| pool.take()).collect();
    out.iter_mut().for_each(|object| object.0 = 2);
    pool.extend(out);
    let found: Vec<_> = (0..100).map(|_| pool.try_get().unwrap()).collect();
    found.iter().for_each(|guard| assert_eq!(check(guard), 2));
    drop(found);
    assert_eq!(check(&pool.attach(Aligned(3))), 3);
    assert_eq!(pool.drain().count(), 101);
}
