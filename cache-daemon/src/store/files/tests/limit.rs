//! The limit: measured by blocks, with both kinds of objects coming and going, and on a disk that is full.

use std::process::Command;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

#[test]
fn the_limit_holds_in_blocks_under_churn_of_both_kinds_and_when_it_changes() {
    let seed = 3;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let home = Home::new();
    let (mut stored_large, mut stored_small, mut held) = (0, 0, Vec::new());
    // With files removed by blocking calls and in a ring: their space may be used when their blocks are free.
    let (calls, ring) = (EngineKind::Psync, EngineKind::Auto);
    for (limit, engine) in [(12 * MIB, ring), (24 * MIB, calls), (8 * MIB, ring), (16 * MIB, calls)] {
        let (store, figures) = home.open_as(StoreConfig { engine, ..home.config(limit) });
        let most = |what: &str| {
            let used = home.blocks_bytes();
            assert!(used <= limit, "{used} bytes of {limit} after {what}: {:?}", store.usage());
        };
        most("opening");
        for _ in 0..250 {
            let number = rng.random_range(0..40);
            let bytes = if number % 2 == 0 { 60_000 } else { MIB + number * 50_000 };
            match rng.random_range(0..10) {
                0..6 => {
                    let stored = put_all(&store, number, &object(number, bytes)) == Appended::Stored;
                    stored_large += u64::from(stored && bytes > MIB);
                    stored_small += u64::from(stored && bytes < MIB);
                }
                6 => held.extend(store.complete_file(&fingerprint(number))),
                7 => held.clear(),
                8 => _ = get_all(&store, number, 0),
                _ => store.forget(&fingerprint(number), 3),
            }
            most("a step");
        }
        // Deleted and still open: not in the tree any more, and still on the disk.
        held.clear();
        assert!(store.usage().used_bytes <= limit, "{:?}", store.usage());
        assert_eq!((figures.out_of_space.get(), figures.device_errors.get()), (0, 0));
    }
    println!("{stored_large} large and {stored_small} small objects stored");
    assert!(stored_large > 50 && stored_small > 50);
}

#[test]
fn files_that_are_deleted_and_still_open_are_counted_until_they_are_closed() {
    let home = Home::new();
    let store = home.open(8 * MIB);
    let mut held = Vec::new();
    let mut number = 0;
    // Every one is forgotten at once, and none can be given up.
    while put_all(&store, number, &object(number, MIB)) == Appended::Stored {
        held.push(store.complete_file(&fingerprint(number)).unwrap());
        store.forget(&fingerprint(number), 1);
        number += 1;
        assert!(number < 8, "8 files of 1 MiB do not fit");
    }
    assert!(number >= 4, "{number}");
    assert_eq!(store.usage().volumes[0].files, 0);
    assert!(store.usage().volumes[0].file_bytes >= number * MIB);
    held.clear();
    until("room", || (put_all(&store, 99, &object(99, MIB)) == Appended::Stored).then_some(()));
}

#[test]
fn what_files_give_up_can_be_used_by_small_objects_and_the_reverse() {
    let home = Home::new();
    let store = home.open(12 * MIB);
    for _ in 0..3 {
        let mut large = 0;
        // While segments are emptied, there are refusals that mean nothing.
        until("room for files", || {
            while put_all(&store, large, &object(large, MIB)) == Appended::Stored {
                large += 1;
            }
            (large >= 6).then_some(())
        });
        store.retain(&|_| false);
        let mut small = 0;
        until("room for extents", || {
            while put_all(&store, 5000 + small, &object(5000 + small, 100_000)) == Appended::Stored {
                small += 1;
            }
            (small >= 70).then_some(())
        });
        store.retain(&|_| false);
        assert!(home.blocks_bytes() <= 12 * MIB);
    }
}

#[test]
fn a_lower_limit_costs_files_and_segments_their_share_and_a_higher_one_nothing() {
    let home = Home::new();
    let store = home.open(32 * MIB);
    for number in 0..8 {
        assert_eq!(put_all(&store, number, &object(number, 2 * MIB)), Appended::Stored);
    }
    for number in 100..180 {
        assert_eq!(put_all(&store, number, &object(number, 100_000)), Appended::Stored);
    }
    drop(store);
    let there = |store: &Store| {
        let files = (0..8).filter(|number| store.contains(&key(*number, 1)).is_some()).count();
        (files, (100..180).filter(|number| store.contains(&key(*number, 0)).is_some()).count())
    };
    assert_eq!(there(&home.open(40 * MIB)), (8, 80));
    assert!(home.blocks_bytes() <= 40 * MIB);
    let (files, small) = there(&home.open(14 * MIB));
    println!("{files} of 8 files and {small} of 80 small objects kept");
    assert!((3..8).contains(&files) && (10..80).contains(&small));
    assert!(home.blocks_bytes() <= 14 * MIB);
    let store = home.open(32 * MIB);
    assert_eq!(there(&store), (files, small));
    assert_eq!(put_all(&store, 50, &object(50, 8 * MIB)), Appended::Stored);
    assert!(home.blocks_bytes() <= 32 * MIB);
}

#[test]
fn a_store_with_files_opens_again_on_a_file_system_that_it_fills() {
    let Some(disk) = Disk::new(48) else { return };
    let home = Home { dir: tempfile::tempdir_in(disk.path()).unwrap() };
    let free = nix::sys::statvfs::statvfs(&disk.path()).unwrap();
    let limit = free.blocks_available() * free.fragment_size() - 2 * MIB;
    for round in 0..3 {
        let (store, figures) = home.open_as(home.config(limit));
        for number in 0..40 {
            put_all(&store, number, &object(number, 2 * MIB));
        }
        assert!(store.usage().volumes[0].files >= 10, "{:?}", store.usage());
        assert_eq!(figures.out_of_space.get(), 0, "round {round}");
        assert!(home.blocks_bytes() <= limit);
        store.forget(&fingerprint(round), 2);
    }
}

#[test]
fn when_others_fill_the_disk_an_object_is_refused_and_counted_and_the_rest_goes_on() {
    let Some(disk) = Disk::new(48) else { return };
    let home = Home { dir: tempfile::tempdir_in(disk.path()).unwrap() };
    let (store, figures) = home.open_as(home.config(16 * MIB));
    assert_eq!(put_all(&store, 1, &object(1, MIB)), Appended::Stored);
    assert_eq!(put_all(&store, 2, &object(2, 100_000)), Appended::Stored);
    // Takes whatever is given up, at once.
    let filler = std::fs::File::create(disk.path().join("others")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for bytes in [MIB, 64 << 10, 4096] {
                    while filler.write_all_at(&vec![1; bytes as usize], at).is_ok() {
                        at += bytes;
                    }
                }
            }
        });
        until("the full disk", || {
            let free = nix::sys::statvfs::statvfs(&disk.path()).unwrap();
            (free.blocks_available() < 16).then_some(())
        });
        let mut number = 10;
        until("a refusal", || {
            number += 1;
            let appended = put_all(&store, number, &object(number, 2 * MIB));
            (appended != Appended::Stored && figures.out_of_space.get() > 0).then_some(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(get_all(&store, 1, 0).unwrap() == object(1, MIB));
    assert!(get_all(&store, 2, 0).unwrap() == object(2, 100_000));
    drop(filler);
    std::fs::remove_file(disk.path().join("others")).unwrap();
    until("room", || (put_all(&store, 3, &object(3, MIB)) == Appended::Stored).then_some(()));
}

/// A small ext4 of its own, in a file on a loop device.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u64) -> Option<Self> {
        let dir = Home::new().dir;
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let run = |program: &str, args: &[&Path]| {
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        let made = run("mkfs.ext4", &["-qF".as_ref(), "-m0".as_ref(), &image])
            && run("mount", &["-oloop".as_ref(), &image, &dir.path().join("mnt")]);
        if !made {
            println!("skipped: mkfs.ext4 or a loop mount is not to be had here");
        }
        made.then_some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
