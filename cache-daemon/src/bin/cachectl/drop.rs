//! `cachectl drop`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cache_daemon::control::{Client, Dropped, Request};

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
    let (client, path) = match &args.path {
        Some(path) => addressed(path, &args.target)?,
        None => (find::connect(None, &args.target)?, None),
    };
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

/// The daemon that `path` is about, and the path in its mount.
fn addressed(path: &Path, target: &Target) -> Result<(Client, Option<String>)> {
    let running = find::running()?;
    let absolute = std::path::absolute(path)?;
    let inside = |mountpoint: &Path| absolute.strip_prefix(mountpoint).ok().map(Path::to_owned);
    let found = running.iter().find_map(|daemon| Some((daemon, inside(&daemon.mountpoint)?)));
    let (cache_dir, relative) = match found {
        Some((daemon, relative)) if target.cache_dir.is_none() => (daemon.cache_dir.clone(), relative),
        Some((_, relative)) => (find::cache_dir(None, target)?, relative),
        None => {
            anyhow::ensure!(path.is_relative(), "{} is in no mount of epochcache", path.display());
            (find::cache_dir(None, target)?, path.to_owned())
        }
    };
    let text = relative.to_str().context("the path is not UTF-8, and an object's key always is")?;
    Ok((Client::connect(&cache_dir)?, (!text.is_empty()).then(|| text.to_owned())))
}
