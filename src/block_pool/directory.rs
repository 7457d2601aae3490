//! Which chunk an address lies in, found in O(1) without a lock and without a look at the memory that the address leads to.
//!
//! A hash table with open addressing. The address space is divided into granules of a power of two of bytes, about as large as
//! the smallest chunk, or a page, and each chunk is entered under every granule that it touches: a chunk of the usual size under
//! one or two. A lookup goes from the entry that the granule hashes to until it finds a chunk around the address, or
//! a free entry.
//!
//! One thread at a time changes the table, under the lock of the [chunks](super::chunks); it stores an entry with Release, and a
//! lookup loads it with Acquire. A lookup is [pinned](reclaim::pin), and a chunk or a table that was removed is freed only when
//! no pin that may have seen it is left.

use std::ptr;

use super::chunk::Chunk;
use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::primitive::reclaim;

pub(super) struct Directory {
    table: AtomicPtr<Table>,
    /// Bytes of a granule, as a power of two.
    granule: u32,
}

struct Table {
    /// A power of two of them; at least half are free.
    entries: Box<[AtomicPtr<Chunk>]>,
}

/// Smaller chunks share granules: a chunk that has doubled often is not to be entered under a hundred thousand.
const LEAST_GRANULE: usize = 4096;

/// What the thread that changes the table knows of it.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Entries that are not free, those of removed chunks included.
    taken: usize,
    /// Entries of chunks.
    live: usize,
}

/// In an entry whose chunk was removed: a lookup goes on behind it.
fn removed() -> *mut Chunk {
    ptr::without_provenance_mut(1)
}

impl Table {
    fn new(entries: usize) -> *mut Table {
        let entries = (0..entries.next_power_of_two()).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Box::into_raw(Box::new(Table { entries }))
    }

    /// # Safety
    ///
    /// `new` made it, and nobody uses it again.
    unsafe fn free(table: *mut Table) {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(table) });
    }

    /// The entries in the order in which a lookup visits them.
    fn from(&self, granule: usize) -> impl Iterator<Item = &AtomicPtr<Chunk>> {
        let last = self.entries.len() - 1;
        // Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4): neighbors come to lie far apart.
        let hash = (granule as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (0..=last).map(move |step| &self.entries[(hash as usize + step) & last])
    }

    fn insert(&self, granule: usize, chunk: *mut Chunk) {
        let free = self.from(granule).find(|entry| entry.load(Ordering::Relaxed).is_null());
        // Release: the chunk itself.
        free.expect("half of the entries are free").store(chunk, Ordering::Release);
    }
}

impl Directory {
    /// For chunks of at least so many bytes.
    pub(super) fn new(chunk_size: usize) -> Self {
        let granule = chunk_size.max(LEAST_GRANULE).next_power_of_two();
        Directory { table: AtomicPtr::new(Table::new(8)), granule: granule.ilog2() }
    }

    fn granules(&self, chunk: &Chunk) -> std::ops::RangeInclusive<usize> {
        let first = chunk.base().addr().get();
        (first >> self.granule)..=((first + (chunk.layout().size() - 1)) >> self.granule)
    }

    /// Calls `work` with the chunk around an address.
    pub(super) fn with<R>(&self, address: usize, work: impl FnOnce(&Chunk) -> R) -> Option<R> {
        let _pin = reclaim::pin();
        self.find(address).map(|chunk| {
            // SAFETY: the chunk was in the table after we pinned, so it is not freed before we leave.
            work(unsafe { &*chunk })
        })
    }

    /// The chunk around an address. The caller must be pinned, or keep chunks from being removed.
    pub(super) fn find(&self, address: usize) -> Option<*mut Chunk> {
        // SAFETY: the caller's promise keeps the table. Acquire: what is in it.
        let table = unsafe { &*self.table.load(Ordering::Acquire) };
        table
            .from(address >> self.granule)
            .map(|entry| entry.load(Ordering::Acquire))
            .take_while(|chunk| !chunk.is_null())
            // SAFETY: the caller's promise keeps the chunk.
            .find(|chunk| *chunk != removed() && unsafe { &**chunk }.contains(address))
    }

    /// Enters a chunk. One thread at a time.
    pub(super) fn insert(&self, chunk: *mut Chunk, usage: &mut Usage) {
        // SAFETY: nobody removes it meanwhile.
        let granules = self.granules(unsafe { &*chunk });
        let more = granules.clone().count();
        self.make_room(more, usage);
        // SAFETY: one thread at a time, and so ours.
        let table = unsafe { &*self.table.load(Ordering::Relaxed) };
        for granule in granules {
            table.insert(granule, chunk);
        }
        usage.live += more;
        usage.taken += more;
    }

    fn make_room(&self, more: usize, usage: &mut Usage) {
        let old = self.table.load(Ordering::Relaxed);
        // SAFETY: as in `insert`.
        let table = unsafe { &*old };
        if (usage.taken + more) * 2 <= table.entries.len() {
            return;
        }
        let new = Table::new((usage.live + more) * 4);
        // SAFETY: `new` made it, and nobody has seen it.
        let next = unsafe { &*new };
        let mut chunks: Vec<*mut Chunk> =
            table.entries.iter().map(|entry| entry.load(Ordering::Relaxed)).collect();
        chunks.retain(|chunk| !chunk.is_null() && *chunk != removed());
        chunks.sort_unstable();
        chunks.dedup();
        for chunk in chunks {
            // SAFETY: it is in the table, and nobody removes it meanwhile.
            for granule in self.granules(unsafe { &*chunk }) {
                next.insert(granule, chunk);
            }
        }
        usage.taken = usage.live;
        // Release: what is in it.
        self.table.store(new, Ordering::Release);
        // SAFETY: threads that pin from now on find the new one.
        unsafe { reclaim::pin().free_later(old, |old| Table::free(old)) };
    }

    /// Removes a chunk, and frees what is known of it. One thread at a time.
    ///
    /// # Safety
    ///
    /// The chunk was inserted, and the caller does not use it again.
    pub(super) unsafe fn remove(&self, chunk: *mut Chunk, usage: &mut Usage) {
        // SAFETY: as in `insert`.
        let (table, granules) = unsafe { (&*self.table.load(Ordering::Relaxed), self.granules(&*chunk)) };
        for granule in granules {
            let entry = table.from(granule).find(|entry| entry.load(Ordering::Relaxed) == chunk);
            entry.expect("the chunk was inserted").store(removed(), Ordering::Relaxed);
            usage.live -= 1;
        }
        // SAFETY: threads that pin from now on do not find it.
        unsafe { reclaim::pin().free_later(chunk, |chunk| drop(Box::from_raw(chunk))) };
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else looks.
        unsafe { Table::free(self.table.load(Ordering::Relaxed)) }
    }
}
