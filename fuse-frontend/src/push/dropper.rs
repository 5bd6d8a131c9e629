//! Drops, and sweeps for what the kernel reclaimed by itself: all that opens files of our own mount.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use parking_lot::Mutex;

use super::{Dropped, Shared, resident, whole_pages};
use crate::notifier::Notified;
use crate::source::{FileSource, Ino};

/// Time between two sweeps that full budgets begin.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What the dropping thread is asked to do.
pub(super) enum DropJob {
    Pages { ino: Ino, bytes: Range<u64>, done: Box<dyn FnOnce(Dropped) + Send> },
    Sweep { files_max: usize, done: Box<dyn FnOnce() + Send> },
}

/// When the last sweep was asked for.
#[derive(Debug, Default)]
pub(super) struct Sweeps(Mutex<Option<Instant>>);

impl Sweeps {
    /// Whether it is time for another; then it is taken to be asked for now.
    pub fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| last.elapsed() >= SWEEP_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Why there is no descriptor of a node.
enum Closed {
    /// Its name is gone or leads to another node.
    Replaced,
    /// The mount is gone.
    Ended,
    /// Its name is not known, or the open failed for another reason.
    Unreachable,
}

pub(super) fn drop_all(shared: &Shared, jobs: &Receiver<DropJob>) {
    let mut swept = Ino(0);
    for job in jobs {
        match job {
            DropJob::Pages { ino, bytes, done } => {
                let dropped = shared.drop_pages(ino, &bytes);
                shared.figures.dropped(dropped);
                done(dropped);
            }
            DropJob::Sweep { files_max, done } => {
                shared.sweep(&mut swept, files_max);
                done();
            }
        }
    }
}

impl Shared {
    fn drop_pages(&self, ino: Ino, bytes: &Range<u64>) -> Dropped {
        let Some(source) = self.source.upgrade() else { return Dropped::Ended };
        let Ok(node) = source.attributes(ino) else { return Dropped::Replaced };
        let Some((pages, whole)) = whole_pages(bytes, node.size_bytes, self.page_bytes) else {
            return Dropped::Gone { bytes: 0 };
        };
        let dropped = match self.open(&*source, ino) {
            Ok(file) => self.drop_by_advice(&file, &whole),
            Err(Closed::Replaced) => Dropped::Replaced,
            Err(Closed::Ended) => Dropped::Ended,
            Err(Closed::Unreachable) => self.drop_by_notification(ino, &whole),
        };
        if matches!(dropped, Dropped::Gone { .. }) {
            self.ledger.lock().dropped(ino, &pages);
        }
        dropped
    }

    /// `whole` begins at a page and ends at one or at the end of the file, else the kernel would keep its last page.
    fn drop_by_advice(&self, file: &File, whole: &Range<u64>) -> Dropped {
        let advised = resident::pages(file, whole, self.page_bytes).and_then(|before| {
            let (offset, len) = (whole.start as i64, (whole.end - whole.start) as i64);
            posix_fadvise(file.as_fd(), offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            Ok((before, resident::pages(file, whole, self.page_bytes)?))
        });
        match advised {
            Ok((before, 0)) => Dropped::Gone { bytes: before * self.page_bytes },
            Ok((before, kept)) => Dropped::Kept {
                bytes: before.saturating_sub(kept) * self.page_bytes,
                kept_bytes: kept * self.page_bytes,
            },
            Err(error) => {
                tracing::debug!(%error, "pages could not be dropped");
                Dropped::Failed
            }
        }
    }

    fn drop_by_notification(&self, ino: Ino, whole: &Range<u64>) -> Dropped {
        self.figures.notified();
        match self.notifier.pages_changed(ino, whole) {
            Ok(Notified::Done) => Dropped::Gone { bytes: whole.end - whole.start },
            Ok(Notified::Unknown) => Dropped::Gone { bytes: 0 },
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Dropped::Ended,
            Err(_) => Dropped::Failed,
        }
    }

    /// Looks at `files_max` of the files that have pushed pages, from `at` on; those that the kernel took back entirely count
    /// no more.
    fn sweep(&self, at: &mut Ino, files_max: usize) {
        let Some(source) = self.source.upgrade() else { return };
        // One more for where it begins again.
        let steps = self.ledger.lock().nodes() + 1;
        for _ in 0..files_max.min(steps) {
            let next = self.ledger.lock().next(*at);
            let Some((ino, held)) = next else {
                *at = Ino(0);
                continue;
            };
            *at = ino;
            let Ok(file) = self.open(&*source, ino) else { continue };
            let bytes = |pages: &Range<u64>| pages.start * self.page_bytes..pages.end * self.page_bytes;
            let gone = |pages: &Range<u64>| {
                resident::pages(&file, &bytes(pages), self.page_bytes).is_ok_and(|resident| resident == 0)
            };
            if held.iter().all(gone) {
                let mut ledger = self.ledger.lock();
                held.iter().for_each(|pages| ledger.dropped(ino, pages));
            }
        }
    }

    /// A descriptor of `ino`, by the name that it has. In no-open mode this sends a LOOKUP at most.
    fn open(&self, source: &dyn FileSource, ino: Ino) -> Result<File, Closed> {
        let Some(path) = source.path(ino) else { return Err(Closed::Unreachable) };
        let path = self.place.mountpoint.join(Path::new(std::ffi::OsStr::from_bytes(&path)));
        // Not through symlinks, and not waiting for what may have been mounted over it.
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|error| closed(&error))?;
        match file.metadata() {
            Ok(found) if found.dev() == self.place.device && found.ino() == ino.0 => Ok(file),
            Ok(_) => Err(Closed::Replaced),
            Err(error) => Err(closed(&error)),
        }
    }
}

fn closed(error: &io::Error) -> Closed {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE) => Closed::Replaced,
        Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV) => Closed::Ended,
        _ => Closed::Unreachable,
    }
}
