//! What asks the store: closed loops that keep so much in flight.
//!
//! A read asks for the next one when it is answered, on the thread that answers: what is measured is the store and no
//! thread of ours beside it. The next one mostly goes to another thread of the store, which has to be woken, as it is
//! by the daemon's FUSE threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use cache_daemon::store::layout::{LEAD_BYTES, SEGMENT_BYTES_DEFAULT, Span};
use cache_daemon::store::{Appended, Miss, OpenReport, Rejection, Store, StoreConfig};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::Stop;
use super::fio::Region;
use super::media::Spot;
use super::objects::{Objects, scrambled};

/// Bytes of appends in flight at most: the store's bound, beyond which it refuses.
const IN_FLIGHT_MAX: u64 = 64 << 20;

/// Each append counts as so many at least: the store's queue is bounded in requests too.
const APPEND_BYTES_MIN: u64 = IN_FLIGHT_MAX / 512;

/// Those that ask are woken when so few are left: not once for each answer.
const IN_FLIGHT_LOW: u64 = 32 << 20;

/// Before what was refused as [`Rejection::Busy`] is asked for again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Longer than the store waits for a device.
const LIMIT: Duration = Duration::from_secs(120);

/// What a run of ours took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Between the first request and the last answer.
    pub seconds: f64,
    /// CPU of this process meanwhile, user and kernel.
    pub cpu_s: f64,
}

/// A store, and what is to be in it.
pub struct Filled {
    /// What is stored.
    pub objects: Arc<Objects>,
    store: Arc<Store>,
    spot: Spot,
    caveat: String,
}

/// In which order chunks, or pieces of them, are read.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// As they are stored.
    Stored,
    /// Objects in any order, drawn with replacement; the chunks of one as they are stored.
    Random {
        /// Another one, another order.
        seed: u64,
    },
}

/// Reads to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// In which order.
    pub order: Order,
    /// Parts of a chunk that are read one after the other, instead of all of it at once.
    pub piece_bytes: Option<u32>,
    /// How many are in flight.
    pub depth: u64,
    /// How many there are.
    pub reads: u64,
}

impl Filled {
    /// An empty store at `spot` with room for `objects`. `file_from` as in [`StoreConfig`].
    pub fn open(spot: Spot, objects: Arc<Objects>, file_from: u64) -> anyhow::Result<Self> {
        let segment = u64::from(SEGMENT_BYTES_DEFAULT);
        // What no extent fits in at the end of a segment, segments that are held back for moves, the checkpoint.
        let room = objects.extent_bytes().div_ceil(segment) * segment * 33 / 32;
        let limit = (room + LEAD_BYTES + 5 * segment) * 64 / 63;
        let config = StoreConfig {
            format: true,
            file_from,
            checkpoint_interval: None,
            ..StoreConfig::new(vec![spot.place.clone()], spot.state_dir.clone(), limit)
        };
        let (store, report) = Store::open(config, Arc::default())?;
        let caveat = caveat(&report);
        Ok(Self { objects, store: Arc::new(store), spot, caveat })
    }

    /// An open store that is to be filled.
    pub fn of(store: Store, spot: Spot, objects: Arc<Objects>) -> Self {
        Self { objects, store: Arc::new(store), spot, caveat: String::new() }
    }

    /// The part of its file or device that holds extents.
    pub fn region(&self) -> Region<'_> {
        let bytes = self.objects.extent_bytes() / 4096 * 4096;
        Region { path: &self.spot.bytes_at, start: LEAD_BYTES, bytes }
    }

    /// What a reader must know of how it was opened; empty if all is as it should be.
    pub fn caveat(&self) -> &str {
        &self.caveat
    }

    /// Makes everything durable and writes a checkpoint.
    pub fn sync(&self) -> anyhow::Result<()> {
        self.store.sync().context("the store could not make it durable")
    }

    /// Closes the store and removes what it has left.
    pub fn clear(self) -> anyhow::Result<()> {
        let Self { store, spot, .. } = self;
        drop(store);
        spot.clear()
    }

    /// Stores all chunks, and makes them durable.
    pub fn fill(&self, stop: &Stop) -> anyhow::Result<Took> {
        let appends = Arc::new(Appends::default());
        let began = Began::now()?;
        let mut items: Vec<u64> = (0..self.objects.items()).collect();
        while !items.is_empty() {
            for item in items {
                stop.check()?;
                self.append(item, &appends)?;
            }
            appends.wait()?;
            items = appends.take_busy();
            if !items.is_empty() {
                ensure!(began.at.elapsed() < LIMIT, "{} appends are refused for {LIMIT:?}", items.len());
                std::thread::sleep(BUSY_PAUSE);
            }
        }
        self.sync()?;
        began.took()
    }

    fn append(&self, item: u64, appends: &Arc<Appends>) -> anyhow::Result<()> {
        let data = self.objects.data(item);
        let bytes = (data.len() as u64).max(APPEND_BYTES_MIN);
        appends.begin(bytes)?;
        let told = appends.clone();
        let done = Box::new(move |appended| told.end(item, bytes, appended));
        self.store.append(self.objects.key(item), self.objects.object_bytes(item), data, done);
        Ok(())
    }

    /// Reads as planned; with `check`, compares every byte.
    pub fn read(&self, plan: &Plan, check: bool, stop: &Stop) -> anyhow::Result<Took> {
        let (over, outcome) = sync_channel(1);
        let reads = Arc::new(Reads {
            objects: self.objects.clone(),
            store: self.store.clone(),
            plan: *plan,
            check,
            stop: stop.clone(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            over,
        });
        let began = Began::now()?;
        (0..plan.depth).for_each(|_| reads.ask());
        let outcome = outcome.recv_timeout(LIMIT).map_err(|_| anyhow!("no answer within {LIMIT:?}"));
        let took = began.took();
        // The last answers are still on their way out of the store's threads, which must not end up with its last owner.
        let began = Instant::now();
        while Arc::strong_count(&reads) > 1 {
            ensure!(began.elapsed() < LIMIT, "a read was never answered");
            std::thread::sleep(Duration::from_millis(1));
        }
        outcome?.map_err(anyhow::Error::msg)?;
        took
    }

    /// Reads everything once and compares it.
    pub fn check(&self, stop: &Stop) -> anyhow::Result<()> {
        let all = Plan { order: Order::Stored, piece_bytes: None, depth: 16, reads: self.objects.items() };
        self.read(&all, true, stop).map(drop)
    }

    /// Bytes that the device gives for a read of the beginning of a chunk.
    pub fn device_bytes(&self, piece_bytes: Option<u32>) -> u64 {
        let item = self.objects.item_bytes(0);
        u64::from(Span::of(0..piece_bytes.unwrap_or(item), item).bytes)
    }
}

fn caveat(report: &OpenReport) -> String {
    let volume = &report.volumes[0];
    let page_cache = (!volume.direct).then(|| "through the page cache".to_owned());
    let uring = volume.engine.uring.iter().flat_map(|uring| uring.reasons.clone());
    let all: Vec<String> = page_cache.into_iter().chain(volume.engine.reason.clone()).chain(uring).collect();
    all.iter().map(|caveat| format!("; {caveat}")).collect()
}

/// The beginning of what is measured.
struct Began {
    at: Instant,
    cpu_s: f64,
}

impl Began {
    fn now() -> anyhow::Result<Self> {
        Ok(Self { cpu_s: cpu_s()?, at: Instant::now() })
    }

    fn took(self) -> anyhow::Result<Took> {
        Ok(Took { seconds: self.at.elapsed().as_secs_f64(), cpu_s: cpu_s()? - self.cpu_s })
    }
}

/// CPU of this process so far, user and kernel, s.
fn cpu_s() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}

/// Reads that are under way.
struct Reads {
    objects: Arc<Objects>,
    store: Arc<Store>,
    plan: Plan,
    check: bool,
    stop: Stop,
    asked: AtomicU64,
    answered: AtomicU64,
    over: SyncSender<Result<(), String>>,
}

impl Reads {
    fn ask(self: &Arc<Self>) {
        let number = self.asked.fetch_add(1, Relaxed);
        if number >= self.plan.reads {
            return;
        }
        let (item, range) = self.plan.pick(number, &self.objects);
        let (told, asked) = (self.clone(), range.clone());
        let done = Box::new(move |outcome: Result<&[u8], Miss>| told.answered(item, asked, outcome));
        self.store.read(self.objects.key(item), range, done);
    }

    fn answered(self: &Arc<Self>, item: u64, range: Range<u32>, outcome: Result<&[u8], Miss>) {
        if let Err(why) = self.judge(item, range, outcome) {
            self.asked.store(self.plan.reads, Relaxed);
            // The first reason counts.
            let _ = self.over.try_send(Err(why));
        } else if self.answered.fetch_add(1, Relaxed) + 1 == self.plan.reads {
            let _ = self.over.try_send(Ok(()));
        } else {
            self.ask();
        }
    }

    fn judge(&self, item: u64, range: Range<u32>, outcome: Result<&[u8], Miss>) -> Result<(), String> {
        let bytes = outcome.map_err(|miss| format!("chunk {item} is not there: {miss}"))?;
        if self.check && bytes != &self.objects.data(item)[range.start as usize..range.end as usize] {
            return Err(format!("WRONG BYTES in chunk {item}"));
        }
        if self.stop.is_set() { Err("interrupted".to_owned()) } else { Ok(()) }
    }
}

impl Plan {
    /// The chunk, and the part of it, that read `number` is of.
    fn pick(&self, number: u64, objects: &Objects) -> (u64, Range<u32>) {
        let whole = objects.item_bytes(0);
        let pieces = self.piece_bytes.map_or(1, |bytes| u64::from(whole.div_ceil(bytes)));
        let (chunk, piece) = (number / pieces, number % pieces);
        let item = match self.order {
            Order::Stored => chunk % objects.items(),
            Order::Random { seed } => {
                let object = scrambled((chunk / objects.chunks()) ^ (seed << 40)) % objects.objects();
                object * objects.chunks() + chunk % objects.chunks()
            }
        };
        let bytes = objects.item_bytes(item);
        let piece_bytes = self.piece_bytes.unwrap_or(bytes);
        let start = piece as u32 * piece_bytes;
        (item, start..(start + piece_bytes).min(bytes))
    }
}

/// Appends that are under way.
#[derive(Default)]
struct Appends {
    state: Mutex<InFlight>,
    fewer: Condvar,
}

#[derive(Default)]
struct InFlight {
    bytes: u64,
    rejected: Option<Rejection>,
    /// Chunks that the store cannot take just now: a cache would go on without, what is measured here needs them.
    busy: Vec<u64>,
}

impl Appends {
    /// Waits until there is room for `bytes` more.
    fn begin(&self, bytes: u64) -> anyhow::Result<()> {
        let mut state = self.state();
        if state.bytes + bytes > IN_FLIGHT_MAX {
            state = self.wait_for(state, IN_FLIGHT_LOW)?;
        }
        state.bytes += bytes;
        state.judge()
    }

    fn end(&self, item: u64, bytes: u64, appended: Appended) {
        let mut state = self.state();
        state.bytes -= bytes;
        match appended {
            Appended::Stored => {}
            Appended::Rejected(Rejection::Busy) => state.busy.push(item),
            Appended::Rejected(why) => _ = state.rejected.get_or_insert(why),
        }
        if (state.bytes <= IN_FLIGHT_LOW && state.bytes + bytes > IN_FLIGHT_LOW) || state.bytes == 0 {
            self.fewer.notify_one();
        }
    }

    /// Those that have to be asked for again.
    fn take_busy(&self) -> Vec<u64> {
        std::mem::take(&mut self.state().busy)
    }

    /// Waits until everything is answered.
    fn wait(&self) -> anyhow::Result<()> {
        self.wait_for(self.state(), 0)?.judge()
    }

    fn wait_for<'a>(
        &self,
        state: MutexGuard<'a, InFlight>,
        bytes: u64,
    ) -> anyhow::Result<MutexGuard<'a, InFlight>> {
        let waited = self.fewer.wait_timeout_while(state, LIMIT, |state| state.bytes > bytes);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!timeout.timed_out(), "an append was not answered within {LIMIT:?}");
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, InFlight> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    fn judge(&self) -> anyhow::Result<()> {
        match self.rejected {
            Some(why) => bail!("an append was rejected: {why:?}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cache_daemon::store::{Place, medium::FILE_NAME};
    use epochcache_tests::bed::programs::scratch;

    use super::*;

    fn stored(home: &std::path::Path, stop: &Stop) -> Filled {
        let (place, state_dir) = (home.join("place"), home.join("state"));
        std::fs::create_dir(&state_dir).unwrap();
        let spot = Spot { bytes_at: place.join(FILE_NAME), place: Place::Directory(place), state_dir };
        let filled = Filled::open(spot, Arc::new(Objects::equal(110 << 10, 8 << 20)), u64::MAX).unwrap();
        filled.fill(stop).unwrap();
        filled
    }

    #[test]
    fn what_is_filled_is_read_back_in_every_order_and_in_pieces() {
        let (home, stop) = (scratch().unwrap(), Stop::default());
        let filled = stored(home.path(), &stop);
        filled.check(&stop).unwrap();
        for (order, piece_bytes) in [(Order::Random { seed: 3 }, None), (Order::Stored, Some(32 << 10))] {
            let plan = Plan { order, piece_bytes, depth: 8, reads: 100 };
            assert!(filled.read(&plan, true, &stop).unwrap().seconds > 0.0);
        }
        // One operation of fio is as long as one of ours.
        assert_eq!(
            (filled.device_bytes(None), filled.region().bytes % filled.device_bytes(None)),
            (114_688, 0)
        );
        filled.clear().unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn wrong_bytes_and_missing_ones_end_a_run_and_so_does_ctrl_c() {
        let (home, stop) = (scratch().unwrap(), Stop::default());
        let mut filled = stored(home.path(), &stop);
        let objects = filled.objects.clone();
        filled.objects = Arc::new(Objects::random(8 << 20));
        let error = filled.check(&stop).unwrap_err().to_string();
        assert!(error.contains("not there") || error.contains("WRONG"), "{error}");
        filled.objects = objects;
        stop.0.store(true, Relaxed);
        assert!(filled.check(&stop).unwrap_err().to_string().contains("interrupted"));
    }
}
