//! Fills: from the origin to the readers who wait, then to the store.
//!
//! The order is the promise: permits for the memory, the GET, the readers' answers, the writing. The
//! flight ends, and the permits return, when every chunk is stored or refused.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::AcqRel, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuse_frontend::errno::Errno;
use fuse_frontend::source::Ino;
use tokio::sync::OwnedSemaphorePermit;

use super::{Cache, Deed, UNIT_BYTES, UNIT_CHUNKS, UnitKey, WantedBy, Why};
use crate::object::{CHUNK_BYTES, ExtentKey, Object};
use crate::origin::{Course, FetchError, RequestSource};
use crate::store::{Appended, Rejection};

/// What a fill counts at least, so that the number of appends that wait for the store is bounded too:
/// 16 Ki of them in 256 MiB.
const FILL_BYTES_MIN: u64 = 16 << 10;

impl Cache {
    /// Fetches unit `key` of `object` in the background; its flight has been boarded.
    pub(super) fn fetch(self: &Arc<Self>, ino: Ino, object: Arc<Object>, key: UnitKey, wanted_by: WantedBy) {
        let cache = self.clone();
        let demand = u32::from(wanted_by != WantedBy::Nobody);
        self.demand.fetch_add(demand, Relaxed);
        self.runtime.spawn(async move {
            let (kib, asked) = (fill_kib(&object, key.unit), Instant::now());
            let permit = cache.fill_kib.clone().acquire_many_owned(kib).await;
            let permit = permit.expect("the semaphore is never closed");
            let memory = Memory { permit, waited: asked.elapsed() };
            cache.clone().fill(ino, &object, key, wanted_by, memory).await;
            cache.demand.fetch_sub(demand, Relaxed);
        });
    }

    /// Fetches unit `key`, whose flight has begun, and hands it to those who wait and to the store; whether it came.
    pub(super) async fn fill(
        self: Arc<Self>,
        ino: Ino,
        object: &Object,
        key: UnitKey,
        wanted_by: WantedBy,
        memory: Memory,
    ) -> bool {
        let source = match wanted_by {
            WantedBy::Reader(_) => RequestSource::Demand,
            WantedBy::Nobody => RequestSource::Readahead,
        };
        let range = unit_range(object, key.unit);
        let (start, len) = (range.start, range.end - range.start);
        self.figures.fills_in_flight.add(1);
        let (mut stopping, began) = (self.stopping.subscribe(), Instant::now());
        let course = Course::begin();
        let fetched = tokio::select! {
            fetched = self.origin.get_along(&object.key, &object.etag, range, source, &course) => Some(fetched),
            // Fails only when the cache is gone, and this holds it.
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        self.figures.fills_in_flight.sub(1);
        if let Some(fetched) = &fetched {
            let deed = Deed::Fetched { latency: began.elapsed(), wanted_by, failed: fetched.is_err() };
            self.journal.note(ino, start, len, deed);
        }
        match fetched {
            None => {
                self.flights.fail(key, Errno::IO);
                false
            }
            Some(Ok(bytes)) => {
                self.fill_us.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
                self.figures.fills.increment();
                self.figures.fill_bytes.add(bytes.len() as u64);
                let longest = self.flights.land(key, &bytes).longest;
                self.slowest.offer(ino, longest, || memory.why(&course));
                self.figures.turn_wait_us.add(course.turns().as_micros() as u64);
                self.store_unit(ino, object, key, &bytes, memory.permit);
                true
            }
            Some(Err(error)) => {
                self.failed(ino, object, key, &error);
                false
            }
        }
    }

    /// Appends the chunks of a unit. What the store refuses is not cached, and counted by the store.
    fn store_unit(
        self: &Arc<Self>,
        ino: Ino,
        object: &Object,
        key: UnitKey,
        bytes: &Bytes,
        permit: OwnedSemaphorePermit,
    ) {
        let chunks = bytes.len().div_ceil(CHUNK_BYTES as usize) as u32;
        self.make_room(ino, object);
        let unit = Arc::new(Landing {
            cache: self.clone(),
            ino,
            key,
            missing: AtomicU32::new(chunks),
            stored: AtomicBool::new(false),
            full: AtomicBool::new(false),
            _permit: permit,
        });
        for chunk in 0..chunks {
            let start = chunk as usize * CHUNK_BYTES as usize;
            let end = bytes.len().min(start + CHUNK_BYTES as usize);
            let extent = ExtentKey { object: object.fingerprint, chunk: key.unit * UNIT_CHUNKS + chunk };
            let unit = unit.clone();
            self.store.append(
                extent,
                object.size_bytes,
                bytes.slice(start..end),
                Box::new(move |appended| unit.appended(appended)),
            );
        }
    }

    /// `object` cannot be had: ends its flight with an errno, and says so in the log if a reader waited.
    fn failed(&self, ino: Ino, object: &Object, key: UnitKey, error: &FetchError) {
        match error {
            FetchError::Replaced | FetchError::Gone => {
                if self.flights.fail(key, Errno::STALE).readers > 0 {
                    self.figures.stale.increment();
                }
                tracing::info!(key = %object.key, etag = %object.etag, "replaced or removed at the origin");
                // Full only if a thousand objects were replaced at once: the periodic listing finds the rest.
                let _ = self.replaced.try_send(ino);
            }
            FetchError::Failed { attempts, cause } => {
                let waited = self.flights.fail(key, Errno::IO);
                if waited.readers == 0 {
                    tracing::debug!(key = %object.key, attempts, %cause, "cannot be fetched ahead");
                    return;
                }
                self.figures.failed.increment();
                self.slowest.offer(ino, waited.longest, || Why::Failed);
                tracing::warn!(key = %object.key, attempts, %cause, "cannot be read from the origin: EIO");
            }
        }
    }
}

/// The memory that a fill may take, and how long it waited for it.
pub(super) struct Memory {
    pub permit: OwnedSemaphorePermit,
    pub waited: Duration,
}

impl Memory {
    /// What a reader of a fill of this `course` waited for most.
    fn why(&self, course: &Course) -> Why {
        let (delay, took) = course.longest();
        if self.waited > took { Why::Memory } else { Why::Origin(delay) }
    }
}

/// A unit that has landed and is being written; the last chunk ends its flight.
struct Landing {
    cache: Arc<Cache>,
    ino: Ino,
    key: UnitKey,
    missing: AtomicU32,
    stored: AtomicBool,
    full: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

impl Landing {
    fn appended(&self, appended: Appended) {
        match appended {
            Appended::Stored => self.stored.store(true, Relaxed),
            Appended::Rejected(Rejection::Full) => {
                self.full.store(true, Relaxed);
                self.cache.figures.not_admitted.increment();
            }
            Appended::Rejected(_) => {}
        }
        // The others' marks are seen here: what they did before they counted down happened before.
        if self.missing.fetch_sub(1, AcqRel) == 1 {
            self.cache.settled(self.ino, self.stored.load(Relaxed), self.full.load(Relaxed));
            self.cache.flights.end(self.key);
        }
    }
}

/// What unit `unit` of the object counts in memory, in KiB.
pub(super) fn fill_kib(object: &Object, unit: u32) -> u32 {
    let range = unit_range(object, unit);
    (range.end - range.start).max(FILL_BYTES_MIN).div_ceil(1024) as u32
}

/// The bytes of unit `unit` in the object.
fn unit_range(object: &Object, unit: u32) -> Range<u64> {
    let start = u64::from(unit) * UNIT_BYTES;
    start..object.size_bytes.min(start + UNIT_BYTES)
}
