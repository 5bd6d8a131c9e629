//! Is this a place to mount on? Looks before anything is mounted, and clears away what an earlier run of
//! ours left behind.
//!
//! A daemon that was killed leaves its mount: everything there fails with ENOTCONN ("Transport endpoint is not
//! connected") until somebody unmounts it. One of ours is detached here; one of another program's is not ours to end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::error::MountError;
use super::mountinfo::{self, MountLine};
use super::unmount;

/// What /proc/self/mountinfo calls a mount of ours.
pub(super) const FS_TYPE: &str = "fuse.epochcache";

/// Dead mounts lie on top of each other when a supervisor restarted a daemon that kept dying; a bound, so that a
/// detach which does nothing ends in an error.
const DEAD_MOUNTS_MAX: u32 = 16;

/// A mountpoint that was found fit.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Canonical.
    pub path: PathBuf,
    /// Dead mounts of ours that were detached.
    pub dead_mounts_cleaned: u32,
}

pub(super) fn prepare(mountpoint: &Path, allow_non_empty: bool) -> Result<Prepared, MountError> {
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { path: mountpoint.into() },
        io::ErrorKind::NotADirectory => MountError::NotADirectory { path: mountpoint.into() },
        _ => MountError::Mountpoint { path: mountpoint.into(), error },
    };
    let path = mountinfo::resolve(mountpoint).map_err(unusable)?;
    let dead_mounts_cleaned = clear_dead_mounts(&path)?;
    if !fs::metadata(&path).map_err(unusable)?.is_dir() {
        return Err(MountError::NotADirectory { path });
    }
    if !allow_non_empty && fs::read_dir(&path).map_err(unusable)?.next().is_some() {
        return Err(MountError::NotEmpty { path });
    }
    Ok(Prepared { path, dead_mounts_cleaned })
}

/// Detaches dead mounts of ours at `path`, and refuses any other FUSE mount there. Mounts of other kinds are let
/// be: a container's volume is one.
fn clear_dead_mounts(path: &Path) -> Result<u32, MountError> {
    for cleaned in 0..DEAD_MOUNTS_MAX {
        let unreadable = |error| MountError::Mountpoint { path: path.into(), error };
        let Some(mount) = mountinfo::topmost(path).map_err(unreadable)?.filter(MountLine::is_fuse) else {
            return Ok(cleaned);
        };
        if !is_dead(path) {
            return Err(MountError::AlreadyMounted {
                path: path.into(),
                fs_type: mount.fs_type,
                fs_source: mount.source,
            });
        }
        if mount.fs_type != FS_TYPE {
            return Err(MountError::DeadMount { path: path.into(), fs_type: mount.fs_type });
        }
        tracing::warn!(mountpoint = %path.display(), origin = mount.source, "unmounting a dead mount of an earlier run");
        unmount::detach(path).map_err(|error| MountError::DeadMountStays { path: path.into(), error })?;
    }
    let error = io::Error::other("it is still there after being detached");
    Err(MountError::DeadMountStays { path: path.into(), error })
}

/// Whether nobody serves the FUSE mount at `path`. By statfs(2), which is the one call that the kernel never
/// answers from a cache; so it waits for a daemon that is alive and hangs.
fn is_dead(path: &Path) -> bool {
    matches!(nix::sys::statfs::statfs(path), Err(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_mountpoints_are_told_apart() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").expect("a fresh name");
        fs::create_dir(at("full")).expect("a fresh name");
        fs::write(at("full/inside"), "").expect("a fresh name");
        fs::create_dir(at("empty")).expect("a fresh name");

        assert!(matches!(prepare(&at("missing"), false), Err(MountError::Missing { .. })));
        assert!(matches!(prepare(&at("missing/below"), false), Err(MountError::Missing { .. })));
        assert!(matches!(prepare(&at("file"), false), Err(MountError::NotADirectory { .. })));
        assert!(matches!(prepare(&at("full"), false), Err(MountError::NotEmpty { .. })));
        assert!(prepare(&at("full"), true).is_ok());
        assert_eq!(prepare(&at("empty"), false).map(|prepared| prepared.dead_mounts_cleaned).ok(), Some(0));
    }
}
