//! Without the right to load programs.

use std::thread;

use cache_daemon::probe::{Heat, ProbeOptions, Probes, Tier};
use fuse_frontend::source::Ino;

use crate::{Mounted, PATIENCE};

/// Leaves this thread, and those that it starts, only the capabilities in `kept`, a bit each.
fn keep_capabilities(kept: u64) {
    // _LINUX_CAPABILITY_VERSION_3 of include/uapi/linux/capability.h; 0: this thread.
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    // Effective, permitted, inheritable: first the low halves, then the high ones.
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: both arrays have the layout that version 3 asks for, and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_capabilities_there_is_tier_c_with_the_reason_and_nothing_else_changes() {
    let without = || {
        keep_capabilities(0);
        let probes = Probes::start(ProbeOptions::new(1, 1000));
        assert!(probes.wait(PATIENCE));
        let report = probes.report();
        assert_eq!(report.tier, Tier::C);
        assert_eq!(report.why, "this process lacks CAP_BPF and CAP_PERFMON");
        assert!(report.attached.is_empty());
        assert_eq!(probes.heat(Ino(1)), Heat::default());
        assert_eq!(probes.drain(&mut |event| panic!("{event:?}")), 0);
        assert!(probes.readers().is_empty() && probes.costs().is_empty());
        assert_eq!(probes.figures().reads.get(), 0);
        probes.set_epoch(1);
    };
    thread::spawn(without).join().unwrap();
}

#[test]
fn bpf_and_perfmon_are_enough() {
    let Some(mounted) = Mounted::new(&[5000]) else { return };
    let Some(with_all) = mounted.watch() else { return };
    let with_two = || {
        const CAP_PERFMON: u64 = 1 << 38;
        const CAP_BPF: u64 = 1 << 39;
        keep_capabilities(CAP_PERFMON | CAP_BPF);
        mounted.watch().map(|probes| probes.report().tier)
    };
    let tier = thread::scope(|scope| scope.spawn(with_two).join().unwrap());
    assert_eq!(tier, Some(with_all.report().tier));
}
