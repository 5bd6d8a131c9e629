//! `cachectl list`.

use std::io::Write;

use anyhow::Result;

use super::{Verdict, find, table};

const EXAMPLES: &str = "\
Examples:
  cachectl list                                 mountpoint, pid, cache directory, origin
  cachectl list --json | jq -r .mountpoint      one JSON object a line

Shows the daemons of the user that asks.
Exit code: 0, also if none runs.";

/// `cachectl list`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Prints one JSON object a daemon.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let daemons = find::running()?;
    if args.json {
        for daemon in &daemons {
            writeln!(out, "{}", serde_json::to_string(daemon)?)?;
        }
        return Ok(Verdict::Well);
    }
    if daemons.is_empty() {
        writeln!(out, "no daemon runs")?;
        return Ok(Verdict::Well);
    }
    let mut table = table::plain(&["MOUNTPOINT", "PID", "CACHE DIRECTORY", "ORIGIN"]);
    for daemon in daemons {
        table.add_row([
            daemon.mountpoint.display().to_string(),
            daemon.pid.to_string(),
            daemon.cache_dir.display().to_string(),
            daemon.origin,
        ]);
    }
    table::print(out, &table)?;
    Ok(Verdict::Well)
}
