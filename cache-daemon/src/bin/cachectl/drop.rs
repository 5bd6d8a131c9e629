//! `cachectl drop`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use cache_daemon::control::{Dropped, Request};

use super::find::{self, Target};
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl drop /mnt/data/train/n01440764    what is stored of this directory
  cachectl drop train/n01440764              the same, with one daemon running
  cachectl drop                              everything; the next epoch is cold

Nothing is lost: what is dropped is fetched from the origin when it is next read.
Exit code: 0 dropped, 2 not.";

/// `cachectl drop`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file or directory: absolute, or relative to the mount. Everything if left out.
    path: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let (client, path) = find::connect_about(args.path.as_deref(), &args.target)?;
    let dropped: Dropped = client.ask(&Request::Drop { path })?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&dropped)?)?;
    } else {
        writeln!(
            out,
            "dropped {} objects, {}",
            units::human(dropped.objects, ""),
            units::bytes(dropped.bytes as f64)
        )?;
    }
    Ok(Verdict::Well)
}
