//! `cachectl stats`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cache_daemon::control::{Client, Request};
use cache_daemon::stats::snapshot::Snapshot;

use super::find::{self, Target};
use super::{Verdict, epochs, table};

const EXAMPLES: &str = "\
Examples:
  cachectl stats                       a table of every figure
  cachectl stats /mnt/data --watch     again every 2 seconds, with rates
  cachectl stats --watch 10 --json     one JSON object a line, every 10 seconds
  cachectl stats --epoch               the last epochs and what they cost
  cachectl stats --json | jq .ratios   for scripts; docs/stats.md tells every key

Exit code: 0, or 1 if anything is degraded and --check is given, or 2 if no daemon answers.";

/// `cachectl stats`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Repeats every SECS seconds, with the change since the last time.
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<f64>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Prints the last epochs: what was read, what came from where, what was fetched ahead.
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    epoch: bool,
    /// Exits with 1 if anything is off or slower than it could be.
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let cache_dir = find::cache_dir(args.mountpoint.as_deref(), &args.target)?;
    let ask = || -> Result<Snapshot> { Ok(Client::connect(&cache_dir)?.ask(&Request::Stats)?) };
    let Some(seconds) = args.watch else {
        let snapshot = ask()?;
        if args.epoch {
            epochs::show(out, &snapshot.planner.epochs)?;
            return Ok(Verdict::Well);
        }
        print(args.json, out, &snapshot, None)?;
        let problems = args.check && !snapshot.degraded.is_empty();
        return Ok(if problems { Verdict::Problems } else { Verdict::Well });
    };
    ensure!((0.1..=86_400.0).contains(&seconds), "--watch {seconds}: give 0.1 to 86400 seconds");
    let redraw = !args.json && std::io::stdout().is_terminal();
    let mut before: Option<(Snapshot, Instant)> = None;
    loop {
        let (snapshot, at) = (ask().context("watching ends")?, Instant::now());
        if redraw {
            // Home, then erase to the end: no flicker of an empty screen between.
            write!(out, "\x1b[H\x1b[J")?;
        } else if !args.json && before.is_some() {
            writeln!(out)?;
        }
        let since = before.as_ref().map(|(snapshot, then)| table::Before {
            snapshot,
            seconds: at.duration_since(*then).as_secs_f64().max(1e-3),
        });
        print(args.json, out, &snapshot, since.as_ref())?;
        before = Some((snapshot, at));
        thread::sleep(Duration::from_secs_f64(seconds));
    }
}

fn print(
    json: bool,
    out: &mut dyn Write,
    snapshot: &Snapshot,
    before: Option<&table::Before<'_>>,
) -> Result<()> {
    if json {
        writeln!(out, "{}", snapshot.json())?;
    } else {
        table::show(out, snapshot, before)?;
    }
    out.flush()?;
    Ok(())
}
