//! Scrubbing: every extent is read once, slowly, so that damage is found before a reader wants the bytes.
//!
//! Chunks of backing files are read like any extent. What is damaged is forgotten by the read itself, like
//! always. Demand reads are served meanwhile: a scrub has few reads in flight, keeps to a rate, and its
//! reads are neither hits nor misses.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::answer::ReadAnswer;
use super::reader::Purpose;
use super::{Handle, Miss, Shared, Store};
use crate::object::ExtentKey;

/// Reads in flight: enough for a device to work in parallel, few enough for readers to get in between.
const DEPTH: usize = 8;

/// A volume whose queue is full is asked again after so long.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// How often whoever listens is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Time that a device lost is made up for at more than the rate; no more than this much.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// What a scrub found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of data in everything that was come to, whatever became of it: how far it is.
    pub bytes: u64,
    /// Extents read and found whole.
    pub extents: u64,
    /// Extents that were damaged; they are forgotten.
    pub corrupt: u64,
    /// Extents that the device failed to read; they stay.
    pub failed: u64,
    /// Extents that were forgotten or moved before they were read.
    pub gone: u64,
}

type Verdict = (ExtentKey, u32, Result<(), Miss>);

/// A scrub under way.
struct Scrub<'a> {
    shared: &'a Arc<Shared>,
    bytes_per_s: u64,
    found: Scrubbed,
    answered: Receiver<Verdict>,
    answer: Sender<Verdict>,
    in_flight: usize,
    /// When what was asked for may have been read.
    due: Instant,
    tell: &'a mut dyn FnMut(&Scrubbed) -> bool,
    told: Instant,
    is_stopped: bool,
}

impl Store {
    /// Reads every extent that is there now, at most `bytes_per_s`, and tells `tell` every second what was
    /// found so far. Stops when that says that nobody listens, or when the store is closed: `None` then.
    ///
    /// Waits for the reader threads: not to be called in an answer of theirs.
    pub fn scrub(&self, bytes_per_s: u64, tell: &mut dyn FnMut(&Scrubbed) -> bool) -> Option<Scrubbed> {
        let (answer, answered) = bounded(DEPTH);
        let now = Instant::now();
        let mut scrub = Scrub {
            shared: &self.shared,
            bytes_per_s: bytes_per_s.max(1),
            found: Scrubbed::default(),
            answered,
            answer,
            in_flight: 0,
            due: now,
            tell,
            told: now,
            is_stopped: false,
        };
        self.for_each_extent(&mut |key, len| scrub.read(*key, len));
        scrub.drain(0);
        (!scrub.is_over()).then_some(scrub.found)
    }
}

impl Scrub<'_> {
    fn read(&mut self, key: ExtentKey, len: u32) {
        if self.is_over() {
            return;
        }
        self.drain(DEPTH - 1);
        self.ask(key, len);
        self.pace(len);
    }

    fn ask(&mut self, key: ExtentKey, len: u32) {
        let answer = self.answer.clone();
        let done = ReadAnswer::to(Box::new(move |bytes| {
            // There is room for every read in flight.
            let _ = answer.send((key, len, bytes.map(drop)));
        }));
        self.in_flight += 1;
        self.shared.read(key, 0..len, done, Purpose::Scrub, Handle::ask);
    }

    /// Waits until at most `left` reads are in flight.
    fn drain(&mut self, left: usize) {
        while self.in_flight > left {
            let Ok((key, len, outcome)) = self.answered.recv() else { return };
            self.in_flight -= 1;
            match outcome {
                Ok(()) => self.found.extents += 1,
                Err(Miss::Corrupt) => {
                    self.found.corrupt += 1;
                    tracing::warn!(object = %key.object, chunk = key.chunk, "damaged on disk, forgotten");
                }
                Err(Miss::Absent) => self.found.gone += 1,
                Err(Miss::Busy) if !self.is_over() => {
                    // Readers come first.
                    std::thread::sleep(BUSY_WAIT);
                    self.tell();
                    self.ask(key, len);
                    continue;
                }
                Err(Miss::Failed | Miss::Busy) => self.found.failed += 1,
            }
            self.found.bytes += u64::from(len);
        }
    }

    /// Waits as long as reading `len` bytes may take.
    fn pace(&mut self, len: u32) {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(f64::from(len) / self.bytes_per_s as f64);
        self.due = self.due.max(now.checked_sub(CATCH_UP_MAX).unwrap_or(now)) + cost;
        loop {
            self.tell();
            let wait = self.due.saturating_duration_since(Instant::now());
            if wait.is_zero() || self.is_over() {
                return;
            }
            std::thread::sleep(wait.min(TELL_EVERY));
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.is_stopped |= !(self.tell)(&self.found);
        }
    }

    fn is_over(&self) -> bool {
        self.is_stopped || self.shared.closed.load(Relaxed)
    }
}
