//! The medium of a volume: one preallocated file in a directory, or a whole block device or partition.
//!
//! Both are a file with the same layout; they differ in how their space is had. A file's is reserved
//! up front (fallocate(2)), and given back segment by segment by punching holes, so that the limit
//! holds in blocks whatever the file's length is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::error::StoreError;
use super::layout::Layout;
use crate::io::{DeviceFile, open_direct};

/// The name of a volume's file in its directory.
pub const FILE_NAME: &str = "segments";

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory, on ext4 or XFS.
    Directory(PathBuf),
    /// A block device or a partition, all of it.
    Device(PathBuf),
}

impl Place {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Device(path) => path,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path().display().fmt(f)
    }
}

/// An open medium; nobody else has it.
pub struct Medium {
    place: Place,
    file: DeviceFile,
    /// Held as long as the store is open.
    _lock: Flock<File>,
}

impl Medium {
    /// Opens `place` and locks it.
    pub fn open(place: &Place, _format: bool) -> Result<Self, StoreError> {
        match place {
            Place::Directory(path) => Self::open_directory(place, path),
            Place::Device(_) => Err(StoreError::io(place, "open", io::ErrorKind::Unsupported.into())),
        }
    }

    fn open_directory(place: &Place, path: &Path) -> Result<Self, StoreError> {
        let path = path.join(FILE_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_direct(&path, &options).map_err(|error| StoreError::io(place, "open", error))?;
        let own = file.as_file().expect("opened by path").try_clone();
        let own = own.map_err(|error| StoreError::io(place, "open", error))?;
        let lock = Flock::lock(own, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => StoreError::Locked { place: place.to_string() },
            errno => StoreError::io(place, "lock", errno.into()),
        })?;
        let medium = Self { place: place.clone(), file, _lock: lock };
        let system =
            fstatfs(medium.os_file()).map_err(|errno| StoreError::io(place, "statfs", errno.into()))?;
        if system.filesystem_type() == TMPFS_MAGIC {
            return Err(StoreError::Tmpfs { place: place.to_string() });
        }
        Ok(medium)
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The file for engines.
    pub fn file(&self) -> &DeviceFile {
        &self.file
    }

    fn os_file(&self) -> &File {
        self.file.as_file().expect("media are files of the system")
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        matches!(self.place, Place::Device(_))
    }

    /// Gives back all of its space, after what could not be finished.
    pub fn give_back(&self) {
        if let Err(error) = self.os_file().set_len(0) {
            tracing::warn!(place = %self.place, %error, "cannot give back the space");
        }
    }

    /// Its length in bytes.
    pub fn length_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.os_file().metadata();
        Ok(metadata.map_err(|error| StoreError::io(&self.place, "stat", error))?.len())
    }

    /// Bytes on disk that it takes now.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.os_file().metadata();
        Ok(metadata.map_err(|error| StoreError::io(&self.place, "stat", error))?.blocks() * 512)
    }

    /// Bytes that it can take at most: what it has and what is free.
    pub fn room_bytes(&self) -> Result<u64, StoreError> {
        let system = nix::sys::statvfs::fstatvfs(self.os_file());
        let system = system.map_err(|errno| StoreError::io(&self.place, "statvfs", errno.into()))?;
        Ok(self.used_bytes()? + system.blocks_available() * system.fragment_size())
    }

    /// Reserves the space of `layout`, without the segments that `is_withheld` names: those are given back.
    pub fn reserve(&self, layout: &Layout, is_withheld: &dyn Fn(u32) -> bool) -> Result<(), StoreError> {
        let file = self.os_file();
        let fail = |what, error| StoreError::io(&self.place, what, error);
        let bytes = layout.volume_bytes();
        file.set_len(bytes).map_err(|error| fail("resize", error))?;
        let (mut start, mut end) = (0, super::layout::LEAD_BYTES);
        for segment in 0..=layout.segments {
            let withheld = segment == layout.segments || is_withheld(segment);
            if !withheld {
                end = layout.segment_at(segment).0 + u64::from(layout.segment_bytes);
                continue;
            }
            if end > start {
                self.fallocate(FallocateFlags::empty(), start, end - start)?;
            }
            if segment < layout.segments {
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                start = layout.segment_at(segment).0;
                self.fallocate(hole, start, u64::from(layout.segment_bytes))?;
                start += u64::from(layout.segment_bytes);
                end = start;
            }
        }
        file.sync_all().map_err(|error| fail("sync", error))
    }

    fn fallocate(&self, flags: FallocateFlags, start: u64, bytes: u64) -> Result<(), StoreError> {
        let as_offset = |bytes: u64| i64::try_from(bytes).expect("files are shorter than 2^63");
        loop {
            match fallocate(self.os_file(), flags, as_offset(start), as_offset(bytes)) {
                Err(Errno::EINTR) => {}
                Err(Errno::ENOSPC) => {
                    let available = self.room_bytes()?.saturating_sub(self.used_bytes()?);
                    return Err(StoreError::NoSpace {
                        place: self.place.to_string(),
                        needed: bytes,
                        available,
                    });
                }
                // The length alone bounds the file then; running out of space is a miss.
                Err(Errno::EOPNOTSUPP) => {
                    tracing::warn!(place = %self.place, "the file system cannot reserve space");
                    return Ok(());
                }
                done => return done.map_err(|errno| StoreError::io(&self.place, "fallocate", errno.into())),
            }
        }
    }
}
