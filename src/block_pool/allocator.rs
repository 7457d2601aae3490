//! A pool as an allocator for collections.
//!
//! `std`'s trait is unstable, and two versions of its stand-in are in use, so this is written once, by the methods of
//! [`Route`], and each trait calls these.
//!
//! A request goes to the pool if it fits a block, and otherwise to the global allocator. A deallocation may carry any
//! size from the one that was asked for to the one that was returned, and the same alignment. So that it goes the same way, the
//! way depends on size and alignment alone; a block is returned with all of its size; and memory of the global allocator with
//! no more than was asked for.

use std::alloc::{self, Layout};
use std::ptr::{self, NonNull};

use super::BlockPool;

/// There is no memory.
struct NoMemory;

/// Where memory comes from, and goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Nothing is allocated for no bytes.
    Nowhere,
    Pool,
    Global,
}

impl Route {
    fn of(request: Layout, block: Layout) -> Self {
        if request.size() == 0 {
            Route::Nowhere
        } else if request.size() <= block.size() && request.align() <= block.align() {
            Route::Pool
        } else {
            Route::Global
        }
    }
}

#[cfg_attr(not(any(feature = "allocator-api2", feature = "allocator-api2-04", test)), expect(dead_code))]
impl BlockPool {
    fn allocate_by_route(&self, request: Layout, zeroed: bool) -> Result<NonNull<[u8]>, NoMemory> {
        let (memory, size) = match Route::of(request, self.layout()) {
            Route::Nowhere => {
                let address = ptr::without_provenance_mut(request.align());
                (NonNull::new(address).ok_or(NoMemory)?, 0)
            }
            Route::Pool => {
                let (memory, size) = (self.alloc_raw().map_err(|_| NoMemory)?, self.layout().size());
                if zeroed && !self.inner().zeroes() {
                    // SAFETY: the block is ours.
                    unsafe { memory.write_bytes(0, size) };
                }
                (memory, size)
            }
            Route::Global => {
                // SAFETY: the request is larger than a block, or is not empty.
                let memory =
                    unsafe { if zeroed { alloc::alloc_zeroed(request) } else { alloc::alloc(request) } };
                (NonNull::new(memory).ok_or(NoMemory)?, request.size())
            }
        };
        Ok(NonNull::slice_from_raw_parts(memory, size))
    }

    /// # Safety
    ///
    /// The memory was allocated by `allocate_by_route`, is the caller's, and the layout fits it.
    unsafe fn deallocate_by_route(&self, memory: NonNull<u8>, layout: Layout) {
        match Route::of(layout, self.layout()) {
            Route::Nowhere => {}
            // SAFETY: it went this way, and so is a block. What checked mode may say of it is that a caller broke its promise.
            Route::Pool => drop(unsafe { self.from_raw(memory) }),
            // SAFETY: it went this way, by a layout of this size.
            Route::Global => unsafe { alloc::dealloc(memory.as_ptr(), layout) },
        }
    }

    /// The same memory, or other memory with what was in it, for another layout. On failure everything is as it was.
    ///
    /// # Safety
    ///
    /// As `deallocate_by_route`.
    unsafe fn reallocate_by_route(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
        zeroed: bool,
    ) -> Result<NonNull<[u8]>, NoMemory> {
        let routes = (Route::of(old, self.layout()), Route::of(new, self.layout()));
        let block = self.layout().size();
        // SAFETY (of all that follows): the caller's promise; what is beyond the old size is free.
        match routes {
            (Route::Pool, Route::Pool) => {
                if zeroed {
                    // SAFETY: see above.
                    unsafe { memory.add(old.size()).write_bytes(0, block - old.size()) };
                }
                Ok(NonNull::slice_from_raw_parts(memory, block))
            }
            (Route::Global, Route::Global) if old.align() == new.align() => {
                // SAFETY: see above; the new size is not 0.
                let moved = unsafe { alloc::realloc(memory.as_ptr(), old, new.size()) };
                let moved = NonNull::new(moved).ok_or(NoMemory)?;
                if zeroed && new.size() > old.size() {
                    // SAFETY: see above.
                    unsafe { moved.add(old.size()).write_bytes(0, new.size() - old.size()) };
                }
                Ok(NonNull::slice_from_raw_parts(moved, new.size()))
            }
            _ => {
                let moved = self.allocate_by_route(new, zeroed)?;
                // SAFETY: see above; the two do not overlap.
                unsafe {
                    moved.cast::<u8>().copy_from_nonoverlapping(memory, old.size().min(new.size()));
                    self.deallocate_by_route(memory, old);
                }
                Ok(moved)
            }
        }
    }
}

macro_rules! implement_allocator {
    ($api:ident, $feature:literal) => {
        /// Memory for collections: a block for a request that fits one, the global allocator for a larger one.
        ///
        /// A request that fits a block fails if the pool is [exhausted](super::Exhausted).
        #[cfg(feature = $feature)]
        #[cfg_attr(docsrs, doc(cfg(feature = $feature)))]
        // SAFETY: memory stays valid until it is deallocated, since blocks keep the pool; clones lead to the same pool.
        unsafe impl $api::alloc::Allocator for BlockPool {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, $api::alloc::AllocError> {
                self.allocate_by_route(layout, false).map_err(|NoMemory| $api::alloc::AllocError)
            }

            #[inline]
            fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, $api::alloc::AllocError> {
                self.allocate_by_route(layout, true).map_err(|NoMemory| $api::alloc::AllocError)
            }

            #[inline]
            unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
                // SAFETY: the caller's promise.
                unsafe { self.deallocate_by_route(memory, layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                memory: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $api::alloc::AllocError> {
                // SAFETY: the caller's promise.
                let grown = unsafe { self.reallocate_by_route(memory, old, new, false) };
                grown.map_err(|NoMemory| $api::alloc::AllocError)
            }

            #[inline]
            unsafe fn grow_zeroed(
                &self,
                memory: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $api::alloc::AllocError> {
                // SAFETY: the caller's promise.
                let grown = unsafe { self.reallocate_by_route(memory, old, new, true) };
                grown.map_err(|NoMemory| $api::alloc::AllocError)
            }

            #[inline]
            unsafe fn shrink(
                &self,
                memory: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $api::alloc::AllocError> {
                // SAFETY: the caller's promise.
                let shrunk = unsafe { self.reallocate_by_route(memory, old, new, false) };
                shrunk.map_err(|NoMemory| $api::alloc::AllocError)
            }
        }
    };
}

#[cfg(feature = "allocator-api2")]
use allocator_api2 as api2_02;
#[cfg(feature = "allocator-api2-04")]
use allocator_api2_04 as api2_04;

implement_allocator!(api2_02, "allocator-api2");
implement_allocator!(api2_04, "allocator-api2-04");

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn the_route_of_any_size_between_the_asked_and_the_returned_one_is_the_same() {
        let pool = BlockPool::new(layout(100, 16), 64).unwrap();
        for size in [0, 1, 50, 99, 100, 101, 112, 113, 5000] {
            for align in [1, 8, 16, 32, 4096] {
                let asked = layout(size, align);
                let Ok(memory) = pool.allocate_by_route(asked, true) else {
                    panic!("no memory for {asked:?}")
                };
                assert!(memory.len() >= size && memory.cast::<u8>().addr().get().is_multiple_of(align));
                // SAFETY: the memory is ours, and zeroed.
                assert!(unsafe { memory.as_ref() }.iter().all(|byte| *byte == 0));
                let route = Route::of(asked, pool.layout());
                for fitting in size..=memory.len() {
                    assert_eq!(Route::of(layout(fitting, align), pool.layout()), route);
                }
                assert_eq!(pool.owns(memory.cast::<u8>().as_ptr()), route == Route::Pool);
                // SAFETY: it is ours, and this size fits.
                unsafe { pool.deallocate_by_route(memory.cast(), layout(memory.len(), align)) };
            }
        }
        assert_eq!(pool.stats().in_use, 0);
    }

    #[test]
    fn memory_that_grows_or_shrinks_keeps_what_is_in_it_whichever_ways_it_goes() {
        let pool = BlockPool::new(layout(64, 16), 64).unwrap();
        let layouts = [(0, 1), (1, 1), (40, 8), (64, 16), (65, 16), (64, 64), (300, 8), (1000, 8)]
            .map(|(s, a)| layout(s, a));
        for old in layouts {
            for new in layouts {
                for zeroed in [false, true] {
                    if zeroed && new.size() < old.size() {
                        continue; // only growing takes zeros
                    }
                    let Ok(memory) = pool.allocate_by_route(old, false) else { panic!("no memory") };
                    let bytes = memory.cast::<u8>();
                    // SAFETY: all of it is ours, and is written before it is read.
                    unsafe {
                        bytes.write_bytes(0xee, memory.len());
                        bytes.write_bytes(7, old.size());
                        let Ok(moved) = pool.reallocate_by_route(bytes, old, new, zeroed) else {
                            panic!("no memory")
                        };
                        assert!(
                            moved.len() >= new.size()
                                && moved.cast::<u8>().addr().get().is_multiple_of(new.align())
                        );
                        let kept = old.size().min(new.size());
                        let moved_bytes = moved.cast::<u8>().as_ptr();
                        assert!((0..kept).all(|at| *moved_bytes.add(at) == 7), "{old:?} to {new:?}");
                        assert!(
                            !zeroed || (kept..moved.len()).all(|at| *moved_bytes.add(at) == 0),
                            "{old:?} to {new:?}"
                        );
                        pool.deallocate_by_route(moved.cast(), new);
                    }
                }
            }
        }
        assert_eq!(pool.stats().in_use, 0);
    }

    #[test]
    fn a_growth_that_fails_leaves_the_old_memory_as_it_was() {
        let pool = BlockPool::builder(layout(64, 8)).blocks_per_chunk(1).max_chunks(1).build().unwrap();
        let only = pool.alloc_raw().unwrap();
        let Ok(small) = pool.allocate_by_route(layout(65, 8), true) else { panic!("no memory") };
        // SAFETY: it is ours; there is no block for the smaller size.
        unsafe {
            assert!(pool.reallocate_by_route(small.cast(), layout(65, 8), layout(64, 8), false).is_err());
            assert!(small.as_ref().iter().all(|byte| *byte == 0));
            pool.deallocate_by_route(small.cast(), layout(65, 8));
            pool.free_raw(only).unwrap();
        }
    }
}
