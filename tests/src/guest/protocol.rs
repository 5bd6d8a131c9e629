//! What `cargo xtask vm-test` and its guest tell each other. Compiled into both: this file is the one definition.
//!
//! The plan lies in the initramfs as JSON; events are JSON, one a line, on the second serial port.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the plan lies in the guest.
pub const PLAN: &str = "/plan.json";

/// Where the programs lie in the guest; test executables in its `deps`, as under cargo's target directory.
pub const PROGRAMS: &str = "/programs";

/// The port of QEMU's isa-debug-exit device. Writing `code` ends QEMU with status `code << 1 | 1`.
pub const EXIT_PORT: u16 = 0xf4;

/// What the guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// CARGO_TARGET_TMPDIR on the host: its path is compiled into integration tests, which write there.
    pub target_tmp: PathBuf,
    /// In the order of loading.
    pub modules: Vec<Module>,
    /// The namespaces, found by their numbers.
    pub namespaces: Vec<Namespace>,
    /// In the order of running.
    pub suites: Vec<Suite>,
    /// Only tests whose name contains this, and suites whose name does.
    pub filter: Option<String>,
}

/// A kernel module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Module {
    /// Its file in the guest.
    pub path: PathBuf,
    /// `name=value ...`: a module loaded by hand does not see the kernel's command line.
    pub parameters: String,
}

/// A namespace of the emulated NVMe controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its number. Device names do not say which it is: from Linux 6.12 on nvme0n1 may be any.
    pub nsid: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// What it holds.
    pub holds: Holds,
}

/// What a namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// An ext4 file system.
    Ext4,
    /// An XFS file system.
    Xfs,
    /// Nothing: a device that the store has to itself.
    Raw,
}

/// Tests of one executable in one place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suite {
    /// As shown.
    pub name: String,
    /// The file's name in `PROGRAMS/deps`.
    pub executable: String,
    /// The file system that temporary directories are made on. Raw: the tests get the raw namespaces, and ext4.
    pub on: Holds,
    /// Beginnings of the names of the tests; all tests if there is none.
    pub only: Vec<String>,
    /// Tests that cannot pass in a guest, with the reason.
    pub skip: Vec<Skip>,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
    /// Seconds after which the suite hangs.
    pub limit_s: u64,
}

/// A test that is not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skip {
    /// The beginning of its name.
    pub test: String,
    /// Why, for the report.
    pub why: String,
}

/// What happened in the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The guest is set up.
    Ready {
        /// `uname -r`.
        release: String,
        /// Seconds since the kernel started.
        uptime_s: f64,
    },
    /// What this kernel has.
    Facts(Facts),
    /// What the daemon made of it.
    Daemon(Daemon),
    /// A suite begins.
    Began {
        /// The suite's name.
        suite: String,
        /// How many tests will be run.
        tests: usize,
    },
    /// A suite is over.
    Ended(Outcome),
    /// Something failed that is no test.
    Failed {
        /// With its causes.
        what: String,
    },
    /// The last event.
    Finished {
        /// Whether everything that ran passed.
        passed: bool,
    },
}

/// What the kernel offers, asked of the kernel itself and not of the product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// FUSE's protocol as offered in INIT.
    pub fuse_protocol: (u32, u32),
    /// The INIT flags that matter here, by name.
    pub fuse_flags: Vec<String>,
    /// Setup flags of `io_uring_setup` that are taken; empty also where rings cannot be made.
    pub uring_flags: Vec<String>,
    /// Whether a ring can be made at all.
    pub uring: bool,
    /// /sys/kernel/btf/vmlinux.
    pub btf: bool,
    /// BTF of modules.
    pub module_btf: bool,
}

/// What a mounted daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// `noopen` or `open`.
    pub serve: String,
    /// The store's engine.
    pub engine: String,
    /// The probes' tier.
    pub probe_tier: String,
    /// The programs that are attached, as `name (hook)`.
    pub probe_programs: Vec<String>,
    /// How a warm epoch of large files was served, with nothing in the page cache. Every byte was right.
    pub large_files: LargeFiles,
    /// Readahead of the mount, KiB.
    pub read_ahead_kb: Option<u64>,
    /// What is off.
    pub off: Vec<String>,
}

/// How an epoch of large files went that are whole in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeFiles {
    /// Files.
    pub files: u64,
    /// Those that the kernel was left to read by itself.
    pub passthrough: u64,
    /// READ requests that the daemon answered.
    pub daemon_reads: u64,
}

/// How a suite went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The suite's name.
    pub suite: String,
    /// Tests that passed, those that skipped included.
    pub passed: usize,
    /// Names of tests that failed.
    pub failed: Vec<String>,
    /// Reasons for skipping, one for each time.
    pub skipped: Vec<String>,
    /// Why the suite as a whole failed: it hung, crashed, or had no tests.
    pub broken: Option<String>,
    /// Seconds.
    pub took_s: f64,
}

impl Outcome {
    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.broken.is_none()
    }
}
