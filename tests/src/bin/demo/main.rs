//! `cargo xtask run`: the product doing its main job, on this machine, in under two minutes.
//!
//! A data set like ImageNet's, served by a real S3 server 15 ms away, is mounted and read for three
//! shuffled epochs by eight processes that check every byte. Beside it: the same reader straight from
//! the server, and from a local copy.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, ensure};
use clap::Parser;
use epochcache_tests::bed::data_set::{DataSet, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, cannot_mount};
use epochcache_tests::bed::programs::{program, scratch};
use epochcache_tests::bed::reader::{Access, EpochReport, Readers};
use epochcache_tests::bed::s3::Weather;

mod table;

use table::EpochRow;

/// Mounts a data set from a real S3 server 15 ms away, and reads three shuffled epochs through it.
#[derive(Parser)]
#[command(name = "cargo xtask run --")]
struct Arguments {
    /// Leave it mounted, with its server, and say how to end it.
    #[arg(long)]
    keep: bool,
    /// Print an object a line, one for each epoch, instead of text.
    #[arg(long)]
    json: bool,
    /// Files of the data set.
    #[arg(long, default_value_t = 2_000, hide = true)]
    files: usize,
}

/// Epochs that are read.
const EPOCHS: u64 = 3;

/// What stands in for the distance to a region's object store.
const DELAY_MS: u64 = 15;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The readers die of it, which ends the demo with an error, and that cleans up on its way out.
        if signal_hook::flag::register(signal, interrupted.clone()).is_err() {
            eprintln!("demo: Ctrl-C will not clean up");
        }
    }
    match Demo::new(&arguments, &interrupted).and_then(Demo::run) {
        _ if interrupted.load(Relaxed) => {
            eprintln!("demo: interrupted; unmounted and removed");
            ExitCode::from(130)
        }
        Ok(wrong_bytes) if wrong_bytes > 0 => {
            eprintln!("demo: {wrong_bytes} WRONG BYTES were read");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo on its way; dropped, nothing of it is left.
struct Demo<'a> {
    arguments: &'a Arguments,
    interrupted: &'a AtomicBool,
    // Before the bed, which it is mounted from.
    mount: Mount,
    bed: Bed,
}

impl<'a> Demo<'a> {
    fn new(arguments: &'a Arguments, interrupted: &'a AtomicBool) -> anyhow::Result<Self> {
        if let Some(reason) = cannot_mount() {
            anyhow::bail!(reason);
        }
        eprintln!(
            "Making a data set of {} files, mean 110 KiB, bytes that do not compress.",
            arguments.files
        );
        let home = scratch()?;
        let mountpoint = home.path().join("mnt").to_string_lossy().into_owned();
        let lifetime: &[&str] =
            if arguments.keep { &["--until-unmounted", &mountpoint] } else { &["--until-stdin-closes"] };
        let weather = Weather { delay_ms: DELAY_MS, ..Weather::default() };
        let bed = Bed::in_directory(home, &Shape::of(arguments.files), &weather, lifetime)?;
        let mib = bed.data_set.manifest.total_bytes() >> 20;
        eprintln!(
            "Serving {mib} MiB as {} from {}, {DELAY_MS} ms a request.",
            DataSet::url(),
            bed.origin.endpoint()
        );
        let mut command = bed.mount_command();
        command.own_group = true;
        let mount = command.start().context("the mount")?;
        eprintln!("Mounted on {}, cached in {}.", mount.path().display(), mount.cache_dir().display());
        Ok(Self { arguments, interrupted, mount, bed })
    }

    /// Reads everything, prints, and says how many bytes were wrong.
    fn run(self) -> anyhow::Result<u64> {
        let server_url = format!("{}/{}/{}", self.bed.origin.endpoint(), DataSet::BUCKET, DataSet::PREFIX);
        eprintln!("Reading with 8 processes: open, fstat, read to the end, close, checksum.");
        let server = self.read_once("straight from the server", Path::new(&server_url), Access::Direct)?;
        let local = self.read_once("local copy", &self.bed.data_set.directory, Access::Read)?;

        let mut readers = self.bed.readers(&self.mount)?;
        let mut rows = Vec::new();
        for epoch in 1..=EPOCHS {
            let row = self.epoch(&mut readers, epoch)?;
            if self.arguments.json {
                println!("{}", row.json(&server, &local)?);
            } else {
                eprintln!("{}", row.line());
            }
            rows.push(row);
        }
        drop(readers);
        if !self.arguments.json {
            println!("{}", table::table(&rows, &server, &local));
        }
        let wrong_bytes = rows.iter().map(|row| row.report.wrong_bytes).sum();
        self.end()?;
        Ok(wrong_bytes)
    }

    fn epoch(&self, readers: &mut Readers, epoch: u64) -> anyhow::Result<EpochRow> {
        self.bed.origin.reset()?;
        let report = readers.epoch(epoch)?;
        self.check(&report)?;
        Ok(EpochRow::new(report, self.bed.origin.counters()?.get_bytes))
    }

    /// One epoch of the same reader on something else.
    fn read_once(&self, name: &str, root: &Path, access: Access) -> anyhow::Result<EpochReport> {
        let report = Readers::start(&self.bed.reading(root).with(access))?.epoch(1)?;
        self.check(&report).with_context(|| name.to_owned())?;
        ensure!(report.wrong_bytes == 0, "{name}: {} wrong bytes", report.wrong_bytes);
        eprintln!("{name}: {:.0} files/s, {:.0} MiB/s", report.files_per_s, report.mib_per_s);
        Ok(report)
    }

    fn check(&self, report: &EpochReport) -> anyhow::Result<()> {
        ensure!(!self.interrupted.load(Relaxed), "interrupted");
        let files = self.bed.files() as u64;
        ensure!(
            report.errors == 0 && report.files == files,
            "{} of {files} files could not be read, the first: {}\n{}",
            files - report.files,
            report.first_error.as_deref().unwrap_or_default(),
            self.mount.log()
        );
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        if !self.arguments.keep {
            return self.mount.unmount();
        }
        let (mount, home) = (self.mount.path().display(), self.bed.home().display());
        let cachectl = program("cachectl");
        let cachectl = cachectl.display();
        eprintln!("Still mounted: {mount}");
        eprintln!("Look at it:    {cachectl} stats {mount}");
        eprintln!("End it:        {cachectl} umount {mount} && rm -r {home}");
        self.bed.leave(self.mount);
        Ok(())
    }
}
