//! Models of the shards and the depot for loom: every interleaving, within a bound on preemptions, of a few threads that do
//! a few operations each. Run with
//!
//! ```sh
//! RUSTFLAGS="--cfg cenote_loom" cargo test --release --lib --target-dir target/loom
//! ```
//!
//! A shard holds two nodes here and a magazine two. At the end of each model every object that was put is with a taker, in
//! the pool, or dropped once, every node is freed once, and the counters add up (see [`census`](super::census)). loom
//! itself reports threads that touch a shard, a magazine or an object without an order between them.
//!
//! Not modeled: `membarrier` itself (see [`fence`](crate::primitive::fence)), epochs (memory is freed at the end of the model),
//! forks, and the list of thread numbers, which has a model of its own in `primitive::thread`.
//!
//! # What the models catch
//!
//! Each of these changes was made once to the engine, and these models failed. A model was stopped after 6 or 12 seconds, so
//! others may fail, too.
//!
//! | change | what failed |
//! |---|---|
//! | no fence after the claims | 16 models of an owner and a remote thread |
//! | the remote thread never passes the heavy fence | six that pair the fences (`Paired`) |
//! | no full fence of a symmetric owner | eleven, all in `Symmetric` |
//! | the owner loads `claim` with Relaxed in `enter_fast` | `an_owner_and_a_thief_never…`, `aging_beside…`, `clear_beside…`, `a_drain_beside…`, `an_heir…`, `an_owner_that_is_asked…`, `a_thief_and_an_ager…` |
//! | the owner stores `busy` with Relaxed, or a claimer loads it so | 14 models of an owner and a remote thread |
//! | a claim is released with Relaxed | `an_owner_and_a_thief_never…`, `an_heir…`, `an_owner_gives_up…`, `an_owner_that_is_asked…` |
//! | the bit `SYMMETRIC` is cleared by a plain store | `a_claim_from_before_the_switch…` |
//! | a failed barrier is ignored by the search | `a_thief_whose_barrier_fails…` |
//! | a failed barrier is ignored by the ager | `an_owner_retires_what_an_ager…` |
//! | a slot is filled with Relaxed | both `…is_found_also_after…`, and five whose ager meets the depot |
//! | no second look into the depot | both `…is_found_also_after…` |
//! | a thread that gives does not announce it | both `…is_found_also_after…`, `two_full_magazines…` |
//! | the limit is ignored | `two_threads_that_find_no_room…` |
//! | the stack is pushed with Relaxed | `a_magazine_behind…` |
//! | drops nest | `an_aging_inside_a_drop…` |
//! | an ager skips shards that others have claimed | `clear_beside_a_thief…` |
//! | a number is given back with Relaxed | `a_number_has_one_owner…` |
//!
//! Not caught:
//!
//! * A slot that is emptied with Relaxed. The load before the exchange acquires the magazine that it sees, so a third thread would
//!   have to change the magazine in between.
//! * A turn that two agers both pass. Objects then expire one generation early, which is allowed to objects on their way.
//! * A thief that overwrites the blanks in its magazine. The thieves here start without blanks; the tests of
//!   [`rack`](super::rack) cover it.

use loom::thread::{self, JoinHandle};

use super::census::{POLICY, Pool};
use super::depot::Role;
use super::magazine::{CAPACITY, Magazine};
use super::{Policy, Store};
use crate::primitive::thread::leave;
use crate::primitive::{clock, fence};

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How the fences of a model behave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fences {
    /// The light and the heavy fence are full fences.
    Asymmetric,
    /// There is no heavy fence, and the light one does nothing.
    Symmetric,
    /// The light and the heavy fence order each other, and no full fence.
    Paired,
}

use Fences::{Asymmetric, Paired, Symmetric};

/// Checks a model with each of these fences, within this bound on preemptions. Four models have too many executions with the
/// fences of `Symmetric`, which order the least, and go without.
pub(crate) fn check(fences: &[Fences], preemptions: usize, model: impl Fn() + Sync + Send + Copy + 'static) {
    for &fences in fences {
        let mut builder = loom::model::Builder::new();
        // With fewer fences loads may return older values, so the same bound makes many more executions.
        let fewer = usize::from(matches!(fences, Symmetric));
        builder.preemption_bound = Some((preemptions - fewer).max(1));
        builder.max_branches = 10_000;
        let begun = std::time::Instant::now();
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&runs);
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            fence::reset();
            clock::stop_at(1);
            match fences {
                Asymmetric => {}
                Symmetric => fence::set_symmetric(true),
                Paired => fence::pair_light_with_heavy(),
            }
            model();
        });
        eprintln!(
            "{} {fences:?}: {} runs, {:?}",
            std::thread::current().name().unwrap_or_default(),
            runs.load(Relaxed),
            begun.elapsed()
        );
    }
}

fn spawn<R: 'static>(work: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    thread::spawn(work)
}

fn join<R>(thread: JoinHandle<R>) -> R {
    thread.join().unwrap()
}

/// Runs two threads at once. The first thread of a model only starts others: loom varies little of what it does itself.
fn both<A: 'static, B: 'static>(a: impl FnOnce() -> A + 'static, b: impl FnOnce() -> B + 'static) -> (A, B) {
    let (a, b) = (spawn(a), spawn(b));
    (join(a), join(b))
}

/// A full magazine whose first object has this number.
fn full(pool: &'static Pool, first: usize) -> Magazine {
    let mut magazine = Magazine::new();
    for object in first..first + CAPACITY {
        magazine.push(pool.node(object)).unwrap();
    }
    magazine
}

impl Store {
    fn give_to_depot(&self, magazine: Magazine) {
        self.push(Role::Fresh, magazine, 0);
    }

    fn pop_from_depot(&self) -> Option<Magazine> {
        self.depot()?.pop(self.cold.turn.get(), Role::Fresh, 0)
    }

    /// Takes a magazine out of the depot and drops what is in it. Returns how much that was.
    fn drop_from_depot(&self) -> usize {
        let Some(magazine) = self.pop_from_depot() else { return 0 };
        let objects = magazine.objects();
        self.cold.counters.drained.fetch_add(objects as u64, Relaxed);
        self.objects.dispose(magazine);
        objects
    }
}

// ── an owner and thieves ──

#[test]
fn an_owner_and_a_thief_never_get_the_same_object() {
    check(&[Asymmetric, Symmetric, Paired], 2, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.take_object()
        };
        drop(both(owner, move || pool.take_object()));
        pool.end();
    });
}

#[test]
fn two_thieves_and_an_owner_share_out_what_there_is() {
    check(&[Asymmetric], 1, || {
        let pool = Pool::new(POLICY);
        pool.put_object(0);
        pool.put_object(1);
        let thieves = [(); 2].map(|()| spawn(move || pool.take_object()));
        drop((pool.take_object(), thieves.map(join)));
        pool.end();
    });
}

#[test]
fn a_thief_takes_half_beside_an_owner_that_has_a_spare_magazine() {
    check(&[Asymmetric, Paired], 1, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            (0..3).for_each(|object| pool.put_object(object));
            [pool.take_object(), pool.take_object()]
        };
        drop(both(owner, move || pool.take_object()));
        pool.end();
    });
}

#[test]
fn objects_taken_by_value_leave_blanks_that_no_thief_takes_for_objects() {
    check(&[Asymmetric, Symmetric], 2, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_by_value(0);
            pool.put_by_value(1);
            let own = pool.take_by_value();
            pool.put_by_value(2);
            own
        };
        drop(both(owner, move || pool.take_object()));
        pool.end();
    });
}

#[test]
fn a_thief_by_value_keeps_the_node_of_what_it_took() {
    check(&[Asymmetric, Symmetric], 3, || {
        let pool = Pool::new(POLICY);
        let thief = move || {
            let taken = pool.take_by_value();
            pool.put_by_value(1);
            taken
        };
        let owner = move || {
            pool.put_by_value(0);
            pool.put_object(2);
            pool.take_by_value()
        };
        drop(both(thief, owner));
        pool.end();
    });
}

// ── the choice of fences ──

#[test]
fn an_owner_gives_up_full_fences_while_a_thief_claims() {
    check(&[Paired], 2, || {
        fence::begin_symmetric();
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.take_object()
        };
        let thief = move || {
            fence::switch();
            pool.take_object()
        };
        drop(both(owner, thief));
        pool.end();
    });
}

#[test]
fn a_claim_from_before_the_switch_of_fences_outlives_it() {
    check(&[Paired], 2, || {
        fence::begin_symmetric();
        let pool = Pool::new(POLICY);
        pool.put_object(0);
        fence::switch();
        // It keeps its claim while it waits for the owner, which clears the bit meanwhile.
        let ager = spawn(move || pool.age());
        pool.put_object(1);
        let own = pool.take_object();
        join(ager);
        drop(own);
        pool.end();
    });
}

#[test]
fn a_thief_whose_barrier_fails_takes_nothing() {
    check(&[Paired], 3, || {
        fence::set_failing(true);
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.take_object()
        };
        let (own, stolen) = both(owner, move || pool.take_object());
        assert!(stolen.is_none() || pool.stats().stolen == 0);
        assert_eq!(pool.stats().idle + [own, stolen].iter().flatten().count(), 2);
        pool.end();
    });
}

#[test]
fn an_owner_retires_what_an_ager_whose_barrier_failed_has_asked_for() {
    check(&[Paired], 3, || {
        fence::set_failing(true);
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            let own = pool.take_object();
            pool.put_object(1);
            own
        };
        drop(both(owner, move || pool.age()));
        // The shard that was asked has no owner in this model any more, and an ager that has the barrier empties it.
        fence::set_failing(false);
        pool.age();
        pool.age();
        assert_eq!((pool.census.dropped(), pool.stats().idle), (2, 0));
        pool.end();
    });
}

// ── aging by hand ──

#[test]
fn aging_beside_an_owner_loses_nothing_and_drops_only_what_is_old() {
    check(&[Asymmetric, Symmetric, Paired], 2, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.take_object()
        };
        let (own, ()) = both(owner, move || pool.age());
        assert_eq!(pool.census.dropped(), 0, "one generation drops nothing that was just put");
        drop(own);
        pool.end();
    });
}

#[test]
fn two_generations_reach_every_object_of_a_thread_that_does_nothing() {
    check(&[Asymmetric, Symmetric], 3, || {
        let pool = Pool::new(POLICY);
        (0..3).for_each(|object| pool.put_object(object));
        join(spawn(move || {
            pool.age();
            pool.age();
        }));
        assert_eq!(pool.census.dropped(), 3);
        pool.end();
    });
}

#[test]
fn two_agers_at_once_drop_each_object_once() {
    check(&[Asymmetric, Symmetric], 3, || {
        let pool = Pool::new(POLICY);
        pool.put_object(0);
        pool.put_object(1);
        both(move || pool.age(), move || pool.age());
        pool.end();
    });
}

#[test]
fn an_owner_that_is_asked_to_retire_serves_it() {
    check(&[Asymmetric], 1, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.ask_all_to_retire();
            pool.put_object(2);
            pool.take_object()
        };
        drop(both(owner, move || pool.take_object()));
        pool.age();
        pool.end();
    });
}

#[test]
fn clear_beside_a_thief_leaves_nothing_in_a_shard_that_was_not_asked_to_retire() {
    check(&[Asymmetric, Symmetric], 3, || {
        let pool = Pool::new(POLICY);
        pool.put_object(0);
        pool.put_object(1);
        let (stolen, ()) = both(move || pool.take_object(), move || pool.clear());
        let own = pool.own().unwrap();
        assert!(own.hint() == 0 || own.is_asked_to_retire());
        drop(stolen);
        pool.end();
    });
}

#[test]
fn a_drain_beside_an_owner_gets_what_the_owner_does_not() {
    check(&[Asymmetric, Symmetric], 2, || {
        let pool = Pool::new(POLICY);
        let owner = move || {
            pool.put_by_value(0);
            pool.take_by_value()
        };
        drop(both(owner, move || pool.drain_all()));
        pool.end();
    });
}

#[test]
fn an_aging_inside_a_drop_leaves_what_expires_to_later_operations() {
    loom::thread_local! {
        static IS_DROPPING: std::cell::Cell<bool> = std::cell::Cell::new(false);
    }
    check(&[Asymmetric, Symmetric], 1, || {
        let pool = Pool::new(POLICY);
        (0..3).for_each(|object| pool.put_object(object));
        // What is victim when the first drop begins expires by the aging in it.
        pool.census.call_in_drops(move || {
            assert!(!IS_DROPPING.with(|is_dropping| is_dropping.replace(true)), "drops nest");
            pool.age();
            IS_DROPPING.with(|is_dropping| is_dropping.set(false));
        });
        let ager = move || {
            pool.age();
            pool.age();
        };
        both(ager, move || pool.put_object(3));
        (0..4).for_each(|_| pool.pass_time(None, 1));
        let depot = pool.depot().unwrap();
        assert_eq!(depot.objects(), depot.waiting(pool.cold.turn.get()), "nothing stays expired");
        pool.end();
    });
}

// ── aging by use ──

/// A generation lasts 10 ms.
const AGING: Policy = Policy { period: Some(Duration::from_millis(10)), ..POLICY };

#[test]
fn a_generation_passes_by_use_beside_an_owner() {
    check(&[Asymmetric], 1, || {
        let pool = Pool::new(AGING);
        pool.pass_time(None, 1);
        clock::stop_at(100);
        // Both are on a cold path, and one of them finds that the generation is over.
        let owner = move || {
            pool.put_object(0);
            pool.put_object(1);
            pool.take_object()
        };
        let taken = both(owner, move || pool.take_object());
        assert_eq!(pool.census.dropped(), 0, "one generation drops nothing that was just put");
        drop(taken);
        pool.end();
    });
}

#[test]
fn what_expires_by_use_is_dropped_by_the_operations_that_follow() {
    check(&[Asymmetric, Symmetric], 4, || {
        let pool = Pool::new(AGING);
        // In the depot: what lies in a shard may be asked for instead.
        pool.give_to_depot(full(pool, 0));
        pool.pass_time(None, 1);
        clock::stop_at(100);
        pool.pass_time(None, 1);
        clock::stop_at(200);
        pool.pass_time(None, 1);
        assert_eq!(pool.census.dropped(), 0);
        both(move || pool.pass_time(None, 1), move || pool.pass_time(None, 1));
        // The two may have come for the same magazine.
        pool.pass_time(None, 1);
        pool.cold.counters.puts.fetch_add(2, Relaxed);
        assert_eq!(pool.census.dropped(), 2);
        pool.end();
    });
}

// ── a limit ──

#[test]
fn two_threads_that_find_no_room_drop_no_more_than_they_may_and_lose_nothing() {
    check(&[Asymmetric], 4, || {
        let pool = Pool::new(Policy { max_idle: Some(1), ..POLICY });
        let threads = [0, 10].map(|first| {
            spawn(move || (first..first + 2 * CAPACITY + 1).for_each(|object| pool.put_object(object)))
        });
        threads.into_iter().for_each(join);
        // A magazine holds more objects than the limit.
        let waiting = pool.depot().map_or(0, |depot| depot.waiting(pool.cold.turn.get()));
        assert_eq!(waiting, 0, "{:?}", pool.stats());
        pool.end();
    });
}

// ── the depot ──

/// A thread gives a magazine, into the slot or behind, while another one looks.
fn what_was_given_is_found_by_a_thread_that_looks_later(is_slot_free: bool) {
    let pool = Pool::new(POLICY);
    pool.cold.counters.puts.fetch_add(4, Relaxed);
    pool.give_to_depot(full(pool, 0));
    // The depot still says that it may have something.
    let before = if is_slot_free { pool.drop_from_depot() } else { 0 };
    let giver = spawn(move || pool.give_to_depot(full(pool, CAPACITY)));
    // A thread that finds nothing says so to all, and must not say it of what comes at the same moment. And a thread that
    // finds a magazine finds what is in it.
    // A thread of its own: what the first one does before it waits, loom does not vary enough.
    let early = spawn(move || {
        let looks = if is_slot_free { 1 } else { 2 };
        (0..looks).map(|_| pool.drop_from_depot()).sum::<usize>()
    });
    join(giver);
    let early = join(early);
    let late = pool.drop_from_depot() + pool.drop_from_depot();
    assert_eq!(before + early + late, 2 * CAPACITY, "given once, found once");
    pool.end();
}

#[test]
fn a_magazine_in_a_slot_is_found_also_after_a_look_that_found_nothing() {
    check(&[Asymmetric], 4, || what_was_given_is_found_by_a_thread_that_looks_later(true));
}

#[test]
fn a_magazine_behind_is_found_also_after_a_look_that_found_nothing() {
    check(&[Asymmetric], 4, || what_was_given_is_found_by_a_thread_that_looks_later(false));
}

#[test]
fn two_full_magazines_for_one_slot_are_both_found() {
    check(&[Asymmetric], 4, || {
        let pool = Pool::new(POLICY);
        pool.cold.counters.puts.fetch_add(4, Relaxed);
        let workers = [0, 2].map(|first| {
            spawn(move || {
                pool.give_to_depot(full(pool, first));
                pool.drop_from_depot();
            })
        });
        workers.into_iter().for_each(join);
        while pool.drop_from_depot() > 0 {}
        assert_eq!(pool.census.dropped(), 4);
        pool.end();
    });
}

#[test]
fn magazines_that_two_threads_push_and_pop_pass_through_the_depot_once() {
    check(&[Asymmetric], 4, || {
        let pool = Pool::new(POLICY);
        pool.cold.counters.puts.fetch_add(6, Relaxed);
        // It takes the slot, so that the others go behind.
        pool.give_to_depot(full(pool, 0));
        let workers = [2, 4].map(|first| {
            spawn(move || {
                pool.give_to_depot(full(pool, first));
                pool.drop_from_depot();
            })
        });
        workers.into_iter().for_each(join);
        pool.end();
    });
}

// ── threads that end ──

#[test]
fn an_heir_finds_what_a_dead_thread_left_while_another_steals() {
    check(&[Asymmetric, Symmetric], 1, || {
        let pool = Pool::new(POLICY);
        let thief = spawn(move || pool.take_object());
        let first = move || {
            pool.put_object(0);
            leave();
        };
        let heir = move || {
            pool.put_object(1);
            let own = pool.take_object();
            leave();
            own
        };
        drop((both(first, heir), join(thief)));
        pool.end();
    });
}

#[test]
fn a_thief_and_an_ager_visit_a_shard_without_an_owner() {
    check(&[Asymmetric, Symmetric], 3, || {
        let pool = Pool::new(POLICY);
        join(spawn(move || {
            (0..3).for_each(|object| pool.put_object(object));
            leave();
        }));
        let (stolen, ()) = both(move || pool.take_object(), move || pool.age());
        assert_eq!(pool.census.dropped(), 0);
        pool.age();
        pool.age();
        let held = usize::from(stolen.is_some());
        assert_eq!(pool.census.dropped() + held, 3, "nobody else holds anything: {:?}", pool.stats());
        drop(stolen);
        pool.end();
    });
}

#[test]
fn numbers_pass_from_thread_to_thread_with_the_shards() {
    check(&[Asymmetric, Symmetric], 2, || {
        let pool = Pool::new(POLICY);
        let threads = [0, 1, 2].map(|object| {
            spawn(move || {
                pool.put_object(object);
                drop(pool.take_by_value());
                leave();
            })
        });
        threads.into_iter().for_each(join);
        let count = pool.cold.shard_count.load(Relaxed);
        assert!(count <= 3);
        pool.end();
    });
}
