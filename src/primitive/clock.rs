//! A coarse clock that counts milliseconds from some time in the past; never 0.
//!
//! On `wasm32-unknown-unknown`, where `Instant::now` panics, the clock stands still.

#[cfg(all(unix, not(any(test, cenote_loom))))]
pub(crate) fn now_ms() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    // The clock has no start of its own to measure from: that would need a lock, which a forked
    // child might find taken.
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that outlives the call. If the call fails, the clock
    // stands still.
    unsafe { libc::clock_gettime(CLOCK, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000 + 1
}

#[cfg(all(target_family = "wasm", target_os = "unknown", not(any(test, cenote_loom))))]
pub(crate) fn now_ms() -> u64 {
    1
}

#[cfg(not(any(unix, all(target_family = "wasm", target_os = "unknown"), test, cenote_loom)))]
pub(crate) fn now_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;

    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// In the crate's own tests the clock of each thread stands still until the test sets it.
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

#[cfg(any(test, cenote_loom))]
pub(crate) use self::stopped::*;

/// Nanoseconds from some time in the past.
#[cfg(not(cenote_loom))]
pub(crate) fn now_ns() -> u64 {
    nanos::now()
}

/// The same clock, read faster; some milliseconds late at most.
#[cfg(not(cenote_loom))]
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    nanos::coarse()
}

#[cfg(all(unix, not(miri), not(cenote_loom)))]
mod nanos {
    fn read(clock: libc::clockid_t) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a `timespec` that outlives the call.
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

#[cfg(all(not(all(unix, not(miri))), not(cenote_loom)))]
mod nanos {
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    pub(super) fn now() -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64 + 1
    }

    /// Where `Instant::now` panics, the clock stands still.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    pub(super) fn now() -> u64 {
        1
    }

    pub(super) fn coarse() -> u64 {
        now()
    }
}
