//! What a store is asked to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::ErrorBudget;
use super::layout::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use super::medium::Place;
use super::writer::WriterLimits;
use super::{PAGE_BYTES, StoreError};
use crate::io::{EngineKind, EngineOptions};

/// Tells the time: a parameter, so that deadlines can be tested.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Objects from here on are fetched in several ranges anyway, and are read for long enough that one more
/// OPEN does not matter. Below it a file costs six times what an extent does to fill.
pub const FILE_FROM_DEFAULT: u64 = 4 << 20;

/// Half of what a SATA drive reads.
const VERIFY_BYTES_PER_S_DEFAULT: u64 = 256 << 20;

/// What a store is asked to be.
#[derive(Clone)]
pub struct StoreConfig {
    /// Where: 1 to 255 places.
    pub places: Vec<Place>,
    /// Where checkpoints are kept: a directory that exists.
    pub state_dir: PathBuf,
    /// The most that everything of ours takes on disk, checkpoints and [`StoreConfig::reserved_bytes`] included.
    pub limit_bytes: u64,
    /// How much of the limit others of the daemon's files take.
    pub reserved_bytes: u64,
    /// Bytes of a segment on volumes that are formatted now; existing ones keep theirs.
    pub segment_bytes: u32,
    /// Whether to overwrite whatever is on the places.
    pub format: bool,
    /// The engine to use.
    pub engine: EngineKind,
    /// Let a kernel thread take submissions (IORING_SETUP_SQPOLL): it costs a core.
    pub sqpoll: bool,
    /// Let readers poll for completions (IORING_SETUP_IOPOLL): the device's queues must poll. The writer
    /// does not, because a polling ring cannot sync (Linux `io_uring/sync.c`, `io_fsync_prep`).
    pub iopoll: bool,
    /// Reader threads a volume.
    pub read_threads: usize,
    /// Device reads in flight for each of them; each costs a buffer of 1 MiB.
    pub read_depth: usize,
    /// Threads that may wait for their own reads, see [`super::Store::read_here`]; each costs a ring and two buffers of 512 KiB
    /// a volume.
    pub desks: usize,
    /// Until a read counts as failed.
    pub read_deadline: Duration,
    /// Reads and appends that wait in front of a thread.
    pub queue: usize,
    /// Bytes of data in appends that wait in front of the writer of a volume: memory.
    pub queue_bytes: u64,
    /// How the writer works.
    pub writer: WriterLimits,
    /// Objects of so many bytes and more get a backing file of their own, where the place is a directory.
    pub file_from: u64,
    /// How fast backing files of an earlier run are verified, in bytes per second and volume.
    pub verify_bytes_per_s: u64,
    /// How much a volume may fail.
    pub budget: ErrorBudget,
    /// The longest that changes wait for a checkpoint; `None`: only when asked, and on close.
    pub checkpoint_interval: Option<Duration>,
    /// Tells the time.
    pub clock: Clock,
}

impl StoreConfig {
    /// The defaults for a store of `limit_bytes` at `places`.
    pub fn new(places: Vec<Place>, state_dir: PathBuf, limit_bytes: u64) -> Self {
        Self {
            places,
            state_dir,
            limit_bytes,
            reserved_bytes: 0,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            format: false,
            engine: EngineKind::Auto,
            sqpoll: false,
            iopoll: false,
            read_threads: 2,
            read_depth: 16,
            desks: 0,
            read_deadline: Duration::from_secs(3),
            queue: 1024,
            queue_bytes: 64 << 20,
            writer: WriterLimits::default(),
            file_from: FILE_FROM_DEFAULT,
            verify_bytes_per_s: VERIFY_BYTES_PER_S_DEFAULT,
            budget: ErrorBudget::default(),
            checkpoint_interval: Some(Duration::from_secs(30)),
            clock: Arc::new(Instant::now),
        }
    }

    /// How an engine of `depth` is set up: with polling for completions only if it takes nothing but reads.
    pub(super) fn engine_options(&self, depth: usize, only_reads: bool) -> EngineOptions {
        EngineOptions { depth, sqpoll: self.sqpoll, iopoll: self.iopoll && only_reads, passed_on: false }
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        let config = |what: String| Err(StoreError::Config(what));
        if self.places.is_empty() || self.places.len() > usize::from(u8::MAX) {
            return config(format!("a store has 1 to 255 places, not {}", self.places.len()));
        }
        let aligned = self.segment_bytes.is_multiple_of(PAGE_BYTES);
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) || !aligned {
            return config(format!("segments cannot have {} bytes", self.segment_bytes));
        }
        if self.read_threads == 0 || self.read_depth < 2 || self.queue == 0 || self.writer.depth == 0 {
            return config("a store needs a reader thread, a depth of 2 and a queue".to_owned());
        }
        Ok(())
    }

    /// Bytes that the two checkpoints (the old and the one being written) may take together: 1/128 of the
    /// limit. At 37 bytes an extent that is enough if extents take 9.5 KiB on the average; a store of
    /// smaller ones has no checkpoint, and reads headers when it is opened.
    pub fn checkpoint_bytes(&self) -> u64 {
        (self.limit_bytes / 128).max(256 << 10)
    }

    /// The limit that leaves `volumes_bytes` for volumes.
    pub(super) fn limit_for(&self, volumes_bytes: u64) -> u64 {
        let others = volumes_bytes + self.reserved_bytes;
        (others + others / 127 + 1).max(others + (256 << 10))
    }

    /// Bytes of the limit that are left for volumes.
    pub(super) fn volumes_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.reserved_bytes).saturating_sub(self.checkpoint_bytes())
    }
}
