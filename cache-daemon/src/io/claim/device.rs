//! Block devices: opened for us alone, past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use memmap2::MmapMut;

use super::signature::{Contents, HEAD_BYTES, inspect};
use super::{ClaimError, check_blocks, claim_error};
use crate::io::{DeviceFile, DeviceOffset};

/// A block device that nobody else can use while this lives.
#[derive(Debug)]
pub struct ClaimedDevice {
    /// For an engine, or for blocking calls.
    pub file: DeviceFile,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The unit of its I/O: 512 or 4096 bytes.
    pub logical_block_bytes: u32,
    /// What its first MiB says it is used for.
    pub contents: Contents,
}

nix::ioctl_read_bad!(
    /// Logical block size in bytes (`int`), Linux `block/ioctl.c`.
    logical_block_size,
    libc::BLKSSZGET,
    libc::c_int
);
nix::ioctl_read!(
    /// Size in bytes (`u64`, although its number says `size_t`), Linux `block/ioctl.c`.
    size_in_bytes,
    0x12,
    114,
    libc::size_t
);
nix::ioctl_read_bad!(
    /// Whether it is read-only (`int`), Linux `block/ioctl.c`.
    is_read_only,
    nix::request_code_none!(0x12, 94),
    libc::c_int
);

/// Opens the block device at `path` (symbolic links followed: `/dev/disk/by-id/...`) for us alone.
///
/// `own_magic` is what a store of ours begins with.
pub fn claim_device(path: &Path, own_magic: &[u8]) -> Result<ClaimedDevice, ClaimError> {
    let kind = std::fs::metadata(path).map_err(|error| claim_error(path, "look at it", error))?.file_type();
    if !kind.is_block_device() {
        return Err(ClaimError::Kind(path.to_owned()));
    }
    let file = open(path).map_err(|error| claim_error(path, "open it", error))?;
    // Opening a read-only device for writing succeeds, and every write then fails with EPERM
    // (`blkdev_write_iter`, Linux `block/fops.c`).
    if ask(&file, is_read_only).map_err(|error| claim_error(path, "ask whether it is read-only", error))? != 0
    {
        return Err(ClaimError::ReadOnly(path.to_owned()));
    }
    describe(file, own_magic)
        .map_err(|error| claim_error(path, "read its size and its first MiB", error))
        .and_then(|device| {
            check_blocks(path, device.logical_block_bytes)?;
            Ok(device)
        })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_DIRECT).open(path)
}

fn describe(file: File, own_magic: &[u8]) -> io::Result<ClaimedDevice> {
    let size_bytes = ask(&file, size_in_bytes)? as u64;
    let logical_block_bytes = ask(&file, logical_block_size)?.unsigned_abs();
    // A mapping, because direct I/O wants memory aligned to the device's blocks.
    let mut head = MmapMut::map_anon(HEAD_BYTES)?;
    let file = DeviceFile::from(file);
    let present = HEAD_BYTES.min(usize::try_from(size_bytes).unwrap_or(HEAD_BYTES));
    file.read_exact_at(&mut head[..present], DeviceOffset(0))?;
    Ok(ClaimedDevice {
        file,
        size_bytes,
        logical_block_bytes,
        contents: inspect(&head[..present], own_magic),
    })
}

/// Asks `file`'s device one question.
fn ask<T: Default>(file: &File, question: unsafe fn(i32, *mut T) -> nix::Result<i32>) -> io::Result<T> {
    let mut answer = T::default();
    // SAFETY: each question above is declared with the type that the kernel writes for it (on 64 bits
    // size_t is the u64 of BLKGETSIZE64).
    unsafe { question(file.as_raw_fd(), &raw mut answer) }?;
    Ok(answer)
}
