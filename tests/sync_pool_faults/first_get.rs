//! The first get of a process.

use std::thread;
use std::time::{Duration, Instant};

use cenote::SyncPool;

use crate::alone::printed_alone;
use crate::parked::beside_parked;

/// A process that has other threads waits for the kernel for 5 to 14 ms when it registers with
/// `membarrier(2)`: no get does.
#[test]
fn the_first_get_of_a_process_with_other_threads_does_not_wait_for_the_kernel() {
    static POOL: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
    const MARK: &str = "first get: ";
    let mut tries = Vec::new();
    // One fast try is enough: on a busy machine some tries are slow for other reasons.
    for _ in 0..6 {
        let printed = printed_alone(|| {
            beside_parked(
                3,
                |_| thread::sleep(Duration::from_millis(1)),
                || {
                    let began = Instant::now();
                    drop(POOL.get());
                    println!("{MARK}{}", began.elapsed().as_micros());
                },
            );
        });
        let Some(printed) = printed else { return };
        let (_, rest) = printed.split_once(MARK).unwrap();
        tries.push(rest.lines().next().unwrap().parse::<u64>().unwrap());
        if tries.last() < Some(&2000) {
            return;
        }
    }
    panic!("{tries:?} us");
}
