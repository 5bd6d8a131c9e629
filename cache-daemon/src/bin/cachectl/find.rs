//! Which daemon is meant: by its cache directory, by its mountpoint, or because it is the only one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cache_daemon::control::mountinfo::{self, FUSE_TYPE, Life};
use cache_daemon::control::{Client, Registry, RunningDaemon};

/// The options of every command that asks a daemon.
#[derive(clap::Args, Default)]
pub struct Target {
    /// Names the daemon by its cache directory.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// A connection to the daemon that is meant.
pub fn connect(mountpoint: Option<&Path>, target: &Target) -> Result<Client> {
    Ok(Client::connect(&cache_dir(mountpoint, target)?)?)
}

/// The cache directory of the daemon that is meant.
pub fn cache_dir(mountpoint: Option<&Path>, target: &Target) -> Result<PathBuf> {
    match (&target.cache_dir, mountpoint) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(mountpoint)) => Ok(at(mountpoint)?.cache_dir),
        (None, None) => Ok(the_one()?.cache_dir),
    }
}

/// The daemons of this user that run.
pub fn running() -> Result<Vec<RunningDaemon>> {
    Registry::of_user().running().context("cannot look for running daemons")
}

/// The cache directory of the daemon that `path` is about, and the path in its mount: empty for all of it.
pub fn addressed(path: &Path, target: &Target) -> Result<(PathBuf, String)> {
    let running = running()?;
    let absolute = std::path::absolute(path)?;
    let inside = |mountpoint: &Path| absolute.strip_prefix(mountpoint).ok().map(Path::to_owned);
    let found = running.iter().find_map(|daemon| Some((daemon, inside(&daemon.mountpoint)?)));
    let (cache_dir, relative) = match found {
        Some((daemon, relative)) if target.cache_dir.is_none() => (daemon.cache_dir.clone(), relative),
        Some((_, relative)) => (cache_dir(None, target)?, relative),
        None => {
            anyhow::ensure!(path.is_relative(), "{} is in no mount of epochcache", path.display());
            (cache_dir(None, target)?, path.to_owned())
        }
    };
    let text = relative.to_str().context("the path is not UTF-8, and an object's key always is")?;
    Ok((cache_dir, text.to_owned()))
}

/// The daemon that `path` is about, and the path in its mount; none: everything.
pub fn connect_about(path: Option<&Path>, target: &Target) -> Result<(Client, Option<String>)> {
    let Some(path) = path else { return Ok((connect(None, target)?, None)) };
    let (cache_dir, relative) = addressed(path, target)?;
    Ok((Client::connect(&cache_dir)?, Some(relative).filter(|relative| !relative.is_empty())))
}

fn at(mountpoint: &Path) -> Result<RunningDaemon> {
    let path = mountinfo::resolve(mountpoint).with_context(|| format!("{}", mountpoint.display()))?;
    if let Some(daemon) = running()?.into_iter().find(|daemon| daemon.mountpoint == path) {
        return Ok(daemon);
    }
    let shown = path.display();
    let mounts = mountinfo::mounts()?;
    match mountinfo::mounted_at(&mounts, &path) {
        Some(mount) if mount.fs_type == FUSE_TYPE => match mountinfo::life(&path) {
            Ok(Life::Dead) => bail!("{shown} is a dead mount: `cachectl umount {shown}` cleans it up"),
            _ => {
                bail!("the daemon of {shown} belongs to another user; ask as that user, or give --cache-dir")
            }
        },
        _ => bail!("{shown} is no mount of epochcache; `cachectl list` shows those that are"),
    }
}

fn the_one() -> Result<RunningDaemon> {
    let mut daemons = running()?;
    match daemons.len() {
        0 => bail!("no daemon runs (for one of another user give --cache-dir)"),
        1 => Ok(daemons.remove(0)),
        _ => {
            let names: Vec<_> =
                daemons.iter().map(|daemon| daemon.mountpoint.display().to_string()).collect();
            bail!("several daemons run; name one: {}", names.join(", "))
        }
    }
}

/// `path` from the root, as text that the daemon understands wherever it was started.
pub fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path)?;
    absolute.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}
