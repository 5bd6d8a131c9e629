//! `cachectl order`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cache_daemon::control::{OrderTold, Request};

use super::find::{self, Target};
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl order epoch.txt --mount /mnt/data     a path a line, as they will be read
  python sampler.py | cachectl order -           the same from standard input
  cachectl order next.txt --epoch 7              followed when epoch 7 begins, refused if that is past

Tell it when the epoch begins. An order that the readers do not follow is dropped, and costs its first fetches.
The same can be done without cachectl: write a file order-NAME into MOUNTPOINT/.epochcache/ .
Exit code: 0 it is followed or waits for its epoch, 2 it is not.";

/// `cachectl order`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The file with the order; `-` for standard input.
    file: PathBuf,
    /// The mount; not needed if only one daemon runs.
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Whose order it is: another one of the same name takes its place.
    #[arg(long, default_value = "cachectl")]
    name: String,
    /// The epoch that it is for, as the job counts; else what a line `# epoch N` before the first path says.
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let client = find::connect(args.mount.as_deref(), &args.target)?;
    let spooled = (args.file == Path::new("-")).then(Spooled::standard_input).transpose()?;
    let path = find::absolute(spooled.as_ref().map_or(&args.file, |spooled| &spooled.0))?;
    let told: OrderTold = client.ask(&Request::Order { path, name: args.name.clone(), epoch: args.epoch })?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&told)?)?;
    } else {
        let [files, unknown, twice] = [told.files, told.unknown, told.twice].map(|n| units::human(n, ""));
        write!(out, "{files} files in this order; {unknown} unknown paths, {twice} named twice")?;
        match told.epoch {
            Some(epoch) if told.waits => writeln!(out, "; it waits for epoch {epoch} to begin")?,
            Some(epoch) => writeln!(out, "; for epoch {epoch}")?,
            None => writeln!(out)?,
        }
    }
    Ok(Verdict::Well)
}

/// Standard input in a file, removed when dropped.
struct Spooled(PathBuf);

impl Spooled {
    fn standard_input() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("cachectl-order-{}", std::process::id()));
        // Made anew: in /tmp somebody else may have put something there.
        let mut file = std::fs::File::create_new(&path).with_context(|| path.display().to_string())?;
        let spooled = Self(path);
        io::copy(&mut io::stdin().lock(), &mut file)?;
        Ok(spooled)
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
