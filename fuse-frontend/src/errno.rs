//! Errors as the kernel speaks them: the only place where an errno is chosen.

use std::fmt;

/// An errno, positive as in `errno.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// No such name.
    pub const NOENT: Self = Self(libc::ENOENT);
    /// Not a directory.
    pub const NOTDIR: Self = Self(libc::ENOTDIR);
    /// A directory where a file was wanted.
    pub const ISDIR: Self = Self(libc::EISDIR);
    /// The origin did not give the bytes within the deadline.
    pub const IO: Self = Self(libc::EIO);
    /// The version that this node names was replaced at the origin, and the bytes are not cached.
    pub const STALE: Self = Self(libc::ESTALE);
    /// The call makes no sense for this node.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// No such attribute.
    pub const NODATA: Self = Self(libc::ENODATA);
    /// The data set is read-only.
    pub const ROFS: Self = Self(libc::EROFS);
    /// The buffer given is too small.
    pub const RANGE: Self = Self(libc::ERANGE);
    /// The call is not implemented: the kernel does not send it again.
    pub const NOSYS: Self = Self(libc::ENOSYS);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}
