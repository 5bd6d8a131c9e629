//! `cachectl push`: puts files into the kernel's page cache, so that their readers send no request at all.
//!
//! Runs on the thread of the client that asked, on which no reply depends: so it may touch our own mount, which makes
//! the kernel look up names that it does not know yet. A file that the kernel reads from a local file by itself is
//! read ahead there instead.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use fuse_frontend::negotiate::Mode;
use fuse_frontend::push::{Pushed, Pusher};
use fuse_frontend::session::Mount;
use fuse_frontend::source::{Ino, NodeKind, Walk};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::cache::{Cache, PushOutcome};
use crate::catalog::Catalog;
use crate::control::{PushProgress, Refusal};
use crate::object::Object;

/// What is read and pushed at a time: as much as a READ asks for, and a chunk of the store.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// Pieces on their way at once: enough for the store's device and the origin to work in parallel, 16 MiB of memory.
const IN_FLIGHT: usize = 16;

/// Before a piece that found the pusher's queue full is tried again.
const BUSY: Duration = Duration::from_millis(5);

const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Pushes the files at and below `paths`, which are relative to the mountpoint, and hands `report` the progress every second,
/// and at the end with `done`. Stops when `report` says that nobody listens.
pub fn push(
    cache: &Arc<Cache>,
    mount: &Mount,
    paths: &[String],
    report: &mut dyn FnMut(&PushProgress) -> bool,
) -> Result<(), Refusal> {
    let pusher = mount.pusher();
    if pusher.budget_bytes() == 0 {
        let why = "nothing is pushed on this mount: its --page-cache-size is 0, or its --io-mode direct_io";
        return Err(Refusal(why.to_owned()));
    }
    let began = Instant::now();
    let plan = Plan::of(cache.catalog(), paths, report)?;
    let (sender, results) = bounded(IN_FLIGHT);
    let mut errand = Errand {
        cache,
        mount,
        pusher,
        progress: PushProgress { budget_bytes: pusher.budget_bytes(), ..plan.begun() },
        listed: None,
        began,
        reported: Instant::now(),
        sender,
        results,
        on_their_way: Vec::new(),
        pieces: 0,
        swept: false,
        report,
    };
    errand.run(&plan.files);
    Ok(())
}

/// What is to be pushed: numbers only, because a data set may have millions of files.
#[derive(Default)]
struct Plan {
    files: Vec<Ino>,
    bytes: u64,
}

impl Plan {
    /// The files at and below `paths`, each once, those of a directory one after the other.
    fn of(
        catalog: &Catalog,
        paths: &[String],
        report: &mut dyn FnMut(&PushProgress) -> bool,
    ) -> Result<Self, Refusal> {
        let mut waiting = Vec::new();
        for path in paths.iter().rev() {
            let relative = path.trim_matches('/');
            let found = match relative {
                "" => Some(Ino::ROOT),
                _ => catalog.resolve(relative.as_bytes()),
            };
            let refused = || Refusal(format!("{path}: the data set has no such file or directory"));
            waiting.push(found.ok_or_else(refused)?);
        }
        let (mut plan, mut seen, mut reported) = (Self::default(), HashSet::new(), Instant::now());
        while let Some(ino) = waiting.pop() {
            let Some(node) = catalog.attributes(ino).filter(|_| seen.insert(ino)) else { continue };
            if node.kind == NodeKind::File {
                plan.files.push(ino);
                plan.bytes += node.size_bytes;
                continue;
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                if !report(&plan.begun()) {
                    return Ok(Self::default());
                }
            }
            let mut below = Vec::new();
            // A directory that is gone meanwhile has nothing in it.
            let _ = catalog.entries(ino, 0, &mut |entry| {
                below.push((entry.attributes.kind == NodeKind::Directory, entry.attributes.ino));
                Walk::Continue
            });
            // The last to go in comes out first: files in their order, then directories in theirs.
            below.sort_by_key(|&(is_directory, _)| is_directory);
            waiting.extend(below.into_iter().rev().map(|(_, ino)| ino));
        }
        Ok(plan)
    }

    fn begun(&self) -> PushProgress {
        PushProgress {
            total_files: self.files.len() as u64,
            total_bytes: self.bytes,
            ..PushProgress::default()
        }
    }
}

/// Makes the kernel list a directory of the mount: one request for many names, where a look at each is one for each. Whatever
/// goes wrong shows at the files.
fn list(directory: &Path) {
    if let Ok(entries) = std::fs::read_dir(directory) {
        entries.for_each(drop);
    }
}

/// Makes the kernel know the file, by a look at its name if it does not yet; whether it does.
pub(crate) fn make_known(cache: &Cache, mount: &Mount, ino: Ino) -> bool {
    cache.catalog().is_held(ino) || leads_to(&path_of(cache, mount, ino), ino)
}

fn path_of(cache: &Cache, mount: &Mount, ino: Ino) -> PathBuf {
    let name = cache.catalog().path(ino).unwrap_or_default();
    mount.report().mountpoint.join(Path::new(std::ffi::OsStr::from_bytes(&name)))
}

fn leads_to(path: &Path, ino: Ino) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.ino() == ino.0)
}

/// Has an object that the kernel reads from a local file by itself read ahead there; whether it is such an object.
pub(crate) fn read_ahead(cache: &Cache, mount: &Mount, object: &Object) -> bool {
    if mount.report().mode != Mode::Open || mount.passthrough().state().is_err() {
        return false;
    }
    let complete = cache.store().complete_file(&object.fingerprint);
    // Only a hint: a file that cannot be read ahead is read when it is wanted.
    complete.is_some_and(|complete| {
        posix_fadvise(complete.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_WILLNEED).is_ok()
    })
}

/// A file of which pieces are on their way.
struct OnItsWay {
    ino: Ino,
    object: Arc<Object>,
    pieces: usize,
    worst: Option<PushOutcome>,
}

/// A piece: of which file, where, and what came of it.
type Arrival = (Ino, (u64, u32), PushOutcome);

struct Errand<'a> {
    cache: &'a Arc<Cache>,
    mount: &'a Mount,
    pusher: &'a Arc<Pusher>,
    progress: PushProgress,
    /// The directory that the kernel was made to list last.
    listed: Option<PathBuf>,
    began: Instant,
    reported: Instant,
    sender: Sender<Arrival>,
    results: Receiver<Arrival>,
    on_their_way: Vec<OnItsWay>,
    /// On their way, at most [`IN_FLIGHT`].
    pieces: usize,
    /// The budget was full once, and everything that the kernel reclaimed was found.
    swept: bool,
    report: &'a mut dyn FnMut(&PushProgress) -> bool,
}

impl Errand<'_> {
    fn run(&mut self, files: &[Ino]) {
        for &ino in files {
            if !self.file(ino) {
                return;
            }
        }
        while self.pieces > 0 {
            if !self.arrive() {
                return;
            }
        }
        self.tell(true);
    }

    /// Sends a file on its way, or counts why not; whether anybody still listens.
    fn file(&mut self, ino: Ino) -> bool {
        let Some(object) = self.cache.catalog().object(ino) else {
            self.progress.unknown_files += 1;
            return self.tell(false);
        };
        let size_bytes = object.size_bytes;
        if read_ahead(self.cache, self.mount, &object) {
            self.progress.backed_files += 1;
        } else if size_bytes == 0 {
            self.progress.pushed_files += 1;
        } else if !self.has_room(size_bytes) {
            self.progress.over_budget_files += 1;
        } else if !self.make_known(ino) {
            self.progress.unknown_files += 1;
        } else {
            return self.send_all(ino, Arc::new(object));
        }
        self.tell(false)
    }

    fn send_all(&mut self, ino: Ino, object: Arc<Object>) -> bool {
        let size_bytes = object.size_bytes;
        let pieces = size_bytes.div_ceil(PIECE_BYTES) as usize;
        self.on_their_way.push(OnItsWay { ino, object: object.clone(), pieces, worst: None });
        for offset in (0..size_bytes).step_by(PIECE_BYTES as usize) {
            while self.pieces >= IN_FLIGHT {
                if !self.arrive() {
                    return false;
                }
            }
            self.send(ino, &object, (offset, PIECE_BYTES.min(size_bytes - offset) as u32));
        }
        true
    }

    fn send(&mut self, ino: Ino, object: &Arc<Object>, piece: (u64, u32)) {
        self.pieces += 1;
        let sender = self.sender.clone();
        self.cache.push(self.pusher, ino, object, piece, None, move |outcome| {
            // There is room for all that are on their way; without a receiver the errand was given up.
            let _ = sender.send((ino, piece, outcome));
        });
    }

    /// Waits for a piece that is on its way; whether anybody still listens.
    fn arrive(&mut self) -> bool {
        let Ok((ino, piece, outcome)) = self.results.recv_timeout(REPORT_EVERY) else {
            return self.tell(false);
        };
        self.pieces -= 1;
        let at = self.on_their_way.iter().position(|file| file.ino == ino);
        let at = at.expect("a file stays until its last piece has come");
        if outcome == Ok(Pushed::Busy) {
            std::thread::sleep(BUSY);
            let object = self.on_their_way[at].object.clone();
            self.send(ino, &object, piece);
            return self.tell(false);
        }
        let file = &mut self.on_their_way[at];
        file.pieces -= 1;
        if !matches!(outcome, Ok(Pushed::Stored { .. })) {
            file.worst = Some(outcome);
        }
        if file.pieces == 0 {
            let file = self.on_their_way.swap_remove(at);
            self.count(&file);
        }
        self.tell(false)
    }

    fn count(&mut self, file: &OnItsWay) {
        let progress = &mut self.progress;
        match file.worst {
            None => {
                progress.pushed_files += 1;
                progress.pushed_bytes += file.object.size_bytes;
            }
            Some(Ok(Pushed::OverBudget)) => progress.over_budget_files += 1,
            Some(Ok(Pushed::Unknown | Pushed::Outdated)) => progress.unknown_files += 1,
            Some(_) => progress.failed_files += 1,
        }
    }

    /// Whether the budget has room for a file beside those that are on their way. The first time that it has not, what the
    /// kernel reclaimed since it was pushed is found.
    fn has_room(&mut self, bytes: u64) -> bool {
        let free = |errand: &Self| errand.pusher.budget_bytes().saturating_sub(errand.pusher.held_bytes());
        let coming =
            |errand: &Self| errand.on_their_way.iter().map(|file| file.object.size_bytes).sum::<u64>();
        // Some of what is on its way counts already: once it has arrived the budget knows exactly.
        while free(self) < coming(self) + bytes && self.pieces > 0 {
            if !self.arrive() {
                return false;
            }
        }
        if free(self) < bytes && !self.swept {
            self.swept = true;
            self.sweep();
        }
        free(self) >= bytes
    }

    /// Waits until every pushed file was looked at.
    fn sweep(&mut self) {
        let (tell, told) = bounded(1);
        self.pusher.sweep(move || {
            let _ = tell.send(());
        });
        while told.recv_timeout(REPORT_EVERY).is_err_and(|error| error.is_timeout()) {
            if !self.tell(false) {
                return;
            }
        }
    }

    /// Makes the kernel know the file: by listing its directory, if it is another than that of the file before, and by
    /// a look at the name, which asks us only where the listing was not enough. Whether the name leads to it.
    fn make_known(&mut self, ino: Ino) -> bool {
        if self.cache.catalog().is_held(ino) {
            return true;
        }
        let path = path_of(self.cache, self.mount, ino);
        if self.listed.as_deref() != path.parent() {
            self.listed = path.parent().map(Path::to_owned);
            self.listed.as_deref().into_iter().for_each(list);
        }
        leads_to(&path, ino)
    }

    /// Hands on the progress if it is time, or the last one; whether anybody still listens and the mount is there.
    fn tell(&mut self, done: bool) -> bool {
        if self.mount.is_ended() {
            return false;
        }
        if !done && self.reported.elapsed() < REPORT_EVERY {
            return true;
        }
        self.reported = Instant::now();
        self.progress.held_bytes = self.pusher.held_bytes();
        self.progress.elapsed_ms = self.began.elapsed().as_millis() as u64;
        self.progress.done = done;
        (self.report)(&self.progress)
    }
}
