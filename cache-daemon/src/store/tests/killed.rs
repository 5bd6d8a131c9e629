//! A process that is killed in the middle of everything, again and again: what is left is right, and does not grow.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::super::*;
use super::{Home, data, key};

const KILLS: u64 = 6;
/// The first of them come whenever they come; the others when there is something durable to be found.
const KILLS_EARLY: u64 = 2;
/// What the child prints when that is so.
const SYNCED: &str = "a round is durable";
const LIMIT_BYTES: u64 = 12 << 20;
/// The child's store: its directory, and its raw device if it has one.
const HOME: &str = "EPOCHCACHE_TEST_KILLED_HOME";
const DEVICE: &str = "EPOCHCACHE_TEST_KILLED_DEVICE";

fn len(number: u64) -> usize {
    2000 + (number as usize * 7919) % 150_000
}

fn config(path: PathBuf, place: Place) -> StoreConfig {
    let mut config = StoreConfig::new(vec![place], path, LIMIT_BYTES);
    config.segment_bytes = super::SEGMENT_BYTES;
    config.checkpoint_interval = Some(Duration::from_millis(100));
    config.writer.sync_interval = Duration::from_millis(30);
    config
}

/// What is killed: appends, forgets and reads for ever. Does nothing unless it is told where.
#[test]
fn child() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let device = std::env::var_os(DEVICE);
    let place = device.map_or_else(|| Place::Directory(home.clone()), |device| Place::Device(device.into()));
    let (store, _) = Store::open(config(home, place), Arc::default()).unwrap();
    let first = u64::from(std::process::id());
    for round in first.. {
        for number in 0..100 {
            store.put(key(number), &data(number, len(number)));
            let other = (number * 31 + round) % 100;
            if let Ok(bytes) = store.get_all(key(other)) {
                assert!(bytes == data(other, len(other)), "wrong bytes");
            }
            if (number + round).is_multiple_of(4) {
                store.forget(&key((number * 17 + round) % 100).object, 1);
            }
        }
        if round == first {
            store.sync().unwrap();
            println!("\n{SYNCED}");
        }
    }
}

#[test]
fn a_daemon_killed_again_and_again_is_warm_right_and_does_not_grow() {
    is_warm_and_right_after_kills(&Home::new());
}

pub(super) fn is_warm_and_right_after_kills(home: &Home) {
    let path = home.dir.path();
    let device = if let Place::Device(device) = &home.place { Some((DEVICE, device)) } else { None };
    let name = concat!(module_path!(), "::child").split_once("::").unwrap().1;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(HOME, path)
            .envs(device)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        if kill >= KILLS_EARLY {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap() == SYNCED), "it ended by itself");
        }
        std::thread::sleep(Duration::from_millis(97 * (kill + 1)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended by itself");
        // The pages that the process had mapped, and its ring, are gone when the place can be opened.
        let (store, report) =
            Store::open(config(path.to_owned(), home.place.clone()), Arc::default()).unwrap();
        let mut whole = 0;
        let mut keys = Vec::new();
        store.for_each_extent(&mut |key, _| keys.push(*key));
        for found in &keys {
            let number = u64::from_le_bytes(found.object.0[..8].try_into().unwrap());
            if let Ok(bytes) = store.get_all(*found) {
                assert!(bytes == data(number, len(number)), "wrong bytes of {number} after kill {kill}");
                whole += 1;
            }
        }
        println!("kill {kill}: {} extents found, {whole} whole, {:?}", report.extents, report.recovery);
        assert!(kill < KILLS_EARLY || whole > 20, "not warm after kill {kill}");
        assert!(store.usage().used_bytes <= LIMIT_BYTES);
        drop(store);
        let files = std::fs::read_dir(path).unwrap().count();
        assert!(
            files <= 3 && home.blocks_bytes() <= LIMIT_BYTES,
            "{files} files, {} bytes",
            home.blocks_bytes()
        );
    }
}
