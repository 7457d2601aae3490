//! The ground floor: locks, atomics and reference counts, as the rest of the crate sees them.
//!
//! Nothing above this module imports `std::sync` (a test holds us to it), so that a model checker's
//! versions can be put in its place in one file.

pub(crate) use std::sync::{Arc, MutexGuard, TryLockError};

#[cfg(feature = "grpc")]
pub(crate) use std::sync::{OnceLock, Weak};

pub(crate) mod atomic {
    #[cfg(feature = "grpc")]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
}

/// A mutex without poison.
///
/// No code of a user runs while one of this crate's locks is held, so a panic cannot leave what it guards
/// half-changed; a thread that died elsewhere must not take the pool with it.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
