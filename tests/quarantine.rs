//! `QuarantinePool`: no late worker reaches another's object.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cenote::quarantine::{BuildError, Builder, Handle, OwnedPin, QuarantinePool, Retired, Stale};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(OwnedPin<Vec<u8>>: Send, Sync);
assert_impl_all!(Handle: Copy, Send, Sync);
assert_impl_all!(QuarantinePool<Vec<u8>>: Send, Sync, Clone);
// What is not to be shared is not.
assert_not_impl_any!(OwnedPin<std::cell::Cell<u8>>: Sync);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A clock that a test sets.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn set(&self, secs: u64) {
        self.0.store(secs, Ordering::SeqCst);
    }
}

/// A grace period of 3 s, the longest 20 s, and objects that are cleared.
fn by_hand() -> (Builder<Vec<u8>>, Clock) {
    let clock = Clock::default();
    let own = clock.clone();
    let builder = QuarantinePool::builder(Vec::new)
        .max_size(4)
        .grace(secs(3))
        .max_grace(secs(20))
        .reset(Vec::clear)
        .clock(move || secs(own.0.load(Ordering::SeqCst)))
        .by_hand();
    (builder, clock)
}

/// The story of the module's page.
#[test]
fn a_worker_of_the_last_client_never_reaches_the_next_ones_object() {
    let (builder, clock) = by_hand();
    let pool = builder.max_size(1).max_retired(0).build().unwrap();
    let mut reserved = pool.reserve().unwrap();
    reserved.extend(b"client A");
    let (owner, of_a) = reserved.publish();
    let worker = pool.enter(of_a).unwrap();

    clock.set(5);
    owner.release();
    assert_eq!(pool.enter(of_a).unwrap_err(), Stale::InQuarantine);
    clock.set(9);
    pool.run_due();
    let exhausted = pool.reserve().unwrap_err();
    assert_eq!((exhausted.leased, exhausted.quarantined, exhausted.retired), (0, 1, 0));
    assert_eq!(exhausted.next_due, Some(secs(16)), "A's worker is inside, for up to 20 s");
    assert_eq!(*worker, b"client A");

    clock.set(10);
    drop(worker);
    pool.run_due();
    let mut reserved = pool.reserve().unwrap();
    assert!(reserved.is_empty(), "it was reset");
    reserved.extend(b"client B");
    let (owner, of_b) = reserved.publish();
    assert_eq!(pool.enter(of_a).unwrap_err(), Stale::Reused);
    assert_eq!(*pool.enter(of_b).unwrap(), b"client B");
    drop(owner);
}

#[test]
fn each_way_to_be_stale_has_its_name() {
    let (builder, clock) = by_hand();
    let pool = builder.build().unwrap();
    let (owner, handle) = pool.reserve().unwrap().publish();
    let token = handle.to_u64();
    let state = || pool.enter(Handle::from_u64(token, &pool)).map(drop);
    assert_eq!(state(), Ok(()));
    owner.release();
    assert_eq!(state(), Err(Stale::InQuarantine));
    clock.set(3);
    pool.run_due();
    assert_eq!(state(), Err(Stale::Released));
    let reserved = pool.reserve().unwrap();
    assert_eq!(state(), Err(Stale::Released), "nobody has seen the next one");
    let (owner, next) = reserved.publish();
    assert_eq!(state(), Err(Stale::Reused));
    let inside = pool.enter_owned(next).unwrap();
    owner.release();
    clock.set(23);
    pool.run_due();
    assert_eq!(pool.enter(next).unwrap_err(), Stale::Retired);
    assert_eq!(state(), Err(Stale::Retired));
    drop(inside);

    let other = by_hand().0.build().unwrap();
    assert_eq!(other.enter(next).unwrap_err(), Stale::OtherTable);
    assert_eq!(other.release(next), Err(Stale::OtherTable));
    for token in [0, 1, token + 1_000, u64::MAX, 77 << 40] {
        assert_eq!(pool.enter(Handle::from_u64(token, &pool)).unwrap_err(), Stale::Unknown, "{token:#x}");
    }
}

#[test]
fn a_reserved_slot_that_nobody_has_seen_is_free_at_once() {
    let (builder, _) = by_hand();
    let pool = builder.max_size(1).build().unwrap();
    let mut reserved = pool.reserve().unwrap();
    reserved.push(1);
    reserved.abort();
    let mut reserved = pool.reserve().unwrap();
    assert!(reserved.is_empty(), "it was reset all the same");
    reserved.push(2);
    drop(reserved);
    assert!(pool.reserve().unwrap().is_empty());
    assert_eq!((pool.stats().free, pool.stats().recycled), (1, 0));
}

#[test]
fn a_user_who_stays_too_long_costs_its_slot_and_is_reported() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let (builder, clock) = by_hand();
    let pool = builder
        .max_size(1)
        .max_retired(1)
        .on_retired(move |retired: Retired| told.lock().unwrap().push(retired))
        .build()
        .unwrap();
    for retired in 1..=2 {
        let mut reserved = pool.reserve().unwrap();
        assert!(reserved.is_empty());
        reserved.push(7);
        let (owner, handle) = reserved.publish();
        // Forgotten, not dropped: it never leaves.
        std::mem::forget(pool.enter(handle).unwrap());
        owner.release();
        clock.set(100 * retired);
        pool.run_due();
        assert_eq!(pool.enter(handle).unwrap_err(), Stale::Retired);
        assert_eq!(pool.stats().retired, retired as usize);
    }
    let exhausted = pool.reserve().unwrap_err();
    assert_eq!(
        (exhausted.retired, exhausted.next_due),
        (2, None),
        "one retired slot does not count, the second does"
    );
    let reports = reports.lock().unwrap();
    assert_eq!(reports.iter().map(|report| report.inside).collect::<Vec<_>>(), [Some(secs(100)); 2]);
    assert_ne!(reports[0].slot, reports[1].slot);
}

/// slotmap wraps after 2^31, nginx's bit after 2.
#[test]
fn a_slot_whose_generations_are_used_up_is_retired_and_never_wraps() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let (builder, _) = by_hand();
    let pool = builder
        .max_size(1)
        .max_retired(2)
        .grace(Duration::ZERO)
        .generation_bits(8)
        .on_retired(move |retired: Retired| told.lock().unwrap().push(retired.inside))
        .build()
        .unwrap();
    let mut tokens = HashSet::new();
    let mut handles = Vec::new();
    let ended = loop {
        let Ok(reserved) = pool.reserve() else { break pool.stats() };
        let (_owner, handle) = reserved.publish();
        assert!(tokens.insert(handle.to_u64()), "a token came a second time");
        assert!(handles.iter().all(|old| pool.enter(*old).is_err()));
        handles.push(handle);
        drop(_owner);
        pool.run_due();
    };
    assert_eq!(ended.retired, 3);
    assert_eq!(tokens.len(), 3 * 254, "each generation but 0 and the last");
    assert_eq!(*reports.lock().unwrap(), [None; 3]);
}

/// generational-arena#30: `clear` forgot the generation. RediSearch#8408: so did a table that had shrunk.
#[test]
fn generations_go_on_after_clear_shrink_and_a_new_table() {
    let mut old = Vec::new();
    let is_stale = |pool: &QuarantinePool<Vec<u8>>, tokens: &[u64]| {
        tokens.iter().all(|token| pool.enter(Handle::from_u64(*token, pool)).is_err())
    };
    for _ in 0..5 {
        let (builder, clock) = by_hand();
        let pool = builder.max_size(3).build().unwrap();
        for turn in 0..5 {
            let owners: Vec<_> = (0..3).map(|_| pool.reserve().unwrap().publish()).collect();
            assert!(is_stale(&pool, &old));
            pool.clear();
            assert!(owners.iter().all(|(_, handle)| pool.enter(*handle).is_ok()), "leased ones stay");
            old.extend(owners.iter().map(|(_, handle)| handle.to_u64()));
            drop(owners);
            clock.set(10 * (turn + 1));
            pool.run_due();
            pool.shrink(1);
            assert!(is_stale(&pool, &old));
        }
    }
}

#[test]
fn tables_that_live_at_once_share_no_token() {
    let pools: Vec<_> = (0..8).map(|_| by_hand().0.build().unwrap()).collect();
    let owners: Vec<_> = pools.iter().map(|pool| pool.reserve().unwrap().publish()).collect();
    for (at, (_, handle)) in owners.iter().enumerate() {
        for (other, pool) in pools.iter().enumerate() {
            let found = pool.enter(Handle::from_u64(handle.to_u64(), pool));
            assert_eq!(found.is_ok(), at == other);
        }
    }
}

#[test]
fn a_release_within_ones_own_pin_does_not_deadlock_and_the_second_does_nothing() {
    let (builder, clock) = by_hand();
    let pool = builder.build().unwrap();
    let (owner, handle) = pool.reserve().unwrap().publish();
    let pin = pool.enter(handle).unwrap();
    assert_eq!(pool.release(handle), Ok(()));
    assert_eq!(pool.release(handle), Err(Stale::InQuarantine));
    // The owner is inside: its object is still its own.
    drop(pin);
    clock.set(5);
    pool.run_due();
    assert_eq!(pool.stats().quarantined, 1);
    assert!(owner.is_empty());
    owner.release();
    pool.run_due();
    assert_eq!((pool.stats().quarantined, pool.stats().free), (0, 1));
    // hive#1185: a late clean-up by the old handle takes nothing from the next owner.
    let (owner, next) = pool.reserve().unwrap().publish();
    assert_eq!(pool.release(handle), Err(Stale::Reused));
    assert!(pool.enter(next).is_ok());
    drop(owner);
}

#[test]
fn a_factory_or_a_reset_that_panics_costs_no_slot() {
    let panics = Arc::new(AtomicBool::new(true));
    let (makes, resets) = (Arc::clone(&panics), Arc::clone(&panics));
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let pool = QuarantinePool::builder(move || {
        assert!(!makes.load(Ordering::SeqCst), "on purpose");
        counted.fetch_add(1, Ordering::SeqCst)
    })
    .reset(move |_| assert!(!resets.load(Ordering::SeqCst), "on purpose"))
    .max_size(1)
    .grace(Duration::ZERO)
    .by_hand()
    .build()
    .unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.reserve()))).is_err());
    panics.store(false, Ordering::SeqCst);
    let (owner, _) = pool.reserve().unwrap().publish();
    panics.store(true, Ordering::SeqCst);
    owner.release();
    pool.run_due();
    assert_eq!(pool.stats().free, 1);
    panics.store(false, Ordering::SeqCst);
    drop(pool.reserve().unwrap());
    assert_eq!(made.load(Ordering::SeqCst), 2, "the object whose reset panicked was not used again");
}

#[test]
fn contradictory_options_are_refused() {
    let build = |change: fn(Builder<u8>) -> Builder<u8>| {
        change(QuarantinePool::builder(|| 0).by_hand()).build().map(drop)
    };
    assert!(matches!(build(|builder| builder.max_size(0)), Err(BuildError::Zero)));
    assert!(matches!(build(|builder| builder.generation_bits(49)), Err(BuildError::GenerationBits(49))));
    assert!(matches!(build(|builder| builder.generation_bits(7)), Err(BuildError::GenerationBits(7))));
    assert!(matches!(build(|builder| builder.max_grace(Duration::ZERO)), Err(BuildError::MaxGrace)));
    assert!(matches!(build(|builder| builder.max_size(1 << 25)), Err(BuildError::TooManySlots)));
    assert!(matches!(build(|builder| builder.max_size(usize::MAX)), Err(BuildError::TooManySlots)));
}

#[test]
fn the_recycler_ends_quarantines_by_itself_and_goes_with_the_pool() {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counted = Arc::clone(&dropped);
    let pool = QuarantinePool::builder(move || Counted(Arc::clone(&counted)))
        .max_size(1)
        .grace(Duration::from_millis(5))
        .build()
        .unwrap();
    for _ in 0..5 {
        let deadline = Instant::now() + secs(20);
        let reserved = loop {
            match pool.reserve() {
                Ok(reserved) => break reserved,
                Err(exhausted) => assert!(Instant::now() < deadline, "{exhausted}"),
            }
            thread::sleep(Duration::from_millis(1));
        };
        let (owner, handle) = reserved.publish();
        let pin = pool.enter_owned(handle).unwrap();
        owner.release();
        thread::spawn(move || drop(pin)).join().unwrap();
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 0);

    // In the middle of a long quarantine, with an owner and a pin still out.
    let pool =
        QuarantinePool::builder(|| vec![1, 2]).grace(secs(1_000)).max_grace(secs(1_000)).build().unwrap();
    let (first, _) = pool.reserve().unwrap().publish();
    let (second, handle) = pool.reserve().unwrap().publish();
    let pin = pool.enter_owned(handle).unwrap();
    first.release();
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < secs(10));
    second.release();
    assert_eq!(*pin, [1, 2]);
}

/// ioxide#221: client 1 stops reading, its send is in the kernel, the handler ends, and client 2 writes into the buffer.
#[test]
fn a_buffer_that_the_kernel_still_reads_is_never_the_next_clients() {
    let (builder, clock) = by_hand();
    let pool = builder.max_size(1).max_retired(1).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut reserved = pool.reserve().unwrap();
    reserved.resize(32 << 20, b'1');
    let (owner, handle) = reserved.publish();
    let pin = pool.enter_owned(handle).unwrap();
    let has_sent = Arc::new(AtomicBool::new(false));
    let sends = Arc::clone(&has_sent);
    // The window is full long before the end, and the thread is in the kernel, which reads from the buffer.
    let sending = thread::spawn(move || {
        server.write_all(&pin).unwrap();
        sends.store(true, Ordering::SeqCst);
    });
    owner.release();
    clock.set(40);
    pool.run_due();
    assert_eq!(pool.enter(handle).unwrap_err(), Stale::Retired);
    let mut next = pool.reserve().unwrap();
    next.resize(32 << 20, b'2');
    let (_next, _) = next.publish();
    assert!(!has_sent.load(Ordering::SeqCst), "the window is not full");
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert_eq!(received.len(), 32 << 20);
    assert!(received.iter().all(|byte| *byte == b'1'), "bytes of another client");
}

/// What a worker finds must be of the generation that it knows.
#[test]
fn ten_million_looks_never_find_an_object_of_another_generation() {
    const SLOTS: usize = 4;
    let pool = QuarantinePool::builder(|| AtomicU64::new(0))
        .max_size(SLOTS)
        .grace(Duration::ZERO)
        .reset(|object| *object.get_mut() = 0)
        .by_hand()
        .build()
        .unwrap();
    // The tokens in use, and those of a moment ago.
    let tokens: Vec<_> = (0..64).map(|_| AtomicU64::new(0)).collect();
    let stops = AtomicBool::new(false);
    let looks: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..2_u64)
            .map(|seed| {
                let (pool, tokens, stops) = (&pool, &tokens, &stops);
                scope.spawn(move || {
                    let (mut random, mut hits) = (seed, 0_u64);
                    for _ in 0..5_000_000 {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let token = tokens[(random >> 58) as usize].load(Ordering::Acquire);
                        if let Ok(object) = pool.enter(Handle::from_u64(token, pool)) {
                            // Long enough for a recycler that does not wait.
                            for _ in 0..random >> 56 & 31 {
                                assert_eq!(object.load(Ordering::Relaxed), token, "another generation");
                                std::hint::spin_loop();
                            }
                            hits += 1;
                        }
                    }
                    stops.store(true, Ordering::Relaxed);
                    hits
                })
            })
            .collect();
        let mut at = 0;
        let mut owners = VecDeque::new();
        while !stops.load(Ordering::Relaxed) {
            if let Ok(reserved) = pool.reserve() {
                assert_eq!(reserved.load(Ordering::Relaxed), 0, "it was not reset");
                let (owner, handle) = reserved.publish();
                owner.store(handle.to_u64(), Ordering::Relaxed);
                // Nobody knows it before.
                tokens[at % 64].store(handle.to_u64(), Ordering::Release);
                at += 1;
                owners.push_back(owner);
            }
            if owners.len() > 2 {
                owners.pop_front();
            }
            pool.run_due();
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(looks > 1_000, "{looks} workers were inside");
}
