//! Scrubbing: every extent is read once, slowly, so that damage is found before a reader wants the bytes.
//!
//! What is damaged is forgotten by the read itself, like always. Demand reads are served meanwhile: a
//! scrub has few reads in flight and keeps to a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::answer::ReadAnswer;
use super::reader::Purpose;
use super::{Miss, Shared, Store};
use crate::object::ExtentKey;

/// Reads in flight.
const DEPTH: usize = 4;

/// A volume that refuses reads is asked again after so long.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// What a scrub found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Extents read and found whole.
    pub extents: u64,
    /// Bytes of data in those.
    pub bytes: u64,
    /// Extents that were damaged; they are forgotten.
    pub corrupt: u64,
    /// Extents that the device failed to read; they stay.
    pub failed: u64,
    /// Extents that were forgotten or moved before they were read.
    pub gone: u64,
}

/// A scrub under way.
struct Scrub<'a> {
    shared: &'a Arc<Shared>,
    stop: &'a AtomicBool,
    bytes_per_s: u64,
    found: Scrubbed,
    answered: Receiver<(ExtentKey, Result<u32, Miss>)>,
    answer: Sender<(ExtentKey, Result<u32, Miss>)>,
    in_flight: usize,
}

impl Store {
    /// Reads every extent that is there now, at most `bytes_per_s`, until the end or until `stop`; tells
    /// `progress` now and then.
    ///
    /// Waits for the reader threads: not to be called in an answer of theirs.
    pub fn scrub(
        &self,
        bytes_per_s: u64,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Scrubbed),
    ) -> Scrubbed {
        let (answer, answered) = bounded(DEPTH);
        let mut scrub = Scrub {
            shared: &self.shared,
            stop,
            bytes_per_s: bytes_per_s.max(1),
            found: Scrubbed::default(),
            answered,
            answer,
            in_flight: 0,
        };
        let mut seen = 0u64;
        self.for_each_extent(&mut |key, len| {
            scrub.read(*key, len);
            seen += 1;
            if seen.is_multiple_of(1024) {
                progress(&scrub.found);
            }
        });
        scrub.drain(0);
        progress(&scrub.found);
        scrub.found
    }
}

impl Scrub<'_> {
    fn read(&mut self, key: ExtentKey, len: u32) {
        if self.stop.load(Relaxed) {
            return;
        }
        self.drain(DEPTH - 1);
        let answer = self.answer.clone();
        let done = ReadAnswer::to(Box::new(move |bytes| {
            // There is room for every read in flight.
            let _ = answer.send((key, bytes.map(|bytes| bytes.len() as u32)));
        }));
        self.in_flight += 1;
        self.shared.read(key, 0..len, done, Purpose::Scrub);
        // Sleeping for the time that the bytes may take keeps below the rate, whatever the device does.
        std::thread::sleep(Duration::from_secs_f64(f64::from(len) / self.bytes_per_s as f64));
    }

    /// Waits until at most `left` reads are in flight.
    fn drain(&mut self, left: usize) {
        while self.in_flight > left {
            let Ok((key, outcome)) = self.answered.recv() else { return };
            self.in_flight -= 1;
            match outcome {
                Ok(bytes) => {
                    self.found.extents += 1;
                    self.found.bytes += u64::from(bytes);
                }
                Err(Miss::Corrupt) => {
                    self.found.corrupt += 1;
                    tracing::warn!(object = %key.object, chunk = key.chunk, "damaged on disk, forgotten");
                }
                Err(Miss::Absent) => self.found.gone += 1,
                Err(Miss::Failed) => self.found.failed += 1,
                Err(Miss::Busy) => {
                    // Readers come first; this one is not read in this scrub.
                    self.found.gone += 1;
                    std::thread::sleep(BUSY_WAIT);
                }
            }
        }
    }
}
