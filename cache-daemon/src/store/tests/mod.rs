//! The store as a whole, on files: what it promises to the cache. On simulated devices: [`rig`].

mod churn;
mod crash;
mod damage;
mod desks;
mod devices;
mod full_disk;
mod killed;
mod measure;
mod model;
mod pace;
mod rig;
mod silent;
mod volumes;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::io::EngineKind;
use crate::io::claim::ClaimError;

const SEGMENT_BYTES: u32 = 256 << 10;

/// A directory for files: beside the test's program, because /tmp may be a tmpfs, which a store refuses.
pub(in crate::store) fn scratch() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Where a store lives; goes away with its files.
struct Home {
    dir: tempfile::TempDir,
    place: Place,
    engine: EngineKind,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        Self { place: Place::Directory(dir.path().to_owned()), dir, engine: EngineKind::Psync }
    }

    /// On a raw device, with a directory for the rest.
    fn on(device: &Path) -> Self {
        Self { place: Place::Device(device.to_owned()), ..Self::new() }
    }

    fn config(&self, limit_bytes: u64) -> StoreConfig {
        let mut config = StoreConfig::new(vec![self.place.clone()], self.dir.path().to_owned(), limit_bytes);
        config.segment_bytes = SEGMENT_BYTES;
        config.engine = self.engine;
        config.read_threads = 1;
        config.read_depth = 4;
        config.writer.depth = 4;
        config.checkpoint_interval = None;
        config
    }

    fn open(&self, limit_bytes: u64) -> Store {
        Store::open(self.config(limit_bytes), Arc::default()).unwrap().0
    }

    /// Bytes of blocks that everything in the home takes.
    fn blocks_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    }

    /// The same, with what is in directories.
    fn blocks_bytes_deep(&self) -> u64 {
        fn of(path: &std::path::Path) -> u64 {
            use std::os::unix::fs::MetadataExt;
            let inside = std::fs::read_dir(path).into_iter().flatten();
            let blocks = path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512);
            blocks + inside.map(|entry| of(&entry.unwrap().path())).sum::<u64>()
        }
        let inside = std::fs::read_dir(self.dir.path()).unwrap();
        inside.map(|entry| of(&entry.unwrap().path())).sum()
    }
}

/// Data that tells whose it is: no two keys or lengths share a prefix.
fn data(seed: u64, len: usize) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

fn key(number: u64) -> ExtentKey {
    let mut object = [0; 16];
    object[..8].copy_from_slice(&number.to_le_bytes());
    ExtentKey { object: Fingerprint(object), chunk: 0 }
}

impl Store {
    fn put(&self, key: ExtentKey, data: &Bytes) -> Appended {
        let (done, answer) = mpsc::channel();
        self.append(
            key,
            data.len() as u64,
            data.clone(),
            Box::new(move |appended| done.send(appended).unwrap()),
        );
        answer.recv_timeout(Duration::from_secs(60)).expect("every append is answered")
    }

    fn get(&self, key: ExtentKey, range: Range<u32>) -> Result<Vec<u8>, Miss> {
        let (done, answer) = mpsc::channel();
        self.read(key, range, Box::new(move |bytes| done.send(bytes.map(<[u8]>::to_vec)).unwrap()));
        answer.recv_timeout(Duration::from_secs(60)).expect("every read is answered")
    }

    fn get_all(&self, key: ExtentKey) -> Result<Vec<u8>, Miss> {
        let len = self.contains(&key).ok_or(Miss::Absent)?;
        self.get(key, 0..len)
    }
}

#[test]
fn what_is_appended_is_read_back_in_any_part_also_after_a_restart() {
    is_read_back_in_any_part_also_after_a_restart(&Home::new());
}

fn is_read_back_in_any_part_also_after_a_restart(home: &Home) {
    let mut objects = HashMap::new();
    let lens = [1, 3967, 3968, 3969, 4096, 65_535, 65_536, 65_537, 110_000, 131_072, 200_000];
    for reopen in 0..3u64 {
        let store = home.open(16 << 20);
        for (number, len) in lens.iter().enumerate() {
            let number = number as u64 + 100 * reopen;
            objects.insert(number, data(number, *len));
            assert_eq!(store.put(key(number), &objects[&number]), Appended::Stored);
        }
        for (number, bytes) in &objects {
            let len = bytes.len() as u32;
            for range in [0..len, 0..1, len - 1..len, len / 2..len, len / 3..len / 3 + 1] {
                let got = store.get(key(*number), range.clone()).unwrap();
                assert!(
                    got == bytes[range.start as usize..range.end as usize],
                    "{number}: {range:?} of {len}"
                );
            }
        }
        assert_eq!(store.get(key(u64::MAX), 0..1), Err(Miss::Absent));
        assert_eq!(store.usage().extents, objects.len() as u64);
    }
}

#[test]
fn a_full_store_admits_nothing_until_something_is_forgotten() {
    is_full_until_something_is_forgotten(&Home::new());
}

fn is_full_until_something_is_forgotten(home: &Home) {
    let store = home.open(5 << 20);
    let stored: Vec<u64> = (0..)
        .take_while(|number| store.put(key(*number), &data(*number, 100_000)) == Appended::Stored)
        .collect();
    assert!(stored.len() > 20, "{}", stored.len());
    assert_eq!(store.put(key(1000), &data(1000, 100_000)), Appended::Rejected(Rejection::Full));
    assert_eq!(store.get_all(key(0)).unwrap(), data(0, 100_000));
    store.forget(&key(0).object, 1);
    // Half of its segment is wanted: that is moved, and then there is space.
    let appended = (0..1000).find(|_| {
        std::thread::sleep(Duration::from_millis(10));
        store.put(key(1000), &data(1000, 100_000)) == Appended::Stored
    });
    assert!(appended.is_some(), "{:?}", store.usage());
    assert_eq!(store.get_all(key(1)).unwrap(), data(1, 100_000));
    assert_eq!(store.get_all(key(1000)).unwrap(), data(1000, 100_000));
    assert_eq!(store.get(key(0), 0..1), Err(Miss::Absent));
    assert_eq!(store.retain(&|object| *object == key(1000).object), stored.len() - 1);
    assert_eq!(store.usage().extents, 1);
}

#[test]
fn the_limit_holds_in_blocks_under_churn_and_when_it_changes() {
    let home = Home::new();
    let mut number = 0;
    for limit in [6u64 << 20, 12 << 20, 4 << 20, 9 << 20, 12 << 20] {
        let store = home.open(limit);
        for round in 0..4u64 {
            for _ in 0..60 {
                number += 1;
                store.put(key(number), &data(number, 50_000 + (number as usize * 7919) % 100_000));
                let used = home.blocks_bytes();
                assert!(used <= limit, "{used} bytes of {limit} in round {round}");
            }
            store.retain(&|object| !object.0[0].is_multiple_of(3));
            store.sync().unwrap();
        }
        assert!(store.usage().used_bytes <= limit && store.usage().extents > 0);
        store.close();
        let used = home.blocks_bytes();
        assert!(used <= limit && used > limit - (2 << 20), "{used} bytes of {limit} after closing");
    }
}

#[test]
fn one_place_belongs_to_one_daemon() {
    belongs_to_one_daemon(&Home::new());
}

fn belongs_to_one_daemon(home: &Home) {
    let store = home.open(8 << 20);
    let second = Store::open(home.config(8 << 20), Arc::default()).err().expect("refused");
    assert!(matches!(second, StoreError::Claim(ClaimError::Busy(_))), "{second}");
    drop(store);
    home.open(8 << 20);
}

#[test]
fn bad_configurations_say_what_is_needed() {
    let home = Home::new();
    let fails = |config| Store::open(config, Arc::default()).err().expect("refused");
    let StoreError::TooSmall { needed, .. } = fails(home.config(1 << 20)) else { panic!() };
    home.open(needed).close();
    let huge = fails(home.config(1 << 50));
    assert!(matches!(huge, StoreError::NoSpace { needed, .. } if needed > 1 << 49), "{huge}");
    assert!(home.blocks_bytes() < 4 << 20, "a refused size leaves no reservation");
    let newer = Home::new();
    newer.open(8 << 20).close();
    let path = newer.dir.path().join(medium::FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 99;
    bytes[layout::LEAD_BYTES as usize / 2 + 8] = 99;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(fails(newer.config(8 << 20)), StoreError::Newer { found: 99, .. }));
    let formatted = StoreConfig { format: true, ..newer.config(8 << 20) };
    Store::open(formatted, Arc::default()).unwrap();
}

#[test]
fn reads_after_close_are_answered() {
    let home = Home::new();
    let store = home.open(8 << 20);
    store.put(key(1), &data(1, 1000));
    store.close();
    assert_eq!(store.get_all(key(1)), Err(Miss::Failed));
    assert_eq!(store.put(key(2), &data(2, 1000)), Appended::Rejected(Rejection::Closed));
}
