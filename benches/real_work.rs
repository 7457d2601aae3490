//! What does a pooled buffer save in real work: encoding a message (prost) and a document (JSON) of some 8 KiB into a 16 KiB
//! buffer, then looking at it?
//!
//! `benches/real_work.sh`: with the system's malloc, jemalloc and mimalloc.
//!
//! The buffer is a fresh one with room enough, a fresh one that grows, one that the thread keeps, one of a pool. `zeropool`
//! hands out slices of zeroes, so it is written to as such. The time is the wall time of a message, where each of two threads
//! does as many; the contenders take turns, and the least of their rounds is printed, since the machine's noise is larger
//! than what a buffer costs.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;

use cenote::SyncPool;
use cenote_benches::wall_time;
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

const ROUNDS: usize = 25;
/// In a round, by each thread.
const PAGES: u64 = 1_000;

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

fn main() {
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
    println!(
        "{ALLOCATOR_NAME}; {} bytes of protobuf, {json} of JSON; us, the least of {ROUNDS} rounds\n",
        page.encoded_len()
    );
    let questions = [(Work::Prost, 1), (Work::Prost, 2), (Work::Json, 1), (Work::Json, 2)];
    let mut least = [[f64::INFINITY; 4]; 6];
    for _ in 0..ROUNDS {
        for (column, (work, threads)) in questions.into_iter().enumerate() {
            for (row, (_, encode)) in contenders.into_iter().enumerate() {
                let time = wall_time(threads, PAGES, &|| encode(work, &page));
                let each = time.as_secs_f64() * 1e6 / PAGES as f64;
                least[row][column] = least[row][column].min(each);
            }
        }
    }
    println!("{:<22} {:>9} {:>9} {:>9} {:>9}", "", "prost, 1", "prost, 2", "JSON, 1", "JSON, 2");
    for ((name, _), times) in contenders.into_iter().zip(least) {
        print!("{name:<22}");
        times.into_iter().for_each(|time| print!(" {time:>9.2}"));
        println!();
    }
    println!();
}
