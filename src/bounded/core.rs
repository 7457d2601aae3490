//! What a pool holds, and which waiter is served next: a pure function, (state, event, now) -> (state,
//! effects).
//!
//! A shell applies one event at a time under its lock, and runs the [`Effects`] after it has released the
//! lock: no waker, no method of a manager and no drop of an object runs under it.
//!
//! # Invariants
//!
//! * `size` (idle + leased + creating + checking + closing) is at most the limit, unless the limit was
//!   lowered.
//! * Waiters are served in order. A newcomer gets an object only when there is no waiter.
//! * **An agent for every waiter**: while there is a waiter, an object is out (leased, checking, or
//!   closing), or a creation is running, is due, or is scheduled for a known time.
//! * Each object is either idle, granted, or with a caller. Nothing is granted to a waiter whose deadline
//!   has passed.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::waiters::{Key, State, Waiters};

/// What the pool knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) id: u64,
    generation: u64,
    pub(super) created: Instant,
    /// When it has lived as long as it may.
    expires: Option<Instant>,
    /// When it came back last.
    returned: Instant,
    /// Whether a caller has had it: it is reset before the next one gets it.
    pub(super) is_used: bool,
}

#[derive(Debug)]
pub(super) struct Object<T> {
    pub(super) value: T,
    pub(super) meta: Meta,
}

/// Why a waiter gets no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure<E> {
    TimedOut,
    Closed,
    /// A creation failed, and the pool does not wait for the next.
    Create(E),
}

/// The options of a pool.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) max_size: usize,
    pub(super) min_size: usize,
    pub(super) max_creating: usize,
    pub(super) max_waiters: usize,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) fail_fast: bool,
    pub(super) is_lifo: bool,
    /// The pauses after failed creations.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
}

/// What the shell does after it has released the lock.
#[must_use]
#[derive(Debug)]
pub(super) struct Effects<T> {
    /// The wakers of waiters that have an outcome.
    pub(super) wake: Vec<Waker>,
    /// Objects to be closed; each counts as closing until [`Core::closed_one`].
    pub(super) close: Vec<Object<T>>,
    /// Whether the worker is to wake, because a creation is due or it would sleep too long.
    pub(super) work: bool,
}

impl<T> Effects<T> {
    pub(super) fn new() -> Self {
        Effects { wake: Vec::new(), close: Vec::new(), work: false }
    }
}

/// What a get comes to.
#[derive(Debug)]
pub(super) enum Got<T> {
    Object(Object<T>),
    Queued(Key),
    Closed,
    /// There are as many waiters as there may be.
    Full,
}

#[derive(Debug)]
pub(super) struct Core<T, E> {
    rules: Rules,
    idle: VecDeque<Object<T>>,
    leased: usize,
    creating: usize,
    checking: usize,
    closing: usize,
    waiters: Waiters<Object<T>, Failure<E>>,
    generation: u64,
    closed: bool,
    made: u64,
    /// Failed creations in a row, and when the next one may begin.
    failures: u32,
    retry_at: Option<Instant>,
    pub(super) last_error: Option<E>,
    /// Until when the worker sleeps, unless it is woken.
    sleeps_until: Option<Instant>,
}

impl<T, E: Clone> Core<T, E> {
    pub(super) fn new(rules: Rules) -> Self {
        Core {
            rules,
            idle: VecDeque::new(),
            leased: 0,
            creating: 0,
            checking: 0,
            closing: 0,
            waiters: Waiters::new(),
            generation: 0,
            closed: false,
            made: 0,
            failures: 0,
            retry_at: None,
            last_error: None,
            sleeps_until: None,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.idle.len() + self.leased + self.creating + self.checking + self.closing
    }

    // ── getters ──

    pub(super) fn get(
        &mut self,
        deadline: Option<Instant>,
        now: Instant,
        effects: &mut Effects<T>,
    ) -> Got<T> {
        if self.closed {
            return Got::Closed;
        }
        if self.waiters.waiting() == 0
            && let Some(object) = self.take_idle(now, effects)
        {
            self.leased += 1;
            return Got::Object(object);
        }
        self.revoke(now, effects);
        if self.waiters.waiting() >= self.rules.max_waiters {
            return Got::Full;
        }
        let key = self.waiters.push_back(deadline);
        self.serve(now, effects);
        Got::Queued(key)
    }

    /// Returns the waiter's outcome, if there is one. An object that it returns is leased.
    pub(super) fn look(&mut self, key: Key, waker: &Waker) -> Option<Result<Object<T>, Failure<E>>> {
        match self.waiters.look(key, waker)? {
            State::Granted(object) => Some(Ok(object)),
            State::Failed(failure) => Some(Err(failure)),
            State::Waiting => None,
        }
    }

    /// The waiter has given up.
    pub(super) fn cancel(&mut self, key: Key, now: Instant, effects: &mut Effects<T>) {
        if let State::Granted(object) = self.waiters.remove(key) {
            // No caller has used it.
            self.leased -= 1;
            self.store(object, now, effects);
        }
    }

    /// A leased object is about to be checked, or reset, by its getter.
    pub(super) fn begin_check(&mut self) {
        self.leased -= 1;
        self.checking += 1;
    }

    pub(super) fn checked(&mut self) {
        self.checking -= 1;
        self.leased += 1;
    }

    /// The object did not pass: its getter waits for another one, at the front of the queue.
    pub(super) fn failed_check(
        &mut self,
        object: Object<T>,
        deadline: Option<Instant>,
        now: Instant,
        effects: &mut Effects<T>,
    ) -> Got<T> {
        self.checking -= 1;
        self.close_object(object, effects);
        if self.closed {
            return Got::Closed;
        }
        let key = self.waiters.push_front(deadline);
        self.serve(now, effects);
        Got::Queued(key)
    }

    // ── what comes back ──

    /// A lease has ended, and its object is as good as before.
    pub(super) fn give_back(&mut self, mut object: Object<T>, now: Instant, effects: &mut Effects<T>) {
        self.leased -= 1;
        object.meta.is_used = true;
        object.meta.returned = now;
        self.store(object, now, effects);
    }

    /// A lease has ended, and its object must not be used again.
    pub(super) fn discard(&mut self, object: Object<T>, now: Instant, effects: &mut Effects<T>) {
        self.leased -= 1;
        self.close_object(object, effects);
        self.serve(now, effects);
    }

    /// The caller keeps the object, which no longer belongs to the pool.
    pub(super) fn detached(&mut self, now: Instant, effects: &mut Effects<T>) {
        self.leased -= 1;
        self.serve(now, effects);
    }

    /// An object of `Effects::close` is closed.
    pub(super) fn closed_one(&mut self, now: Instant, effects: &mut Effects<T>) {
        self.closing -= 1;
        self.serve(now, effects);
    }

    // ── creation ──

    /// Returns whether a creation is to begin now. If so it counts until `created`, `not_created` or
    /// `creation_lost`.
    pub(super) fn begin_creation(&mut self, now: Instant) -> bool {
        let begins = self.wants_creation() && self.retry_at.is_none_or(|at| at <= now);
        self.creating += usize::from(begins);
        begins
    }

    pub(super) fn created(&mut self, value: T, jitter: f64, now: Instant, effects: &mut Effects<T>) {
        self.creating -= 1;
        self.failures = 0;
        self.retry_at = None;
        self.made += 1;
        let expires = self.rules.max_lifetime.and_then(|lifetime| now.checked_add(lifetime.mul_f64(jitter)));
        let meta = Meta {
            id: self.made,
            generation: self.generation,
            created: now,
            expires,
            returned: now,
            is_used: false,
        };
        self.store(Object { value, meta }, now, effects);
    }

    pub(super) fn not_created(&mut self, error: E, now: Instant, effects: &mut Effects<T>) {
        self.creating -= 1;
        let factor = 2u32.saturating_pow(self.failures);
        let pause = self.rules.first_pause.saturating_mul(factor).min(self.rules.longest_pause);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.checked_add(pause);
        let is_alone = self.idle.is_empty() && self.leased + self.checking + self.creating == 0;
        if self.rules.fail_fast && is_alone {
            self.waiters.fail_all(|| Failure::Create(error.clone()), &mut effects.wake);
        }
        self.last_error = Some(error);
        self.serve(now, effects);
    }

    /// A creation ended without an outcome: its task was dropped.
    pub(super) fn creation_lost(&mut self, now: Instant, effects: &mut Effects<T>) {
        self.creating -= 1;
        self.serve(now, effects);
    }

    /// The worker goes to sleep. Returns when it is to call [`tick`](Self::tick), if no
    /// [work](Effects::work) comes before.
    pub(super) fn sleep(&mut self) -> Option<Instant> {
        let due = self.idle.iter().filter_map(|object| self.expiry(&object.meta)).min();
        self.sleeps_until = [due, self.next_attempt()].into_iter().flatten().min();
        self.sleeps_until
    }

    /// When something can be done for the waiters that cannot be done now.
    fn next_attempt(&self) -> Option<Instant> {
        let retry = self.retry_at.filter(|_| self.wants_creation());
        let revocation = if self.waiters.waiting() > 0 { self.waiters.next_revocation() } else { None };
        [retry, revocation].into_iter().flatten().min()
    }

    fn would_oversleep(&self, due: Option<Instant>) -> bool {
        due.is_some_and(|due| self.sleeps_until.is_none_or(|until| due < until))
    }

    pub(super) fn tick(&mut self, now: Instant, effects: &mut Effects<T>) {
        self.close_expired(now, effects);
        self.revoke(now, effects);
        self.serve(now, effects);
    }

    // ── the owner ──

    pub(super) fn resize(&mut self, max_size: usize, now: Instant, effects: &mut Effects<T>) {
        self.rules.max_size = max_size;
        while self.size() - self.closing > max_size
            && let Some(object) = self.idle.pop_front()
        {
            self.close_object(object, effects);
        }
        self.serve(now, effects);
    }

    /// Closes all idle objects; those that are out are closed when they come back.
    pub(super) fn invalidate_all(&mut self, now: Instant, effects: &mut Effects<T>) {
        self.generation += 1;
        while let Some(object) = self.idle.pop_front() {
            self.close_object(object, effects);
        }
        self.serve(now, effects);
    }

    /// Returns false if the pool was closed before.
    pub(super) fn close(&mut self, effects: &mut Effects<T>) -> bool {
        let is_first = !std::mem::replace(&mut self.closed, true);
        self.waiters.fail_all(|| Failure::Closed, &mut effects.wake);
        while let Some(object) = self.idle.pop_front() {
            self.close_object(object, effects);
        }
        is_first
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn counts(&self) -> super::stats::BoundedStats {
        super::stats::BoundedStats {
            size: self.size(),
            idle: self.idle.len(),
            leased: self.leased,
            creating: self.creating,
            checking: self.checking,
            closing: self.closing,
            waiting: self.waiters.waiting(),
            max_size: self.rules.max_size,
        }
    }

    // ── within ──

    fn is_fit(&self, meta: &Meta, now: Instant) -> bool {
        !self.closed && meta.generation == self.generation && meta.expires.is_none_or(|at| now < at)
    }

    fn is_above_limit(&self) -> bool {
        self.size() > self.rules.max_size
    }

    fn take_idle(&mut self, now: Instant, effects: &mut Effects<T>) -> Option<Object<T>> {
        loop {
            let object = match self.rules.is_lifo {
                true => self.idle.pop_back(),
                false => self.idle.pop_front(),
            }?;
            if self.is_fit(&object.meta, now) {
                return Some(object);
            }
            self.close_object(object, effects);
        }
    }

    /// Takes in an object that counts nowhere at the moment: it goes to the first waiter, becomes idle, or is
    /// closed.
    fn store(&mut self, object: Object<T>, now: Instant, effects: &mut Effects<T>) {
        // With this one, which is not counted now.
        let is_surplus = self.size() + 1 > self.rules.max_size;
        if is_surplus || !self.is_fit(&object.meta, now) {
            self.close_object(object, effects);
        } else {
            effects.work |= self.would_oversleep(self.expiry(&object.meta));
            self.idle.push_back(object);
        }
        self.serve(now, effects);
    }

    fn close_object(&mut self, object: Object<T>, effects: &mut Effects<T>) {
        self.closing += 1;
        effects.close.push(object);
    }

    /// Hands idle objects to waiters, and notes whether the worker has something to do.
    fn serve(&mut self, now: Instant, effects: &mut Effects<T>) {
        while !self.idle.is_empty()
            && let Some(next) = self.waiters.next(now, || Failure::TimedOut, &mut effects.wake)
        {
            match self.take_idle(now, effects) {
                Some(object) => {
                    self.leased += 1;
                    self.waiters.grant(next, object, &mut effects.wake);
                }
                None => {
                    self.waiters.put_back(next);
                    break;
                }
            }
        }
        let creates = self.wants_creation() && self.retry_at.is_none_or(|at| at <= now);
        effects.work |= creates || self.would_oversleep(self.next_attempt());
    }

    /// Objects that were granted and not taken in time go to the next waiters.
    fn revoke(&mut self, now: Instant, effects: &mut Effects<T>) {
        while self.waiters.waiting() > 0
            && let Some(object) = self.waiters.revoke(now, || Failure::TimedOut, &mut effects.wake)
        {
            self.leased -= 1;
            self.store(object, now, effects);
        }
    }

    fn wants_creation(&self) -> bool {
        let wanted =
            self.waiters.waiting().max(self.rules.min_size.saturating_sub(self.size() - self.creating));
        !self.closed
            && !self.is_above_limit()
            && self.creating < wanted.min(self.rules.max_creating)
            && self.size() < self.rules.max_size
    }

    /// When an idle object is to be closed.
    fn expiry(&self, meta: &Meta) -> Option<Instant> {
        let unused = self.rules.idle_timeout.and_then(|timeout| meta.returned.checked_add(timeout));
        [unused, meta.expires].into_iter().flatten().min()
    }

    fn close_expired(&mut self, now: Instant, effects: &mut Effects<T>) {
        for object in std::mem::take(&mut self.idle) {
            let has_expired = self.expiry(&object.meta).is_some_and(|at| at <= now);
            if has_expired || !self.is_fit(&object.meta, now) {
                self.close_object(object, effects);
            } else {
                self.idle.push_back(object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    type C = Core<u64, &'static str>;

    fn rules(max_size: usize) -> Rules {
        Rules {
            max_size,
            min_size: 0,
            max_creating: 2,
            max_waiters: usize::MAX,
            max_lifetime: None,
            idle_timeout: None,
            fail_fast: false,
            is_lifo: true,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(1),
        }
    }

    /// A pool, the time, and all that is outside of it.
    struct World {
        core: C,
        now: Instant,
        limit: usize,
        leased: Vec<Object<u64>>,
        checking: Vec<(Object<u64>, Option<Instant>)>,
        /// Waiters in the order in which they are to be served, with their deadlines; and whether a waiter came back to the
        /// front, when others may have been granted objects already.
        waiting: Vec<(Key, Option<Instant>, bool)>,
        creating: usize,
        closing: usize,
        next: u64,
        /// Whether the worker is awake; and until when it sleeps, if not.
        is_awake: bool,
        sleeps_until: Option<Instant>,
    }

    impl World {
        fn new(limit: usize) -> Self {
            World {
                core: C::new(rules(limit)),
                now: Instant::now(),
                limit,
                leased: Vec::new(),
                checking: Vec::new(),
                waiting: Vec::new(),
                creating: 0,
                closing: 0,
                next: 0,
                is_awake: false,
                sleeps_until: None,
            }
        }

        fn apply<R>(&mut self, event: impl FnOnce(&mut C, Instant, &mut Effects<u64>) -> R) -> R {
            let mut effects = Effects::new();
            let result = event(&mut self.core, self.now, &mut effects);
            self.closing += effects.close.len();
            self.is_awake |= effects.work;
            result
        }

        fn get(&mut self, patience: Option<u64>) {
            let deadline = patience.map(|ms| self.now + Duration::from_millis(ms));
            let waited = !self.waiting.is_empty() && self.core.counts().waiting > 0;
            match self.apply(|core, now, effects| core.get(deadline, now, effects)) {
                Got::Object(object) => {
                    assert!(!waited, "a newcomer overtook the waiters");
                    self.leased.push(object);
                }
                Got::Queued(key) => self.waiting.push((key, deadline, false)),
                Got::Closed => assert!(self.core.is_closed()),
                Got::Full => panic!("there is no limit of waiters"),
            }
        }

        /// The worker begins what there is to begin, and sleeps.
        fn work(&mut self) {
            while self.core.begin_creation(self.now) {
                self.creating += 1;
                assert!(self.core.size() <= self.limit, "one too many");
            }
            self.is_awake = false;
            self.sleeps_until = self.core.sleep();
        }

        /// All waiters look; those that have an outcome go. Objects come in the order of arrival.
        fn look(&mut self, only: Option<usize>) {
            let mut overtaken = false;
            for (position, (key, deadline, is_back)) in
                std::mem::take(&mut self.waiting).into_iter().enumerate()
            {
                if only.is_some_and(|only| only != position) {
                    self.waiting.push((key, deadline, is_back));
                    continue;
                }
                match self.core.look(key, Waker::noop()) {
                    None => {
                        overtaken |= !is_back && deadline.is_none_or(|deadline| self.now < deadline);
                        self.waiting.push((key, deadline, is_back));
                    }
                    Some(Ok(object)) => {
                        assert!(!overtaken || only.is_some(), "a waiter was overtaken");
                        self.leased.push(object);
                    }
                    Some(Err(Failure::TimedOut)) => assert!(deadline.is_some_and(|at| at <= self.now)),
                    Some(Err(Failure::Closed)) => assert!(self.core.is_closed()),
                    Some(Err(Failure::Create(_))) => panic!("it is not told to fail fast"),
                }
            }
        }

        fn check(&self) {
            let counts = self.core.counts();
            assert_eq!(
                counts.size,
                counts.idle + counts.leased + counts.creating + counts.checking + counts.closing
            );
            assert_eq!((counts.creating, counts.closing), (self.creating, self.closing));
            assert_eq!(counts.checking, self.checking.len());
            let mut held: Vec<u64> = self.leased.iter().map(|object| object.value).collect();
            held.extend(self.checking.iter().map(|(object, _)| object.value));
            held.sort_unstable();
            assert!(held.windows(2).all(|two| two[0] != two[1]), "two callers have one object: {held:?}");
            // Granted, and not taken yet, counts as leased.
            assert!(counts.leased >= self.leased.len());
            let out = counts.leased + counts.checking + counts.closing + counts.creating > 0;
            let scheduled = self.is_awake || self.sleeps_until.is_some();
            assert!(counts.waiting == 0 || out || scheduled, "a waiter has no agent: {counts:?}");
            assert!(counts.waiting == 0 || counts.idle == 0, "an object is idle beside a waiter");
            // A worker that sleeps misses nothing.
            if !self.is_awake {
                let is_due = self.core.wants_creation() && self.core.retry_at.is_none_or(|at| at <= self.now);
                assert!(!is_due, "a creation is due, and the worker sleeps: {counts:?}");
                let next = self.core.next_attempt();
                let in_time = next.is_none_or(|next| self.sleeps_until.is_some_and(|until| until <= next));
                assert!(in_time, "the worker sleeps until {:?}, not {next:?}", self.sleeps_until);
            }
        }

        /// All that is under way comes to a good end; then no waiter may be left.
        fn settle(&mut self) {
            for _ in 0..10_000 {
                self.look(None);
                if self.waiting.is_empty() {
                    return;
                }
                if let Some(object) = self.leased.pop() {
                    self.apply(|core, now, effects| core.give_back(object, now, effects));
                } else if let Some((object, _)) = self.checking.pop() {
                    self.core.checked();
                    self.leased.push(object);
                } else if self.closing > 0 {
                    self.closing -= 1;
                    self.apply(|core, now, effects| core.closed_one(now, effects));
                } else if self.creating > 0 {
                    self.create(true);
                } else if self.is_awake {
                    self.work();
                } else {
                    let tick = self.sleeps_until.expect("an agent for the waiters");
                    self.pass_to(self.now.max(tick));
                }
                self.check();
            }
            panic!("{} wait for ever: {:?}", self.waiting.len(), self.core.counts());
        }

        /// Time passes; the worker wakes when it is due.
        fn pass_to(&mut self, now: Instant) {
            self.now = now;
            if self.sleeps_until.is_some_and(|until| until <= now) {
                self.apply(|core, now, effects| core.tick(now, effects));
                self.work();
            }
        }

        fn create(&mut self, well: bool) {
            self.creating -= 1;
            self.next += 1;
            let value = self.next;
            self.apply(|core, now, effects| match well {
                true => core.created(value, 1.0, now, effects),
                false => core.not_created("refused", now, effects),
            });
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Get(Option<u64>),
        Look(usize),
        LookAll,
        Cancel(usize),
        Return(usize),
        Discard(usize),
        Detach(usize),
        Check(usize),
        Checked(usize, bool),
        Work,
        Create(bool),
        Lose,
        Closed,
        Resize(usize),
        Invalidate,
        Close,
        Pass(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => proptest::option::of(0..200u64).prop_map(Step::Get),
            3 => (0..8usize).prop_map(Step::Look),
            2 => Just(Step::LookAll),
            2 => (0..8usize).prop_map(Step::Cancel),
            4 => (0..8usize).prop_map(Step::Return),
            2 => (0..8usize).prop_map(Step::Discard),
            1 => (0..8usize).prop_map(Step::Detach),
            2 => (0..8usize).prop_map(Step::Check),
            2 => (0..8usize, any::<bool>()).prop_map(|(at, well)| Step::Checked(at, well)),
            6 => Just(Step::Work),
            5 => prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(Step::Create),
            1 => Just(Step::Lose),
            3 => Just(Step::Closed),
            1 => (0..6usize).prop_map(Step::Resize),
            1 => Just(Step::Invalidate),
            1 => prop_oneof![1 => Just(Step::Close), 9 => Just(Step::Work)],
            3 => (0..100u64).prop_map(Step::Pass),
        ]
    }

    /// The same histories each time; with `BOUNDED_CASES` so many others.
    fn config() -> ProptestConfig {
        match std::env::var("BOUNDED_CASES") {
            Ok(cases) => ProptestConfig::with_cases(cases.parse().expect("a number")),
            Err(_) => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(2_000) },
        }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn no_waiter_is_without_an_agent_and_no_object_is_lost_or_one_too_many(
            limit in 1..5usize,
            steps in proptest::collection::vec(any_step(), 0..80),
        ) {
            let mut world = World::new(limit);
            for step in steps {
                let before = world.core.size();
                match step {
                    Step::Get(patience) => world.get(patience),
                    Step::Look(at) => world.look(Some(at)),
                    Step::LookAll => world.look(None),
                    Step::Cancel(at) if at < world.waiting.len() => {
                        let (key, ..) = world.waiting.remove(at);
                        world.apply(|core, now, effects| core.cancel(key, now, effects));
                    }
                    Step::Return(at) if at < world.leased.len() => {
                        let object = world.leased.remove(at);
                        world.apply(|core, now, effects| core.give_back(object, now, effects));
                    }
                    Step::Discard(at) if at < world.leased.len() => {
                        let object = world.leased.remove(at);
                        world.apply(|core, now, effects| core.discard(object, now, effects));
                    }
                    Step::Detach(at) if at < world.leased.len() => {
                        world.leased.remove(at);
                        world.apply(|core, now, effects| core.detached(now, effects));
                    }
                    Step::Check(at) if at < world.leased.len() => {
                        let object = world.leased.remove(at);
                        world.core.begin_check();
                        world.checking.push((object, None));
                    }
                    Step::Checked(at, well) if at < world.checking.len() => {
                        let (object, deadline) = world.checking.remove(at);
                        if well {
                            world.core.checked();
                            world.leased.push(object);
                        } else if let Got::Queued(key) =
                            world.apply(|core, now, effects| core.failed_check(object, deadline, now, effects))
                        {
                            world.waiting.insert(0, (key, deadline, true));
                        }
                    }
                    Step::Work if world.is_awake => world.work(),
                    Step::Create(well) if world.creating > 0 => world.create(well),
                    Step::Lose if world.creating > 0 => {
                        world.creating -= 1;
                        world.apply(|core, now, effects| core.creation_lost(now, effects));
                    }
                    Step::Closed if world.closing > 0 => {
                        world.closing -= 1;
                        world.apply(|core, now, effects| core.closed_one(now, effects));
                    }
                    Step::Resize(limit) => {
                        world.limit = limit;
                        world.apply(|core, now, effects| core.resize(limit, now, effects));
                    }
                    Step::Invalidate => world.apply(|core, now, effects| core.invalidate_all(now, effects)),
                    Step::Close => {
                        world.apply(|core, _, effects| core.close(effects));
                    }
                    Step::Pass(ms) => world.pass_to(world.now + Duration::from_millis(ms)),
                    _ => {}
                }
                prop_assert!(world.core.size() <= world.limit.max(before), "the pool grew above its limit");
                if world.limit > 0 {
                    world.check();
                }
            }
            if world.limit > 0 {
                world.settle();
            }
        }
    }
}
