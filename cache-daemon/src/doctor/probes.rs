//! The probes: what of them attaches here, found out by attaching them to nothing.

use std::time::Duration;

use super::Check;
use crate::probe::{ProbeOptions, ProbeReport, Probes, Tier};

/// Loading takes 0.1 to 0.4 s; a machine that needs longer has other troubles.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn look() -> Vec<Check> {
    // No file system has device 0: whatever runs meanwhile counts nothing.
    let probes = Probes::start(ProbeOptions::new(0, 0));
    let done = probes.wait(PATIENCE);
    vec![tier(done, &probes.report())]
}

fn tier(done: bool, report: &ProbeReport) -> Check {
    const NAME: &str = "probes";
    let without: Vec<&str> = report.left_out.iter().map(|left_out| left_out.program.as_str()).collect();
    let without =
        if without.is_empty() { String::new() } else { format!("; without {}", without.join(", ")) };
    let found = format!("tier {}: {}{without}", report.tier, report.why);
    match report.tier {
        Tier::A => Check::ok(NAME, found),
        Tier::B => Check::warn(
            NAME,
            found,
            "reads are counted in whole pages; direct reads, and those of files in passthrough, are not seen",
            "a kernel that lets fentry programs attach; some virtual machines forbid it",
        ),
        Tier::C => Check::off(
            NAME,
            if done { found } else { format!("not loaded within {} s", PATIENCE.as_secs()) },
            "reads that the kernel serves from its page cache are not seen; figures that need them are marked",
            "see `capabilities`, `btf` and `lockdown` here, and docs/probes.md",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::probe::LeftOut;

    #[test]
    fn each_tier_says_what_is_not_seen() {
        let report = |tier| ProbeReport {
            tier,
            why: "because".into(),
            attached: vec![],
            left_out: vec![],
            sees_waits: false,
            sees_residents: false,
            sees_opens: false,
            sees_maps: false,
            map_bytes: 0,
        };
        assert_eq!(tier(true, &report(Tier::A)), Check::ok("probes", "tier A: because"));
        assert_eq!(tier(true, &report(Tier::B)).state, State::Warn);
        let left_out = vec![LeftOut { program: "asked (fuse_request_send)".into(), why: "old".into() }];
        let partly = ProbeReport { left_out, ..report(Tier::A) };
        assert!(tier(true, &partly).found.ends_with("; without asked (fuse_request_send)"));
        assert!(tier(true, &report(Tier::C)).found.contains("because"));
        assert!(tier(false, &report(Tier::C)).found.contains("10 s"));
    }
}
