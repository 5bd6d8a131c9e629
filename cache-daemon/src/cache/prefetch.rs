//! Prefetching: fetches that no reader waits for.
//!
//! Commands wait in a line, and as many units of them are in flight as the planner's depth allows; whoever ends lets
//! the next one begin, so that the planner need not be quick. A unit that is stored or on its way is passed by.
//!
//! Demand goes first: a prefetch begins only if a quarter of the memory for fills would be left, never waits for
//! memory before a reader, and asks the origin as [`crate::origin::RequestSource::Readahead`], which leaves it a quarter of the requests.
//!
//! Invariants
//! - At most `depth` units in flight, each at most once ([`super::flight`]).
//! - Every command that was taken is answered by one [`Done`], unless the prefetcher was stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fuse_frontend::source::Ino;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fill::{self, fill_kib};
use super::{Cache, UNIT_BYTES, UNIT_CHUNKS, UnitKey, WantedBy};
use crate::access::FileNo;
use crate::object::{CHUNK_BYTES, ExtentKey, Object};
use crate::policy::readahead::{Outcome, Prefetch};

/// A command that is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// The command.
    pub command: Prefetch,
    /// What came of it.
    pub outcome: Outcome,
}

/// Fetches ahead for one cache.
#[derive(Clone)]
pub struct Prefetcher(Arc<Inner>);

struct Inner {
    cache: Arc<Cache>,
    /// The part of the memory for fills that prefetches may take, in KiB.
    memory: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    line: VecDeque<Task>,
    depth: u32,
    in_flight: u32,
    /// Commands taken and not done, and their bytes.
    commands: u32,
    commands_bytes: u64,
    done: Vec<Done>,
    stopped: bool,
}

/// A command that is being carried out: the units from `next` on are still to be begun.
struct Task {
    ino: Ino,
    object: Arc<Object>,
    next: u32,
    end: u32,
    progress: Arc<Progress>,
}

/// What came of a command's units so far. Shared by its units in flight and its place in the line.
struct Progress {
    command: Prefetch,
    outcome: Mutex<Outcome>,
}

/// A unit that is to be fetched now.
struct Begun {
    ino: Ino,
    object: Arc<Object>,
    key: UnitKey,
    progress: Arc<Progress>,
    memory: Memory,
}

/// The memory of one fill, in both accounts.
struct Memory {
    fill: OwnedSemaphorePermit,
    share: OwnedSemaphorePermit,
}

impl Prefetcher {
    /// Fetches ahead for `cache`: nothing, until it is told a depth.
    pub fn new(cache: Arc<Cache>) -> Self {
        let share = (cache.fill_kib_max / 4 * 3).max((UNIT_BYTES / 1024) as u32);
        let memory = Arc::new(Semaphore::new(share as usize));
        Self(Arc::new(Inner { cache, memory, state: Mutex::default() }))
    }

    /// Bytes that commands may hold at a time to be carried out without waiting for each other.
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.0.cache.fill_kib_max / 4 * 3) * 1024
    }

    /// Takes `commands`, and has `depth` units in flight from now on.
    pub fn ask(&self, depth: u32, commands: &[Prefetch]) {
        let tasks: Vec<_> = commands.iter().map(|command| self.0.task(command)).collect();
        let mut state = self.0.state.lock();
        state.depth = depth;
        for (command, task) in commands.iter().zip(tasks) {
            state.commands += 1;
            state.commands_bytes += command.bytes;
            match task {
                Some(task) => state.line.push_back(task),
                None => state.finish(*command, Outcome::Needless),
            }
        }
        drop(state);
        Inner::begin(&self.0);
    }

    /// Commands that are done since it was last asked.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.0.state.lock().done)
    }

    /// Commands that are not done, and their bytes.
    pub fn outstanding(&self) -> (u32, u64) {
        let state = self.0.state.lock();
        (state.commands, state.commands_bytes)
    }

    /// Units in flight.
    pub fn in_flight(&self) -> u32 {
        self.0.state.lock().in_flight
    }

    /// Whether nothing of `file` is stored or on its way, and it has something.
    pub fn is_absent(&self, file: FileNo) -> bool {
        let cache = &self.0.cache;
        let Some(object) = cache.catalog.object(Ino(u64::from(file.0))) else { return false };
        let first = UnitKey { object: object.fingerprint, unit: 0 };
        object.size_bytes > 0 && !cache.has_unit(&object, 0) && !cache.flights.has(first)
    }

    /// Forgets what waits. What is in flight goes on, see [`Cache::stop_fetching`].
    pub fn stop(&self) {
        let mut state = self.0.state.lock();
        state.stopped = true;
        state.line.clear();
    }
}

impl Inner {
    /// `command` as a task; none if there is nothing to fetch.
    fn task(&self, command: &Prefetch) -> Option<Task> {
        let ino = Ino(u64::from(command.file.0));
        let object = self.cache.catalog.object(ino)?;
        let units = object.size_bytes.div_ceil(UNIT_BYTES) as u32;
        let (next, end) = match command.unit {
            Some(unit) => (unit, (unit + 1).min(units)),
            None => (0, units),
        };
        let progress = Progress { command: *command, outcome: Mutex::new(Outcome::Needless) };
        (next < end).then(|| Task { ino, object: Arc::new(object), next, end, progress: Arc::new(progress) })
    }

    /// Begins units as long as there are a place in flight and memory for them.
    fn begin(inner: &Arc<Self>) {
        loop {
            let mut state = inner.state.lock();
            let Some(begun) = inner.next(&mut state) else { return };
            drop(state);
            let inner = inner.clone();
            inner.cache.runtime.clone().spawn(async move {
                let Begun { ino, object, key, progress, memory } = begun;
                let Memory { fill, share } = memory;
                let memory = fill::Memory { permit: fill, waited: Duration::ZERO };
                let came = inner.cache.clone().fill(ino, &object, key, WantedBy::Nobody, memory).await;
                drop(share);
                inner.state.lock().ended(progress, came);
                Self::begin(&inner);
            });
        }
    }

    /// The next unit that is not stored or on its way; its flight has begun then.
    fn next(&self, state: &mut State) -> Option<Begun> {
        while state.in_flight < state.depth && !state.stopped {
            let task = state.line.front()?;
            let key = UnitKey { object: task.object.fingerprint, unit: task.next };
            let (ino, object, progress) = (task.ino, task.object.clone(), task.progress.clone());
            // Later, when something has ended, if there is none now.
            let memory = self.memory(fill_kib(&object, key.unit))?;
            state.pass_unit();
            if self.cache.flights.begin(key, || self.cache.has_unit(&object, key.unit)) {
                state.in_flight += 1;
                return Some(Begun { ino, object, key, progress, memory });
            }
            state.release(progress);
        }
        None
    }

    fn memory(&self, kib: u32) -> Option<Memory> {
        let share = self.memory.clone().try_acquire_many_owned(kib).ok()?;
        let fill = self.cache.fill_kib.clone().try_acquire_many_owned(kib).ok()?;
        Some(Memory { fill, share })
    }
}

impl State {
    /// The unit at the front of the line is taken.
    fn pass_unit(&mut self) {
        if let Some(task) = self.line.front_mut() {
            task.next += 1;
            if task.next == task.end {
                self.line.pop_front();
            }
        }
    }

    /// A unit in flight has ended.
    fn ended(&mut self, progress: Arc<Progress>, came: bool) {
        self.in_flight -= 1;
        {
            let mut outcome = progress.outcome.lock();
            *outcome = match (came, *outcome) {
                (false, _) | (_, Outcome::Failed) => Outcome::Failed,
                (true, _) => Outcome::Fetched,
            };
        }
        self.release(progress);
    }

    /// One unit lets go of its command; the last one finishes it.
    fn release(&mut self, progress: Arc<Progress>) {
        if let Some(progress) = Arc::into_inner(progress) {
            self.finish(progress.command, progress.outcome.into_inner());
        }
    }

    fn finish(&mut self, command: Prefetch, outcome: Outcome) {
        self.commands -= 1;
        self.commands_bytes -= command.bytes;
        self.done.push(Done { command, outcome });
    }
}

impl Cache {
    /// Whether the store has all chunks of a unit.
    fn has_unit(&self, object: &Object, unit: u32) -> bool {
        let end = object.size_bytes.div_ceil(CHUNK_BYTES) as u32;
        let mut chunks = unit * UNIT_CHUNKS..((unit + 1) * UNIT_CHUNKS).min(end);
        chunks.all(|chunk| self.store.contains(&ExtentKey { object: object.fingerprint, chunk }).is_some())
    }
}
