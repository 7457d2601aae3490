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
//! * Each object is either idle, granted, in the list of work, or with a caller or a task. Nothing is granted
//!   to a waiter whose deadline has passed.

use std::collections::{BTreeMap, VecDeque};
use std::panic::Location;
use std::task::Waker;
use std::time::Duration;

use super::alarm::Alarm;
use super::error::Phase;
use super::stats::BoundedStats;
use super::time::Time;
use super::tracking::Tracking;
use super::waiters::{Key, State, Waiters, Wakers};
use crate::primitive::Arc;

/// How long a waiter has to take what it was granted, while others wait.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// An object that was verified so recently, and not used since, needs no check on borrow.
const FRESH: Duration = Duration::from_secs(1);

/// What the pool knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) id: u64,
    generation: u64,
    pub(super) created: Time,
    /// When it has lived as long as it may.
    expires: Time,
    /// When it came back last, or was created.
    returned: Time,
    /// When a check passed, or it was created.
    verified: Time,
    /// Whether a caller has had it since then.
    pub(super) is_used: bool,
    /// Whether it is to be reset before a caller gets it.
    pub(super) is_dirty: bool,
    /// Whether its end is so near that the minimum is filled up without it.
    is_old: bool,
}

impl Meta {
    /// When it was known to work last.
    fn proven(&self) -> Time {
        self.verified.max(self.returned)
    }
}

#[derive(Debug)]
pub(super) struct Stored<T> {
    pub(super) value: T,
    pub(super) meta: Meta,
}

/// Boxed, so that a pointer moves, however big the value is.
pub(super) type Object<T> = Box<Stored<T>>;

/// Why a waiter gets no object.
/// What a pool held when a waiter's time was up.
#[derive(Clone, Debug)]
pub(super) struct Expiry<E> {
    pub(super) phase: Phase,
    pub(super) stats: BoundedStats,
    pub(super) waiters_with_lease: Option<usize>,
    pub(super) cause: Option<E>,
}

#[derive(Clone, Debug)]
pub(super) enum Failure<E> {
    /// In a box: each entry of the queue has room for a failure, and moves.
    TimedOut(Box<Expiry<E>>),
    Closed,
    NoRuntime,
    /// A creation failed, and the pool does not wait for the next.
    Create(E),
}

/// What a waiter gets.
pub(super) type Outcome<T, E> = Result<Object<T>, Failure<E>>;

/// When an idle object is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckWhen {
    /// Before each lease, unless it passed a check less than a second ago and has not been leased since.
    Borrowed,
    /// Before a lease, if it has been idle for this long.
    IdleFor(Duration),
    /// In the background, each time that it has been idle for this long; never before a lease.
    Background(Duration),
    /// Only when another object turned out to be broken.
    Suspect,
}

/// The options of a pool.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) max_size: usize,
    pub(super) min_size: usize,
    pub(super) min_idle: usize,
    pub(super) max_creating: usize,
    pub(super) max_waiters: usize,
    pub(super) max_lifetime: Option<Duration>,
    /// The part of a lifetime that is drawn at random.
    pub(super) jitter: f64,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) fail_fast: bool,
    pub(super) is_lifo: bool,
    /// `None`: the manager has neither a check nor a hook before a lease.
    pub(super) check: Option<CheckWhen>,
    /// Whether returned objects are reset.
    pub(super) resets: bool,
    /// The pauses after failed creations.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
    pub(super) seed: u64,
}

/// In which state an object comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// It is to be reset, whatever the rules say.
    Dirty,
    /// It is closed; that says nothing of the others.
    Discarded,
    /// It is closed, and the idle ones are suspect.
    Broken,
    /// It is closed, and so are all that are as old.
    AllBroken,
}

/// What the shell does after it has released the lock.
#[must_use]
#[derive(Debug)]
pub(super) struct Effects<E> {
    /// The wakers of waiters that have an outcome.
    pub(super) wake: Wakers,
    /// Wakers and errors that are of no use any more. Their drop is foreign code.
    pub(super) dropped: Vec<Waker>,
    pub(super) errors: Vec<E>,
    /// Alarms whose time has come.
    pub(super) alarms: Vec<Arc<Alarm>>,
    /// Whether there is work, or the driver would sleep too long.
    pub(super) work: bool,
}

impl<E> Effects<E> {
    pub(super) const fn new() -> Self {
        Effects {
            wake: Wakers::new(),
            dropped: Vec::new(),
            errors: Vec::new(),
            alarms: Vec::new(),
            work: false,
        }
    }

    /// The error of a failure that no waiter gets leaves the lock too.
    fn discard(&mut self, failure: Failure<E>) {
        match failure {
            Failure::TimedOut(expiry) => self.errors.extend(expiry.cause),
            Failure::Create(error) => self.errors.push(error),
            Failure::Closed | Failure::NoRuntime => {}
        }
    }

    /// Whether nothing is to be done but work.
    pub(super) fn is_empty(&self) -> bool {
        self.wake.is_empty() && self.alarms.is_empty()
    }
}

/// What there is to do: each is counted until its end is reported.
#[must_use]
#[derive(Debug)]
pub(super) struct Work<T> {
    pub(super) create: usize,
    pub(super) inspect: Vec<Object<T>>,
    pub(super) close: Vec<Object<T>>,
    /// When the driver is to come back, if nothing calls it before.
    pub(super) sleep_until: Time,
}

#[derive(Debug)]
pub(super) enum Taken<T> {
    Object(Object<T>),
    Nothing,
    Closed,
}

#[derive(Debug)]
pub(super) enum Queued {
    As(Key),
    Closed,
    /// There are as many waiters as there may be.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Draining,
    Closed,
}

#[derive(Debug)]
pub(super) struct Core<T, E> {
    rules: Rules,
    idle: VecDeque<Object<T>>,
    leased: usize,
    /// Creations that run, the overdue ones among them.
    creating: usize,
    /// Creations that have run for longer than they may, and have not ended: they count against the limit, since the server
    /// may see them, but do not keep others from beginning.
    overdue: usize,
    /// With those in `inspect`.
    checking: usize,
    /// With those in `close`.
    closing: usize,
    inspect: Vec<Object<T>>,
    close: Vec<Object<T>>,
    waiters: Waiters<Object<T>, Failure<E>>,
    generation: u64,
    stage: Stage,
    /// Woken when nothing is left of a pool that drains.
    drainers: Vec<Waker>,
    /// Objects that `try_get` did not find.
    asked: usize,
    /// Idle objects that are about to expire, as of the last tick.
    old: usize,
    /// Failed creations in a row, and when the next one may begin.
    failures: u32,
    retry_at: Time,
    last_error: Option<E>,
    /// Ends of time limits: the driver rings them.
    alarms: BTreeMap<(Time, u64), Arc<Alarm>>,
    last_alarm: u64,
    /// Until when the driver sleeps, unless it is called.
    sleeps_until: Time,
    random: u64,
    counters: BoundedStats,
    pub(super) tracking: Option<Tracking>,
}

impl<T, E: Clone> Core<T, E> {
    pub(super) fn new(rules: Rules) -> Self {
        let random = rules.seed;
        Core {
            rules,
            idle: VecDeque::new(),
            leased: 0,
            creating: 0,
            overdue: 0,
            checking: 0,
            closing: 0,
            inspect: Vec::new(),
            close: Vec::new(),
            waiters: Waiters::new(),
            generation: 0,
            stage: Stage::Open,
            drainers: Vec::new(),
            asked: 0,
            old: 0,
            failures: 0,
            retry_at: Time::from_nanos(0),
            last_error: None,
            alarms: BTreeMap::new(),
            last_alarm: 0,
            sleeps_until: Time::NEVER,
            random,
            counters: BoundedStats::default(),
            tracking: None,
        }
    }

    #[inline]
    pub(super) fn size(&self) -> usize {
        self.idle.len() + self.leased + self.creating + self.checking + self.closing
    }

    // ── getters ──

    /// Takes an idle object, if no caller waits for one. `now` may be some milliseconds late.
    #[inline]
    pub(super) fn take(&mut self, now: Time, effects: &mut Effects<E>) -> Taken<T> {
        if self.waiters.waiting() > 0 {
            return Taken::Nothing;
        }
        while let Some(object) = self.pop_idle() {
            if self.is_fit(&object.meta, now) {
                self.push_popped(object);
                break;
            }
            self.close_object(object, effects);
        }
        if let Some(object) = self.pop_ready(now) {
            if self.rules.min_idle > 0 {
                self.note_work(now, effects);
            }
            return Taken::Object(object);
        }
        // A closed pool has no idle objects.
        if self.stage == Stage::Open { Taken::Nothing } else { Taken::Closed }
    }

    /// The part of [`take`](Self::take) that nothing follows from: nobody waits, and an object is ready.
    #[inline]
    pub(super) fn take_ready(&mut self, now: Time) -> Option<Object<T>> {
        if self.waiters.waiting() > 0 || self.rules.min_idle > 0 {
            return None;
        }
        self.pop_ready(now)
    }

    /// Leases the next idle object, if it may be used as it is.
    #[inline]
    fn pop_ready(&mut self, now: Time) -> Option<Object<T>> {
        let object = self.pop_idle()?;
        if !self.is_fit(&object.meta, now) || self.needs_check(&object.meta, now) {
            self.push_popped(object);
            return None;
        }
        self.leased += 1;
        self.counters.direct += 1;
        Some(object)
    }

    /// A `try_get` found nothing: the next one will, if that is possible.
    pub(super) fn ask(&mut self, now: Time, effects: &mut Effects<E>) {
        if self.waiters.waiting() > 0 || self.checking + self.creating > 0 {
            return;
        }
        match self.pop_idle() {
            Some(object) => self.inspect_object(object, effects),
            // At the limit there is nothing to create: a lease that ends will do.
            None => self.asked = usize::from(self.size() < self.rules.max_size),
        }
        self.note_work(now, effects);
    }

    pub(super) fn enqueue(
        &mut self,
        deadline: Time,
        holder: u64,
        waker: Waker,
        now: Time,
        effects: &mut Effects<E>,
    ) -> Queued {
        if self.stage != Stage::Open {
            effects.dropped.push(waker);
            return Queued::Closed;
        }
        self.revoke(now, effects);
        if self.waiters.waiting() >= self.rules.max_waiters {
            self.expire(now, effects);
        }
        if self.waiters.waiting() >= self.rules.max_waiters {
            effects.dropped.push(waker);
            return Queued::Full;
        }
        let key = self.waiters.push_back(deadline, holder, waker);
        self.serve(now, effects);
        Queued::As(key)
    }

    /// Returns the waiter's outcome, if there is one. An object that it returns is leased.
    pub(super) fn look(
        &mut self,
        key: Key,
        waker: Waker,
        now: Time,
        effects: &mut Effects<E>,
    ) -> Option<Outcome<T, E>> {
        let outcome = self.outcome(key, effects);
        if outcome.is_some() {
            effects.dropped.push(waker);
            return outcome;
        }
        // A waiter that slept when the others were failed has not heard of it.
        let is_late = self.stage != Stage::Open;
        if is_late || self.waiters.has_expired(key, now) {
            effects.dropped.push(waker);
            let failure = if is_late { Failure::Closed } else { self.timed_out() };
            self.counters.timed_out += u64::from(!is_late);
            let _ = self.waiters.remove(key, &mut effects.dropped);
            return Some(Err(failure));
        }
        if !self.waiters.wait(key, waker, &mut effects.dropped) {
            return None;
        }
        self.serve(now, effects);
        self.outcome(key, effects)
    }

    /// The waiter's outcome, if there is one already.
    pub(super) fn outcome(&mut self, key: Key, effects: &mut Effects<E>) -> Option<Outcome<T, E>> {
        let outcome = self.waiters.take_outcome(key, &mut effects.dropped)?;
        self.counters.waited += u64::from(outcome.is_ok());
        Some(outcome)
    }

    /// The waiter has given up.
    pub(super) fn cancel(&mut self, key: Key, now: Time, effects: &mut Effects<E>) {
        match self.waiters.remove(key, &mut effects.dropped) {
            State::Granted(object, _) => {
                // No caller has used it.
                self.leased -= 1;
                self.store(object, now, effects);
            }
            State::Failed(failure) => effects.discard(failure),
            State::Waiting | State::Asleep => {}
        }
    }

    /// Nothing can be created, and no object is left that may come back: the waiter waits without an agent.
    pub(super) fn is_hopeless(&self) -> bool {
        self.idle.len() + self.leased + self.creating + self.checking == 0
    }

    /// A lease begins, in a pool that tracks them.
    pub(super) fn track(
        &mut self,
        id: u64,
        holder: u64,
        site: &'static Location<'static>,
        now: Time,
        effects: &mut Effects<E>,
    ) {
        let Some(tracking) = &mut self.tracking else { return };
        tracking.begin(id, holder, site, now);
        effects.work |= tracking.limit_from(now) < self.sleeps_until;
    }

    // ── what comes back ──

    /// A lease has ended.
    #[inline]
    pub(super) fn give_back(
        &mut self,
        mut object: Object<T>,
        verdict: Verdict,
        now: Time,
        effects: &mut Effects<E>,
    ) {
        object.meta.is_used = true;
        object.meta.returned = now;
        if let Some(tracking) = &mut self.tracking {
            tracking.end(object.meta.id);
        }
        self.leased -= 1;
        self.take_back(object, verdict, now, effects);
    }

    /// The part of [`give_back`](Self::give_back) for which nobody waits, if the object is good: it becomes idle. Returns whether
    /// there is work.
    #[inline]
    pub(super) fn give_back_ready(&mut self, mut object: Object<T>, now: Time) -> Result<bool, Object<T>> {
        let is_ready = !self.rules.resets
            && self.waiters.waiting() == 0
            && self.tracking.is_none()
            && self.size() <= self.rules.max_size
            && self.is_fit(&object.meta, now);
        if !is_ready {
            return Err(object);
        }
        object.meta.is_used = true;
        object.meta.returned = now;
        self.leased -= 1;
        let is_work = self.would_oversleep(self.next_event(&object.meta));
        self.idle.push_back(object);
        Ok(is_work)
    }

    fn take_back(&mut self, mut object: Object<T>, verdict: Verdict, now: Time, effects: &mut Effects<E>) {
        let resets = self.rules.resets;
        match verdict {
            Verdict::Good if !resets => self.store(object, now, effects),
            Verdict::Good | Verdict::Dirty => {
                // A surplus or outdated object is not worth a reset.
                if self.size() + 1 > self.rules.max_size || !self.is_fit(&object.meta, now) {
                    self.close_object(object, effects);
                } else {
                    object.meta.is_dirty = true;
                    self.inspect_object(object, effects);
                }
                self.serve(now, effects);
            }
            Verdict::Discarded => {
                self.close_object(object, effects);
                self.serve(now, effects);
            }
            Verdict::Broken => self.broken(object, now, effects),
            Verdict::AllBroken => {
                let is_current = object.meta.generation == self.generation;
                self.close_object(object, effects);
                if is_current {
                    self.invalidate_all(now, effects);
                } else {
                    self.serve(now, effects);
                }
            }
        }
    }

    /// The idle ones are suspect: they are checked at once.
    fn broken(&mut self, object: Object<T>, now: Time, effects: &mut Effects<E>) {
        self.close_object(object, effects);
        while let Some(suspect) = self.idle.pop_front() {
            self.inspect_object(suspect, effects);
        }
        // A server that broke a connection may be up again: the next attempt is due at once.
        self.retry_at = self.retry_at.min(now);
        self.serve(now, effects);
    }

    /// The caller keeps the object, which no longer belongs to the pool.
    pub(super) fn detached(&mut self, id: u64, now: Time, effects: &mut Effects<E>) {
        if let Some(tracking) = &mut self.tracking {
            tracking.end(id);
        }
        self.leased -= 1;
        self.serve(now, effects);
    }

    /// An object has been checked, or reset.
    pub(super) fn inspected(
        &mut self,
        mut object: Object<T>,
        verdict: Verdict,
        now: Time,
        effects: &mut Effects<E>,
    ) {
        self.checking -= 1;
        match verdict {
            Verdict::Good => {
                object.meta.verified = now;
                object.meta.is_used = false;
                object.meta.is_dirty = false;
                self.store(object, now, effects);
            }
            Verdict::Dirty => self.take_back(object, Verdict::Discarded, now, effects),
            verdict => self.take_back(object, verdict, now, effects),
        }
    }

    /// The task that checked an object is gone, and the object with it.
    pub(super) fn inspection_lost(&mut self, now: Time, effects: &mut Effects<E>) {
        self.checking -= 1;
        self.counters.closed += 1;
        self.serve(now, effects);
    }

    /// An object of [`Work::close`] is closed.
    pub(super) fn closed_one(&mut self, now: Time, effects: &mut Effects<E>) {
        self.closing -= 1;
        self.counters.closed += 1;
        self.serve(now, effects);
    }

    // ── creation ──

    pub(super) fn created(&mut self, value: T, alarm: AlarmId, now: Time, effects: &mut Effects<E>) {
        self.end_creation(alarm);
        self.failures = 0;
        self.retry_at = now;
        effects.errors.extend(self.last_error.take());
        self.asked = 0;
        self.counters.created += 1;
        let fraction = 1.0 - self.rules.jitter * self.next_random();
        let expires = match self.rules.max_lifetime {
            Some(lifetime) => now.after(lifetime.mul_f64(fraction)),
            None => Time::NEVER,
        };
        let meta = Meta {
            id: self.counters.created,
            generation: self.generation,
            created: now,
            expires,
            returned: now,
            verified: now,
            is_used: false,
            is_dirty: false,
            is_old: false,
        };
        self.store(Box::new(Stored { value, meta }), now, effects);
    }

    pub(super) fn not_created(&mut self, error: E, alarm: AlarmId, now: Time, effects: &mut Effects<E>) {
        self.end_creation(alarm);
        self.counters.create_failures += 1;
        self.asked = 0;
        let factor = 2u32.saturating_pow(self.failures);
        let pause = self.rules.first_pause.saturating_mul(factor).min(self.rules.longest_pause);
        // Up to a fifth less, so that many pools do not come back at the same instant.
        let pause = pause.mul_f64(1.0 - 0.2 * self.next_random());
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.after(pause);
        let is_alone = self.idle.is_empty() && self.leased + self.checking + self.creating == 0;
        if self.rules.fail_fast && is_alone {
            self.waiters.fail_all(|| Failure::Create(error.clone()), &mut effects.wake);
        }
        effects.errors.extend(self.last_error.replace(error));
        self.serve(now, effects);
    }

    /// A creation never began.
    pub(super) fn withdraw_creation(&mut self, alarm: AlarmId, now: Time, effects: &mut Effects<E>) {
        self.end_creation(alarm);
        self.serve(now, effects);
    }

    /// The manager turned out to have only the default methods.
    pub(super) fn never_resets(&mut self) {
        self.rules.resets = false;
    }

    pub(super) fn never_checks(&mut self) {
        self.rules.check = None;
    }

    fn end_creation(&mut self, alarm: AlarmId) {
        self.creating -= 1;
        if !self.disarm(alarm) {
            self.overdue -= 1;
        }
    }

    // ── time ──

    /// Has `alarm` rung at `at`.
    pub(super) fn arm(&mut self, at: Time, alarm: Arc<Alarm>, effects: &mut Effects<E>) -> AlarmId {
        self.last_alarm += 1;
        self.alarms.insert((at, self.last_alarm), alarm);
        effects.work |= self.would_oversleep(at);
        AlarmId(at, self.last_alarm)
    }

    /// Returns false if it has rung.
    pub(super) fn disarm(&mut self, AlarmId(at, id): AlarmId) -> bool {
        self.alarms.remove(&(at, id)).is_some()
    }

    pub(super) fn tick(&mut self, now: Time, effects: &mut Effects<E>) {
        while let Some(first) = self.alarms.first_entry().filter(|first| first.key().0 <= now) {
            let alarm = first.remove();
            self.overdue += usize::from(alarm.is_of_creation);
            effects.alarms.push(alarm);
        }
        self.look_after_idle(now, effects);
        self.revoke(now, effects);
        self.expire(now, effects);
        self.serve(now, effects);
    }

    /// What there is to do. The caller does it, and comes back at `sleep_until`.
    pub(super) fn take_work(&mut self, now: Time, has_executor: bool) -> Work<T> {
        let mut create = 0;
        while has_executor && self.wants_creation() && self.retry_at <= now {
            self.creating += 1;
            create += 1;
        }
        let mut due = self.next_attempt(has_executor);
        for object in &self.idle {
            due = due.min(self.next_event(&object.meta));
        }
        if let Some(((alarm, _), _)) = self.alarms.first_key_value() {
            due = due.min(*alarm);
        }
        if let Some(tracking) = &self.tracking {
            due = due.min(tracking.next_report());
        }
        self.sleeps_until = due;
        Work {
            create,
            inspect: if has_executor { std::mem::take(&mut self.inspect) } else { Vec::new() },
            close: if has_executor { std::mem::take(&mut self.close) } else { Vec::new() },
            sleep_until: due,
        }
    }

    /// When something can be done for the waiters that cannot be done now.
    fn next_attempt(&self, has_executor: bool) -> Time {
        let retry = if has_executor && self.wants_creation() { self.retry_at } else { Time::NEVER };
        let revocation =
            if self.waiters.waiting() > 0 { self.waiters.next_revocation() } else { Time::NEVER };
        retry.min(revocation).min(self.waiters.next_deadline())
    }

    fn would_oversleep(&self, due: Time) -> bool {
        due < self.sleeps_until
    }

    // ── the owner ──

    pub(super) fn resize(&mut self, max_size: usize, now: Time, effects: &mut Effects<E>) {
        self.rules.max_size = max_size;
        while self.size() - self.closing > max_size
            && let Some(object) = self.idle.pop_front()
        {
            self.close_object(object, effects);
        }
        self.serve(now, effects);
    }

    /// Closes all idle objects; those that are out are closed when they come back.
    pub(super) fn invalidate_all(&mut self, now: Time, effects: &mut Effects<E>) {
        self.generation += 1;
        self.close_idle(effects);
        self.retry_at = self.retry_at.min(now);
        self.serve(now, effects);
    }

    fn close_idle(&mut self, effects: &mut Effects<E>) {
        while let Some(object) = self.idle.pop_front() {
            self.close_object(object, effects);
        }
    }

    pub(super) fn close(&mut self, effects: &mut Effects<E>) {
        self.shut(Stage::Closed, effects);
        effects.errors.extend(self.last_error.take());
        effects.wake.append(&mut self.drainers);
    }

    /// No more leases.
    fn shut(&mut self, stage: Stage, effects: &mut Effects<E>) {
        self.stage = stage;
        self.waiters.fail_all(|| Failure::Closed, &mut effects.wake);
        self.close_idle(effects);
    }

    /// No more leases; [`is_drained`](Self::is_drained) says when all is gone.
    pub(super) fn drain(&mut self, effects: &mut Effects<E>) {
        if self.stage == Stage::Open {
            self.shut(Stage::Draining, effects);
        }
    }

    /// Whether nothing is left; if something is, `waker` is woken when it is gone, or when the pool is closed.
    pub(super) fn is_drained(&mut self, waker: Waker, effects: &mut Effects<E>) -> bool {
        let is_drained = self.size() == 0;
        match is_drained {
            true => effects.dropped.push(waker),
            false => self.drainers.push(waker),
        }
        is_drained
    }

    #[cfg(all(test, not(cenote_loom)))]
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// The executor is gone. The waiters look again: one of them may bring another.
    pub(super) fn wake_waiters(&mut self, effects: &mut Effects<E>) {
        self.waiters.wake_all(&mut effects.wake);
    }

    pub(super) fn counts(&self) -> BoundedStats {
        BoundedStats {
            size: self.size(),
            idle: self.idle.len(),
            leased: self.leased,
            creating: self.creating,
            checking: self.checking,
            closing: self.closing,
            waiting: self.waiters.waiting(),
            max_size: self.rules.max_size,
            ..self.counters
        }
    }

    // ── within ──

    fn is_fit(&self, meta: &Meta, now: Time) -> bool {
        self.stage == Stage::Open && meta.generation == self.generation && now < meta.expires
    }

    fn needs_check(&self, meta: &Meta, now: Time) -> bool {
        match self.rules.check {
            Some(CheckWhen::Borrowed) => meta.is_used || now.since(meta.verified) >= FRESH,
            Some(CheckWhen::IdleFor(time)) => now.since(meta.proven()) >= time,
            Some(CheckWhen::Background(_) | CheckWhen::Suspect) | None => false,
        }
    }

    fn pop_idle(&mut self) -> Option<Object<T>> {
        if self.rules.is_lifo { self.idle.pop_back() } else { self.idle.pop_front() }
    }

    /// Puts back what `pop_idle` returned.
    fn push_popped(&mut self, object: Object<T>) {
        match self.rules.is_lifo {
            true => self.idle.push_back(object),
            false => self.idle.push_front(object),
        }
    }

    /// Takes in an object that counts nowhere at the moment: it goes to the first waiter, becomes idle, or is
    /// closed.
    fn store(&mut self, object: Object<T>, now: Time, effects: &mut Effects<E>) {
        // With this one, which is not counted now. Those that are being closed make room for it after a `resize`.
        let is_surplus = self.size() - self.closing + 1 > self.rules.max_size;
        if is_surplus || !self.is_fit(&object.meta, now) {
            self.close_object(object, effects);
        } else {
            effects.work |= self.would_oversleep(self.next_event(&object.meta));
            self.idle.push_back(object);
        }
        self.serve(now, effects);
    }

    fn close_object(&mut self, object: Object<T>, effects: &mut Effects<E>) {
        self.closing += 1;
        self.close.push(object);
        effects.work = true;
    }

    fn inspect_object(&mut self, object: Object<T>, effects: &mut Effects<E>) {
        self.checking += 1;
        self.inspect.push(object);
        effects.work = true;
    }

    /// What a waiter gets whose deadline has passed; the caller counts it.
    fn timed_out(&self) -> Failure<E> {
        let mut stats = self.counts();
        stats.timed_out += 1;
        let waiters_with_lease =
            self.tracking.as_ref().map(|tracking| tracking.holders_among(self.waiters.holders()));
        let phase = if stats.checking > 0 {
            Phase::Check
        } else if stats.creating > 0 || self.last_error.is_some() {
            Phase::Creation
        } else if stats.leased == 0 && stats.closing > 0 {
            Phase::Closing
        } else {
            Phase::Lease
        };
        Failure::TimedOut(Box::new(Expiry {
            phase,
            stats,
            waiters_with_lease,
            cause: self.last_error.clone(),
        }))
    }

    fn expire(&mut self, now: Time, effects: &mut Effects<E>) {
        if self.waiters.next_deadline() <= now {
            let (before, failure) = (self.waiters.waiting(), self.timed_out());
            self.waiters.expire(now, || failure.clone(), &mut effects.wake);
            self.counters.timed_out += (before - self.waiters.waiting()) as u64;
            effects.discard(failure);
        }
    }

    /// Follows each change of a count: hands idle objects to waiters, notes whether there is work, and wakes those that wait
    /// for the end of a drain.
    fn serve(&mut self, now: Time, effects: &mut Effects<E>) {
        while !self.idle.is_empty()
            && let Some(deadline) = self.waiters.first_deadline()
        {
            if deadline <= now {
                let failure = self.timed_out();
                self.counters.timed_out += 1;
                self.waiters.fail_first(failure, &mut effects.wake);
                continue;
            }
            let Some(object) = self.pop_idle() else { break };
            if !self.is_fit(&object.meta, now) {
                self.close_object(object, effects);
            } else if !self.needs_check(&object.meta, now) {
                self.leased += 1;
                self.waiters.grant_first(object, now.after(PATIENCE), &mut effects.wake);
            } else if self.checking < self.waiters.waiting() {
                self.inspect_object(object, effects);
            } else {
                // As many are checked as there are waiters.
                self.push_popped(object);
                break;
            }
        }
        if self.stage != Stage::Open && self.size() == 0 {
            effects.wake.append(&mut self.drainers);
        }
        self.note_work(now, effects);
    }

    fn note_work(&mut self, now: Time, effects: &mut Effects<E>) {
        if !effects.work {
            let creates = self.wants_creation() && self.retry_at <= now;
            effects.work = creates || self.would_oversleep(self.next_attempt(true));
        }
    }

    /// Objects that were granted and not taken in time go to the next waiters.
    fn revoke(&mut self, now: Time, effects: &mut Effects<E>) {
        while self.waiters.waiting() > 0 && self.waiters.next_revocation() <= now {
            let failure = self.timed_out();
            let revoked = self.waiters.revoke(now, || failure.clone(), &mut effects.wake);
            effects.discard(failure);
            let Some((object, has_failed)) = revoked else { break };
            self.counters.timed_out += u64::from(has_failed);
            self.leased -= 1;
            self.store(object, now, effects);
        }
    }

    fn wants_creation(&self) -> bool {
        if self.stage != Stage::Open || self.size() >= self.rules.max_size {
            return false;
        }
        // Those that are being checked serve waiters too.
        let mut wanted = self.waiters.waiting().saturating_sub(self.checking).max(self.asked);
        if self.rules.min_size > 0 {
            let alive = self.size() - self.creating - self.closing;
            wanted = wanted.max(self.rules.min_size.saturating_sub(alive.saturating_sub(self.old)));
        }
        wanted = wanted.max(self.rules.min_idle.saturating_sub(self.idle.len()));
        self.creating - self.overdue < wanted.min(self.rules.max_creating)
    }

    /// How long before its end an object of the minimum is replaced.
    fn lead(&self) -> Duration {
        match self.rules.max_lifetime {
            Some(lifetime) if self.rules.min_size > 0 => (lifetime / 10).min(Duration::from_secs(30)),
            _ => Duration::ZERO,
        }
    }

    /// When the driver has to look at an idle object.
    fn next_event(&self, meta: &Meta) -> Time {
        let mut due = meta.expires;
        if self.rules.min_size > 0 && !meta.is_old && !meta.expires.is_never() {
            due = meta.expires.before(self.lead());
        }
        if let Some(timeout) = self.rules.idle_timeout
            && self.alive() + self.idle.len() > self.rules.min_size
        {
            due = due.min(meta.returned.after(timeout));
        }
        if let Some(CheckWhen::Background(time)) = self.rules.check {
            due = due.min(meta.proven().after(time));
        }
        due
    }

    /// Closes and checks idle objects whose time has come.
    fn look_after_idle(&mut self, now: Time, effects: &mut Effects<E>) {
        let lead = self.lead();
        self.old = 0;
        let mut surplus = (self.alive() + self.idle.len()).saturating_sub(self.rules.min_size);
        for mut object in std::mem::take(&mut self.idle) {
            let meta = &mut object.meta;
            let is_unused = self.rules.idle_timeout.is_some_and(|time| meta.returned.after(time) <= now);
            let is_checked = match self.rules.check {
                Some(CheckWhen::Background(time)) => meta.proven().after(time) <= now,
                _ => false,
            };
            if !self.is_fit(meta, now) || is_unused && surplus > 0 {
                surplus = surplus.saturating_sub(1);
                self.close_object(object, effects);
            } else if is_checked {
                self.inspect_object(object, effects);
            } else {
                meta.is_old = meta.expires.before(lead) <= now;
                self.old += usize::from(meta.is_old);
                self.idle.push_back(object);
            }
        }
    }

    /// Objects that are alive, besides the idle ones.
    fn alive(&self) -> usize {
        self.leased + self.checking
    }

    /// From 0 to 1 (splitmix64).
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Names an alarm.
#[derive(Clone, Copy, Debug)]
pub(super) struct AlarmId(Time, u64);

#[cfg(all(test, not(cenote_loom)))]
mod tests;
