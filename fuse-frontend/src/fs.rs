//! fuser's `Filesystem`, translated into calls of a [`FileSource`] and back. Nothing is decided here.
//!
//! What fuser 0.18 does not offer: splice replies; and it answers INTERRUPT with ENOSYS, so an interrupted reader waits
//! for its bytes, for at most as long as the source takes. What it lacks in INIT is in `fs/init.rs`.
//!
//! Invariants
//! - A READ's answer is exactly as long as asked or up to the file's end, else EIO: the kernel takes a short answer for a
//!   file that shrank, and cuts its size (`fuse_short_read`, fs/fuse/file.c).
//! - A panic of the source costs its request (EIO), not the thread: when the last thread is gone, readers hang for ever.
//! - Each entry that reached the reply of a READDIRPLUS is one lookup, `.` and `..` excepted.

mod answer;
mod init;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::askers;
use crate::errno::Errno;
use crate::figures::{Kind, RequestCounts};
use crate::inode::{CONTROL_INO, Look};
use crate::negotiate::{Agreement, Mode};
use crate::push::Pusher;
use crate::source::{Attributes, Entry, FileSource, Ino, Walk, Xattr};
use crate::ticket::ReadTicket;
use crate::transport::passthrough::{Opened, Passthrough};
use answer::KernelAnswer;
pub(crate) use init::Wanted;
use init::agree;

/// Node numbers are never used twice in a mount's life, so the generation says nothing.
const GENERATION: Generation = Generation(0);

/// The block of statfs(2).
const STATFS_BLOCK_BYTES: u32 = 4096;

/// Positions of `.` and `..`; the source's positions follow.
const DOTS: u64 = 2;

/// One mount's translator.
pub(crate) struct Fs {
    source: Arc<dyn FileSource>,
    look: Look,
    wanted: Wanted,
    mode: Mode,
    counts: Arc<RequestCounts>,
    passthrough: Arc<Passthrough>,
    pusher: Arc<Pusher>,
    agreed: Arc<OnceLock<Agreement>>,
}

impl Fs {
    pub fn new(
        source: Arc<dyn FileSource>,
        look: Look,
        wanted: Wanted,
        counts: Arc<RequestCounts>,
        passthrough: Arc<Passthrough>,
        pusher: Arc<Pusher>,
        agreed: Arc<OnceLock<Agreement>>,
    ) -> Self {
        Self { source, look, wanted, mode: Mode::Open, counts, passthrough, pusher, agreed }
    }

    /// Counts a request and runs it; if it panics, its reply is dropped, which answers EIO.
    fn serve(&self, kind: Kind, request: impl FnOnce()) {
        self.counts.asked(kind);
        // What a panic may leave half done is the source's own state, which guards itself.
        if catch_unwind(AssertUnwindSafe(request)).is_err() {
            self.counts.panicked();
            tracing::error!(?kind, "a request ended in a panic and was answered with EIO");
        }
    }

    fn error(&self, errno: Errno) -> fuser::Errno {
        self.counts.failed(errno);
        fuser::Errno::from_i32(errno.0)
    }

    fn refuse(&self) -> fuser::Errno {
        self.counts.asked(Kind::Refused);
        self.error(Errno::ROFS)
    }

    fn attr(&self, ino: Ino) -> Result<fuser::FileAttr, Errno> {
        match self.look.control_attr(ino) {
            Some(attr) => Ok(attr),
            None => self.source.attributes(ino).map(|node| self.look.attr(&node)),
        }
    }

    fn entry(&self, dir: Ino, name: &[u8]) -> Result<fuser::FileAttr, Errno> {
        if self.look.is_control(dir, name) {
            return self.look.control_attr(CONTROL_INO).ok_or(Errno::NOENT);
        }
        self.source.lookup(dir, name).map(|node| self.look.attr(&node))
    }

    fn forget_one(&self, ino: Ino, lookups: u64) {
        if ino != CONTROL_INO {
            // First, because the source may give the number to another node.
            self.passthrough.forget(&*self.source, ino);
            self.pusher.forgotten(ino);
            self.source.forget(ino, lookups);
        }
    }

    /// Lists `dir` from the kernel's position `offset`: `.`, `..`, then the source's entries, until `put` is full.
    fn list(
        &self,
        dir: Ino,
        offset: u64,
        count_lookups: bool,
        put: &mut dyn FnMut(&[u8], &Attributes, u64) -> Walk,
    ) -> Result<(), Errno> {
        if offset < 1 && put(b".", &self.source.attributes(dir)?, 1) == Walk::Stop {
            return Ok(());
        }
        if offset < DOTS {
            let parent = self.source.attributes(self.source.parent(dir)?)?;
            if put(b"..", &parent, DOTS) == Walk::Stop {
                return Ok(());
            }
        }
        let mut hidden = None;
        let mut take = |entry: Entry<'_>| {
            if self.look.is_control(dir, entry.name) {
                hidden = Some(entry.attributes.ino);
                return Walk::Continue;
            }
            put(entry.name, &entry.attributes, entry.next + DOTS)
        };
        let walked = self.source.entries(dir, offset.saturating_sub(DOTS), count_lookups, &mut take);
        // An object that is called like our symlink is not shown, so the kernel did not look it up.
        if let Some(ino) = hidden.filter(|_| count_lookups) {
            self.source.forget(ino, 1);
        }
        walked
    }

    fn xattr_value(&self, ino: Ino, name: &[u8]) -> Result<bytes::Bytes, Errno> {
        let xattr = xattr_named(name).filter(|_| ino != CONTROL_INO).ok_or(Errno::NODATA)?;
        self.source.xattr(ino, xattr)
    }

    fn xattr_names(&self, ino: Ino) -> Vec<u8> {
        let shown =
            XATTRS.iter().filter(|&&(_, xattr)| ino != CONTROL_INO && self.source.xattr(ino, xattr).is_ok());
        shown.flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat()).collect()
    }

    /// Sends a value of an extended attribute the way the call wants it: its size, or itself if it fits.
    fn send_xattr(&self, value: &[u8], room: u32, reply: ReplyXattr) {
        match u32::try_from(value.len()) {
            Ok(size) if room == 0 => reply.size(size),
            Ok(size) if size <= room => reply.data(value),
            _ => reply.error(self.error(Errno::RANGE)),
        }
    }

    fn start_open(&self, asker: u32, ino: Ino, reply: ReplyOpen) {
        self.passthrough.open(&*self.source, ino, |opened| {
            if opened != Opened::Stale {
                let passed_through = matches!(opened, Opened::Passthrough(_));
                self.source.opened(ino, askers::known(asker), passed_through);
            }
            self.send_opened(opened, reply);
        });
    }

    fn send_opened(&self, opened: Opened, reply: ReplyOpen) {
        match opened {
            Opened::Copy if self.wanted.direct_io => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH)
            }
            Opened::Copy => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH)
            }
            Opened::Stale => reply.error(self.error(Errno::STALE)),
            Opened::Passthrough(id) => {
                // SAFETY: the id is this connection's and open: only the RELEASE of the file that this reply opens lets
                // it be closed, and `into_raw` takes it back before anything else is done.
                let id = unsafe { reply.wrap_backing(id.0) };
                // FOPEN_KEEP_CACHE is not allowed with it (`FOPEN_PASSTHROUGH_MASK` in fs/fuse/iomode.c).
                reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &id);
                let _ = id.into_raw();
            }
        }
    }

    fn start_read(&self, asker: u32, ino: Ino, offset: u64, len: u32, reply: ReplyData) {
        let size_bytes = match self.source.attributes(ino) {
            Ok(node) => node.size_bytes,
            Err(errno) => return reply.error(self.error(errno)),
        };
        let expected = u64::from(len).min(size_bytes.saturating_sub(offset)) as usize;
        let answer = KernelAnswer {
            reply,
            ino,
            offset,
            asker,
            expected,
            started: Instant::now(),
            counts: self.counts.clone(),
        };
        let ticket = ReadTicket::new(answer);
        if expected == 0 {
            return ticket.data(&[]);
        }
        self.source.read(ino, offset, len, ticket);
    }
}

const XATTRS: [(&str, Xattr); 2] = [("user.etag", Xattr::Etag), ("user.origin", Xattr::Origin)];

fn xattr_named(name: &[u8]) -> Option<Xattr> {
    XATTRS.iter().find(|(known, _)| known.as_bytes() == name).map(|&(_, xattr)| xattr)
}

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreement = agree(&self.wanted, config)?;
        self.mode = agreement.mode;
        self.passthrough.agree(agreement.passthrough);
        // INIT comes once in a connection's life.
        let _ = self.agreed.set(agreement);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(Kind::Lookup, || match self.entry(Ino(parent.0), name.as_bytes()) {
            Ok(attr) => reply.entry(&self.source.ttl(), &attr, GENERATION),
            Err(errno) => reply.error(self.error(errno)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        self.serve(Kind::Forget, || self.forget_one(Ino(ino.0), lookups));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Kind::Getattr, || match self.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&self.source.ttl(), &attr),
            Err(errno) => reply.error(self.error(errno)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve(Kind::Readlink, || match &self.look.control_dir {
            Some(target) if Ino(ino.0) == CONTROL_INO => reply.data(target.as_os_str().as_bytes()),
            _ => reply.error(self.error(Errno::INVAL)),
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(Kind::Open, || match self.mode {
            Mode::NoOpen => reply.error(self.error(Errno::NOSYS)),
            // The kernel refuses this itself unless someone remounted read-write.
            Mode::Open if flags.acc_mode() != OpenAccMode::O_RDONLY => reply.error(self.error(Errno::ROFS)),
            Mode::Open => self.start_open(req.pid(), Ino(ino.0), reply),
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(Kind::Read, || self.start_read(req.pid(), Ino(ino.0), offset, size, reply));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.counts.asked(Kind::Flush);
        reply.error(self.error(Errno::NOSYS));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(Kind::Release, || self.passthrough.release(&*self.source, Ino(ino.0), || reply.ok()));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.counts.asked(Kind::Opendir);
        match self.mode {
            Mode::NoOpen => reply.error(self.error(Errno::NOSYS)),
            Mode::Open => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE)
            }
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.serve(Kind::Readdir, || {
            let mut put = |name: &[u8], node: &Attributes, next: u64| {
                let attr = self.look.attr(node);
                walk(reply.add(attr.ino, next, attr.kind, OsStr::from_bytes(name)))
            };
            match self.list(Ino(ino.0), offset, false, &mut put) {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(self.error(errno)),
            }
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.serve(Kind::Readdirplus, || {
            let ttl = self.source.ttl();
            let mut put = |name: &[u8], node: &Attributes, next: u64| {
                let attr = self.look.attr(node);
                walk(reply.add(attr.ino, next, OsStr::from_bytes(name), &ttl, &attr, GENERATION))
            };
            match self.list(Ino(ino.0), offset, true, &mut put) {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(self.error(errno)),
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.counts.asked(Kind::Releasedir);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(Kind::Statfs, || {
            let capacity = self.source.capacity();
            let blocks = capacity.total_bytes.div_ceil(u64::from(STATFS_BLOCK_BYTES));
            reply.statfs(blocks, 0, 0, capacity.files, 0, STATFS_BLOCK_BYTES, 255, STATFS_BLOCK_BYTES);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(Kind::Getxattr, || match self.xattr_value(Ino(ino.0), name.as_bytes()) {
            Ok(value) => self.send_xattr(&value, size, reply),
            Err(errno) => reply.error(self.error(errno)),
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(Kind::Listxattr, || self.send_xattr(&self.xattr_names(Ino(ino.0)), size, reply));
    }

    // What the kernel stops asking for after one ENOSYS.

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.error(Errno::NOSYS));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.error(Errno::NOSYS));
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(self.error(Errno::NOSYS));
    }

    // Refusals. The mount is read-only, so the kernel refuses before it asks; these are for one that was
    // remounted read-write.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(self.refuse());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(self.refuse());
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }
}

fn walk(full: bool) -> Walk {
    if full { Walk::Stop } else { Walk::Continue }
}
