//! How nodes look from outside: owner and mode are the mount's, the rest is the source's.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

use crate::source::{Attributes, Ino, NodeKind};

/// The name under which the control directory is found in the root; it is never listed.
pub(crate) const CONTROL_NAME: &[u8] = b".epochcache";

/// The control symlink's number: the last one, because the source's are dense and start at 1.
pub(crate) const CONTROL_INO: Ino = Ino(u64::MAX);

/// What `st_blksize` says: the page size. Readers size their buffers by it, and the kernel's readahead, not
/// the reader's buffer, decides how much a READ asks for.
const BLOCK_BYTES: u32 = 4096;

/// Owner and modes of a mount.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub uid: u32,
    pub gid: u32,
    pub file_mode: u16,
    pub dir_mode: u16,
    /// The target of the control symlink, if the mount has one.
    pub control_dir: Option<PathBuf>,
}

impl Look {
    /// The attributes as the kernel takes them.
    pub fn attr(&self, node: &Attributes) -> FileAttr {
        let (kind, perm) = match node.kind {
            NodeKind::Directory => (FileType::Directory, self.dir_mode),
            NodeKind::File => (FileType::RegularFile, self.file_mode),
        };
        self.made(node.ino, kind, perm, node.size_bytes, node.links, node.modified)
    }

    /// The control symlink's attributes, if `ino` is its number and the mount has one.
    pub fn control_attr(&self, ino: Ino) -> Option<FileAttr> {
        let target = self.control_dir.as_ref().filter(|_| ino == CONTROL_INO)?;
        let size_bytes = target.as_os_str().as_bytes().len() as u64;
        Some(self.made(ino, FileType::Symlink, 0o777, size_bytes, 1, SystemTime::UNIX_EPOCH))
    }

    /// Whether `name` in `dir` is the control symlink's.
    pub fn is_control(&self, dir: Ino, name: &[u8]) -> bool {
        dir == Ino::ROOT && name == CONTROL_NAME && self.control_dir.is_some()
    }

    fn made(
        &self,
        ino: Ino,
        kind: FileType,
        perm: u16,
        size: u64,
        nlink: u32,
        modified: SystemTime,
    ) -> FileAttr {
        // A time before 1970 is an origin's nonsense.
        let modified = modified.max(SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: INodeNo(ino.0),
            size,
            blocks: size.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind,
            perm,
            nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}
