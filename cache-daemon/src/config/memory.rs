//! How much memory there is: the machine's, and what the memory cgroups of this process leave of it.
//!
//! Pages that the daemon pushes are charged to its own group. So what the page cache may take of them follows from the
//! group's limit as much as from the machine's free memory; both are looked at once, at the start.

use std::path::{Path, PathBuf};

/// Of what is free, the share that pushed pages may take unless the user says otherwise: a half. The rest is for
/// the pages of other files, and for what is free now and will not be.
const SHARE_DEFAULT: Share = Share(1, 2);
/// The most that the user can give them: the daemon needs memory itself, fills of 256 MiB for a start.
const SHARE_MAX: Share = Share(3, 4);

/// A part of a whole: numerator and denominator.
#[derive(Clone, Copy)]
struct Share(u64, u64);

impl Share {
    fn of(self, bytes: u64) -> u64 {
        bytes / self.1 * self.0
    }
}

/// What pushed pages may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCacheSize {
    /// Bytes; 0: nothing is pushed.
    pub bytes: u64,
    /// Why that much, for a person.
    pub why: String,
    /// It is less than what was asked for.
    pub is_cut: bool,
}

/// Memory that could be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Free, or reclaimable without swapping: `MemAvailable`.
    pub machine_bytes: u64,
    /// What the memory cgroups leave, page cache of theirs counted as free; none without a limit.
    pub group_bytes: Option<u64>,
}

impl Memory {
    pub fn this() -> Self {
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        Self {
            machine_bytes: available(&meminfo).unwrap_or(0),
            group_bytes: Group::ours().and_then(|group| group.room()),
        }
    }

    /// What pushed pages may take if `asked` was given.
    pub fn page_cache(&self, asked: Option<u64>) -> PageCacheSize {
        let room = self.group_bytes.map_or(self.machine_bytes, |group| group.min(self.machine_bytes));
        let whose = match self.group_bytes {
            Some(group) if group < self.machine_bytes => "of what the memory cgroup leaves",
            _ => "of the memory that is free",
        };
        let (default, max) = (SHARE_DEFAULT.of(room), SHARE_MAX.of(room));
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        match asked {
            None => {
                PageCacheSize { bytes: default, why: format!("half {whose}, {}", mib(room)), is_cut: false }
            }
            Some(bytes) if bytes <= max => PageCacheSize { bytes, why: "asked for".into(), is_cut: false },
            Some(bytes) => PageCacheSize {
                bytes: max,
                why: format!("{} were asked for, and three quarters {whose} are {}", mib(bytes), mib(max)),
                is_cut: true,
            },
        }
    }
}

/// The smallest limit from this process's memory cgroup up to the root, in bytes.
pub(crate) fn group_limit() -> Option<u64> {
    Group::ours()?.least(|dir, names| limit(&read(dir.join(names.limit))?))
}

/// This process's memory cgroup.
struct Group {
    hierarchy: Hierarchy,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// cgroup v2.
    Unified,
    /// The memory controller of v1.
    Memory,
}

/// What the files and lines of a hierarchy are called.
struct Names {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Lines of memory.stat, of the group and all below.
    file_pages: [&'static str; 2],
}

impl Hierarchy {
    const fn names(self) -> Names {
        match self {
            Self::Unified => Names {
                root: "/sys/fs/cgroup",
                limit: "memory.max",
                used: "memory.current",
                file_pages: ["active_file", "inactive_file"],
            },
            Self::Memory => Names {
                root: "/sys/fs/cgroup/memory",
                limit: "memory.limit_in_bytes",
                used: "memory.usage_in_bytes",
                file_pages: ["total_active_file", "total_inactive_file"],
            },
        }
    }
}

impl Group {
    fn ours() -> Option<Self> {
        let text = read("/proc/self/cgroup")?;
        let (hierarchy, group) = memory_group(&text)?;
        Some(Self { hierarchy, path: Path::new(hierarchy.names().root).join(group.trim_start_matches('/')) })
    }

    /// The least of what `look` finds in the group and in those above it.
    fn least(&self, look: impl Fn(&Path, &Names) -> Option<u64>) -> Option<u64> {
        let names = self.hierarchy.names();
        // In a container the path may be the host's: then only the root is there, which is the container's group.
        let dirs = self.path.ancestors().take_while(|dir| dir.starts_with(names.root));
        dirs.filter_map(|dir| look(dir, &names)).min()
    }

    /// What can be charged before the tightest limit is reached.
    fn room(&self) -> Option<u64> {
        self.least(|dir, names| {
            let limit = limit(&read(dir.join(names.limit))?)?;
            let used: u64 = read(dir.join(names.used))?.parse().ok()?;
            Some(room(limit, used, &read(dir.join("memory.stat")).unwrap_or_default(), names))
        })
    }
}

fn room(limit: u64, used: u64, stat: &str, names: &Names) -> u64 {
    let line = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
    };
    let file_pages: u64 = names.file_pages.iter().filter_map(|name| line(name)).sum();
    limit.saturating_sub(used.saturating_sub(file_pages))
}

/// From /proc/self/cgroup: `0::/user.slice`, or with v1 `9:memory:/docker/1a2b`, which then counts.
fn memory_group(text: &str) -> Option<(Hierarchy, &str)> {
    let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let v2 = || lines().find(|(controllers, _)| controllers.is_empty());
    match v1 {
        Some((_, group)) => Some((Hierarchy::Memory, group)),
        None => v2().map(|(_, group)| (Hierarchy::Unified, group)),
    }
}

/// `max` or a number; v1 says "none" with a number near 2^63.
fn limit(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&bytes| bytes < 1 << 62)
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_memory_group_is_found_in_both_hierarchies() {
        assert_eq!(memory_group("0::/user.slice/a:b\n"), Some((Hierarchy::Unified, "/user.slice/a:b")));
        let v1 = "12:cpu,cpuacct:/x\n9:memory:/docker/1a2b\n0::/\n";
        assert_eq!(memory_group(v1), Some((Hierarchy::Memory, "/docker/1a2b")));
        assert_eq!(memory_group(""), None);
    }

    #[test]
    fn a_limit_is_a_number_that_is_not_near_2_to_the_63() {
        assert_eq!(
            [limit("max"), limit("9223372036854771712"), limit("1073741824")],
            [None, None, Some(GIB)]
        );
    }

    #[test]
    fn page_cache_of_the_group_is_room_and_its_other_memory_is_not() {
        let stat = "anon 1000\nactive_file 300\ninactive_file 200\nactive_files_else 9\n";
        assert_eq!(room(10_000, 4_000, stat, &Hierarchy::Unified.names()), 10_000 - 3_500);
        let v1 = "active_file 1\ntotal_active_file 300\ntotal_inactive_file 200\n";
        assert_eq!(room(10_000, 4_000, v1, &Hierarchy::Memory.names()), 10_000 - 3_500);
        assert_eq!(room(1_000, 4_000, "", &Hierarchy::Memory.names()), 0, "over the limit");
    }

    #[test]
    fn the_default_is_half_of_what_is_free_in_the_machine_or_the_group() {
        let memory = |group_bytes| Memory { machine_bytes: 8 * GIB, group_bytes };
        assert_eq!(memory(None).page_cache(None).bytes, 4 * GIB);
        let grouped = memory(Some(2 * GIB)).page_cache(None);
        assert_eq!(grouped.bytes, GIB);
        assert!(grouped.why.contains("memory cgroup") && !grouped.is_cut, "{grouped:?}");
        assert_eq!(memory(Some(99 * GIB)).page_cache(None).bytes, 4 * GIB);
    }

    #[test]
    fn what_is_asked_for_is_given_up_to_three_quarters_and_nothing_is_nothing() {
        let memory = Memory { machine_bytes: 8 * GIB, group_bytes: Some(4 * GIB) };
        assert_eq!(memory.page_cache(Some(3 * GIB)).bytes, 3 * GIB);
        let cut = memory.page_cache(Some(1 << 50));
        assert_eq!((cut.bytes, cut.is_cut), (3 * GIB, true));
        assert!(cut.why.contains("were asked for") && cut.why.contains("3072 MiB"), "{cut:?}");
        assert_eq!(memory.page_cache(Some(0)).bytes, 0);
    }

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       24683212 kB\nMemFree:  1 kB\nMemAvailable:   20 kB\n";
        assert_eq!((available(meminfo), available("MemTotal: 5 kB")), (Some(20 << 10), None));
        assert!(Memory::this().machine_bytes > 0, "this machine has some");
    }
}
