//! What a block costs: `BlockPool` beside `SyncPool`, which keeps objects, and the general allocators.
//!
//! Each row asks for a block, writes to its first byte, and frees it; rows differ in what happens in between. Contenders
//! take turns within a round, and each figure is the median of its rounds; `best` is the best general allocator of the same run,
//! and the targets are those that this crate has set itself. `cargo run --release -p cenote-benches --features
//! jemalloc,mimalloc --bin blocks`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;
use cenote::block_pool::{Block, BlockPool};
use cenote_benches::{median, throughput};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use mimalloc::MiMalloc;
use tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Args {
    /// Rounds of each row.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One short round, to see that it runs.
    #[arg(long)]
    quick: bool,
}

/// Something that blocks come from.
trait Contender: Sync {
    /// A block that is freed when it is dropped.
    type Held<'a>: Send
    where
        Self: 'a;

    fn alloc(&self) -> Self::Held<'_>;
}

struct Blocks(BlockPool);

impl Contender for Blocks {
    type Held<'a> = Block;

    #[inline(always)]
    fn alloc(&self) -> Block {
        let block = self.0.alloc().expect("there is memory");
        // SAFETY: the block is ours.
        unsafe { block.as_ptr().write(1) };
        block
    }
}

/// By a guard that borrows the pool.
struct Objects<const N: usize>(SyncPool<[u8; N]>);

impl<const N: usize> Contender for Objects<N> {
    type Held<'a> = cenote::Pooled<'a, [u8; N]>;

    #[inline(always)]
    fn alloc(&self) -> Self::Held<'_> {
        let mut object = self.0.get();
        object[0] = 1;
        object
    }
}

struct General<A, const N: usize>(A);

struct Memory<'a, A: GlobalAlloc, const N: usize>(*mut u8, &'a A);

// SAFETY: it owns its memory, and an allocator takes it back on any thread.
unsafe impl<A: GlobalAlloc, const N: usize> Send for Memory<'_, A, N> {}

impl<A: GlobalAlloc, const N: usize> Drop for Memory<'_, A, N> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it was allocated by this layout, and is ours.
        unsafe { self.1.dealloc(self.0, layout::<N>()) }
    }
}

const fn layout<const N: usize>() -> Layout {
    match Layout::from_size_align(N, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("a block is not that large"),
    }
}

impl<A: GlobalAlloc + Sync + 'static, const N: usize> Contender for General<A, N> {
    type Held<'a> = Memory<'a, A, N>;

    #[inline(always)]
    fn alloc(&self) -> Self::Held<'_> {
        // SAFETY: the layout has bytes.
        let memory = unsafe { self.0.alloc(layout::<N>()) };
        assert!(!memory.is_null());
        // SAFETY: the memory is ours.
        unsafe { memory.write(1) };
        Memory(memory, &self.0)
    }
}

/// What is asked of each contender.
#[derive(Clone, Copy)]
enum Question {
    /// On so many threads.
    Pair(usize),
    Burst,
    Flow,
    /// Blocks a second on many threads, as a part of those on two.
    Crowd,
}

/// Blocks of a burst, and of a message.
const BURST: usize = 100;
const BATCH: usize = 64;

fn ns(time: Duration, blocks: usize) -> f64 {
    time.as_nanos() as f64 / blocks as f64
}

impl Question {
    fn name(self) -> String {
        match self {
            Question::Pair(1) => "alloc + free".to_owned(),
            Question::Pair(threads) => format!("alloc + free, {threads} threads"),
            Question::Burst => "bursts of 100".to_owned(),
            Question::Flow => "producer to consumer".to_owned(),
            Question::Crowd => "64 threads / 2 threads".to_owned(),
        }
    }

    fn ask<C: Contender>(self, contender: &C, scale: usize) -> f64 {
        match self {
            Question::Pair(threads) => {
                let turns = 200_000 * scale;
                let barrier = Barrier::new(threads);
                let run = || {
                    drop(contender.alloc());
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..turns {
                        black_box(&contender.alloc());
                    }
                    start.elapsed()
                };
                let run = &run;
                let slowest = thread::scope(|scope| {
                    let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
                    all.into_iter().map(|thread| thread.join().expect("no panic")).max()
                });
                ns(slowest.unwrap_or_default(), turns)
            }
            Question::Burst => {
                let turns = 2_000 * scale;
                let mut held = Vec::with_capacity(BURST);
                let mut run = |turns| {
                    for _ in 0..turns {
                        held.extend((0..BURST).map(|_| contender.alloc()));
                        black_box(&mut held).clear();
                    }
                };
                run(10);
                let start = Instant::now();
                run(turns);
                ns(start.elapsed(), turns * BURST)
            }
            Question::Flow => {
                let messages = 3_000 * scale;
                let (send, receive) = crossbeam_channel::bounded::<[C::Held<'_>; BATCH]>(64);
                let warm_up = messages / 10;
                thread::scope(|scope| {
                    scope.spawn(move || {
                        for _ in 0..warm_up + messages {
                            let message = std::array::from_fn(|_| contender.alloc());
                            assert!(send.send(message).is_ok(), "the other end is open");
                        }
                    });
                    (0..warm_up).for_each(|_| drop(receive.recv()));
                    let start = Instant::now();
                    (0..messages).for_each(|_| drop(receive.recv()));
                    ns(start.elapsed(), messages * BATCH)
                })
            }
            Question::Crowd => {
                let time = Duration::from_millis(20) * scale as u32;
                let turn = || {
                    black_box(&contender.alloc());
                };
                let few = throughput(2, time, &turn);
                throughput(64, time, &turn) / few
            }
        }
    }
}

fn row<const N: usize>(question: Question, rounds: usize, scale: usize, table: &mut Table) {
    let align = layout::<N>();
    let builder = BlockPool::builder(align).checked(false);
    let pool = Blocks(builder.build().expect("a pool"));
    let objects = Objects(SyncPool::new(|| [0; N]));
    let (glibc, jemalloc, mimalloc) =
        (General::<_, N>(System), General::<_, N>(Jemalloc), General::<_, N>(MiMalloc));
    let mut figures = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        let round = [
            question.ask(&pool, scale),
            question.ask(&objects, scale),
            question.ask(&glibc, scale),
            question.ask(&jemalloc, scale),
            question.ask(&mimalloc, scale),
        ];
        figures.iter_mut().zip(round).for_each(|(figures, figure)| figures.push(figure));
    }
    let ratio = |of: usize, to: &dyn Fn(usize) -> f64| {
        median((0..rounds).map(|at| figures[of][at] / to(at)).collect())
    };
    let best = |at: usize| figures[3][at].min(figures[4][at]).min(figures[2][at]);
    let medians: Vec<f64> = figures.iter().cloned().map(median).collect();
    let (verdict, unit) = match question {
        Question::Pair(_) => {
            let (of_objects, of_glibc, of_best) =
                (ratio(0, &|at| figures[1][at]), 1.0 / ratio(0, &|at| figures[2][at]), 1.0 / ratio(0, &best));
            (
                format!(
                    "{of_objects:.2} of SyncPool's (1.1), {of_glibc:.1} x glibc (2), {of_best:.2} x best (1)"
                ),
                "ns",
            )
        }
        Question::Burst | Question::Flow => (format!("{:.2} x best (0.95)", 1.0 / ratio(0, &best)), "ns"),
        Question::Crowd => (format!("{:.2} (0.9)", medians[0]), ""),
    };
    let mut cells = vec![question.name(), format!("{N} B")];
    cells.extend(medians.iter().map(|figure| format!("{figure:.1} {unit}")));
    cells.push(verdict);
    table.add_row(cells);
}

fn main() {
    let args = Args::parse();
    let (rounds, scale) = if args.quick { (1, 1) } else { (args.rounds, 20) };
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "",
        "size",
        "BlockPool",
        "SyncPool",
        "glibc",
        "jemalloc",
        "mimalloc",
        "ratio (target)",
    ]);
    for question in [Question::Pair(1), Question::Pair(2), Question::Burst, Question::Flow, Question::Crowd] {
        row::<64>(question, rounds, scale, &mut table);
        row::<1024>(question, rounds, scale, &mut table);
    }
    println!(
        "{}, {}\n{table}",
        cenote_benches::date(std::time::SystemTime::now()),
        cenote_benches::machine()
    );
}
