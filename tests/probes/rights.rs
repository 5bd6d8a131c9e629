//! Without the right to load programs.

use std::thread;
use std::time::Duration;

use cache_daemon::probe::{Heat, ProbeOptions, Probes, Tier};
use fuse_frontend::source::Ino;

/// Takes all capabilities from this thread, and from those that it starts.
fn drop_capabilities() {
    // _LINUX_CAPABILITY_VERSION_3 of include/uapi/linux/capability.h; 0: this thread.
    let header = [0x2008_0522_u32, 0];
    let nothing = [0_u32; 6];
    // SAFETY: both arrays have the layout that version 3 asks for, and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), nothing.as_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_capabilities_there_is_tier_c_with_the_reason_and_nothing_else_changes() {
    let without = || {
        drop_capabilities();
        let probes = Probes::start(ProbeOptions::new(1, 1000));
        assert!(probes.wait(Duration::from_secs(60)));
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
