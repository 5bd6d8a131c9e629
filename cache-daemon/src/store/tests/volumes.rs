//! Several volumes in one store, and everything at the same time.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::*;
use super::{Home, SEGMENT_BYTES, data, key};
use crate::io::EngineKind;
use crate::store::health::State;

fn config(homes: &[Home], limit_bytes: u64) -> StoreConfig {
    let places = homes.iter().map(|home| home.place.clone()).collect();
    StoreConfig { places, ..homes[0].config(limit_bytes) }
}

#[test]
fn appends_spread_over_volumes_and_a_failing_one_leaves_and_returns() {
    let homes = [Home::new(), Home::new(), Home::new()];
    let open = || Store::open(config(&homes, 24 << 20), Arc::default()).unwrap().0;
    let store = open();
    for number in 0..90 {
        assert_eq!(store.put(key(number), &data(number, 100_000)), Appended::Stored);
    }
    let usage = store.usage();
    assert!(usage.volumes.iter().all(|volume| (20..40).contains(&volume.extents)), "{usage:?}");
    assert!(usage.used_bytes <= 24 << 20);
    store.close();
    drop(store);

    let store = open();
    assert_eq!(store.usage().extents, 90);
    // One of them loses its medium while it runs.
    let path = homes[1].dir.path().join(medium::FILE_NAME);
    let content = std::fs::read(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let answers: Vec<_> = (0..90).map(|number| (number, store.get_all(key(number)))).collect();
    let served = answers.iter().filter(|(number, answer)| {
        let wanted = data(*number, 100_000);
        answer.as_ref().is_ok_and(|bytes| *bytes == wanted)
    });
    assert_eq!(served.count() as u64, 90 - usage.volumes[1].extents);
    let state = |store: &Store| store.usage().volumes[1].state;
    assert_ne!(state(&store), State::In);
    assert_eq!(store.put(key(1000), &data(1000, 100_000)), Appended::Stored, "the others go on");

    // And gets it back: a trial a second or so later finds out.
    std::fs::write(&path, content).unwrap();
    let started = Instant::now();
    while state(&store) != State::In {
        assert!(started.elapsed() < Duration::from_secs(120), "a volume that works is never left out");
        std::thread::sleep(Duration::from_millis(20));
    }
    for number in 0..90 {
        assert_eq!(store.get_all(key(number)).unwrap(), data(number, 100_000));
    }
}

#[test]
fn a_place_that_is_missing_is_left_out_unless_it_is_the_first_start() {
    let homes = [Home::new(), Home::new()];
    let config = config(&homes, 16 << 20);
    let missing = homes[1].dir.path().join("missing/deep");
    let first =
        StoreConfig { places: vec![config.places[0].clone(), Place::Directory(missing)], ..config.clone() };
    assert!(matches!(Store::open(first, Arc::default()), Err(StoreError::Io { .. })));

    let store = Store::open(config.clone(), Arc::default()).unwrap().0;
    (0..40).for_each(|number| _ = store.put(key(number), &data(number, 100_000)));
    store.close();
    drop(store);
    let [home, lost] = &homes;
    let away = home.dir.path().join("away");
    std::fs::rename(lost.dir.path(), &away).unwrap();
    let (store, report) = Store::open(config.clone(), Arc::default()).unwrap();
    assert_eq!((report.volumes.len(), report.lost.len()), (1, 1));
    assert!(report.lost[0].contains("does not exist") && !lost.dir.path().exists());
    let found = (0..40).filter(|number| store.get_all(key(*number)).is_ok()).count();
    assert!((10..30).contains(&found), "{found}");
    store.close();
    drop(store);
    std::fs::rename(&away, lost.dir.path()).unwrap();
    let (store, _) = Store::open(config, Arc::default()).unwrap();
    assert_eq!((0..40).filter(|number| store.get_all(key(*number)).is_ok()).count(), 40);
}

#[test]
fn a_place_that_was_never_used_and_is_not_there_is_an_error_at_every_start() {
    let homes = [Home::new(), Home::new()];
    let config = config(&homes, 16 << 20);
    drop(Store::open(config.clone(), Arc::default()).unwrap());
    let mistyped = Place::Directory(homes[1].dir.path().join("mistyped"));
    let places = vec![config.places[0].clone(), config.places[1].clone(), mistyped];
    let error = Store::open(StoreConfig { places, ..config.clone() }, Arc::default()).err().unwrap();
    assert!(error.to_string().contains("mistyped does not exist"), "{error}");
    assert_eq!(Store::open(config, Arc::default()).unwrap().1.volumes.len(), 2);
}

/// A store of small objects and of files at two places, opened while the second is away; and where that is.
fn opened_without_the_second(homes: &[Home; 2], config: &StoreConfig) -> (Store, std::path::PathBuf) {
    let store = Store::open(config.clone(), Arc::default()).unwrap().0;
    (0..80).for_each(|number| assert_eq!(store.put(key(number), &data(number, 100_000)), Appended::Stored));
    (80..96).for_each(|number| assert_eq!(store.put(key(number), &data(number, 500_000)), Appended::Stored));
    let usage = store.usage();
    assert!(usage.volumes.iter().all(|volume| volume.files > 2 && volume.extents > 10), "{usage:?}");
    drop(store);
    let [home, lost] = homes;
    let away = home.dir.path().join("away");
    std::fs::rename(lost.dir.path(), &away).unwrap();
    (Store::open(config.clone(), Arc::default()).unwrap().0, away)
}

fn served(store: &Store) -> usize {
    let len = |number: u64| if number < 80 { 100_000 } else { 500_000 };
    let is_served = |number: &u64| match store.get_all(key(*number)) {
        Ok(bytes) => bytes == data(*number, len(*number)) || panic!("wrong bytes of {number}"),
        Err(_) => false,
    };
    (0..96).filter(is_served).count()
}

fn tried_often(homes: &[Home], limit_bytes: u64) -> StoreConfig {
    let backoff = Duration::from_millis(5);
    let budget = health::ErrorBudget { backoff_min: backoff, backoff_max: backoff, ..Default::default() };
    StoreConfig { budget, file_from: 400_000, ..config(homes, limit_bytes) }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_place_that_comes_back_while_the_store_runs_is_used_again_within_the_limit() {
    let homes = [Home::new(), Home::new()];
    let config = tried_often(&homes, 36 << 20);
    let (store, away) = opened_without_the_second(&homes, &config);
    let before = served(&store);
    assert!((20..80).contains(&before), "{before}");
    assert_eq!((store.usage().lost.len(), store.shared.figures.lost_places.get()), (1, 1));
    // What the others could take is theirs, and what is lost is not.
    (200..400).for_each(|number| _ = store.put(key(number), &data(number, 100_000)));
    // Fetched again meanwhile, as a small object and as a file.
    for number in 0..96 {
        let len = if number < 80 { 100_000 } else { 500_000 };
        if number % 7 == 0 {
            store.put(key(number), &data(number, len));
        }
    }
    std::fs::rename(away, homes[1].dir.path()).unwrap();
    until("the return", || store.usage().lost.is_empty());
    assert_eq!((store.usage().volumes.len(), store.shared.figures.lost_places.get()), (2, 0));
    until("the service", || served(&store) == 96);
    until("the verification", || (80..96).all(|number| store.complete_file(&key(number).object).is_some()));
    let used = homes.iter().map(Home::blocks_bytes_deep).sum::<u64>();
    assert!(used <= 36 << 20 && store.usage().used_bytes <= 36 << 20, "{used}: {:?}", store.usage());
    // It takes appends and forgets like the other one.
    (0..96).for_each(|number| store.forget(&key(number).object, 1));
    until("room", || store.put(key(500), &data(500, 100_000)) == Appended::Stored);
    store.close();
    drop(store);
    let store = Store::open(config, Arc::default()).unwrap().0;
    assert_eq!(store.get_all(key(500)).unwrap(), data(500, 100_000));
}

#[test]
fn what_is_not_the_place_that_was_lost_is_left_alone_and_a_close_does_not_wait_for_it() {
    let homes = [Home::new(), Home::new()];
    let config = tried_often(&homes, 36 << 20);
    let (store, away) = opened_without_the_second(&homes, &config);
    let path = homes[1].dir.path();
    let why = |store: &Store| store.usage().lost.first().map(|lost| lost.why.clone()).unwrap_or_default();
    assert!(why(&store).contains("does not exist"), "{}", why(&store));
    // The mountpoint of a file system that is not mounted.
    std::fs::create_dir(path).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(std::fs::read_dir(path).unwrap().next().is_none() && store.usage().lost.len() == 1);
    // Another store.
    let other = Home::new();
    other.open(16 << 20).close();
    let segments = other.dir.path().join(medium::FILE_NAME);
    std::fs::copy(&segments, path.join(medium::FILE_NAME)).unwrap();
    until("the refusal", || why(&store).contains("nothing of this store"));
    assert!(std::fs::read(segments).unwrap() == std::fs::read(path.join(medium::FILE_NAME)).unwrap());
    store.close();
    assert!(std::fs::remove_dir_all(path).is_ok() && std::fs::rename(away, path).is_ok());
}

#[test]
fn a_scrub_finds_damage_that_nobody_has_read_and_keeps_to_its_rate() {
    let homes = [Home::new(), Home::new()];
    let store = Store::open(config(&homes, 16 << 20), Arc::default()).unwrap().0;
    (0..60).for_each(|number| assert_eq!(store.put(key(number), &data(number, 50_000)), Appended::Stored));
    store.sync().unwrap();
    let path = homes[0].dir.path().join(medium::FILE_NAME);
    let mut content = std::fs::read(&path).unwrap();
    let needle = &data(7, 50_000)[20_000..20_032];
    let found = content.windows(needle.len()).position(|window| window == needle);
    let (path, mut content, at) = match found {
        Some(at) => (path, content, at),
        None => {
            let path = homes[1].dir.path().join(medium::FILE_NAME);
            content = std::fs::read(&path).unwrap();
            let at = content.windows(needle.len()).position(|window| window == needle).unwrap();
            (path, content, at)
        }
    };
    content[at] ^= 1;
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&content[at..=at], at as u64).unwrap();
    file.sync_all().unwrap();

    let started = Instant::now();
    let scrubbed = store.scrub(10 << 20, &mut |_| true).unwrap();
    assert_eq!((scrubbed.extents, scrubbed.bytes, scrubbed.corrupt), (59, 60 * 50_000, 1));
    assert_eq!(store.contains(&key(7)), None);
    assert!(started.elapsed() >= Duration::from_secs_f64(60.0 * 50_000.0 / 10_485_760.0));
    let figures = &store.shared.figures;
    assert_eq!((figures.reads.get(), figures.hits.get(), figures.misses_corrupt.get()), (0, 0, 0));
    let whole = scrub::Scrubbed { bytes: 59 * 50_000, extents: 59, ..scrub::Scrubbed::default() };
    assert_eq!(store.scrub(u64::MAX, &mut |_| true), Some(whole));
}

#[test]
fn a_scrub_that_is_slow_tells_every_second_and_ends_when_nobody_listens_or_the_store_is_closed() {
    let homes = [Home::new()];
    let store = Store::open(config(&homes, 8 << 20), Arc::default()).unwrap().0;
    (0..20).for_each(|number| assert_eq!(store.put(key(number), &data(number, 50_000)), Appended::Stored));
    // A read a day.
    let mut told = 0;
    let ended = store.scrub(1, &mut |_| {
        told += 1;
        told < 2
    });
    assert_eq!((ended, told), (None, 2));
    let ended = store.scrub(1, &mut |_| {
        store.close();
        true
    });
    assert_eq!(ended, None);
}

#[test]
fn places_of_two_stores_are_not_mixed() {
    let homes = [Home::new(), Home::new()];
    homes.iter().for_each(|home| home.open(8 << 20).close());
    let refused = Store::open(config(&homes, 16 << 20), Arc::default()).err().expect("refused");
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
}

#[test]
fn everything_at_once_serves_no_wrong_byte() {
    serves_no_wrong_byte(&[Home::new(), Home::new()]);
}

/// Readers, fills, forgetting, reclaim, syncs and checkpoints at the same time: never a wrong byte.
pub(super) fn serves_no_wrong_byte(homes: &[Home]) {
    const KEYS: u64 = 400;
    let seed = 7;
    let mut config = config(homes, 20 << 20);
    config.engine = EngineKind::Auto;
    config.read_threads = 2;
    config.checkpoint_interval = Some(Duration::from_millis(50));
    config.writer.sync_interval = Duration::from_millis(20);
    assert_eq!(config.segment_bytes, SEGMENT_BYTES);
    let store = Store::open(config.clone(), Arc::default()).unwrap().0;
    let (hits, stored) = (AtomicU64::new(0), AtomicU64::new(0));
    let len = |number: u64| 1000 + (number as usize * 7919) % 150_000;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, hits, stored) = (&store, &hits, &stored);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed + thread);
                for _ in 0..200 {
                    let number = rng.random_range(0..KEYS);
                    match rng.random_range(0..20) {
                        0..11 => {
                            let wanted = data(number, len(number));
                            let from = rng.random_range(0..wanted.len());
                            let to = rng.random_range(from + 1..=wanted.len());
                            if let Ok(bytes) = store.get(key(number), from as u32..to as u32) {
                                assert!(bytes == wanted[from..to], "wrong bytes of {number}");
                                hits.fetch_add(1, SeqCst);
                            }
                        }
                        11..18 => {
                            if store.put(key(number), &data(number, len(number))) == Appended::Stored {
                                stored.fetch_add(1, SeqCst);
                            }
                        }
                        18 => {
                            (0..40).for_each(|offset| store.forget(&key((number + offset) % KEYS).object, 1))
                        }
                        _ => store.sync().unwrap(),
                    }
                }
            });
        }
    });
    let (hits, stored) = (hits.into_inner(), stored.into_inner());
    let figures = store.shared.figures.clone();
    println!(
        "seed {seed}: {hits} hits, {stored} stored, {} segments reclaimed",
        figures.segments_reclaimed.get()
    );
    assert!(hits > 0 && stored > 0 && figures.segments_reclaimed.get() > 0);
    assert_eq!(figures.checksum_failures.get(), 0, "a pinned segment was used again");
    let usage = store.usage();
    store.close();
    drop(store);
    let store = Store::open(config, Arc::default()).unwrap().0;
    assert_eq!(store.usage().live_bytes, usage.live_bytes);
    store.for_each_extent(&mut |found, _| {
        let number = u64::from_le_bytes(found.object.0[..8].try_into().unwrap());
        assert!(store.get_all(*found).unwrap() == data(number, len(number)));
    });
}
