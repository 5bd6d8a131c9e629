//! The kernel's rule of one mode an inode, asked of the running kernel: what `transport/iomode.rs` is built on, and
//! what its model test transcribes. Were a later kernel to relax or to tighten it, this fails first.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackingId, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, OpenFlags, ReplyAttr, ReplyEntry, ReplyOpen, Request,
};
use parking_lot::Mutex;

use crate::backed::{Backed, backing_dir};

const TTL: Duration = Duration::from_secs(3600);

/// How the next OPEN is answered.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Cached,
    /// With the id in this place, registered if there is none.
    Passthrough(usize),
    /// With KEEP_CACHE beside, which is no flag of passthrough.
    KeepCache,
}

/// What the test and the serving thread share.
struct Script {
    next: Answer,
    ids: [Option<BackingId>; 2],
    local: File,
}

/// A root with one file.
struct OneFile(Arc<Mutex<Script>>);

fn attr(ino: INodeNo) -> FileAttr {
    let (kind, size) =
        if ino == INodeNo::ROOT { (FileType::Directory, 0) } else { (FileType::RegularFile, 4096) };
    let time = SystemTime::UNIX_EPOCH;
    let (atime, mtime, ctime, crtime) = (time, time, time, time);
    FileAttr {
        ino,
        size,
        blocks: 8,
        atime,
        mtime,
        ctime,
        crtime,
        kind,
        perm: 0o555,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| io::ErrorKind::Unsupported)?;
        config.set_max_stack_depth(1).map_err(|_| io::ErrorKind::Unsupported)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry(&TTL, &attr(INodeNo(2)), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let script = &mut *self.0.lock();
        let (at, flags) = match script.next {
            Answer::Cached => return reply.opened(FileHandle(0), FopenFlags::empty()),
            Answer::Passthrough(at) => (at, FopenFlags::FOPEN_NOFLUSH),
            Answer::KeepCache => (0, FopenFlags::FOPEN_KEEP_CACHE),
        };
        let id = script.ids[at].get_or_insert_with(|| reply.open_backing(&script.local).unwrap());
        reply.opened_passthrough(FileHandle(0), flags, id);
    }
}

#[test]
fn the_running_kernel_keeps_the_rule_that_the_modes_are_built_on() {
    use Answer::{Cached, KeepCache, Passthrough};
    // Whether there is passthrough here at all is asked of a mount of ours.
    if Backed::new(&[1]).is_none() {
        return;
    }
    let (dir, mountpoint) = (backing_dir(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("local"), [1; 4096]).unwrap();
    let local = File::open(dir.path().join("local")).unwrap();
    let script = Arc::new(Mutex::new(Script { next: Cached, ids: [None, None], local }));
    let session = fuser::spawn_mount(OneFile(script.clone()), mountpoint.path(), &Config::default()).unwrap();
    let open = |answer| {
        script.lock().next = answer;
        File::open(mountpoint.path().join("file"))
    };
    let refused = |answer| match open(answer) {
        Ok(_) => panic!("{answer:?} was taken"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{answer:?}"),
    };

    // One mode at a time, from the first open to the last close.
    let (first, second) = (open(Cached).unwrap(), open(Cached).unwrap());
    drop(first);
    refused(Passthrough(0));
    drop(second);
    let (first, second) = (open(Passthrough(0)).unwrap(), open(Passthrough(0)).unwrap());
    drop(first);
    refused(Cached);
    // Another id of the same file is another file, even if the first id is closed.
    refused(Passthrough(1));
    script.lock().ids[0] = None;
    refused(Passthrough(1));
    refused(Cached);
    drop(second);
    // Then anything goes.
    drop(open(Passthrough(1)).unwrap());
    drop(open(Cached).unwrap());
    refused(KeepCache);
    drop(open(Cached).unwrap());
    drop(session);
}
