//! The hit path of a `SyncPool`, and of a `BlockPool`, in functions of their own for `hit_path.sh` to disassemble.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::hint::black_box;

use cenote::{BlockPool, SyncPool};

type Object = Box<[u8; 64]>;

static POOL: SyncPool<Object> = SyncPool::new(|| Box::new([0; 64]));

/// A get, and the drop of its guard.
// SAFETY (of the name): nothing else is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hit_path_get_and_drop(pool: &SyncPool<Object>) {
    drop(black_box(pool.get()));
}

/// A take and a put.
// SAFETY (of the name): nothing else is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hit_path_take_and_put(pool: &SyncPool<Object>) {
    pool.put(black_box(pool.take()));
}

/// A take that makes nothing, and a put.
// SAFETY (of the name): nothing else is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hit_path_try_take_and_put(pool: &SyncPool<Object>) {
    if let Some(object) = pool.try_take() {
        pool.put(black_box(object));
    }
}

/// A block that is allocated and freed.
// SAFETY (of the name): nothing else is called so.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hit_path_alloc_and_free(pool: &BlockPool) {
    if let Ok(block) = pool.alloc() {
        drop(black_box(block));
    }
}

fn main() {
    let blocks = BlockPool::builder(Layout::new::<[u8; 64]>()).checked(false).build().expect("a pool");
    for _ in 0..1000 {
        hit_path_get_and_drop(black_box(&POOL));
        hit_path_take_and_put(black_box(&POOL));
        hit_path_try_take_and_put(black_box(&POOL));
        hit_path_alloc_and_free(black_box(&blocks));
    }
    let stats = POOL.stats();
    assert_eq!((stats.made, stats.hits), (1, 2999));
    println!("{stats:?}");
}
