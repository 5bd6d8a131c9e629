//! Small files: 20 000 of 110 KiB, as ImageNet has them; half as many where the disk has no room for them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::programs::{program, run_within};
use epochcache_tests::bed::s3::Weather;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::session::{self, MountOptions};

use super::memory::MemoryDisk;
use super::readers::used;
use super::worker::{self, Work};
use super::{Before, Bench, Case, Daemon, Sides};
use crate::machine;

/// Processes that open files at the same moment, and how many each.
const STORM: (usize, usize) = (20, 1000);

/// The most that a push of everything takes.
const LIMIT: Duration = Duration::from_secs(300);

const READ: Case = Case { name: "", work: Work::Files, before: Before::Nothing, note: "" };

/// On a mount in no-open mode, its store on the disk.
const NOOPEN: [Case; 2] = [
    Case { name: "small_warm", note: "no-open, in the page cache", ..READ },
    Case {
        name: "small_dropped_noopen",
        before: Before::AllPages,
        note: "page cache dropped on both sides, names kept; store on the same disk",
        ..READ
    },
];

const PUSHED: [Case; 1] = [Case {
    name: "small_pushed",
    before: Before::Pushed,
    note: "no-open, all pushed before the clock starts",
    ..READ
}];

const STORMS: [Case; 2] = [
    Case {
        name: "open_storm",
        work: Work::Opens(STORM.1),
        note: "20 processes open and close 1 000 files each, no-open, names known to the kernel",
        ..READ
    },
    Case {
        name: "open_storm_names_dropped",
        work: Work::Opens(STORM.1),
        before: Before::Names,
        note: "the same, a LOOKUP each",
    },
];

/// The same with the store in memory.
const MISS: [Case; 1] = [Case {
    name: "small_noopen_miss",
    before: Before::OurPages,
    note: "no-open, in the store, which is in memory; ext4 from its page cache",
    ..READ
}];

/// The frontend alone: a source in memory, in one process.
const FRONTEND: [Case; 1] = [Case {
    name: "small_noopen_frontend",
    before: Before::OurPages,
    note: "no-open, answered from memory by the serving thread: no store; ext4 from its page cache",
    ..READ
}];

/// On a mount in open mode, each file with a local file.
const PASSED: [Case; 2] = [
    Case { name: "small_passthrough", note: "passthrough, local files in the page cache", ..READ },
    Case {
        name: "small_dropped_passthrough",
        before: Before::AllPages,
        note: "page cache dropped on both sides, names kept",
        ..READ
    },
];

/// The names of all cases; `small_push` is what a push itself costs.
pub const NAMES: [&str; 10] = [
    "small_warm",
    "small_dropped_noopen",
    "small_push",
    "small_pushed",
    "open_storm",
    "open_storm_names_dropped",
    "small_noopen_miss",
    "small_noopen_frontend",
    "small_passthrough",
    "small_dropped_passthrough",
];

#[cfg(test)]
pub fn all() -> Vec<Case> {
    [&NOOPEN[..], &PUSHED, &STORMS, &MISS, &FRONTEND, &PASSED].concat()
}

/// Measures them.
pub fn run(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if !NAMES.iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    bench.say("making small files")?;
    let files = if bench.effort.quick { 600 } else { how_many()? };
    let bed = Bed::new(&Shape::of(files), &Weather::default())?;
    let readers: &[usize] = bench.effort.pick(&[1, 4, 8], &[2]);
    if bench.wants_some(&NOOPEN)
        || bench.wants_some(&PUSHED)
        || bench.wants("small_push")
        || bench.wants_some(&STORMS)
    {
        noopen(bench, &bed, readers)?;
    }
    if bench.wants_some(&FRONTEND) {
        frontend(bench, &bed, readers)?;
    }
    if bench.wants_some(&MISS) {
        miss(bench, &bed, readers)?;
    }
    if bench.wants_some(&PASSED) {
        passed(bench, &bed, readers)?;
    }
    Ok(())
}

/// Files, by the room on the disk: they lie there twice, and other programs live there too.
fn how_many() -> anyhow::Result<usize> {
    let disk = nix::sys::statvfs::statvfs(&machine::target())?;
    if disk.blocks_available() * disk.fragment_size() >= 12 << 30 {
        return Ok(20_000);
    }
    eprintln!("less than 12 GiB are free: 10 000 files instead of 20 000");
    Ok(10_000)
}

fn noopen(bench: &mut Bench<'_>, bed: &Bed, readers: &[usize]) -> anyhow::Result<()> {
    let mut command = bed.mount_command().cache_size(&mib(cache_mib(bed))).options(&["--serve", "noopen"]);
    let pushes = can_push();
    if pushes {
        command = command.options(&["--page-cache-size", "8GiB"]);
    }
    let mount = bench.filled(bed, command)?;
    let sides = Sides::of(bed, &mount);
    bench.cases(&NOOPEN, &sides, readers)?;
    if pushes {
        bench.cases(&PUSHED, &sides, readers)?;
        push_costs(bench, &sides, &mount)?;
    } else {
        bench.skip("small_pushed", "this cachectl has no push");
    }
    bench.cases(&STORMS, &sides, &[bench.effort.pick(STORM.0, 2)])?;
    bench.results.on("");
    let rss = machine::rss_mib(mount.pid())?;
    bench.results.absolute(
        "small_warm",
        "rss",
        "MiB",
        &[rss],
        &format!("daemon, no-open, {} files", bed.files()),
    );
    finish(mount)
}

/// Whether this build can push.
pub fn can_push() -> bool {
    run_within(LIMIT, Command::new(program("cachectl")).args(["push", "--help"]))
        .is_ok_and(|said| said.status.success())
}

/// Pushes everything below `paths`.
pub fn push(paths: &[PathBuf]) -> anyhow::Result<()> {
    let said = run_within(LIMIT, Command::new(program("cachectl")).arg("push").args(paths))?;
    ensure!(said.status.success(), "cachectl push: {}{}", said.out, said.err);
    Ok(())
}

/// What the pushes themselves cost, out of a store on the disk.
fn push_costs(bench: &mut Bench<'_>, sides: &Sides<'_>, mount: &Mount) -> anyhow::Result<()> {
    if !bench.wants("small_push") {
        return Ok(());
    }
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    let files = sides.manifest.files.len() as f64;
    for _ in 0..bench.effort.pairs() {
        worker::forget_pages(sides.ours, sides.manifest)?;
        let (began, before) = (Instant::now(), used(mount.pid())?);
        push(&[sides.ours.to_owned()])?;
        times.push(began.elapsed().as_secs_f64() * 1e6 / files);
        cpu.push((used(mount.pid())?.cpu_s - before.cpu_s) * 1e6 / files);
    }
    bench.progress.clear();
    bench.results.on("");
    bench.results.absolute(
        "small_push",
        "us_per_file",
        "us",
        &times,
        "cachectl push of everything, store on the disk",
    );
    bench.results.absolute("small_push", "cpu_us_per_file", "us", &cpu, "daemon, reading the store included");
    Ok(())
}

/// A source in memory behind the same names and sizes; its bytes are not the files'.
fn frontend(bench: &mut Bench<'_>, bed: &Bed, readers: &[usize]) -> anyhow::Result<()> {
    let manifest = &bed.data_set.manifest;
    let longest = manifest.files.iter().map(|sample| sample.size_bytes).max().unwrap_or(0);
    let bytes = Bytes::from(vec![7; longest as usize]);
    let source = MemorySource::new();
    for sample in &manifest.files {
        source.add_file(&sample.path, bytes.slice(..sample.size_bytes as usize));
    }
    let mountpoint = bed.home().join("frontend");
    fs::create_dir_all(&mountpoint)?;
    let options = MountOptions::new(&mountpoint, "memory:");
    let mount = session::Mount::start(options, Arc::new(source))?;
    let sides = Sides {
        ours: &mountpoint,
        local: bed.data_set.directory.clone(),
        manifest,
        manifest_path: &bed.data_set.manifest_path,
        daemon: Daemon::Ourselves(mount.counts()),
    };
    worker::walk(sides.ours, manifest)?;
    for case in FRONTEND {
        for &count in readers {
            bench.case(&case, &sides, count)?;
        }
    }
    mount.unmount()?;
    Ok(())
}

fn miss(bench: &mut Bench<'_>, bed: &Bed, readers: &[usize]) -> anyhow::Result<()> {
    if let Some(reason) = bench.no_mounts.clone() {
        bench.skip("small_noopen_miss", &reason);
        return Ok(());
    }
    let disk = MemoryDisk::make(bed.home(), cache_mib(bed) << 20)?;
    bench.store_on = Some(disk.kind());
    let mut command = bed.mount_command().cache_size(&mib(cache_mib(bed))).options(&["--serve", "noopen"]);
    command.cache_dir = disk.path().join("cache");
    let mount = bench.filled(bed, command)?;
    bench.cases(&MISS, &Sides::of(bed, &mount), readers)?;
    bench.store_on = None;
    finish(mount)
}

fn passed(bench: &mut Bench<'_>, bed: &Bed, readers: &[usize]) -> anyhow::Result<()> {
    let command = bed.mount_command().cache_size(&mib(cache_mib(bed)));
    let command = command.options(&["--serve", "open", "--file-from", "0"]);
    let mount = bench.filled(bed, command)?;
    let before = machine::rss_mib(mount.pid())?;
    bench.cases(&PASSED, &Sides::of(bed, &mount), readers)?;
    bench.results.on("");
    let (after, ids) = (machine::rss_mib(mount.pid())?, mount.stats()?.figure("fuse_backing_ids"));
    let note = format!(
        "daemon, open mode, {} files, {ids} backing ids; {before:.0} MiB before the first",
        bed.files()
    );
    bench.results.absolute("small_passthrough", "rss", "MiB", &[after], &note);
    finish(mount)
}

/// A store that has room for all of `bed`.
pub fn cache_mib(bed: &Bed) -> u64 {
    (bed.data_set.manifest.total_bytes() >> 20) * 5 / 4 + 256
}

/// As the command line takes it.
pub fn mib(mib: u64) -> String {
    format!("{mib}MiB")
}

/// Unmounts, and makes room for the next.
pub fn finish(mount: Mount) -> anyhow::Result<()> {
    let cache = mount.cache_dir().to_owned();
    mount.unmount()?;
    Ok(fs::remove_dir_all(cache)?)
}
