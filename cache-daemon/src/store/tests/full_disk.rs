//! A file system that is full: what was reserved is still there, and the rest is a counter.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use super::super::*;
use super::{data, key, scratch};
use crate::io::EngineKind;

/// An ext4 of its own on a loop device; unmounted on drop.
struct SmallDisk {
    dir: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl SmallDisk {
    /// None, with the reason printed, where nothing can be mounted.
    fn new(bytes: u64) -> Option<Self> {
        let image = tempfile::NamedTempFile::new_in(scratch()).unwrap();
        image.as_file().set_len(bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Without reserved blocks, or root could still write to a full disk.
        let formatted = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image.path()).status();
        if !formatted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no mkfs.ext4");
            return None;
        }
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir, _image: image }),
            Ok(output) => {
                eprintln!("SKIPPED: cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: no mount: {error}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The kernel lets go of a closed ring's files some time later.
        for _ in 0..100 {
            if Command::new("umount")
                .arg("-q")
                .arg(self.dir.path())
                .status()
                .is_ok_and(|status| status.success())
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("cannot unmount {}", self.dir.path().display());
    }
}

/// Writes until there is no block left.
fn fill(file: &mut std::fs::File) {
    for piece in [1 << 20, 4096] {
        let full = (0..).find_map(|_| file.write_all(&vec![1; piece]).and_then(|()| file.sync_all()).err());
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
}

#[test]
fn a_full_disk_costs_a_checkpoint_and_nothing_else() {
    let Some(disk) = SmallDisk::new(96 << 20) else { return };
    let config = |limit_bytes| {
        let mut config = StoreConfig::new(vec![Place::Directory(disk.path())], disk.path(), limit_bytes);
        config.segment_bytes = 1 << 20;
        config.engine = EngineKind::Auto;
        config.checkpoint_interval = None;
        config
    };
    let refused = Store::open(config(1 << 30), Arc::default()).err().expect("refused");
    let StoreError::NoSpace { needed, available, .. } = refused else { panic!("{refused}") };
    assert!(needed > 900 << 20 && available < 96 << 20 && available > 40 << 20, "{needed} {available}");

    let store = Store::open(config(48 << 20), Arc::default()).unwrap().0;
    let filler = disk.path().join("filler");
    fill(&mut std::fs::File::create(&filler).unwrap());
    for number in 0..300 {
        assert_eq!(store.put(key(number), &data(number, 100_000)), Appended::Stored);
    }
    store.sync().unwrap();
    let figures = store.shared.figures.clone();
    assert_eq!((figures.out_of_space.get(), figures.device_errors.get()), (0, 0));
    assert_eq!((figures.checkpoints.get(), figures.checkpoint_failures.get()), (0, 1));
    drop(store);
    // Without a checkpoint, and still on a full disk.
    let (store, report) = Store::open(config(48 << 20), Arc::default()).unwrap();
    assert_eq!((report.extents, report.from_checkpoint), (300, false));
    assert_eq!(store.get_all(key(299)).unwrap(), data(299, 100_000));
    std::fs::remove_file(filler).unwrap();
    store.close();
    drop(store);
    assert!(Store::open(config(48 << 20), Arc::default()).unwrap().1.from_checkpoint);
}
