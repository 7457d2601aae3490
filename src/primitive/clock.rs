//! Clocks that count from some time in the past.

/// Milliseconds, a few of them late; never 0.
#[cfg(not(any(test, cenote_loom)))]
pub(crate) fn now_ms() -> u64 {
    coarse_ns() / 1_000_000 + 1
}

#[cfg(any(test, cenote_loom))]
pub(crate) use self::stopped::*;

/// In the crate's own tests the clock of milliseconds stands still on each thread until the test sets it.
#[cfg(any(test, cenote_loom))]
mod stopped {
    use std::cell::Cell;

    std::thread_local!(static NOW: Cell<u64> = const { Cell::new(1) });

    pub(crate) fn now_ms() -> u64 {
        NOW.get()
    }

    #[cfg(test)]
    pub(crate) fn stop_at(ms: u64) {
        NOW.set(ms);
    }
}

/// Nanoseconds.
pub(crate) fn now_ns() -> u64 {
    nanos::now()
}

/// The same clock, read faster; some milliseconds late at most.
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    nanos::coarse()
}

#[cfg(all(unix, not(any(miri, cenote_loom))))]
mod nanos {
    // The clock has no start of its own to measure from: that would need a lock, which a forked child might find taken.
    fn read(clock: libc::clockid_t) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a `timespec` that outlives the call. If the call fails, the clock stands still.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    pub(super) fn now() -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }

    #[inline]
    pub(super) fn coarse() -> u64 {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return read(libc::CLOCK_MONOTONIC_COARSE);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        now()
    }
}

#[cfg(not(all(unix, not(any(miri, cenote_loom)))))]
mod nanos {
    #[cfg(not(any(all(target_family = "wasm", target_os = "unknown"), cenote_loom)))]
    pub(super) fn now() -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64 + 1
    }

    /// Where `Instant::now` panics, and in a model, the clock stands still.
    #[cfg(any(all(target_family = "wasm", target_os = "unknown"), cenote_loom))]
    pub(super) fn now() -> u64 {
        1
    }

    pub(super) fn coarse() -> u64 {
        now()
    }
}
