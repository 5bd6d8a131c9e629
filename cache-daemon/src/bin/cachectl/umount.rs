//! `cachectl umount`: asks the daemon, and waits until it is gone; a mount without a daemon is detached.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cache_daemon::control::mountinfo::{self, FUSE_TYPE, Life};
use cache_daemon::control::{Pong, Request};

use super::Verdict;
use super::find::{self, Target};

/// A store that is being closed syncs what it has: seconds on a slow disk, not minutes.
const PATIENCE: Duration = Duration::from_secs(60);

/// So that a detach which does nothing ends in an error.
const DEAD_MOUNTS_MAX: u32 = 16;

const EXAMPLES: &str = "\
Examples:
  cachectl umount              the one daemon that runs
  cachectl umount /mnt/data    this mount; if its daemon is dead (\"Transport endpoint is not connected\"), detaches it

Returns when the mount is gone and the store is closed. Files that are open keep their mount until they are closed.
Exit code: 0 unmounted, 2 not.";

/// `cachectl umount`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    if let (Some(mountpoint), None) = (&args.mountpoint, &args.target.cache_dir) {
        let path = mountinfo::resolve(mountpoint).with_context(|| format!("{}", mountpoint.display()))?;
        // A daemon that runs is asked, and never its mount: one that hangs would make that wait for ever.
        let runs = find::running()?.iter().any(|daemon| daemon.mountpoint == path);
        if !runs && detach_dead(&path)? {
            writeln!(out, "{}: detached a mount whose daemon was dead", path.display())?;
            return Ok(Verdict::Well);
        }
    }
    let client = find::connect(args.mountpoint.as_deref(), &args.target)?;
    let pong: Pong = client.ask(&Request::Umount)?;
    wait_until_gone(&pong)?;
    writeln!(out, "{}: unmounted", pong.mountpoint.display())?;
    Ok(Verdict::Well)
}

/// Detaches our dead mounts at `path`: several lie on each other where a supervisor restarted a dying daemon.
fn detach_dead(path: &Path) -> Result<bool> {
    for detached in 0..DEAD_MOUNTS_MAX {
        let mounts = mountinfo::mounts()?;
        let ours = mountinfo::mounted_at(&mounts, path).is_some_and(|mount| mount.fs_type == FUSE_TYPE);
        if !ours || !matches!(mountinfo::life(path), Ok(Life::Dead)) {
            return Ok(detached > 0);
        }
        mountinfo::detach(path).with_context(|| format!("cannot detach {}", path.display()))?;
    }
    bail!("{} is still mounted after {DEAD_MOUNTS_MAX} mounts were detached", path.display())
}

/// Gone is: not mounted, and not in the registry, which a daemon leaves last.
fn wait_until_gone(pong: &Pong) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mounts = mountinfo::mounts()?;
        let mounted =
            mountinfo::mounted_at(&mounts, &pong.mountpoint).is_some_and(|mount| mount.fs_type == FUSE_TYPE);
        let runs = find::running()?.iter().any(|daemon| daemon.pid == pong.pid);
        if !mounted && !runs {
            return Ok(());
        }
        if Instant::now() >= until {
            let what = if mounted { "is still mounted" } else { "is unmounted, but its daemon still runs" };
            bail!(
                "{} {what} after {} s (pid {}); its log says why",
                pong.mountpoint.display(),
                PATIENCE.as_secs(),
                pong.pid
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}
