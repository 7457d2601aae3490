//! Objects of many kinds: what `T: Send` lets in.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use cenote::SyncPool;

#[test]
fn objects_need_not_be_sync() {
    let pool = SyncPool::new(|| Cell::new(0u32));
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..1000 {
                    let cell = pool.get();
                    cell.set(cell.get() + 1);
                }
            });
        }
    });
    // No turn was lost: nobody had a cell at the same time as another.
    let turns: u32 = std::iter::from_fn(|| pool.try_take()).map(Cell::into_inner).sum();
    assert_eq!(turns, 4000);
}

#[test]
fn objects_may_borrow() {
    let text = String::from("to be or not to be");
    let pool: SyncPool<Vec<&str>> = SyncPool::default();
    thread::scope(|s| {
        s.spawn(|| pool.get().extend(text.split(' '))).join().unwrap();
    });
    assert_eq!(pool.take().concat(), "tobeornottobe");
}

#[test]
fn objects_of_no_size_are_counted_one_by_one() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    let pool = SyncPool::new(|| Nothing);
    (0..1000).for_each(|_| pool.put(Nothing));
    assert_eq!(pool.stats().idle, 1000);
    let out: Vec<_> = (0..300).map(|_| pool.take()).collect();
    assert_eq!((pool.stats().made, pool.stats().idle), (0, 700));
    pool.age();
    pool.age();
    assert_eq!(DROPPED.load(Relaxed), 700);
    drop(out);
    assert_eq!(DROPPED.load(Relaxed), 1000);
}

#[test]
fn objects_may_be_large() {
    const SIZE: usize = 32 * 1024;
    let pool = SyncPool::new(|| [0u8; SIZE]);
    for i in 0..100u8 {
        pool.put([i; SIZE]);
    }
    let mut seen = [false; 100];
    for _ in 0..100 {
        let object = pool.get_or_else(|| unreachable!("100 were put"));
        assert!(object.iter().all(|byte| *byte == object[0]), "mixed up");
        assert!(!std::mem::replace(&mut seen[usize::from(object[0])], true));
        cenote::Pooled::detach(object);
    }
}

#[test]
fn objects_may_be_over_aligned() {
    #[repr(align(1024))]
    struct Page(u64);

    let pool = SyncPool::new(|| Page(0));
    (1..=100).for_each(|i| pool.put(Page(i)));
    let guards: Vec<_> = (0..100).map(|_| pool.get()).collect();
    assert!(guards.iter().all(|page| (&raw const **page).addr() % 1024 == 0));
    assert_eq!(guards.iter().map(|page| page.0).sum::<u64>(), 5050);
}
