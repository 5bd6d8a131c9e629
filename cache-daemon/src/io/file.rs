//! Files: what engines read and write: an open file or block device, or a simulated one.
//!
//! The store holds [`DeviceFile`]s and never asks which it has; engines do, once, when a file is
//! registered. The blocking calls here are for the rare paths (superblocks, recovery without an engine).

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::DeviceOffset;
use super::sim::SimDevice;

/// A file for an engine; clones are the same open file.
#[derive(Clone, Debug)]
pub struct DeviceFile(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Os(Arc<File>),
    Sim(SimDevice),
}

/// Opens `path` as `options` say (std sets O_CLOEXEC), then past the page cache where that can be.
///
/// A file system without direct I/O (tmpfs before 6.6) refuses O_DIRECT with EINVAL; the file stays
/// open without it, and [`DeviceFile::is_direct`] tells. Set after opening because open(2) with O_DIRECT
/// may fail after it has created the file.
pub fn open_direct(path: &Path, options: &OpenOptions) -> io::Result<DeviceFile> {
    let file = options.open(path)?;
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    match fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)) {
        Ok(_) | Err(nix::Error::EINVAL) => Ok(DeviceFile::from(file)),
        Err(error) => Err(error.into()),
    }
}

impl DeviceFile {
    /// The open file, unless it is simulated: for fallocate, fstat and the like.
    pub fn as_file(&self) -> Option<&File> {
        match &self.0 {
            Kind::Os(file) => Some(file),
            Kind::Sim(_) => None,
        }
    }

    /// Whether I/O goes past the page cache (O_DIRECT is set).
    pub fn is_direct(&self) -> bool {
        match &self.0 {
            Kind::Os(file) => fcntl(file, FcntlArg::F_GETFL)
                .is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT)),
            Kind::Sim(_) => true,
        }
    }

    /// Its size in bytes now: of the file, or of the whole device.
    pub fn size_bytes(&self) -> io::Result<u64> {
        match &self.0 {
            // stat says 0 for block devices, seeking says their size.
            Kind::Os(file) => (&**file).seek(SeekFrom::End(0)),
            Kind::Sim(device) => Ok(device.size_bytes()),
        }
    }

    /// Reads into all of `into`, blocking. For direct files memory, length and `at` are aligned to [`super::ALIGN_BYTES`].
    pub fn read_exact_at(&self, into: &mut [u8], at: DeviceOffset) -> io::Result<()> {
        match &self.0 {
            Kind::Os(file) => file.read_exact_at(into, at.0),
            Kind::Sim(device) => {
                let short = io::ErrorKind::UnexpectedEof;
                all(into.len(), short, |done| device.read_at(&mut into[done..], at + done))
            }
        }
    }

    /// Writes all of `from`, blocking. Aligned like [`DeviceFile::read_exact_at`].
    pub fn write_all_at(&self, from: &[u8], at: DeviceOffset) -> io::Result<()> {
        match &self.0 {
            Kind::Os(file) => file.write_all_at(from, at.0),
            Kind::Sim(device) => {
                let short = io::ErrorKind::WriteZero;
                all(from.len(), short, |done| device.write_at(&from[done..], at + done))
            }
        }
    }

    /// Makes what was written durable (fdatasync), blocking. A failed sync is never retried into believing.
    pub fn sync(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Os(file) => file.sync_data(),
            Kind::Sim(device) => device.sync(),
        }
    }
}

/// Repeats `part` until `len` bytes are done; signals do not end it, no progress does, as `stuck`.
fn all(len: usize, stuck: io::ErrorKind, mut part: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match part(done) {
            Ok(0) => return Err(stuck.into()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl From<File> for DeviceFile {
    fn from(file: File) -> Self {
        Self(Kind::Os(Arc::new(file)))
    }
}

impl From<OwnedFd> for DeviceFile {
    fn from(fd: OwnedFd) -> Self {
        File::from(fd).into()
    }
}

impl From<SimDevice> for DeviceFile {
    fn from(device: SimDevice) -> Self {
        Self(Kind::Sim(device))
    }
}

/// The real file, for engines that talk to the kernel.
pub(super) fn os_file(file: DeviceFile) -> io::Result<Arc<File>> {
    match file.0 {
        Kind::Os(file) => Ok(file),
        Kind::Sim(_) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated device in a real engine"))
        }
    }
}

/// The simulated device, for the engine that simulates.
pub(super) fn sim_device(file: DeviceFile) -> io::Result<SimDevice> {
    match file.0 {
        Kind::Sim(device) => Ok(device),
        Kind::Os(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a real file in the simulated engine")),
    }
}
