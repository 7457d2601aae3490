//! Models of the shards and the depot for loom: every interleaving, within a bound on preemptions, of a few threads that do
//! a few operations each. Run with
//!
//! ```sh
//! RUSTFLAGS="--cfg cenote_loom" cargo test --release --lib --target-dir target/loom
//! ```
//!
//! A shard holds two objects here and a magazine two. Each model checks conservation: every object that was put is
//! afterwards with a taker, in the pool, or dropped, and that once. loom itself reports races on the objects' places.
//!
//! Not modelled: `membarrier` itself (the asymmetric fence is a symmetric one here), epochs (nodes are freed at the end of
//! the model), and `thread_local`, whose numbers and their lock are rebuilt in `primitive::thread_map`.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

use loom::sync::Arc;
use loom::thread;

use super::Cache;
use crate::primitive::{fence, reclaim};

/// Checks a model in both modes of the fence.
fn check(model: impl Fn() + Sync + Send + Copy + 'static) {
    check_within(3, model);
}

/// With another bound on preemptions, for a model that would take too long.
fn check_within(preemptions: usize, model: impl Fn() + Sync + Send + Copy + 'static) {
    for symmetric in [false, true] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            fence::set_symmetric(symmetric);
            model();
            reclaim::free_all();
        });
    }
}

/// An object that counts its drop, and panics at the second.
#[derive(Debug)]
struct Object {
    number: usize,
    drops: StdArc<[AtomicUsize; 8]>,
}

impl Drop for Object {
    fn drop(&mut self) {
        let before = self.drops[self.number].fetch_add(1, StdOrdering::Relaxed);
        assert_eq!(before, 0, "object {} dropped twice", self.number);
    }
}

#[derive(Clone, Default)]
struct Census(StdArc<[AtomicUsize; 8]>);

impl Census {
    fn object(&self, number: usize) -> Object {
        Object { number, drops: StdArc::clone(&self.0) }
    }

    fn dropped(&self, number: usize) -> usize {
        self.0[number].load(StdOrdering::Relaxed)
    }

    /// The pool is gone: all that were made are dropped.
    fn assert_all_dropped(&self, made: usize) {
        for number in 0..made {
            assert_eq!(self.dropped(number), 1, "object {number} leaked");
        }
    }
}

fn cache() -> Arc<Cache<Object>> {
    Arc::new(Cache::new(true, None, None))
}

/// Ends the model: drops the pool, then looks.
fn end(cache: Arc<Cache<Object>>, census: &Census, made: usize) {
    let stats = cache.stats();
    assert!(stats.idle <= made, "{stats:?}");
    drop(cache);
    census.assert_all_dropped(made);
}

#[test]
fn an_owner_and_a_thief_never_get_the_same_object() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        let thief = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || cache.take().map(|object| object.number))
        };
        cache.put(census.object(1));
        let own = cache.take().map(|object| object.number);
        let stolen = thief.join().unwrap();
        assert!(own.is_none() || own != stolen);
        end(cache, &census, 2);
    });
}

#[test]
fn two_thieves_and_an_owner_share_out_what_there_is() {
    check_within(2, || {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        cache.put(census.object(1));
        let thieves: Vec<_> = (0..2)
            .map(|_| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || drop(cache.take()))
            })
            .collect();
        drop(cache.take());
        for thief in thieves {
            thief.join().unwrap();
        }
        end(cache, &census, 2);
    });
}

#[test]
fn ageing_beside_an_owner_loses_nothing_and_drops_only_what_is_old() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        let ager = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || cache.age())
        };
        cache.put(census.object(1));
        drop(cache.take());
        ager.join().unwrap();
        assert!(census.dropped(0) + census.dropped(1) <= 1, "one generation drops nothing that was just put");
        end(cache, &census, 2);
    });
}

#[test]
fn two_generations_reach_every_object_of_a_thread_that_does_nothing() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        cache.put(census.object(1));
        cache.put(census.object(2));
        let ager = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                cache.age();
                cache.age();
            })
        };
        ager.join().unwrap();
        census.assert_all_dropped(3);
        end(cache, &census, 3);
    });
}

#[test]
fn two_agers_at_once_drop_each_object_once() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        cache.put(census.object(1));
        let agers: Vec<_> = (0..2)
            .map(|_| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || cache.age())
            })
            .collect();
        for ager in agers {
            ager.join().unwrap();
        }
        end(cache, &census, 2);
    });
}

/// Of so many objects; a full one (of two) has a place in front, another lies on the stack behind.
fn what_was_given_is_found_by_who_looks_later(objects: usize) {
    let (cache, census) = (cache(), Census::default());
    let giver = {
        let (cache, census) = (Arc::clone(&cache), census.clone());
        thread::spawn(move || cache.give_for_models((0..objects).map(|number| census.object(number))))
    };
    // Who finds nothing says so to all, and must not say it of what comes at the same moment. And who finds it, finds what
    // is in it.
    let look =
        |cache: &Cache<Object>| cache.take_from_depot_for_models().map_or(0, |magazine| magazine.len());
    let early = {
        let cache = Arc::clone(&cache);
        // A thread of its own: what the first one does before it waits, loom does not vary enough.
        thread::spawn(move || look(&cache))
    };
    giver.join().unwrap();
    let early = early.join().unwrap();
    assert_eq!(early + look(&cache), objects, "given once, found once");
    end(cache, &census, objects);
}

#[test]
fn a_magazine_in_front_is_found_also_by_who_comes_after_one_that_found_nothing() {
    check(|| what_was_given_is_found_by_who_looks_later(2));
}

#[test]
fn a_magazine_behind_is_found_also_by_who_comes_after_one_that_found_nothing() {
    check(|| what_was_given_is_found_by_who_looks_later(1));
}

#[test]
fn two_full_magazines_for_one_place_are_both_found() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        let workers = [0, 2].map(|first| {
            let (cache, census) = (Arc::clone(&cache), census.clone());
            thread::spawn(move || {
                cache.give_for_models([census.object(first), census.object(first + 1)]);
                drop(cache.take_from_depot_for_models());
            })
        });
        for worker in workers {
            worker.join().unwrap();
        }
        while let Some(left) = cache.take_from_depot_for_models() {
            drop(left);
        }
        census.assert_all_dropped(4);
        end(cache, &census, 4);
    });
}

#[test]
fn magazines_that_two_threads_push_and_pop_pass_through_the_depot_once() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        let worker = {
            let (cache, census) = (Arc::clone(&cache), census.clone());
            thread::spawn(move || {
                cache.give_for_models([census.object(0)]);
                drop(cache.take_from_depot_for_models());
            })
        };
        cache.give_for_models([census.object(1)]);
        drop(cache.take_from_depot_for_models());
        worker.join().unwrap();
        end(cache, &census, 2);
    });
}

#[test]
fn an_heir_finds_what_a_dead_thread_left_while_another_steals() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        let first = {
            let (cache, census) = (Arc::clone(&cache), census.clone());
            thread::spawn(move || {
                cache.put(census.object(0));
                cache.leave_for_models();
            })
        };
        let heir = {
            let (cache, census) = (Arc::clone(&cache), census.clone());
            thread::spawn(move || {
                cache.put(census.object(1));
                drop(cache.take());
                cache.leave_for_models();
            })
        };
        drop(cache.take());
        first.join().unwrap();
        heir.join().unwrap();
        end(cache, &census, 2);
    });
}

#[test]
fn an_owner_that_is_asked_to_retire_serves_it() {
    check(|| {
        let (cache, census) = (cache(), Census::default());
        cache.put(census.object(0));
        cache.ask_all_to_retire_for_models();
        let thief = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || drop(cache.take()))
        };
        cache.put(census.object(1));
        thief.join().unwrap();
        cache.age();
        end(cache, &census, 2);
    });
}
