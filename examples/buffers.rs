//! Scratch buffers for plain threads: a static pool, and what it saves.
//!
//! ```sh
//! cargo run --release --example buffers
//! ```

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cenote::SyncPool;

/// The hook sees each buffer that comes back: it empties it, and refuses one that has grown too large to keep.
static LINES: SyncPool<Vec<u8>> = SyncPool::with_recycle(Vec::new, |line| {
    line.clear();
    line.capacity() <= 4096
});

const THREADS: usize = 4;
const LINES_EACH: usize = 100_000;

fn main() {
    let bytes = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let bytes = &bytes;
            scope.spawn(move || {
                for number in 0..LINES_EACH {
                    bytes.fetch_add(render(thread, number), Ordering::Relaxed);
                }
            });
        }
    });

    let stats = LINES.stats();
    println!("{} lines, {} bytes", THREADS * LINES_EACH, bytes.into_inner());
    println!("{} buffers made, {} gets served with one that was there", stats.made, stats.hits);

    // The threads are gone, their buffers are not. What nobody takes between two `age`s goes: call it now and then,
    // by a timer, say, and the pool shrinks after a burst.
    for generation in 0..3 {
        println!("after {generation} age(): {} idle", LINES.stats().idle);
        LINES.age();
    }
}

/// Renders one line, and returns its length.
fn render(thread: usize, number: usize) -> usize {
    let mut line = LINES.get(); // Go: line := lines.Get(); defer lines.Put(line)
    writeln!(line, "thread {thread} writes line {number}").expect("a Vec takes what is written");
    line.len()
} // and back it goes
