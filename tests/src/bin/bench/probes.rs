//! `probes`: what it costs a read that the kernel serves by itself that somebody watches.
//!
//! One mount of a source in memory, everything in the page cache, read with and without probes in turn. Times are those that
//! the reading thread ran, so that whatever else the machine does is not in them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use cache_daemon::probe::{ProbeOptions, Probes, Tier};
use fuse_frontend::memory::MemorySource;
use fuse_frontend::session::{Mount, MountOptions};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::pairs::Pairs;
use crate::{Effort, Results};

/// The file of the `pread` cases.
const LARGE_BYTES: usize = 16 << 20;

/// Each file of an epoch: ImageNet's average.
const SMALL_BYTES: usize = 110 << 10;

/// What a round with probes is compared with.
#[derive(Clone, Copy)]
enum Reference {
    /// No probes at all.
    Nothing,
    /// Probes that do not count what is resident.
    WithoutResidents,
}

impl Reference {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "without probes",
            Self::WithoutResidents => "without counting residents",
        }
    }

    fn probes(self, device: u64) -> anyhow::Result<Option<Probes>> {
        match self {
            Self::Nothing => Ok(None),
            Self::WithoutResidents => watch(device, false).map(Some),
        }
    }
}

/// One way to read, a round at a time.
struct Case<'a> {
    name: &'a str,
    note: &'a str,
    reference: Reference,
    /// Reads once; how many operations that were.
    round: Box<dyn FnMut() -> anyhow::Result<u64> + 'a>,
}

/// Measures `pread4k`, `pread128k`, `epoch`, `cold128k`: pages that must be asked for, and `elsewhere`: another file system
/// while probes run.
pub fn run(effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let source = MemorySource::new();
    source.add_file("large.bin", vec![1; LARGE_BYTES]);
    let small = effort.pick(2000, 50);
    for n in 0..small {
        source.add_file(&format!("small/{n:05}.jpg"), vec![2; SMALL_BYTES]);
    }
    let mount = Mount::start(MountOptions::new(dir.path(), "memory:///bench"), Arc::new(source))?;
    let large = dir.path().join("large.bin");
    let small: Vec<PathBuf> = (0..small).map(|n| dir.path().join(format!("small/{n:05}.jpg"))).collect();
    let elsewhere = tempfile::NamedTempFile::new()?;
    fs::write(elsewhere.path(), vec![3; LARGE_BYTES])?;
    for path in small.iter().chain([&large]) {
        fs::read(path)?;
    }
    let reads = effort.pick(100_000, 1000);
    let case = |name, note, round| Case { name, note, reference: Reference::Nothing, round };
    let rounds = reads / 10_000;
    let cases = [
        case("pread4k", "cached", preads(&large, 4096, reads)?),
        case("pread128k", "cached", preads(&large, 128 << 10, reads / 20)?),
        case("epoch", "open, read, close of cached files of 110 KiB", epoch(small)),
        case("cold128k", "128 KiB that are not cached", cold(&large, rounds.max(1))?),
        Case {
            reference: Reference::WithoutResidents,
            ..case("cold128k_residents", "128 KiB that are not cached", cold(&large, rounds.max(1))?)
        },
        case("elsewhere", "4 KiB, another file system", preads(elsewhere.path(), 4096, reads)?),
    ];
    let device = mount.report().device;
    for Case { name, note, reference, mut round } in cases {
        // Both closures read: whoever runs second must not find a warmer round.
        let mut timed = |probes: Option<Probes>| -> anyhow::Result<f64> {
            let began = busy_ns();
            let operations = round()?;
            let ns = (busy_ns() - began) as f64 / operations as f64;
            drop(probes);
            // The kernel takes programs away a grace period after their last user.
            std::thread::sleep(Duration::from_millis(50));
            Ok(ns)
        };
        timed(None)?;
        let timed = std::cell::RefCell::new(timed);
        let pairs = Pairs::run(
            effort.pairs() * 3,
            || timed.borrow_mut()(Some(watch(device, true)?)),
            || timed.borrow_mut()(reference.probes(device)?),
        )?;
        results.pairs(name, "time", "ns", reference.name(), &pairs, note);
    }
    per_hit(device, &large, reads, results)
}

/// Reads of `len` bytes all over a file.
fn preads<'a>(
    path: &Path,
    len: usize,
    count: u64,
) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<u64> + 'a>> {
    let file = File::open(path)?;
    let mut buffer = vec![0; len];
    let places = (LARGE_BYTES / len) as u64;
    Ok(Box::new(move || {
        for n in 0..count {
            file.read_exact_at(&mut buffer, n * 7919 % places * len as u64)?;
        }
        Ok(count)
    }))
}

/// All of a file in order after its pages were dropped, `rounds` times; an operation is 128 KiB.
fn cold<'a>(path: &Path, rounds: u64) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<u64> + 'a>> {
    let file = File::open(path)?;
    let mut buffer = vec![0; 128 << 10];
    let pieces = LARGE_BYTES / buffer.len();
    Ok(Box::new(move || {
        for _ in 0..rounds {
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            for piece in 0..pieces {
                file.read_exact_at(&mut buffer, (piece * (128 << 10)) as u64)?;
            }
        }
        Ok(rounds * pieces as u64)
    }))
}

/// Every file once, as a data loader does it.
fn epoch<'a>(files: Vec<PathBuf>) -> Box<dyn FnMut() -> anyhow::Result<u64> + 'a> {
    Box::new(move || {
        for path in &files {
            ensure!(fs::read(path)?.len() == SMALL_BYTES, "a short file");
        }
        Ok(files.len() as u64)
    })
}

fn watch(device: u64, residents: bool) -> anyhow::Result<Probes> {
    let probes = Probes::start(ProbeOptions { residents, ..ProbeOptions::new(device, 10_000) });
    ensure!(probes.wait(Duration::from_secs(30)), "probes take more than 30 s to load");
    let report = probes.report();
    if report.tier == Tier::C {
        bail!("no probes here: {}", report.why);
    }
    Ok(probes)
}

/// ns of each program by the kernel's own measure, which is in them.
fn per_hit(device: u64, large: &Path, reads: u64, results: &mut Results) -> anyhow::Result<()> {
    let probes = watch(device, true)?;
    let measuring = Probes::measure()?;
    preads(large, 4096, reads)?()?;
    cold(large, 4)?()?;
    drop(measuring);
    for cost in probes.costs().iter().filter(|cost| cost.runs >= 100) {
        let ns = cost.time.as_nanos() as f64 / cost.runs as f64;
        results.absolute("hit", "ns_per_hit", "ns", &[ns], &cost.program);
    }
    Ok(())
}

/// What this thread has run so far, ns.
fn busy_ns() -> u64 {
    let time = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
    let ns =
        |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1000;
    time.map_or(0, |usage| ns(usage.user_time()) + ns(usage.system_time()))
}
