//! The background ager: a thread that lets generations pass in pools that nobody uses.
//!
//! A handle, [`Ager`], outlives forks, and a thread does not. What both have is in two parts:
//!
//! * `Shared` is good in every process: the configuration, which does not change, and the list of
//!   [`Watched`] pools, which has no lock.
//! * `Run` is good in one process: the thread, the flag that stops it, and their lock. Which
//!   process that is stands in it. A handle that finds itself in another one, a forked child, never
//!   touches the lock, which may be held for ever there, but replaces the run by a new one.

mod cgroup;
mod pressure;
mod schedule;
mod watched;

use std::any::Any;
use std::mem::{self, ManuallyDrop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fmt, io};

use self::schedule::Schedule;
use self::sealed::Outcome;
use self::watched::{Keep, Watched};
use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::primitive::process::Process;
use crate::primitive::{Arc, Condvar, JoinHandle, Mutex, current_thread, spawn_thread};

/// A pool as an [`Ager`] watches it: one that lives as long as the program, or one held weakly.
///
/// `&'static SyncPool` and `Weak<SyncPool>` implement it, and so does `&'static ClientPool` with
/// the feature `grpc`.
pub trait Ageable: Send + sealed::Sealed + 'static {
    /// Lets one generation pass, if the pool still exists.
    #[doc(hidden)]
    fn pass_generation(&self) -> sealed::Outcome;
}

pub(crate) mod sealed {
    pub trait Sealed {}

    /// What came of a generation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Outcome {
        /// The pool is gone.
        Gone,
        Passed {
            /// Whether the pool has dropped objects.
            dropped: bool,
        },
    }
}

/// When an [`Ager`] lets a generation pass.
///
/// ```
/// use std::time::Duration;
///
/// use cenote::AgerConfig;
///
/// let config = AgerConfig { period: Duration::from_secs(10), ..AgerConfig::default() };
/// assert_eq!(config.memory_share, Some(0.8));
/// ```
#[derive(Clone, Debug)]
pub struct AgerConfig {
    /// How long a generation lasts. Default: 60 s. A shorter one than a millisecond counts as a
    /// millisecond.
    pub period: Duration,
    /// From which share of the time on stalls for lack of memory end a generation at once, and
    /// again each second: more than 0.1 by default, and 1.0 is all of the time. `None`: never.
    ///
    /// This is Linux's pressure stall information. It is that of the control group of the process,
    /// or of the machine if the group has none.
    pub memory_pressure: Option<f64>,
    /// From which share of the memory limit on usage ends a generation at once: more than 0.8 by
    /// default, and 1.0 is the limit. `None`: never.
    ///
    /// The limit is that of the control group of the process on Linux, version 1 or 2, or of a
    /// group above it, whichever is nearer. The page cache of files does not count as usage, since
    /// the kernel drops it first. A small container can reach its limit before any stall is
    /// measured: this option is for that case.
    ///
    /// While usage is above the share, the first two generations pass 10 ms apart, which empties an
    /// idle pool. More follow every 100 ms, as long as they drop objects; after two in a row that
    /// drop none, there is one every second. So in a program that always is above the share, an
    /// object lasts a second or two without use.
    ///
    /// Where there is a limit, the ager's thread reads two small files of each group ten times a
    /// second, and up to a hundred times near the share; without a limit, once a second.
    pub memory_share: Option<f64>,
    /// The file that reports the pressure, in the form of `/proc/pressure/memory`. By default it is
    /// found out.
    pub pressure_file: Option<PathBuf>,
    /// The directory of the one control group to look at, with the files `memory.current`,
    /// `memory.max` and `memory.stat`, or those of version 1. By default the groups are found out
    /// when the thread starts.
    pub cgroup_dir: Option<PathBuf>,
}

impl Default for AgerConfig {
    fn default() -> Self {
        AgerConfig {
            period: super::DEFAULT_PERIOD,
            memory_pressure: Some(0.1),
            memory_share: Some(0.8),
            pressure_file: None,
            cgroup_dir: None,
        }
    }
}

/// A background thread that ages pools, so that an idle pool gives its memory back: after two
/// generations without use it holds nothing.
///
/// A pool that is in use ages by itself. An ager also reaches the pools that nobody uses, and their
/// objects in the shards of threads that are parked, blocked or gone.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use cenote::{Ager, AgerConfig, SyncPool};
///
/// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
///
/// let local = Arc::new(SyncPool::<String>::default());
/// let config = AgerConfig { period: Duration::from_millis(5), ..AgerConfig::default() };
/// let ager = Ager::spawn(config).watch(&BUFS).watch(Arc::downgrade(&local));
///
/// BUFS.put(vec![1, 2, 3]);
/// while BUFS.stats().idle > 0 {
///     std::thread::sleep(Duration::from_millis(1)); // for two periods
/// }
/// drop(ager); // stops the thread
/// ```
///
/// An ager watches a pool that is not `static` by a [`Weak`](std::sync::Weak) reference, so it
/// keeps no pool alive. It drops objects on its own thread. An object that panics in its drop there
/// is gone, and the ager goes on with the others.
///
/// An ager cannot find pools by itself. A program may forget a pool (`mem::forget` is safe) whose
/// objects borrow from what is gone by then. So only `'static` objects may be aged without the
/// knowledge of their owner, and only the owner can promise that.
///
/// # Drop
///
/// Dropping the handle stops the thread and waits until it has ended, which takes as long as the
/// drop of the object that the thread is at. An object of a watched pool may own the handle:
/// dropped by the ager's own thread, the handle does not wait.
///
/// # Forks
///
/// A forked child has none of its parent's threads, so there an ager that was made before the fork
/// does nothing, until the next [`add`](Self::add) or [`watch`](Self::watch): it starts a thread in
/// the child, which ages the pools that the parent watched as well as the new one. A program that
/// becomes a daemon therefore calls `add` after the fork, or makes its ager there. In a child that
/// calls neither, the handle can be dropped as usual.
///
/// # Signals
///
/// On Unix the thread blocks all signals except those that report a fault of the thread itself
/// (`SIGSEGV`, `SIGBUS`, `SIGFPE`, `SIGILL`, `SIGSYS`, `SIGTRAP`). It never runs a signal handler
/// of the program for another signal, and takes none from a thread that waits for it.
#[must_use = "the ager stops when its handle is dropped"]
pub struct Ager {
    shared: Arc<Shared>,
    /// From `Arc::into_raw`; never null. Replaced in a forked child, by the first thread that needs
    /// a run there. What was replaced is leaked: a thread of the parent may have been changing it.
    run: AtomicPtr<Run>,
}

/// What an ager keeps over a fork. No lock is in here, since a thread of the parent might hold it.
struct Shared {
    config: AgerConfig,
    watched: Watched,
}

/// The thread of one process, and what it waits on. No other process touches it, except for reading
/// `process`.
struct Run {
    process: Process,
    state: Mutex<RunState>,
    /// Notified when `stop` becomes true.
    stopped: Condvar,
}

#[derive(Default)]
struct RunState {
    stop: bool,
    /// `None` before the thread is started, and after the handle has taken it to wait for it.
    thread: Option<JoinHandle<()>>,
}

impl Ager {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// If the system cannot start a thread. [`try_spawn`](Self::try_spawn) returns that error.
    pub fn spawn(config: AgerConfig) -> Self {
        match Self::try_spawn(config) {
            Ok(ager) => ager,
            Err(error) => panic!("failed to spawn the ager's thread: {error}"),
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn try_spawn(config: AgerConfig) -> io::Result<Self> {
        let shared = Arc::new(Shared { config, watched: Watched::new() });
        let run = Arc::new(Run::new(Process::current()));
        run.start(&shared)?;
        Ok(Ager { shared, run: AtomicPtr::new(Arc::into_raw(run).cast_mut()) })
    }

    /// Watches one more pool, as [`add`](Self::add) does: a `&'static` one, or one that is held
    /// weakly.
    ///
    /// `add` fails only in a forked child where no thread can be started. This method does not
    /// report that, and the pool is not watched then. A program that forks calls `add`.
    pub fn watch(self, pool: impl Ageable) -> Self {
        // The documentation says what an error comes to.
        let _ = self.add(pool);
        self
    }

    /// Watches one more pool: a `&'static` one, or one that is held weakly. A generation passes in
    /// it whenever one ends, until the pool or the ager is gone.
    ///
    /// In a forked child the first call starts the ager's thread again, for the pools that were
    /// watched before the fork as well. It takes no lock that a thread of the parent could have
    /// held. (Starting a thread allocates memory, which POSIX does not promise to work in the child
    /// of a process with several threads; glibc and musl see to it that it does.)
    ///
    /// An object that a pool drops, or a pool that the ager drops, may call this method.
    ///
    /// # Errors
    ///
    /// If the thread must be started again, in a forked child, and the system cannot start one. The
    /// pool is not watched then, and the next call tries again.
    pub fn add(&self, pool: impl Ageable) -> io::Result<()> {
        self.run_of(Process::current()).start(&self.shared)?;
        self.shared.watched.push(Box::new(pool));
        Ok(())
    }

    /// The run of this process, which is a new one after a fork.
    fn run_of(&self, process: Process) -> ManuallyDrop<Arc<Run>> {
        // SAFETY: the pointer came from `Arc::into_raw`, and the reference that it stands for is
        // given up by `drop` alone, which has the handle for itself.
        let borrow = |run: *mut Run| unsafe { ManuallyDrop::new(Arc::from_raw(run.cast_const())) };
        // Acquire, here and on failure: another thread of this process may have installed the run.
        let current = self.run.load(Ordering::Acquire);
        let run = borrow(current);
        if run.process == process {
            return run;
        }
        let fresh = Arc::new(Run::new(process));
        let new = Arc::into_raw(Arc::clone(&fresh)).cast_mut();
        match self.run.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => borrow(new),
            Err(installed) => {
                // SAFETY: gives the reference back that `into_raw` has taken.
                drop(unsafe { Arc::from_raw(new.cast_const()) });
                borrow(installed)
            }
        }
    }
}

impl Drop for Ager {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Arc::into_raw`, and nobody uses it after the handle.
        let run = unsafe { Arc::from_raw(self.run.get_mut().cast_const()) };
        if run.process != Process::current() {
            // A child without a thread of its own has none to stop, and a thread of the parent may
            // hold the lock here for ever. Nor may the `JoinHandle` in it be dropped: it would
            // detach a thread that does not exist.
            mem::forget(run);
            return;
        }
        let thread = {
            let mut state = run.state.lock();
            state.stop = true;
            state.thread.take()
        };
        run.stopped.notify_all();
        // The ager's own thread may drop the handle, if an object of a pool owns it.
        if let Some(thread) = thread
            && thread.thread().id() != current_thread()
        {
            // It does not panic: all that could is inside of `catch_unwind`.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Ager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { config, watched } = &*self.shared;
        f.debug_struct("Ager")
            .field("config", config)
            .field("watched_pools", &watched.len())
            .finish_non_exhaustive()
    }
}

impl Run {
    fn new(process: Process) -> Self {
        Run { process, state: Mutex::new(RunState::default()), stopped: Condvar::new() }
    }

    /// Starts the thread, unless it runs.
    fn start(self: &Arc<Self>, shared: &Arc<Shared>) -> io::Result<()> {
        // Held while the thread starts, so that no two callers start one. No code of a user runs
        // meanwhile.
        let mut state = self.state.lock();
        if state.thread.is_none() {
            let (run, shared) = (Arc::clone(self), Arc::clone(shared));
            state.thread = Some(spawn_thread("cenote-ager", move || shared.age_until_stopped(&run))?);
        }
        Ok(())
    }

    /// Sleeps until that time, or until the handle is dropped. False if it is.
    fn sleep_until(&self, time: Instant) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return false;
            }
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.stopped.wait_timeout(state, left);
        }
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }
}

impl Shared {
    /// The ager's thread.
    fn age_until_stopped(&self, run: &Run) {
        let mut schedule = Schedule::new(&self.config, Instant::now());
        while run.sleep_until(schedule.next_look()) {
            if schedule.is_due(Instant::now()) {
                let dropped = self.age_all(run);
                schedule.passed(Instant::now(), dropped);
            }
        }
    }

    /// Lets one generation pass in each pool. Whether a pool has dropped objects.
    ///
    /// No lock is held while a pool ages: its objects may do as they like in their drop, add pools
    /// to this ager among others.
    fn age_all(&self, run: &Run) -> bool {
        let mut any_dropped = false;
        let age = |pool: &dyn Ageable| {
            if run.is_stopped() {
                return None;
            }
            // Unwind safety: a panic of an object's drop leaves the pool as good as it was.
            let passed = catch_unwind(AssertUnwindSafe(|| pool.pass_generation()));
            let outcome = passed.unwrap_or_else(|payload| {
                drop_payload(payload);
                Outcome::Passed { dropped: true }
            });
            any_dropped |= outcome == Outcome::Passed { dropped: true };
            Some(if outcome == Outcome::Gone { Keep::No } else { Keep::Yes })
        };
        // SAFETY: only the ager's thread is here, and a process has one: `Run::start` starts one
        // for each run, and `run_of` installs one run for each process.
        unsafe { self.watched.visit(age) };
        any_dropped
    }
}

/// The payload of a panic is a value of the user's, whose drop may panic too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(again);
    }
}
