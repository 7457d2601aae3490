//! Conservation: over many operations on a few threads, no block has two owners, none is lost, and each comes as the pool
//! promised. `CENOTE_STRESS_OPS` says how many operations; `benches/sanitizers.sh` runs this under AddressSanitizer and
//! valgrind.

use std::alloc::Layout;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use cenote::block_pool::{Block, BlockPool, Zeroing};

const THREADS: u64 = 4;

fn operations() -> u64 {
    std::env::var("CENOTE_STRESS_OPS").ok().and_then(|text| text.parse().ok()).unwrap_or(400_000)
}

/// A block with a number that nobody else has, at its beginning and its end.
struct Owned {
    block: Block,
    number: u64,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Owned {
    fn new(mut block: Block, expects_zeros: bool) -> Self {
        let (size, number) = (block.layout().size(), NUMBERS.fetch_add(1, Ordering::Relaxed));
        let memory = block.as_uninit().as_mut_ptr().cast::<u8>();
        // SAFETY: the block is ours; a pool that zeroes has written all of it.
        unsafe {
            if expects_zeros {
                assert!((0..size).all(|at| *memory.add(at) == 0), "bytes of another owner");
            }
            memory.write_bytes(0xee, size);
            memory.cast::<u64>().write_unaligned(number);
            memory.add(size - 8).cast::<u64>().write_unaligned(!number);
        }
        Owned { block, number }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let (size, memory) = (self.block.layout().size(), self.block.as_ptr().as_ptr());
        // SAFETY: the block is ours, and `new` has written all of it.
        unsafe {
            assert_eq!(memory.cast::<u64>().read_unaligned(), self.number, "two owners");
            assert_eq!(memory.add(size - 8).cast::<u64>().read_unaligned(), !self.number, "two owners");
        }
    }
}

/// Xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn stress(pool: &BlockPool, zeroing: Zeroing, seed: u64) {
    let mail: [Mutex<Vec<Owned>>; THREADS as usize] = std::array::from_fn(|_| Mutex::new(Vec::new()));
    let refused = AtomicUsize::new(0);
    // Two lives of each thread: the second takes over what the first left.
    for life in 0..2 {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (mail, refused) = (&mail, &refused);
                scope.spawn(move || {
                    let mut chance = Chance(seed << 16 | life << 8 | (number + 1));
                    let mut held: Vec<Owned> = Vec::new();
                    for _ in 0..operations() / THREADS / 2 {
                        match chance.below(100) {
                            0..=44 if held.len() < 300 => match pool.alloc() {
                                Ok(block) => held.push(Owned::new(block, zeroing != Zeroing::Never)),
                                Err(error) => {
                                    assert_eq!(error.unreachable(), 0, "{error}");
                                    refused.fetch_add(1, Ordering::Relaxed);
                                    held.clear();
                                }
                            },
                            0..=79 if !held.is_empty() => {
                                let at = chance.below(held.len() as u64) as usize;
                                drop(held.swap_remove(at));
                            }
                            80..=89 => {
                                let to = &mail[chance.below(THREADS) as usize];
                                let count = chance.below(8) as usize;
                                to.lock().unwrap().extend(held.drain(..count.min(held.len())));
                            }
                            90..=97 => drop(std::mem::take(&mut *mail[number as usize].lock().unwrap())),
                            98 => held.truncate(held.len() / 4),
                            _ if chance.below(100) == 0 => drop(pool.shrink()),
                            _ => {}
                        }
                    }
                });
            }
        });
    }
    drop(mail);
    let stats = pool.stats();
    assert_eq!(stats.in_use, 0, "{stats:?}");
    assert_eq!(stats.blocks, stats.free_in_threads + stats.free_in_depot + stats.free_in_chunks);
    pool.shrink();
    assert_eq!(pool.stats().chunks, 0, "{:?}", pool.stats());
}

fn builder(size: usize, align: usize) -> cenote::block_pool::BlockPoolBuilder {
    BlockPool::builder(Layout::from_size_align(size, align).unwrap()).blocks_per_chunk(50)
}

#[test]
fn no_block_has_two_owners_or_is_lost_without_a_cap() {
    stress(&builder(64, 8).checked(false).build().unwrap(), Zeroing::Never, 1);
}

#[test]
fn no_block_has_two_owners_or_is_lost_at_a_cap() {
    stress(&builder(40, 8).max_chunks(4).checked(false).build().unwrap(), Zeroing::Never, 2);
}

#[test]
fn no_block_has_two_owners_or_is_lost_in_checked_mode_that_wipes() {
    for (seed, zeroing) in [(3, Zeroing::OnFree), (4, Zeroing::OnAlloc)] {
        let builder = builder(100, 4).max_chunks(10).zeroing(zeroing).checked(true);
        stress(&builder.volatile_zeroing(seed == 3).build().unwrap(), zeroing, seed);
    }
}

#[test]
fn pools_that_end_under_frees_lose_nothing() {
    for round in 0..operations() / 2_000 {
        let pool = builder(64, 8).checked(round % 2 == 0).build().unwrap();
        let mut threads = Vec::new();
        for number in 0..3 {
            let blocks: Vec<Owned> =
                (0..(round * 7 + number) % 130).map(|_| Owned::new(pool.alloc().unwrap(), false)).collect();
            let own = (number == 1).then(|| pool.clone());
            threads.push(thread::spawn(move || {
                if let Some(pool) = &own {
                    drop(Owned::new(pool.alloc().unwrap(), false));
                }
                drop((own, blocks));
            }));
        }
        drop(pool);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
