//! The shell around the core: it locks, runs the effects, and starts the pool's tasks.
//!
//! Every event is applied under one lock. What follows from it (wakers, alarms, foreign drops) runs after the lock is
//! released. Tasks are started by the driver, never by a caller.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::alarm::Alarm;
use super::core::{AlarmId, Core, Effects, Object, Verdict};
use super::driver::{Turn, driver};
use super::error::CreateError;
use super::executor::{self, Executor};
use super::manager::{Manager, was_default};
use super::meters::{Levels, Meters};
use super::time::Time;
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::{Arc, Mutex, Weak, clock, panic_text, process};

pub(super) type Cause<M> = Arc<CreateError<<M as Manager>::Error>>;
pub(super) type CoreOf<M> = Core<<M as Manager>::Object, Cause<M>>;
pub(super) type Hook<T> = Box<dyn Fn(&mut T) -> bool + Send + Sync>;

pub(super) struct Options<T> {
    pub(super) get_timeout: Option<Duration>,
    pub(super) create_timeout: Duration,
    pub(super) check_timeout: Duration,
    pub(super) reset_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) keeps_on_panic: bool,
    /// Whether leases are tracked, for which each caller is identified.
    pub(super) tracks: bool,
    pub(super) after_create: Option<Hook<T>>,
    pub(super) before_lease: Option<Hook<T>>,
    pub(super) after_return: Option<Hook<T>>,
    pub(super) on_leak: Option<Box<dyn Fn(super::LeakReport) + Send + Sync>>,
    pub(super) name: Option<Arc<str>>,
    pub(super) meters: Meters,
}

pub(super) struct Shared<M: Manager> {
    pub(super) core: Mutex<CoreOf<M>>,
    pub(super) manager: M,
    pub(super) options: Options<M::Object>,
    executor: Mutex<Option<Arc<dyn Executor>>>,
    /// Whether a caller has to wait, as the last one to ask found it: a hint for the next, which may queue up at once.
    pub(super) is_crowded: AtomicBool,
    /// Whether there is an executor: a hint for waiters, which need not take the lock then.
    has_executor: AtomicBool,
    /// Whether the executor was given by the builder, and no other is to take its place.
    is_fixed: bool,
    /// Whether the driver knows that there is work.
    is_kicked: AtomicBool,
    /// The process that made it: a forked child must not touch what it inherited.
    forks: u32,
    me: Weak<Self>,
}

impl<M: Manager> Shared<M> {
    pub(super) fn new(
        core: CoreOf<M>,
        manager: M,
        options: Options<M::Object>,
        executor: Option<Arc<dyn Executor>>,
    ) -> Arc<Self> {
        process::count_forks();
        let is_fixed = executor.is_some();
        let executor = executor.or_else(executor::current);
        options.meters.moved(Levels::default(), Levels::of(&core.counts()));
        Arc::new_cyclic(|me| Shared {
            is_crowded: AtomicBool::new(false),
            has_executor: AtomicBool::new(executor.is_some()),
            core: Mutex::new(core),
            manager,
            options,
            executor: Mutex::new(executor),
            is_fixed,
            is_kicked: AtomicBool::new(false),
            forks: process::forks(),
            me: Weak::clone(me),
        })
    }

    /// Whether a fork lies between the pool's making and now.
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        self.forks != process::forks()
    }

    /// In a forked child: what the parent goes on using is never dropped here.
    #[cold]
    pub(super) fn leak(self: &Arc<Self>) {
        std::mem::forget(Arc::clone(self));
    }

    pub(super) fn now() -> Time {
        Time::from_nanos(clock::now_ns())
    }

    #[inline]
    pub(super) fn soon() -> Time {
        Time::from_nanos(clock::coarse_ns())
    }

    /// Applies an event and runs its effects.
    #[inline]
    pub(super) fn apply<R>(
        &self,
        now: Time,
        event: impl FnOnce(&mut CoreOf<M>, Time, &mut Effects<Cause<M>>) -> R,
    ) -> R {
        let mut effects = Effects::new();
        let meters = &self.options.meters;
        let mut core = self.core.lock();
        let before = meters.is_on().then(|| Levels::of(&core.counts()));
        let result = event(&mut core, now, &mut effects);
        let change = before.map(|before| (before, Levels::of(&core.counts())));
        drop(core);
        if effects.work || !effects.is_empty() {
            self.run(effects);
        }
        // Foreign code, and last: what it does wakes no waiter.
        if let Some((before, after)) = change {
            meters.moved(before, after);
        }
        result
    }

    #[inline]
    fn run(&self, effects: Effects<Cause<M>>) {
        if effects.work {
            self.kick();
        }
        effects.wake.wake();
        for alarm in effects.alarms {
            alarm.ring();
        }
    }

    pub(super) fn kick(&self) {
        // AcqRel: the turn that clears the flag sees what was written before it was set.
        if !self.is_kicked.swap(true, Ordering::AcqRel)
            && let Some(own) = self.me.upgrade()
        {
            driver().kick(own);
        }
    }

    /// The caller's runtime takes the place of one that has ended. Returns whether there is one now.
    #[inline]
    pub(super) fn find_executor(&self) -> bool {
        // Relaxed: a waiter that sees an executor that is gone is woken when it goes, and sees it then: the flag changes before
        // the waiters are woken under the core's lock.
        self.has_executor.load(Ordering::Relaxed) || self.adopt_executor()
    }

    #[cold]
    fn adopt_executor(&self) -> bool {
        let mut executor = self.executor.lock();
        if executor.is_none() {
            *executor = executor::current();
            let has_one = executor.is_some();
            self.has_executor.store(has_one, Ordering::Relaxed);
            drop(executor);
            if has_one {
                self.kick();
            }
            return has_one;
        }
        true
    }

    fn lose(&self, lost: &Arc<dyn Executor>) {
        if self.is_fixed {
            return;
        }
        let mut executor = self.executor.lock();
        let is_it = executor.as_ref().is_some_and(|executor| Arc::ptr_eq(executor, lost));
        let old = if is_it { executor.take() } else { None };
        if is_it {
            self.has_executor.store(false, Ordering::Relaxed);
        }
        drop(executor);
        drop(old);
        if is_it {
            self.apply(Self::now(), |core, _, effects| core.wake_waiters(effects));
        }
    }

    fn arm(&self, limit: Duration, is_of_creation: bool) -> (AlarmId, Arc<Alarm>) {
        let alarm = Arc::new(Alarm::new(is_of_creation));
        let own = Arc::clone(&alarm);
        let id = self.apply(Self::now(), |core, now, effects| core.arm(now.after(limit), own, effects));
        (id, alarm)
    }

    /// Runs a manager's future, and drops it at the end of its limit.
    pub(super) async fn limited<F: Future>(
        &self,
        limit: Duration,
        future: impl FnOnce() -> F,
    ) -> Ended<F::Output> {
        let (id, alarm) = self.arm(limit, false);
        let ended = until(&alarm, future).await;
        self.core.lock().disarm(id);
        ended
    }

    /// What the manager says of an object, at the end of a lease or in a task.
    #[inline]
    pub(super) fn judge(&self, object: &mut M::Object, in_flight: bool) -> Verdict {
        let manager = &self.manager;
        let judged = catch_unwind(AssertUnwindSafe(|| match manager.is_broken(object) {
            true if manager.outdates_all(object) => Verdict::AllBroken,
            true => Verdict::Broken,
            false if !in_flight => Verdict::Good,
            false if manager.resets_in_flight() => Verdict::Dirty,
            false => Verdict::Discarded,
        }));
        judged.unwrap_or(Verdict::Discarded)
    }

    // ── tasks ──

    fn start_creation(self: &Arc<Self>, executor: &Arc<dyn Executor>) {
        let (id, alarm) = self.arm(self.options.create_timeout, true);
        let mut guard = Guard::new(self, executor, What::Creation(id));
        executor.spawn(Box::pin(async move {
            guard.begin();
            let shared = Arc::clone(&guard.shared);
            let began = Self::now();
            let created = match until(&alarm, || shared.manager.create()).await {
                Ended::Well(Ok(mut value)) => match run_hook(&shared.options.after_create, &mut value) {
                    true => Ok(value),
                    false => Err(CreateError::Refused),
                },
                Ended::Well(Err(error)) => Err(CreateError::Manager(error)),
                Ended::Late => Err(CreateError::TimedOut(shared.options.create_timeout)),
                Ended::Panicked(text) => Err(CreateError::Panicked(text)),
            };
            guard.finish();
            shared.report_creation(&created, began);
            shared.apply(Self::now(), |core, now, effects| match created {
                Ok(value) => core.created(value, id, now, effects),
                Err(error) => core.not_created(Arc::new(error), id, now, effects),
            });
        }));
    }

    fn report_creation(&self, created: &Result<M::Object, CreateError<M::Error>>, began: Time) {
        match created {
            Ok(_) => self.options.meters.created_in(Self::now().since(began)),
            Err(_error) => {
                #[cfg(feature = "tracing")]
                tracing::warn!(
                    pool = self.name(),
                    error = _error as &dyn std::error::Error,
                    "no object could be created"
                );
            }
        }
    }

    fn start_inspection(self: &Arc<Self>, executor: &Arc<dyn Executor>, mut object: Object<M::Object>) {
        let mut guard = Guard::new(self, executor, What::Inspection);
        executor.spawn(Box::pin(async move {
            guard.begin();
            let shared = Arc::clone(&guard.shared);
            let verdict = shared.inspect(&mut object).await;
            guard.finish();
            shared.apply(Self::now(), |core, now, effects| core.inspected(object, verdict, now, effects));
        }));
    }

    async fn inspect(&self, object: &mut Object<M::Object>) -> Verdict {
        let is_dirty = object.meta.is_dirty;
        let value = &mut object.value;
        let judged = self.judge(value, false);
        if judged != Verdict::Good {
            return judged;
        }
        let ended = match is_dirty {
            true => self.limited(self.options.reset_timeout, || self.manager.reset(value)).await,
            false => self.limited(self.options.check_timeout, || self.manager.check(value)).await,
        };
        let hook = if is_dirty { &self.options.after_return } else { &self.options.before_lease };
        if self.manager.blocks() && was_default() && hook.is_none() {
            let mut core = self.core.lock();
            if is_dirty { core.never_resets() } else { core.never_checks() }
        }
        match ended {
            Ended::Well(Ok(())) if run_hook(hook, value) => Verdict::Good,
            Ended::Well(Ok(())) => Verdict::Discarded,
            ended => {
                self.report_inspection(ended, is_dirty);
                match self.judge(value, false) {
                    Verdict::AllBroken => Verdict::AllBroken,
                    _ => Verdict::Broken,
                }
            }
        }
    }

    #[cfg(feature = "tracing")]
    fn report_inspection(&self, ended: Ended<Result<(), M::Error>>, is_reset: bool) {
        let why: &dyn std::fmt::Display = match &ended {
            Ended::Well(Ok(())) => return,
            Ended::Well(Err(error)) => error,
            Ended::Late => &"it took too long",
            Ended::Panicked(text) => text,
        };
        let step = if is_reset { "reset" } else { "check" };
        tracing::debug!(pool = self.name(), step, error = %why, "an object is closed");
    }

    #[cfg(not(feature = "tracing"))]
    fn report_inspection(&self, _: Ended<Result<(), M::Error>>, _: bool) {}

    /// For events.
    #[cfg(feature = "tracing")]
    pub(super) fn name(&self) -> &str {
        self.options.name.as_deref().unwrap_or_default()
    }

    fn start_closing(self: &Arc<Self>, executor: &Arc<dyn Executor>, object: Object<M::Object>) {
        let mut guard = Guard::new(self, executor, What::Closing);
        executor.spawn(Box::pin(async move {
            guard.begin();
            let shared = Arc::clone(&guard.shared);
            shared.limited(shared.options.close_timeout, || shared.manager.close(object.value)).await;
        }));
    }
}

impl<M: Manager> Turn for Shared<M> {
    fn turn(self: Arc<Self>) -> Time {
        // AcqRel: see `kick`.
        self.is_kicked.swap(false, Ordering::AcqRel);
        loop {
            let executor = self.executor.lock().clone();
            let now = Self::now();
            let (work, leaks) = self.apply(now, |core, now, effects| {
                core.tick(now, effects);
                let leaks = core.tracking.as_mut().map(|tracking| tracking.report(now));
                // What the tick noted is taken here.
                effects.work = false;
                (core.take_work(now, executor.is_some()), leaks.unwrap_or_default())
            });
            for leak in leaks {
                super::lease::report(&self.options, leak, now);
            }
            let is_done = work.create == 0 && work.inspect.is_empty() && work.close.is_empty();
            if is_done {
                return work.sleep_until;
            }
            let Some(executor) = executor else { return work.sleep_until };
            (0..work.create).for_each(|_| self.start_creation(&executor));
            work.inspect.into_iter().for_each(|object| self.start_inspection(&executor, object));
            work.close.into_iter().for_each(|object| self.start_closing(&executor, object));
        }
    }
}

fn run_hook<T>(hook: &Option<Hook<T>>, value: &mut T) -> bool {
    hook.as_ref().is_none_or(|hook| catch_unwind(AssertUnwindSafe(|| hook(value))).unwrap_or(false))
}

pub(super) enum Ended<R> {
    Well(R),
    Late,
    Panicked(String),
}

fn panicked<R>(panic: &(dyn Any + Send)) -> Ended<R> {
    Ended::Panicked(panic_text(panic).unwrap_or_default().to_owned())
}

async fn until<F: Future>(alarm: &Alarm, future: impl FnOnce() -> F) -> Ended<F::Output> {
    let future = match catch_unwind(AssertUnwindSafe(future)) {
        Ok(future) => future,
        Err(panic) => return panicked(&*panic),
    };
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Ready(result)) => Poll::Ready(Ended::Well(result)),
        Err(panic) => Poll::Ready(panicked(&*panic)),
        Ok(Poll::Pending) if alarm.has_rung(context.waker()) => Poll::Ready(Ended::Late),
        Ok(Poll::Pending) => Poll::Pending,
    })
    .await
}

enum What {
    Creation(AlarmId),
    Inspection,
    Closing,
    Done,
}

/// Accounts for a task, however it ends: also if an executor drops it.
struct Guard<M: Manager> {
    shared: Arc<Shared<M>>,
    executor: Arc<dyn Executor>,
    what: What,
    has_begun: bool,
}

impl<M: Manager> Guard<M> {
    fn new(shared: &Arc<Shared<M>>, executor: &Arc<dyn Executor>, what: What) -> Self {
        Guard { shared: Arc::clone(shared), executor: Arc::clone(executor), what, has_begun: false }
    }

    fn begin(&mut self) {
        self.has_begun = true;
    }

    /// The task accounts for itself.
    fn finish(&mut self) {
        self.what = What::Done;
    }
}

impl<M: Manager> Drop for Guard<M> {
    fn drop(&mut self) {
        if !self.has_begun {
            self.shared.lose(&self.executor);
        }
        let is_withdrawn = !self.has_begun && !self.shared.is_fixed;
        let now = Shared::<M>::now();
        self.shared.apply(now, |core, now, effects| match self.what {
            What::Creation(id) if is_withdrawn => core.withdraw_creation(id, now, effects),
            What::Creation(id) => core.not_created(Arc::new(CreateError::Dropped), id, now, effects),
            What::Inspection => core.inspection_lost(now, effects),
            What::Closing => core.closed_one(now, effects),
            What::Done => {}
        });
    }
}

impl<M: Manager> Drop for Shared<M> {
    fn drop(&mut self) {
        // What is left in it is gone too: with the pool of a runtime that ended, for example.
        if self.options.meters.is_on() {
            let left = Levels::of(&self.core.lock().counts());
            self.options.meters.moved(left, Levels::default());
        }
    }
}
