//! What this process may do: said before the kernel answers with a bare EPERM.

use std::fs;

/// Bits of include/uapi/linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The capabilities that loading the probes needs and this process lacks, in words; `None` if it has them.
pub(super) fn missing() -> Option<String> {
    missing_in(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default())
}

fn missing_in(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Unknown: let the kernel decide.
    let effective = u64::from_str_radix(line?.trim(), 16).ok()?;
    let has = |bit: u32| effective & (1 << bit) != 0;
    if has(CAP_SYS_ADMIN) {
        return None;
    }
    let wanted = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
    let missing: Vec<_> = wanted.into_iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| name).collect();
    (!missing.is_empty()).then(|| format!("this process lacks {}", missing.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_and_perfmon_are_needed_or_sys_admin_instead() {
        let with = |caps: u64| missing_in(&format!("Name:\tx\nCapEff:\t{caps:016x}\n"));
        assert_eq!(with(0).as_deref(), Some("this process lacks CAP_BPF and CAP_PERFMON"));
        assert_eq!(with(1 << CAP_BPF).as_deref(), Some("this process lacks CAP_PERFMON"));
        assert_eq!(with(1 << CAP_BPF | 1 << CAP_PERFMON), None);
        assert_eq!(with(1 << CAP_SYS_ADMIN), None);
    }
}
