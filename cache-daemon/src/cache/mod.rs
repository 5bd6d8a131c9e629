//! The only meeting point of data and control: reads, single flight, fills.
//!
//! A read is answered from the first that has its bytes: a flight that has landed but is not stored yet,
//! the store, the origin. What is fetched is fetched once, however many readers wait (`flight.rs`), and
//! readers are answered before anything is written (`fill.rs`). Objects are fetched in *units*: whole up
//! to [`UNIT_BYTES`], in aligned ranges of it beyond; each unit is stored as its chunks.
//!
//! Invariants
//! - A ticket is answered exactly once, with as many bytes as asked or to the end of the object, or an error.
//! - Only the origin's answer becomes an application's error; whatever the store says is a miss at worst.
//! - A unit is in flight at most once. It stays in flight until its chunks are stored or refused, so that
//!   no reader falls between the answer and the index.
//! - Bytes of fills in memory are bounded by [`CacheLimits::fill_bytes_max`].
//! - What is fetched ahead (`prefetch.rs`) is a flight that begins with nobody on board: a reader who comes joins it.

mod eviction;
mod fill;
mod flight;
mod journal;
mod lending;
mod parts;
mod prefetch;
mod push;
mod read;
mod requests;
mod revalidate;
mod rides;
mod slowest;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::sync::{Semaphore, mpsc, watch};

pub use eviction::{Eviction, Patterns};
pub use journal::{Deed, Entry, Journal, WantedBy};
pub use lending::Overdue;
pub use prefetch::{Done, Prefetcher};
pub use push::{NotPushed, PushOutcome};
pub use requests::{Asked, Noted, Requests, Turn};
pub use revalidate::{Announce, Revalidation};
pub use slowest::{Slow, Slowest, Why};
pub use source::MountedCache;

use crate::catalog::Catalog;
use crate::object::{CHUNK_BYTES, Fingerprint};
use crate::origin::Origin;
use crate::policy::eviction::{PolicyKind, Rules};
use crate::stats::cache::CacheFigures;
use crate::store::Store;
use flight::Flights;
use fuse_frontend::source::Ino;
use read::Rider;
use rides::Rides;

/// The most that one GET asks for: 4 MiB. Object stores reach their bandwidth on ranges of 4-16 MiB, and
/// a reader of the first byte waits for the whole unit.
pub const UNIT_BYTES: u64 = 4 << 20;

const UNIT_CHUNKS: u32 = (UNIT_BYTES / CHUNK_BYTES) as u32;

/// Bounds of what the cache holds at a time, and what it does at them.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Bytes of fills between their GET and the end of their writing.
    pub fill_bytes_max: u64,
    /// Who goes when the store is full.
    pub policy: PolicyKind,
    /// What it goes by.
    pub rules: Rules,
}

impl Default for CacheLimits {
    fn default() -> Self {
        // 64 units: enough for 8 readers of large objects, or for over a thousand small ones.
        Self { fill_bytes_max: 256 << 20, policy: PolicyKind::Epoch, rules: Rules::default() }
    }
}

/// Names one unit of one version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct UnitKey {
    object: Fingerprint,
    unit: u32,
}

/// Serves the objects of a catalog from a store, and the store from an origin.
pub struct Cache {
    catalog: Arc<Catalog>,
    store: Arc<Store>,
    origin: Origin,
    runtime: tokio::runtime::Handle,
    flights: Flights,
    rides: Rides<Rider>,
    /// In KiB, because tokio's semaphores count to 2^29 on 32-bit machines and a GiB must fit.
    fill_kib: Arc<Semaphore>,
    fill_kib_max: u32,
    /// Nodes whose version the origin no longer has; `Revalidation` reads the other end.
    replaced: mpsc::Sender<Ino>,
    /// Becomes true when nothing is to be fetched any more.
    stopping: watch::Sender<bool>,
    /// Readers' fetches that are not over.
    demand: AtomicU32,
    /// Time of all fetches that succeeded, together.
    fill_us: AtomicU64,
    requests: Requests,
    eviction: Eviction,
    journal: Arc<Journal>,
    slowest: Slowest,
    figures: Arc<CacheFigures>,
}

impl Cache {
    /// A cache over its parts. Fetches run on `runtime`.
    ///
    /// The receiver yields nodes that turned out to be replaced or gone at the origin.
    pub fn new(
        catalog: Arc<Catalog>,
        store: Arc<Store>,
        origin: Origin,
        runtime: tokio::runtime::Handle,
        limits: CacheLimits,
        figures: Arc<CacheFigures>,
    ) -> (Arc<Self>, mpsc::Receiver<Ino>) {
        // One more than the largest unit, so that each fits alone.
        let fill_kib_max = (limits.fill_bytes_max.max(UNIT_BYTES) / 1024) as u32;
        let (replaced, outdated) = mpsc::channel(1024);
        let cache = Self {
            catalog,
            store,
            origin,
            runtime,
            flights: Flights::default(),
            rides: Rides::default(),
            fill_kib: Arc::new(Semaphore::new(fill_kib_max as usize)),
            fill_kib_max,
            replaced,
            stopping: watch::Sender::new(false),
            demand: AtomicU32::new(0),
            fill_us: AtomicU64::new(0),
            requests: Requests::default(),
            eviction: Eviction::new(limits.policy, &limits.rules),
            journal: Arc::default(),
            slowest: Slowest::default(),
            figures,
        };
        (Arc::new(cache), outdated)
    }

    /// The catalog that is served.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The store that holds what was fetched.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The figures of this cache.
    pub fn figures(&self) -> &Arc<CacheFigures> {
        &self.figures
    }

    /// What is done with objects, for whoever traces.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The files that readers waited for longest.
    pub fn slowest(&self) -> &Slowest {
        &self.slowest
    }

    /// The requests of readers, for whoever wants to know.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Readers' fetches that are not over.
    pub fn demand_in_flight(&self) -> u32 {
        self.demand.load(Relaxed)
    }

    /// Microseconds that all fetches took that succeeded; over their number it is the mean latency.
    pub fn fill_us(&self) -> u64 {
        self.fill_us.load(Relaxed)
    }

    /// Gives up what is being fetched: its readers get `EIO`. What has arrived is still stored.
    pub fn stop_fetching(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until no fill is in flight: what was fetched is stored or refused.
    pub async fn settle(&self) {
        // Every fill holds permits from before its GET until its last append; having all means none does.
        let all = self.fill_kib.acquire_many(self.fill_kib_max).await;
        drop(all);
    }
}
