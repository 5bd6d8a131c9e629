//! A volume: one place of the store, as its readers, its writer and the facade share it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

use super::health::{ErrorBudget, Health, State};
use super::layout::{Layout, PAGE_BYTES};
use super::record::{Position, StoreUuid};
use super::residents::Residents;
use super::segments::Segments;
use crate::index::{ExtentAddr, Generation, SegmentId};
use crate::object::ExtentKey;
use crate::stats::store::StoreFigures;

/// What all threads of one volume share.
pub struct Volume {
    /// Its number in the store.
    pub number: u8,
    /// The store that it belongs to.
    pub store: StoreUuid,
    /// Its parts.
    pub layout: Layout,
    /// Its segments.
    pub segments: Arc<Segments>,
    /// The extents of all volumes.
    pub residents: Arc<Residents>,
    /// The store's figures.
    pub figures: Arc<StoreFigures>,
    /// Where it is, for messages.
    pub name: String,
    /// Bytes that appends can take before a segment has to be reclaimed; kept by the writer.
    pub room_bytes: AtomicU64,
    /// Free segments; kept by the writer.
    pub free_segments: AtomicU64,
    /// Bytes of data in appends that wait for the writer.
    pub queued_bytes: AtomicU64,
    /// Device reads in flight: fills hold back while there are some.
    pub reads_in_flight: AtomicUsize,
    health: Mutex<Health>,
    is_in: AtomicBool,
    closed: AtomicBool,
}

impl Volume {
    /// A volume in use, without room until its writer says otherwise.
    pub fn new(
        (number, store, layout): (u8, StoreUuid, Layout),
        name: String,
        segments: Arc<Segments>,
        residents: Arc<Residents>,
        figures: Arc<StoreFigures>,
        (budget, now): (ErrorBudget, Instant),
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            store,
            layout,
            segments,
            residents,
            figures,
            name,
            room_bytes: AtomicU64::new(0),
            free_segments: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            reads_in_flight: AtomicUsize::new(0),
            health: Mutex::new(Health::new(budget, now)),
            is_in: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        })
    }

    /// The position `offset` bytes into `segment`, for checksums.
    pub fn position(&self, segment: u32, offset: u32) -> Position {
        Position { store: self.store, volume: self.number, segment, offset }
    }

    /// The address of an extent here.
    pub fn addr(&self, segment: u32, generation: u32, offset: u32, len: u32) -> ExtentAddr {
        ExtentAddr {
            segment: SegmentId::new(self.number, segment),
            generation: Generation(generation),
            offset,
            len,
        }
    }

    /// Offsets of a segment at which extents can be.
    pub fn extent_offsets(&self) -> Range<u32> {
        PAGE_BYTES..self.layout.segment_bytes
    }

    /// An extent turned out to be damaged.
    pub fn forget_damaged(&self, key: &ExtentKey, addr: ExtentAddr) {
        self.figures.checksum_failures.increment();
        self.residents.forget_if(key, addr);
    }

    /// Whether it takes reads and appends.
    pub fn is_in(&self) -> bool {
        self.is_in.load(Relaxed)
    }

    /// Whether its threads are to end.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Asks its reader threads to end.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Its state, for users.
    pub fn state(&self) -> State {
        self.health.lock().state()
    }

    /// The device failed an operation, or did not answer it in time.
    pub fn device_failed(&self, what: &str, error: &std::io::Error, now: Instant) {
        self.figures.device_errors.increment();
        if error.raw_os_error() == Some(libc::ENOSPC) {
            self.figures.out_of_space.increment();
        }
        let mut health = self.health.lock();
        let before = health.state();
        let state = health.error(now);
        if before != state {
            tracing::warn!(volume = %self.name, %error, "{what} failed once too often: volume out of use");
            self.figures.volume_outages.increment();
        } else {
            tracing::debug!(volume = %self.name, %error, "{what} failed");
        }
        self.publish(state);
    }

    /// Whether a trial is to be made now; then [`Volume::tried`] must follow.
    pub fn begin_trial(&self, now: Instant) -> bool {
        !self.is_in() && self.health.lock().begin_trial(now)
    }

    /// When the next trial is due, if the volume is out.
    pub fn next_trial(&self) -> Option<Instant> {
        if self.is_in() { None } else { self.health.lock().next_trial() }
    }

    /// How a trial ended.
    pub fn tried(&self, succeeded: bool, now: Instant) {
        let mut health = self.health.lock();
        health.tried(succeeded, now);
        if succeeded {
            tracing::info!(volume = %self.name, "volume answers again: back in use");
        }
        self.publish(health.state());
    }

    fn publish(&self, state: State) {
        let is_in = state == State::In;
        if self.is_in.swap(is_in, Relaxed) != is_in {
            if is_in { self.figures.volumes_out.sub(1) } else { self.figures.volumes_out.add(1) }
        }
    }
}
