//! A rig: the backing files of one volume on a simulated device, filler and reader stepped by hand, in virtual time.
//!
//! The same parts as in a real store, without threads and a file system, so that a seed decides everything.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::io::sim::{SimDevice, SimDirectory, SimEngine};
use crate::io::{DeviceFile, DeviceOffset, Engine};
use crate::store::StoreUuid;
use crate::store::files::shelf::{file_bytes, map_of, usable};
use crate::store::health::ErrorBudget;
use crate::store::layout::Layout;
use crate::store::residents::Residents;
use crate::store::segments::Segments;
use crate::store::volume::Volume;

/// Names that the directory has room for.
const NAMES_MAX: u64 = 64;

const STORE: StoreUuid = StoreUuid([3; 16]);
const LAYOUT: Layout = Layout { segment_bytes: 1 << 20, segments: 64 };

/// Objects that there are: a name each for file and map.
pub const OBJECTS: u64 = 16;

static DATA: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let bytes = |number| match number {
        0 => MIB + 4099,
        4 => 2 * MIB + 5000,
        odd => 1 + odd * 11_003 + number * 777,
    };
    (0..OBJECTS).map(|number| object(number, bytes(number))).collect()
});

/// The bytes that object `number` has for ever.
pub fn data_of(number: u64) -> &'static Bytes {
    &DATA[number as usize]
}

pub fn chunks_of(number: u64) -> u32 {
    data_of(number).len().div_ceil(MIB as usize) as u32
}

pub struct Rig {
    pub device: SimDevice,
    pub volume: Arc<VolumeFiles>,
    pub figures: Arc<StoreFigures>,
    filler: Filler,
    reader: Reader,
    clock: Clock,
    clock_ms: Arc<AtomicU64>,
    segments: u32,
}

/// A new device without files.
pub fn format(seed: u64) -> SimDevice {
    SimDirectory::device(NAMES_MAX, seed)
}

impl Rig {
    /// Opens the files on `device`, like after a start of the daemon.
    pub fn open(device: SimDevice, seed: u64) -> Self {
        let start = Instant::now();
        let clock_ms = Arc::new(AtomicU64::new(0));
        let clock: Clock = Arc::new({
            let clock_ms = clock_ms.clone();
            move || start + Duration::from_millis(clock_ms.load(SeqCst))
        });
        let figures = Arc::<StoreFigures>::default();
        let segments = Segments::new(LAYOUT.segments);
        let residents = Residents::new([(1, segments.clone())], 0);
        let volume = Volume::new(
            (1, STORE, LAYOUT),
            "sim".to_owned(),
            segments,
            residents,
            figures.clone(),
            // Nobody is here to try it again.
            (ErrorBudget { errors: usize::MAX, ..ErrorBudget::default() }, start),
        );
        let directory = SimDirectory::open(device.clone(), NAMES_MAX).expect("names can be read");
        let space = Space::new(LAYOUT.segment_bytes, (0..LAYOUT.segments).collect());
        let (writer, _) = bounded(1);
        let (to_reader, requests) = bounded(8);
        let pool = BufferPool::new(2, MIB as usize).unwrap();
        let engine: Box<dyn Engine> = Box::new(SimEngine::new(2, seed).unwrap());
        let file = DeviceFile::from(SimDevice::new(4096, 0));
        let writer = (writer, engine.waker());
        let lender = Lender::new(space.clone(), volume.clone(), file, writer, Duration::ZERO);
        let readers = std::sync::OnceLock::from(vec![(to_reader, engine.waker())]);
        let shelf =
            Shelf::new(Path::new("/sim"), (STORE, 1), Default::default(), Disk::Sim(directory.clone()));
        let volume = Arc::new(VolumeFiles {
            volume,
            shelf,
            lender,
            directory_charge: space.charge(8192).unwrap(),
            space,
            inventory: Arc::default(),
            queues: vec![Queue::default()],
            readers,
            next_reader: AtomicUsize::new(0),
        });
        recover(&volume, &directory);
        let limits = crate::store::WriterLimits::default();
        let buffer = BufferPool::new(1, MIB as usize).unwrap().take().unwrap();
        let filler = Filler::new(volume.clone(), 0, limits, clock.clone(), buffer);
        let reader = Reader::new(volume.clone(), (engine, pool), Duration::from_secs(3), requests);
        Self { device, volume, figures, filler, reader, clock, clock_ms, segments: LAYOUT.segments }
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        self.clock_ms.fetch_add(ms, SeqCst);
        self.work();
    }

    /// Lets the filler and the reader do something.
    pub fn work(&mut self) {
        self.filler.step(Duration::ZERO);
        self.reader.step(&self.clock, Duration::ZERO);
    }

    fn wait_for<T>(&mut self, answer: &Receiver<T>) -> T {
        for _ in 0..10_000 {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.work();
        }
        panic!("an answer never came");
    }

    /// Stores a chunk of an object.
    pub fn put(&mut self, number: u64, chunk: u32) -> Appended {
        // What the segments were given back they lend again.
        while self.volume.space.room_bytes() < 8 * MIB {
            self.segments += 1;
            self.volume.space.lend(self.segments);
        }
        let (done, answer) = bounded(1);
        let done = AppendAnswer::to(Box::new(move |appended| _ = done.send(appended)));
        let data = data_of(number);
        let append = Append {
            key: key(number, chunk),
            object_bytes: data.len() as u64,
            data: chunk_of(data, chunk),
            asked: (self.clock)(),
        };
        self.figures.appends_queued.add(1);
        assert!(self.volume.queue(0).append(append, done, QueueMax { jobs: 9, bytes: 9 * MIB }).is_ok());
        self.wait_for(&answer)
    }

    /// Stores all of an object, whatever becomes of it.
    pub fn put_all(&mut self, number: u64) -> bool {
        (0..chunks_of(number)).all(|chunk| self.put(number, chunk) == Appended::Stored)
    }

    pub fn sync(&mut self) -> Result<(), SyncFailed> {
        let (done, answer) = bounded(1);
        self.volume.queue(0).sync(Box::new(move |outcome| _ = done.send(outcome)));
        self.wait_for(&answer)
    }

    pub fn forget(&mut self, number: u64) {
        if let Some(file) = self.file(number) {
            self.volume.remove(&file);
        }
    }

    pub fn file(&self, number: u64) -> Option<Arc<BackingFile>> {
        self.volume.inventory.get(&fingerprint(number))
    }

    pub fn contains(&self, number: u64, chunk: u32) -> bool {
        self.volume.inventory.contains(&fingerprint(number), chunk).is_some()
    }

    /// The chunks that are there.
    pub fn chunks(&self) -> Vec<(u64, u32)> {
        let all = (0..OBJECTS).flat_map(|number| (0..chunks_of(number)).map(move |chunk| (number, chunk)));
        all.filter(|(number, chunk)| self.contains(*number, *chunk)).collect()
    }

    /// Reads a part of a chunk.
    pub fn get(&mut self, number: u64, chunk: u32, range: Range<u32>) -> Result<Vec<u8>, Miss> {
        let file = self.file(number).filter(|file| file.contains(chunk).is_some()).ok_or(Miss::Absent)?;
        let (done, answer) = bounded(1);
        let done = ReadAnswer::to(Box::new(move |bytes| _ = done.send(bytes.map(<[u8]>::to_vec))));
        let (asked, purpose) = ((self.clock)(), Purpose::Demand);
        assert!(self.volume.read(reader::Request { file, chunk, range, asked, purpose, done }).is_ok());
        self.wait_for(&answer)
    }

    pub fn get_all(&mut self, number: u64, chunk: u32) -> Result<Vec<u8>, Miss> {
        self.get(number, chunk, 0..chunk_of(data_of(number), chunk).len() as u32)
    }

    /// What the kernel would serve of an object: its file, as it is.
    pub fn raw(&self, number: u64) -> DeviceFile {
        self.volume.shelf.open_to_read(self.file(number).unwrap().path()).unwrap()
    }

    /// The map's file of an object.
    pub fn raw_map(&self, number: u64) -> DeviceFile {
        self.volume.shelf.open_to_read(&map_of(self.file(number).unwrap().path())).unwrap()
    }
}

/// Finds what is there, as `shelf::inspect` does.
fn recover(volume: &VolumeFiles, directory: &SimDirectory) {
    for name in directory.names().expect("names can be read") {
        let path = volume.shelf.path(&fingerprint(0)).with_file_name(&name);
        let file = directory.open_file(&name).unwrap();
        let map = directory.open_file(map_of(&path).file_name().unwrap().to_str().unwrap());
        let map = map.ok().and_then(|map| {
            let mut bytes = vec![0; map.size_bytes().unwrap() as usize];
            map.read_exact_at(&mut bytes, DeviceOffset(0)).ok()?;
            usable(&bytes, Some((STORE, 1)), (&path, file.size_bytes().unwrap()))
        });
        if let Some(map) = map {
            let charge = volume.space.charge(file_bytes(map.identity.object_bytes)).unwrap();
            let path = volume.shelf.path(&map.identity.object);
            assert!(volume.inventory.insert(Arc::new(BackingFile::found(map, path, charge))));
        }
    }
    for name in directory.names().unwrap() {
        let of_file = name.trim_end_matches(".map");
        let is_used = volume.inventory.all().iter().any(|file| file.path().ends_with(of_file));
        if !is_used {
            volume.shelf.remove_now(&volume.shelf.path(&fingerprint(0)).with_file_name(of_file)).unwrap();
        }
    }
}
