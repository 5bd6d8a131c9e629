//! Probes against ground truth: real mounts, real reads, and what the kernel says of them.
//!
//! The mounts serve a source in memory, so nothing of the daemon but the probes is tested here. Every test says SKIPPED
//! with the reason where this machine permits no FUSE or no BPF; with `PROBES_OBJECT` set, the object in that file is
//! tested instead of the embedded one (`cargo xtask ebpf --check` does that with one that other versions built). With
//! `PROBES_REQUIRED` no probes are a failure, and `PROBES_TIER=B` tests that tier where A is to be had.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod gauges;
mod ground_truth;
mod leaving;
mod openings;
mod others;
mod readings;
mod rights;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cache_daemon::probe::{Event, Heat, ProbeOptions, Probes, Tier};
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::{Mount, MountOptions};
use fuse_frontend::source::Ino;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

pub(crate) const PAGE: u64 = 4096;

/// Longer than loading takes anywhere; an emulated machine's clock may run away from it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// A file of the mount.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) path: PathBuf,
    pub(crate) ino: Ino,
    pub(crate) size: u64,
}

/// A mount of files of the given sizes.
pub(crate) struct Mounted {
    // Dropped in this order: the mount before its directory.
    pub(crate) mount: Mount,
    pub(crate) samples: Vec<Sample>,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// `None`, printed, where this machine cannot mount.
    pub(crate) fn new(sizes: &[u64]) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs /dev/fuse and root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let source = MemorySource::new();
        let mut random = StdRng::seed_from_u64(1);
        let add = |(n, size): (usize, &u64)| {
            let name = format!("class-{:02}/{n:05}.bin", n % 7);
            let mut bytes = vec![0; *size as usize];
            random.fill_bytes(&mut bytes);
            Sample { ino: source.add_file(&name, bytes), path: dir.path().join(name), size: *size }
        };
        let samples = sizes.iter().enumerate().map(add).collect();
        let mut options = MountOptions::new(dir.path(), "memory:///probes");
        options.serve = ServeMode::Auto;
        let mount = Mount::start(options, Arc::new(source)).unwrap();
        Some(Self { mount, samples, _dir: dir })
    }

    /// Probes on this mount; `None`, printed, where this machine permits none.
    pub(crate) fn watch(&self) -> Option<Probes> {
        self.watch_with(|_| ())
    }

    pub(crate) fn watch_with(&self, change: impl FnOnce(&mut ProbeOptions)) -> Option<Probes> {
        let mut options = ProbeOptions::new(self.mount.report().device, self.samples.len() as u64 + 10);
        options.object = object().unwrap_or(options.object);
        if std::env::var_os("PROBES_TIER").is_some_and(|tier| tier == "B") {
            options.best = Tier::B;
        }
        change(&mut options);
        let probes = Probes::start(options);
        assert!(probes.wait(PATIENCE), "loading ends");
        let report = probes.report();
        if report.tier == Tier::C {
            assert!(std::env::var_os("PROBES_REQUIRED").is_none(), "no probes: {}", report.why);
            eprintln!("SKIPPED: no probes here: {}", report.why);
            return None;
        }
        eprintln!("tier {}: {:?}", report.tier, report.attached);
        for left_out in &report.left_out {
            eprintln!("  without {}: {}", left_out.program, left_out.why);
        }
        Some(probes)
    }
}

/// An object given from outside.
fn object() -> Option<&'static [u8]> {
    static OBJECT: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let read = || std::env::var_os("PROBES_OBJECT").map(|path| fs::read(path).unwrap());
    OBJECT.get_or_init(read).as_deref()
}

/// The events so far.
pub(crate) fn events(probes: &Probes) -> Vec<Event> {
    let mut events = Vec::new();
    probes.drain(&mut |event| events.push(event));
    events
}

/// What `heat` grew by since `before`.
pub(crate) fn grown(heat: Heat, before: Heat) -> Heat {
    Heat {
        bytes: heat.bytes - before.bytes,
        reads: heat.reads - before.reads,
        faults: heat.faults - before.faults,
        begins: heat.begins - before.begins,
        ..heat
    }
}

/// Runs that the kernel left out so far, because the program was running on that CPU already: a kernel with preemption
/// does that, and most on an emulated processor. As many accesses may be missing from what was counted, and no more; they
/// come in bursts, as long as the task waits that was interrupted in the middle of a run.
pub(crate) fn missed(probes: &Probes) -> u64 {
    probes.runs_missed()
}

/// Whether so much was left out that nothing can be said; printed, as what is skipped is.
pub(crate) fn is_disturbed(probes: &Probes) -> bool {
    let missed = missed(probes);
    if missed > 0 {
        eprintln!("SKIPPED: the kernel left out {missed} runs of the probes");
    }
    missed > 0
}

/// Checks a count from which `missed` runs may be missing, each worth `each`.
#[track_caller]
pub(crate) fn assert_counted(counted: u64, done: u64, missed: u64, each: u64) {
    assert!(
        counted <= done && done - counted <= missed * each,
        "{counted} of {done} counted, with {missed} runs left out that are worth {each}"
    );
}

/// Drops the pages of an open file, and nothing else.
pub(crate) fn drop_pages(file: &File) {
    nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// This thread's id, as the host numbers it.
pub(crate) fn tid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}
