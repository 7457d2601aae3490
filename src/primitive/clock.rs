//! A clock that counts milliseconds from its first use, beginning at 1.

#[cfg(not(any(test, cenote_loom)))]
pub(crate) fn now_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;

    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// For the crate's own tests the clock stands still until it is set, for each thread by itself.
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
