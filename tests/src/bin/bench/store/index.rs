//! The index: what a lookup takes and an extent costs in memory; checkpoints, and opening with one and without.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use cache_daemon::index::measure_lookups;
use cache_daemon::store::{OpenReport, Store, StoreConfig};

use super::Bench;
use super::load::Filled;
use super::media::{Medium, Spot};
use super::objects::Objects;
use crate::machine::{self, Forget};

/// The names of the cases.
pub const NAMES: [&str; 2] = ["index", "recovery"];

/// Where it is measured.
pub const MEDIUM: &str = "ext4";

/// Data of each object of `recovery`: with its header a page on disk.
const OBJECT_BYTES: u64 = 3900;

/// What the keeping of two checkpoints needs of the limit for an extent, as in [`StoreConfig::checkpoint_bytes`],
/// and for its share of what is in a checkpoint besides.
const LIMIT_BYTES_EACH: u64 = 128 * 2 * 38;

/// Measures them; stores go to `medium`.
pub fn run(bench: &mut Bench<'_>, medium: &Medium) -> anyhow::Result<()> {
    if bench.begins("index")? {
        lookups(bench);
    }
    if bench.begins("recovery")? {
        recovery(bench, medium)?;
    }
    Ok(())
}

fn lookups(bench: &mut Bench<'_>) {
    let extents = bench.effort.pick(10_000_000, 100_000);
    let (mut hit, mut miss, mut insert, mut bytes) = (vec![], vec![], vec![], vec![]);
    for run in 0..bench.effort.pairs() {
        bench.progress.say(&format!("index: run {run}"));
        let measured = measure_lookups(extents, extents);
        hit.push(measured.hit_ns);
        miss.push(measured.miss_ns);
        insert.push(measured.insert_ns);
        bytes.push(measured.memory_bytes as f64 / extents as f64);
    }
    bench.progress.clear();
    let note =
        format!("{extents} extents, independent keys in random order, one thread; huge pages asked for");
    bench.results.absolute("index", "hit_ns", "ns", &hit, &note);
    bench.results.absolute("index", "miss_ns", "ns", &miss, "");
    bench.results.absolute("index", "insert_ns", "ns", &insert, "");
    bench.results.absolute("index", "bytes_per_extent", "bytes", &bytes, "");
}

fn recovery(bench: &mut Bench<'_>, medium: &Medium) -> anyhow::Result<()> {
    let count = bench.effort.pick(1_000_000, 10_000);
    bench.progress.say(&format!("recovery: storing {count} objects"));
    let objects = Arc::new(Objects::equal(OBJECT_BYTES, count * (OBJECT_BYTES + 4096)));
    let extents = objects.items();
    let spot = medium.spot("recovery")?;
    let config = StoreConfig {
        checkpoint_interval: None,
        file_from: u64::MAX,
        ..StoreConfig::new(
            vec![spot.place.clone()],
            spot.state_dir.clone(),
            (extents * LIMIT_BYTES_EACH).max(512 << 20),
        )
    };
    let (store, _) = Store::open(config.clone(), Arc::default())?;
    let filled = Filled::of(store, spot.clone(), objects);
    filled.fill(&bench.stop)?;
    let mut wrote = Vec::new();
    for _ in 0..bench.effort.pairs() {
        let began = Instant::now();
        filled.sync()?;
        wrote.push(began.elapsed().as_secs_f64());
    }
    drop(filled);
    let mut opened = Vec::new();
    for number in 0..bench.effort.pairs() {
        bench.stop.check()?;
        bench.progress.say(&format!("recovery: from the checkpoint, run {number}"));
        let (seconds, report) = open(&config)?;
        ensure!(report.from_checkpoint && report.extents == extents, "not from the checkpoint: {report:?}");
        opened.push(seconds);
    }
    let mut walked = Vec::new();
    for number in 0..2 {
        bench.stop.check()?;
        bench.progress.say(&format!("recovery: from headers, run {number}"));
        forget_checkpoint(&spot)?;
        let (seconds, report) = open(&config)?;
        ensure!(!report.from_checkpoint && report.extents == extents, "not from headers: {report:?}");
        walked.push(seconds);
    }
    spot.clear()?;
    bench.progress.clear();
    let note = format!("{extents} extents");
    bench.results.absolute("recovery", "checkpoint_write", "s", &wrote, &note);
    let note = format!("{note}, page cache dropped, until the store answers");
    bench.results.absolute("recovery", "open_checkpoint", "s", &opened, &note);
    let note = format!("{note}; a page of {extents} extents of a page each, which is all of the data");
    bench.results.absolute("recovery", "open_headers", "s", &walked, &note);
    Ok(())
}

/// Opens the store and closes it again: seconds until it was open.
fn open(config: &StoreConfig) -> anyhow::Result<(f64, OpenReport)> {
    if nix::unistd::geteuid().is_root() {
        machine::forget(Forget::Pages)?;
    }
    let began = Instant::now();
    let (store, report) = Store::open(config.clone(), Arc::default())?;
    let seconds = began.elapsed().as_secs_f64();
    store.close();
    Ok((seconds, report))
}

fn forget_checkpoint(spot: &Spot) -> anyhow::Result<()> {
    for entry in fs::read_dir(&spot.state_dir).context("the state directory")? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
