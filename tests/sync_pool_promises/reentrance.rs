//! Callers' code that uses the very pool that runs it. A lock held across it would never be released, so each of
//! these runs under [`finishes`].

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cenote::SyncPool;

use crate::census::finishes;

#[test]
fn a_factory_may_use_its_pool() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::new(make);
    static DEPTH: AtomicUsize = AtomicUsize::new(0);

    fn make() -> Vec<u8> {
        if DEPTH.fetch_add(1, Relaxed) < 3 {
            let mut inner = POOL.get();
            inner.push(1);
        }
        POOL.age();
        assert!(POOL.stats().idle <= 3);
        POOL.try_take().unwrap_or_default()
    }

    finishes(|| {
        // Each factory but the innermost returns the object that its own get left behind.
        assert_eq!(POOL.take(), [1, 1, 1]);
        assert_eq!((POOL.stats().made, POOL.stats().idle), (4, 0));
    });
}

#[test]
fn a_closure_of_get_or_else_may_use_its_pool() {
    static POOL: SyncPool<String> = SyncPool::new(String::new);
    finishes(|| {
        let both = POOL.get_or_else(|| {
            POOL.put("spare".into());
            POOL.get().len().to_string()
        });
        assert_eq!(*both, "5");
        assert_eq!(POOL.stats().idle, 1);
    });
}

#[test]
fn a_hook_may_use_its_pool() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::with_recycle(Vec::new, absorb);

    /// Adds an idle object's bytes to the one that comes back.
    fn absorb(buf: &mut Vec<u8>) -> bool {
        if let Some(mut idle) = POOL.try_take() {
            buf.append(&mut idle);
        }
        POOL.age();
        POOL.stats().made < 100
    }

    finishes(|| {
        for i in 0..50 {
            POOL.put(vec![i]);
        }
        assert_eq!(POOL.stats().idle, 1);
        assert_eq!(POOL.take().len(), 50);
    });
}

#[test]
fn the_drop_of_an_object_may_use_its_pool() {
    static POOL: SyncPool<Phoenix> = SyncPool::with_recycle(|| Phoenix { lives: 0 }, |bird| bird.lives != 1);

    struct Phoenix {
        lives: u32,
    }
    impl Drop for Phoenix {
        fn drop(&mut self) {
            if self.lives > 0 {
                POOL.put(Phoenix { lives: self.lives - 1 });
                assert!(POOL.stats().idle > 0);
            }
        }
    }

    finishes(|| {
        for _ in 0..100 {
            POOL.put(Phoenix { lives: 4 });
        }
        POOL.age();
        assert_eq!(POOL.stats().idle, 100);
        POOL.age(); // drops them all; each leaves an heir
        assert_eq!((POOL.stats().aged, POOL.stats().idle), (100, 100));
        POOL.clear(); // and again
        assert_eq!((POOL.stats().cleared, POOL.stats().idle), (100, 100));
        // Two lives left: the heir of each is refused, and its drop puts the last one.
        POOL.clear();
        assert_eq!((POOL.stats().refused, POOL.stats().idle), (100, 100));
        POOL.clear();
        assert_eq!(POOL.stats().idle, 0);
    });
}
