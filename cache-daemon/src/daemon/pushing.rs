//! Pushing: carries out what the policy wants pushed into and dropped from the kernel's page cache.
//!
//! [`Pushes`] is the planner's: it asks the policy and hands on what it says. [`PushLine`] carries that out on a thread of
//! its own, on which no reply depends: it looks up names on our own mount. Nobody waits for it; what came of
//! each command is there to be taken.
//!
//! Invariants
//! - At most [`IN_FLIGHT`] pieces and drops are on their way, so that the memory they take is bounded.
//! - Every command that was taken is answered once, unless the mount ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use fuse_frontend::errno::Errno;
use fuse_frontend::push::{Dropped, Pushed, Pusher};
use fuse_frontend::session::Mount;
use fuse_frontend::source::Ino;
use parking_lot::{Condvar, Mutex};

use crate::access::{FileNo, History, Touch};
use crate::cache::{Cache, NotPushed, PushOutcome, Turn};
use crate::errands::push::{PIECE_BYTES, make_known, read_ahead};
use crate::object::Object;
use crate::policy::pushing::{Files, MARK_EVERY, PushCommand, PushCounts, Pushing, Room};
use crate::policy::readahead::Readahead;
use crate::stats::planner::PlannerFigures;

/// Pieces and drops on their way at once: what fills a link of 125 MiB/s with objects of 110 KiB that take 100 ms.
const IN_FLIGHT: usize = 128;

/// Commands that wait or are on their way: what waits behind more of them comes too late.
const COMMANDS: usize = 512;

/// The longest between two looks at whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What came of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    /// The file is in the page cache.
    Pushed(FileNo),
    /// It is not, or not all of it.
    NotPushed(FileNo),
    /// The kernel reads it from a local file: it is read ahead there, and no page of ours is needed.
    Backed(FileNo),
    /// Its reader asked for it first.
    TooLate(FileNo),
    /// Its pages are gone, but those that are in use.
    Dropped,
}

/// What a file takes in the page cache is a multiple of so much, roughly: the pusher counts exactly.
const PAGE_BYTES: u64 = 4096;

/// When pushes are planned, and with what.
pub(super) struct PushTime {
    /// Monotonic clock, ns.
    pub now_ns: u64,
    /// Files that may be on their way from the origin for a push.
    pub fetches: usize,
    /// Cached reads are seen.
    pub sees_all: bool,
}

/// The policy of pushes, and who carries it out.
pub(super) struct Pushes {
    policy: Pushing,
    line: Option<PushLine>,
    is_pushing: bool,
    counted: PushCounts,
}

impl Pushes {
    /// Pushes by `line`; nothing without.
    pub fn new(line: Option<PushLine>) -> Self {
        Self { policy: Pushing::default(), line, is_pushing: false, counted: PushCounts::default() }
    }

    /// Whether there is an order to push by.
    pub fn is_pushing(&self) -> bool {
        self.is_pushing
    }

    /// Whether something is on its way.
    pub fn is_busy(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.room() < COMMANDS)
    }

    /// A file was touched.
    pub fn touched(&mut self, touch: &Touch) {
        self.policy.touched(touch);
    }

    /// An epoch has ended.
    pub fn ended(&mut self, readahead: &mut Readahead, now_ns: u64) {
        self.policy.ended(&readahead.orders_to_push().collect::<Vec<_>>(), now_ns);
    }

    /// Has what comes next put into the page cache, where there is an order to push by.
    pub fn plan(&mut self, readahead: &mut Readahead, history: &History, time: &PushTime, files: &Files<'_>) {
        let Some(line) = &self.line else { return };
        let &PushTime { now_ns, fetches, sees_all } = time;
        for came in line.take_came() {
            match came {
                Came::Pushed(file) => self.policy.pushed(file, true, now_ns),
                Came::NotPushed(file) => self.policy.pushed(file, false, now_ns),
                Came::Backed(file) => self.policy.backed(file),
                Came::TooLate(file) => self.policy.too_late(file, now_ns),
                Came::Dropped => self.policy.dropped(),
            }
        }
        let mut orders: Vec<_> = readahead.orders_to_push().collect();
        orders.iter_mut().for_each(|order| order.set_seen_every(if sees_all { 1 } else { MARK_EVERY }));
        self.is_pushing = !orders.is_empty();
        let room = Room {
            now_ns,
            free_bytes: line.free_bytes(),
            budget_bytes: line.budget_bytes(),
            page_bytes: PAGE_BYTES,
            commands: line.room(),
            fetches,
            files_per_s: history.main_job(now_ns).map_or(0.0, |job| job.files_per_s(now_ns)),
            sees_all,
        };
        line.ask(&self.policy.plan(&mut orders, files, &room));
    }

    /// Brings figures up to date.
    pub fn tell(&mut self, figures: &PlannerFigures) {
        let (now, before) = (self.policy.counts(), self.counted);
        figures.pushed.add(now.pushed - before.pushed);
        figures.push_used.add(now.used - before.used);
        figures.push_failed.add(now.failed - before.failed);
        figures.push_dropped.add(now.dropped - before.dropped);
        figures.push_late.add(now.late - before.late);
        figures.push_reclaimed.add(now.reclaimed - before.reclaimed);
        self.counted = now;
    }
}

/// Carries out commands for one mount.
pub(super) struct PushLine {
    cache: Arc<Cache>,
    commands: Sender<(PushCommand, Turn)>,
    shared: Arc<Shared>,
    pusher: Arc<Pusher>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Commands that were taken and not answered.
    outstanding: AtomicUsize,
    came: Mutex<Vec<Came>>,
    in_flight: Mutex<usize>,
    less_in_flight: Condvar,
    stop: AtomicBool,
}

/// A file of which pieces are on their way.
struct Pieces {
    shared: Arc<Shared>,
    file: FileNo,
    left: AtomicUsize,
    stored: AtomicUsize,
    failed: AtomicUsize,
}

impl PushLine {
    /// Pushes for `cache` and `mount`; `None` if nothing may be pushed.
    pub fn start(cache: Arc<Cache>, mount: Arc<Mount>) -> Option<Self> {
        let pusher = mount.pusher().clone();
        if pusher.budget_bytes() == 0 {
            return None;
        }
        let (commands, taken) = bounded(COMMANDS);
        let shared = Arc::<Shared>::default();
        let worker = Worker { cache: cache.clone(), mount, pusher: pusher.clone(), shared: shared.clone() };
        let run = move || worker.run(&taken);
        let thread = std::thread::Builder::new().name("pushing".into()).spawn(run).ok()?;
        Some(Self { cache, commands, shared, pusher, thread: Some(thread) })
    }

    /// How many commands it takes now.
    fn room(&self) -> usize {
        COMMANDS.saturating_sub(self.shared.outstanding.load(Relaxed))
    }

    /// Bytes that pushed pages may take.
    fn budget_bytes(&self) -> u64 {
        self.pusher.budget_bytes()
    }

    /// Bytes of the budget that nothing takes.
    fn free_bytes(&self) -> u64 {
        self.pusher.budget_bytes().saturating_sub(self.pusher.held_bytes())
    }

    /// Takes commands, as many as there is room for.
    fn ask(&self, commands: &[PushCommand]) {
        let turn = self.cache.requests().begin_turn();
        for &command in commands {
            self.shared.outstanding.fetch_add(1, Relaxed);
            if self.commands.try_send((command, turn)).is_err() {
                self.shared.answer(match command {
                    PushCommand::Push(file) => Came::NotPushed(file),
                    PushCommand::Drop(_) => Came::Dropped,
                });
            }
        }
    }

    /// What came of commands since it was last asked.
    fn take_came(&self) -> Vec<Came> {
        std::mem::take(&mut self.shared.came.lock())
    }
}

impl Drop for PushLine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nobody to tell.
            let _ = thread.join();
        }
    }
}

struct Worker {
    cache: Arc<Cache>,
    mount: Arc<Mount>,
    pusher: Arc<Pusher>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&self, commands: &Receiver<(PushCommand, Turn)>) {
        while !self.shared.stop.load(Relaxed) && !self.mount.is_ended() {
            match commands.recv_timeout(LOOK_EVERY) {
                Ok((PushCommand::Push(file), turn)) => self.push(file, turn),
                Ok((PushCommand::Drop(file), _)) => self.drop(file),
                Err(_) => {}
            }
        }
    }

    fn push(&self, file: FileNo, turn: Turn) {
        let ino = Ino(u64::from(file.0));
        if self.cache.requests().was_asked_since(ino, turn) {
            return self.shared.answer(Came::TooLate(file));
        }
        let Some(object) = self.cache.catalog().object(ino).filter(|object| object.size_bytes > 0) else {
            return self.shared.answer(Came::NotPushed(file));
        };
        if read_ahead(&self.cache, &self.mount, &object) {
            return self.shared.answer(Came::Backed(file));
        }
        if !make_known(&self.cache, &self.mount, ino) {
            return self.shared.answer(Came::NotPushed(file));
        }
        self.send_all(file, ino, &Arc::new(object), turn);
    }

    fn send_all(&self, file: FileNo, ino: Ino, object: &Arc<Object>, turn: Turn) {
        let pieces = Arc::new(Pieces {
            shared: self.shared.clone(),
            file,
            left: AtomicUsize::new(object.size_bytes.div_ceil(PIECE_BYTES) as usize),
            stored: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        });
        for offset in (0..object.size_bytes).step_by(PIECE_BYTES as usize) {
            let is_wanted = self.shared.begin(&self.mount);
            if !is_wanted {
                pieces.ended(Err(NotPushed::Unavailable(Errno::IO)));
                continue;
            }
            let piece = (offset, PIECE_BYTES.min(object.size_bytes - offset) as u32);
            let pieces = pieces.clone();
            self.cache.push(&self.pusher, ino, object, piece, Some(turn), move |outcome| {
                pieces.shared.end();
                pieces.ended(outcome);
            });
        }
    }

    fn drop(&self, file: FileNo) {
        if !self.shared.begin(&self.mount) {
            return self.shared.answer(Came::Dropped);
        }
        let shared = self.shared.clone();
        self.pusher.drop_pages(Ino(u64::from(file.0)), 0..u64::MAX, move |dropped| {
            if matches!(dropped, Dropped::Busy | Dropped::Failed) {
                tracing::debug!(file = file.0, ?dropped, "pages that were read stay");
            }
            shared.end();
            shared.answer(Came::Dropped);
        });
    }
}

impl Pieces {
    fn ended(&self, outcome: PushOutcome) {
        match outcome {
            Ok(Pushed::Stored { .. }) => _ = self.stored.fetch_add(1, Relaxed),
            // Its reader's request brings these pages.
            Err(NotPushed::TooLate) => {}
            _ => _ = self.failed.fetch_add(1, Relaxed),
        }
        if self.left.fetch_sub(1, AcqRel) == 1 {
            self.shared.answer(match (self.stored.load(Relaxed), self.failed.load(Relaxed)) {
                (0, 0) => Came::TooLate(self.file),
                (_, 0) => Came::Pushed(self.file),
                _ => Came::NotPushed(self.file),
            });
        }
    }
}

impl Shared {
    /// Waits for a place in flight; false if it is to stop.
    fn begin(&self, mount: &Mount) -> bool {
        let mut in_flight = self.in_flight.lock();
        while *in_flight >= IN_FLIGHT {
            self.less_in_flight.wait_for(&mut in_flight, LOOK_EVERY);
            if self.stop.load(Relaxed) || mount.is_ended() {
                return false;
            }
        }
        *in_flight += 1;
        true
    }

    fn end(&self) {
        *self.in_flight.lock() -= 1;
        self.less_in_flight.notify_one();
    }

    fn answer(&self, came: Came) {
        self.outstanding.fetch_sub(1, Relaxed);
        self.came.lock().push(came);
    }
}
