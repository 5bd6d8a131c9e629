//! `cachectl push`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use cache_daemon::control::{Client, PushProgress, Request};

use super::find::{self, Target};
use super::progress::follow;
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl push /mnt/data/train/n01440764    this directory, with all that is below it
  cachectl push /mnt/data/val /mnt/data/a.bin --json
  cachectl push /mnt/data                    everything, as far as --page-cache-size goes

What is pushed is in the page cache: its readers send the daemon no request. The pages are charged to the
daemon's memory cgroup, not to the readers'. What is not stored yet is fetched from the origin first.
Exit code: 0 all is pushed, 1 some files are not (no room, or their bytes could not be had), 2 nothing could be done.";

/// `cachectl push`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files and directories of one mount: absolute, or relative to the mount.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Prints one JSON object a line: progress, the last one with "done".
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let (client, paths) = addressed(args)?;
    let last: PushProgress = follow(client, &Request::Push { paths }, args.json, out, &line)?;
    if !args.json {
        left_out(out, &last)?;
    }
    let all = last.pushed_files + last.backed_files == last.total_files;
    Ok(if all { Verdict::Well } else { Verdict::Problems })
}

/// The one daemon that all paths are about, and the paths in its mount.
fn addressed(args: &Args) -> Result<(Client, Vec<String>)> {
    let mut paths = Vec::new();
    let mut daemon: Option<PathBuf> = None;
    for path in &args.paths {
        let (cache_dir, relative) = find::addressed(path, &args.target)?;
        let same = daemon.get_or_insert_with(|| cache_dir.clone()) == &cache_dir;
        ensure!(same, "{} is in another mount than the paths before it: push it by itself", path.display());
        paths.push(relative);
    }
    let cache_dir = daemon.context("no path was given")?;
    Ok((Client::connect(&cache_dir)?, paths))
}

fn line(progress: &PushProgress) -> String {
    let seconds = (progress.elapsed_ms as f64 / 1e3).max(1e-3);
    format!(
        "{} of {} files pushed, {} ({:.0} files/s, {}/s); {} of {} used",
        units::human(progress.pushed_files + progress.backed_files, ""),
        units::human(progress.total_files, ""),
        units::bytes(progress.pushed_bytes as f64),
        (progress.pushed_files + progress.backed_files) as f64 / seconds,
        units::bytes(progress.pushed_bytes as f64 / seconds),
        units::bytes(progress.held_bytes as f64),
        units::bytes(progress.budget_bytes as f64),
    )
}

/// What was not pushed, and what to do.
fn left_out(out: &mut dyn Write, progress: &PushProgress) -> Result<()> {
    let reasons = [
        (progress.over_budget_files, "found no room: give the daemon a larger --page-cache-size"),
        (progress.unknown_files, "are not shown by the mount as they were asked for: they changed meanwhile"),
        (progress.failed_files, "could not be read or were refused by the kernel: the daemon's log says why"),
    ];
    for (files, reason) in reasons.into_iter().filter(|(files, _)| *files > 0) {
        writeln!(out, "  {} {reason}", units::human(files, ""))?;
    }
    Ok(())
}
