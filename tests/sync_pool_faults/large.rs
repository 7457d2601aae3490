//! Large objects that lie in the pool themselves, not in a box, on a stack of 2 MiB, as the threads
//! of std and tokio have.

use std::thread;

use cenote::{Pooled, SyncPool};

use crate::alone::alone;

type Kibibytes<const N: usize> = [[u8; 1024]; N];
type Pool<const N: usize> = SyncPool<Kibibytes<N>>;

// Each operation has a frame of its own, so that the test adds as few copies as it can.

#[inline(never)]
fn get<const N: usize>(pool: &Pool<N>) {
    pool.get()[N - 1][7] += 1;
}

#[inline(never)]
fn try_get<const N: usize>(pool: &Pool<N>) {
    pool.try_get().unwrap()[N - 1][7] += 1;
}

#[inline(never)]
fn take_and_put<const N: usize>(pool: &Pool<N>) {
    let mut object = pool.take();
    object[N - 1][7] += 1;
    pool.put(object);
}

#[inline(never)]
fn detach_and_attach<const N: usize>(pool: &Pool<N>) {
    let mut object = Pooled::detach(pool.get());
    object[N - 1][7] += 1;
    drop(pool.attach(object));
}

#[inline(never)]
fn drain<const N: usize>(pool: &Pool<N>) {
    for object in pool.drain() {
        assert_eq!(object[N - 1][7], 3);
    }
}

#[inline(never)]
fn prefill<const N: usize>(pool: &Pool<N>) {
    pool.prefill(40);
}

fn on_two_mebibytes<const N: usize>(use_pool: fn(&Pool<N>)) {
    thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let pool: Pool<N> = SyncPool::new(|| [[0; 1024]; N]);
            use_pool(&pool);
            pool.age();
            pool.age();
            assert_eq!(pool.stats().idle, 0);
        })
        .unwrap()
        .join()
        .unwrap();
}

fn under_guards<const N: usize>(pool: &Pool<N>) {
    get(pool);
    get(pool);
    try_get(pool);
    assert_eq!((pool.stats().made, pool.stats().idle), (1, 1));
    assert_eq!(pool.get()[N - 1][7], 3);
    prefill(pool);
}

fn by_value<const N: usize>(pool: &Pool<N>) {
    get(pool);
    take_and_put(pool);
    detach_and_attach(pool);
    assert_eq!((pool.stats().made, pool.stats().idle), (1, 1));
    drain(pool);
}

#[test]
fn objects_of_64_kib_are_pooled_on_a_stack_of_2_mib() {
    alone(|| {
        on_two_mebibytes::<64>(under_guards);
        on_two_mebibytes::<64>(by_value);
    });
}

/// This holds for guards. A `take` and the `put` after it in one function need room for 12 objects
/// without optimization, which is more than 2 MiB, and for two with it.
#[test]
fn objects_of_256_kib_are_pooled_on_a_stack_of_2_mib() {
    alone(|| {
        on_two_mebibytes::<256>(under_guards);
        if !cfg!(debug_assertions) {
            on_two_mebibytes::<256>(by_value);
        }
    });
}
