//! What this machine says of a mountpoint, a cache directory and FUSE. Looks, and changes nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{self, FsType};
use nix::unistd::{AccessFlags, access};

use super::ConfigError;
use crate::control::mountinfo::{self, FUSE_TYPE, Life, Mount};

/// RAMFS_MAGIC (linux/magic.h), which nix does not name.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6_u32 as _);
/// Left free beside the cache: a full file system breaks whatever else lives there.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// A place for the store's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory on ext4, XFS or another file system with direct I/O.
    Directory(PathBuf),
    /// A block device or partition, used raw.
    Device(PathBuf),
}

impl Place {
    /// Its path.
    pub fn path(&self) -> &Path {
        let (Self::Directory(path) | Self::Device(path)) = self;
        path
    }
}

/// What the checks need to know of the machine; a test makes its own.
pub(super) struct Machine {
    pub uid: u32,
    pub gid: u32,
    pub mounts: Vec<Mount>,
    /// Whether `/dev/fuse` can be opened, as mount(2) and fusermount3 both need.
    pub fuse_device: Result<(), Errno>,
    pub fusermount: bool,
    /// `/etc/fuse.conf`, empty if missing.
    pub fuse_conf: String,
}

impl Machine {
    pub(super) fn this() -> Result<Self, ConfigError> {
        let mounts = mountinfo::mounts().map_err(|_| ConfigError::Fuse("/proc is not mounted: mount it"))?;
        Ok(Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mounts,
            fuse_device: access("/dev/fuse", AccessFlags::R_OK | AccessFlags::W_OK),
            fusermount: find_program("fusermount3").is_some(),
            fuse_conf: fs::read_to_string("/etc/fuse.conf").unwrap_or_default(),
        })
    }

    /// Whether this user can mount FUSE here at all, and so.
    pub(super) fn can_mount(&self, allow_other: bool) -> Result<(), ConfigError> {
        match self.fuse_device {
            Ok(()) => {}
            Err(Errno::ENOENT) => {
                return Err(ConfigError::Fuse(
                    "/dev/fuse is missing: run `modprobe fuse`; in a container start it with --device /dev/fuse",
                ));
            }
            Err(_) => {
                return Err(ConfigError::Fuse(
                    "/dev/fuse cannot be opened: run `chmod 0666 /dev/fuse` as root (the mode of stock systems)",
                ));
            }
        }
        if self.uid != 0 && !self.fusermount {
            return Err(ConfigError::Fuse(
                "fusermount3 is missing: install the package fuse3 (apt-get install fuse3)",
            ));
        }
        if self.uid != 0 && allow_other && !user_allow_other(&self.fuse_conf) {
            return Err(ConfigError::Fuse(
                "--allow-other as an ordinary user needs a line `user_allow_other` in /etc/fuse.conf: add it, or leave out --allow-other",
            ));
        }
        Ok(())
    }

    /// The mountpoint, absolute. A dead mount of ours passes: it is cleaned up when mounting.
    pub(super) fn mountpoint(&self, given: &Path) -> Result<PathBuf, ConfigError> {
        let refused = |why: &str| ConfigError::Mountpoint { path: given.to_owned(), why: why.to_owned() };
        let path = mountinfo::resolve(given).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused("does not exist; make it with mkdir -p"),
            _ => refused(&format!("{error}; choose a directory that you can enter")),
        })?;
        // Mounts of other kinds are let be: a container's volume is one.
        if let Some(mount) = mountinfo::mounted_at(&self.mounts, &path).filter(|mount| mount.is_fuse()) {
            let dead = matches!(mountinfo::life(&path), Ok(Life::Dead));
            let shown = path.display();
            return match (dead, mount.fs_type == FUSE_TYPE) {
                (true, true) => Ok(path),
                (true, false) => {
                    Err(refused(&format!("is a dead mount ({}); detach it with umount -l", mount.fs_type)))
                }
                (false, true) => {
                    let what =
                        format!("already serves {}; unmount it with `cachectl umount {shown}`", mount.source);
                    Err(refused(&what))
                }
                (false, false) => Err(refused(&format!(
                    "{} {} is mounted there; unmount it or choose another directory",
                    mount.fs_type, mount.source
                ))),
            };
        }
        let mut entries = fs::read_dir(&path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTDIR) => refused("is not a directory; make one with mkdir -p"),
            _ => refused(&format!("{error}; choose a directory that you can read")),
        })?;
        if entries.next().is_some() {
            return Err(refused("is not empty; choose an empty directory"));
        }
        // mount(2) as root asks for nothing, fusermount3 asks for this.
        if self.uid != 0 && access(&path, AccessFlags::W_OK).is_err() {
            return Err(refused("belongs to somebody else; choose a directory that you can write to"));
        }
        Ok(path)
    }

    /// The cache directory, absolute; it need not exist yet.
    pub(super) fn cache_dir(&self, given: &Path, mountpoint: &Path) -> Result<PathBuf, ConfigError> {
        let refused = |why: String| ConfigError::CacheDir { path: given.to_owned(), why };
        let (existing, path) = existing_ancestor(given)
            .map_err(|error| refused(format!("{error}; choose another directory")))?;
        self.directory(given, &existing, &path, mountpoint)?;
        Ok(path)
    }

    fn directory(
        &self,
        given: &Path,
        existing: &Path,
        path: &Path,
        mountpoint: &Path,
    ) -> Result<(), ConfigError> {
        let refused = |why: String| Err(ConfigError::CacheDir { path: given.to_owned(), why });
        if path.starts_with(mountpoint) {
            return refused("lies in the mountpoint, which hides it; choose a directory elsewhere".into());
        }
        if mountpoint.starts_with(path) {
            return refused(
                "holds the mountpoint; mount elsewhere, or choose another cache directory".into(),
            );
        }
        if let Some(mount) =
            mountinfo::mount_of(&self.mounts, path).filter(|mount| mount.fs_type == FUSE_TYPE)
        {
            return refused(format!("lies in a mount of epochcache ({}); choose a local disk", mount.source));
        }
        if !existing.is_dir() {
            return refused(format!("{} is not a directory; choose another path", existing.display()));
        }
        if let Err(errno) = access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
            return refused(format!(
                "cannot write to {}: {}; choose a directory of yours, or chown it",
                existing.display(),
                errno.desc()
            ));
        }
        match statfs::statfs(existing) {
            Ok(fs) if [statfs::TMPFS_MAGIC, RAMFS_MAGIC].contains(&fs.filesystem_type()) => refused(
                "is in memory (tmpfs), where a cache takes what the kernel's page cache gives for nothing; choose a directory on a local disk".into(),
            ),
            Ok(_) => Ok(()),
            Err(errno) => refused(format!("{}; choose another directory", errno.desc())),
        }
    }

    /// The cache directory and the `--cache-dev`s, told apart by what they are. If some `may_be_lost`, because
    /// there was a store before, one that is not there is no mistake: the store goes on without it.
    pub(super) fn places(
        &self,
        cache_dir: &Path,
        extra: &[PathBuf],
        mountpoint: &Path,
        may_be_lost: bool,
    ) -> Result<Vec<Place>, ConfigError> {
        let mut places = vec![Place::Directory(cache_dir.to_owned())];
        for given in extra {
            let place = match given.try_exists() {
                Ok(false) if may_be_lost => lost(given)?,
                _ => self.place(given, mountpoint)?,
            };
            if places.contains(&place) {
                let why = "is given twice; leave one out".to_owned();
                return Err(ConfigError::CacheDir { path: given.clone(), why });
            }
            places.push(place);
        }
        Ok(places)
    }

    fn place(&self, given: &Path, mountpoint: &Path) -> Result<Place, ConfigError> {
        let refused = |why: String| ConfigError::CacheDir { path: given.to_owned(), why };
        let path = given
            .canonicalize()
            .map_err(|error| refused(format!("{error}; give an existing directory or block device")))?;
        let meta = fs::metadata(&path).map_err(|error| refused(format!("{error}; choose another place")))?;
        if meta.is_dir() {
            self.directory(given, &path, &path, mountpoint)?;
            return Ok(Place::Directory(path));
        }
        if !meta.file_type().is_block_device() {
            return Err(refused("is neither a directory nor a block device; give one of them".into()));
        }
        let device = format!("{}:{}", nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        if let Some(mount) = self.mounts.iter().find(|mount| mount.device == device) {
            let at = mount.mountpoint.display();
            return Err(refused(format!(
                "is mounted at {at}; unmount it, or give a directory on it instead"
            )));
        }
        if access(&path, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
            return Err(refused(
                "cannot be written; run as root, or give yourself the device (chown)".into(),
            ));
        }
        Ok(Place::Device(path))
    }
}

/// A place that is not there now.
fn lost(given: &Path) -> Result<Place, ConfigError> {
    let refused = |error: io::Error| ConfigError::CacheDir { path: given.to_owned(), why: error.to_string() };
    let path = std::path::absolute(given).map_err(refused)?;
    Ok(if path.starts_with("/dev") { Place::Device(path) } else { Place::Directory(path) })
}

/// Refuses a size that the places cannot hold, counting what an earlier run has left there as room.
///
/// Only when every place is a directory that is there: a device says how large it is when the store opens it.
pub(super) fn has_room(places: &[Place], size_bytes: u64) -> Result<(), ConfigError> {
    let mut room: u64 = 0;
    let mut seen = Vec::new();
    for place in places {
        let Place::Directory(path) = place else { return Ok(()) };
        if place != &places[0] && !path.exists() {
            return Ok(());
        }
        let refused = |error: io::Error| ConfigError::CacheDir { path: path.clone(), why: error.to_string() };
        let (existing, _) = existing_ancestor(path).map_err(refused)?;
        let device = fs::metadata(&existing).map_err(refused)?.dev();
        if !seen.contains(&device) {
            seen.push(device);
            room += free_bytes(&existing).map_err(refused)?.saturating_sub(FREE_BYTES_MIN);
        }
        room += allocated_bytes(path);
    }
    if size_bytes <= room {
        return Ok(());
    }
    Err(ConfigError::Value {
        option: "--cache-size",
        given: gib(size_bytes),
        why: format!(
            "{} has room for {}; give at most that, free some space, or add a --cache-dev",
            places[0].path().display(),
            gib(room)
        ),
    })
}

/// Makes the cache directory, for its owner only, and those above it that are missing.
pub fn create_cache_dir(path: &Path) -> Result<(), ConfigError> {
    let refused = |error: io::Error| ConfigError::CacheDir {
        path: path.to_owned(),
        why: format!("{error}; make it with mkdir -p, or choose another"),
    };
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(refused)?;
    }
    fs::DirBuilder::new().mode(0o700).create(path).map_err(refused)
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let fs = nix::sys::statvfs::statvfs(path)?;
    Ok(fs.blocks_available() * fs.fragment_size())
}

/// Bytes on disk of all files under `path`, by blocks; what cannot be seen counts as nothing.
fn allocated_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let bytes_of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => allocated_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes_of).sum()
}

/// The deepest part of `given` that exists, and the whole path without symlinks.
fn existing_ancestor(given: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let absolute = std::path::absolute(given)?;
    for ancestor in absolute.ancestors() {
        match ancestor.canonicalize() {
            Ok(existing) => {
                let missing = absolute.strip_prefix(ancestor).expect("an ancestor is a prefix");
                // join("") would leave a slash at the end.
                let whole =
                    if missing.as_os_str().is_empty() { existing.clone() } else { existing.join(missing) };
                return Ok((existing, whole));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Where `program` is, looked for as execvp(3) does.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(program));
    candidates.find(|candidate| access(candidate, AccessFlags::X_OK).is_ok())
}

/// Whether `/etc/fuse.conf` lets ordinary users say allow_other: the word alone on a line (fusermount3.c).
pub(crate) fn user_allow_other(conf: &str) -> bool {
    conf.lines().any(|line| line.split('#').next().unwrap_or_default().trim() == "user_allow_other")
}

fn gib(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        return format!("{:.1}GiB", bytes as f64 / f64::from(1 << 30));
    }
    format!("{}MiB", bytes >> 20)
}
