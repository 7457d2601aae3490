//! What a look at an object by its handle costs: `QuarantinePool` beside a generational arena and a slab, each behind a lock,
//! a sharded slab, and an `Arc` that is cloned.
//!
//! The others promise less: an object of a locked slab is only safe while the lock is held, one of a sharded slab lives for
//! as long as anybody looks at it, and is then dropped. Rounds take turns, and each figure is the median of its rounds.
//! `cargo run --release -p cenote-benches --bin quarantine`.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cenote::quarantine::QuarantinePool;
use cenote_benches::median;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;

#[derive(Parser)]
struct Args {
    /// Rounds of each row.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One short round, to see that it runs.
    #[arg(long)]
    quick: bool,
}

type Object = [u64; 8];

/// Nanoseconds a look, on so many threads, each of which looks at an object of its own.
fn looks<L: FnMut()>(threads: usize, turns: u32, look: impl Fn(usize) -> L + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|at| {
                let (barrier, look) = (&barrier, &look);
                scope.spawn(move || {
                    let mut look = look(at);
                    barrier.wait();
                    let began = Instant::now();
                    (0..turns).for_each(|_| look());
                    began.elapsed()
                })
            })
            .collect();
        let times = all.into_iter().map(|thread| thread.join().expect("no panic"));
        times.max().unwrap_or(Duration::ZERO).as_nanos() as f64 / f64::from(turns)
    })
}

fn main() {
    let args = Args::parse();
    let (rounds, turns) = if args.quick { (1, 10_000) } else { (args.rounds, 5_000_000) };

    let pool = QuarantinePool::builder(|| [0_u64; 8]).build().expect("a pool");
    let owners: Vec<_> = (0..2).map(|_| pool.reserve().expect("a slot").publish()).collect();
    let mut map = slotmap::SlotMap::<slotmap::DefaultKey, Object>::new();
    let keys = [map.insert([0; 8]), map.insert([0; 8])];
    let map = Mutex::new(map);
    let mut slab = slab::Slab::<Object>::new();
    let places = [slab.insert([0; 8]), slab.insert([0; 8])];
    let slab = Mutex::new(slab);
    let sharded = sharded_slab::Slab::<Object>::new();
    let shards = [0; 2].map(|_| sharded.insert([0; 8]).expect("a place"));
    let arcs = [0; 2].map(|_| Arc::new(Mutex::new([0_u64; 8])));

    let names = [
        "`QuarantinePool`",
        "`Mutex<SlotMap>`",
        "`Mutex<Slab>`",
        "`sharded_slab`",
        "`Arc<Mutex<T>>`, cloned",
    ];
    let mut figures = vec![[Vec::new(), Vec::new()]; names.len()];
    for _ in 0..rounds {
        for (column, threads) in [1, 2].into_iter().enumerate() {
            let mut row = figures.iter_mut();
            let mut record = |figure| row.next().expect("a row for each")[column].push(figure);
            record(looks(threads, turns, |at| {
                let (pool, handle) = (&pool, owners[at].1);
                move || {
                    black_box(pool.enter(black_box(handle)).expect("it is there")[0]);
                }
            }));
            record(looks(threads, turns, |at| {
                let (map, key) = (&map, keys[at]);
                move || {
                    black_box(map.lock().expect("no panic").get(black_box(key)).expect("it is there")[0]);
                }
            }));
            record(looks(threads, turns, |at| {
                let (slab, place) = (&slab, places[at]);
                move || {
                    black_box(slab.lock().expect("no panic").get(black_box(place)).expect("it is there")[0]);
                }
            }));
            record(looks(threads, turns, |at| {
                let (sharded, place) = (&sharded, shards[at]);
                move || {
                    black_box(sharded.get(black_box(place)).expect("it is there")[0]);
                }
            }));
            record(looks(threads, turns, |at| {
                let arc = &arcs[at];
                move || {
                    let own = Arc::clone(black_box(arc));
                    black_box(own.lock().expect("no panic")[0]);
                }
            }));
        }
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["enter + drop", "one thread", "two threads, an object each"]);
    for (name, [one, two]) in names.into_iter().zip(figures) {
        table.add_row([name.to_owned(), format!("{:.1} ns", median(one)), format!("{:.1} ns", median(two))]);
    }
    println!("{table}");
}
