//! Passthrough: the kernel reads a local file instead of asking us.
//!
//! An OPEN is answered with a *backing id*, a number that FUSE_DEV_IOC_BACKING_OPEN gave for a descriptor; read(2),
//! mmap, sendfile, O_DIRECT and io_uring then go to that file at the same offset, and no READ is sent
//! (fs/fuse/backing.c, passthrough.c; Linux 6.9). Registered once an inode and kept over closes, because the next epoch
//! opens it again; the descriptor is closed as soon as the id stands for it.
//!
//! An OPEN never waits: where the source has no whole, verified file, or the kernel refuses it, the open is served by
//! READs. So every failure here is a counter, and none reaches the reader.
//!
//! Closing an id that holds the last reference of an unlinked file frees its blocks, which takes the thread that does it
//! milliseconds for a large file: after the reply, and holding no lock.
//!
//! What this cannot see: a file that is truncated or written behind our back (readers get what is there; the store
//! never does that, its scrubber calls [`Passthrough::revoke`]), and mappings, which hold a file beyond its last RELEASE.
//!
//! Invariants
//! - Each file that the source gave is reported by [`FileSource::released`], or by [`Revoked::Now`], exactly once.
//! - No lock is held while the source or the kernel is called.

mod figures;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{OnceLock, Weak};

use parking_lot::Mutex;

use super::iomode::{BackingId, IoModes, Left, Opening};
pub use super::iomode::{Revoke, Revoked};
use crate::figures::Row;
use crate::negotiate::NoPassthrough;
use crate::source::{Backing, FileSource, Ino};
pub use figures::KERNEL_BYTES_PER_ID;
use figures::PassthroughFigures;

/// How an OPEN is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    /// By READs, with cached pages kept.
    Copy,
    /// With this backing id.
    Passthrough(BackingId),
    /// ESTALE.
    Stale,
}

/// The backing ids of one mount, and which opens use them.
#[derive(Debug)]
pub struct Passthrough {
    /// Weak, for the reason that [`crate::notifier::Notifier`]'s is.
    device: Weak<OwnedFd>,
    modes: Mutex<IoModes>,
    figures: PassthroughFigures,
    /// What INIT agreed on.
    agreed: OnceLock<Result<(), NoPassthrough>>,
    /// The kernel said EPERM after all: it is not asked again.
    refused: AtomicBool,
    warned: AtomicBool,
}

/// Every figure as it is before the first open: their names and meanings.
pub fn figures_at_start() -> Vec<Row> {
    PassthroughFigures::default().rows(0)
}

impl Passthrough {
    pub(crate) fn new(device: Weak<OwnedFd>, ids_max: usize) -> Self {
        Self {
            device,
            modes: Mutex::new(IoModes::new(ids_max)),
            figures: PassthroughFigures::default(),
            agreed: OnceLock::new(),
            refused: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        }
    }

    pub(crate) fn agree(&self, agreed: Result<(), NoPassthrough>) {
        // INIT comes once in a connection's life.
        let _ = self.agreed.set(agreed);
    }

    /// Whether whole files are passed through now, or why not.
    pub fn state(&self) -> Result<(), NoPassthrough> {
        if self.refused.load(Relaxed) {
            return Err(NoPassthrough::Refused);
        }
        self.agreed.get().copied().unwrap_or(Err(NoPassthrough::NoOpen))
    }

    /// Every figure, in a stable order.
    pub fn snapshot(&self) -> Vec<Row> {
        self.figures.rows(self.modes.lock().ids() as u64)
    }

    /// Takes back the file of `ino`: its object leaves the store, or its bytes are bad.
    ///
    /// From now on a first open of `ino` asks the source again, so the source stops offering the file before it calls
    /// this. A file that is open stays with the kernel until its last RELEASE, which [`FileSource::released`] reports:
    /// the kernel accepts no other way of opening it meanwhile. Unlinking the file at once is fine.
    ///
    /// [`Revoked::Now`] stands for the call of `released`, which then does not come: so that a caller may hold
    /// its own locks. May be called on any thread; may free the file's blocks before it returns.
    pub fn revoke(&self, ino: Ino, why: Revoke) -> Revoked {
        let (revoked, left) = self.modes.lock().revoke(ino, why);
        if let Some(left) = left {
            self.close_id(left.id);
        }
        if revoked != Revoked::NotRegistered {
            self.figures.revoked(why);
        }
        revoked
    }

    /// Decides about an OPEN of `ino`, and lets `answer` send the answer.
    pub(crate) fn open(&self, source: &dyn FileSource, ino: Ino, answer: impl FnOnce(Opened)) {
        if self.agreed.get() != Some(&Ok(())) {
            self.figures.copied();
            return answer(Opened::Copy);
        }
        let opening = self.modes.lock().open(ino);
        let (opening, left) = match opening {
            Opening::Ask => {
                // A panic of the source on the way would leave the open undecided for ever.
                let id = catch_unwind(AssertUnwindSafe(|| self.register(source, ino))).unwrap_or_else(|_| {
                    self.figures.panicked();
                    tracing::error!(ino = ino.0, "the source panicked when asked for a local file");
                    None
                });
                self.modes.lock().asked(ino, id)
            }
            opening => (opening, Vec::new()),
        };
        // Counted first: whoever has the file open finds it in the figures.
        self.figures.opened(opening);
        answer(match opening {
            Opening::Passthrough(id) => Opened::Passthrough(id),
            Opening::Stale => Opened::Stale,
            Opening::Copy | Opening::Full | Opening::Ask => Opened::Copy,
        });
        self.close(source, left);
    }

    /// Counts a RELEASE of `ino`, and lets `answer` send the answer.
    pub(crate) fn release(&self, source: &dyn FileSource, ino: Ino, answer: impl FnOnce()) {
        // Before the answer, because FORGET may follow it.
        let left = self.modes.lock().release(ino);
        answer();
        self.close(source, left);
    }

    /// The kernel forgot `ino`.
    pub(crate) fn forget(&self, source: &dyn FileSource, ino: Ino) {
        if self.agreed.get() == Some(&Ok(())) {
            let left = self.modes.lock().forget(ino);
            self.close(source, left);
        }
    }

    /// The connection is closed, and its ids with it.
    pub(crate) fn end(&self, source: &dyn FileSource) {
        let left = self.modes.lock().clear();
        left.into_iter().for_each(|left| source.released(left.ino));
    }

    fn close(&self, source: &dyn FileSource, left: impl IntoIterator<Item = Left>) {
        for left in left {
            self.close_id(left.id);
            source.released(left.ino);
        }
    }

    /// Registers the source's file of `ino`, if it has one that the kernel takes.
    fn register(&self, source: &dyn FileSource, ino: Ino) -> Option<BackingId> {
        if self.refused.load(Relaxed) {
            return None;
        }
        let backing = source.backing(ino)?;
        let id = match self.whole(source, ino, &backing) {
            true => self.open_id(&backing.file),
            false => {
                self.figures.mismatched();
                None
            }
        };
        drop(backing);
        if id.is_none() {
            source.released(ino);
        }
        id
    }

    /// Whether the file is what the port promises: regular, and exactly as long as the object.
    fn whole(&self, source: &dyn FileSource, ino: Ino, backing: &Backing) -> bool {
        let object_bytes = source.attributes(ino).map(|node| node.size_bytes);
        let file_bytes =
            backing.file.metadata().ok().filter(|found| found.is_file()).map(|found| found.size());
        let whole = object_bytes == Ok(backing.len) && file_bytes == Some(backing.len);
        if !whole {
            tracing::error!(
                ino = ino.0,
                promised_bytes = backing.len,
                ?object_bytes,
                ?file_bytes,
                "a backing file is not what its object is; it is not used"
            );
        }
        whole
    }

    fn open_id(&self, file: &File) -> Option<BackingId> {
        let device = self.device.upgrade()?;
        match ioctl::open(&device, file) {
            Ok(id) => {
                self.figures.registered();
                Some(id)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn close_id(&self, id: BackingId) {
        self.figures.closed();
        // Without the device the connection is gone, and with it the id.
        let Some(device) = self.device.upgrade() else { return };
        if let Err(error) = ioctl::close(&device, id) {
            tracing::error!(id = id.0, %error, "a backing id could not be closed");
        }
    }

    fn failed(&self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(0);
        self.figures.failed(errno);
        if errno == libc::EPERM {
            self.refused.store(true, Relaxed);
        }
        if !self.warned.swap(true, Relaxed) {
            let advice = match errno {
                libc::EPERM => "passthrough is off for this mount: it takes CAP_SYS_ADMIN",
                libc::ELOOP => {
                    "backing files have to be on a file system that is not stacked: ext4 or XFS, not overlayfs"
                }
                _ => "the kernel's log may say more",
            };
            tracing::warn!(%error, advice, "the kernel refused a backing file; it is served by copies (told once)");
        }
    }
}

/// Whether this thread may register files, as far as it can tell without trying.
///
/// The kernel asks for CAP_SYS_ADMIN in the *initial* user namespace (`fuse_backing_open`), so that of a rootless
/// container does not do.
pub(crate) fn permitted() -> Result<(), NoPassthrough> {
    /// `PROC_USER_INIT_INO` of include/linux/proc_ns.h.
    const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    if !has_sys_admin(&status) {
        return Err(NoPassthrough::Capability);
    }
    match std::fs::metadata("/proc/thread-self/ns/user") {
        Ok(namespace) if namespace.ino() != INITIAL_USER_NAMESPACE => Err(NoPassthrough::UserNamespace),
        _ => Ok(()),
    }
}

/// Whether the effective capabilities in /proc/PID/status have CAP_SYS_ADMIN.
fn has_sys_admin(status: &str) -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0)
}

/// The two calls, on any descriptor of the connection (fuser can close an id only through a reply).
mod ioctl {
    use super::{AsRawFd, BackingId, File, OwnedFd, io};

    /// `struct fuse_backing_map` of include/uapi/linux/fuse.h.
    #[repr(C)]
    pub struct BackingMap {
        fd: i32,
        flags: u32,
        padding: u64,
    }

    nix::ioctl_write_ptr!(backing_open, 229, 1, BackingMap);
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);

    pub fn open(device: &OwnedFd, file: &File) -> io::Result<BackingId> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: both descriptors are borrowed and so open; the kernel reads the map during the call only.
        let id = unsafe { backing_open(device.as_raw_fd(), &map) }?;
        Ok(BackingId(id as u32))
    }

    pub fn close(device: &OwnedFd, id: BackingId) -> io::Result<()> {
        // SAFETY: the descriptor is borrowed and so open; the kernel reads the number during the call only.
        unsafe { backing_close(device.as_raw_fd(), &id.0) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::MemorySource;

    /// A source of one file of 5 bytes with a local file, and a passthrough over `device`.
    fn over(device: File) -> (Arc<OwnedFd>, Passthrough, MemorySource, Ino) {
        let device = Arc::new(OwnedFd::from(device));
        let passthrough = Passthrough::new(Arc::downgrade(&device), 10);
        passthrough.agree(Ok(()));
        let source = MemorySource::new();
        let ino = source.add_file("file", "bytes");
        let local = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(local.path(), "bytes").expect("it is ours");
        source.on_backing(move |_| File::open(local.path()).ok());
        (device, passthrough, source, ino)
    }

    fn opened(passthrough: &Passthrough, source: &MemorySource, ino: Ino) -> Opened {
        let mut how = None;
        passthrough.open(source, ino, |opened| how = Some(opened));
        how.expect("open answers")
    }

    #[test]
    fn a_kernel_that_says_eperm_is_not_asked_again() {
        // A descriptor that nothing is mounted on is answered EPERM.
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            return eprintln!("SKIPPED: /dev/fuse cannot be opened");
        };
        let (_device, passthrough, source, ino) = over(device);
        assert_eq!(passthrough.state(), Ok(()));
        assert_eq!(opened(&passthrough, &source, ino), Opened::Copy);
        assert_eq!(passthrough.state(), Err(NoPassthrough::Refused));
        passthrough.release(&source, ino, || {});
        source.on_backing(|_| panic!("asked again"));
        assert_eq!(opened(&passthrough, &source, ino), Opened::Copy);
        assert_eq!(source.lent_in_all(), 0);
    }

    #[test]
    fn any_other_refusal_and_a_source_that_panics_are_copies_and_the_next_file_is_tried() {
        let (_device, passthrough, source, ino) = over(File::open("/dev/null").expect("it is there"));
        assert_eq!(opened(&passthrough, &source, ino), Opened::Copy);
        passthrough.release(&source, ino, || {});
        assert_eq!((passthrough.state(), source.lent_in_all()), (Ok(()), 0));
        source.on_backing(|_| panic!("a source that panics"));
        assert_eq!(opened(&passthrough, &source, ino), Opened::Copy);
        passthrough.release(&source, ino, || {});
        passthrough.modes.lock().self_check();
        for name in ["fuse_backing_error_other", "fuse_backing_panics"] {
            let row = passthrough.snapshot().into_iter().find(|row| row.name == name);
            assert_eq!(row.map(|row| row.value), Some(crate::figures::RowValue::Count(1)), "{name}");
        }
    }

    #[test]
    fn the_capability_is_read_from_the_effective_set() {
        let status = |set| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{set}\n");
        assert!(has_sys_admin(&status("000001ffffffffff")));
        assert!(has_sys_admin(&status("0000000000200000")));
        assert!(!has_sys_admin(&status("00000000a80425fb")), "a container's default set");
        assert!(!has_sys_admin(""));
    }
}
