//! A reader as training is: worker processes, a fresh permutation each epoch, every byte checked.
//!
//! [`Readers`] starts the program `reader` once for each worker and keeps it for all epochs, as a
//! DataLoader with persistent workers does. An epoch's number goes to every worker's standard input;
//! one line of JSON comes back from each. `worker` is the other end, `access` the ways to read a file. A [`Job`] is a
//! job that nobody takes for a part of the one that started it, and that can be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::programs::program;

mod access;
mod direct;
mod job;
mod worker;

pub use access::Access;
pub use job::Job;
pub use worker::{Share, permutation, work};

/// In which order an epoch reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sampler {
    /// A fresh permutation each epoch.
    #[default]
    Shuffle,
    /// The order of a walk, as `find` and `cp -r` read.
    Listing,
    /// As many draws with replacement as there are files.
    Replacement,
}

impl Sampler {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffle => "shuffle",
            Self::Listing => "listing",
            Self::Replacement => "replacement",
        }
    }
}

/// What is to be read, and how.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The directory of the data set: a mount, or a local copy.
    pub root: PathBuf,
    /// Its manifest.
    pub manifest: PathBuf,
    /// Worker processes.
    pub workers: usize,
    /// What the orders follow from.
    pub seed: u64,
    /// In which order.
    pub sampler: Sampler,
    /// Ranks that each epoch's order is dealt to in turn.
    pub ranks: usize,
    /// Which of them this is, from 0: it reads its own part only.
    pub rank: usize,
    /// How a file is read.
    pub access: Access,
    /// Whether bytes are checked: outside of a file's latency, inside of the epoch's time.
    pub check: bool,
    /// Whether the page cache forgets each file when it was read, so that it is no second cache.
    pub forgets: bool,
    /// Files a second, all workers together, each file at its time; none: as fast as it goes.
    pub files_per_s: Option<f64>,
}

impl Reading {
    /// Eight workers that read(2) and check everything.
    pub fn new(root: impl Into<PathBuf>, manifest: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            manifest: manifest.into(),
            workers: 8,
            seed: 1,
            sampler: Sampler::Shuffle,
            ranks: 1,
            rank: 0,
            access: Access::Read,
            check: true,
            forgets: false,
            files_per_s: None,
        }
    }

    /// The same, with each file at its time, so many a second.
    pub fn paced(mut self, files_per_s: f64) -> Self {
        self.files_per_s = Some(files_per_s);
        self
    }

    /// The same with another way to read.
    pub fn with(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The program that reads so.
    fn command(&self) -> Command {
        let mut command = Command::new(program("reader"));
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--manifest")
            .arg(&self.manifest)
            .args(["--mode", self.access.name()])
            .args(["--sampler", self.sampler.name()])
            .args(["--seed", &self.seed.to_string()])
            .args(["--workers", &self.workers.to_string()])
            .args(["--ranks", &self.ranks.to_string()])
            .args(["--rank", &self.rank.to_string()])
            .args((!self.check).then_some("--unchecked"))
            .args(self.forgets.then_some("--forget"))
            .args(self.files_per_s.map(|files_per_s| format!("--files-per-s={files_per_s}")));
        command
    }
}

/// How an epoch went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Its number.
    pub epoch: u64,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// From the start to the last worker's end.
    pub seconds: f64,
    /// Files a second.
    pub files_per_s: f64,
    /// MiB a second.
    pub mib_per_s: f64,
    /// Median time for a file: open, fstat, read to the end, close.
    pub p50_us: u64,
    /// 99th percentile of it.
    pub p99_us: u64,
    /// Bytes that were not what they must be.
    pub wrong_bytes: u64,
    /// Files that could not be read.
    pub errors: u64,
    /// The first of the errors.
    pub first_error: Option<String>,
}

impl EpochReport {
    /// Puts the workers' shares of an epoch together.
    pub fn merge(epoch: u64, seconds: f64, shares: Vec<Share>) -> Self {
        let mut report = Self { epoch, seconds, ..Self::default() };
        let mut latencies_us = Vec::new();
        for share in shares {
            report.files += share.latencies_us.len() as u64;
            report.bytes += share.bytes;
            report.wrong_bytes += share.wrong_bytes;
            report.errors += share.errors;
            report.first_error = report.first_error.or(share.first_error);
            latencies_us.extend(share.latencies_us);
        }
        latencies_us.sort_unstable();
        let at = |share: f64| {
            let rank = (latencies_us.len() as f64 * share).ceil() as usize;
            latencies_us.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        (report.p50_us, report.p99_us) = (at(0.5), at(0.99));
        report.files_per_s = report.files as f64 / seconds;
        report.mib_per_s = report.bytes as f64 / f64::from(1 << 20) / seconds;
        report
    }

    /// Fails unless all `files` files were read without an error or a wrong byte.
    pub fn must_be_right(&self, files: usize) -> anyhow::Result<()> {
        ensure!(
            self.wrong_bytes == 0 && self.errors == 0 && self.files == files as u64,
            "epoch {}: {} of {files} files, {} wrong bytes, {} errors, first: {:?}",
            self.epoch,
            self.files,
            self.wrong_bytes,
            self.errors,
            self.first_error
        );
        Ok(())
    }
}

/// Running workers; killed when dropped.
#[derive(Debug)]
pub struct Readers {
    workers: Vec<WorkerProcess>,
}

#[derive(Debug)]
struct WorkerProcess {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Readers {
    /// Starts the workers; returns when all have read the manifest.
    pub fn start(reading: &Reading) -> anyhow::Result<Self> {
        let workers = (0..reading.workers).map(|number| WorkerProcess::start(reading, number));
        let mut readers = Self { workers: workers.collect::<anyhow::Result<_>>()? };
        for worker in &mut readers.workers {
            worker.line().context("a reader does not start")?;
        }
        Ok(readers)
    }

    /// Reads the whole data set once, or the rank's part of it, in the order of `epoch`.
    pub fn epoch(&mut self, epoch: u64) -> anyhow::Result<EpochReport> {
        self.begin(epoch)?.end()
    }

    /// Starts an epoch, and lets the caller do something meanwhile.
    pub fn begin(&mut self, epoch: u64) -> anyhow::Result<RunningEpoch<'_>> {
        let began = Instant::now();
        for worker in &mut self.workers {
            writeln!(worker.orders, "{epoch}").context("a reader is gone")?;
        }
        Ok(RunningEpoch { readers: self, epoch, began })
    }
}

/// An epoch that is being read.
#[derive(Debug)]
pub struct RunningEpoch<'a> {
    readers: &'a mut Readers,
    epoch: u64,
    began: Instant,
}

impl RunningEpoch<'_> {
    /// Waits for its end.
    pub fn end(self) -> anyhow::Result<EpochReport> {
        let shares = self.readers.workers.iter_mut().map(|worker| {
            let line = worker.line()?;
            serde_json::from_str::<Share>(&line).with_context(|| format!("a reader ended: {line:?}"))
        });
        let shares = shares.collect::<anyhow::Result<_>>()?;
        Ok(EpochReport::merge(self.epoch, self.began.elapsed().as_secs_f64(), shares))
    }
}

impl WorkerProcess {
    fn start(reading: &Reading, number: usize) -> anyhow::Result<Self> {
        let mut command = reading.command();
        command.args(["--worker", &number.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
        let orders = child.stdin.take().expect("it is piped");
        let reports = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, orders, reports })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.reports.read_line(&mut line)? > 0, "a reader ended early: {:?}", self.child.try_wait());
        Ok(line)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
        }
        for worker in &mut self.workers {
            let _ = worker.child.wait();
        }
    }
}

/// Reads a data set once in this process, without workers: for static test machines and quick checks.
pub fn read_here(reading: &Reading, epoch: u64) -> anyhow::Result<EpochReport> {
    let manifest = super::data_set::Manifest::load(&reading.manifest)?;
    let began = Instant::now();
    let share = worker::read_share(&Reading { workers: 1, ..reading.clone() }, &manifest, 0, epoch)?;
    Ok(EpochReport::merge(epoch, began.elapsed().as_secs_f64(), vec![share]))
}
