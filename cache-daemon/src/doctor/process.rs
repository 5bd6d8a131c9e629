//! What a process started here may use: capabilities, limits, memory, and the clock.

use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit};

use super::{Check, read};
use crate::config::group_limit;

pub(super) const CAP_IPC_LOCK: u32 = 14;
pub(super) const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Registered buffers of the store, and the maps of the probes on kernels before 5.11.
const MEMLOCK_BYTES: u64 = 64 << 20;
/// A file for each segment, each backing file, each connection to the origin.
const FILES: u64 = 4096;
/// Threads' buffers, fills in flight and the catalog of a million files.
const MEMORY_BYTES: u64 = 1 << 30;
/// The first release is younger: a clock before it was never set.
const RELEASED: Duration = Duration::from_secs(1_735_689_600);

/// Effective capabilities, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities(pub u64);

impl Capabilities {
    pub(super) fn ours() -> Self {
        read("/proc/self/status").map_or(Self(0), |status| Self::parse(&status))
    }

    /// From the line `CapEff:\t000001ffffffffff` of /proc/self/status.
    fn parse(status: &str) -> Self {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }

    pub(super) fn has(self, capability: u32) -> bool {
        self.0 & 1 << capability != 0
    }
}

pub(super) fn look() -> Vec<Check> {
    let capabilities = Capabilities::ours();
    let soft = |resource| getrlimit(resource).map_or(0, |(soft, _)| soft);
    let (_, files_hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let synchronised = synchronised();
    vec![
        probes(capabilities),
        io_flusher(capabilities),
        memlock(soft(Resource::RLIMIT_MEMLOCK), capabilities),
        files(soft(Resource::RLIMIT_NOFILE), files_hard),
        memory(group_limit()),
        clock(SystemTime::now(), synchronised),
        clock_source(read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref()),
    ]
}

fn probes(capabilities: Capabilities) -> Check {
    let wanted = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
    // CAP_SYS_ADMIN stands for both (capabilities(7)).
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(bit, _)| !capabilities.has(*bit) && !capabilities.has(CAP_SYS_ADMIN))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Check::ok("capabilities", "probes may be loaded");
    }
    Check::off(
        "capabilities",
        format!("missing: {}", missing.join(", ")),
        "no probes (tier C): reads that the kernel serves from its page cache are not seen",
        "run as root, or setcap cap_bpf,cap_perfmon+ep on the daemon, or AmbientCapabilities= in its unit",
    )
}

/// PR_SET_IO_FLUSHER: fuse-frontend/src/session/io_flusher.rs.
fn io_flusher(capabilities: Capabilities) -> Check {
    const NAME: &str = "io_flusher";
    if capabilities.has(CAP_SYS_RESOURCE) {
        return Check::ok(NAME, "serving threads leave the mount's inodes alone when memory is short");
    }
    Check::off(
        NAME,
        "CAP_SYS_RESOURCE is missing",
        "when memory is short, a thread that serves may have to free inodes of its own mount (see readahead_deadlock)",
        "run as root, or AmbientCapabilities=CAP_SYS_RESOURCE in the unit",
    )
}

fn memlock(bytes: u64, capabilities: Capabilities) -> Check {
    if bytes == libc::RLIM_INFINITY {
        return Check::ok("memlock", "unlimited");
    }
    let found = format!("{} KiB", bytes >> 10);
    if bytes >= MEMLOCK_BYTES || capabilities.has(CAP_IPC_LOCK) {
        return Check::ok("memlock", found);
    }
    Check::warn(
        "memlock",
        found,
        "buffers cannot be registered with io_uring: 36 instead of 23 us CPU an object",
        "LimitMEMLOCK=infinity in the unit, or ulimit -l, or memlock in /etc/security/limits.conf",
    )
}

fn files(soft: u64, hard: u64) -> Check {
    let found = format!("{soft} (hard {hard})");
    if soft.max(hard) >= FILES {
        return Check::ok("open_files", found);
    }
    Check::warn(
        "open_files",
        found,
        "a large cache has more segments and backing files than can be open",
        "LimitNOFILE=65536 in the unit, or nofile in /etc/security/limits.conf",
    )
}

fn memory(limit: Option<u64>) -> Check {
    const NAME: &str = "memory_cgroup";
    let Some(bytes) = limit else { return Check::ok(NAME, "no limit") };
    let found = format!("{} MiB", bytes >> 20);
    if bytes >= MEMORY_BYTES {
        return Check::ok(NAME, found);
    }
    Check::warn(
        NAME,
        found,
        "the daemon and the pages that it pushes into the page cache are charged here: it may be OOM-killed",
        "give the daemon's group 1 GiB and more (MemoryMax= of the unit)",
    )
}

/// Whether something disciplines the clock: adjtimex(2) answers TIME_ERROR if not.
fn synchronised() -> bool {
    // SAFETY: timex is plain data of integers, for which zeroes are values; modes = 0 asks and sets nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex writes one timex, which `timex` is.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    state != libc::TIME_ERROR && state != -1
}

fn clock(now: SystemTime, synchronised: bool) -> Check {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let found = humantime::format_rfc3339_seconds(now).to_string();
    if since < RELEASED {
        return Check::bad(
            "clock",
            found,
            "object stores refuse requests that are signed more than 15 minutes off",
            "set the clock (timedatectl set-ntp true)",
        );
    }
    if synchronised {
        return Check::ok("clock", found);
    }
    Check::warn(
        "clock",
        format!("{found}, not synchronised"),
        "object stores refuse requests that are signed more than 15 minutes off",
        "run a time service (timedatectl set-ntp true), unless the host keeps this machine's clock",
    )
}

fn clock_source(source: Option<&str>) -> Check {
    match source {
        Some(slow @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) => Check::warn(
            "clock_source",
            slow,
            "reading the clock is a system call of a microsecond: every latency figure and probe pays it",
            "find out in dmesg why tsc was given up, and boot with tsc=reliable if the hardware is good",
        ),
        other => Check::ok("clock_source", other.unwrap_or("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert!(Capabilities::parse(status).has(CAP_BPF));
        assert_eq!(Capabilities::parse("CapEff:\t0000000000000000\n"), Capabilities(0));
        assert_eq!(Capabilities::parse("nothing"), Capabilities(0));
    }

    #[test]
    fn missing_capabilities_are_named_and_sys_admin_stands_for_both() {
        assert!(probes(Capabilities(1 << CAP_BPF)).found.ends_with("CAP_PERFMON"));
        assert_eq!(probes(Capabilities(1 << CAP_SYS_ADMIN)).state, State::Ok);
    }

    #[test]
    fn memlock_matters_only_without_cap_ipc_lock() {
        let none = Capabilities(0);
        assert_eq!(memlock(64 << 10, none).state, State::Warn);
        assert_eq!(memlock(64 << 10, Capabilities(1 << CAP_IPC_LOCK)).state, State::Ok);
        assert_eq!(memlock(libc::RLIM_INFINITY, none).found, "unlimited");
    }

    #[test]
    fn few_files_are_fine_if_they_can_be_raised() {
        assert_eq!(files(1024, 1_048_576).state, State::Ok);
        assert_eq!(files(1024, 1024).state, State::Warn);
    }

    #[test]
    fn serving_threads_need_a_capability_to_leave_inodes_alone() {
        assert_eq!(io_flusher(Capabilities(1 << 24)).state, State::Ok);
        assert!(io_flusher(Capabilities(!(1 << 24))).do_what.contains("CAP_SYS_RESOURCE"));
    }

    #[test]
    fn a_small_limit_of_the_memory_group_is_warned_of() {
        assert_eq!(memory(Some(512 << 20)).state, State::Warn);
        assert_eq!(memory(None).state, State::Ok);
    }

    #[test]
    fn a_clock_that_was_never_set_is_bad() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(clock(at(0), true).state, State::Bad);
        assert_eq!(clock(at(1_800_000_000), false).state, State::Warn);
        assert_eq!(clock(at(1_800_000_000), true).state, State::Ok);
        assert_eq!(clock_source(Some("hpet")).state, State::Warn);
        assert_eq!(clock_source(Some("kvm-clock")).state, State::Ok);
    }
}
