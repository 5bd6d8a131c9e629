//! Raw devices: loop devices over sparse files, with logical blocks of 512 and 4096 bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::*;
use super::{data, key, scratch};

/// A loop device; detached on drop.
struct Loop {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// None, with the reason printed, where there can be no loop devices.
    fn new(bytes: u64, sector_bytes: u32) -> Option<Self> {
        let file = tempfile::NamedTempFile::new_in(scratch()).unwrap();
        file.as_file().set_len(bytes).unwrap();
        let size = sector_bytes.to_string();
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &size])
            .arg(file.path())
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Self { path: PathBuf::from(path.trim()), _file: file })
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
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn config(device: &Path, state: &tempfile::TempDir, limit_bytes: u64) -> StoreConfig {
    let place = Place::Device(device.to_owned());
    let mut config = StoreConfig::new(vec![place], state.path().to_owned(), limit_bytes);
    config.segment_bytes = super::SEGMENT_BYTES;
    config.checkpoint_interval = None;
    config
}

#[test]
fn a_device_is_a_place_like_a_directory_and_foreign_content_is_refused() {
    for sector_bytes in [512, 4096] {
        let Some(device) = Loop::new(24 << 20, sector_bytes) else { return };
        let state = tempfile::tempdir().unwrap();
        let open = |limit, format| {
            let config = StoreConfig { format, ..config(&device.path, &state, limit) };
            Store::open(config, Arc::default()).map(|(store, _)| store)
        };
        // Larger than the device: as much of it as there is.
        let store = open(1 << 30, false).unwrap();
        let stored = (0..).take_while(|n| store.put(key(*n), &data(*n, 100_000)) == Appended::Stored).count();
        assert!((150..200).contains(&stored), "{stored}");
        assert!(open(1 << 30, false).is_err(), "one daemon a device");
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
        let refused = open(1 << 30, false).err().expect("refused");
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
        assert_eq!(open(1 << 30, true).unwrap().usage().extents, 0);
    }
}
