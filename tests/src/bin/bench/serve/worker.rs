//! A reading process: this program again, told over its standard input what to read, and how.
//!
//! Two lines each way: an [`Order`], which is prepared, then an empty line, upon which the reading begins; back comes an empty line
//! when all is prepared, then [`Read`], with the CPU and the context switches that the reading took by the kernel's own account of this process.

use std::fs::{self, File};
use std::io::{self, BufRead, Read as _, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use epochcache_tests::bed::data_set::{Manifest, Sample};
use memmap2::Mmap;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// The name of the benchmark that is a worker.
pub const NAME: &str = "serve-worker";

/// Bytes of a sequential read(2), and of a copy out of a mapping.
const SEQUENTIAL_BYTES: usize = 1 << 20;

/// Bytes of a scattered one.
const RANDOM_BYTES: usize = 128 << 10;

/// What is read, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Whole files in random order: open, fstat, read to the end, close.
    Files,
    /// So many files: open, close.
    Opens(usize),
    /// Whole files from the beginning to the end, 1 MiB at a time.
    Sequential,
    /// Only the file of this number.
    One(usize),
    /// All of a file, 128 KiB at a time, in random order.
    Random,
    /// From the beginning to the end out of a mapping.
    MappedSequential,
    /// In random order out of a mapping.
    MappedRandom,
}

/// One run of one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The mount, or the local copy.
    pub root: PathBuf,
    /// What to do.
    pub work: Work,
    /// What the order of files follows from.
    pub seed: u64,
    /// The number of the worker, and of how many.
    pub share: (usize, usize),
    /// Whether every byte is compared: in a run that is not timed.
    pub check: bool,
}

/// What one worker did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Read {
    /// Files, or reads of parts of files.
    pub operations: u64,
    /// Bytes.
    pub bytes: u64,
    /// Of them, those that were not what they must be.
    pub wrong_bytes: u64,
    /// CPU of this process meanwhile, user and kernel.
    pub cpu_us: i64,
    /// Context switches of it, voluntary or not.
    pub switches: i64,
    /// Of [`Work::Files`] and [`Work::Opens`], each.
    pub latencies_us: Vec<u32>,
}

/// Serves orders until standard input closes.
pub fn serve(manifest: &Path) -> anyhow::Result<()> {
    let manifest = Manifest::load(manifest)?;
    let (mut lines, mut out) = (io::stdin().lock().lines(), io::stdout().lock());
    while let Some(line) = lines.next() {
        let order: Order = serde_json::from_str(&line?)?;
        let plan = Plan::new(&order, &manifest);
        writeln!(out)?;
        out.flush()?;
        if lines.next().is_none() {
            break;
        }
        let before = getrusage(UsageWho::RUSAGE_SELF)?;
        let mut read = plan.run()?;
        let after = getrusage(UsageWho::RUSAGE_SELF)?;
        read.cpu_us = cpu_us(&after) - cpu_us(&before);
        read.switches = switches(&after) - switches(&before);
        serde_json::to_writer(&mut out, &read)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn cpu_us(usage: &Usage) -> i64 {
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}

fn switches(usage: &Usage) -> i64 {
    usage.voluntary_context_switches() + usage.involuntary_context_switches()
}

/// An order with all that needs no file system.
struct Plan<'a> {
    order: &'a Order,
    files: Vec<(PathBuf, &'a Sample)>,
    buffer: Vec<u8>,
}

impl<'a> Plan<'a> {
    fn new(order: &'a Order, manifest: &'a Manifest) -> Self {
        let (worker, workers) = order.share;
        let mut files: Vec<_> =
            manifest.files.iter().map(|sample| (order.root.join(&sample.path), sample)).collect();
        files.shuffle(&mut StdRng::seed_from_u64(order.seed));
        let mine = |files: Vec<_>| files.into_iter().skip(worker).step_by(workers);
        let files = match order.work {
            Work::Files | Work::Sequential | Work::MappedSequential => mine(files).collect(),
            // From the beginning again if there are not so many.
            Work::Opens(count) => files.iter().cycle().skip(worker * count).take(count).cloned().collect(),
            Work::One(number) => {
                let sample = &manifest.files[number];
                vec![(order.root.join(&sample.path), sample)]
            }
            // Every worker reads in every file.
            Work::Random | Work::MappedRandom => files,
        };
        let longest = files.iter().map(|(_, sample)| sample.size_bytes).max().unwrap_or(0);
        let buffer = vec![0; (longest as usize + 1).max(SEQUENTIAL_BYTES)];
        Self { order, files, buffer }
    }

    fn run(mut self) -> anyhow::Result<Read> {
        let mut read = Read::default();
        for (path, sample) in std::mem::take(&mut self.files) {
            self.read_file(&path, sample, &mut read).with_context(|| path.display().to_string())?;
        }
        Ok(read)
    }

    fn read_file(&mut self, path: &Path, sample: &Sample, read: &mut Read) -> anyhow::Result<()> {
        let length = sample.size_bytes as usize;
        match self.order.work {
            Work::Files => {
                let began = Instant::now();
                let bytes = read_whole(path, &mut self.buffer)?;
                read.latencies_us.push(began.elapsed().as_micros() as u32);
                self.count(1, bytes, sample, read);
            }
            Work::Opens(_) => {
                let began = Instant::now();
                drop(File::open(path)?);
                read.latencies_us.push(began.elapsed().as_micros() as u32);
                read.operations += 1;
            }
            Work::Sequential | Work::One(_) => {
                let mut file = File::open(path)?;
                let operations = in_pieces(&mut self.buffer[..=length], |piece| file.read(piece))?;
                self.count(operations, length, sample, read);
            }
            Work::Random => {
                let file = File::open(path)?;
                let copy = |at: usize, piece: &mut [u8]| file.read_exact_at(piece, at as u64);
                let (operations, bytes) = self.scattered(length, copy)?;
                self.count_some(operations, bytes, length, sample, read);
            }
            Work::MappedSequential | Work::MappedRandom => {
                let file = File::open(path)?;
                // SAFETY: nobody truncates a file of a read-only mount or of a finished local copy; if the mount
                // answers a page fault with an error, SIGBUS ends this worker and the benchmark fails.
                let map = unsafe { Mmap::map(&file)? };
                let copy = |at: usize, piece: &mut [u8]| {
                    piece.copy_from_slice(&map[at..at + piece.len()]);
                    Ok(())
                };
                if self.order.work == Work::MappedRandom {
                    let (operations, bytes) = self.scattered(length, copy)?;
                    self.count_some(operations, bytes, length, sample, read);
                } else {
                    let mut at = 0;
                    let operations = in_pieces(&mut self.buffer[..length], |piece| {
                        let taken = piece.len().min(SEQUENTIAL_BYTES);
                        copy(at, &mut piece[..taken])?;
                        at += taken;
                        Ok(taken)
                    })?;
                    self.count(operations, length, sample, read);
                }
            }
        }
        Ok(())
    }

    /// This worker's share of the pieces of a file, in random order, each to its place in the buffer if it is to be checked,
    /// else to its beginning: operations and bytes.
    fn scattered(
        &mut self,
        length: usize,
        copy: impl Fn(usize, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<(u64, usize)> {
        let (worker, workers) = self.order.share;
        let mut pieces: Vec<usize> = (0..length).step_by(RANDOM_BYTES).collect();
        pieces.shuffle(&mut StdRng::seed_from_u64(self.order.seed));
        let (mut operations, mut bytes) = (0, 0);
        for at in pieces.into_iter().skip(worker).step_by(workers) {
            let taken = RANDOM_BYTES.min(length - at);
            let to = if self.order.check { at } else { 0 };
            copy(at, &mut self.buffer[to..to + taken])?;
            operations += 1;
            bytes += taken;
        }
        Ok((operations, bytes))
    }

    fn count(&self, operations: u64, bytes: usize, sample: &Sample, read: &mut Read) {
        read.operations += operations;
        read.bytes += bytes as u64;
        if self.order.check {
            read.wrong_bytes += sample.wrong_bytes(&self.buffer[..bytes]);
        }
    }

    /// The same where others read the rest: checked is only what one worker reads alone.
    fn count_some(&self, operations: u64, bytes: usize, length: usize, sample: &Sample, read: &mut Read) {
        read.operations += operations;
        read.bytes += bytes as u64;
        if self.order.check && bytes == length {
            read.wrong_bytes += sample.wrong_bytes(&self.buffer[..length]);
        }
    }
}

/// Reads as a data loader does: fstat(2) for the size, and one byte more, so that the end is seen.
fn read_whole(path: &Path, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len() as usize;
    ensure!(length < buffer.len(), "it grew");
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..=length])? {
            0 => return Ok(filled),
            read => filled += read,
        }
    }
}

/// Fills `buffer` 1 MiB at a time, until there is no more; how often it was asked.
fn in_pieces(buffer: &mut [u8], mut next: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<u64> {
    let (mut filled, mut operations) = (0, 0);
    while filled < buffer.len() {
        let end = buffer.len().min(filled + SEQUENTIAL_BYTES);
        let read = next(&mut buffer[filled..end])?;
        if read == 0 {
            break;
        }
        filled += read;
        operations += 1;
    }
    Ok(operations)
}

/// Makes the kernel forget the pages of every file of the manifest under `root`, and nothing else.
pub fn forget_pages(root: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    for sample in &manifest.files {
        let file = File::open(root.join(&sample.path))?;
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}

/// Makes the kernel know names and attributes of all files under `root`, as a walk does.
pub fn walk(root: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    manifest.files.iter().try_for_each(|sample| {
        let found = fs::metadata(root.join(&sample.path))?.len();
        ensure!(found == sample.size_bytes, "{} has {found} bytes", sample.path);
        Ok(())
    })
}
