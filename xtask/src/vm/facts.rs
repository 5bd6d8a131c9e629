//! What each kernel must have. A kernel that lacks it, or a daemon that does not use it, fails: a silent fallback would
//! pass every other test.

use super::protocol::{Daemon, Facts, LargeFiles};

/// What must be there, and what cannot be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The beginning of the version.
    kernel: &'static str,
    fuse_protocol: (u32, u32),
    fuse_flags: &'static [&'static str],
    uring_flags: &'static [&'static str],
    module_btf: bool,
    /// What the probes that see reads are attached to, all of tier A.
    reads_seen_at: &'static str,
}

const URING_5_10: &[&str] = &["IOPOLL", "SQPOLL"];
const URING_6_1: &[&str] = &["IOPOLL", "SQPOLL", "COOP_TASKRUN", "SINGLE_ISSUER", "DEFER_TASKRUN"];

const KERNELS: [Expected; 4] = [
    Expected {
        kernel: "5.10",
        fuse_protocol: (7, 32),
        fuse_flags: &["no-open", "max-pages", "no-opendir"],
        uring_flags: URING_5_10,
        module_btf: false,
        reads_seen_at: "generic_file_read_iter",
    },
    Expected {
        kernel: "6.1",
        fuse_protocol: (7, 38),
        fuse_flags: &["no-open", "max-pages", "no-opendir"],
        uring_flags: URING_6_1,
        module_btf: true,
        reads_seen_at: "rw_verify_area",
    },
    Expected {
        kernel: "6.12",
        fuse_protocol: (7, 41),
        fuse_flags: &["no-open", "max-pages", "no-opendir", "passthrough"],
        uring_flags: URING_6_1,
        module_btf: true,
        reads_seen_at: "rw_verify_area",
    },
    Expected {
        kernel: "7.3",
        fuse_protocol: (7, 46),
        fuse_flags: &[
            "no-open",
            "max-pages",
            "no-opendir",
            "passthrough",
            "over-io-uring",
            "request-timeout",
        ],
        uring_flags: URING_6_1,
        module_btf: true,
        reads_seen_at: "rw_verify_area",
    },
];

/// What the kernel `version` must have; none if it is not one that is known.
pub fn expected(version: &str) -> Option<Expected> {
    KERNELS.into_iter().find(|expected| expected.kernel == version)
}

impl Expected {
    /// Where `facts` differ, one sentence each. More than expected is a difference too: the table is to be right.
    pub fn differences(&self, facts: &Facts) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, is: &dyn std::fmt::Debug, must: &dyn std::fmt::Debug| {
            let (is, must) = (format!("{is:?}"), format!("{must:?}"));
            if is != must {
                differences.push(format!("{what} is {is}, must be {must}"));
            }
        };
        compare("FUSE's protocol", &facts.fuse_protocol, &self.fuse_protocol);
        compare("what FUSE offers", &facts.fuse_flags, &self.fuse_flags);
        compare("io_uring", &facts.uring, &true);
        compare("io_uring's setup flags", &facts.uring_flags, &self.uring_flags);
        compare("BTF of the kernel", &facts.btf, &true);
        compare("BTF of modules", &facts.module_btf, &self.module_btf);
        differences
    }

    fn passthrough(&self) -> bool {
        self.fuse_flags.contains(&"passthrough")
    }

    /// What a daemon run as root does not use though it must, one sentence each.
    pub fn daemon_differences(&self, daemon: &Daemon) -> Vec<String> {
        let mut differences = daemon_differences(daemon);
        if daemon.probe_tier != "A" {
            differences.push(format!("the probes' tier is {}, must be A", daemon.probe_tier));
        }
        if !daemon.probe_programs.iter().any(|program| program.contains(self.reads_seen_at)) {
            let there = daemon.probe_programs.join(", ");
            differences.push(format!("reads are not seen at {} but by {there:?}", self.reads_seen_at));
        }
        for opening in ["security_file_open", "security_mmap_file"] {
            if !daemon.probe_programs.iter().any(|program| program.contains(opening)) {
                differences.push(format!("nothing is attached to {opening}"));
            }
        }
        let LargeFiles { files, passthrough, daemon_reads } = daemon.large_files;
        let as_it_must = if self.passthrough() {
            passthrough == files && daemon_reads == 0
        } else {
            passthrough == 0 && daemon_reads > 0
        };
        if !as_it_must {
            differences.push(format!(
                "of {files} large files {passthrough} were passed through, and the daemon answered {daemon_reads} READs"
            ));
        }
        differences
    }

    /// Of the reasons why tests skipped, those that cannot be true here.
    pub fn untrue<'a>(&self, skipped: &'a [String]) -> impl Iterator<Item = &'a String> {
        let passthrough = self.passthrough();
        skipped.iter().filter(move |reason| {
            reason.starts_with("no io_uring")
                || reason.starts_with("no probes")
                || (passthrough
                    && reason.starts_with("no passthrough")
                    && !reason.ends_with("it was turned off"))
        })
    }
}

/// What a daemon run as root must use on every kernel of the table.
fn daemon_differences(daemon: &Daemon) -> Vec<String> {
    let mut differences = Vec::new();
    if daemon.engine != "io_uring" {
        differences.push(format!("the store's engine is {}, must be io_uring", daemon.engine));
    }
    if daemon.serve != "noopen" {
        differences.push(format!("the mount's mode is {}, must be noopen", daemon.serve));
    }
    if daemon.read_ahead_kb.is_none() {
        differences.push("the mount's readahead was not set".to_owned());
    }
    differences.extend(daemon.off.iter().map(|off| format!("off: {off}")));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_flag_and_one_too_many_are_told() {
        let expected = expected("6.12").unwrap();
        let good = Facts {
            fuse_protocol: (7, 41),
            fuse_flags: expected.fuse_flags.iter().map(|flag| (*flag).to_owned()).collect(),
            uring: true,
            uring_flags: URING_6_1.iter().map(|flag| (*flag).to_owned()).collect(),
            btf: true,
            module_btf: true,
        };
        assert_eq!(expected.differences(&good), [""; 0]);
        let without = Facts { fuse_flags: vec!["no-open".into()], ..good.clone() };
        assert!(expected.differences(&without)[0].contains("passthrough"));
        let other = super::expected("6.1").unwrap().differences(&good);
        assert_eq!(other.len(), 2, "{other:?}");
    }

    #[test]
    fn a_test_may_not_skip_for_want_of_what_the_kernel_has() {
        let skipped = ["no passthrough here: old".to_owned(), "python3 is not in PATH".to_owned()];
        assert_eq!(expected("6.12").unwrap().untrue(&skipped).count(), 1);
        assert_eq!(expected("6.1").unwrap().untrue(&skipped).count(), 0);
    }

    #[test]
    fn a_daemon_that_fell_back_is_told() {
        let openings = "file_opened (security_file_open), file_mapped (security_mmap_file)";
        let good = Daemon {
            serve: "noopen".into(),
            engine: "io_uring".into(),
            probe_tier: "A".into(),
            probe_programs: vec!["read_verified (rw_verify_area)".into(), openings.into()],
            large_files: LargeFiles { files: 3, passthrough: 3, daemon_reads: 0 },
            read_ahead_kb: Some(1024),
            off: vec![],
        };
        let told = |version, daemon: &Daemon| super::expected(version).unwrap().daemon_differences(daemon);
        assert_eq!(told("6.12", &good), [""; 0]);
        assert_eq!(told("5.10", &good).len(), 2, "other probes, and passthrough where there is none");
        let slow = Daemon { engine: "psync".into(), ..good.clone() };
        assert_eq!(told("6.12", &slow), ["the store's engine is psync, must be io_uring"]);
        let blind = Daemon { probe_tier: "B".into(), ..good.clone() };
        assert_eq!(told("6.12", &blind).len(), 1);
        let copied = LargeFiles { files: 3, passthrough: 3, daemon_reads: 1 };
        assert_eq!(told("6.12", &Daemon { large_files: copied, ..good }).len(), 1);
    }

    #[test]
    fn versions_are_not_taken_for_one_another() {
        assert!(expected("6.1").is_some_and(|expected| expected.fuse_protocol == (7, 38)));
        assert!(expected("5.15").is_none(), "bracketed, not run");
    }
}
