//! What the benches share.

pub mod bursts;
pub mod contenders;
pub mod expensive;
pub mod flow;
pub mod holders;
pub mod live_bytes;
pub mod objects;
pub mod pools;
#[cfg(unix)]
pub mod server;
pub mod shapes;
pub mod ticks;
pub mod timing;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use self::timing::{cores, median, throughput, wall_time};

pools::cenote_pools! {
    /// This crate's pools.
    pub struct Cenote = cenote, "cenote";
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

/// The processor and the number of cores.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    format!("{}, {} cores", model.trim_start_matches([' ', '\t', ':']), cores())
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
