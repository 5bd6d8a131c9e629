//! Fills: appends of whole objects until all are durable, against fio's sequential O_DIRECT write of as many bytes.

use std::sync::Arc;

use super::Bench;
use super::fio::{Job, Pattern, Region};
use super::load::Filled;
use super::media::Medium;
use super::objects::Objects;
use crate::pairs::{Pairs, alternate};

/// fio writes in blocks of so many bytes: as long as a batch of the store.
const BLOCK_BYTES: u64 = 1 << 20;

/// As many writes in flight as the store has.
const DEPTH: usize = 16;

/// What one side did. fio's CPU is that of one thread, and where it has blocks allocated that is not all.
#[derive(Clone, Copy, Debug)]
struct Sample {
    mib_per_s: f64,
    cpu_us: f64,
}

/// The names of the cases.
pub fn names() -> Vec<&'static str> {
    vec!["fill110k", "fill_random"]
}

/// Measures them on `medium`.
pub fn run(bench: &mut Bench<'_>, medium: &Medium) -> anyhow::Result<()> {
    let total = bench.effort.pick(2 << 30, 64 << 20);
    if bench.begins("fill110k")? {
        let note = "objects of 110 KiB";
        fill(bench, medium, "fill110k", note, &Arc::new(Objects::equal(110 << 10, total)))?;
    }
    if bench.begins("fill_random")? {
        let note = "objects of random sizes, lognormal, mean 110 KiB";
        fill(bench, medium, "fill_random", note, &Arc::new(Objects::random(total)))?;
    }
    Ok(())
}

fn fill(
    bench: &mut Bench<'_>,
    medium: &Medium,
    case: &str,
    what: &str,
    objects: &Arc<Objects>,
) -> anyhow::Result<()> {
    let (stop, progress) = (&bench.stop, &mut bench.progress);
    let mut checked = false;
    let total_bytes = objects.extent_bytes().next_multiple_of(BLOCK_BYTES);
    let mib = objects.extent_bytes() as f64 / f64::from(1 << 20);
    let mut caveat = String::new();
    let mut number = 0;
    let samples = alternate(
        bench.effort.pairs(),
        || {
            number += 1;
            progress.say(&format!("{}: {case}, pair {number}", medium.name()));
            let filled = Filled::open(medium.spot("fill")?, objects.clone(), u64::MAX)?;
            let took = filled.fill(stop)?;
            if !std::mem::replace(&mut checked, true) {
                filled.check(stop)?;
            }
            filled.caveat().clone_into(&mut caveat);
            filled.clear()?;
            let cpu_us = took.cpu_s * 1e6 / objects.items() as f64;
            Ok(Sample { mib_per_s: mib / took.seconds, cpu_us })
        },
        || {
            let path = medium.for_fio()?;
            let region = Region { path: &path, start: 0, bytes: total_bytes };
            let job =
                Job { region, pattern: Pattern::Write, block_bytes: BLOCK_BYTES, depth: DEPTH, total_bytes };
            let measured = job.run(stop)?;
            medium.for_fio()?;
            let written = measured.bytes as f64 / f64::from(1 << 20);
            Ok(Sample { mib_per_s: written / measured.seconds, cpu_us: f64::NAN })
        },
    )?;
    bench.progress.clear();
    let note = format!(
        "{}; {what}, {mib:.0} MiB, synced at the end; fio in blocks of 1 MiB{caveat}",
        medium.describe()
    );
    let throughput = Pairs::of(&samples, |sample| sample.mib_per_s);
    bench.results.pairs(case, "throughput", "MiB/s", "fio", &throughput, &note);
    let cpu = Pairs::of(&samples, |sample| sample.cpu_us).ours();
    bench.results.absolute(case, "cpu_us_per_object", "us", &cpu, "user and kernel");
    Ok(())
}
