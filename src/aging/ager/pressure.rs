//! Linux's pressure stall information: which share of the time processes stood still for lack of
//! memory.
//!
//! See `Documentation/accounting/psi.rst` of the kernel. The `total` of the line `some` counts
//! microseconds; its growth between two looks over the time between them is the share. The ager
//! reads the file and sets no trigger, since a trigger needs a privilege or a recent kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Pressure {
    file: PathBuf,
    /// At the last look.
    total: u64,
}

impl Pressure {
    /// `None` where there is no such information.
    pub(super) fn find(file: Option<PathBuf>) -> Option<Self> {
        let files = file.map_or_else(candidates, |file| vec![file]);
        files.into_iter().find_map(|file| {
            let total = read(&file)?;
            Some(Pressure { file, total })
        })
    }

    /// The share of the time since the last look that was stalled.
    pub(super) fn stalled_share(&mut self, since: Duration) -> Option<f64> {
        let total = read(&self.file)?;
        let stalled = total.saturating_sub(std::mem::replace(&mut self.total, total));
        Some(stalled as f64 / since.as_micros() as f64)
    }
}

/// The file of the own control group, and that of the machine.
fn candidates() -> Vec<PathBuf> {
    // Miri isolates the program from files.
    if cfg!(any(miri, not(target_os = "linux"))) {
        return Vec::new();
    }
    let mut files = Vec::new();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // In version 2 there is one line, `0::/path`.
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
    fn the_stalled_share_is_the_growth_of_the_total_over_the_time() {
        let file = std::env::temp_dir().join(format!("cenote-pressure-{}", std::process::id()));
        let write = |total: u64| fs::write(&file, format!("some avg10=0.00 total={total}\n")).unwrap();
        let second = Duration::from_secs(1);
        write(1_000_000);
        let mut pressure = Pressure::find(Some(file.clone())).unwrap();
        assert_eq!(pressure.stalled_share(second), Some(0.0));
        write(1_100_000);
        assert_eq!(pressure.stalled_share(second), Some(0.1));
        write(1_300_000);
        assert_eq!(pressure.stalled_share(2 * second), Some(0.1));
        write(0);
        assert_eq!(pressure.stalled_share(second), Some(0.0), "a total that falls is no stall");
        fs::remove_file(&file).unwrap();
        assert_eq!(pressure.stalled_share(second), None);
        assert!(Pressure::find(Some(file)).is_none());
    }
}
