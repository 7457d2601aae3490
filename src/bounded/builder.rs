//! The options of a pool, each with its default.

use std::fmt;
use std::time::Duration;

use super::core::{CheckWhen, Rules};
use super::error::BuildError;
use super::executor::{Executor, Threads};
use super::lease::LeakReport;
use super::manager::{Manager, has_check, has_reset};
use super::meters::Meters;
use super::pool::BoundedPool;
use super::shared::Options;
use crate::primitive::{Arc, clock};

/// Builds a [`BoundedPool`].
#[must_use]
pub struct Builder<M: Manager> {
    manager: M,
    rules: Rules,
    options: Options<M::Object>,
    executor: Option<Arc<dyn Executor>>,
    tracking: Option<Duration>,
}

/// Which idle object is leased next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The one that was used last: the others become idle, and can be closed.
    Lifo,
    /// The one that has been idle for longest: all are used in turn.
    Fifo,
}

impl<M: Manager> Builder<M> {
    pub(super) fn new(manager: M) -> Self {
        let rules = Rules {
            max_size: 10,
            min_size: 0,
            min_idle: 0,
            max_creating: 2,
            max_waiters: usize::MAX,
            max_lifetime: Some(Duration::from_secs(30 * 60)),
            jitter: 0.1,
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            fail_fast: false,
            is_lifo: true,
            check: Some(CheckWhen::Borrowed),
            resets: false,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            seed: clock::now_ns(),
        };
        let options = Options {
            get_timeout: Some(Duration::from_secs(30)),
            create_timeout: Duration::from_secs(10),
            check_timeout: Duration::from_secs(2),
            reset_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
            keeps_on_panic: false,
            tracks: false,
            after_create: None,
            before_lease: None,
            after_return: None,
            on_leak: None,
            name: None,
            meters: Meters::default(),
        };
        let tracking = cfg!(debug_assertions).then_some(Duration::from_secs(60));
        Builder { manager, rules, options, executor: None, tracking }
    }

    /// The limit of objects, those that are being created or closed among them. 10 by default.
    pub fn max_size(mut self, objects: usize) -> Self {
        self.rules.max_size = objects;
        self
    }

    /// How many objects to keep alive. 0 by default.
    pub fn min_size(mut self, objects: usize) -> Self {
        self.rules.min_size = objects;
        self
    }

    /// How many objects to keep idle, ready for the next callers, within the limit. 0 by default.
    pub fn min_idle(mut self, objects: usize) -> Self {
        self.rules.min_idle = objects;
        self
    }

    /// How many objects may be created at the same time. 2 by default.
    pub fn max_creating(mut self, objects: usize) -> Self {
        self.rules.max_creating = objects;
        self
    }

    /// How many callers may wait; further ones get [`GetError::TooManyWaiters`](super::GetError::TooManyWaiters).
    /// There is no limit by default.
    pub fn max_waiters(mut self, callers: usize) -> Self {
        self.rules.max_waiters = callers;
        self
    }

    /// How long a get may wait in all. 30 s by default.
    pub fn get_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.get_timeout = timeout;
        self
    }

    /// How long one creation may take. 10 s by default.
    pub fn create_timeout(mut self, timeout: Duration) -> Self {
        self.options.create_timeout = timeout;
        self
    }

    /// How long one check may take. 2 s by default.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.options.check_timeout = timeout;
        self
    }

    /// How long one reset may take. 5 s by default.
    pub fn reset_timeout(mut self, timeout: Duration) -> Self {
        self.options.reset_timeout = timeout;
        self
    }

    /// How long the closing of one object may take; then it is dropped. 5 s by default.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.options.close_timeout = timeout;
        self
    }

    /// How long an object may live; it is closed then, or when its lease ends. 30 min by default.
    pub fn max_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.rules.max_lifetime = lifetime;
        self
    }

    /// The part of the lifetime, from 0 to 1, by which it is shortened at random, so that objects of the same age are not
    /// replaced all at once. 0.1 by default.
    pub fn lifetime_jitter(mut self, part: f64) -> Self {
        self.rules.jitter = part;
        self
    }

    /// How long an object may be idle; then it is closed, down to `min_size`. 10 min by default.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.rules.idle_timeout = timeout;
        self
    }

    /// Which idle object is leased next. [`Order::Lifo`] by default.
    pub fn order(mut self, order: Order) -> Self {
        self.rules.is_lifo = order == Order::Lifo;
        self
    }

    /// When idle objects are checked. [`CheckWhen::Borrowed`] by default, if the manager has a check.
    pub fn check(mut self, when: CheckWhen) -> Self {
        self.rules.check = Some(when);
        self
    }

    /// When a creation fails and no object is alive, all waiters get the error at once. By default creations are tried again
    /// until the waiters' deadlines.
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.rules.fail_fast = fail_fast;
        self
    }

    /// The pause after a failed creation, and the longest one: it doubles with each failure. 50 ms and 2 s by default.
    pub fn retry_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.rules.first_pause, self.rules.longest_pause) = (first, longest);
        self
    }

    /// Whether objects whose lease ends in a panic are used again. False by default.
    pub fn keep_on_panic(mut self, keep: bool) -> Self {
        self.options.keeps_on_panic = keep;
        self
    }

    /// Runs on each new object; false refuses it.
    pub fn after_create(mut self, hook: impl Fn(&mut M::Object) -> bool + Send + Sync + 'static) -> Self {
        self.options.after_create = Some(Box::new(hook));
        self
    }

    /// Runs with the check of an idle object; false has it closed.
    pub fn before_lease(mut self, hook: impl Fn(&mut M::Object) -> bool + Send + Sync + 'static) -> Self {
        self.options.before_lease = Some(Box::new(hook));
        self
    }

    /// Runs after each lease, in a task of the pool; false has the object closed.
    pub fn after_return(mut self, hook: impl Fn(&mut M::Object) -> bool + Send + Sync + 'static) -> Self {
        self.options.after_return = Some(Box::new(hook));
        self
    }

    /// Leases that are out for longer are reported, once each, to `tracing` and to [`on_leak`](Self::on_leak). 60 s in debug
    /// builds, off in others.
    pub fn track_leases(mut self, limit: Option<Duration>) -> Self {
        self.tracking = limit;
        self
    }

    /// Is called with each lease that is out for too long.
    pub fn on_leak(mut self, hook: impl Fn(LeakReport) + Send + Sync + 'static) -> Self {
        self.options.on_leak = Some(Box::new(hook));
        self
    }

    /// The name by which the pool appears in events and metrics. With the feature `metrics` a pool with a name tells the recorder
    /// of the `metrics` facade that is installed when it is built:
    ///
    /// | name | kind | unit |
    /// |---|---|---|
    /// | `db.client.connection.count`, by `db.client.connection.state` (`idle`, `used`) | gauge | connections |
    /// | `db.client.connection.idle.max`, `.idle.min`, `.max` | gauges | connections |
    /// | `db.client.connection.pending_requests` | gauge | callers |
    /// | `db.client.connection.timeouts` | counter | gets |
    /// | `db.client.connection.create_time`, `.wait_time`, `.use_time` | histograms | seconds |
    ///
    /// Each carries `db.client.connection.pool.name`. The names are those of OpenTelemetry's semantic conventions.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into().into());
        self
    }

    /// Where the pool runs its tasks. By default those of a blocking manager run on [`Threads`], those of an async one on the
    /// tokio runtime in which the pool is built (feature `tokio`), and after its end on that of the next caller.
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executor = Some(Arc::new(executor));
        self
    }

    /// Builds the pool. It creates `min_size` objects in the background.
    ///
    /// # Errors
    ///
    /// If the options contradict each other.
    pub fn build(mut self) -> Result<BoundedPool<M>, BuildError> {
        let rules = &mut self.rules;
        if rules.max_size == 0 {
            return Err(BuildError::Zero("max_size"));
        }
        if rules.max_creating == 0 {
            return Err(BuildError::Zero("max_creating"));
        }
        if rules.min_size.max(rules.min_idle) > rules.max_size {
            return Err(BuildError::MinAboveMax);
        }
        if !(0.0..=1.0).contains(&rules.jitter) {
            return Err(BuildError::Jitter);
        }
        self.options.tracks = self.tracking.is_some();
        if let Some(name) = &self.options.name {
            self.options.meters = Meters::of(name, rules.min_idle);
        }
        let has_check = has_check::<M>() || self.options.before_lease.is_some();
        // Suspects are asked whether they are broken, whether or not there is a check.
        rules.check = rules.check.filter(|_| has_check);
        rules.resets = has_reset::<M>() || self.options.after_return.is_some();
        let executor = match self.executor {
            None if self.manager.blocks() => Some(Arc::new(Threads) as Arc<dyn Executor>),
            executor => executor,
        };
        Ok(BoundedPool::build(self.rules, self.manager, self.options, executor, self.tracking))
    }
}

impl<M: Manager> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("rules", &self.rules).finish_non_exhaustive()
    }
}
