//! Several jobs, and what disturbs one: no worse than without the planner?
//!
//! A cache of half of the data set, filled by an epoch, 5 ms away. Then
//!
//! - `jobs_two`: two jobs of four workers, side by side, two epochs each in orders of their own;
//! - `jobs_train_val`: an epoch of `train/` and a pass through `val/` in listing order, twice; a tenth of the files is in `val/`;
//! - `jobs_scan`: 30 % into an epoch one process begins to read everything in listing order; and the epoch after;
//! - `jobs_replacement`: three times as many draws with replacement as there are files;
//! - `jobs_killed`: a job is killed 40 % into its epoch, and another reads two epochs.
//!
//! Each against the same mount without the planner: LRU, nothing fetched ahead. Readers have the page cache forget each file that
//! they have read: memory is no second cache, of either side.

use std::fs;
use std::time::{Duration, Instant};

use epochcache_tests::bed::data_set::{Manifest, Shape};
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::reader::{EpochReport, Job, Readers, Reading, Sampler};
use epochcache_tests::bed::s3::Weather;

use super::{SMALL_SEGMENTS, away, stored_bytes, warm};
use crate::machine::{self, Forget};
use crate::pairs::{Pairs, alternate, median};
use crate::{Effort, Results};

const REFERENCE: &str = "--policy lru --prefetch off";
const WITHOUT: [&str; 4] = ["--policy", "lru", "--prefetch", "off"];

/// More than an epoch takes, unless something hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// A case: what is read once the store is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    Two,
    TrainVal,
    Scan,
    Replacement,
    Killed,
}

impl Case {
    const ALL: [Self; 5] = [Self::Two, Self::TrainVal, Self::Scan, Self::Replacement, Self::Killed];

    fn name(self) -> &'static str {
        match self {
            Self::Two => "jobs_two",
            Self::TrainVal => "jobs_train_val",
            Self::Scan => "jobs_scan",
            Self::Replacement => "jobs_replacement",
            Self::Killed => "jobs_killed",
        }
    }
}

/// All cases that are wanted.
pub fn run(effort: Effort, is_wanted: &dyn Fn(&str) -> bool, results: &mut Results) -> anyhow::Result<()> {
    let wanted: Vec<Case> = Case::ALL.into_iter().filter(|case| is_wanted(case.name())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let files = effort.pick(10_000, 5_000);
    let shape = Shape { classes: files / 20, validation: files / 10, ..Shape::of(files) };
    let bed = Bed::new(&shape, &Weather::default())?;
    wanted.into_iter().try_for_each(|case| measure(&bed, effort, case, results))
}

fn measure(bed: &Bed, effort: Effort, case: Case, results: &mut Results) -> anyhow::Result<()> {
    let name = case.name();
    let sample = |options: &[&str]| Side::new(bed, options, case)?.sample(case);
    let pairs = alternate(effort.pick(3, 1), || sample(&[]), || sample(&WITHOUT))?;
    let median_of = |of: fn(&(Sample, Sample)) -> f64| median(&pairs.iter().map(of).collect::<Vec<_>>());
    let note = format!(
        "at the server; the store kept {:.2} of the data set, {:.2} without",
        median_of(|pair| pair.0.kept),
        median_of(|pair| pair.1.kept),
    );
    let bytes = Pairs::of(&pairs, |sample| sample.fetched);
    results.pairs(name, "bytes", "a byte read", REFERENCE, &bytes, &note);
    let rates = Pairs::of(&pairs, |sample| sample.files_per_s);
    results.pairs(name, "files_per_s", "files/s", REFERENCE, &rates, "all readers together");
    Ok(())
}

/// What a case cost.
struct Sample {
    /// Bytes at the server for each byte read.
    fetched: f64,
    files_per_s: f64,
    /// The share of the data set that was stored in the end.
    kept: f64,
}

/// What was read.
#[derive(Clone, Copy, Default)]
struct Amount {
    files: u64,
    bytes: u64,
}

impl Amount {
    fn of(reports: &[EpochReport]) -> Self {
        let sum = |of: fn(&EpochReport) -> u64| reports.iter().map(of).sum();
        Self { files: sum(|report| report.files), bytes: sum(|report| report.bytes) }
    }
}

/// A mount with the planner, or without.
struct Side<'a> {
    bed: &'a Bed,
    mount: Mount,
}

impl<'a> Side<'a> {
    /// A mount whose store was filled by an epoch: of draws, if that is what will be read.
    fn new(bed: &'a Bed, options: &[&str], case: Case) -> anyhow::Result<Self> {
        bed.origin.set_weather(&away(5))?;
        let command = bed.mount_command();
        let _ = fs::remove_dir_all(&command.cache_dir);
        let size = (bed.data_set.manifest.total_bytes() / 2).to_string();
        let side =
            Self { bed, mount: command.cache_size(&size).options(options).options(&SMALL_SEGMENTS).start()? };
        let sampler = if case == Case::Replacement { Sampler::Replacement } else { Sampler::Shuffle };
        warm(bed)?;
        side.must_be_right(&[Readers::start(&Reading { sampler, ..side.reading() })?.epoch(1)?])?;
        side.mount.wait_until_stored()?;
        Ok(side)
    }

    fn sample(self, case: Case) -> anyhow::Result<Sample> {
        machine::forget(Forget::Pages)?;
        warm(self.bed)?;
        self.bed.origin.reset()?;
        let began = Instant::now();
        let amount = match case {
            Case::Two => self.two()?,
            Case::TrainVal => self.train_and_val()?,
            Case::Scan => self.scan()?,
            Case::Replacement => self.replacement()?,
            Case::Killed => self.killed()?,
        };
        let seconds = began.elapsed().as_secs_f64();
        let fetched = self.bed.origin.counters()?.get_bytes as f64 / amount.bytes as f64;
        let files = &self.bed.data_set.manifest.files;
        let all_bytes: u64 = files.iter().map(|file| stored_bytes(file.size_bytes)).sum();
        let kept = self.mount.stats()?.figure("store_live_bytes") as f64 / all_bytes as f64;
        self.mount.unmount()?;
        Ok(Sample { fetched, files_per_s: amount.files as f64 / seconds, kept })
    }

    fn reading(&self) -> Reading {
        Reading { forgets: true, ..self.bed.reading(self.mount.path()) }
    }

    fn two(&self) -> anyhow::Result<Amount> {
        let job = |seed| Job::start(&Reading { seed, workers: 4, ..self.reading() }, 1..=2);
        let jobs = [job(11)?, job(12)?];
        let reports = jobs.into_iter().map(Job::end).collect::<anyhow::Result<Vec<_>>>()?.concat();
        self.must_be_right(&reports)
    }

    fn train_and_val(&self) -> anyhow::Result<Amount> {
        let train = Reading { manifest: self.part("train/")?, ..self.reading() };
        let val = Reading { manifest: self.part("val/")?, sampler: Sampler::Listing, ..self.reading() };
        let (mut train, mut val) = (Readers::start(&train)?, Readers::start(&val)?);
        let mut amount = Amount::default();
        for epoch in 2..=3 {
            for report in [train.epoch(epoch)?, val.epoch(epoch)?] {
                report.must_be_right(report.files as usize)?;
                amount = Amount { files: amount.files + report.files, bytes: amount.bytes + report.bytes };
            }
        }
        Ok(amount)
    }

    /// A manifest of the files under `directory`.
    fn part(&self, directory: &str) -> anyhow::Result<std::path::PathBuf> {
        let path = self.bed.home().join(directory.replace('/', ".jsonl"));
        let files = self.bed.data_set.manifest.files.iter().filter(|file| file.path.starts_with(directory));
        Manifest { files: files.cloned().collect() }.save(&path)?;
        Ok(path)
    }

    fn scan(&self) -> anyhow::Result<Amount> {
        let mut readers = Readers::start(&self.reading())?;
        let running = readers.begin(2)?;
        self.wait_for(0.3)?;
        let scan = Job::start(&Reading { sampler: Sampler::Listing, workers: 0, ..self.reading() }, 1..=1)?;
        let mut reports = vec![running.end()?];
        reports.push(readers.epoch(3)?);
        reports.extend(scan.end()?);
        self.must_be_right(&reports)
    }

    fn replacement(&self) -> anyhow::Result<Amount> {
        let reading = Reading { sampler: Sampler::Replacement, ..self.reading() };
        let mut readers = Readers::start(&reading)?;
        let reports = (2..=4).map(|epoch| readers.epoch(epoch)).collect::<anyhow::Result<Vec<_>>>()?;
        self.must_be_right(&reports)
    }

    fn killed(&self) -> anyhow::Result<Amount> {
        let job = Job::start(&Reading { seed: 21, ..self.reading() }, 1..=1)?;
        let bytes = self.wait_for(0.4)?;
        job.kill();
        let all = self.bed.data_set.manifest.total_bytes();
        let files = (self.bed.files() as f64 * bytes as f64 / all as f64) as u64;
        let after = Job::start(&Reading { seed: 22, ..self.reading() }, 1..=2)?.end()?;
        let after = self.must_be_right(&after)?;
        Ok(Amount { files: files + after.files, bytes: bytes + after.bytes })
    }

    /// Waits until so much of the data set was read from now on; how many bytes that were.
    fn wait_for(&self, share: f64) -> anyhow::Result<u64> {
        let wanted = (self.bed.data_set.manifest.total_bytes() as f64 * share) as u64;
        let before = self.mount.stats()?;
        let mut read = 0;
        wait_until(LIMIT, "a part of an epoch is read", || {
            read = self.mount.stats()?.grown(&before, "fuse_read_bytes");
            Ok(read >= wanted)
        })?;
        Ok(read)
    }

    /// What was read, if every epoch was whole and every byte right.
    fn must_be_right(&self, reports: &[EpochReport]) -> anyhow::Result<Amount> {
        reports.iter().try_for_each(|report| report.must_be_right(self.bed.files()))?;
        Ok(Amount::of(reports))
    }
}
