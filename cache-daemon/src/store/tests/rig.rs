//! A rig: one volume on a simulated device, its writer and reader stepped by hand, in virtual time.
//!
//! The same parts as in a real store, without threads and files, so that a seed decides everything.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::checkpoint::Checkpoint;
use super::super::recovery::Scan;
use super::super::settle::sort_segments;
use super::super::superblock::{Found, GENERATIONS_AHEAD, Superblock};
use super::super::*;
use super::data;
use crate::io::sim::{SimDevice, SimEngine};
use crate::io::{BufferPool, DeviceFile, Engine, FileSlot};
use crate::store::health::ErrorBudget;
use crate::store::layout::{LEAD_BYTES, Layout};
use crate::store::segments::Segments;
use crate::store::writer::{Covered, SyncDone, Writer};

/// Segments of the rig's volume.
pub const LAYOUT: Layout = Layout { segment_bytes: 48 << 10, segments: 6 };

/// Keys from here on stand for data of several checksummed blocks.
pub const LARGE: u64 = 1_000_000;

/// The data that `key` stands for: the same for ever, like an object's version.
pub fn data_of(key: u64) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(key ^ 0x5eed);
    let len = match rng.random_range(0..10) {
        _ if key >= LARGE => rng.random_range(60_000..200_000),
        0 => rng.random_range(1..200),
        1..8 => rng.random_range(200..12_000),
        _ => rng.random_range(12_000..40_000),
    };
    data(key, len)
}

/// Where the answer to a read comes.
type Read = Receiver<Result<Vec<u8>, Miss>>;

pub struct Rig {
    pub device: SimDevice,
    pub volume: Arc<Volume>,
    pub residents: Arc<Residents>,
    pub figures: Arc<StoreFigures>,
    writer: Writer,
    reader: reader::Reader,
    desk: reader::Reader,
    to_writer: Sender<writer::Request>,
    to_reader: Sender<reader::Request>,
    clock: Clock,
    clock_ms: Arc<AtomicU64>,
}

fn engine(device: &SimDevice, depth: usize, seed: u64) -> (Box<dyn Engine>, FileSlot) {
    let mut engine = SimEngine::new(depth, seed).unwrap();
    let slot = engine.register(DeviceFile::from(device.clone())).unwrap();
    (Box::new(engine), slot)
}

/// A reader for the thread that asks.
pub fn desk(device: &SimDevice, volume: &Arc<Volume>, deadline: Duration, seed: u64) -> reader::Reader {
    let pool = BufferPool::new(desks::DEPTH as u16, desks::BUFFER_BYTES).unwrap();
    let (engine, slot) = engine(device, desks::DEPTH, seed);
    let disk = reader::Disk { engine, slot, pool };
    reader::Reader::new(volume.clone(), disk, deadline, crossbeam::channel::never())
}

/// A new device with an empty volume on it.
pub fn format(seed: u64) -> SimDevice {
    format_as(seed, LAYOUT)
}

/// A new device with an empty volume of `layout` on it.
pub fn format_as(seed: u64, layout: Layout) -> SimDevice {
    let device = SimDevice::new(layout.volume_bytes(), seed);
    format_again(&device, StoreUuid([3; 16]), layout);
    device
}

/// Makes an empty volume on `device`, unless there is one.
pub fn format_if_lost(device: &SimDevice, store: StoreUuid) -> bool {
    let lost = Superblock::load(&DeviceFile::from(device.clone())).unwrap() == Found::Nothing;
    if lost {
        format_again(device, store, LAYOUT);
    }
    lost
}

fn format_again(device: &SimDevice, store: StoreUuid, layout: Layout) {
    let superblock = Superblock { store, volume: 1, layout, generation_ceiling: 1, sequence: 1 };
    superblock.write(&DeviceFile::from(device.clone())).unwrap();
}

impl Rig {
    /// Opens the volume on `device`, like after a start of the daemon.
    pub fn open(device: SimDevice, checkpoint: Option<&Checkpoint>, seed: u64) -> Self {
        Self::open_with(device, checkpoint, seed, |_| ())
    }

    /// Opens it with other limits for the writer; its depth is 3 at most.
    pub fn open_with(
        device: SimDevice,
        checkpoint: Option<&Checkpoint>,
        seed: u64,
        change: impl FnOnce(&mut WriterLimits),
    ) -> Self {
        let file = DeviceFile::from(device.clone());
        let Found::Ours(found) = Superblock::load(&file).expect("superblocks can be read") else {
            panic!("no superblock survived")
        };
        let superblock = found.raised(found.generation_ceiling + GENERATIONS_AHEAD).unwrap();
        superblock.write(&file).unwrap();

        let start = Instant::now();
        let clock_ms = Arc::new(AtomicU64::new(0));
        let clock: Clock = Arc::new({
            let clock_ms = clock_ms.clone();
            move || start + Duration::from_millis(clock_ms.load(SeqCst))
        });
        let figures = Arc::<StoreFigures>::default();
        let segments = Segments::new(found.layout.segments);
        let residents = Residents::new([(found.volume, segments.clone())], 0);
        let volume = Volume::new(
            (found.volume, found.store, found.layout),
            "sim".to_owned(),
            segments,
            residents.clone(),
            figures.clone(),
            (ErrorBudget::default(), start),
        );

        let pool = BufferPool::new(4, PAGE_BYTES as usize).unwrap();
        let (scan_engine, slot) = engine(&device, 4, seed);
        let walked = Scan::new(&volume, (scan_engine, slot, pool), &file).recover(checkpoint).unwrap();
        let recovered = sort_segments(&volume, &superblock, 0..found.layout.segments, &walked);

        let (to_writer, requests) = bounded(64);
        let mut limits = WriterLimits { depth: 3, ..WriterLimits::default() };
        change(&mut limits);
        let pool = BufferPool::new(6, Writer::buffer_bytes(found.layout.segment_bytes)).unwrap();
        let (writer_engine, slot) = engine(&device, 6, seed + 1);
        let disk = writer::Disk { engine: writer_engine, slot, pool };
        let state = (superblock, recovered.allocator, recovered.tail);
        let writer = Writer::new(volume.clone(), disk, limits, requests, state, start);

        let (to_reader, requests) = bounded(64);
        let pool = BufferPool::new(4, reader::Reader::buffer_bytes(found.layout.segment_bytes)).unwrap();
        let (reader_engine, slot) = engine(&device, 4, seed + 2);
        let disk = reader::Disk { engine: reader_engine, slot, pool };
        let reader = reader::Reader::new(volume.clone(), disk, Duration::from_secs(3), requests);
        let desk = desk(&device, &volume, Duration::from_secs(3), seed + 3);
        Self {
            device,
            volume,
            residents,
            figures,
            writer,
            reader,
            desk,
            to_writer,
            to_reader,
            clock,
            clock_ms,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        self.clock_ms.fetch_add(ms, SeqCst);
        self.work();
    }

    /// The time that has passed.
    pub fn now_ms(&self) -> u64 {
        self.clock_ms.load(SeqCst)
    }

    /// Lets the writer and the reader do something.
    pub fn work(&mut self) {
        self.writer.step(&self.clock, Duration::ZERO);
        self.reader.step(&self.clock, Duration::ZERO);
    }

    /// Works until `answer` has something; time passes if nothing else happens.
    pub fn wait_for<T>(&mut self, answer: &Receiver<T>) -> T {
        for turn in 0.. {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.work();
            assert!(turn < 100_000, "an answer never came");
            if turn > 20 {
                self.advance(100);
            }
        }
        unreachable!()
    }

    /// Asks for an append; the answer comes when there was work.
    pub fn append(&mut self, key: u64) -> Receiver<Appended> {
        let (done, answer) = bounded(1);
        let done = AppendAnswer::to(Box::new(move |appended| _ = done.send(appended)));
        let append = writer::Append { key: super::key(key), data: data_of(key), asked: (self.clock)(), done };
        self.figures.appends_queued.add(1);
        self.volume.queued_bytes.fetch_add(append.data.len() as u64, SeqCst);
        self.to_writer.send(writer::Request::Append(append)).unwrap();
        answer
    }

    /// Appends and waits for the answer.
    pub fn put(&mut self, key: u64) -> Appended {
        let answer = self.append(key);
        self.wait_for(&answer)
    }

    pub fn sync(&mut self) -> Result<Covered, SyncFailed> {
        let (done, answer) = bounded(1);
        let done: SyncDone = Box::new(move |outcome| _ = done.send(outcome));
        self.to_writer.send(writer::Request::Sync(done)).unwrap();
        self.wait_for(&answer)
    }

    /// A checkpoint as it would be written after a sync that covered so much.
    pub fn checkpoint(&self, covered: Covered) -> Checkpoint {
        let mut extents = Vec::new();
        self.residents.index().for_each(&mut |key, addr| extents.push((*key, addr)));
        Checkpoint::new(1, &covered, extents)
    }

    pub fn contains(&self, key: u64) -> bool {
        self.residents.get(&super::key(key)).is_some()
    }

    pub fn forget(&mut self, key: u64) -> bool {
        self.residents.forget(&super::key(key))
    }

    /// The keys of what is there.
    pub fn keys(&self) -> Vec<u64> {
        let mut keys = Vec::new();
        self.residents.index().for_each(&mut |key, _| {
            keys.push(u64::from_le_bytes(key.object.0[..8].try_into().unwrap()));
        });
        keys.sort_unstable();
        keys
    }

    /// Reads all of an extent, or `range` of it.
    pub fn get(&mut self, key: u64, range: Option<Range<u32>>) -> Result<Vec<u8>, Miss> {
        let (request, answer) = self.request(key, range).ok_or(Miss::Absent)?;
        self.figures.reads_queued.add(1);
        self.to_reader.send(request).unwrap();
        self.wait_for(&answer)
    }

    /// The same at the rig's desk. Time stands still meanwhile: the device must not be silent.
    pub fn get_here(&mut self, key: u64, range: Option<Range<u32>>) -> Result<Vec<u8>, Miss> {
        let (request, answer) = self.request(key, range).ok_or(Miss::Absent)?;
        assert!(self.desk.read_now(request, &self.clock).is_none(), "nothing else is at the desk");
        answer.try_recv().expect("answered when it returns")
    }

    /// A read that waits to be asked for, and where its answer will come.
    pub fn request(&self, key: u64, range: Option<Range<u32>>) -> Option<(reader::Request, Read)> {
        let key = super::key(key);
        let addr = self.residents.get(&key)?;
        let pin = self.residents.pin(&addr)?;
        let range = range.unwrap_or(0..addr.len);
        let (done, answer) = bounded(1);
        let done = ReadAnswer::to(Box::new(move |bytes| _ = done.send(bytes.map(<[u8]>::to_vec))));
        let asked = (self.clock)();
        Some((reader::Request { key, addr, range, pin, asked, done, purpose: Purpose::Demand }, answer))
    }

    /// Where on the device an extent is: its beginning and the bytes of header and data.
    pub fn place(&self, key: u64) -> (u64, u32) {
        let addr = self.residents.get(&super::key(key)).unwrap();
        let at = self.volume.layout.at(addr.segment.number(), addr.offset).0;
        assert!(at >= LEAD_BYTES);
        (at, record::EXTENT_HEADER_BYTES as u32 + addr.len)
    }
}
