//! The recipe for buffers that leave as `Bytes`, of the documentation of [`SyncPool`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use cenote::SyncPool;

use crate::counting::allocations;

const MESSAGE: usize = 2048;
const BUFFER: usize = 64 * 1024;

fn buffers() -> SyncPool<BytesMut> {
    SyncPool::with_recycle(
        || BytesMut::with_capacity(BUFFER),
        |buf| {
            buf.clear();
            buf.try_reclaim(MESSAGE)
        },
    )
}

fn encode(pool: &SyncPool<BytesMut>, round: usize) -> Bytes {
    let mut buf = pool.get();
    assert!(buf.is_empty() && buf.capacity() >= MESSAGE);
    buf.resize(1 + round % MESSAGE, round as u8);
    buf.split().freeze()
}

/// Encodes many messages, of which so many are under way at once, and returns in how many rounds in
/// a hundred something was allocated.
fn allocating_rounds(under_way: usize) -> f64 {
    const ROUNDS: usize = 5000;
    let pool = buffers();
    let mut sent = VecDeque::with_capacity(under_way + 1);
    let mut allocating = 0;
    for round in 0..ROUNDS {
        let before = allocations();
        sent.push_back((round, encode(&pool, round)));
        if sent.len() > under_way {
            let (round, message) = sent.pop_front().unwrap();
            assert_eq!(message.len(), 1 + round % MESSAGE);
            assert_eq!([message[0], message[message.len() - 1]], [round as u8; 2]);
        }
        allocating += usize::from(allocations() > before);
    }
    100.0 * allocating as f64 / ROUNDS as f64
}

#[test]
fn fewer_than_five_percent_of_the_messages_allocate_however_many_are_under_way() {
    for under_way in [0, 1, 8, 100, 1000] {
        let percent = allocating_rounds(under_way);
        println!("{under_way} under way: {percent} %");
        assert!(percent < 5.0, "{under_way} under way: {percent} %");
    }
}

#[test]
fn a_buffer_that_is_used_up_while_its_messages_live_is_refused() {
    let pool = buffers();
    let sent: Vec<Bytes> = (0..100).map(|_| encode(&pool, MESSAGE - 1)).collect();
    let stats = pool.stats();
    assert!(stats.refused >= 2, "{stats:?}");
    assert_eq!(stats.made, stats.refused + stats.idle as u64);
    drop(sent);
}
