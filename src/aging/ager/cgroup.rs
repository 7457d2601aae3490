//! How near the process is to the memory limit of its control group, on Linux.
//!
//! In a small container the kernel can kill the process before [pressure](super::pressure) is seen:
//! an allocation takes memory freely up to the limit, and the stall comes only there.
//!
//! A group has a file with its usage and one with its limit: `memory.current` and `memory.max` in
//! version 2, `memory.usage_in_bytes` and `memory.limit_in_bytes` in version 1 (see
//! `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst` of the kernel). The limits
//! of the groups above hold as well, so the group counts that is nearest to its limit.
//!
//! The usage includes the page cache of files, which the kernel drops before it kills. A program
//! that reads and writes files uses all of its limit in that way and is in no danger, so the cache,
//! by `memory.stat`, does not count here.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The names of the files with the usage and the limit, by version.
const NAMES: [[&str; 2]; 2] =
    [["memory.current", "memory.max"], ["memory.usage_in_bytes", "memory.limit_in_bytes"]];

/// What one group uses of its limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) current: u64,
    /// The part of `current` that is page cache of files.
    pub(super) cache: u64,
    pub(super) max: u64,
}

impl Usage {
    /// The share of the limit that is used, without the cache.
    pub(super) fn share(&self) -> f64 {
        self.current.saturating_sub(self.cache) as f64 / self.max.max(1) as f64
    }
}

/// The largest share that one of the groups uses; `None` if none has a limit.
pub(super) fn largest_share(groups: &[Usage]) -> Option<f64> {
    groups.iter().map(Usage::share).reduce(f64::max)
}

/// The control group of this process, and those above it, as far as they have the files.
///
/// The files stay open: opening one needs memory, which may be short when it matters. A forked child
/// inherits them, unused: its own ager opens the files of its own group.
pub(super) struct Groups(Vec<Group>);

struct Group {
    current: File,
    max: File,
    stat: Option<File>,
}

impl Groups {
    /// The group in that directory alone; by default, all that limit this process. `None` where
    /// there is none.
    pub(super) fn find(dir: Option<&Path>) -> Option<Self> {
        let dirs = dir.map_or_else(own_dirs, |dir| vec![dir.to_owned()]);
        let groups: Vec<_> = dirs.iter().filter_map(|dir| Group::open(dir)).collect();
        (!groups.is_empty()).then_some(Groups(groups))
    }

    /// The groups that have a limit. Their cache is read only where `current` is above that share
    /// of it, since `memory.stat` is a longer file.
    pub(super) fn read(&mut self, cache_above: f64) -> Vec<Usage> {
        self.0.iter_mut().filter_map(|group| group.read(cache_above)).collect()
    }
}

impl Group {
    fn open(dir: &Path) -> Option<Self> {
        NAMES.iter().find_map(|[current, max]| {
            let open = |name: &str| File::open(dir.join(name)).ok();
            Some(Group { current: open(current)?, max: open(max)?, stat: open("memory.stat") })
        })
    }

    fn read(&mut self, cache_above: f64) -> Option<Usage> {
        let max = read(&mut self.max).as_deref().and_then(parse_limit)?;
        let current = read(&mut self.current).as_deref().and_then(parse_bytes)?;
        let mut usage = Usage { current, cache: 0, max };
        if usage.share() > cache_above
            && let Some(stat) = &mut self.stat
        {
            usage.cache = read(stat).as_deref().and_then(parse_cache).unwrap_or(0);
        }
        Some(usage)
    }
}

/// The text of the file as it is now.
fn read(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

fn own_dirs() -> Vec<PathBuf> {
    // Miri isolates the program from files.
    if cfg!(any(miri, not(target_os = "linux"))) {
        return Vec::new();
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    dirs_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The directories of the groups that limit memory, from the innermost to the root of each
/// hierarchy. `groups` has lines `id:controllers:/path`; in version 2 there are no controllers.
fn dirs_of(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "" => root.to_owned(),
            _ if controllers.split(',').any(|controller| controller == "memory") => root.join("memory"),
            _ => continue,
        };
        // A container may see the path of its group outside, and its group mounted as the root: the
        // directories below the root do not exist then. A path that leads out of the root has `..`.
        let path = Path::new(path.trim_start_matches('/'));
        if path.components().all(|component| matches!(component, Component::Normal(_))) {
            let inner = path.ancestors().filter(|path| !path.as_os_str().is_empty());
            dirs.extend(inner.map(|path| hierarchy.join(path)));
        }
        dirs.push(hierarchy);
    }
    dirs
}

/// A number of bytes.
fn parse_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `None` if there is no limit: version 2 says `max`, version 1 a number near 2^63.
fn parse_limit(text: &str) -> Option<u64> {
    parse_bytes(text).filter(|&limit| limit < 1 << 62)
}

/// The page cache of files, by `memory.stat`: a line for each kind of memory. In version 1 the
/// lines that begin with `total_` include the groups below, as the usage does; in version 2 all
/// lines do.
fn parse_cache(text: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name).and_then(|(_, value)| parse_bytes(value))
    };
    let sum = |active, inactive| value(active)?.checked_add(value(inactive)?);
    sum("total_active_file", "total_inactive_file").or_else(|| sum("active_file", "inactive_file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits_are_numbers_and_anything_else_is_none() {
        for (text, bytes, limit) in [
            ("67108864\n", Some(67_108_864), Some(67_108_864)),
            ("0\n", Some(0), Some(0)),
            ("max\n", None, None),
            ("9223372036854771712\n", Some(9_223_372_036_854_771_712), None),
            ("18446744073709551616\n", None, None),
            ("-1\n", None, None),
            ("", None, None),
            ("1 2", None, None),
            ("\u{fffd}", None, None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
            assert_eq!(parse_limit(text), limit, "{text:?}");
        }
    }

    #[test]
    fn the_cache_is_the_sum_of_both_file_lists_of_the_whole_group() {
        let v2 = "anon 7\nfile 30\ninactive_anon 5\nactive_file 10\ninactive_file 20\n";
        let v1 = "cache 9\nactive_file 1\ninactive_file 2\ntotal_active_file 100\ntotal_inactive_file 200\n";
        for (text, cache) in [
            (v2, Some(30)),
            (v1, Some(300)),
            ("", None),
            ("active_file 10\n", None),
            ("active_file ten\ninactive_file 20\n", None),
            ("active_file 18446744073709551615\ninactive_file 1\n", None),
        ] {
            assert_eq!(parse_cache(text), cache, "{text:?}");
        }
    }

    #[test]
    fn the_groups_of_a_process_are_its_own_and_those_above_in_both_versions() {
        let dirs = |text: &str| {
            let dirs = dirs_of(text, Path::new("/r"));
            dirs.iter().map(|dir| dir.to_str().unwrap().replace('\\', "/")).collect::<Vec<_>>()
        };
        assert_eq!(dirs("0::/a.slice/b:c\n"), ["/r/a.slice/b:c", "/r/a.slice", "/r"]);
        assert_eq!(dirs("0::/\n"), ["/r"]);
        assert_eq!(dirs("0::/../../x\n"), ["/r"]);
        let v1 = "9:name=systemd:/x\n4:memory:/docker/1f\n2:cpu,cpuacct:/y\n0::/\n";
        assert_eq!(dirs(v1), ["/r/memory/docker/1f", "/r/memory/docker", "/r/memory", "/r"]);
        for bad in ["", "memory", "4:memory", "\u{fffd}\n::"] {
            assert!(dirs(bad).len() <= 1, "{bad:?}");
        }
    }

    #[test]
    fn the_group_nearest_to_its_limit_counts() {
        let usage = |current, cache, max| Usage { current, cache, max };
        for (groups, share) in [
            (&[][..], None),
            (&[usage(50, 0, 100)], Some(0.5)),
            (&[usage(50, 0, 100), usage(90, 0, 100)], Some(0.9)),
            (&[usage(50, 0, 100), usage(900, 0, 1000), usage(0, 0, 1)], Some(0.9)),
            (&[usage(100, 60, 100)], Some(0.4)),
            (&[usage(10, 60, 100)], Some(0.0)),
            (&[usage(5, 0, 0)], Some(5.0)),
        ] {
            assert_eq!(largest_share(groups), share, "{groups:?}");
        }
    }

    #[test]
    fn open_files_are_read_again_at_each_look_and_bad_ones_are_ignored() {
        let dir = std::env::temp_dir().join(format!("cenote-cgroup-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(Groups::find(Some(&dir)).is_none());
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write("memory.current", "90\n");
        write("memory.max", "max\n");
        write("memory.stat", "active_file 10\ninactive_file 20\n");
        let mut groups = Groups::find(Some(&dir)).unwrap();
        assert_eq!(groups.read(0.5), []);
        write("memory.max", "100\n");
        assert_eq!(groups.read(0.5), [Usage { current: 90, cache: 30, max: 100 }]);
        assert_eq!(groups.read(0.9), [Usage { current: 90, cache: 0, max: 100 }]);
        write("memory.stat", "nonsense");
        assert_eq!(groups.read(0.5), [Usage { current: 90, cache: 0, max: 100 }]);
        write("memory.current", "much");
        assert_eq!(groups.read(0.5), []);
        fs::remove_dir_all(&dir).unwrap();
    }
}
