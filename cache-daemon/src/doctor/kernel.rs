//! The kernel: its version, and what depends on the version or on how it was built.

use std::path::Path;

use super::process::{CAP_SYS_ADMIN, Capabilities};
use super::{Check, read};

/// `major.minor.patch`; what distributions add after it is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Parses `uname -r`: `5.15.0-91-generic`, `6.12-rc3`.
    pub(super) fn parse(release: &str) -> Option<Self> {
        let numbers = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }
}

pub(super) fn look() -> Vec<Check> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = Version::parse(&release);
    let capabilities = Capabilities::ours();
    let config = read(format!("/boot/config-{release}"));
    vec![
        kernel(&release, version),
        passthrough(version, config.as_deref(), capabilities),
        readahead_deadlock(version),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        lockdown(read("/sys/kernel/security/lockdown").as_deref()),
    ]
}

fn kernel(release: &str, version: Option<Version>) -> Check {
    match version {
        Some(version) if version >= Version(5, 10, 0) => Check::ok("kernel", release),
        Some(_) => Check::warn(
            "kernel",
            release,
            "older than any kernel that is tested (5.10)",
            "use a newer kernel: Ubuntu 22.04 has 5.15 and 6.8",
        ),
        None => Check::warn("kernel", release, "its version is not understood", "report this line as a bug"),
    }
}

fn passthrough(version: Option<Version>, config: Option<&str>, capabilities: Capabilities) -> Check {
    const NAME: &str = "passthrough";
    const EFFECT: &str =
        "large files are copied through the daemon: .2 of the disk's speed instead of all of it";
    if version < Some(Version(6, 9, 0)) {
        return Check::off(NAME, "the kernel is older than 6.9", EFFECT, "boot a kernel from 6.9 on");
    }
    if config.is_some_and(|config| config.contains("# CONFIG_FUSE_PASSTHROUGH is not set")) {
        let found = "the kernel is built without CONFIG_FUSE_PASSTHROUGH";
        return Check::off(NAME, found, EFFECT, "boot a kernel that is built with it");
    }
    if !capabilities.has(CAP_SYS_ADMIN) {
        let what = "run the daemon as root, or with CAP_SYS_ADMIN (docs/operations.md)";
        return Check::off(NAME, "CAP_SYS_ADMIN is missing", EFFECT, what);
    }
    Check::ok(NAME, "the kernel has it")
}

/// e26ee4efbc79 (6.9) let a no-open server's inode be evicted with a readahead in flight, and eviction
/// then waits for folios that only the server can unlock. "fuse: fix readahead reclaim deadlock" of
/// January 2026 is in 6.12.64, in 6.18 from .4 on at the latest, and in 6.19.
fn readahead_deadlock(version: Option<Version>) -> Check {
    const NAME: &str = "readahead_deadlock";
    let Some(version) = version else { return Check::ok(NAME, "the kernel's version is not known") };
    let fixed = match version {
        Version(6, 12, patch) => patch >= 64,
        Version(6, 18, patch) => patch >= 4,
        other => !(Version(6, 9, 0)..Version(6, 19, 0)).contains(&other),
    };
    if fixed {
        return Check::ok(NAME, "this kernel is not affected");
    }
    Check::warn(
        NAME,
        format!("{}.{}.{} may have the readahead deadlock of FUSE", version.0, version.1, version.2),
        "under memory pressure a reader and the daemon can wait for each other for ever (noopen mode)",
        "update to 6.12.64, 6.18.4, 6.19 or later, or to your distribution's backport; or mount with --serve open",
    )
}

fn btf(there: bool) -> Check {
    if there {
        return Check::ok("btf", "/sys/kernel/btf/vmlinux");
    }
    Check::off(
        "btf",
        "no /sys/kernel/btf/vmlinux",
        "no probes: reads that the kernel serves from its page cache are not seen",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF (all of Debian 12 and Ubuntu 22.04 have it)",
    )
}

/// `none [integrity] confidentiality`
fn lockdown(text: Option<&str>) -> Check {
    let mode = text.and_then(|text| text.split('[').nth(1)?.split(']').next()).unwrap_or("none");
    if mode != "confidentiality" {
        return Check::ok("lockdown", mode);
    }
    Check::off(
        "lockdown",
        mode,
        "the kernel lets no eBPF program read its memory: no probes",
        "boot with lockdown=integrity, or live without probes",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        let parsed = |release| Version::parse(release);
        assert_eq!(parsed("5.15.0-91-generic"), Some(Version(5, 15, 0)));
        assert_eq!(parsed("6.1.0-18-cloud-amd64"), Some(Version(6, 1, 0)));
        assert_eq!(parsed("6.12-rc3"), Some(Version(6, 12, 0)));
        assert_eq!(parsed("6.18.44-fc-v657"), Some(Version(6, 18, 44)));
        assert_eq!(parsed("6.8.0+bpo"), Some(Version(6, 8, 0)));
        assert_eq!([parsed(""), parsed("linux"), parsed("6")], [None; 3]);
    }

    #[test]
    fn the_deadlock_is_warned_of_from_6_9_until_its_fix() {
        let warned = |a, b, c| readahead_deadlock(Some(Version(a, b, c))).state == State::Warn;
        assert!(
            [warned(6, 9, 0), warned(6, 12, 63), warned(6, 14, 2), warned(6, 18, 0)]
                .iter()
                .all(|&warned| warned)
        );
        assert!(
            ![warned(5, 15, 0), warned(6, 8, 0), warned(6, 12, 64), warned(6, 18, 44), warned(7, 0, 0)]
                .contains(&true)
        );
    }

    #[test]
    fn passthrough_needs_version_build_and_capability() {
        let (new, all, none) = (Some(Version(6, 12, 0)), Capabilities(u64::MAX), Capabilities(0));
        assert_eq!(passthrough(new, None, all).state, State::Ok);
        assert!(passthrough(new, None, none).found.contains("CAP_SYS_ADMIN"));
        assert!(passthrough(Some(Version(6, 8, 0)), None, all).found.contains("6.9"));
        let config = "CONFIG_FUSE_FS=m\n# CONFIG_FUSE_PASSTHROUGH is not set\n";
        assert!(passthrough(new, Some(config), all).found.contains("CONFIG_FUSE_PASSTHROUGH"));
    }

    #[test]
    fn only_confidentiality_stops_probes() {
        assert_eq!(lockdown(None).state, State::Ok);
        assert_eq!(lockdown(Some("none [integrity] confidentiality")).state, State::Ok);
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).state, State::Off);
    }
}
