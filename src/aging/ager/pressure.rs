//! Linux's pressure stall information: how much of the time processes stood still for lack of memory.
//!
//! See `Documentation/accounting/psi.rst` of the kernel. The `total` of the line `some` counts microseconds; what it grew by
//! between two looks, over the time between them, is the share of the time. A file is read, and no trigger set: that
//! needs a privilege, or a recent kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Pressure {
    file: PathBuf,
    /// From this share of the time on it is high.
    share: f64,
    total: u64,
}

impl Pressure {
    /// `None` where there is no such information.
    pub(super) fn find(file: Option<PathBuf>, share: f64) -> Option<Self> {
        let own = file.map_or_else(candidates, |file| vec![file]);
        own.into_iter().find_map(|file| {
            let total = read(&file)?;
            Some(Pressure { file, share, total })
        })
    }

    /// Whether it has been high for as long as it was not looked at.
    pub(super) fn is_high(&mut self, since: Duration) -> bool {
        let Some(total) = read(&self.file) else { return false };
        let stalled = total.saturating_sub(std::mem::replace(&mut self.total, total));
        stalled as f64 > self.share * since.as_micros() as f64
    }
}

/// The own control group's file, and the machine's.
fn candidates() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Of version 2 there is one line, `0::/path`.
    if let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) {
        files.push(Path::new("/sys/fs/cgroup").join(path).join("memory.pressure"));
    }
    files.push(PathBuf::from("/proc/pressure/memory"));
    files
}

fn read(file: &Path) -> Option<u64> {
    parse(&fs::read_to_string(file).ok()?)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line `full` of the same form.
fn parse(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_the_line_some_is_read_and_anything_else_is_none() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=123456\nfull avg10=0.00 total=7\n";
        assert_eq!(parse(text), Some(123_456));
        for bad in ["", "full avg10=0.00 total=7\n", "some avg10=1\n", "some total=x\n", "\u{fffd}"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn pressure_is_high_when_more_than_the_share_of_the_time_was_stalled() {
        let file = std::env::temp_dir().join(format!("cenote-pressure-{}", std::process::id()));
        let write = |total: u64| fs::write(&file, format!("some avg10=0.00 total={total}\n")).unwrap();
        let second = Duration::from_secs(1);
        write(1_000_000);
        let mut pressure = Pressure::find(Some(file.clone()), 0.1).unwrap();
        assert!(!pressure.is_high(second));
        write(1_100_000);
        assert!(!pressure.is_high(second), "a tenth is not more than a tenth");
        write(1_300_000);
        assert!(pressure.is_high(second));
        assert!(!pressure.is_high(second), "it has not grown since");
        fs::remove_file(&file).unwrap();
        assert!(!pressure.is_high(second), "a file that is gone tells nothing");
        assert!(Pressure::find(Some(file), 0.1).is_none());
    }
}
