//! What pools keep allocated. Each test runs in a process of its own, whose live bytes are counted.

use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;

use cenote::{Pooled, SyncPool};

use crate::alone::alone;
use crate::counting::live;
use crate::parked::beside_parked;

#[test]
fn a_pool_that_one_thread_has_used_costs_a_kibibyte_while_300_other_threads_live() {
    static OTHER: SyncPool<usize> = SyncPool::new(|| 0);
    const POOLS: usize = 100;
    alone(|| {
        beside_parked(
            300,
            |_| OTHER.put(1),
            || {
                OTHER.put(1);
                let mut pools: Vec<SyncPool<usize>> = Vec::with_capacity(POOLS);
                let before = live();
                for _ in 0..POOLS {
                    pools.push(SyncPool::default());
                    pools.last().unwrap().put(1);
                }
                let each = (live() - before) / POOLS as isize;
                println!("{each} bytes for each pool");
                assert!(each <= 1024, "{each} bytes");
            },
        );
    });
}

const KIBIBYTES: usize = 16;
type Large = [[u8; 1024]; KIBIBYTES];

fn large_pool() -> SyncPool<Large> {
    SyncPool::new(|| [[0; 1024]; KIBIBYTES])
}

#[test]
fn three_ages_give_back_the_memory_of_200_large_objects_by_value() {
    alone(|| {
        let pool = large_pool();
        let before = live();
        let out: Vec<_> = (0..200).map(|_| pool.take()).collect();
        out.into_iter().for_each(|object| pool.put(object));
        assert!(live() - before >= (200 * KIBIBYTES as isize) << 10);
        (0..3).for_each(|_| pool.age());
        let left = live() - before;
        println!("{left} bytes");
        assert!(left <= 4096, "{left} bytes are allocated, {:?}", pool.stats());
    });
}

/// Takes objects out of a pool in a way that leaves their nodes there, and then has `empty` called.
fn nodes_are_freed(out: impl Fn(&SyncPool<Large>) -> Large, empty: impl Fn(&SyncPool<Large>)) {
    for objects in [10, 40, 300] {
        let pool = large_pool();
        let before = live();
        (0..objects).for_each(|_| pool.put([[0; 1024]; KIBIBYTES]));
        for _ in 0..objects {
            let _ = out(&pool);
        }
        assert_eq!(pool.stats().idle, 0);
        let kept = live() - before;
        assert!(kept >= (10 * KIBIBYTES as isize) << 10, "nodes are kept for later: {kept} bytes");
        empty(&pool);
        let left = live() - before;
        assert!(left <= 4096, "{left} bytes after {objects} objects that went out by value");
    }
}

#[test]
fn age_and_clear_free_the_nodes_of_objects_that_were_taken_by_value() {
    alone(|| {
        let ways: [fn(&SyncPool<Large>) -> Large; 3] =
            [SyncPool::take, |pool| pool.try_take().unwrap(), |pool| Pooled::detach(pool.get())];
        for out in ways {
            nodes_are_freed(out, SyncPool::age);
            nodes_are_freed(out, SyncPool::clear);
            nodes_are_freed(out, |pool| drop(pool.drain()));
        }
    });
}

#[test]
fn nodes_that_parked_threads_have_emptied_are_freed_by_age_and_clear() {
    alone(|| {
        for empty in [SyncPool::age, SyncPool::clear] {
            let pool = large_pool();
            let before = live();
            let use_pool = |_| {
                (0..20).for_each(|_| pool.put([[0; 1024]; KIBIBYTES]));
                for _ in 0..20 {
                    let _ = pool.take();
                }
            };
            beside_parked(4, use_pool, || {
                assert!(live() - before > (4 * 10 * KIBIBYTES as isize) << 10);
                empty(&pool);
                let left = live() - before;
                // The count includes the threads themselves.
                assert!(left <= 16 << 10, "{left} bytes");
            });
        }
    });
}

#[test]
fn a_thousand_pools_that_are_dropped_leave_nothing() {
    let use_and_drop = |objects: usize| {
        let pool: SyncPool<Box<u64>> = SyncPool::new(|| Box::new(0));
        let guards: Vec<_> = (0..objects).map(|_| pool.get()).collect();
        drop(guards);
        let out: Vec<_> = (0..objects / 2).map(|_| pool.take()).collect();
        drop(out);
    };
    alone(|| {
        let pools = |count: usize| (0..count).for_each(|at| use_and_drop([1, 20, 200][at % 3]));
        pools(100);
        let before = live();
        pools(1000);
        let grown = live() - before;
        println!("{grown} bytes");
        assert!(grown <= 4096, "{grown} bytes more");
    });
}

/// A server may have a pool for each request, and drop it on the thread where the request ends.
#[test]
fn pools_that_are_made_on_some_threads_and_dropped_on_others_leave_nothing() {
    const MAKERS: usize = 4;
    alone(|| {
        let turn = Barrier::new(MAKERS + 2);
        let (ended, ends) = mpsc::channel::<(Arc<SyncPool<Vec<u8>>>, bool)>();
        let grown = thread::scope(|scope| {
            for number in 0..MAKERS {
                let (ended, turn) = (ended.clone(), &turn);
                scope.spawn(move || {
                    for pools in [200, 1000] {
                        for at in 0..pools {
                            let pool: Arc<SyncPool<Vec<u8>>> = Arc::new(SyncPool::new(|| vec![0; 100]));
                            let guards: Vec<_> = (0..4 + at % 60).map(|_| pool.get_owned()).collect();
                            drop(guards);
                            ended.send((pool, number + at % 2 == 0)).unwrap();
                        }
                        turn.wait();
                        turn.wait();
                    }
                });
            }
            drop(ended);
            let turn = &turn;
            scope.spawn(move || {
                for pools in [200, 1000] {
                    for _ in 0..MAKERS * pools {
                        let (pool, is_used) = ends.recv().unwrap();
                        if is_used {
                            pool.put(Vec::new());
                        }
                        drop(pool);
                    }
                    turn.wait();
                    turn.wait();
                }
            });
            turn.wait();
            let before = live();
            turn.wait();
            turn.wait();
            let grown = live() - before;
            turn.wait();
            grown
        });
        println!("{grown} bytes");
        assert!(grown <= 64 << 10, "{grown} bytes more after 4,000 pools");
    });
}

#[test]
fn ten_thousand_pools_that_one_thread_has_used_leave_at_most_a_mebibyte() {
    alone(|| {
        let before = live();
        for _ in 0..2 {
            let pools: Vec<SyncPool<usize>> = (0..10_000).map(|_| SyncPool::default()).collect();
            // The thread uses the pools in turn, so it keeps an entry for each.
            for object in 0..4 {
                pools.iter().for_each(|pool| pool.put(object));
            }
            assert!(live() - before > 10_000 * 256);
        }
        let left = live() - before;
        println!("{left} bytes");
        assert!(left <= 1 << 20, "{left} bytes");
    });
}
