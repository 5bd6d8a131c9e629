//! Why a mount could not start or end, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// What can go wrong with a mount; the message is one line for the user.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum MountError {
    #[error("mountpoint {} does not exist: create it with mkdir -p", .path.display())]
    Missing { path: PathBuf },
    #[error("mountpoint {} is not a directory", .path.display())]
    NotADirectory { path: PathBuf },
    #[error("mountpoint {} is not empty: choose an empty directory, or allow it to be hidden", .path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is already a mount of {fs_source} ({fs_type}): unmount it first, or choose another directory", .path.display())]
    AlreadyMounted { path: PathBuf, fs_type: String, fs_source: String },
    #[error("{} is a dead {fs_type} mount of another program: end it with umount -l, or fusermount3 -u -z", .path.display())]
    DeadMount { path: PathBuf, fs_type: String },
    #[error("a dead epochcache mount at {} could not be unmounted: {error}", .path.display())]
    DeadMountStays { path: PathBuf, error: io::Error },
    #[error("mountpoint {} cannot be used: {error}", .path.display())]
    Mountpoint { path: PathBuf, error: io::Error },
    #[error(
        "/dev/fuse is missing: load the kernel module (modprobe fuse); in a container, pass --device /dev/fuse"
    )]
    NoDevice,
    #[error(
        "/dev/fuse cannot be opened: {0}; its mode should be 0666, and a container needs --device /dev/fuse"
    )]
    Device(io::Error),
    #[error(
        "fusermount3 is missing, which mounts for an ordinary user: install the package fuse3 (apt install fuse3)"
    )]
    NoFusermount,
    #[error(
        "mounting is not permitted here: {0}; in a container, pass --device /dev/fuse --cap-add SYS_ADMIN"
    )]
    NotPermitted(String),
    #[error(
        "allow_other needs the line user_allow_other in /etc/fuse.conf when an ordinary user mounts: add it as root, \
         or mount without allow_other"
    )]
    AllowOther,
    #[error("mount failed: {0}")]
    Mount(String),
    #[error("the kernel and we could not agree on a session: {0}")]
    Handshake(io::Error),
    #[error("serving threads could not be started: {0}")]
    Threads(io::Error),
    #[error("{} could not be unmounted: {error}", .path.display())]
    Unmount { path: PathBuf, error: String },
    #[error("{} is covered by another mount, which has to go first", .path.display())]
    Covered { path: PathBuf },
}
