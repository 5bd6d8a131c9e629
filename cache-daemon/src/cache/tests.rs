//! The cache over a real store in a directory and an origin in memory that can be made to misbehave.

mod eviction;
mod prefetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};
use fuse_frontend::errno::Errno;
use fuse_frontend::source::{FileSource, Ino};
use fuse_frontend::ticket::{Answer, ReadTicket};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::mpsc;

use super::read::chunk_ranges;
use super::{Announce, Cache, CacheLimits, Deed, MountedCache, Revalidation, WantedBy};
use crate::catalog::{Builder, Change};
use crate::object::CHUNK_BYTES;
use crate::origin::faulty::{Faults, Faulty};
use crate::origin::{Origin, OriginLimits};
use crate::store::{Place, Store, StoreConfig};

/// A cache with everything behind it. Objects are `name -> bytes`.
struct Rig {
    runtime: tokio::runtime::Runtime,
    memory: Arc<InMemory>,
    faulty: Arc<Faulty>,
    cache: Arc<Cache>,
    source: MountedCache,
    outdated: Option<mpsc::Receiver<Ino>>,
    objects: HashMap<String, Bytes>,
    _dir: tempfile::TempDir,
}

fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

impl Rig {
    fn new(sizes: &[usize]) -> Self {
        Self::limited(sizes, CacheLimits::default(), 64 << 20)
    }

    fn limited(sizes: &[usize], limits: CacheLimits, store_bytes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let memory = Arc::new(InMemory::new());
        let objects: HashMap<String, Bytes> =
            sizes.iter().enumerate().map(|(n, &len)| (format!("o{n}"), bytes_of(n as u64, len))).collect();
        runtime.block_on(async {
            for (key, bytes) in &objects {
                memory.put(&Path::from(key.as_str()), bytes.clone().into()).await.expect("memory takes it");
            }
        });
        let faulty = Arc::new(Faulty::new(memory.clone() as Arc<dyn ObjectStore>, Faults::default(), 1));
        let origin_limits = OriginLimits {
            deadline: Duration::from_secs(3),
            request_timeout: Duration::from_millis(500),
            first_pause: Duration::from_millis(1),
            ..OriginLimits::default()
        };
        let origin = Origin::over(faulty.clone(), "memory:///", origin_limits, Arc::default());
        let catalog = runtime.block_on(async {
            let mut builder = Builder::new(origin.url());
            let mut pages = origin.list();
            while let Some(page) = pages.recv().await {
                page.expect("memory lists").into_iter().for_each(|listed| builder.add(listed));
            }
            Arc::new(builder.finish(None).0)
        });
        let dir = tempfile::tempdir().expect("a directory");
        let places = vec![Place::Directory(dir.path().to_owned())];
        let config = StoreConfig {
            segment_bytes: 4 << 20,
            ..StoreConfig::new(places, dir.path().to_owned(), store_bytes)
        };
        let (store, _) = Store::open(config, Arc::default()).expect("a store");
        let (cache, outdated) =
            Cache::new(catalog, Arc::new(store), origin, runtime.handle().clone(), limits, Arc::default());
        let source = MountedCache::new(cache.clone(), Duration::from_secs(1));
        Self { runtime, memory, faulty, cache, source, outdated: Some(outdated), objects, _dir: dir }
    }

    fn ino(&self, key: &str) -> Ino {
        self.source.lookup(Ino::ROOT, key.as_bytes()).expect("it is listed").ino
    }

    fn ask(&self, ino: Ino, offset: u64, len: u32) -> Receiver<Result<Vec<u8>, Errno>> {
        self.ask_as(None, ino, offset, len)
    }

    fn ask_as(
        &self,
        asker: Option<u32>,
        ino: Ino,
        offset: u64,
        len: u32,
    ) -> Receiver<Result<Vec<u8>, Errno>> {
        let (answer, receiver) = bounded(1);
        self.source.read(ino, offset, len, ReadTicket::new(Sent { answer, asker }));
        receiver
    }

    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        self.ask(ino, offset, len).recv_timeout(Duration::from_secs(20)).expect("every read is answered")
    }

    fn settle(&self) {
        self.runtime.block_on(self.cache.settle());
    }

    fn put(&self, key: &str, bytes: Bytes) {
        let path = Path::from(key);
        self.runtime.block_on(self.memory.put(&path, bytes.into())).expect("memory takes it");
    }

    fn gets(&self) -> u64 {
        self.faulty.gets()
    }
}

struct Sent {
    answer: crossbeam::channel::Sender<Result<Vec<u8>, Errno>>,
    asker: Option<u32>,
}

impl Answer for Sent {
    fn data(self: Box<Self>, bytes: &[u8]) {
        self.answer.send(Ok(bytes.to_vec())).expect("the test waits");
    }

    fn error(self: Box<Self>, errno: Errno) {
        self.answer.send(Err(errno)).expect("the test waits");
    }

    fn asker(&self) -> Option<u32> {
        self.asker
    }
}

proptest! {
    #[test]
    fn ranges_cover_what_was_asked_up_to_the_end_and_none_crosses_a_chunk(
        size in 0_u64..5 * CHUNK_BYTES, offset in 0_u64..6 * CHUNK_BYTES, len in 0_u32..3 << 20,
    ) {
        let ranges = chunk_ranges(size, offset, len);
        let mut at = offset;
        for range in &ranges {
            prop_assert_eq!(u64::from(range.chunk) * CHUNK_BYTES + u64::from(range.range.start), at);
            prop_assert!(range.range.start < range.range.end && u64::from(range.range.end) <= CHUNK_BYTES);
            at += u64::from(range.range.end - range.range.start);
        }
        prop_assert_eq!(at.max(offset), (offset + u64::from(len)).min(size).max(offset));
    }
}

#[test]
fn any_range_has_the_objects_bytes_first_from_the_origin_then_from_the_store() {
    let sizes = [1, 4095, 4096, 110 << 10, (1 << 20) + 1, (5 << 20) + 77];
    let rig = Rig::new(&sizes);
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..2 {
        for (n, &size) in sizes.iter().enumerate() {
            let (key, ino) = (format!("o{n}"), rig.ino(&format!("o{n}")));
            for _ in 0..20 {
                let offset = random.next_u64() % (size as u64 + 10);
                let len = (random.next_u64() % (1 << 20)) as u32 + 1;
                let bytes = &rig.objects[&key];
                let start = (offset as usize).min(bytes.len());
                let end = (start + len as usize).min(bytes.len());
                assert_eq!(
                    rig.read(ino, offset, len).expect("bytes"),
                    &bytes[start..end],
                    "{key} {offset} {len}"
                );
            }
        }
        rig.settle();
        let figures = rig.cache.figures();
        match round {
            0 => assert_eq!(figures.fills.get(), rig.gets()),
            _ => assert_eq!(figures.fills.get(), 5 + 2, "one GET an object, two for the one of 5 MiB"),
        }
    }
}

#[test]
fn sixty_four_readers_of_one_object_cost_one_get() {
    let rig = Rig::new(&[300 << 10]);
    let ino = rig.ino("o0");
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_millis(100), ..Faults::default() });
    let answers: Vec<_> = (0..64).map(|n| (n, rig.ask(ino, n * 4096, 4096))).collect();
    for (n, answer) in answers {
        let start = n as usize * 4096;
        assert_eq!(answer.recv().expect("answered").expect("bytes"), &rig.objects["o0"][start..start + 4096]);
    }
    rig.settle();
    assert_eq!(rig.gets(), 1);
}

#[test]
fn the_journal_names_the_first_thread_that_missed_and_the_one_that_opened() {
    let rig = Rig::new(&[3 << 20]);
    let ino = rig.ino("o0");
    let entries = rig.cache.journal().listen();
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_millis(100), ..Faults::default() });
    // Of several chunks: a read in parts is one reader's all the same.
    let answers = [Some(5), Some(6), None].map(|asker| rig.ask_as(asker, ino, 0, 3 << 20));
    answers.iter().for_each(|answer| drop(answer.recv().expect("answered").expect("bytes")));
    rig.settle();
    rig.source.opened(ino, Some(7), true);
    let noted: Vec<_> = entries.try_iter().map(|entry| entry.done).collect();
    let [Deed::Fetched { wanted_by, failed: false, .. }, opened] = &noted[..] else { panic!("{noted:?}") };
    assert_eq!(*wanted_by, WantedBy::Reader(Some(5)));
    assert_eq!(*opened, Deed::Opened { by: Some(7), passed_through: true });
}

#[test]
fn what_the_origin_fails_to_give_is_eio_and_can_be_read_later() {
    let rig = Rig::new(&[4096]);
    let ino = rig.ino("o0");
    rig.faulty.set(Faults { fail: 1.0, ..Faults::default() });
    assert_eq!(rig.read(ino, 0, 4096), Err(Errno::IO));
    rig.faulty.set(Faults::default());
    assert_eq!(rig.read(ino, 0, 4096).expect("bytes"), &rig.objects["o0"][..]);
}

#[test]
fn a_full_store_admits_nothing_and_keeps_what_it_has() {
    // 60 objects of 1 MiB beside a store of 32 MiB.
    let rig = Rig::limited(&[1 << 20; 60], CacheLimits::default(), 32 << 20);
    let epoch = || {
        let before = rig.gets();
        for n in 0..60 {
            let key = format!("o{n}");
            assert_eq!(rig.read(rig.ino(&key), 0, 1 << 20).expect("bytes"), &rig.objects[&key][..]);
        }
        rig.settle();
        rig.gets() - before
    };
    assert_eq!(epoch(), 60);
    let stored = rig.cache.store().usage().extents;
    assert!((10..60).contains(&stored), "{stored}");
    for _ in 0..2 {
        assert_eq!(epoch(), 60 - stored, "what was kept is hit, all of it, and nothing is traded for it");
    }
    assert!(rig.cache.figures().not_admitted.get() > 0);
}

#[test]
fn fills_in_memory_stay_within_their_limit() {
    let limits = CacheLimits { fill_bytes_max: 4 << 20, ..CacheLimits::default() };
    let rig = Rig::limited(&[1 << 20; 12], limits, 64 << 20);
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_millis(20), ..Faults::default() });
    let answers: Vec<_> = (0..12).map(|n| rig.ask(rig.ino(&format!("o{n}")), 0, 4096)).collect();
    let mut most = 0;
    while answers.iter().any(Receiver::is_empty) {
        most = most.max(rig.cache.figures().fills_in_flight.get());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!((1..=4).contains(&most), "{most} fills of 1 MiB at once in 4 MiB");
}

/// Remembers what the kernel would have been told.
#[derive(Default)]
struct Told(parking_lot::Mutex<Vec<Change>>);

impl Announce for Told {
    fn changed(&self, change: &Change) {
        self.0.lock().push(change.clone());
    }
}

#[test]
fn a_replaced_object_is_estale_under_its_old_number_and_new_under_its_name() {
    let mut rig = Rig::new(&[8192, 5 << 20]);
    let told = Arc::new(Told::default());
    let revalidation = Revalidation::new(rig.cache.clone(), told.clone(), None);
    rig.runtime.spawn(revalidation.run(rig.outdated.take().expect("taken once"), false));
    let (small, large) = (rig.ino("o0"), rig.ino("o1"));
    assert!(rig.read(large, 0, 4096).is_ok());
    rig.settle();

    let fresh = bytes_of(99, 8192);
    rig.put("o0", fresh.clone());
    rig.put("o1", bytes_of(98, 5 << 20));
    assert_eq!(rig.read(small, 0, 8192), Err(Errno::STALE));
    assert_eq!(rig.read(large, 4 << 20, 4096), Err(Errno::STALE), "a range that was not stored");
    assert_eq!(rig.read(large, 0, 4096).expect("stored"), &rig.objects["o1"][..4096]);
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while told.0.lock().len() < 2 {
        assert!(SystemTime::now() < deadline, "the names were not moved");
        std::thread::sleep(Duration::from_millis(5));
    }
    let renewed = rig.ino("o0");
    assert_ne!(renewed, small);
    assert_eq!(rig.read(renewed, 0, 8192).expect("bytes"), &fresh[..]);
    assert_eq!(rig.source.attributes(small).expect("the kernel still refers to it").size_bytes, 8192);
}

#[test]
fn the_end_does_not_wait_for_an_origin_that_stalls() {
    let rig = Rig::new(&[8192, 8192]);
    assert!(rig.read(rig.ino("o1"), 0, 8192).is_ok());
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_secs(3600), ..Faults::default() });
    let answer = rig.ask(rig.ino("o0"), 0, 8192);
    rig.cache.stop_fetching();
    assert_eq!(answer.recv_timeout(Duration::from_secs(20)).expect("answered"), Err(Errno::IO));
    rig.settle();
    assert_eq!(rig.read(rig.ino("o1"), 0, 8192).expect("what is stored is served"), &rig.objects["o1"][..]);
    assert_eq!(rig.read(rig.ino("o0"), 0, 8192), Err(Errno::IO));
}
