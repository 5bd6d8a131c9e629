//! The medium of a volume: one preallocated file in a directory, or a whole block device or partition.
//!
//! Both are a file with the same layout; they differ in how their space is had. A file's is reserved
//! up front (fallocate(2)), and given back segment by segment by punching holes, so that the limit
//! holds in blocks whatever the file's length is.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::error::StoreError;
use super::layout::{Layout, PAGE_BYTES};
use super::superblock::{self, Found, Superblock};
use crate::io::claim::{ClaimError, Contents, claim_device};
use crate::io::{BufferPool, DeviceFile, open_direct};

/// The name of a volume's file in its directory.
pub const FILE_NAME: &str = "segments";

/// A ring lets go of its files some time after its process has ended (`io_ring_exit_work`, Linux
/// `io_uring/io_uring.c`): a daemon that is started right after another must wait for that.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

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
    kind: Kind,
}

enum Kind {
    /// A file, locked as long as this lives.
    File { _lock: Flock<File> },
    /// A block device, opened with O_EXCL.
    Device { size_bytes: u64 },
}

impl Medium {
    /// Opens `place` for this daemon alone. Nothing is written, but the file is made; and the directory, if
    /// that is asked for.
    ///
    /// A device with foreign content is refused, unless it is to be formatted.
    pub fn open(place: &Place, format: bool, create: bool) -> Result<Self, StoreError> {
        let started = Instant::now();
        loop {
            let opened = match place {
                Place::Directory(path) => Self::open_directory(place, path, create),
                Place::Device(path) => Self::open_device(place, path, format),
            };
            match opened {
                Err(StoreError::Claim(ClaimError::Busy(_))) if started.elapsed() < RELEASE_WAIT => {
                    std::thread::sleep(RELEASE_WAIT / 100);
                }
                opened => return opened,
            }
        }
    }

    fn open_device(place: &Place, path: &Path, format: bool) -> Result<Self, StoreError> {
        let claimed = claim_device(path, &superblock::MAGIC)?;
        let medium = Self {
            place: place.clone(),
            file: claimed.file,
            kind: Kind::Device { size_bytes: claimed.size_bytes },
        };
        let found = match claimed.contents {
            Contents::Own | Contents::Blank => return Ok(medium),
            _ if format => return Ok(medium),
            Contents::Foreign(signature) => format!("it holds {signature}"),
            Contents::Unknown => {
                // The first superblock may be damaged and the other whole.
                if medium.length_bytes()? >= super::layout::LEAD_BYTES
                    && matches!(Superblock::load(medium.file()), Ok(Found::Ours(_)))
                {
                    return Ok(medium);
                }
                "it is not empty".to_owned()
            }
        };
        Err(StoreError::Foreign { place: place.to_string(), found })
    }

    fn open_directory(place: &Place, path: &Path, create: bool) -> Result<Self, StoreError> {
        if create
            && let Err(error) = DirBuilder::new().mode(0o700).create(path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(StoreError::io(place, "create it", error));
        }
        if !path.is_dir() {
            return Err(ClaimError::Missing(path.to_owned()).into());
        }
        let path = path.join(FILE_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open_direct(&path, &options).map_err(|error| StoreError::io(place, "open it", error))?;
        let own = file.as_file().expect("opened by path").try_clone();
        let own = own.map_err(|error| StoreError::io(place, "open it", error))?;
        let lock = Flock::lock(own, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => ClaimError::Busy(place.path().to_owned()).into(),
            errno => StoreError::io(place, "lock it", errno.into()),
        })?;
        let medium = Self { place: place.clone(), file, kind: Kind::File { _lock: lock } };
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
        matches!(self.kind, Kind::Device { .. })
    }

    /// Gives back all of its space, after what could not be finished.
    pub fn give_back(&self) {
        if let Kind::File { .. } = self.kind
            && let Err(error) = self.os_file().set_len(0)
        {
            tracing::warn!(place = %self.place, %error, "cannot give back the space");
        }
    }

    /// Its length in bytes.
    pub fn length_bytes(&self) -> Result<u64, StoreError> {
        match self.kind {
            Kind::File { .. } => Ok(self.metadata()?.len()),
            Kind::Device { size_bytes } => Ok(size_bytes),
        }
    }

    /// Bytes on disk that a volume of `layout` takes on it now.
    pub fn used_bytes(&self, layout: &Layout) -> Result<u64, StoreError> {
        match self.kind {
            Kind::File { .. } => Ok(self.metadata()?.blocks() * 512),
            Kind::Device { size_bytes } => Ok(layout.volume_bytes().min(size_bytes)),
        }
    }

    /// Bytes that it can take at most: what it has and what is free.
    pub fn room_bytes(&self) -> Result<u64, StoreError> {
        match self.kind {
            Kind::File { .. } => Ok(self.metadata()?.blocks() * 512 + self.available_bytes()?),
            Kind::Device { size_bytes } => Ok(size_bytes),
        }
    }

    fn available_bytes(&self) -> Result<u64, StoreError> {
        let system = nix::sys::statvfs::fstatvfs(self.os_file());
        let system = system.map_err(|errno| StoreError::io(&self.place, "statvfs", errno.into()))?;
        Ok(system.blocks_available() * system.fragment_size())
    }

    fn metadata(&self) -> Result<Metadata, StoreError> {
        self.os_file().metadata().map_err(|error| StoreError::io(&self.place, "stat", error))
    }

    /// Reserves the space of `layout`, without the segments that `is_withheld` names: those are given back,
    /// with what is in them.
    pub fn reserve(&self, layout: &Layout, is_withheld: &dyn Fn(u32) -> bool) -> Result<(), StoreError> {
        if self.is_device() {
            return self.erase_headers(layout, is_withheld);
        }
        let file = self.os_file();
        let fail = |what, error| StoreError::io(&self.place, what, error);
        file.set_len(layout.volume_bytes()).map_err(|error| fail("resize it", error))?;
        let mut start = 0;
        let mut end = super::layout::LEAD_BYTES;
        // Holes first: what they free may be what the rest needs.
        for segment in (0..layout.segments).filter(|segment| is_withheld(*segment)) {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            self.fallocate(hole, layout.segment_at(segment).0, u64::from(layout.segment_bytes))?;
        }
        for segment in 0..layout.segments {
            let next = layout.segment_at(segment).0 + u64::from(layout.segment_bytes);
            if !is_withheld(segment) {
                end = next;
                continue;
            }
            if end > start {
                self.fallocate(FallocateFlags::empty(), start, end - start)?;
            }
            (start, end) = (next, next);
        }
        if end > start {
            self.fallocate(FallocateFlags::empty(), start, end - start)?;
        }
        file.sync_all().map_err(|error| fail("sync it", error))
    }

    /// Reserves the space of the segments of `layout` from number `from` on, which is new.
    pub fn extend(&self, layout: &Layout, from: u32) -> Result<(), StoreError> {
        if self.is_device() || from >= layout.segments {
            return Ok(());
        }
        let file = self.os_file();
        let fail = |what, error| StoreError::io(&self.place, what, error);
        file.set_len(layout.volume_bytes()).map_err(|error| fail("resize it", error))?;
        let start = layout.segment_at(from).0;
        self.fallocate(FallocateFlags::empty(), start, layout.volume_bytes() - start)?;
        file.sync_all().map_err(|error| fail("sync it", error))
    }

    /// Makes `is_withheld` segments of a device look as if nothing had ever been in them.
    fn erase_headers(&self, layout: &Layout, is_withheld: &dyn Fn(u32) -> bool) -> Result<(), StoreError> {
        let erase = || -> io::Result<()> {
            let mut page = BufferPool::new(1, PAGE_BYTES as usize)?.take().expect("it has one buffer");
            page.fill(0);
            for segment in (0..layout.segments).filter(|segment| is_withheld(*segment)) {
                self.file.write_all_at(&page, layout.segment_at(segment))?;
            }
            self.file.sync()
        };
        erase().map_err(|error| StoreError::io(&self.place, "write", error))
    }

    fn fallocate(&self, flags: FallocateFlags, start: u64, bytes: u64) -> Result<(), StoreError> {
        let as_offset = |bytes: u64| i64::try_from(bytes).expect("files are shorter than 2^63");
        loop {
            match fallocate(self.os_file(), flags, as_offset(start), as_offset(bytes)) {
                Err(Errno::EINTR) => {}
                Err(Errno::ENOSPC) => {
                    let available = self.available_bytes()?;
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
