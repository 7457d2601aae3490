//! The pool of loops.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use super::door::{Counts, Door, Job, Outcome, Stage, Ticket};
use super::event_loop::{Hooks, Loop, current};
use super::serve::Service;
use super::task::{JoinHandle, pair};
use crate::primitive::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::primitive::{Arc, JoinHandle as Thread, Mutex, OnceLock, Weak, affinity, spawn_thread_with_stack};

/// Event loops, one a thread. See the [module](super).
#[derive(Clone)]
pub struct RuntimePool(Arc<Inner>);

pub(super) struct Inner {
    id: u64,
    loops: Box<[Arc<Door>]>,
    /// Of the next loop, in turn.
    turn: AtomicUsize,
    /// Held by the one who stops loops: a second one waits for it.
    threads: Mutex<Box<[Option<Thread<()>>]>>,
    processors: Box<[Option<usize>]>,
    /// What accepts connections on the loops.
    services: Mutex<Vec<Weak<dyn Service>>>,
    patience: Duration,
}

/// Whether each loop's thread keeps to a processor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// The system decides.
    No,
    /// As far as there are processors, and the system allows it. [`RuntimePool::processors`] says what came of it.
    BestEffort,
    /// All of them, or the pool is not built.
    Required,
}

/// Builds a [`RuntimePool`].
#[must_use]
pub struct Builder {
    loops: usize,
    name: String,
    stack_size: Option<usize>,
    hooks: Hooks,
    pinning: Pinning,
    patience: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("loops", &self.loops)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why a pool cannot be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no loop in it.
    Zero,
    /// The thread of a loop, or its runtime, could not be started. Those before it have been stopped.
    Start {
        /// Which one.
        index: usize,
        /// Why.
        source: io::Error,
    },
    /// There are fewer processors than loops, and [`Pinning::Required`] asks for one each.
    TooFewProcessors {
        /// How many the process may use.
        processors: usize,
    },
    /// The loops could not be pinned, as [`Pinning::Required`] asks for. Only Linux can.
    Pinning(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Zero => f.write_str("a pool without a loop"),
            BuildError::Start { index, .. } => write!(f, "loop {index} could not be started"),
            BuildError::TooFewProcessors { processors } => {
                write!(
                    f,
                    "the process may use {processors} processors, which are fewer than the loops to pin"
                )
            }
            BuildError::Pinning(_) => f.write_str("the loops could not be pinned"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BuildError::Start { source, .. } | BuildError::Pinning(source) => Some(source),
            BuildError::Zero | BuildError::TooFewProcessors { .. } => None,
        }
    }
}

/// The loop does not run any more, or takes no new tasks: here is what was to run on it.
pub struct Stopped<F>(pub F);

impl<F> fmt::Debug for Stopped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

impl<F> fmt::Display for Stopped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the loop takes no new tasks")
    }
}

impl<F> Error for Stopped<F> {}

/// A loop cannot wait for its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnOwnLoop;

impl fmt::Display for OnOwnLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("called on a loop of the pool, which cannot wait for itself")
    }
}

impl Error for OnOwnLoop {}

/// What became of the loops that were to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// The loops whose threads have ended.
    pub joined: Vec<usize>,
    /// Those whose threads still ran at the deadline. They end when their tasks let them.
    pub timed_out: Vec<usize>,
    /// Those of the joined ones that ended by a panic.
    pub panicked: Vec<usize>,
    /// Tasks that had run to their end, in the life of the loops.
    pub finished: u64,
    /// Tasks that were dropped.
    pub dropped: u64,
}

/// What was left at the end of a [`drain`](RuntimePool::drain).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// The tasks that still run, by their loops.
    pub left: Vec<(usize, u64)>,
}

impl DrainReport {
    /// Whether nothing was left.
    pub fn is_complete(&self) -> bool {
        self.left.is_empty()
    }
}

impl Builder {
    /// The name of each thread is this one with the loop's index behind it. `loop-` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The stack size of each thread, in bytes. That of `std` by default.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Runs on each loop's thread before its first task, with its index.
    pub fn on_start(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.hooks.on_start = Some(Box::new(hook));
        self
    }

    /// Runs on each loop's thread after its last task is gone, with its index.
    pub fn on_stop(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.hooks.on_stop = Some(Box::new(hook));
        self
    }

    /// Whether each loop keeps to a processor of its own, of those that the process may use at the time of the build: also if
    /// the thread that builds the pool is pinned itself. Threads of blocking tasks are not pinned with their loop. [`Pinning::No`]
    /// by default.
    pub fn pinning(mut self, pinning: Pinning) -> Self {
        self.pinning = pinning;
        self
    }

    /// How long the drop of the pool waits for its threads. 10 s by default.
    pub fn drop_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts the loops, and returns when all of them run.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(self) -> Result<RuntimePool, BuildError> {
        static POOLS: AtomicU64 = AtomicU64::new(0);
        let Builder { loops, name, stack_size, hooks, pinning, patience } = self;
        if loops == 0 {
            return Err(BuildError::Zero);
        }
        let processors = processors_for(loops, pinning)?;
        // Relaxed: only the numbers count.
        let id = POOLS.fetch_add(1, Ordering::Relaxed);
        let hooks = Arc::new(hooks);
        let doors: Box<[_]> = (0..loops).map(|_| Arc::new(Door::new())).collect();
        let mut threads: Box<[Option<Thread<()>>]> = (0..loops).map(|_| None).collect();
        let mut failed = None;
        let mut pinned = vec![None; loops];
        for (index, door) in doors.iter().enumerate() {
            let ready = Arc::new(OnceLock::new());
            let outcome = Arc::clone(&ready);
            let pinning_of = processors.get(index).map(|own| (*own, Arc::clone(&processors)));
            let own = Loop {
                pool: id,
                index,
                door: Arc::clone(door),
                hooks: Arc::clone(&hooks),
                pinning: pinning_of,
            };
            let body = move || own.run(|result| drop(outcome.set(Mutex::new(Some(result)))));
            match spawn_thread_with_stack(&format!("{name}{index}"), stack_size, body) {
                Ok(thread) => threads[index] = Some(thread),
                Err(source) => {
                    failed = Some(BuildError::Start { index, source });
                    break;
                }
            }
            match ready.wait().lock().take() {
                Some(Err(source)) => failed = Some(BuildError::Start { index, source }),
                Some(Ok(Err(source))) if pinning == Pinning::Required => {
                    failed = Some(BuildError::Pinning(source))
                }
                Some(Ok(result)) => pinned[index] = processors.get(index).copied().filter(|_| result.is_ok()),
                None => {}
            }
            if failed.is_some() {
                break;
            }
        }
        // The others have no thread that could say so.
        for (door, _) in doors.iter().zip(&threads).filter(|(_, thread)| thread.is_none()) {
            door.advance(Stage::Ended(Outcome::Stopped));
        }
        let inner = Inner {
            id,
            loops: doors,
            turn: AtomicUsize::new(0),
            threads: Mutex::new(threads),
            processors: pinned.into(),
            services: Mutex::new(Vec::new()),
            patience,
        };
        let pool = RuntimePool(Arc::new(inner));
        match failed {
            // The drop stops those that run.
            Some(error) => Err(error),
            None => Ok(pool),
        }
    }
}

/// The processor of each loop that is to be pinned, and then those that are left.
fn processors_for(loops: usize, pinning: Pinning) -> Result<Arc<[usize]>, BuildError> {
    if pinning == Pinning::No {
        return Ok(Arc::default());
    }
    match affinity::of_process() {
        Ok(processors) if processors.len() < loops && pinning == Pinning::Required => {
            Err(BuildError::TooFewProcessors { processors: processors.len() })
        }
        Ok(processors) => Ok(processors.into()),
        Err(error) if pinning == Pinning::Required => Err(BuildError::Pinning(error)),
        Err(_) => Ok(Arc::default()),
    }
}

impl RuntimePool {
    /// A pool of so many loops.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn new(loops: usize) -> Result<RuntimePool, BuildError> {
        RuntimePool::builder(loops).build()
    }

    /// A pool with options.
    pub fn builder(loops: usize) -> Builder {
        Builder {
            loops,
            name: "loop-".to_owned(),
            stack_size: None,
            hooks: Hooks::default(),
            pinning: Pinning::No,
            patience: Duration::from_secs(10),
        }
    }

    /// How many loops there are, those that have stopped among them.
    #[allow(clippy::len_without_is_empty)] // a pool has a loop
    pub fn len(&self) -> usize {
        self.0.loops.len()
    }

    /// The processor that each loop keeps to; `None` for one that is not pinned.
    pub fn processors(&self) -> &[Option<usize>] {
        &self.0.processors
    }

    /// The loop of an index, or `None` if there is none.
    pub fn at(&self, index: usize) -> Option<LoopHandle<'_>> {
        self.0.loops.get(index).map(|door| LoopHandle { index, door })
    }

    /// The next loop that takes tasks, in turn. If none does, one that does not.
    pub fn next(&self) -> LoopHandle<'_> {
        let loops = &self.0.loops;
        // Relaxed: each caller gets a number of its own, and no other memory depends on it.
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..loops.len()).map(|offset| turn.wrapping_add(offset) % loops.len());
        let index = in_turn.clone().find(|index| loops[*index].stage() == Stage::Open);
        let index = index.unwrap_or(turn % loops.len());
        LoopHandle { index, door: &loops[index] }
    }

    /// The loop with the fewest tasks, of those that take some.
    pub fn least_loaded(&self) -> LoopHandle<'_> {
        let open = self.0.loops.iter().enumerate().filter(|(_, door)| door.stage() == Stage::Open);
        let least = open.min_by_key(|(_, door)| door.counts().active());
        least.map_or_else(|| self.next(), |(index, door)| LoopHandle { index, door })
    }

    /// Runs a future on the next loop.
    ///
    /// # Errors
    ///
    /// [`Stopped`], with the future, if no loop takes tasks.
    pub fn spawn<F>(&self, future: F) -> Result<JoinHandle<F::Output>, Stopped<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.next().spawn(future)
    }

    /// Makes a future on the loop of an index, which needs not be `Send`, and runs it there.
    ///
    /// # Errors
    ///
    /// [`Stopped`], with the closure, if the loop takes no tasks, or does not exist.
    pub fn spawn_local_on<M, F>(&self, index: usize, make: M) -> Result<JoinHandle<F::Output>, Stopped<M>>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        match self.at(index) {
            Some(own) => own.spawn_local(make),
            None => Err(Stopped(make)),
        }
    }

    /// Lets all loops finish what they have, and take nothing new. What is left at the deadline runs on;
    /// [`stop`](Self::stop) drops it.
    ///
    /// # Errors
    ///
    /// [`OnOwnLoop`], and the loops go on as before.
    pub fn drain(&self, deadline: Duration) -> Result<DrainReport, OnOwnLoop> {
        self.0.is_elsewhere()?;
        Ok(self.0.drain(0..self.len(), deadline))
    }

    /// [`drain`](Self::drain) for one loop; the others go on, and accept the connections in its place. An index that does
    /// not exist is an empty report.
    ///
    /// # Errors
    ///
    /// [`OnOwnLoop`], and the loop goes on as before.
    pub fn drain_loop(&self, index: usize, deadline: Duration) -> Result<DrainReport, OnOwnLoop> {
        self.0.is_elsewhere()?;
        Ok(if index < self.len() { self.0.drain(index..index + 1, deadline) } else { DrainReport::default() })
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        RuntimePool(inner)
    }

    pub(super) fn remember(&self, service: &Arc<dyn Service>) {
        self.0.services.lock().push(Arc::downgrade(service));
    }

    /// Stops all loops: each drops its tasks on its own thread, and the thread ends. Waits for them, until the deadline; so does a
    /// second call for the first.
    ///
    /// # Errors
    ///
    /// [`OnOwnLoop`], and the loops go on as before.
    pub fn stop(&self, deadline: Duration) -> Result<StopReport, OnOwnLoop> {
        self.0.is_elsewhere()?;
        Ok(self.0.stop(0..self.len(), deadline))
    }

    /// [`stop`](Self::stop) for one loop; the others go on. An index that does not exist is an empty report.
    ///
    /// # Errors
    ///
    /// [`OnOwnLoop`], and the loop goes on as before.
    pub fn stop_loop(&self, index: usize, deadline: Duration) -> Result<StopReport, OnOwnLoop> {
        self.0.is_elsewhere()?;
        Ok(if index < self.len() { self.0.stop(index..index + 1, deadline) } else { StopReport::default() })
    }
}

impl fmt::Debug for RuntimePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<_> = self.0.loops.iter().map(|door| door.stage()).collect();
        f.debug_struct("RuntimePool").field("loops", &stages).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn forget(&self, service: &Arc<dyn Service>) {
        let gone = Arc::downgrade(service);
        self.services.lock().retain(|service| service.strong_count() > 0 && !service.ptr_eq(&gone));
    }

    /// The loop takes no more connections: others accept in its place.
    fn leave(&self, index: usize) {
        let services: Vec<_> = self.services.lock().iter().filter_map(Weak::upgrade).collect();
        services.into_iter().for_each(|service| service.leave(index));
    }

    fn is_elsewhere(&self) -> Result<(), OnOwnLoop> {
        match current() {
            Some((pool, _)) if pool == self.id => Err(OnOwnLoop),
            _ => Ok(()),
        }
    }

    fn drain(&self, which: std::ops::Range<usize>, deadline: Duration) -> DrainReport {
        let end = Instant::now().checked_add(deadline);
        self.loops[which.clone()].iter().for_each(|door| door.advance(Stage::Draining));
        // After that, so that none of them takes over what another has left.
        which.clone().for_each(|index| self.leave(index));
        let mut left = Vec::new();
        for index in which {
            if !self.loops[index].wait_for_jobs(end) {
                left.push((index, self.loops[index].counts().active()));
            }
        }
        DrainReport { left }
    }

    fn stop(&self, which: std::ops::Range<usize>, deadline: Duration) -> StopReport {
        let end = Instant::now().checked_add(deadline);
        // First: what is accepted from now on goes to the others.
        self.loops[which.clone()].iter().for_each(|door| door.advance(Stage::Draining));
        which.clone().for_each(|index| self.leave(index));
        self.loops[which.clone()].iter().for_each(|door| door.advance(Stage::Stopping));
        let mut threads = self.threads.lock();
        let mut report = StopReport::default();
        for index in which {
            let door = &self.loops[index];
            match door.wait_for_end(end) {
                None => report.timed_out.push(index),
                Some(outcome) => {
                    // It has said that it is at its end: the join takes no time.
                    let panicked = threads[index].take().is_some_and(|thread| thread.join().is_err());
                    report.joined.push(index);
                    if panicked || outcome == Outcome::Panicked {
                        report.panicked.push(index);
                    }
                }
            }
            let Counts { finished, dropped, .. } = door.counts();
            report.finished += finished;
            report.dropped += dropped;
        }
        report
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match self.is_elsewhere() {
            Ok(()) => drop(self.stop(0..self.loops.len(), self.patience)),
            // In a task of its own: the loops are notified, and end by themselves.
            Err(OnOwnLoop) => self.loops.iter().for_each(|door| door.advance(Stage::Stopping)),
        }
    }
}

/// A loop of a pool.
#[derive(Clone, Copy)]
pub struct LoopHandle<'a> {
    index: usize,
    door: &'a Arc<Door>,
}

impl fmt::Debug for LoopHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("index", &self.index).finish_non_exhaustive()
    }
}

impl LoopHandle<'_> {
    /// Its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many of its tasks have not come to their end.
    pub fn active(&self) -> u64 {
        self.door.counts().active()
    }

    /// Runs a future on this loop.
    ///
    /// # Errors
    ///
    /// [`Stopped`], with the future, if the loop takes no tasks.
    pub fn spawn<F>(&self, future: F) -> Result<JoinHandle<F::Output>, Stopped<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_with(future, |future| future)
    }

    /// Makes a future on this loop, which needs not be `Send`, and runs it there.
    ///
    /// # Errors
    ///
    /// [`Stopped`], with the closure, if the loop takes no tasks.
    pub fn spawn_local<M, F>(&self, make: M) -> Result<JoinHandle<F::Output>, Stopped<M>>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_with(make, |make| make())
    }

    /// Makes a future of an input on this loop, or gives the input back.
    pub(super) fn spawn_with<I, F>(
        &self,
        input: I,
        make: impl FnOnce(I) -> F + Send + 'static,
    ) -> Result<JoinHandle<F::Output>, Stopped<I>>
    where
        I: Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (reporter, handle) = pair();
        let job = |input: I| -> Job {
            Box::new(move |ticket: Ticket| {
                drop(tokio::task::spawn_local(reporter.run(move || make(input), ticket)));
            })
        };
        self.door.accept(input, job).map(|()| handle).map_err(Stopped)
    }
}
