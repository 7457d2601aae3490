//! The background ager: a thread that lets generations pass in pools that nobody uses.

mod pressure;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::pressure::Pressure;
use crate::primitive::{Arc, Condvar, JoinHandle, Mutex, current_thread, spawn_thread};

/// What an [`Ager`] watches over: a pool for the life of the program, or weakly one that may end.
///
/// It is implemented for `&'static SyncPool` and `Weak<SyncPool>`, and with the feature `grpc` for `&'static ClientPool`.
pub trait Ageable: Send + sealed::Sealed + 'static {
    /// Lets one generation pass. False if the pool is gone.
    #[doc(hidden)]
    fn pass_generation(&self) -> bool;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// When an [`Ager`] lets a generation pass.
#[derive(Clone, Debug)]
pub struct AgerConfig {
    /// How long a generation lasts; 60 s. Not less than a millisecond.
    pub period: Duration,
    /// On Linux: ages at once, and again each second, while the processes of this one's control group (or, where that is not
    /// told, of the machine) stand still for lack of memory for more than this share of the time; 0.1. `None`: never.
    pub memory_pressure: Option<f64>,
    /// Where the pressure is read, in the form of `/proc/pressure/memory`. Default: found out.
    pub pressure_file: Option<PathBuf>,
}

impl Default for AgerConfig {
    fn default() -> Self {
        AgerConfig { period: super::DEFAULT_PERIOD, memory_pressure: Some(0.1), pressure_file: None }
    }
}

/// A thread that ages pools, so that one that is idle gives its memory back: after two periods it holds nothing.
///
/// A pool that is in use ages by itself. This is for those that are not: their objects are reached also in the shards of
/// threads that are parked, blocked or gone.
///
/// ```
/// use cenote::{Ager, AgerConfig, SyncPool};
///
/// static BUFS: SyncPool<Vec<u8>> = SyncPool::new(Vec::new);
///
/// let ager = Ager::spawn(AgerConfig::default()).watch(&BUFS);
/// # drop(ager);
/// ```
///
/// A pool that is not `static` is watched by `Arc::downgrade(&pool)`: the ager keeps none alive. Objects are dropped on the
/// ager's thread; one that panics there is gone, and the others are dropped all the same.
///
/// It cannot find pools by itself. A pool may be forgotten (`mem::forget` is safe) while its objects borrow from what is
/// gone by then, so only those of `'static` objects may be aged behind their owner's back, and only their owner can
/// say that they are.
///
/// Dropping the handle stops the thread and waits for it, and so for the object whose drop it is in.
#[must_use = "the ager stops when its handle is dropped"]
pub struct Ager {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Where the thread is: not in a child that was forked later.
    process: u32,
}

struct Shared {
    state: Mutex<State>,
    /// Told when `stop` is set.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    /// Those that are not being aged at this moment.
    pools: Vec<Box<dyn Ageable>>,
}

impl Ager {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// If the system cannot make a thread, as [`std::thread::spawn`] does; [`try_spawn`](Self::try_spawn) does not.
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
    /// If the system cannot make a thread.
    pub fn try_spawn(config: AgerConfig) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), changed: Condvar::new() });
        let thread = {
            let shared = Arc::clone(&shared);
            spawn_thread("cenote-ager", move || shared.run(&config))?
        };
        Ok(Ager { shared, thread: Some(thread), process: std::process::id() })
    }

    /// Has one more pool aged: a `&'static` one, or one that is held weakly.
    pub fn watch(self, pool: impl Ageable) -> Self {
        self.add(pool);
        self
    }

    /// As [`watch`](Self::watch), on an ager that runs. (In a forked child none does: start another there.)
    pub fn add(&self, pool: impl Ageable) {
        if self.is_inherited() {
            return;
        }
        self.shared.state.lock().pools.push(Box::new(pool));
    }

    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for Ager {
    fn drop(&mut self) {
        if self.is_inherited() {
            // A forked child has no such thread to stop; the lock may have been taken at the fork, for ever.
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Not when an object of a pool owned the handle, and is being dropped by the thread itself.
            if thread.thread().id() != current_thread() {
                // It does not panic: what could, does so inside of `catch_unwind`.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Ager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = self.shared.state.try_lock().map(|state| state.pools.len());
        f.debug_struct("Ager").field("waiting_pools", &pools).finish_non_exhaustive()
    }
}

impl Shared {
    fn run(&self, config: &AgerConfig) {
        let mut schedule = Schedule::new(config, Instant::now());
        loop {
            {
                let mut state = self.state.lock();
                let until = schedule.next_look();
                loop {
                    if state.stop {
                        return;
                    }
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    state = self.changed.wait_timeout(state, left);
                }
            }
            if schedule.is_due(Instant::now()) {
                self.age_all();
            }
        }
    }

    /// The lock is not held while a pool ages: its objects may do as they like, add pools to this ager among others.
    fn age_all(&self) {
        let pools = std::mem::take(&mut self.state.lock().pools);
        let mut alive = Vec::with_capacity(pools.len());
        for pool in pools {
            if self.state.lock().stop {
                return;
            }
            // Unwind safety: the pool is as good after a panicking drop as before.
            let lives = catch_unwind(AssertUnwindSafe(|| pool.pass_generation())).unwrap_or(true);
            if lives {
                alive.push(pool);
            }
        }
        let mut state = self.state.lock();
        alive.append(&mut state.pools);
        state.pools = alive;
    }
}

/// When to look, and whether that is when to age.
struct Schedule {
    period: Duration,
    /// The end of this generation, by the period.
    ends: Instant,
    last_look: Instant,
    pressure: Option<Pressure>,
}

/// How often the pressure is read.
const LOOK: Duration = Duration::from_secs(1);

/// The longest wait: an instant further ahead may be more than the clock can count.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Schedule {
    fn new(config: &AgerConfig, now: Instant) -> Self {
        let period = config.period.clamp(Duration::from_millis(1), YEAR);
        let pressure =
            config.memory_pressure.and_then(|share| Pressure::find(config.pressure_file.clone(), share));
        Schedule { period, ends: now + period, last_look: now, pressure }
    }

    fn next_look(&self) -> Instant {
        match self.pressure {
            Some(_) => self.ends.min(self.last_look + LOOK),
            None => self.ends,
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.last_look);
        self.last_look = now;
        let pressed = self.pressure.as_mut().is_some_and(|pressure| pressure.is_high(since));
        let due = pressed || now >= self.ends;
        if due {
            self.ends = now + self.period;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_ends_with_its_period_and_the_next_begins_then() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let config =
            AgerConfig { period: Duration::from_secs(10), memory_pressure: None, ..AgerConfig::default() };
        let mut schedule = Schedule::new(&config, start);
        assert_eq!(schedule.next_look(), at(10));
        assert!(!schedule.is_due(at(9)));
        assert!(schedule.is_due(at(10)));
        assert!(!schedule.is_due(at(19)));
        assert!(schedule.is_due(at(25)), "a late look is one generation");
        assert_eq!(schedule.next_look(), at(35));
    }

    #[test]
    fn periods_of_nothing_and_of_for_ever_are_taken_as_what_the_clock_can_count() {
        for period in [Duration::ZERO, Duration::MAX] {
            let config = AgerConfig { period, ..AgerConfig::default() };
            let schedule = Schedule::new(&config, Instant::now());
            assert!(schedule.ends > Instant::now() || period.is_zero());
        }
    }
}
