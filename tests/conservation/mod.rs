//! A pool under random load, and a ledger in which each object's whereabouts are written down.
//!
//! ```text
//!            the factory            a taker                 the hook, or the giver
//!  (unborn) ─────────────▶ new ───────────────▶ held ◀──────────────────────────────▶ pooled
//!                           │                    │              a taker                 │
//!                           └────────────────────┴──────────▶ dropped ◀─────────────────┘
//! ```
//!
//! Each step is one exchange of a byte that outlives the object, and a step from a state that the picture does not
//! have an arrow from ends the process at once: an object that was handed out twice, used or kept after its
//! drop, or dropped twice. At the end, whatever was made must have been dropped, and the pool's own counters must be the
//! ledger's.
//!
//! The ledger is Relaxed throughout, and what an object carries beside it is plain memory: so the ledger orders nothing
//! that the pool should have ordered, neither for the processor nor for a race detector.

// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod race;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::abort;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use cenote::{OwnedPooled, PoolConfig, Pooled, Stats, SyncPool};

/// How many operations in all; each get and each put is one.
pub fn operations(default: u64) -> u64 {
    match std::env::var("CENOTE_STRESS_OPS") {
        Ok(text) => text.parse().expect("CENOTE_STRESS_OPS is a number"),
        Err(_) => default,
    }
}

/// What to run. Two runs of one plan make the same choices on each thread; how the threads interleave is the system's.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub operations: u64,
    /// Threads at work at once. Each ends after a while, and another is born.
    pub threads: u64,
    /// Of the pool's aging by use; `None`: by hand alone.
    pub period: Option<Duration>,
    /// Of the objects that wait in the depot.
    pub max_idle: Option<usize>,
    /// Whether factories, hooks and drops panic now and then.
    pub panics: bool,
}

/// A random number generator: xorshift64*, Vigna 2016.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Never zero, and unlike for seeds that are alike.
        Dice((seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const UNBORN: u8 = 0;
const NEW: u8 = 1;
const HELD: u8 = 2;
const POOLED: u8 = 3;
const DROPPED: u8 = 4;
const NAMES: [&str; 5] = ["unborn", "new", "held", "pooled", "dropped"];

/// Where each object is.
struct Ledger<const SIZE: usize> {
    plan: Plan,
    /// As many as there can be objects, and more.
    states: Box<[AtomicU8]>,
    born: AtomicU64,
    dropped: AtomicU64,
    /// Takes that found an object in the pool.
    hits: AtomicU64,
    refused: AtomicU64,
    /// For objects that use the pool in their drop. It dangles when the pool is dropped itself.
    world: OnceLock<Weak<World<SIZE>>>,
}

impl<const SIZE: usize> Ledger<SIZE> {
    fn violated(&self, what: std::fmt::Arguments<'_>) -> ! {
        // No panic: this may come from a drop, and what comes after is not worth having.
        eprintln!("conservation violated with {:?}, {SIZE} more bytes an object: {what}", self.plan);
        abort();
    }

    fn state(&self, id: u64) -> &AtomicU8 {
        &self.states[id as usize]
    }

    /// The object goes `to`. Returns whence.
    fn step(&self, id: u64, to: u8, from: &[u8]) -> u8 {
        let was = self.state(id).swap(to, Relaxed);
        if !from.contains(&was) {
            self.violated(format_args!(
                "object {id} became {} when it was {}",
                NAMES[to as usize], NAMES[was as usize]
            ));
        }
        was
    }

    fn count(&self, state: u8) -> usize {
        (0..self.born.load(Relaxed)).filter(|id| self.state(*id).load(Relaxed) == state).count()
    }
}

/// What an object does at the next occasion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Calm,
    /// The hook says no.
    Refused,
    /// The hook, or the drop, panics.
    Panics,
    /// The hook, or the drop, uses the pool.
    Reenters,
}

/// In a box, so that a use after a drop is a use after a free.
struct Body<const SIZE: usize> {
    id: u64,
    /// Whose it is: written by each holder, plainly, and still there when the holder gives it back.
    holder: u64,
    in_hook: Mood,
    in_drop: Mood,
    ledger: Arc<Ledger<SIZE>>,
}

/// Pointer-sized for a `SIZE` of 0.
pub struct Tracked<const SIZE: usize> {
    body: Box<Body<SIZE>>,
    /// All of one value: a torn move would show.
    rest: [u8; SIZE],
}

/// The payload of the panics that are part of the plan.
struct Planned;

fn panic_as_planned() -> ! {
    // Without the panic hook: there will be thousands.
    resume_unwind(Box::new(Planned))
}

/// Runs `work`, which may panic as planned.
fn survive<R>(work: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(panic) => {
            if let Err(panic) = panic.downcast::<Planned>() {
                let panic: Box<dyn Any + Send> = panic;
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                eprintln!("conservation: an unplanned panic: {text:?}");
                abort();
            }
            None
        }
    }
}

/// Runs what it holds in the destructors of its thread.
struct Late(Cell<Option<Box<dyn FnOnce()>>>);

impl Drop for Late {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

thread_local! {
    static LATE: Late = const { Late(Cell::new(None)) };
    /// How deep in the drop of objects that use the pool.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

impl<const SIZE: usize> Tracked<SIZE> {
    fn new(ledger: &Arc<Ledger<SIZE>>) -> Self {
        let id = ledger.born.fetch_add(1, Relaxed);
        ledger.step(id, NEW, &[UNBORN]);
        let body = Body {
            id,
            holder: u64::MAX,
            in_hook: Mood::Calm,
            in_drop: Mood::Calm,
            ledger: Arc::clone(ledger),
        };
        Tracked { body: Box::new(body), rest: [id as u8; SIZE] }
    }

    /// The caller has got it from the pool.
    fn taken(&mut self, holder: u64) {
        let was = self.body.ledger.step(self.body.id, HELD, &[NEW, POOLED]);
        if was == POOLED {
            self.body.ledger.hits.fetch_add(1, Relaxed);
        }
        self.body.holder = holder;
        self.check(holder);
        self.body.in_hook = Mood::Calm;
        self.body.in_drop = Mood::Calm;
    }

    fn check(&self, holder: u64) {
        if self.body.holder != holder {
            self.body.ledger.violated(format_args!(
                "object {}, of holder {holder}, has met another, {}",
                self.body.id, self.body.holder
            ));
        }
        if self.rest.iter().any(|byte| *byte != self.body.id as u8) {
            self.body.ledger.violated(format_args!("object {} is not in one piece", self.body.id));
        }
    }

    /// The recycle hook.
    fn recycle(&mut self) -> bool {
        let ledger = &self.body.ledger;
        match self.body.in_hook {
            Mood::Calm => {}
            Mood::Refused => {
                ledger.refused.fetch_add(1, Relaxed);
                return false;
            }
            Mood::Panics => panic_as_planned(),
            Mood::Reenters => use_pool(ledger),
        }
        ledger.step(self.body.id, POOLED, &[NEW, HELD]);
        true
    }
}

/// A get and a put from within a hook or a drop.
fn use_pool<const SIZE: usize>(ledger: &Ledger<SIZE>) {
    let Some(world) = ledger.world.get().and_then(Weak::upgrade) else { return };
    if DEPTH.get() >= 2 {
        return;
    }
    DEPTH.set(DEPTH.get() + 1);
    // A panic in here would come out of a drop that comes out of a drop.
    survive(|| {
        let mut object = world.pool.take();
        object.taken(7);
        world.pool.put(object);
        if let Some(mut object) = world.pool.try_take() {
            object.taken(8);
        }
    });
    DEPTH.set(DEPTH.get() - 1);
}

impl<const SIZE: usize> Drop for Tracked<SIZE> {
    fn drop(&mut self) {
        let body = &mut *self.body;
        let ledger = &body.ledger;
        ledger.step(body.id, DROPPED, &[NEW, HELD, POOLED]);
        ledger.dropped.fetch_add(1, Relaxed);
        if thread::panicking() {
            return;
        }
        match body.in_drop {
            Mood::Calm | Mood::Refused => {}
            Mood::Panics => panic_as_planned(),
            Mood::Reenters => use_pool(ledger),
        }
    }
}

type Factory<const SIZE: usize> = Box<dyn Fn() -> Tracked<SIZE> + Send + Sync>;
type Pool<const SIZE: usize> = SyncPool<Tracked<SIZE>, Factory<SIZE>>;

struct World<const SIZE: usize> {
    pool: Arc<Pool<SIZE>>,
    ledger: Arc<Ledger<SIZE>>,
    /// Objects on their way from thread to thread.
    post: Post<SIZE>,
    /// Operations that are left to do.
    budget: AtomicI64,
    over: AtomicBool,
    births: AtomicU64,
}

/// Behind a lock of our own: a race detector sees into it without an instrumented `std`.
struct Post<const SIZE: usize> {
    taken: AtomicBool,
    letters: UnsafeCell<VecDeque<Tracked<SIZE>>>,
}

// SAFETY: `with` lets one thread in at a time.
unsafe impl<const SIZE: usize> Sync for Post<SIZE> {}

impl<const SIZE: usize> Post<SIZE> {
    /// `work` must not panic.
    fn with<R>(&self, work: impl FnOnce(&mut VecDeque<Tracked<SIZE>>) -> R) -> R {
        while self.taken.swap(true, Acquire) {
            thread::yield_now();
        }
        // SAFETY: we have the lock.
        let result = work(unsafe { &mut *self.letters.get() });
        self.taken.store(false, Release);
        result
    }
}

/// What a thread has in its hands.
struct Hands<'a, const SIZE: usize> {
    world: &'a World<SIZE>,
    dice: Dice,
    me: u64,
    objects: Vec<Tracked<SIZE>>,
    guards: Vec<Pooled<'a, Tracked<SIZE>, Factory<SIZE>>>,
    owned: Vec<OwnedPooled<Tracked<SIZE>, Factory<SIZE>>>,
    done: i64,
    /// What the pool said last.
    seen: Stats,
}

/// All counters but the gauge `idle`, of two snapshots.
fn only_grew(before: &Stats, after: &Stats) -> bool {
    let counters =
        |s: &Stats| [s.made, s.hits, s.stolen, s.kept, s.refused, s.shed, s.aged, s.cleared, s.drained];
    counters(before).iter().zip(counters(after)).all(|(before, after)| *before <= after)
}

impl<'a, const SIZE: usize> Hands<'a, SIZE> {
    fn mood(&mut self) -> Mood {
        match self.dice.below(600) {
            0 | 1 => Mood::Reenters,
            2 if self.world.ledger.plan.panics => Mood::Panics,
            _ => Mood::Calm,
        }
    }

    /// Before it goes back.
    fn part_with(&mut self, object: &mut Tracked<SIZE>) {
        object.check(self.me);
        object.body.in_hook = if self.dice.one_in(200) { Mood::Refused } else { self.mood() };
        object.body.in_drop = self.mood();
        self.done += 1;
    }

    fn take(&mut self) -> Tracked<SIZE> {
        self.done += 1;
        let mut object = self.world.pool.take();
        object.taken(self.me);
        object
    }

    fn put(&mut self, mut object: Tracked<SIZE>) {
        self.part_with(&mut object);
        self.world.pool.put(object);
    }

    fn any_object(&mut self) -> Option<Tracked<SIZE>> {
        if self.objects.is_empty() {
            return None;
        }
        let index = self.dice.below(self.objects.len() as u64) as usize;
        Some(self.objects.swap_remove(index))
    }

    /// One random thing. May panic as planned.
    fn act(&mut self) {
        let pool: &'a Arc<Pool<SIZE>> = &self.world.pool;
        match self.dice.below(1000) {
            // A get and a put.
            0..350 => {
                self.done += 1;
                let mut guard = pool.get();
                guard.taken(self.me);
                self.part_with(&mut guard);
            }
            350..430 => {
                let object = self.take();
                self.objects.push(object);
            }
            430..520 => {
                if let Some(object) = self.any_object() {
                    self.put(object);
                }
            }
            520..580 => {
                self.done += 1;
                if let Some(mut object) = pool.try_take() {
                    object.taken(self.me);
                    self.objects.push(object);
                }
            }
            580..610 => {
                self.done += 1;
                let mut guard = pool.get();
                guard.taken(self.me);
                self.guards.push(guard);
            }
            610..640 => {
                self.done += 1;
                let mut guard = pool.get_owned();
                guard.taken(self.me);
                self.owned.push(guard);
            }
            640..670 => {
                if let Some(mut guard) = self.guards.pop() {
                    self.part_with(&mut guard);
                }
            }
            670..700 => {
                if let Some(mut guard) = self.owned.pop() {
                    self.part_with(&mut guard);
                }
            }
            700..710 => {
                if let Some(guard) = self.guards.pop() {
                    self.objects.push(Pooled::detach(guard));
                }
                if let Some(guard) = self.owned.pop() {
                    self.objects.push(OwnedPooled::detach(guard));
                }
            }
            // A burst.
            710..730 => {
                let count = 1 + self.dice.below(100);
                for _ in 0..count {
                    let object = self.take();
                    self.objects.push(object);
                }
                for _ in 0..count + self.dice.below(8) {
                    if let Some(object) = self.any_object() {
                        self.put(object);
                    }
                }
            }
            // Sent to another thread.
            730..800 => {
                let mut object = self.take();
                object.body.holder = u64::MAX - 1;
                self.world.post.with(|letters| letters.push_back(object));
            }
            // Received, to be given back here.
            800..900 => {
                let letter = self.world.post.with(VecDeque::pop_front);
                if let Some(mut object) = letter {
                    object.check(u64::MAX - 1);
                    object.body.holder = self.me;
                    self.put(object);
                }
            }
            // Gone for good.
            900..910 => {
                if let Some(mut object) = self.any_object() {
                    object.body.in_drop = self.mood();
                    drop(object);
                }
            }
            // A stranger that the pool did not make.
            910..915 => {
                let mut object = Tracked::new(&self.world.ledger);
                object.body.holder = self.me;
                self.put(object);
            }
            915..930 => {
                self.done += 1;
                let panics = self.world.ledger.plan.panics && self.dice.one_in(2);
                let ledger = &self.world.ledger;
                let mut object = pool.take_or_else(|| {
                    if panics {
                        panic_as_planned();
                    }
                    use_pool(ledger);
                    Tracked::new(ledger)
                });
                object.taken(self.me);
                self.objects.push(object);
            }
            930..932 => {
                let stats = pool.stats();
                if !only_grew(&self.seen, &stats) {
                    self.world
                        .ledger
                        .violated(format_args!("a counter fell: {:?}, then {stats:?}", self.seen));
                }
                self.seen = stats;
            }
            932 => pool.age(),
            933 if self.dice.one_in(4) => pool.clear(),
            // All out of hand.
            934..940 => {
                while let Some(object) = self.any_object() {
                    self.put(object);
                }
            }
            _ => self.done += 1,
        }
    }
}

impl<const SIZE: usize> World<SIZE> {
    /// One thread's life.
    fn live(&self, mut dice: Dice) {
        // Destructors run in the reverse order: this one, older than all that the pool registers, comes last, when the thread's
        // shard has been given to others.
        if dice.one_in(2) {
            let ledger = Arc::clone(&self.ledger);
            let count = dice.below(200);
            LATE.with(|late| late.0.set(Some(Box::new(move || (0..count).for_each(|_| use_pool(&ledger))))));
        }
        let me = 100 + self.births.fetch_add(1, Relaxed);
        // Most lives are short.
        let longest = 1 << dice.below(15);
        let life = 1 + dice.below(longest) as i64;
        let mut hands = Hands {
            world: self,
            dice,
            me,
            objects: Vec::new(),
            guards: Vec::new(),
            owned: Vec::new(),
            done: 0,
            seen: Stats::default(),
        };
        while hands.done < life {
            survive(|| hands.act());
        }
        self.budget.fetch_sub(hands.done, Relaxed);
        let Hands { objects, guards, owned, .. } = hands;
        // Held to the end: one after the other, for each may panic. The guards go back to the pool.
        objects.into_iter().for_each(|object| {
            survive(|| drop(object));
        });
        guards.into_iter().for_each(|guard| {
            survive(|| drop(guard));
        });
        owned.into_iter().for_each(|guard| {
            survive(|| drop(guard));
        });
    }

    fn age_from_outside(&self, mut dice: Dice) {
        while !self.over.load(Relaxed) {
            survive(|| match dice.below(10) {
                0 => self.pool.clear(),
                1..8 => self.pool.age(),
                _ => drop(self.pool.stats()),
            });
            thread::sleep(Duration::from_micros(dice.below(2000)));
        }
    }
}

/// Runs a plan to its end with objects of `SIZE` bytes more than a pointer's.
pub fn run<const SIZE: usize>(plan: Plan) {
    let most = 2 * plan.operations as usize + (1 << 20);
    // Zeroed by the system, page by page as they are used.
    let states = Box::into_raw(vec![UNBORN; most].into_boxed_slice());
    let ledger = Arc::new(Ledger {
        plan,
        // SAFETY: an atomic byte has the layout of a byte, and the box is ours.
        states: unsafe { Box::from_raw(states as *mut [AtomicU8]) },
        born: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        world: OnceLock::new(),
    });
    let world = Arc::new_cyclic(|world: &Weak<World<SIZE>>| {
        ledger.world.get_or_init(|| world.clone());
        let calls = AtomicU64::new(0);
        let of_factory = Arc::clone(&ledger);
        let factory: Factory<SIZE> = Box::new(move || {
            let call = calls.fetch_add(1, Relaxed);
            if call % 97 == 13 {
                use_pool(&of_factory);
            }
            if plan.panics && call % 101 == 17 {
                panic_as_planned();
            }
            Tracked::new(&of_factory)
        });
        let config = PoolConfig::new().recycle(Tracked::recycle);
        let config = match plan.period {
            Some(period) => config.period(period),
            None => config.age_by_hand(),
        };
        let config = match plan.max_idle {
            Some(objects) => config.max_idle(objects),
            None => config,
        };
        World {
            pool: Arc::new(SyncPool::with_config(factory, config)),
            ledger: Arc::clone(&ledger),
            post: Post { taken: AtomicBool::new(false), letters: UnsafeCell::default() },
            budget: AtomicI64::new(plan.operations as i64),
            over: AtomicBool::new(false),
            births: AtomicU64::new(0),
        }
    });

    // What `std` does once, under a lock of its own, comes before the threads: a race detector does not see that lock.
    survive(|| use_pool(&ledger));
    world.pool.age();
    thread::scope(|scope| {
        let ager = scope.spawn(|| world.age_from_outside(Dice::new(plan.seed ^ 0xA6E)));
        let slots: Vec<_> = (0..plan.threads)
            .map(|slot| {
                let world = &world;
                scope.spawn(move || {
                    let mut dice = Dice::new(plan.seed.wrapping_add(slot << 32));
                    while world.budget.load(Relaxed) > 0 {
                        let dice = Dice::new(dice.next());
                        thread::scope(|life| life.spawn(|| world.live(dice)).join().unwrap());
                    }
                })
            })
            .collect();
        slots.into_iter().for_each(|slot| slot.join().unwrap());
        world.over.store(true, Relaxed);
        ager.join().unwrap();
    });

    // All is quiet: the pool's own books against the ledger's.
    let letters = world.post.with(std::mem::take);
    letters.into_iter().for_each(|object| {
        survive(|| drop(object));
    });
    let stats = world.pool.stats();
    let (hits, pooled) = (ledger.hits.load(Relaxed), ledger.count(POOLED));
    if stats.kept != stats.hits + stats.shed + stats.aged + stats.cleared + stats.drained + pooled as u64 {
        ledger.violated(format_args!("these do not add up: {stats:?}"));
    }
    if stats.idle != pooled {
        ledger.violated(format_args!("{pooled} objects are in the pool, says the ledger, but {stats:?}"));
    }
    if stats.hits != hits {
        ledger.violated(format_args!("{hits} takes hit, says the ledger, but {stats:?}"));
    }
    if stats.refused != ledger.refused.load(Relaxed) {
        ledger.violated(format_args!(
            "{} were refused, says the ledger, but {stats:?}",
            ledger.refused.load(Relaxed)
        ));
    }
    if ledger.count(HELD) != 0 {
        ledger.violated(format_args!("{} objects are held by nobody", ledger.count(HELD)));
    }

    let births = world.births.load(Relaxed);
    let mut world = Some(world);
    survive(|| drop(world.take()));
    let (born, dropped) = (ledger.born.load(Relaxed), ledger.dropped.load(Relaxed));
    if born != dropped {
        ledger.violated(format_args!("{born} objects were made and {dropped} dropped"));
    }
    println!("{plan:?}: {births} threads, {born} objects, {stats:?}");
}
