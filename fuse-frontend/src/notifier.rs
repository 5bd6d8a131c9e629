//! Telling the kernel: a name or a node changed, or here are bytes before anyone asked.
//!
//! **The deadlock rule** (docs/architecture.md): every call here may wait inside the kernel. A changed name takes
//! the lock of its directory, which a LOOKUP or READDIR that we have not answered yet holds; a changed node and
//! stored bytes wait for folios that an unanswered READ has locked. So a notifier is used only on threads that no
//! reply depends on, holding no lock that a thread which answers may need. Never from a [`crate::source::FileSource`]
//! method, never from a thread that completes tickets.
//!
//! The messages are written here, not by fuser, because fuser hides `ENOENT` (the kernel does not know the node),
//! which for pushed bytes is the difference between spent and free budget.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Weak;

use crate::source::Ino;

/// `enum fuse_notify_code` of include/uapi/linux/fuse.h.
const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_INVAL_ENTRY: i32 = 3;
const NOTIFY_STORE: i32 = 4;

/// Bytes of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;

/// Whether the kernel had what was notified about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notified {
    /// It had, and acted.
    Done,
    /// It does not know the node or the name (any more): nothing was cached, nothing is stored.
    Unknown,
}

/// Sends notifications for one mount; cheap to clone, and harmless after the mount is gone.
#[derive(Clone, Debug)]
pub struct Notifier {
    /// Weak, because an open descriptor keeps a connection alive whose threads are gone, and its readers waiting.
    device: Weak<OwnedFd>,
}

impl Notifier {
    pub(crate) fn new(device: Weak<OwnedFd>) -> Self {
        Self { device }
    }

    /// `name` in `parent` names another node now, or none, or is new: the kernel looks it up again, and lists the
    /// directory again.
    ///
    /// Two messages. INVAL_ENTRY alone leaves a cached listing in place when the name itself is not cached, which
    /// is so for every new name (`fuse_reverse_inval_entry` in fs/fuse/dir.c gives up before it marks the parent),
    /// so the parent's pages are dropped as well; that also costs a GETATTR of the parent.
    pub fn entry_changed(&self, parent: Ino, name: &[u8]) -> io::Result<Notified> {
        let length =
            u32::try_from(name.len()).map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        let body = [&parent.0.to_ne_bytes()[..], &length.to_ne_bytes(), &[0; 4]].concat();
        let entry = self.send(NOTIFY_INVAL_ENTRY, &body, &[name, &[0]].concat())?;
        self.node_changed(parent)?;
        Ok(entry)
    }

    /// The kernel forgets the attributes and the pages of `ino`.
    pub fn node_changed(&self, ino: Ino) -> io::Result<Notified> {
        // Offset 0 and length 0: to the end. A negative offset would keep the pages.
        self.inval_inode(ino, 0, 0)
    }

    /// The kernel forgets the attributes of `ino`, and its pages that `bytes`, which are not empty, touch.
    pub fn pages_changed(&self, ino: Ino, bytes: &Range<u64>) -> io::Result<Notified> {
        self.inval_inode(ino, bytes.start, bytes.end - bytes.start)
    }

    fn inval_inode(&self, ino: Ino, offset: u64, len: u64) -> io::Result<Notified> {
        let body = [ino.0.to_ne_bytes(), offset.to_ne_bytes(), len.to_ne_bytes()].concat();
        self.send(NOTIFY_INVAL_INODE, &body, &[])
    }

    /// Puts `bytes` of `ino` at `offset` into the page cache, as if a READ had been answered with them.
    ///
    /// Whole pages, or up to the file's end exactly: the kernel *grows* a file that is stored past its end, and a
    /// last page is marked up to date only if the bytes reach the end.
    pub fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<Notified> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let body = [&ino.0.to_ne_bytes()[..], &offset.to_ne_bytes(), &size.to_ne_bytes(), &[0; 4]].concat();
        self.send(NOTIFY_STORE, &body, bytes)
    }

    fn send(&self, code: i32, body: &[u8], data: &[u8]) -> io::Result<Notified> {
        let device = self.device.upgrade().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
        let length = u32::try_from(HEADER_BYTES + body.len() + data.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        // Unique 0 marks a notification; `error` then carries its code.
        let header = [&length.to_ne_bytes()[..], &code.to_ne_bytes(), &0u64.to_ne_bytes()].concat();
        let parts = [IoSlice::new(&header), IoSlice::new(body), IoSlice::new(data)];
        match nix::sys::uio::writev(&*device, &parts) {
            Ok(_) => Ok(Notified::Done),
            Err(nix::errno::Errno::ENOENT) => Ok(Notified::Unknown),
            Err(errno) => Err(errno.into()),
        }
    }
}
