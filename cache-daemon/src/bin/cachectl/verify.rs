//! `cachectl verify`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use cache_daemon::control::{Request, VerifyProgress};

use super::find::{self, Target};
use super::progress::follow;
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl verify                  reads and checks all that is stored, at the daemon's own pace
  cachectl verify --rate 2GiB      at most 2 GiB/s

What is wrong is dropped and fetched again when it is next read: no reader ever sees it.
Exit code: 0 all is right, 1 something was wrong, 2 it could not be checked.";

/// `cachectl verify`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Reads at most so much a second: 500MiB, 2GiB.
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,
    /// Prints one JSON object a line: progress, the last one with "done".
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<u64, String> {
    match parse_size::parse_size(text) {
        Ok(0) | Err(_) => Err("give a size such as 500MiB".into()),
        Ok(rate) => Ok(rate),
    }
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let client = find::connect(args.mountpoint.as_deref(), &args.target)?;
    let request = Request::Verify { rate_bytes_per_s: args.rate };
    let last: VerifyProgress = follow(client, &request, args.json, out, &line)?;
    Ok(if last.bad_extents > 0 { Verdict::Problems } else { Verdict::Well })
}

fn line(progress: &VerifyProgress) -> String {
    let share = 100.0 * progress.bytes as f64 / progress.total_bytes.max(progress.bytes).max(1) as f64;
    let bad = match progress.bad_extents {
        0 => "none wrong".to_owned(),
        bad => format!("{bad} wrong, dropped"),
    };
    format!(
        "{} of {} checked ({share:.0} %), {} extents, {bad}",
        units::bytes(progress.bytes as f64),
        units::bytes(progress.total_bytes as f64),
        units::human(progress.extents, "")
    )
}
