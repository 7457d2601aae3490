//! What the benches share.

pub mod bursts;
pub mod contenders;
pub mod expensive;
pub mod holders;
#[cfg(unix)]
pub mod server;

use std::hint;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Has `threads` threads do `turn` `turns` times each, all at once, and says how long the slowest of them took.
pub fn wall_time(threads: usize, turns: u64, turn: &(impl Fn() + Sync)) -> Duration {
    // What is only needed once a thread (its shard, its first object) is none of the question.
    const WARM_UP: u64 = 100;

    // The one place that calls `turn`, so that each is compiled into the loop, the long as well as the short ones.
    let repeat = |turns| (0..turns).for_each(|_| turn());
    let missing = AtomicUsize::new(threads);
    let run = || {
        repeat(hint::black_box(WARM_UP));
        // A barrier that sleeps would wake one thread well before the other.
        missing.fetch_sub(1, Ordering::AcqRel);
        while missing.load(Ordering::Acquire) > 0 {
            hint::spin_loop();
        }
        let start = Instant::now();
        repeat(turns);
        start.elapsed()
    };
    thread::scope(|s| {
        let crew: Vec<_> = (0..threads).map(|_| s.spawn(run)).collect();
        crew.into_iter().map(|thread| thread.join().expect("a turn panicked")).max().unwrap_or_default()
    })
}

/// The CPU time of this process, in user and in kernel mode.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to an `rusage`, for the time of the call; zeroes are one, should it fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The processor and the number of cores.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    format!("{}, {} cores", model.trim_start_matches([' ', '\t', ':']), cores())
}

/// How many threads can run at once.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// As 2026-11-21, in UTC.
pub fn date(when: SystemTime) -> String {
    humantime::format_rfc3339_seconds(when).to_string()[..10].to_owned()
}

/// Where cargo leaves what is not committed.
pub fn target() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(usual, PathBuf::from)
}
