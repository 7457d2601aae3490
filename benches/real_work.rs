//! What does a pooled buffer save in real work: encoding a message (prost) and a document (JSON) of some 8 KiB into a 16 KiB
//! buffer, then looking at it?
//!
//! `benches/real_work.sh`: with the system's malloc, jemalloc and mimalloc.
//!
//! The buffer is a fresh one with room enough, a fresh one that grows, one that the thread keeps, one of a pool. `zeropool`
//! hands out slices of zeroes, so it is written to as such. The time is the wall time of a message: with two threads, each
//! does as many as the report counts, at once.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Duration;

use cenote::SyncPool;
use cenote_benches::wall_time;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use prost::Message;
use serde::Serialize;
use zeropool::ZeroPool;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ALLOCATOR_NAME: &str = if cfg!(feature = "jemalloc") {
    "jemalloc"
} else if cfg!(feature = "mimalloc") {
    "mimalloc"
} else {
    "system malloc"
};

const ROOM: usize = 16 << 10;

/// A page of search results, say.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Page {
    #[prost(string, tag = "1")]
    query: String,
    #[prost(uint64, tag = "2")]
    total: u64,
    #[prost(message, repeated, tag = "3")]
    hits: Vec<Hit>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Hit {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(double, tag = "2")]
    score: f64,
    #[prost(string, tag = "3")]
    title: String,
    #[prost(string, repeated, tag = "4")]
    tags: Vec<String>,
    #[prost(sint32, repeated, tag = "5")]
    positions: Vec<i32>,
}

fn page() -> Page {
    let hit = |i: u64| Hit {
        id: i * 7919,
        score: 1.0 / (i + 1) as f64,
        title: format!("a title of some length that says what number {i} is about"),
        tags: (0..3).map(|tag| format!("tag-{}", i + tag)).collect(),
        positions: (0..12).map(|at| at * i as i32).collect(),
    };
    Page { query: "pools of buffers".into(), total: 70, hits: (0..70).map(hit).collect() }
}

#[derive(Clone, Copy)]
enum Work {
    Prost,
    Json,
}

impl Work {
    /// Appends to an empty buffer.
    fn append(self, page: &Page, buffer: &mut Vec<u8>) {
        match self {
            Work::Prost => page.encode(buffer).expect("a vector grows"),
            Work::Json => serde_json::to_writer(buffer, page).expect("a vector takes all"),
        }
    }

    fn write(self, page: &Page, mut buffer: &mut [u8]) {
        match self {
            Work::Prost => page.encode(&mut buffer).expect("there is room"),
            Work::Json => serde_json::to_writer(buffer, page).expect("there is room"),
        }
    }
}

/// Encodes a page, and shows the buffer to the compiler.
type Encode<'a> = &'a (dyn Fn(Work, &Page) + Sync);

fn run(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, threads: usize, work: Work, encode: Encode<'_>) {
    let page = page();
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|pages| wall_time(threads, pages, &|| encode(work, &page)));
    });
}

fn real_work(criterion: &mut Criterion) {
    thread_local!(static OWN: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(ROOM)));
    let pool: SyncPool<Vec<u8>> = SyncPool::with_recycle(
        || Vec::with_capacity(ROOM),
        |buffer| {
            buffer.clear();
            buffer.capacity() <= 4 * ROOM
        },
    );
    let mutex: Mutex<Vec<Vec<u8>>> = Mutex::default();
    let zeropool = ZeroPool::new();
    let contenders: [(&str, Encode<'_>); 6] = [
        ("cenote", &|work, page| {
            let mut buffer = pool.get();
            work.append(page, &mut buffer);
            black_box(&buffer[..]);
        }),
        ("thread_local buffer", &|work, page| {
            OWN.with_borrow_mut(|buffer| {
                buffer.clear();
                work.append(page, buffer);
                black_box(&buffer[..]);
            });
        }),
        ("fresh, with capacity", &|work, page| {
            let mut buffer = Vec::with_capacity(ROOM);
            work.append(page, &mut buffer);
            black_box(&buffer[..]);
        }),
        ("fresh, growing", &|work, page| {
            let mut buffer = Vec::new();
            work.append(page, &mut buffer);
            black_box(&buffer[..]);
        }),
        ("Mutex<Vec>", &|work, page| {
            let kept = mutex.lock().expect("no panic under the lock").pop();
            let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(ROOM));
            work.append(page, &mut buffer);
            black_box(&buffer[..]);
            buffer.clear();
            mutex.lock().expect("no panic under the lock").push(buffer);
        }),
        ("zeropool", &|work, page| {
            let mut buffer = zeropool.alloc(ROOM);
            work.write(page, &mut buffer);
            black_box(&buffer[..]);
        }),
    ];
    let page = page();
    let json = serde_json::to_vec(&page).expect("it has a JSON form").len();
    println!("{} bytes of protobuf, {json} of JSON", page.encoded_len());
    for (what, work) in [("prost", Work::Prost), ("JSON", Work::Json)] {
        for threads in [1, 2] {
            let mut group =
                criterion.benchmark_group(format!("{ALLOCATOR_NAME}, {what}, threads: {threads}"));
            group
                .sampling_mode(SamplingMode::Flat)
                .sample_size(20)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1));
            for (name, encode) in contenders {
                run(&mut group, name, threads, work, encode);
            }
            group.finish();
        }
    }
}

criterion_group!(benches, real_work);
criterion_main!(benches);
