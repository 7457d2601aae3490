//! The pool, and its getters.

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::builder::Builder;
use super::core::{Core, Effects, Expiry, Failure, Object, Outcome, Queued, Rules, Taken, Verdict};
use super::error::{GetError, TimedOut};
use super::executor::{Executor, block_on};
use super::lease::Lease;
use super::manager::Manager;
use super::shared::{Cause, CoreOf, Options, Shared};
use super::stats::BoundedStats;
use super::time::Time;
use super::tracking::Tracking;
use super::waiters::Key;
use crate::primitive::atomic::Ordering;
use crate::primitive::{Arc, OnceLock, current_thread};

/// At most N of an expensive object. See the [module](super).
pub struct BoundedPool<M: Manager> {
    handle: Arc<Handle<M>>,
}

struct Handle<M: Manager> {
    shared: Arc<Shared<M>>,
}

impl<M: Manager> Drop for Handle<M> {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            self.shared.leak();
        } else {
            self.shared.close();
        }
    }
}

impl<M: Manager> Clone for BoundedPool<M> {
    fn clone(&self) -> Self {
        BoundedPool { handle: Arc::clone(&self.handle) }
    }
}

impl<M: Manager> BoundedPool<M> {
    /// A pool with this manager, and the default of each option.
    pub fn builder(manager: M) -> Builder<M> {
        Builder::new(manager)
    }

    pub(super) fn build(
        rules: Rules,
        manager: M,
        options: Options<M::Object>,
        executor: Option<Arc<dyn Executor>>,
        tracking: Option<Duration>,
    ) -> Self {
        let is_minimal = rules.min_size.max(rules.min_idle) == 0;
        let mut core = Core::new(rules);
        core.tracking = tracking.map(Tracking::new);
        let shared = Shared::new(core, manager, options, executor);
        if !is_minimal {
            shared.kick();
        }
        BoundedPool { handle: Arc::new(Handle { shared }) }
    }

    #[inline]
    fn shared(&self) -> &Arc<Shared<M>> {
        &self.handle.shared
    }

    /// Waits for an object, for as long as [`get_timeout`](Builder::get_timeout) allows.
    ///
    /// A future that is dropped has no effect: it gives up its place, and loses no object.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    #[track_caller]
    pub fn get(&self) -> Get<'_, M> {
        self.get_within(self.shared().options.get_timeout)
    }

    /// Waits for an object, for at most `timeout` in all.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Get<'_, M> {
        self.get_within(Some(timeout))
    }

    #[track_caller]
    fn get_within(&self, timeout: Option<Duration>) -> Get<'_, M> {
        Get {
            shared: self.shared(),
            state: State::New(timeout),
            began: Time::NEVER,
            site: Location::caller(),
        }
    }

    /// [`get`](Self::get) for a thread, which it blocks. It must not be called in an async task.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    #[track_caller]
    pub fn get_blocking(&self) -> Result<Lease<M>, GetError<M::Error>> {
        block_on(self.get())
    }

    /// [`get_timeout`](Self::get_timeout) for a thread, which it blocks. It must not be called in an async task.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    #[track_caller]
    pub fn get_blocking_timeout(&self, timeout: Duration) -> Result<Lease<M>, GetError<M::Error>> {
        block_on(self.get_timeout(timeout))
    }

    /// Takes an idle object, if there is one and no caller waits for it. If not, and the pool is below its limit, one is created,
    /// for a later call.
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] or [`GetError::Closed`].
    #[track_caller]
    pub fn try_get(&self) -> Result<Lease<M>, GetError<M::Error>> {
        let (shared, site) = (self.shared(), Location::caller());
        match shared.take(site) {
            Taken::Object(object) => Ok(Lease::new(shared, object, |_| Duration::ZERO)),
            Taken::Closed => Err(GetError::Closed),
            Taken::Nothing => {
                shared.find_executor();
                shared.apply(Shared::<M>::now(), |core, now, effects| core.ask(now, effects));
                Err(GetError::Exhausted)
            }
        }
    }

    /// Changes the limit. A lower one closes idle objects at once, and leased ones when they come back.
    pub fn resize(&self, max_size: usize) {
        if self.shared().is_inherited() {
            return;
        }
        self.shared().apply(Shared::<M>::now(), |core, now, effects| core.resize(max_size, now, effects));
    }

    /// Closes all objects that exist now: idle ones at once, leased ones when they come back.
    pub fn invalidate_all(&self) {
        if self.shared().is_inherited() {
            return;
        }
        self.shared().apply(Shared::<M>::now(), |core, now, effects| core.invalidate_all(now, effects));
    }

    /// Closes the pool: all waiters get [`GetError::Closed`] at once, idle objects are closed, and leased ones when they come
    /// back. A second call has no effect. The drop of the last handle closes the pool too.
    pub fn close(&self) {
        if self.shared().is_inherited() {
            return;
        }
        self.shared().close();
    }

    /// Whether the pool is closed.
    pub fn is_closed(&self) -> bool {
        self.shared().is_inherited()
            || self.shared().apply(Shared::<M>::soon(), |core, _, _| core.is_closed())
    }

    /// Refuses new gets, and waits until all leases have ended and all objects are closed, for `deadline` at most. What is left
    /// then is in the report; [`close`](Self::close) may follow. A drain that is canceled leaves the pool draining.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        let shared = self.shared();
        let began = Shared::<M>::now();
        if shared.is_inherited() {
            return DrainReport { leased: 0, closing: 0, waited: Duration::ZERO };
        }
        shared.find_executor();
        shared.apply(began, |core, _, effects| core.drain(effects));
        shared
            .limited(deadline, || {
                poll_fn(|context| {
                    let waker = context.waker().clone();
                    let is_over = shared.apply(Shared::<M>::now(), |core, _, effects| {
                        core.is_drained(waker, effects) || core.is_closed()
                    });
                    if is_over { Poll::Ready(()) } else { Poll::Pending }
                })
            })
            .await;
        let stats = self.stats();
        DrainReport {
            leased: stats.leased,
            closing: stats.closing + stats.checking + stats.creating,
            waited: Shared::<M>::now().since(began),
        }
    }

    /// What the pool holds now; nothing, in a child that inherited it.
    pub fn stats(&self) -> BoundedStats {
        if self.shared().is_inherited() {
            return BoundedStats::default();
        }
        self.shared().apply(Shared::<M>::soon(), |core, _, _| core.counts())
    }

    /// The manager.
    pub fn manager(&self) -> &M {
        &self.shared().manager
    }
}

impl<M: Manager> fmt::Debug for BoundedPool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a drain has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Leases that had not ended.
    pub leased: usize,
    /// Objects that were still being created, checked or closed.
    pub closing: usize,
    /// How long the drain took.
    pub waited: Duration,
}

impl DrainReport {
    /// Whether nothing was left.
    pub fn is_complete(&self) -> bool {
        self.leased + self.closing == 0
    }
}

/// The future of [`BoundedPool::get`].
#[must_use = "a get does nothing unless it is awaited"]
pub struct Get<'a, M: Manager> {
    shared: &'a Arc<Shared<M>>,
    state: State,
    began: Time,
    site: &'static Location<'static>,
}

enum Begun<T> {
    Queued(Queued),
    /// With the waker that was not needed.
    Taken(Taken<T>, Waker),
}

#[derive(Clone, Copy)]
enum State {
    New(Option<Duration>),
    Queued(Key),
    Done,
}

impl<M: Manager> Future for Get<'_, M> {
    type Output = Result<Lease<M>, GetError<M::Error>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::New(timeout) = self.state {
            // Relaxed: an old value costs time, nothing else.
            if self.shared.is_crowded.load(Ordering::Relaxed) {
                return self.begin_wait(timeout, context.waker());
            }
            return match self.shared.take(self.site) {
                Taken::Object(object) => self.served_at_once(object),
                Taken::Closed => self.ended(GetError::Closed),
                Taken::Nothing => self.begin_wait(timeout, context.waker()),
            };
        }
        self.look(context.waker())
    }
}

impl<M: Manager> Get<'_, M> {
    #[inline]
    fn served_at_once(&mut self, object: Object<M::Object>) -> Poll<<Self as Future>::Output> {
        self.state = State::Done;
        Poll::Ready(Ok(Lease::new(self.shared, object, |_| Duration::ZERO)))
    }

    fn ended(&mut self, error: GetError<M::Error>) -> Poll<<Self as Future>::Output> {
        self.state = State::Done;
        Poll::Ready(Err(error))
    }

    /// Takes an object after all, or queues up.
    #[cold]
    fn begin_wait(&mut self, timeout: Option<Duration>, waker: &Waker) -> Poll<<Self as Future>::Output> {
        if self.shared.is_inherited() {
            return self.ended(GetError::Closed);
        }
        // The faster clock is a few milliseconds late, which is nothing in a second.
        let is_long = timeout.is_none_or(|timeout| timeout >= Duration::from_secs(1));
        let now = if is_long { Shared::<M>::soon() } else { Shared::<M>::now() };
        self.began = now;
        let deadline = timeout.map_or(Time::NEVER, |timeout| now.after(timeout));
        let own = waker.clone();
        let holder = if self.shared.options.tracks { holder() } else { 0 };
        let (shared, site) = (self.shared, self.site);
        let begun = shared.apply(now, |core, now, effects| match core.take(now, effects) {
            Taken::Nothing => Begun::Queued(core.enqueue(deadline, holder, own, now, effects)),
            taken => {
                if let Taken::Object(object) = &taken {
                    shared.track(core, object, site, now, effects);
                }
                Begun::Taken(taken, own)
            }
        });
        let is_crowded = matches!(begun, Begun::Queued(_));
        if shared.is_crowded.load(Ordering::Relaxed) != is_crowded {
            shared.is_crowded.store(is_crowded, Ordering::Relaxed);
        }
        match begun {
            Begun::Queued(Queued::As(key)) => {
                self.state = State::Queued(key);
                // Its waker is in the queue: it will be polled when there is an outcome.
                if shared.find_executor() { Poll::Pending } else { self.look(waker) }
            }
            Begun::Taken(Taken::Object(object), _waker) => self.served_at_once(object),
            Begun::Queued(Queued::Full) => self.ended(GetError::TooManyWaiters),
            Begun::Queued(Queued::Closed) | Begun::Taken(..) => self.ended(GetError::Closed),
        }
    }

    fn look(&mut self, waker: &Waker) -> Poll<<Self as Future>::Output> {
        let State::Queued(key) = self.state else {
            // A future that is polled after its end.
            return Poll::Pending;
        };
        if self.shared.is_inherited() {
            return Poll::Ready(Err(GetError::Closed));
        }
        let site = self.site;
        // Only a tracked lease has to know when it began.
        let now = if self.shared.options.tracks { Shared::<M>::soon() } else { Time::NEVER };
        let mut outcome = self.shared.apply(now, |core, now, effects| {
            let outcome = core.outcome(key, effects);
            if let Some(Ok(object)) = &outcome {
                self.shared.track(core, object, site, now, effects);
            }
            outcome
        });
        if outcome.is_none() {
            outcome = self.look_again(key, waker.clone());
        }
        let Some(outcome) = outcome else { return Poll::Pending };
        self.state = State::Done;
        Poll::Ready(match outcome {
            Ok(object) => Ok(Lease::new(self.shared, object, |now| now.since(self.began))),
            Err(failure) => Err(error::<M>(failure, Shared::<M>::now().since(self.began))),
        })
    }

    #[cold]
    fn look_again(&self, key: Key, waker: Waker) -> Option<Outcome<M::Object, Cause<M>>> {
        let has_executor = self.shared.find_executor();
        self.shared.apply(Shared::<M>::now(), |core, now, effects| {
            let outcome = core.look(key, waker, now, effects);
            if outcome.is_none() && !has_executor && core.is_hopeless() {
                core.cancel(key, now, effects);
                return Some(Err(Failure::NoRuntime));
            }
            if let Some(Ok(object)) = &outcome {
                self.shared.track(core, object, self.site, now, effects);
            }
            outcome
        })
    }
}

fn error<M: Manager>(failure: Failure<Cause<M>>, waited: Duration) -> GetError<M::Error> {
    match failure {
        Failure::TimedOut(expiry) => {
            let Expiry { phase, stats, waiters_with_lease, cause } = *expiry;
            GetError::TimedOut(Box::new(TimedOut { phase, waited, stats, waiters_with_lease, cause }))
        }
        Failure::Closed => GetError::Closed,
        Failure::NoRuntime => GetError::NoRuntime,
        Failure::Create(error) => GetError::Create(error),
    }
}

impl<M: Manager> Drop for Get<'_, M> {
    fn drop(&mut self) {
        if let State::Queued(key) = self.state
            && !self.shared.is_inherited()
        {
            self.shared.apply(Shared::<M>::now(), |core, now, effects| core.cancel(key, now, effects));
        }
    }
}

impl<M: Manager> fmt::Debug for Get<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_queued = matches!(self.state, State::Queued(_));
        f.debug_struct("Get").field("is_queued", &is_queued).finish_non_exhaustive()
    }
}

/// The task or thread that calls, as a number.
fn holder() -> u64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    let state = STATE.get_or_init(RandomState::new);
    #[cfg(feature = "tokio")]
    if let Some(task) = tokio::task::try_id() {
        return state.hash_one(task);
    }
    state.hash_one(current_thread())
}

impl<M: Manager> Shared<M> {
    #[inline]
    fn take(&self, site: &'static Location<'static>) -> Taken<M::Object> {
        if self.is_inherited() {
            return Taken::Closed;
        }
        let now = Self::soon();
        if self.is_plain()
            && let Some(object) = self.core.lock().take_ready(now)
        {
            return Taken::Object(object);
        }
        self.take_with_effects(now, site)
    }

    /// Whether nobody follows each lease.
    #[inline]
    fn is_plain(&self) -> bool {
        !self.options.tracks && !self.options.meters.is_on()
    }

    fn take_with_effects(&self, now: Time, site: &'static Location<'static>) -> Taken<M::Object> {
        self.apply(now, |core, now, effects| {
            let taken = core.take(now, effects);
            if let Taken::Object(object) = &taken {
                self.track(core, object, site, now, effects);
            }
            taken
        })
    }

    /// A lease begins.
    #[inline]
    fn track(
        &self,
        core: &mut CoreOf<M>,
        object: &Object<M::Object>,
        site: &'static Location<'static>,
        now: Time,
        effects: &mut Effects<Cause<M>>,
    ) {
        if self.options.tracks {
            core.track(object.meta.id, holder(), site, now, effects);
        }
    }

    #[inline]
    pub(super) fn give_back(&self, mut object: Object<M::Object>, verdict: Verdict) {
        let now = Self::soon();
        if verdict == Verdict::Good && self.is_plain() && !self.is_crowded.load(Ordering::Relaxed) {
            let given = self.core.lock().give_back_ready(object, now);
            match given {
                Ok(false) => return,
                Ok(true) => return self.kick(),
                Err(refused) => object = refused,
            }
        }
        self.give_back_with_effects(object, verdict, now);
    }

    fn give_back_with_effects(&self, object: Object<M::Object>, verdict: Verdict, now: Time) {
        self.apply(now, |core, now, effects| core.give_back(object, verdict, now, effects));
    }

    fn close(&self) {
        self.apply(Self::now(), |core, _, effects| core.close(effects));
    }
}
