//! Raw devices, with logical blocks of 512 and 4096 bytes: loop devices over sparse files, or what [`GIVEN`] names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::super::*;
use super::{Home, data, key, scratch};
use crate::io::EngineKind;

/// Devices to be written over, with colons between: the NVMe namespaces of `cargo xtask vm-test`.
const GIVEN: &str = "EPOCHCACHE_TEST_DEVICE";

/// Of a device, what the tests use at most.
const DEVICE_BYTES: u64 = 24 << 20;

/// A device that a test has to itself.
struct Device {
    path: PathBuf,
    kind: Kind,
}

#[expect(dead_code, reason = "held, not used")]
enum Kind {
    /// Detached on drop.
    Loop(tempfile::NamedTempFile),
    /// Locked against other tests that were given the same.
    Given(File),
}

impl Device {
    /// One of each kind: with small blocks and with large ones.
    fn all() -> Vec<Self> {
        let Some(given) = std::env::var_os(GIVEN) else {
            return [512, 4096].into_iter().filter_map(Self::new_loop).collect();
        };
        std::env::split_paths(&given).map(Self::given).collect()
    }

    /// None, with the reason printed, where there can be no loop devices.
    fn new_loop(block_bytes: u32) -> Option<Self> {
        let file = tempfile::NamedTempFile::new_in(scratch()).unwrap();
        file.as_file().set_len(DEVICE_BYTES).unwrap();
        let size = block_bytes.to_string();
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &size])
            .arg(file.path())
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Self { path: PathBuf::from(path.trim()), kind: Kind::Loop(file) })
            }
            Ok(output) => {
                eprintln!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: no losetup: {error}");
                None
            }
        }
    }

    /// A blank one: what an earlier test left is gone.
    fn given(path: PathBuf) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let lock = File::create(std::env::temp_dir().join(format!("epochcache-test-{name}.lock"))).unwrap();
        lock.lock().unwrap();
        println!("on {}", path.display());
        let blank = vec![0; usize::try_from(DEVICE_BYTES).unwrap()];
        let device = File::options().write(true).open(&path).unwrap();
        device.write_all_at(&blank, 0).and_then(|()| device.sync_all()).unwrap();
        Self { path, kind: Kind::Given(lock) }
    }

    fn home(&self, engine: EngineKind) -> Home {
        Home { engine, ..Home::on(&self.path) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Kind::Loop(_) = self.kind {
            let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        }
    }
}

#[test]
fn what_is_appended_to_a_device_is_read_back_in_any_part_also_after_a_restart() {
    for engine in [EngineKind::Auto, EngineKind::Psync] {
        for device in Device::all() {
            super::is_read_back_in_any_part_also_after_a_restart(&device.home(engine));
        }
    }
}

#[test]
fn a_full_device_admits_nothing_until_something_is_forgotten() {
    for device in Device::all() {
        super::is_full_until_something_is_forgotten(&device.home(EngineKind::Auto));
    }
}

#[test]
fn one_device_belongs_to_one_daemon() {
    for device in Device::all() {
        super::belongs_to_one_daemon(&device.home(EngineKind::Auto));
    }
}

#[test]
fn everything_at_once_on_devices_serves_no_wrong_byte() {
    let devices = Device::all();
    if !devices.is_empty() {
        let homes: Vec<_> = devices.iter().map(|device| device.home(EngineKind::Auto)).collect();
        super::volumes::serves_no_wrong_byte(&homes);
    }
}

#[test]
fn a_device_of_a_daemon_killed_again_and_again_is_warm_and_right() {
    for device in Device::all() {
        super::killed::is_warm_and_right_after_kills(&device.home(EngineKind::Auto));
    }
}

#[test]
fn a_device_without_its_checkpoint_is_recovered_from_what_is_on_it() {
    for device in Device::all() {
        let home = device.home(EngineKind::Auto);
        let store = home.open(DEVICE_BYTES);
        (0..60).for_each(|n| assert_eq!(store.put(key(n), &data(n, 100_000)), Appended::Stored));
        store.close();
        drop(store);
        // As where the state's directory is lost.
        let (store, report) =
            Store::open(device.home(EngineKind::Auto).config(DEVICE_BYTES), Arc::default()).unwrap();
        assert_eq!((report.extents, report.from_checkpoint), (60, false));
        (0..60).for_each(|n| assert_eq!(store.get_all(key(n)).unwrap(), data(n, 100_000)));
    }
}

#[test]
fn a_device_is_a_place_like_a_directory_and_foreign_content_is_refused() {
    for device in Device::all() {
        let home = device.home(EngineKind::Psync);
        let open = |limit, format| {
            let config = StoreConfig { format, ..home.config(limit) };
            Store::open(config, Arc::default()).map(|(store, _)| store)
        };
        let store = open(DEVICE_BYTES, false).unwrap();
        let stored = (0..).take_while(|n| store.put(key(*n), &data(*n, 100_000)) == Appended::Stored).count();
        assert!((150..245).contains(&stored), "{stored}");
        store.close();
        drop(store);

        let store = open(10 << 20, false).unwrap();
        let usage = store.usage();
        assert!(usage.extents > 40 && usage.live_bytes < 10 << 20, "{usage:?}");
        store.for_each_extent(&mut |found, len| {
            let number = u64::from_le_bytes(found.object.0[..8].try_into().unwrap());
            assert_eq!(store.get(*found, 0..len).unwrap(), data(number, 100_000));
        });
        let kept = usage.extents;
        drop(store);
        assert_eq!(open(10 << 20, false).unwrap().usage().extents, kept, "shrinking again changes nothing");

        std::fs::write(&device.path, [1; 1 << 20]).unwrap();
        let refused = open(DEVICE_BYTES, false).err().expect("refused");
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
        assert_eq!(open(DEVICE_BYTES, true).unwrap().usage().extents, 0);
    }
}

#[test]
fn a_limit_beyond_the_device_means_as_much_of_it_as_there_is() {
    for device in Device::all() {
        // A given one may be larger than what can be filled here.
        if let Kind::Loop(_) = device.kind {
            let store = device.home(EngineKind::Psync).open(1 << 30);
            let all = (0..).take_while(|n| store.put(key(*n), &data(*n, 100_000)) == Appended::Stored);
            assert!((150..245).contains(&all.count()));
            assert!(store.usage().used_bytes <= DEVICE_BYTES);
        }
    }
}
