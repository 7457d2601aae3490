//! What can go wrong, with the phase and the cause.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::stats::BoundedStats;
use crate::primitive::Arc;

/// Why a get returned no lease. `E` is the manager's error.
#[derive(Debug)]
#[non_exhaustive]
pub enum GetError<E> {
    /// The deadline passed.
    TimedOut(Box<TimedOut<E>>),
    /// A creation failed, nothing is alive, and the pool was built with
    /// [`fail_fast`](super::Builder::fail_fast).
    Create(Arc<CreateError<E>>),
    /// As many callers wait as [`max_waiters`](super::Builder::max_waiters) allows.
    TooManyWaiters,
    /// `try_get` found no idle object.
    Exhausted,
    /// The pool is closed, or drains.
    Closed,
    /// An async manager has no runtime to create objects on: neither the one that the pool was built in or given, nor one of
    /// a caller.
    NoRuntime,
}

/// A get whose deadline passed.
#[derive(Debug)]
#[non_exhaustive]
pub struct TimedOut<E> {
    /// What the get waited for at its deadline.
    pub phase: Phase,
    /// How long the get waited.
    pub waited: Duration,
    /// What the pool held at the deadline.
    pub stats: BoundedStats,
    /// How many of the waiters, this get among them, belong to a task or thread that holds a lease of this pool already. If all
    /// leases are held by waiters, they wait for each other. `None` unless the pool
    /// [tracks leases](super::Builder::track_leases).
    pub waiters_with_lease: Option<usize>,
    /// The last error of a creation since the last success.
    pub cause: Option<Arc<CreateError<E>>>,
}

/// What a get waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// For a lease to end: the pool is at its limit.
    Lease,
    /// For a new object.
    Creation,
    /// For an object that was being checked or reset.
    Check,
    /// For an object that was being closed, since it counts against the limit until then.
    Closing,
}

/// Why an object could not be created.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError<E> {
    /// The manager's error.
    Manager(E),
    /// The creation took longer than [`create_timeout`](super::Builder::create_timeout).
    TimedOut(Duration),
    /// The manager panicked.
    Panicked(String),
    /// The hook that runs after a creation refused the object.
    Refused,
    /// The executor dropped the creation before its end: a runtime was shut down, or no thread was to be had.
    Dropped,
}

/// Why a pool could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// A limit is 0 that must be at least 1; it names the option.
    Zero(&'static str),
    /// `min_size` or `min_idle` is greater than `max_size`.
    MinAboveMax,
    /// The jitter is not between 0 and 1.
    Jitter,
}

// By hand: the manager's error is shared, and need not be `Clone`.
impl<E> Clone for GetError<E> {
    fn clone(&self) -> Self {
        match self {
            GetError::TimedOut(error) => GetError::TimedOut(error.clone()),
            GetError::Create(error) => GetError::Create(Arc::clone(error)),
            GetError::TooManyWaiters => GetError::TooManyWaiters,
            GetError::Exhausted => GetError::Exhausted,
            GetError::Closed => GetError::Closed,
            GetError::NoRuntime => GetError::NoRuntime,
        }
    }
}

impl<E> Clone for TimedOut<E> {
    fn clone(&self) -> Self {
        TimedOut { cause: self.cause.clone(), ..*self }
    }
}

impl<E> fmt::Display for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GetError::TimedOut(error) => error.fmt(f),
            GetError::Create(_) => f.write_str("no object could be created"),
            GetError::TooManyWaiters => f.write_str("too many callers wait for an object"),
            GetError::Exhausted => f.write_str("no object is idle"),
            GetError::Closed => f.write_str("the pool is closed"),
            GetError::NoRuntime => f.write_str("there is no async runtime to create an object on"),
        }
    }
}

impl<E: Error + 'static> Error for GetError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            GetError::TimedOut(error) => error.source(),
            GetError::Create(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl<E> fmt::Display for TimedOut<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.phase {
            Phase::Lease => "a lease to end",
            Phase::Creation => "an object to be created",
            Phase::Check => "an object to be checked",
            Phase::Closing => "an object to be closed",
        };
        let BoundedStats { leased, idle, creating, checking, closing, waiting, max_size, .. } = self.stats;
        write!(
            f,
            "timed out after {:?}, waiting for {what}: of at most {max_size} objects {leased} are leased, {idle} idle, \
             {creating} being created, {checking} checked, {closing} closed; {waiting} callers wait",
            self.waited
        )?;
        match self.waiters_with_lease {
            Some(holders) if holders > 0 => {
                write!(f, ", {holders} of which hold a lease of this pool already")
            }
            _ => Ok(()),
        }
    }
}

impl<E: Error + 'static> Error for TimedOut<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl<E> fmt::Display for CreateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Manager(_) => f.write_str("the manager failed to create an object"),
            CreateError::TimedOut(limit) => write!(f, "the creation of an object took longer than {limit:?}"),
            CreateError::Panicked(text) => write!(f, "the manager panicked: {text}"),
            CreateError::Refused => f.write_str("the hook after creation refused the object"),
            CreateError::Dropped => {
                f.write_str("the executor dropped the creation of an object before its end")
            }
        }
    }
}

impl<E: Error + 'static> Error for CreateError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CreateError::Manager(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Zero(option) => write!(f, "{option} is 0"),
            BuildError::MinAboveMax => f.write_str("the minimum is greater than max_size"),
            BuildError::Jitter => f.write_str("the jitter is not between 0 and 1"),
        }
    }
}

impl Error for BuildError {}
