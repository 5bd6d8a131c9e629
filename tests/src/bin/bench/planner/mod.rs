//! `planner`: what recognising epochs does for a training job.
//!
//! A real mount and a server in a process of its own, behind a link of 125 MiB/s (a gigabit) and some delay; eight
//! workers. First epochs of empty caches in `cold`, a cache that holds half of the data set in `half`, and one that holds all
//! of it in `full`. What policies hit, beside what theory and the simulator say, in `theory`; several jobs, and what disturbs
//! one, in `jobs`; ranks with a cache each in `ranks`.

use std::fs;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::reader::permutation;
use epochcache_tests::bed::s3::Weather;

use cache_daemon::object::CHUNK_BYTES;
use cache_daemon::store::layout::extent_bytes;

use crate::{Effort, Results};

mod cold;
mod full;
mod half;
mod jobs;
mod ranks;
mod simulated;
mod theory;

const LINK_BYTES_PER_S: u64 = 125 << 20;

/// Segments so small that a cache of some hundred MiB has as many as one of some ten GiB: one of them is always open and one in
/// reserve, which of eight is a quarter.
const SMALL_SEGMENTS: [&str; 2] = ["--segment-size", "4MiB"];

/// Measures all cases whose names begin with one of `cases`, if there are any.
pub fn run(effort: Effort, cases: &[String], results: &mut Results) -> anyhow::Result<()> {
    let is_wanted = |part: &str| {
        let belongs = |case: &String| case.starts_with(part) || part.starts_with(case.as_str());
        cases.is_empty() || cases.iter().any(belongs)
    };
    if is_wanted("cold") {
        // Twenty seconds of the link.
        cold::run(&bed(effort, 23_000)?, effort, results)?;
    }
    if is_wanted("half") || is_wanted("full") {
        let bed = bed(effort, 23_000)?;
        if is_wanted("half") {
            half::run(&bed, effort, results)?;
        }
        if is_wanted("full") {
            full::run(&bed, effort, results)?;
        }
    }
    theory::run(effort, &is_wanted, results)?;
    jobs::run(effort, &is_wanted, results)?;
    if is_wanted("ranks_told") {
        ranks::run(effort, results)?;
    }
    Ok(())
}

/// What an object takes in the store.
fn stored_bytes(size_bytes: u64) -> u64 {
    let (whole, rest) = (size_bytes / CHUNK_BYTES, (size_bytes % CHUNK_BYTES) as u32);
    let rest = if rest == 0 { 0 } else { extent_bytes(rest) };
    whole * u64::from(extent_bytes(CHUNK_BYTES as u32)) + u64::from(rest)
}

fn bed(effort: Effort, files: usize) -> anyhow::Result<Bed> {
    let files = effort.pick(files, 4_000);
    Bed::new(&Shape { classes: files / 20, ..Shape::of(files) }, &Weather::default())
}

/// The link, and so many milliseconds to a request's first byte.
fn away(delay_ms: u64) -> Weather {
    Weather { delay_ms, bytes_per_s: LINK_BYTES_PER_S, ..Weather::default() }
}

/// Reads what the server serves, so that it lies in the page cache: the server's own disk is not what is measured.
fn warm(bed: &Bed) -> anyhow::Result<()> {
    for file in &bed.data_set.manifest.files {
        fs::read(bed.data_set.directory.join(&file.path))?;
    }
    Ok(())
}

/// Tells the order of an epoch as a training script does.
fn tell(bed: &Bed, mount: &Mount, epoch: u64) -> anyhow::Result<()> {
    let files = &bed.data_set.manifest.files;
    let order = permutation(files.len(), 1, epoch);
    let text: String = order.map(|at| format!("{}\n", files[at].path)).collect();
    Ok(fs::write(mount.path().join(".epochcache/order"), text)?)
}
