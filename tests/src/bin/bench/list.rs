//! `list`: a million files: listing them, mounting from the snapshot, walking them, and what they cost in memory.
//!
//! The server makes the keys up in memory; there are no bytes behind them.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, MountCommand};
use epochcache_tests::bed::programs::{run_within, scratch};
use epochcache_tests::bed::s3::Weather;

use crate::{Effort, Results, machine};

/// More than any of it takes, unless something hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// Measures the only case, `list_1m`.
pub fn run(effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let files: u64 = effort.pick(1_000_000, 20_000);
    let options = ["--until-stdin-closes", "--synthetic", &files.to_string()];
    let bed = Bed::in_directory(scratch()?, &Shape::of(0), &Weather::default(), &options)?;
    let command = MountCommand { url: "s3://synthetic/train".to_owned(), ..bed.mount_command() };
    let note = format!("{files} files");

    let began = Instant::now();
    let mount = command.start()?;
    results.absolute("list_1m", "seconds", "s", &[began.elapsed().as_secs_f64()], &format!("{note}, listed"));
    let counters = bed.origin.counters()?;
    results.absolute("list_1m", "requests", "requests", &[counters.list as f64], "LISTs of 1 000 keys");

    let (mut finds, mut rss) = (Vec::new(), vec![machine::rss_mib(mount.pid())?]);
    for _ in 0..2 {
        finds.push(find(&mount, files)?);
        rss.push(machine::rss_mib(mount.pid())?);
    }
    results.absolute("list_1m_find", "seconds", "s", &finds[..1], "find -type f, first");
    results.absolute("list_1m_find_again", "seconds", "s", &finds[1..], "find -type f, second");
    let most = rss.iter().copied().fold(0.0, f64::max);
    results.absolute(
        "list_1m",
        "rss",
        "MiB",
        &[most],
        &format!("{note}, the most of mounted, found, found again"),
    );
    mount.unmount()?;

    let mut seconds = Vec::new();
    for _ in 0..effort.pairs() {
        let began = Instant::now();
        let mount = command.clone().options(&["--immutable"]).start()?;
        seconds.push(began.elapsed().as_secs_f64());
        mount.unmount()?;
    }
    results.absolute(
        "list_1m_remount",
        "seconds",
        "s",
        &seconds,
        "from the snapshot, until the mount serves",
    );
    Ok(())
}

/// Seconds that find(1) takes to see all files.
fn find(mount: &epochcache_tests::bed::mount::Mount, files: u64) -> anyhow::Result<f64> {
    let began = Instant::now();
    let said =
        run_within(LIMIT, Command::new("find").arg(mount.path()).args(["-type", "f", "-printf", "."]))?;
    ensure!(
        said.status.success() && said.out.len() as u64 == files,
        "find saw {} files: {}",
        said.out.len(),
        said.err
    );
    Ok(began.elapsed().as_secs_f64())
}
