//! The disk under a shelf: the calls that make, open and remove files, of the system or simulated.
//!
//! A simulated one has the same names without their directories, on a device that fails and loses power by a
//! seed ([`SimDirectory`]): so tests take fillers and maps through every fault that segments are taken through.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::io::sim::SimDirectory;
use crate::io::{DeviceFile, Removed, Remover, open_direct};
use crate::store::layout::PAGE_BYTES;

/// See the head of the module.
#[derive(Debug)]
pub enum Disk {
    /// The file system, and what removes files of it.
    System(Remover),
    /// A simulated one.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests make it"))]
    Sim(SimDirectory),
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads past the page cache.
    Read,
    /// Reads and writes through it.
    Write,
    /// Reads and writes past it.
    WriteDirect,
}

impl Disk {
    /// Makes a directory, unless there is one.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::System(_) => match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            },
            Self::Sim(_) => Ok(()),
        }
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::System(_) => File::open(path)?.sync_all(),
            Self::Sim(directory) => directory.sync(),
        }
    }

    /// Makes a file of `bytes` with all of its blocks.
    pub fn create(&self, path: &Path, bytes: u64) -> io::Result<DeviceFile> {
        match self {
            Self::System(_) => {
                let mut new = OpenOptions::new();
                let file = new.read(true).write(true).create_new(true).mode(0o600).open(path)?;
                allocate(&file, bytes)?;
                Ok(file.into())
            }
            Self::Sim(directory) => directory.create(name(path), bytes),
        }
    }

    /// Opens a file.
    pub fn open(&self, path: &Path, access: Access) -> io::Result<DeviceFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        match self {
            Self::System(_) if access == Access::Write => Ok(options.open(path)?.into()),
            Self::System(_) => open_direct(path, &options),
            Self::Sim(directory) => directory.open_file(name(path)),
        }
    }

    /// Removes files in this order, without making anybody wait; then tells `done`.
    pub fn remove(&self, paths: Vec<PathBuf>, done: Removed) {
        match self {
            Self::System(remover) => remover.remove(paths, done),
            Self::Sim(_) => done(paths.iter().try_for_each(|path| self.remove_now(path))),
        }
    }

    /// Removes a file, if it is there.
    pub fn remove_now(&self, path: &Path) -> io::Result<()> {
        let removed = match self {
            Self::System(_) => fs::remove_file(path),
            Self::Sim(directory) => directory.remove(name(path)),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Blocks of a directory.
    pub fn directory_bytes(&self, path: &Path) -> io::Result<u64> {
        match self {
            Self::System(_) => blocks_bytes(path),
            Self::Sim(_) => Ok(u64::from(PAGE_BYTES)),
        }
    }

    /// Waits up to `wait` for removals.
    pub fn close(&self, wait: Duration) {
        if let Self::System(remover) = self {
            remover.close(wait);
        }
    }
}

/// Blocks of an open file.
pub fn file_blocks_bytes(file: &DeviceFile) -> io::Result<u64> {
    match file.as_file() {
        Some(file) => Ok(file.metadata()?.blocks() * 512),
        None => Ok(file.size_bytes()?.next_multiple_of(u64::from(PAGE_BYTES))),
    }
}

/// Blocks of what is at `path`.
pub fn blocks_bytes(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.blocks() * 512)
}

/// Gives `file` its length and its blocks; only the length where the file system cannot reserve.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let len = i64::try_from(bytes).map_err(io::Error::other)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP) => return file.set_len(bytes),
            done => return Ok(done?),
        }
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("files have names of hexadecimal digits")
}
