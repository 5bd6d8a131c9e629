//! `paddle-bed PYTHON SCRIPT`: a tree of JPEGs, served, mounted, and handed to a Python script.
//!
//! The script is called three times: `make DIRECTORY` draws the tree, `read MOUNT DIRECTORY` reads two
//! epochs of both, and compares every decoded batch.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use epochcache_tests::bed::data_set::{DataSet, Shape};
use epochcache_tests::bed::mount::{Bed, cannot_mount};
use epochcache_tests::bed::programs::{run_within, scratch};
use epochcache_tests::bed::s3::Weather;

/// Mounts a tree of JPEGs for PaddlePaddle's DataLoader.
#[derive(Parser)]
struct Arguments {
    /// An interpreter that can import paddle and PIL.
    python: PathBuf,
    /// The script.
    script: PathBuf,
}

/// Decoding 300 JPEGs four times takes seconds; importing paddle in each worker takes the rest.
const LIMIT: Duration = Duration::from_secs(15 * 60);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(reason) = cannot_mount() {
        println!("SKIP: {reason}");
        return Ok(());
    }
    let weather = Weather { delay_ms: 5, ..Weather::default() };
    let bed = Bed::in_directory(scratch()?, &Shape::of(0), &weather, &["--until-stdin-closes"])?;
    let local = &bed.data_set.directory;
    script(&arguments, &["make".as_ref(), local])?;
    bed.origin.rescan()?;
    let mount = bed.mount(&[])?;
    let said = script(&arguments, &["read".as_ref(), mount.path(), local])?;
    println!("{}", said.trim());
    let stats = mount.stats()?;
    println!("{} GETs for {}", stats.figure("origin_gets"), DataSet::url());
    mount.unmount()
}

fn script(arguments: &Arguments, rest: &[&Path]) -> anyhow::Result<String> {
    let said = run_within(LIMIT, Command::new(&arguments.python).arg(&arguments.script).args(rest))?;
    ensure!(said.status.success(), "{}: {}{}", arguments.script.display(), said.out, said.err);
    Ok(said.out)
}
