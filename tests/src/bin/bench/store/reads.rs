//! Reads: the store's against fio's, of the same length, at the same depth, from the same place.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use cache_daemon::checksum;
use cache_daemon::io::BufferPool;
use cache_daemon::store::record::BLOCK_BYTES;

use super::Bench;
use super::fio::{Job, Pattern};
use super::load::{Filled, Order, Plan};
use super::media::Medium;
use super::objects::{Objects, scrambled};
use crate::pairs::{Pairs, alternate, median};

/// Runs are short and many: what else happens on the machine comes in bursts.
const PAIRS_FACTOR: usize = 2;

/// Reads whose checksum is measured, in each run.
const HASHED: usize = 400;

/// One case.
struct Case {
    name: &'static str,
    object_bytes: u64,
    piece_bytes: Option<u32>,
    random: bool,
    depth: usize,
    /// Bytes of data that a run reads.
    run_bytes: u64,
}

/// By the objects that they read: a store is filled once for each kind.
const CASES: [Case; 6] = [
    Case { name: "rand110k_qd1", run_bytes: 512 << 20, depth: 1, ..RAND },
    Case { name: "rand110k_qd8", depth: 8, ..RAND },
    Case { name: "rand110k_qd32", depth: 32, ..RAND },
    Case { name: "seq128k", object_bytes: 128 << 10, random: false, depth: 8, ..RAND },
    Case { name: "seq1m", ..LARGE },
    Case { name: "part128k", piece_bytes: Some(128 << 10), ..LARGE },
];

const RAND: Case =
    Case { name: "", object_bytes: 110 << 10, piece_bytes: None, random: true, depth: 0, run_bytes: 1 << 30 };

const LARGE: Case = Case { object_bytes: 1 << 20, random: false, depth: 8, ..RAND };

/// What one side did.
#[derive(Clone, Copy, Debug)]
struct Sample {
    mib_per_s: f64,
    cpu_us: f64,
    /// Without what the checksum took, which fio has none of.
    unchecked_cpu_us: f64,
}

/// The names of the cases.
pub fn names() -> Vec<&'static str> {
    CASES.iter().map(|case| case.name).collect()
}

/// Measures them on `medium`.
pub fn run(bench: &mut Bench<'_>, medium: &Medium) -> anyhow::Result<()> {
    let mut filled: Option<Filled> = None;
    for case in &CASES {
        if !bench.begins(case.name)? {
            continue;
        }
        if filled.as_ref().is_none_or(|filled| filled.objects.object_bytes(0) != case.object_bytes) {
            filled.take().map_or(Ok(()), Filled::clear)?;
            bench.progress.say(&format!("{}: filling for {}", medium.name(), case.name));
            let total = bench.effort.pick(2 << 30, 96 << 20);
            let objects = Arc::new(Objects::equal(case.object_bytes, total));
            let fresh = Filled::open(medium.spot("reads")?, objects, u64::MAX)?;
            fresh.fill(&bench.stop)?;
            fresh.check(&bench.stop)?;
            filled = Some(fresh);
        }
        if let Some(filled) = &filled {
            case.run(bench, medium, filled)?;
        }
    }
    filled.map_or(Ok(()), Filled::clear)
}

impl Case {
    fn run(&self, bench: &mut Bench<'_>, medium: &Medium, filled: &Filled) -> anyhow::Result<()> {
        let data_bytes = self.piece_bytes.map_or(self.object_bytes, u64::from);
        // Parts are what a reader gets; what the device gives for them is ours to keep small.
        let block_bytes = if self.piece_bytes.is_some() { data_bytes } else { filled.device_bytes(None) };
        let reads = bench.effort.pick(self.run_bytes, 32 << 20) / data_bytes;
        let (stop, progress, name) = (&bench.stop, &mut bench.progress, medium.name());
        let hashed = bench.effort.pick(HASHED, 20);
        let checksums = RefCell::new(Vec::new());
        let mut round = 0;
        let ours = |seed| -> anyhow::Result<Sample> {
            let order = if self.random { Order::Random { seed } } else { Order::Stored };
            let plan = Plan { order, piece_bytes: self.piece_bytes, depth: self.depth as u64, reads };
            let took = filled.read(&plan, false, stop)?;
            let checksum_us = checksum_us(filled, block_bytes, hashed)?;
            checksums.borrow_mut().push(checksum_us);
            Ok(Sample::of(reads, block_bytes, took.seconds, took.cpu_s).without(checksum_us))
        };
        let fio = |seed| -> anyhow::Result<Sample> {
            let pattern = if self.random { Pattern::RandomRead { seed } } else { Pattern::Read };
            let region = filled.region();
            let total_bytes = reads * block_bytes;
            let job = Job { region, pattern, block_bytes, depth: self.depth, total_bytes };
            let measured = job.run(stop)?;
            Ok(Sample::of(measured.operations, block_bytes, measured.seconds, measured.cpu_s))
        };
        let rounds = RefCell::new(move || {
            round += 1;
            progress.say(&format!("{name}: {}, run {round}", self.name));
            round
        });
        let next = || (rounds.borrow_mut())();
        let samples = alternate(bench.effort.pairs() * PAIRS_FACTOR, || ours(next()), || fio(next()))?;
        bench.progress.clear();
        let (kib, depth, caveat) = (block_bytes >> 10, self.depth, filled.caveat());
        let note = format!("{}; {reads} reads of {kib} KiB at depth {depth}{caveat}", medium.describe());
        self.report(bench, &samples, &note, median(&checksums.take()));
        Ok(())
    }

    fn report(&self, bench: &mut Bench<'_>, samples: &[(Sample, Sample)], note: &str, checksum_us: f64) {
        let mut row = |metric, unit, value: fn(&Sample) -> f64, note: &str| {
            bench.results.pairs(self.name, metric, unit, "fio", &Pairs::of(samples, value), note);
        };
        row("throughput", "MiB/s", |sample| sample.mib_per_s, note);
        row("cpu_us_per_read", "us", |sample| sample.cpu_us, "with the checksum");
        let note = format!(
            "without {checksum_us:.1} us for the checksum, measured on bytes just read with O_DIRECT"
        );
        row("cpu_us_per_read_unchecked", "us", |sample| sample.unchecked_cpu_us, &note);
    }
}

impl Sample {
    fn of(operations: u64, block_bytes: u64, seconds: f64, cpu_s: f64) -> Self {
        let mib = (operations * block_bytes) as f64 / f64::from(1 << 20);
        let cpu_us = cpu_s * 1e6 / operations as f64;
        Self { mib_per_s: mib / seconds, cpu_us, unchecked_cpu_us: cpu_us }
    }

    fn without(self, checksum_us: f64) -> Self {
        Self { unchecked_cpu_us: self.cpu_us - checksum_us, ..self }
    }
}

/// What the checksum of one read costs: of bytes that the device has just brought, which no cache of this CPU need
/// have, in blocks as the store does it. The median, because others run here too.
fn checksum_us(filled: &Filled, bytes: u64, count: usize) -> anyhow::Result<f64> {
    let region = filled.region();
    let file: File = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECT).open(region.path)?;
    let pool = BufferPool::new(32, bytes as usize)?;
    let mut buffers = Vec::new();
    while let Some(buffer) = pool.take() {
        buffers.push(buffer);
    }
    let mut took_us = Vec::new();
    for number in 0..count {
        let buffer = &mut buffers[number % 32];
        let pages = (region.bytes - bytes) / 4096;
        let at = region.start + scrambled(number as u64) % pages * 4096;
        file.read_exact_at(buffer, at)?;
        let began = Instant::now();
        let sum = buffer.chunks(BLOCK_BYTES).fold(0, |sum, block| sum ^ checksum::crc32c(block));
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
        ensure!(std::hint::black_box(sum) != 1, "as likely as not at all");
    }
    Ok(median(&took_us))
}
