//! Stores that earlier versions wrote (`tests/fixtures`): opened in full, or begun anew, never misread.
//!
//! A format that anybody has a store of is not changed; a new one gets a directory of its own here, and the
//! old one stays. `tests/fixtures/README.md` says how they are made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cache_daemon::catalog::{Builder, Catalog, Item, SnapshotError};
use cache_daemon::index::checkpoint;
use cache_daemon::io::EngineKind;
use cache_daemon::object::{Etag, ExtentKey, Fingerprint};
use cache_daemon::store::layout::SUPERBLOCKS;
use cache_daemon::store::{Appended, OpenReport, Place, Store, StoreConfig, StoreError};
use tempfile::TempDir;

use crate::format::{pack, unpack};

const ORIGIN: &str = "s3://bucket/train";
const MD5: &str = "\"0123456789abcdef0123456789abcdef\"";
const LIMIT_BYTES: u64 = 3 << 20;

/// Key, ETag and size of what is in the catalog; those whose size is not 0 are in the store, in this order.
const OBJECTS: [(&str, &str, usize); 9] = [
    ("n01/a.jpg", MD5, 1),
    ("n01/b.jpg", "\"0123456789abcdef0123456789abcdef-12\"", 3968),
    ("n02/c.jpg", "0123456789ABCDEF0123456789ABCDEF", 3969),
    ("n02/deep/er/d.jpg", "W/\"weak\"", 10_000),
    ("n02/empty", MD5, 0),
    ("é/two blocks.bin", MD5, 66_000),
    // From here on behind the checkpoint: found by walking headers.
    ("z/late", MD5, 5000),
    ("z/later", "", 12_345),
    ("z.last", MD5, 4096),
];
const IN_CHECKPOINT: usize = 6;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1").join(name)
}

/// The bytes of an object: the same for ever, whatever becomes of our generators of random numbers.
fn data((key, _, len): (&str, &str, usize)) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(key.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn extent((key, etag, len): (&str, &str, usize)) -> ExtentKey {
    ExtentKey { object: Fingerprint::of(ORIGIN, key, etag, len as u64), chunk: 0 }
}

fn stored() -> impl Iterator<Item = (&'static str, &'static str, usize)> {
    OBJECTS.into_iter().filter(|(_, _, len)| *len > 0)
}

fn modified(number: usize) -> SystemTime {
    UNIX_EPOCH + Duration::new(1_700_000_000 + number as u64, 123_000_000)
}

fn config(dir: &Path) -> StoreConfig {
    let places = vec![Place::Directory(dir.to_owned())];
    let mut config = StoreConfig::new(places, dir.to_owned(), LIMIT_BYTES);
    config.segment_bytes = 96 << 10;
    config.engine = EngineKind::Psync;
    config.checkpoint_interval = None;
    config
}

/// The directory of a store, with the files of the fixture in it.
fn restored() -> TempDir {
    // Not in /tmp: that may be a tmpfs, which a store refuses.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    unpack(&fs::read(fixture("segments.pages")).unwrap(), &dir.path().join("segments")).unwrap();
    fs::copy(fixture("index.checkpoint"), dir.path().join("index.checkpoint")).unwrap();
    dir
}

fn read_all(store: &Store, key: ExtentKey) -> Vec<u8> {
    let len = store.contains(&key).expect("it is in the store");
    let (done, answer) = mpsc::channel();
    store.read(key, 0..len, Box::new(move |bytes| done.send(bytes.map(<[u8]>::to_vec)).unwrap()));
    answer.recv_timeout(Duration::from_secs(60)).unwrap().expect("it can be read")
}

fn must_hold_everything(store: &Store, report: &OpenReport) {
    assert!(!report.volumes[0].formatted);
    let mut found = BTreeMap::new();
    store.for_each_extent(&mut |key, len| assert_eq!(found.insert(key.object, len), None));
    let expected: BTreeMap<_, _> = stored().map(|object| (extent(object).object, object.2 as u32)).collect();
    assert_eq!(found, expected);
    for object in stored() {
        assert!(read_all(store, extent(object)) == data(object), "{object:?}");
    }
}

#[test]
fn a_store_of_format_1_is_found_with_its_checkpoint_and_without() {
    let dir = restored();
    for has_checkpoint in [true, false] {
        let (store, report) = Store::open(config(dir.path()), Arc::default()).unwrap();
        assert_eq!(report.from_checkpoint, has_checkpoint);
        must_hold_everything(&store, &report);
        drop(store);
        fs::remove_file(dir.path().join("index.checkpoint")).unwrap();
    }
}

#[test]
fn a_store_of_another_format_is_refused_if_newer_and_begun_anew_if_older() {
    let with_version = |version: u16| {
        let dir = restored();
        let path = dir.path().join("segments");
        let mut volume = fs::read(&path).unwrap();
        for at in SUPERBLOCKS {
            volume[at.0 as usize + 8..][..2].copy_from_slice(&version.to_le_bytes());
        }
        fs::write(&path, volume).unwrap();
        dir
    };
    let newer = with_version(9);
    let refused = Store::open(config(newer.path()), Arc::default()).err().expect("it is newer");
    assert!(matches!(refused, StoreError::Newer { found: 9, .. }), "{refused}");
    let older = with_version(0);
    let (store, report) = Store::open(config(older.path()), Arc::default()).unwrap();
    assert!(report.volumes[0].formatted && report.extents == 0);
    assert!(stored().all(|object| store.contains(&extent(object)).is_none()));
}

#[test]
fn a_checkpoint_of_format_1_is_read() {
    let bytes = fs::read(fixture("index.checkpoint")).unwrap();
    let decoder = checkpoint::decode(&bytes).unwrap();
    let mut found = BTreeMap::new();
    decoder.for_each(|key, addr| assert_eq!(found.insert(key, addr.len), None)).unwrap();
    let objects = OBJECTS[..IN_CHECKPOINT].iter().copied().filter(|(_, _, len)| *len > 0);
    let expected: BTreeMap<_, _> = objects.map(|object| (extent(object), object.2 as u32)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_catalog_of_format_1_is_found() {
    let catalog = Catalog::load(&fixture("catalog.snapshot"), ORIGIN).unwrap();
    assert_eq!((catalog.files(), catalog.directories()), (OBJECTS.len() as u64, 6));
    let mut inos = Vec::new();
    for (number, (key, etag, len)) in OBJECTS.into_iter().enumerate() {
        let ino = catalog.resolve(key.as_bytes()).unwrap_or_else(|| panic!("no {key}"));
        let object = catalog.object(ino).unwrap();
        assert_eq!((object.key.as_str(), object.etag.as_str()), (key, etag));
        assert_eq!((object.size_bytes, object.fingerprint), (len as u64, extent((key, etag, len)).object));
        assert_eq!(catalog.attributes(ino).unwrap().modified, modified(number));
        inos.push(ino.0);
    }
    // Numbers that a kernel may know.
    assert_eq!(inos, [3, 4, 6, 9, 10, 16, 12, 13, 14]);
}

#[test]
fn a_catalog_of_another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let mut bytes = fs::read(fixture("catalog.snapshot")).unwrap();
    for (version, is_newer) in [(2, true), (0, false)] {
        bytes[8] = version;
        fs::write(&path, &bytes).unwrap();
        let refused = Catalog::load(&path, ORIGIN).err().unwrap();
        assert_eq!(matches!(refused, SnapshotError::Newer(2)), is_newer, "{refused}");
    }
}

#[test]
#[ignore = "writes tests/fixtures/format-1: only as long as nobody has a store of format 1"]
fn make_fixtures() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir_all(fixture("")).unwrap();
    let store = Store::open(config(dir.path()), Arc::default()).unwrap().0;
    let append = |object| {
        let (done, answer) = mpsc::channel();
        let (data, done) = (data(object), Box::new(move |appended| done.send(appended).unwrap()));
        store.append(extent(object), data.len() as u64, data, done);
        assert_eq!(answer.recv_timeout(Duration::from_secs(60)).unwrap(), Appended::Stored);
    };
    let late: Vec<_> = OBJECTS[IN_CHECKPOINT..].to_vec();
    stored().filter(|object| !late.contains(object)).for_each(append);
    store.sync().unwrap();
    fs::copy(dir.path().join("index.checkpoint"), fixture("index.checkpoint")).unwrap();
    late.into_iter().for_each(append);
    store.close();
    fs::write(fixture("segments.pages"), pack(&dir.path().join("segments")).unwrap()).unwrap();

    let mut builder = Builder::new(ORIGIN);
    for (number, (key, etag, len)) in OBJECTS.into_iter().enumerate() {
        builder.add(Item {
            key: key.to_owned(),
            size_bytes: len as u64,
            modified: modified(number),
            etag: Etag::new(etag),
        });
    }
    builder.finish(None).0.save(&fixture("catalog.snapshot")).unwrap();
}
