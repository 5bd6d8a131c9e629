//! `cachectl top`.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cache_daemon::control::{Client, Readers, Request};
use cache_daemon::probe::ReaderRow;

use super::find::{self, Target};
use super::{Verdict, table, units};

const EXAMPLES: &str = "\
Examples:
  cachectl top                     who reads, every 2 seconds, until Ctrl-C
  cachectl top --once              totals since the mount, and the rate over one second
  cachectl top --once --json       one JSON object

DataLoader workers are rows of their own; jobs are told apart by their cgroup.
Exit code: 0, or 2 if no daemon answers.";

/// `cachectl top`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECS", default_value_t = 2.0)]
    interval: f64,
    /// Looks twice, a second apart, and ends.
    #[arg(long)]
    once: bool,
    /// Prints one JSON object a look, totals only.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    ensure!(
        (0.1..=86_400.0).contains(&args.interval),
        "--interval {}: give 0.1 to 86400 seconds",
        args.interval
    );
    let cache_dir = find::cache_dir(args.mountpoint.as_deref(), &args.target)?;
    let ask = || -> Result<Readers> { Ok(Client::connect(&cache_dir)?.ask(&Request::Top)?) };
    let redraw = !args.json && !args.once && std::io::stdout().is_terminal();
    let interval = Duration::from_secs_f64(if args.once { 1.0 } else { args.interval });
    let (mut before, mut at) = (ask()?, Instant::now());
    loop {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&before)?)?;
            if args.once {
                return Ok(Verdict::Well);
            }
        }
        thread::sleep(interval);
        let (now, seconds) = (ask()?, at.elapsed().as_secs_f64());
        at = Instant::now();
        if redraw {
            write!(out, "\x1b[H\x1b[J")?;
        }
        if !args.json {
            show(out, &now, &before, seconds)?;
        }
        out.flush()?;
        if args.once {
            return Ok(Verdict::Well);
        }
        before = now;
    }
}

/// Prints the readers, with their rates since `before`.
fn show(out: &mut dyn Write, now: &Readers, before: &Readers, seconds: f64) -> Result<()> {
    match now.tier.as_str() {
        "" | "C" => writeln!(out, "probes are off: readers are not seen (`cachectl stats` says why)")?,
        tier => writeln!(out, "{} readers, tier {tier}", now.readers.len())?,
    }
    let earlier: HashMap<u32, &ReaderRow> = before.readers.iter().map(|line| (line.tgid, line)).collect();
    let mut table = table::plain(&[
        "PID", "COMMAND", "CGROUP", "THREADS", "FILES/S", "READ/S", "FILES", "READ", "FAULTS",
    ]);
    for line in &now.readers {
        let old = earlier.get(&line.tgid);
        let rate = |now: u64, old: Option<u64>| now.saturating_sub(old.unwrap_or_default()) as f64 / seconds;
        table.add_row([
            line.tgid.to_string(),
            line.command.clone(),
            line.cgroup.to_string(),
            line.threads.to_string(),
            format!("{:.0}", rate(line.files, old.map(|old| old.files))),
            format!("{}/s", units::bytes(rate(line.bytes, old.map(|old| old.bytes)))),
            units::human(line.files, ""),
            units::bytes(line.bytes as f64),
            units::human(line.faults, ""),
        ]);
    }
    Ok(table::print(out, &table)?)
}
