//! `reader`: reads a data set as training does, and says how fast and how right that was.

use std::path::PathBuf;

use clap::Parser;
use epochcache_tests::bed::reader::{Access, Readers, Reading, Sampler, read_here, work};

/// Reads a data set in a fresh order each epoch, with worker processes, and checks every byte.
#[derive(Parser)]
struct Arguments {
    /// The directory to read: a mount, or a local copy.
    #[arg(long)]
    root: PathBuf,
    /// The data set's manifest: a line of JSON for each file.
    #[arg(long)]
    manifest: PathBuf,
    /// Worker processes; 0: read in this process.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// In which order.
    #[arg(long, value_enum, default_value_t)]
    sampler: Sampler,
    /// What the orders follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ranks that an epoch's order is dealt to.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// Which of them to be, from 0.
    #[arg(long, default_value_t = 0)]
    rank: usize,
    /// The number of the first epoch.
    #[arg(long, default_value_t = 1)]
    first_epoch: u64,
    /// Epochs to read.
    #[arg(long, default_value_t = 1)]
    epochs: u64,
    /// How a file is read.
    #[arg(long, value_enum, default_value = "read")]
    mode: Access,
    /// Print an object a line instead of text.
    #[arg(long)]
    json: bool,
    /// Do not check the bytes.
    #[arg(long)]
    unchecked: bool,
    /// Make the page cache forget each file when it was read.
    #[arg(long)]
    forget: bool,
    /// Read each file at its time, so many a second, all workers together.
    #[arg(long)]
    files_per_s: Option<f64>,
    /// Be the worker with this number: serve epochs from standard input.
    #[arg(long, hide = true)]
    worker: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reading = Reading {
        root: arguments.root,
        manifest: arguments.manifest,
        workers: arguments.workers,
        seed: arguments.seed,
        sampler: arguments.sampler,
        ranks: arguments.ranks,
        rank: arguments.rank,
        access: arguments.mode,
        check: !arguments.unchecked,
        forgets: arguments.forget,
        files_per_s: arguments.files_per_s,
    };
    if let Some(worker) = arguments.worker {
        return work(&reading, worker);
    }
    let mut readers = if reading.workers > 0 { Some(Readers::start(&reading)?) } else { None };
    let mut right = true;
    for epoch in (arguments.first_epoch..).take(arguments.epochs as usize) {
        let report = match &mut readers {
            Some(readers) => readers.epoch(epoch)?,
            None => read_here(&reading, epoch)?,
        };
        right &= report.wrong_bytes == 0 && report.errors == 0;
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!(
                "epoch {}: {:.0} files/s, {:.1} MiB/s, p50 {} us, p99 {} us, {} wrong bytes, {} errors {}",
                report.epoch,
                report.files_per_s,
                report.mib_per_s,
                report.p50_us,
                report.p99_us,
                report.wrong_bytes,
                report.errors,
                report.first_error.unwrap_or_default()
            );
        }
    }
    std::process::exit(i32::from(!right));
}
