//! The daemons that run: one small file each in a directory of their user's.
//!
//! A file is alive while its daemon holds a lock on it. The kernel drops the lock however the daemon
//! ends, so neither a reused PID nor a `kill -9` makes a dead daemon look alive.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// What a file of the registry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningDaemon {
    /// The process.
    pub pid: u32,
    /// Where it serves.
    pub mountpoint: PathBuf,
    /// Where its control socket is.
    pub cache_dir: PathBuf,
    /// What it serves: the URL, without credentials.
    pub origin: String,
}

/// The directory of one user's running daemons.
#[derive(Clone, Debug)]
pub struct Registry(PathBuf);

/// A daemon's own file: it lives as long as this.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Registry {
    /// This user's registry: `/run/epochcache` for root, else in `XDG_RUNTIME_DIR` or `/tmp`.
    pub fn of_user() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        let dir = match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            _ if uid == 0 => PathBuf::from("/run/epochcache"),
            Some(dir) if dir.is_absolute() && dir.is_dir() => dir.join("epochcache"),
            _ => PathBuf::from(format!("/tmp/epochcache-{uid}")),
        };
        Self::at(dir)
    }

    /// The registry in `dir`, which need not exist: [`Registry::register`] makes it, for its owner only.
    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// In `/tmp` somebody else may have made the directory first: then what is in it is not believed.
    fn trusted(&self) -> io::Result<()> {
        let meta = fs::symlink_metadata(&self.0)?;
        if meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} is not a directory that only you can write to; remove it",
            self.0.display()
        )))
    }

    /// Makes `daemon` known for as long as the answer lives.
    pub fn register(&self, daemon: &RunningDaemon) -> io::Result<Registration> {
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => self.trusted()?,
        }
        let path = self.0.join(format!("{}.json", daemon.pid));
        // Complete and locked before it has its name: nobody sees half a file, or one without its lock.
        let fresh = self.0.join(format!("{}.new", daemon.pid));
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        lock.write_all(&serde_json::to_vec(daemon)?)?;
        fs::rename(&fresh, &path)?;
        Ok(Registration { path, _lock: lock })
    }

    /// The daemons that run, by mountpoint. Files of dead ones are removed.
    pub fn running(&self) -> io::Result<Vec<RunningDaemon>> {
        match self.trusted() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        }
        let mut running = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                running.extend(alive(&path));
            }
        }
        running.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
        Ok(running)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What the file at `path` says, if its daemon lives; removed if it does not.
fn alive(path: &Path) -> Option<RunningDaemon> {
    let file = File::open(path).ok()?;
    let mut file = match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
        Err(_) => return None,
        Ok(_dead) => {
            let _ = fs::remove_file(path);
            return None;
        }
    };
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
