//! Push and drop: the kernel's page cache of the mount's files, managed as a tier.
//!
//! *Push* puts bytes into the page cache before anybody asks (FUSE_NOTIFY_STORE): whoever reads them then sends no
//! request at all. The pages are charged to the memory cgroup of this process, not to the reader's. *Drop* takes pages away
//! once they were consumed.
//!
//! **The deadlock rule** ([`crate::notifier`]) is kept by construction: the kernel makes a store wait for folios that a READ
//! not answered yet has locked, so stores, drops, and the opens of our own mount that drops take run on this module's own
//! threads, on which no reply depends. Those who call only hand over, and never wait: any thread may, also one that is
//! answering. Stores and drops have different threads, so that a store that waits holds up no drop.
//!
//! What is stored
//! - Whole pages, the last one exactly to the file's end: a store past it would *grow* the file, and a last page counts as
//!   up to date only if the store ends at the size (`fuse_notify_store` in fs/fuse/dev.c). What is given is cut to that.
//! - Never a page with other bytes than before: a number names one version. A number that is given to another version later is
//!   the danger: [`Push::is_current`] is asked right before the store, and while a store is under way the kernel holds
//!   the inode, so that its number cannot be freed.
//! - Within a budget of bytes, kept by what was pushed, dropped and forgotten (`push/ledger.rs`). What is beyond it is refused,
//!   not exchanged for something pushed earlier, which is still to be read. When it is full, a sweep looks for files
//!   that the kernel reclaimed by itself.
//!
//! What is dropped: by `posix_fadvise(DONTNEED)` on a descriptor of the file, because that keeps its attributes (FUSE_NOTIFY_INVAL_INODE
//! costs a GETATTR later) and passes by pages that are *mapped* or in use (`mapping_evict_folio` in mm/truncate.c looks at
//! the folio's references): what stays is counted. By notification only where no descriptor is to be had; that takes
//! pages out of mappings too, which then read them again. Of a version that lost its name nothing is dropped: its readers
//! have no other source, and its pages go when the kernel forgets it.
//!
//! An unmount that comes while a store waits for a READ waits for that READ's answer as well (`fc->killsb`).

mod dropper;
mod figures;
mod ledger;
mod resident;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::figures::Row;
use crate::negotiate::Agreement;
use crate::notifier::{Notified, Notifier};
use crate::source::{FileSource, Ino};
use dropper::{DropJob, Sweeps};
use figures::PushFigures;
use ledger::{Ledger, Pages};
pub use resident::resident_bytes;

/// Threads that store: one copies 2.8 GiB/s, and a second goes on while one waits for a READ.
const STORE_THREADS: usize = 2;

/// Files that are looked at when a push finds the budget full.
const SWEEP_FILES: usize = 2_000;

/// Ranges that wait to be stored, and as many to be dropped: a quarter of a second's work for ranges of 1 MiB.
const QUEUE: usize = 256;

/// What came of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// So many bytes are in the page cache.
    Stored {
        /// Bytes of whole pages, and of the file's last.
        bytes: u64,
    },
    /// The kernel has not looked the file up yet, or forgot it: there is nothing to put pages into. No error.
    Unknown,
    /// There was no whole page in the range.
    Nothing,
    /// The number names another version by now, or none.
    Outdated,
    /// The budget is full, or zero.
    OverBudget,
    /// Too many ranges wait.
    Busy,
    /// The kernel refused it.
    Failed,
    /// The mount is gone.
    Ended,
}

/// What came of a drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// No page of the range is in the page cache any more.
    Gone {
        /// Bytes, in pages, that were there.
        bytes: u64,
    },
    /// Some pages stay, because they are mapped or being read.
    Kept {
        /// Bytes, in pages, that left.
        bytes: u64,
        /// Bytes, in pages, that stay; they count towards the budget until a drop finds them gone.
        kept_bytes: u64,
    },
    /// The version has no name any more, so no descriptor leads to it: its pages go when the kernel forgets it.
    Replaced,
    /// Too many ranges wait.
    Busy,
    /// The kernel refused it.
    Failed,
    /// The mount is gone.
    Ended,
}

/// Bytes to be put into the page cache.
pub struct Push {
    /// The file.
    pub ino: Ino,
    /// Where the bytes begin in it.
    pub offset: u64,
    /// The bytes; what of them makes no whole page is left out.
    pub bytes: Bytes,
    /// Whether `ino` still means the version that the bytes are of, and they are still of use. Asked on a pushing thread, right before
    /// the store; must not wait.
    pub is_current: Box<dyn Fn() -> bool + Send>,
    /// Told once what came of it: on a pushing thread, or, if it is refused, at once on the thread that pushes.
    pub done: Box<dyn FnOnce(Pushed) + Send>,
}

/// Pushes into and drops from the page cache of one mount; keeps neither mount nor source alive.
pub struct Pusher {
    queues: Mutex<Option<Queues>>,
    shared: Arc<Shared>,
}

struct Queues {
    stores: Sender<StoreJob>,
    drops: Sender<DropJob>,
}

/// Where the mount is, for opening its files.
#[derive(Clone, Debug)]
pub(crate) struct MountPlace {
    pub mountpoint: PathBuf,
    /// `st_dev` of its files.
    pub device: u64,
}

/// What the threads work with.
struct Shared {
    notifier: Notifier,
    source: Weak<dyn FileSource>,
    place: MountPlace,
    /// Set by INIT.
    agreed: Arc<OnceLock<Agreement>>,
    ledger: Mutex<Ledger>,
    sweeps: Sweeps,
    figures: PushFigures,
    page_bytes: u64,
    budget_bytes: u64,
}

/// A push that the budget has room for.
struct StoreJob {
    ino: Ino,
    offset: u64,
    bytes: Bytes,
    is_current: Box<dyn Fn() -> bool + Send>,
    done: Box<dyn FnOnce(Pushed) + Send>,
    /// Its pages that did not count before.
    new: Vec<Pages>,
}

/// Every figure as it is before the first push: their names and meanings.
pub fn figures_at_start() -> Vec<Row> {
    PushFigures::default().rows(0, 0)
}

impl Pusher {
    /// A pusher of at most `budget_bytes`, with its threads.
    pub(crate) fn start(
        notifier: Notifier,
        source: Weak<dyn FileSource>,
        place: MountPlace,
        agreed: Arc<OnceLock<Agreement>>,
        budget_bytes: u64,
    ) -> std::io::Result<Self> {
        let page_bytes = page_bytes();
        let shared = Arc::new(Shared {
            notifier,
            source,
            place,
            agreed,
            ledger: Mutex::new(Ledger::new(budget_bytes / page_bytes)),
            sweeps: Sweeps::default(),
            figures: PushFigures::default(),
            page_bytes,
            budget_bytes,
        });
        let (stores, to_store) = bounded(QUEUE);
        let (drops, to_drop) = bounded(QUEUE);
        for n in 0..STORE_THREADS {
            let (shared, jobs) = (shared.clone(), to_store.clone());
            spawn(format!("fuse-push-{n}"), move || store_all(&shared, &jobs))?;
        }
        let dropping = shared.clone();
        spawn("fuse-drop".into(), move || dropper::drop_all(&dropping, &to_drop))?;
        Ok(Self { queues: Mutex::new(Some(Queues { stores, drops })), shared })
    }

    /// Puts bytes into the page cache soon. Never waits.
    pub fn push(&self, push: Push) {
        let Push { ino, offset, bytes, is_current, done } = push;
        let (offset, bytes, new) = match self.admit(ino, offset, bytes) {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.shared.figures.pushed(refused);
                return done(refused);
            }
        };
        let job = StoreJob { ino, offset, bytes, is_current, done, new };
        let sent = match &*self.queues.lock() {
            Some(queues) => queues.stores.try_send(job),
            None => Err(TrySendError::Disconnected(job)),
        };
        let (job, refused) = match sent {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, Pushed::Busy),
            Err(TrySendError::Disconnected(job)) => (job, Pushed::Ended),
        };
        self.shared.finish(job, refused, 0);
    }

    /// Takes the whole pages of `bytes` of `ino` out of the page cache soon, unless they are mapped or being read.
    /// Never waits; `done` is told once what came of it, as of a push.
    pub fn drop_pages(&self, ino: Ino, bytes: Range<u64>, done: impl FnOnce(Dropped) + Send + 'static) {
        self.send_drop(DropJob::Pages { ino, bytes, done: Box::new(done) });
    }

    /// Looks for files that the kernel reclaimed by itself, all of them, and counts their pages no more; `done` is told when it
    /// is over, 5 us a file, or at once if it cannot be done. A push that finds the budget full has some files looked at anyway.
    pub fn sweep(&self, done: impl FnOnce() + Send + 'static) {
        self.send_drop(DropJob::Sweep { files_max: usize::MAX, done: Box::new(done) });
    }

    /// The most bytes that pushed pages may take.
    pub fn budget_bytes(&self) -> u64 {
        self.shared.budget_bytes
    }

    /// Bytes of pushed pages that were neither dropped nor forgotten.
    pub fn held_bytes(&self) -> u64 {
        self.shared.ledger.lock().pages() * self.shared.page_bytes
    }

    /// Every figure, in a stable order.
    pub fn snapshot(&self) -> Vec<Row> {
        self.shared.figures.rows(self.shared.budget_bytes, self.held_bytes())
    }

    /// The kernel forgot `ino`, and its pages with it.
    pub(crate) fn forgotten(&self, ino: Ino) {
        self.shared.ledger.lock().forget(ino);
    }

    /// The connection is closed: the threads end once they have refused what waits.
    pub(crate) fn end(&self) {
        drop(self.queues.lock().take());
    }

    /// The range of a push, cut to whole pages of the file, and its pages that did not count yet; or why not.
    fn admit(&self, ino: Ino, offset: u64, bytes: Bytes) -> Result<(u64, Bytes, Vec<Pages>), Pushed> {
        let shared = &self.shared;
        let source = shared.source.upgrade().ok_or(Pushed::Ended)?;
        let size_bytes = source.attributes(ino).map_err(|_| Pushed::Outdated)?.size_bytes;
        let wanted = offset..offset.saturating_add(bytes.len() as u64);
        let (pages, whole) = whole_pages(&wanted, size_bytes, shared.page_bytes).ok_or(Pushed::Nothing)?;
        let Some(new) = shared.ledger.lock().begin_push(ino, &pages) else {
            self.sweep_if_due();
            return Err(Pushed::OverBudget);
        };
        let start = (whole.start - offset) as usize;
        let len = (whole.end - whole.start) as usize;
        Ok((whole.start, bytes.slice(start..start + len), new))
    }

    fn sweep_if_due(&self) {
        if self.shared.sweeps.is_due() {
            self.send_drop(DropJob::Sweep { files_max: SWEEP_FILES, done: Box::new(|| {}) });
        }
    }

    fn send_drop(&self, job: DropJob) {
        let sent = match &*self.queues.lock() {
            Some(queues) => queues.drops.try_send(job),
            None => Err(TrySendError::Disconnected(job)),
        };
        let (job, refused) = match sent {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, Dropped::Busy),
            Err(TrySendError::Disconnected(job)) => (job, Dropped::Ended),
        };
        match job {
            DropJob::Pages { done, .. } => {
                self.shared.figures.dropped(refused);
                done(refused);
            }
            DropJob::Sweep { done, .. } => done(),
        }
    }
}

impl std::fmt::Debug for Pusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (budget_bytes, held_bytes) = (self.budget_bytes(), self.held_bytes());
        f.debug_struct("Pusher")
            .field("budget_bytes", &budget_bytes)
            .field("held_bytes", &held_bytes)
            .finish()
    }
}

fn store_all(shared: &Shared, jobs: &Receiver<StoreJob>) {
    for job in jobs {
        let (pushed, stored_bytes) = shared.store(&job);
        shared.finish(job, pushed, stored_bytes);
    }
}

impl Shared {
    /// Stores a job's bytes in as many messages as it takes; what came of it, and the bytes that are stored in any case.
    fn store(&self, job: &StoreJob) -> (Pushed, u64) {
        if !(job.is_current)() {
            return (Pushed::Outdated, 0);
        }
        let mut stored_bytes = 0;
        for message in job.bytes.chunks(self.message_bytes_max()) {
            match self.notifier.store(job.ino, job.offset + stored_bytes, message) {
                Ok(Notified::Done) => stored_bytes += message.len() as u64,
                // With the inode its pages are gone.
                Ok(Notified::Unknown) => return (Pushed::Unknown, 0),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV)) => {
                    return (Pushed::Ended, 0);
                }
                Err(error) => {
                    tracing::debug!(ino = job.ino.0, %error, "the kernel took no pushed bytes");
                    return (Pushed::Failed, stored_bytes);
                }
            }
        }
        (Pushed::Stored { bytes: stored_bytes }, stored_bytes)
    }

    /// As many bytes as a READ may ask for, in whole pages: what the kernel holds pages of at a time is bounded alike.
    fn message_bytes_max(&self) -> usize {
        let max = self.agreed.get().map_or(0, |agreement| u64::from(agreement.max_read_bytes));
        (max / self.page_bytes * self.page_bytes).max(self.page_bytes) as usize
    }

    /// Counts no more what of a job was not stored, and tells what came of it.
    fn finish(&self, job: StoreJob, pushed: Pushed, stored_bytes: u64) {
        // Ranges end where the job's bytes do, so what was stored is the part below `end`.
        let end = match pushed {
            Pushed::Stored { .. } => u64::MAX,
            _ => (job.offset + stored_bytes).div_ceil(self.page_bytes),
        };
        let not_stored = job.new.iter().map(|new| new.start.max(end)..new.end.max(end));
        self.ledger.lock().end_push(job.ino, not_stored.filter(|pages| !pages.is_empty()));
        self.figures.pushed(pushed);
        (job.done)(pushed);
    }
}

/// The whole pages in `bytes` of a file of `size_bytes`, as numbers and as bytes; the last page is whole if its part of the file
/// is there. None if there is none.
fn whole_pages(bytes: &Range<u64>, size_bytes: u64, page_bytes: u64) -> Option<(Pages, Range<u64>)> {
    let first = bytes.start.div_ceil(page_bytes);
    let last = match bytes.end >= size_bytes {
        true => size_bytes.div_ceil(page_bytes),
        false => bytes.end / page_bytes,
    };
    (first < last).then(|| (first..last, first * page_bytes..size_bytes.min(last * page_bytes)))
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(run).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_pushed_and_the_last_exactly_to_the_end() {
        let cut = |bytes: Range<u64>, size| whole_pages(&bytes, size, 4096);
        assert_eq!(cut(0..10_000, 10_000), Some((0..3, 0..10_000)));
        assert_eq!(cut(0..9_999, 10_000), Some((0..2, 0..8192)), "half a last page is none");
        assert_eq!(cut(0..20_000, 10_000), Some((0..3, 0..10_000)), "never past the end");
        assert_eq!(cut(1..10_000, 10_000), Some((1..3, 4096..10_000)));
        assert_eq!(cut(4096..8192, 10_000), Some((1..2, 4096..8192)));
        assert_eq!(cut(100..4000, 10_000), None);
        assert_eq!(cut(8192..9_000, 10_000), None);
        assert_eq!(cut(9_000..10_000, 10_000), None, "its page begins before");
        assert_eq!(cut(12_288..20_000, 10_000), None);
        assert_eq!([cut(0..0, 0), cut(0..4096, 0), cut(u64::MAX..u64::MAX, 10)], [None, None, None]);
        assert_eq!(cut(0..1, 1), Some((0..1, 0..1)));
    }
}
