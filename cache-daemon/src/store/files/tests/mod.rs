//! Backing files in a whole store, on files: what they promise to the cache and to passthrough.

mod crash;
mod damage;
mod flips;
mod limit;
mod measure;
mod model;
mod rig;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::*;
use crate::io::EngineKind;
use crate::object::Fingerprint;
use crate::store::tests::scratch;
use crate::store::{Place, Store};

pub const MIB: u64 = 1 << 20;
const SEGMENT_BYTES: u32 = 256 << 10;

/// Where a store lives; goes away with its files.
pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir_in(scratch()).unwrap() }
    }

    pub fn config(&self, limit_bytes: u64) -> StoreConfig {
        let place = Place::Directory(self.dir.path().to_owned());
        let mut config = StoreConfig::new(vec![place], self.dir.path().to_owned(), limit_bytes);
        config.segment_bytes = SEGMENT_BYTES;
        config.engine = EngineKind::Psync;
        config.read_threads = 1;
        config.read_depth = 4;
        config.writer.depth = 4;
        config.checkpoint_interval = None;
        config.file_from = MIB;
        config.verify_bytes_per_s = u64::MAX;
        config
    }

    pub fn open(&self, limit_bytes: u64) -> Store {
        self.open_as(self.config(limit_bytes)).0
    }

    pub fn open_as(&self, config: StoreConfig) -> (Store, Arc<StoreFigures>) {
        let figures = Arc::<StoreFigures>::default();
        (Store::open(config, figures.clone()).unwrap().0, figures)
    }

    /// A copy of everything as it is now: what a daemon finds that starts after this one was killed.
    pub fn as_after_a_kill(&self) -> Self {
        let copy = Self::new();
        let from = format!("{}/.", self.dir.path().display());
        let status = std::process::Command::new("cp").args(["-a", &from]).arg(copy.dir.path()).status();
        assert!(status.unwrap().success());
        copy
    }

    /// Bytes of blocks that everything in the home takes.
    pub fn blocks_bytes(&self) -> u64 {
        fn of(path: &Path) -> u64 {
            // One that is removed meanwhile takes nothing.
            let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
            let inside = std::fs::read_dir(path).into_iter().flatten();
            metadata.blocks() * 512 + inside.map(|entry| of(&entry.unwrap().path())).sum::<u64>()
        }
        std::fs::read_dir(self.dir.path()).unwrap().map(|entry| of(&entry.unwrap().path())).sum()
    }

    pub fn path_of(&self, number: u64) -> PathBuf {
        let name = fingerprint(number).to_string();
        self.dir.path().join("files").join(&name[..2]).join(name)
    }

    pub fn map_of(&self, number: u64) -> PathBuf {
        self.path_of(number).with_extension("map")
    }
}

pub fn fingerprint(number: u64) -> Fingerprint {
    let mut object = [0; 16];
    object[..8].copy_from_slice(&number.to_le_bytes());
    Fingerprint(object)
}

pub fn key(number: u64, chunk: u32) -> ExtentKey {
    ExtentKey { object: fingerprint(number), chunk }
}

/// The bytes of object `number`: no two share a chunk.
pub fn object(number: u64, bytes: u64) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let mut data = vec![0; bytes as usize];
    rand::rngs::SmallRng::seed_from_u64(number ^ 0xf11e).fill_bytes(&mut data);
    data.into()
}

pub fn chunk_of(data: &Bytes, chunk: u32) -> Bytes {
    let start = chunk as usize * MIB as usize;
    data.slice(start..data.len().min(start + MIB as usize))
}

pub fn put(store: &Store, number: u64, data: &Bytes, chunk: u32) -> Appended {
    let (done, answer) = mpsc::channel();
    let done = Box::new(move |appended| done.send(appended).unwrap());
    store.append(key(number, chunk), data.len() as u64, chunk_of(data, chunk), done);
    answer.recv_timeout(Duration::from_secs(60)).expect("every append is answered")
}

pub fn put_all(store: &Store, number: u64, data: &Bytes) -> Appended {
    let chunks = data.len().div_ceil(MIB as usize) as u32;
    let all = (0..chunks).map(|chunk| put(store, number, data, chunk));
    all.reduce(|all, one| if all == Appended::Stored { one } else { all }).unwrap()
}

pub fn get(store: &Store, number: u64, chunk: u32, range: Range<u32>) -> Result<Vec<u8>, Miss> {
    let (done, answer) = mpsc::channel();
    let done = Box::new(move |bytes: Result<&[u8], Miss>| done.send(bytes.map(<[u8]>::to_vec)).unwrap());
    store.read(key(number, chunk), range, done);
    answer.recv_timeout(Duration::from_secs(60)).expect("every read is answered")
}

pub fn get_all(store: &Store, number: u64, chunk: u32) -> Result<Vec<u8>, Miss> {
    let len = store.contains(&key(number, chunk)).ok_or(Miss::Absent)?;
    get(store, number, chunk, 0..len)
}

/// Waits for what happens in the background.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen in 30 s");
}

fn content(complete: &CompleteFile) -> Vec<u8> {
    let mut bytes = vec![0; complete.len_bytes() as usize];
    complete.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_file_has_its_objects_length_from_the_first_chunk_on_and_is_offered_when_all_are_there() {
    let home = Home::new();
    let store = home.open(48 * MIB);
    for (number, bytes) in
        [MIB, MIB + 1, 3 * MIB - 1, 2 * MIB + 4095, 2 * MIB + 65_537].into_iter().enumerate()
    {
        let (number, data) = (number as u64, object(number as u64, bytes));
        let last = (bytes.div_ceil(MIB) - 1) as u32;
        // The last chunk first: nothing may be longer than it should because of that.
        for chunk in (0..=last).rev() {
            assert!(store.complete_file(&fingerprint(number)).is_none());
            assert_eq!(put(&store, number, &data, chunk), Appended::Stored);
            assert_eq!(std::fs::metadata(home.path_of(number)).unwrap().len(), bytes);
        }
        let complete = store.complete_file(&fingerprint(number)).expect("filled is verified");
        assert_eq!(complete.len_bytes(), bytes);
        assert!(content(&complete) == data, "the same offsets as the object");
        assert!(std::fs::metadata(home.path_of(number)).unwrap().blocks() * 512 >= bytes);
    }
    let usage = store.usage();
    assert_eq!((usage.volumes[0].files, usage.extents), (5, 1 + 2 + 3 + 3 + 3));
}

#[test]
fn what_is_in_a_file_is_read_back_in_any_part_and_what_is_not_is_absent_also_after_a_restart() {
    let home = Home::new();
    let bytes = 3 * MIB + 70_001;
    let data = object(7, bytes);
    for opened in 0..3 {
        let store = home.open(32 * MIB);
        if opened == 0 {
            assert_eq!([3, 1].map(|chunk| put(&store, 7, &data, chunk)), [Appended::Stored; 2]);
        }
        assert_eq!(
            [0, 1, 2, 3, 4].map(|chunk| store.contains(&key(7, chunk))),
            [None, Some(1 << 20), None, Some(70_001), None]
        );
        assert_eq!(get(&store, 7, 0, 0..1), Err(Miss::Absent), "a hole is not zeros");
        for chunk in [1, 3] {
            let wanted = chunk_of(&data, chunk);
            let len = wanted.len() as u32;
            for range in [0..len, 0..1, len - 1..len, 65_535..65_537, 4097..len / 2] {
                let got = get(&store, 7, chunk, range.clone()).unwrap();
                assert!(got == wanted[range.start as usize..range.end as usize], "{chunk}: {range:?}");
            }
            assert_eq!(get(&store, 7, chunk, 0..len + 1), Err(Miss::Absent));
        }
        let mut chunks = Vec::new();
        store.for_each_extent(&mut |key, len| chunks.push((key.chunk, len)));
        assert_eq!(chunks, [(1, 1 << 20), (3, 70_001)]);
        assert!(store.complete_file(&fingerprint(7)).is_none());
    }
    let store = home.open(32 * MIB);
    assert_eq!([0, 2].map(|chunk| put(&store, 7, &data, chunk)), [Appended::Stored; 2]);
    // Half of it is from an earlier run: that is read first.
    let complete = until("the verification", || store.complete_file(&fingerprint(7)));
    assert!(content(&complete) == data);
}

#[test]
fn after_a_restart_a_file_is_served_at_once_and_offered_when_it_was_read() {
    let home = Home::new();
    let data = object(1, 4 * MIB);
    let store = home.open(32 * MIB);
    assert_eq!(put_all(&store, 1, &data), Appended::Stored);
    drop(store);
    let mut slow = home.config(32 * MIB);
    slow.verify_bytes_per_s = MIB / 100;
    let (store, figures) = home.open_as(slow);
    assert!(store.complete_file(&fingerprint(1)).is_none());
    assert!(get_all(&store, 1, 2).unwrap() == chunk_of(&data, 2));
    assert_eq!(figures.recovered_files.get(), 1);
    drop(store);
    let (store, figures) = home.open_as(home.config(32 * MIB));
    assert!(content(&until("the verification", || store.complete_file(&fingerprint(1)))) == data);
    assert_eq!(figures.scrubbed_bytes.get(), 4 * MIB);
}

#[test]
fn a_kill_loses_what_no_sync_has_covered_and_nothing_else() {
    let home = Home::new();
    let mut config = home.config(32 * MIB);
    config.writer.sync_interval = Duration::from_secs(3600);
    let (store, figures) = home.open_as(config);
    let data = object(1, 3 * MIB + 5);
    assert_eq!([0, 3].map(|chunk| put(&store, 1, &data, chunk)), [Appended::Stored; 2]);
    store.sync().unwrap();
    assert_eq!(put(&store, 1, &data, 2), Appended::Stored);
    assert_eq!(put(&store, 2, &object(2, 2 * MIB), 0), Appended::Stored);
    // A complete one does not wait for a sync.
    assert_eq!(put_all(&store, 3, &object(3, 2 * MIB)), Appended::Stored);
    until("the map", || (figures.writes_in_flight.get() == 0).then_some(()));
    let killed = home.as_after_a_kill();
    let again = killed.open(32 * MIB);
    assert_eq!(
        [0, 1, 2, 3].map(|chunk| again.contains(&key(1, chunk)).is_some()),
        [true, false, false, true]
    );
    assert!(get_all(&again, 1, 0).unwrap() == chunk_of(&data, 0));
    assert!(get_all(&again, 1, 3).unwrap() == chunk_of(&data, 3));
    assert_eq!(again.contains(&key(2, 0)), None);
    assert!(get_all(&again, 3, 1).unwrap() == chunk_of(&object(3, 2 * MIB), 1));
    assert!(!killed.path_of(2).exists(), "a file without a map is removed");
}

#[test]
fn a_file_that_is_forgotten_is_gone_and_can_be_made_again() {
    let home = Home::new();
    let store = home.open(32 * MIB);
    let data = object(1, 2 * MIB);
    for _ in 0..20 {
        assert_eq!(put_all(&store, 1, &data), Appended::Stored);
        let complete = store.complete_file(&fingerprint(1)).unwrap();
        store.forget(&fingerprint(1), 2);
        assert!(complete.is_revoked());
        assert_eq!(get_all(&store, 1, 0), Err(Miss::Absent));
        assert!(content(&complete) == data, "whoever has it open reads on");
    }
    assert_eq!(put_all(&store, 1, &data), Appended::Stored);
    for number in 2..8 {
        assert_eq!(put_all(&store, number, &object(number, MIB)), Appended::Stored);
    }
    assert_eq!(store.retain(&|object| *object == fingerprint(1)), 6);
    drop(store);
    let store = home.open(32 * MIB);
    assert!(get_all(&store, 1, 1).unwrap() == chunk_of(&data, 1));
    assert_eq!((store.usage().volumes[0].files, home.path_of(3).exists()), (1, false));
}

#[test]
fn what_cannot_be_a_file_of_this_store_is_removed_when_it_opens() {
    let (home, other) = (Home::new(), Home::new());
    for home in [&home, &other] {
        let store = home.open(32 * MIB);
        for number in 1..=5 {
            assert_eq!(put_all(&store, number, &object(number, MIB + 3)), Appended::Stored);
        }
    }
    // Of another store, without a map, without a file, of another length, under another name.
    std::fs::copy(other.path_of(1), home.path_of(1)).unwrap();
    std::fs::copy(other.map_of(1), home.map_of(1)).unwrap();
    std::fs::remove_file(home.map_of(2)).unwrap();
    std::fs::remove_file(home.path_of(3)).unwrap();
    std::fs::File::options().write(true).open(home.path_of(4)).unwrap().set_len(MIB + 4).unwrap();
    std::fs::write(home.dir.path().join("files/stray"), b"?").unwrap();
    std::fs::create_dir(home.dir.path().join("files/zz")).unwrap();
    let (store, figures) = home.open_as(home.config(32 * MIB));
    assert_eq!(figures.recovered_files.get(), 1);
    for number in 1..=4 {
        assert_eq!(store.contains(&key(number, 0)), None, "{number}");
        assert!(!home.path_of(number).exists() && !home.map_of(number).exists(), "{number}");
    }
    assert!(get_all(&store, 5, 1).unwrap() == chunk_of(&object(5, MIB + 3), 1));
    assert_eq!(std::fs::read_dir(home.dir.path().join("files")).unwrap().count(), 1);
}

#[test]
fn with_a_kernel_thread_that_takes_submissions_files_read_the_same() {
    let home = Home::new();
    let config = StoreConfig { engine: EngineKind::Auto, sqpoll: true, ..home.config(32 * MIB) };
    let (store, _) = home.open_as(config);
    // One after the other is forgotten, so that places of the ring are used again.
    for number in 0..12 {
        let data = object(number, MIB + 5 + number);
        assert_eq!(put_all(&store, number, &data), Appended::Stored);
        for chunk in [0, 1] {
            assert!(get_all(&store, number, chunk).unwrap() == chunk_of(&data, chunk));
        }
        store.forget(&fingerprint(number), 2);
    }
}

#[test]
fn what_is_stored_as_extents_gets_a_file_when_the_size_that_divides_is_lowered() {
    let home = Home::new();
    let config = |file_from| StoreConfig { file_from, segment_bytes: 4 << 20, ..home.config(64 * MIB) };
    let data: Vec<Bytes> = (0..4).map(|number| object(number, 2 * MIB + 7 + number)).collect();
    let (store, _) = home.open_as(config(u64::MAX));
    (0..4).for_each(|number| assert_eq!(put_all(&store, number, &data[number as usize]), Appended::Stored));
    // Of this one something is missing.
    store.shared.residents.forget(&key(3, 1));
    assert_eq!(store.usage().volumes[0].files, 0);
    drop(store);

    let (store, figures) = home.open_as(config(MIB));
    store.promote((0..4).map(|number| (fingerprint(number), data[number as usize].len() as u64)).collect());
    for number in 0..3 {
        let complete = until("the promotion", || store.complete_file(&fingerprint(number)));
        assert!(content(&complete) == data[number as usize]);
    }
    until("the last one", || (figures.promoted_objects.get() == 3).then_some(()));
    assert!((0..3).all(|number| store.shared.residents.get(&key(number, 0)).is_none()), "not in both places");
    assert!(store.contains(&key(3, 0)).is_some() && store.complete_file(&fingerprint(3)).is_none());
    assert_eq!((figures.reads.get(), figures.hits.get()), (0, 0), "nobody has read");
    assert!(home.blocks_bytes() <= 64 * MIB);
    drop(store);
    let (store, _) = home.open_as(config(MIB));
    for (number, data) in (0..3).zip(&data) {
        (0..3).for_each(|chunk| assert!(get_all(&store, number, chunk).unwrap() == chunk_of(data, chunk)));
    }
}

#[test]
fn what_finds_no_space_for_a_file_stays_as_it_is_and_is_served() {
    let home = Home::new();
    let config = |file_from| StoreConfig { file_from, segment_bytes: 4 << 20, ..home.config(24 * MIB) };
    let (store, _) = home.open_as(config(u64::MAX));
    let stored: Vec<u64> =
        (0..).take_while(|n| put_all(&store, *n, &object(*n, 2 * MIB)) == Appended::Stored).collect();
    drop(store);
    let (store, figures) = home.open_as(config(MIB));
    store.promote(stored.iter().map(|number| (fingerprint(*number), 2 * MIB)).collect());
    for number in &stored {
        for chunk in [0, 1] {
            let got = get_all(&store, *number, chunk).unwrap();
            assert!(got == chunk_of(&object(*number, 2 * MIB), chunk));
        }
    }
    store.close();
    assert!(stored.len() > 3 && figures.promoted_objects.get() < stored.len() as u64);
    assert!(home.blocks_bytes() <= 24 * MIB);
}

#[test]
fn the_size_that_divides_is_configurable_down_to_zero_and_on_both_sides_it_reads_the_same() {
    let home = Home::new();
    for (file_from, files) in [(0, 4), (100_000, 2), (u64::MAX, 0)] {
        let mut config = home.config(32 * MIB);
        config.file_from = file_from;
        config.format = true;
        let (store, _) = home.open_as(config);
        for (number, bytes) in [1, 99_999, 100_000, 2 * MIB].into_iter().enumerate() {
            let (number, data) = (number as u64, object(number as u64, bytes));
            if bytes > MIB && files == 0 {
                continue;
            }
            assert_eq!(put_all(&store, number, &data), Appended::Stored);
            assert!(get_all(&store, number, 0).unwrap() == chunk_of(&data, 0));
        }
        assert_eq!(store.usage().volumes[0].files, files);
    }
}

#[test]
fn readers_fillers_and_forgetters_at_the_same_time_never_see_a_wrong_byte() {
    let home = Home::new();
    let store = home.open(24 * MIB);
    let objects: Vec<Bytes> = (0..12).map(|number| object(number, MIB + 1 + number * 100_000)).collect();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let (store, objects) = (&store, &objects);
            scope.spawn(move || {
                for turn in 0..150u64 {
                    let number = (turn * 7 + worker * 5) % 12;
                    let data = &objects[number as usize];
                    match (turn + worker) % 5 {
                        0 => store.forget(&fingerprint(number), 3),
                        1 | 2 => _ = put_all(store, number, data),
                        3 => {
                            if let Some(complete) = store.complete_file(&fingerprint(number)) {
                                assert!(content(&complete) == *data);
                            }
                        }
                        _ => {
                            for chunk in 0..2 {
                                if let Ok(bytes) = get_all(store, number, chunk) {
                                    assert!(bytes == chunk_of(data, chunk));
                                }
                            }
                        }
                    }
                }
            });
        }
        scope.spawn(|| (0..20).for_each(|_| store.sync().unwrap()));
    });
    store.retain(&|_| false);
    until("the last removal", || (store.usage().volumes[0].file_bytes <= 14 * 4096).then_some(()));
    assert!(home.blocks_bytes() <= 24 * MIB);
}
