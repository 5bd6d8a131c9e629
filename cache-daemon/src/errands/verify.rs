//! `cachectl verify`: reads every stored extent and checks it, at a bounded rate.
//!
//! The store's own read does the checking, and takes what is wrong out of the index, so that a verified
//! store holds nothing but right bytes, and what is missing is fetched again when it is wanted.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};

use crate::control::VerifyProgress;
use crate::object::ExtentKey;
use crate::store::{Miss, Store};

/// Half of what a SATA drive reads: leaves room for the readers.
const RATE_BYTES_PER_S: u64 = 256 << 20;

/// Extents in flight: enough for a device to work in parallel, few enough for readers to get in between.
const IN_FLIGHT: usize = 8;

const REPORT_EVERY: Duration = Duration::from_secs(1);

type Verdict = (u32, Result<(), Miss>);

/// Verifies all extents of `store`, at `rate_bytes_per_s` at most, and hands `report` the progress every
/// second, and at the end with `done`. Stops when `report` says that nobody listens.
pub fn verify(store: &Store, rate_bytes_per_s: Option<u64>, report: &mut dyn FnMut(&VerifyProgress) -> bool) {
    let rate = rate_bytes_per_s.unwrap_or(RATE_BYTES_PER_S).max(1);
    let mut extents = Vec::new();
    store.for_each_extent(&mut |key, len| extents.push((*key, len)));
    let total_bytes = extents.iter().map(|(_, len)| u64::from(*len)).sum();
    let mut progress = VerifyProgress { total_bytes, ..VerifyProgress::default() };
    let (began, mut reported) = (Instant::now(), Instant::now());
    for batch in extents.chunks(IN_FLIGHT) {
        for (len, verdict) in read_all(store, batch) {
            count(&mut progress, len, verdict);
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            if !report(&progress) {
                return;
            }
        }
        let due = Duration::from_secs_f64(progress.bytes as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()).min(REPORT_EVERY));
    }
    progress.done = true;
    report(&progress);
}

/// Reads the extents of a batch at once.
fn read_all(store: &Store, batch: &[(ExtentKey, u32)]) -> Receiver<Verdict> {
    let (verdicts, read) = bounded(batch.len());
    for &(key, len) in batch {
        let verdicts = verdicts.clone();
        let done = move |result: Result<&[u8], Miss>| {
            // The other end waits for all of them.
            let _ = verdicts.send((len, result.map(|_| ())));
        };
        store.read(key, 0..len, Box::new(done));
    }
    read
}

fn count(progress: &mut VerifyProgress, len: u32, verdict: Result<(), Miss>) {
    match verdict {
        Ok(()) => progress.extents += 1,
        // Dropped or reclaimed since we looked.
        Err(Miss::Absent) => {}
        Err(_) => {
            progress.extents += 1;
            progress.bad_extents += 1;
        }
    }
    progress.bytes += u64::from(len);
}
