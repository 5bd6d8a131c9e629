//! The control: a file for each object instead of extents in segments, by size. Where they cross is the threshold.
//!
//! Both sides are the store: with `file_from` at 1 and out of reach. On XFS, because each run removes its files and
//! the next one makes as many: ext4 without a journal then looks for inodes that were not deleted lately, one by one
//! (Linux fs/ext4/ialloc.c, `recently_deleted`), which cost five times what is to be measured.

use std::sync::Arc;

use super::Bench;
use super::load::{Filled, Order, Plan};
use super::media::Medium;
use super::objects::Objects;
use crate::pairs::{Pairs, alternate};

/// Sizes, by the names of their cases.
const CASES: [(&str, u64); 7] = [
    ("file110k", 110 << 10),
    ("file256k", 256 << 10),
    ("file512k", 512 << 10),
    ("file1m", 1 << 20),
    ("file2m", 2 << 20),
    ("file4m", 4 << 20),
    ("file8m", 8 << 20),
];

/// Where they are measured.
pub const MEDIUM: &str = "xfs";

/// Each costs two syncs on the side of the files.
const OBJECTS_MAX: u64 = 1000;

/// Chunks in flight in reads.
const DEPTH: u64 = 8;

const REFERENCE: &str = "segments";

/// What one side did.
#[derive(Clone, Copy, Debug)]
struct Sample {
    fill_mib_per_s: f64,
    fill_cpu_us: f64,
    read_mib_per_s: f64,
    read_cpu_us: f64,
}

/// The names of the cases.
pub fn names() -> Vec<&'static str> {
    CASES.iter().map(|(name, _)| *name).collect()
}

/// Measures them on `medium`, which has directories.
pub fn run(bench: &mut Bench<'_>, medium: &Medium) -> anyhow::Result<()> {
    for (name, object_bytes) in CASES {
        if !bench.begins(name)? {
            continue;
        }
        let total = bench.effort.pick(512 << 20, 32 << 20).min(OBJECTS_MAX * object_bytes);
        let objects = Arc::new(Objects::equal(object_bytes, total));
        let (stop, progress) = (bench.stop.clone(), &mut bench.progress);
        let mut number = 0;
        let mut side = |file_from| -> anyhow::Result<Sample> {
            number += 1;
            progress.say(&format!("{}: {name}, run {number}", medium.name()));
            let filled = Filled::open(medium.spot("files")?, objects.clone(), file_from)?;
            let sample = Sample::take(&filled, number, &stop)?;
            filled.clear()?;
            Ok(sample)
        };
        let sides = std::cell::RefCell::new(&mut side);
        let samples =
            alternate(bench.effort.pairs(), || (sides.borrow_mut())(1), || (sides.borrow_mut())(u64::MAX))?;
        bench.progress.clear();
        report(bench, name, &format!("{} objects", objects.objects()), &samples);
    }
    Ok(())
}

fn report(bench: &mut Bench<'_>, case: &str, what: &str, samples: &[(Sample, Sample)]) {
    let fill = Pairs::of(samples, |sample| sample.fill_mib_per_s);
    bench.results.pairs(case, "fill_throughput", "MiB/s", REFERENCE, &fill, what);
    let fill_cpu = Pairs::of(samples, |sample| sample.fill_cpu_us);
    bench.results.pairs(case, "fill_cpu_us_per_object", "us", REFERENCE, &fill_cpu, "");
    let note = format!("whole objects in any order, {DEPTH} chunks in flight");
    let read = Pairs::of(samples, |sample| sample.read_mib_per_s);
    bench.results.pairs(case, "read_throughput", "MiB/s", REFERENCE, &read, &note);
    let read_cpu = Pairs::of(samples, |sample| sample.read_cpu_us);
    bench.results.pairs(case, "read_cpu_us_per_object", "us", REFERENCE, &read_cpu, "");
}

impl Sample {
    fn take(filled: &Filled, seed: u64, stop: &super::Stop) -> anyhow::Result<Self> {
        let objects = &filled.objects;
        let (count, mib) = (objects.objects() as f64, objects.data_bytes() as f64 / f64::from(1 << 20));
        let fill = filled.fill(stop)?;
        filled.check(stop)?;
        let plan =
            Plan { order: Order::Random { seed }, piece_bytes: None, depth: DEPTH, reads: objects.items() };
        let read = filled.read(&plan, false, stop)?;
        Ok(Self {
            fill_mib_per_s: mib / fill.seconds,
            fill_cpu_us: fill.cpu_s * 1e6 / count,
            read_mib_per_s: mib / read.seconds,
            read_cpu_us: read.cpu_s * 1e6 / count,
        })
    }
}
