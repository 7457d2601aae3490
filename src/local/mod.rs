//! Per-thread stocks of objects, and the depot that they trade with.
//!
//! # Protocol
//!
//! ```text
//!   thread A            thread B              anyone
//!  ┌─────────┐         ┌─────────┐         ┌──────────────────┐
//!  │ fresh   │─ spill ▶│         │         │ depot: batches   │
//!  │ victim  │◀─ refill│  ...    │◀─ trade▶│ fresh   victim   │
//!  └─────────┘         └─────────┘         └──────────────────┘
//! ```
//!
//! * A **stock** holds objects of two generations, `fresh` and `victim`, and sits behind a mutex that its
//!   own thread finds free but for the rare visit of a thief, of ageing or of a snapshot.
//! * **put** pushes on the own stock's `fresh`. At [`STOCK`] objects the older half leaves as one batch for the
//!   depot, so that objects which are put on one thread and taken on another travel [`BATCH`] at a time.
//! * **take** looks in this order: own `fresh`, own `victim`, the depot's `fresh`, its `victim`, and at last in
//!   the other threads' stocks, of which it takes half of the first that has something and is not locked.
//! * **age** empties every `victim` and makes every `fresh` the new `victim`: shard by shard, the shards of
//!   parked and of dead threads included. An object that moves between the depot and a stock meanwhile may
//!   live one generation longer; it is one that is being used.
//! * One lock is held at a time, ever, and no object is made, reset or dropped under it: what must go is moved
//!   out first. So a factory, a hook or a `Drop` may use the pool, take long or panic.
//! * A thread that ends leaves its stock where it is: `thread_local` gives the dead thread's number, and with it
//!   the stock, to the next new thread. In thread-local destructors that run after that, the depot serves.

mod thread_end;

use std::mem;

use crossbeam_utils::CachePadded;
use thread_local::ThreadLocal;

use crate::primitive::{Mutex, MutexGuard};
use crate::stats::Stats;

/// What travels between a stock and the depot at once.
pub(crate) const BATCH: usize = 16;

/// A stock's `fresh` holds at most this many.
pub(crate) const STOCK: usize = 2 * BATCH;

/// All that a pool holds. See the module's head for the protocol.
pub(crate) struct Cache<T: Send> {
    /// One stock a thread, each on cache lines of its own: two owners never write to the same line.
    shards: ThreadLocal<CachePadded<Mutex<Stock<T>>>>,
    depot: Mutex<Depot<T>>,
}

/// What one thread holds.
struct Stock<T> {
    /// Put since the last ageing; the most recent last. At most [`STOCK`] long.
    fresh: Vec<T>,
    /// Put between the last ageing and the one before it. Only ever shrinks between two ageings.
    victim: Vec<T>,
    /// This thread's share of the counters; its `idle` stays 0, the lengths tell.
    counts: Stats,
}

/// What belongs to no thread. No batch in it is empty.
struct Depot<T> {
    fresh: Vec<Vec<T>>,
    victim: Vec<Vec<T>>,
    /// The counters of threads without a stock (in their last destructors), and of ageing.
    counts: Stats,
}

/// Objects on their way from one place to another, which ages none of them and makes none young: only being used does.
struct Batch<T> {
    objects: Vec<T>,
    victims: bool,
}

impl<T> Stock<T> {
    const fn new() -> Self {
        Stock { fresh: Vec::new(), victim: Vec::new(), counts: ZERO }
    }

    fn pop(&mut self) -> Option<T> {
        let object = self.fresh.pop().or_else(|| self.victim.pop())?;
        self.counts.hits += 1;
        Some(object)
    }

    /// Half of one generation, the older objects, at least one where there is any.
    fn give_half(&mut self) -> Option<Batch<T>> {
        let victims = self.fresh.is_empty();
        let from = if victims { &mut self.victim } else { &mut self.fresh };
        let half = from.len().div_ceil(2).min(BATCH);
        (half > 0).then(|| Batch { objects: from.drain(..half).collect(), victims })
    }

    /// Takes objects in, as young or old as they are.
    fn take_in(&mut self, mut batch: Batch<T>) {
        let to = if batch.victims { &mut self.victim } else { &mut self.fresh };
        to.append(&mut batch.objects);
    }

    fn snapshot(&self) -> Stats {
        Stats { idle: self.fresh.len() + self.victim.len(), ..self.counts }
    }
}

impl<T> Depot<T> {
    fn snapshot(&self) -> Stats {
        let idle = self.fresh.iter().chain(&self.victim).map(Vec::len).sum();
        Stats { idle, ..self.counts }
    }
}

const ZERO: Stats = Stats { made: 0, hits: 0, stolen: 0, kept: 0, refused: 0, aged: 0, cleared: 0, idle: 0 };

impl<T: Send> Cache<T> {
    pub(crate) const fn new() -> Self {
        Cache {
            shards: ThreadLocal::new(),
            depot: Mutex::new(Depot { fresh: Vec::new(), victim: Vec::new(), counts: ZERO }),
        }
    }

    /// The calling thread's stock, locked; made on the thread's first visit. `None` in a thread-local
    /// destructor that runs so late that the thread has given its number back.
    #[inline]
    fn own(&self) -> Option<MutexGuard<'_, Stock<T>>> {
        let shard = match self.shards.get() {
            Some(shard) if !thread_end::unseen() => shard,
            _ => thread_end::insert(|| self.shards.get_or(|| CachePadded::new(Mutex::new(Stock::new()))))?,
        };
        Some(shard.lock())
    }

    /// An object that the pool holds; `None` if it has none, or none that can be reached without waiting for
    /// a thread that is at work on it.
    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        if let Some(object) = self.own().and_then(|mut own| own.pop()) {
            return Some(object);
        }
        self.take_elsewhere()
    }

    #[cold]
    fn take_elsewhere(&self) -> Option<T> {
        let (mut batch, stolen) = match self.take_from_depot() {
            Some(batch) => (batch, 0),
            None => (self.steal()?, 1),
        };
        let object = batch.objects.pop()?;
        match self.own() {
            Some(mut own) => {
                own.counts.hits += 1;
                own.counts.stolen += stolen;
                // Only this thread adds to its stock, it was empty, and no code of a user has run since: a
                // batch fits.
                own.take_in(batch);
            }
            None => {
                let mut depot = self.depot.lock();
                depot.counts.hits += 1;
                depot.counts.stolen += stolen;
                drop(depot);
                self.give_to_depot(batch);
            }
        }
        Some(object)
    }

    fn take_from_depot(&self) -> Option<Batch<T>> {
        let mut depot = self.depot.lock();
        let fresh = depot.fresh.pop().map(|objects| Batch { objects, victims: false });
        fresh.or_else(|| depot.victim.pop().map(|objects| Batch { objects, victims: true }))
    }

    fn give_to_depot(&self, batch: Batch<T>) {
        if !batch.objects.is_empty() {
            let mut depot = self.depot.lock();
            let generation = if batch.victims { &mut depot.victim } else { &mut depot.fresh };
            generation.push(batch.objects);
        }
    }

    /// Half of what another thread holds. A stock that is locked is passed by.
    fn steal(&self) -> Option<Batch<T>> {
        self.shards.iter().find_map(|shard| shard.try_lock()?.give_half())
    }

    /// Keeps an object.
    #[inline]
    pub(crate) fn put(&self, object: T) {
        let Some(mut own) = self.own() else { return self.put_in_depot(object) };
        own.counts.kept += 1;
        if own.fresh.len() < STOCK {
            own.fresh.push(object);
            return;
        }
        let batch = Batch { objects: own.fresh.drain(..BATCH).collect(), victims: false };
        own.fresh.push(object);
        drop(own);
        self.give_to_depot(batch);
    }

    #[cold]
    fn put_in_depot(&self, object: T) {
        let mut depot = self.depot.lock();
        depot.counts.kept += 1;
        depot.fresh.push(vec![object]);
    }

    /// Counts something that happened outside of take and put.
    pub(crate) fn count(&self, add: impl FnOnce(&mut Stats)) {
        match self.own() {
            Some(mut own) => add(&mut own.counts),
            None => add(&mut self.depot.lock().counts),
        }
    }

    /// One generation passes. The objects whose time is up are dropped here, after the last lock is released.
    pub(crate) fn age(&self) {
        let mut due: Vec<T> = Vec::new();
        {
            let mut depot = self.depot.lock();
            let fresh = mem::take(&mut depot.fresh);
            due.extend(mem::replace(&mut depot.victim, fresh).into_iter().flatten());
        }
        for shard in self.shards.iter() {
            let mut stock = shard.lock();
            let fresh = mem::take(&mut stock.fresh);
            due.append(&mut mem::replace(&mut stock.victim, fresh));
        }
        self.depot.lock().counts.aged += due.len() as u64;
        // If one object's drop panics, a vector still drops the others before the panic goes on.
        drop(due);
    }

    /// Drops all that the pool holds, of every thread.
    pub(crate) fn clear(&self) {
        let mut due: Vec<T> = Vec::new();
        {
            let mut depot = self.depot.lock();
            due.extend(mem::take(&mut depot.fresh).into_iter().flatten());
            due.extend(mem::take(&mut depot.victim).into_iter().flatten());
        }
        for shard in self.shards.iter() {
            let mut stock = shard.lock();
            due.append(&mut stock.fresh);
            due.append(&mut stock.victim);
        }
        self.depot.lock().counts.cleared += due.len() as u64;
        drop(due);
    }

    /// The counters, added up shard by shard. Waits for each shard's lock, which is held for a few moves.
    pub(crate) fn stats(&self) -> Stats {
        let mut sum = self.depot.lock().snapshot();
        for shard in self.shards.iter() {
            sum += &shard.lock().snapshot();
        }
        sum
    }

    /// As [`stats`](Self::stats), but without what is locked at this moment: for `Debug`, which never blocks.
    pub(crate) fn stats_without_waiting(&self) -> Stats {
        let mut sum = self.depot.try_lock().map_or(ZERO, |depot| depot.snapshot());
        for shard in self.shards.iter() {
            if let Some(stock) = shard.try_lock() {
                sum += &stock.snapshot();
            }
        }
        sum
    }
}
