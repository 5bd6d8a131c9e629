//! Bytes put into the page cache ahead of readers, and taken out behind them.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc::channel;

use bytes::Bytes;
use fuse_frontend::figures::{Kind, RowValue};
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::push::{Dropped, Push, Pushed, Pusher};
use fuse_frontend::source::Ino;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::{Asked, DataSet, Mounted, cannot_mount, drop_pages, page_cache_lock, until, walk};

/// Pushes and waits for what comes of it.
pub(crate) fn push(pusher: &Pusher, ino: Ino, offset: u64, bytes: Bytes) -> Pushed {
    let (tell, told) = channel();
    pusher.push(Push {
        ino,
        offset,
        bytes,
        is_current: Box::new(|| true),
        done: Box::new(move |pushed| tell.send(pushed).unwrap()),
    });
    told.recv().unwrap()
}

/// Drops and waits for what comes of it.
pub(crate) fn drop_range(pusher: &Pusher, ino: Ino, bytes: Range<u64>) -> Dropped {
    let (tell, told) = channel();
    pusher.drop_pages(ino, bytes, move |dropped| tell.send(dropped).unwrap());
    told.recv().unwrap()
}

/// A page-aligned mapping of a whole file.
pub(crate) struct Mapping {
    at: std::ptr::NonNull<libc::c_void>,
    len: usize,
}

impl Mapping {
    pub(crate) fn of(file: &File) -> Self {
        let len = file.metadata().unwrap().len() as usize;
        let length = NonZeroUsize::new(len).unwrap();
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file's size never changes.
        let at = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }.unwrap();
        Self { at, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.len) }
    }

    /// Pages of it in the page cache.
    fn resident(&self) -> usize {
        let mut states = vec![0u8; self.len.div_ceil(4096)];
        // SAFETY: the mapping is `len` bytes long and `states` has a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(self.at.as_ptr(), self.len, states.as_mut_ptr()) }, 0);
        states.iter().filter(|state| **state & 1 != 0).count()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and the borrow of its bytes has ended.
        unsafe { munmap(self.at, self.len) }.unwrap();
    }
}

/// Does it until nobody on this machine has dropped all page caches in between: another program's tests may.
fn undisturbed<T>(mut attempt: impl FnMut() -> T) -> T {
    let drops = || {
        let stat = fs::read_to_string("/proc/vmstat").unwrap();
        stat.lines().find(|line| line.starts_with("drop_pagecache")).map(str::to_owned)
    };
    for _ in 0..20 {
        let (before, outcome) = (drops(), attempt());
        if drops() == before {
            return outcome;
        }
    }
    panic!("page caches are dropped on this machine without end");
}

/// Bytes of the page cache that the file at `path` takes.
fn resident_bytes(path: &Path) -> u64 {
    Mapping::of(&File::open(path).unwrap()).resident() as u64 * 4096
}

fn figure(mounted: &Mounted, name: &str) -> u64 {
    let rows = mounted.mount.pusher().snapshot();
    match rows.iter().find(|row| row.name == name).unwrap().value {
        RowValue::Count(count) => count,
        RowValue::Latency(_) => panic!("{name} is a count"),
    }
}

fn ino(mounted: &Mounted, path: &str) -> Ino {
    Ino(fs::metadata(mounted.path(path)).unwrap().ino())
}

fn mounted(source: MemorySource) -> Mounted {
    Mounted::new(source, ServeMode::NoOpen)
}

#[test]
fn a_pushed_data_set_is_read_without_a_single_request() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let set = DataSet::new(150, 300_000, 5);
    let mounted = mounted(set.source());
    walk(mounted.root());
    let asked = undisturbed(|| {
        for (path, bytes) in &set.files {
            let pushed = push(mounted.mount.pusher(), ino(&mounted, path), 0, bytes.clone().into());
            assert_eq!(pushed, Pushed::Stored { bytes: bytes.len() as u64 });
        }
        let before = Asked::so_far(mounted.counts());
        for (path, bytes) in &set.files {
            assert!(fs::read(mounted.path(path)).unwrap() == *bytes, "{path}");
        }
        Asked::since(mounted.counts(), before)
    });
    // The first open of a mount is answered ENOSYS, the first close announced.
    assert_eq!(asked, Asked { opens: asked.opens.min(1), flushes: asked.flushes.min(1), ..Asked::NOTHING });
    let total: u64 = set.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(figure(&mounted, "fuse_push_stored_bytes") % total, 0);
    let pages: u64 = set.files.iter().map(|(_, bytes)| bytes.len().div_ceil(4096) as u64 * 4096).sum();
    assert_eq!(mounted.mount.pusher().held_bytes(), pages);
}

#[test]
fn pushed_pieces_of_every_length_and_place_read_back_right_with_what_was_not_pushed() {
    if cannot_mount() {
        return;
    }
    let mut random = StdRng::seed_from_u64(11);
    let source = MemorySource::new();
    let mut sizes =
        vec![1, 4095, 4096, 4097, 8191, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 777];
    sizes.extend((0..20).map(|_| random.random_range(4 << 10..1 << 20)));
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .enumerate()
        .map(|(n, &size)| {
            (format!("{n:03}"), (0..size).map(|at| ((at * 31) ^ (at >> 8) ^ n) as u8).collect())
        })
        .collect();
    for (name, bytes) in &files {
        source.add_file(name, bytes.clone());
    }
    let mounted = mounted(source);
    walk(mounted.root());
    for (name, bytes) in &files {
        let node = ino(&mounted, name);
        // Whatever is asked for: whole pages of it are pushed, and what overlaps comes twice.
        for _ in 0..6 {
            let start = random.random_range(0..bytes.len());
            let end = random.random_range(start..=bytes.len());
            let piece = Bytes::copy_from_slice(&bytes[start..end]);
            let pushed = push(mounted.mount.pusher(), node, start as u64, piece);
            assert!(
                matches!(pushed, Pushed::Stored { .. } | Pushed::Nothing),
                "{pushed:?} of {start}..{end}"
            );
        }
        let file = File::open(mounted.path(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64, "a push never changes a size");
        for _ in 0..4 {
            let start = random.random_range(0..bytes.len());
            let mut part = vec![0; random.random_range(1..=(bytes.len() - start).min(200_000))];
            file.read_exact_at(&mut part, start as u64).unwrap();
            assert!(part == bytes[start..start + part.len()], "{name} at {start}");
        }
        assert!(Mapping::of(&file).bytes() == bytes, "{name} mapped");
        assert!(fs::read(mounted.path(name)).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn a_file_that_was_not_looked_up_takes_no_budget_and_is_no_error() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let node = source.add_file("file", vec![7; 10_000]);
    let mounted = mounted(source);
    assert_eq!(push(mounted.mount.pusher(), node, 0, vec![7; 10_000].into()), Pushed::Unknown);
    assert_eq!((mounted.mount.pusher().held_bytes(), figure(&mounted, "fuse_push_unknown")), (0, 1));
    walk(mounted.root());
    assert_eq!(
        push(mounted.mount.pusher(), node, 0, vec![7; 10_000].into()),
        Pushed::Stored { bytes: 10_000 }
    );
    assert_eq!(mounted.mount.pusher().held_bytes(), 3 * 4096);
    assert_eq!(
        push(mounted.mount.pusher(), Ino(77), 0, vec![7; 10].into()),
        Pushed::Outdated,
        "no such node"
    );
}

#[test]
fn the_budget_is_kept_by_what_the_page_cache_really_holds() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    const BUDGET: u64 = 8 << 20;
    let source = MemorySource::new();
    for n in 0..80 {
        source.add_file(&format!("{n:02}"), vec![n; 300_000]);
    }
    let mounted = Mounted::with(source, |options| {
        (options.serve, options.push_bytes_max) = (ServeMode::NoOpen, BUDGET);
    });
    walk(mounted.root());
    let pusher = mounted.mount.pusher();
    let all = || {
        let mut pushed = Vec::new();
        for n in 0..80u8 {
            let node = ino(&mounted, &format!("{n:02}"));
            match push(pusher, node, 0, vec![n; 300_000].into()) {
                Pushed::Stored { .. } => pushed.push((n, node)),
                refused => assert_eq!(refused, Pushed::OverBudget),
            }
        }
        pushed
    };
    let held = || (0..80).map(|n| resident_bytes(&mounted.path(&format!("{n:02}")))).sum::<u64>();
    let pushed = all();
    let within = BUDGET - BUDGET / 20..=BUDGET + BUDGET / 20;
    assert!(within.contains(&held()), "{} of {BUDGET}", held());
    assert_eq!(figure(&mounted, "fuse_push_held_bytes"), held());
    assert_eq!(figure(&mounted, "fuse_push_over_budget"), 80 - pushed.len() as u64);

    for &(n, node) in &pushed {
        assert!(fs::read(mounted.path(&format!("{n:02}"))).unwrap() == vec![n; 300_000]);
        assert_eq!(drop_range(pusher, node, 0..300_000), Dropped::Gone { bytes: 74 * 4096 });
    }
    assert_eq!((held(), pusher.held_bytes()), (0, 0));
    assert_eq!(all(), pushed, "what was dropped is free again");
}

#[test]
fn a_budget_of_nothing_pushes_nothing() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let node = source.add_file("file", vec![7; 10_000]);
    let mounted = Mounted::with(source, |options| options.push_bytes_max = 0);
    walk(mounted.root());
    assert_eq!(push(mounted.mount.pusher(), node, 0, vec![7; 10_000].into()), Pushed::OverBudget);
    assert!(fs::read(mounted.path("file")).unwrap() == vec![7; 10_000]);
}

#[test]
fn what_the_kernel_reclaimed_by_itself_is_found_and_pushed_again() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let nodes: Vec<Ino> = (0..4).map(|n| source.add_file(&format!("{n}"), vec![n; 256 << 10])).collect();
    let mounted = Mounted::with(source, |options| {
        (options.serve, options.push_bytes_max) = (ServeMode::NoOpen, 512 << 10);
    });
    walk(mounted.root());
    let pusher = mounted.mount.pusher();
    let push_one = |n: usize| push(pusher, nodes[n], 0, vec![n as u8; 256 << 10].into());
    assert!(matches!([push_one(0), push_one(1)], [Pushed::Stored { .. }, Pushed::Stored { .. }]));
    // Reclaim, as far as anybody can tell.
    drop_pages(&File::open(mounted.path("0")).unwrap());
    until("a sweep", || matches!(push_one(2), Pushed::Stored { .. }));
    assert_eq!(push_one(3), Pushed::OverBudget, "the other file is still there");
    assert!(fs::read(mounted.path("1")).unwrap() == vec![1; 256 << 10]);
}

#[test]
fn a_drop_costs_no_attributes_and_the_next_reader_one_read() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let source = MemorySource::new();
    let node = source.add_file("dir/file", vec![7; 100_001]);
    let mounted = mounted(source);
    walk(mounted.root());
    // Answered ENOSYS, once.
    assert!(fs::read(mounted.path("dir/file")).unwrap() == vec![7; 100_001]);
    let before = Asked::so_far(mounted.counts());
    assert_eq!(drop_range(mounted.mount.pusher(), node, 0..100_001), Dropped::Gone { bytes: 25 * 4096 });
    assert_eq!(Asked::since(mounted.counts(), before), Asked::NOTHING, "a drop asks nothing");
    assert!(fs::read(mounted.path("dir/file")).unwrap() == vec![7; 100_001]);
    assert_eq!(Asked::since(mounted.counts(), before), Asked { reads: 1, ..Asked::NOTHING });

    // Whole pages of a part, and no other.
    assert_eq!(drop_range(mounted.mount.pusher(), node, 4000..20_000), Dropped::Gone { bytes: 3 * 4096 });
    assert_eq!(resident_bytes(&mounted.path("dir/file")), 22 * 4096);
    assert_eq!(drop_range(mounted.mount.pusher(), node, 90_000..u64::MAX), Dropped::Gone { bytes: 3 * 4096 });
    assert_eq!(figure(&mounted, "fuse_drop_by_notification"), 0);
}

#[test]
fn a_mapped_page_is_never_dropped() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let node = source.add_file("file", vec![7; 100_000]);
    let mounted = mounted(source);
    walk(mounted.root());
    assert_eq!(
        push(mounted.mount.pusher(), node, 0, vec![7; 100_000].into()),
        Pushed::Stored { bytes: 100_000 }
    );
    let file = File::open(mounted.path("file")).unwrap();
    let mapping = Mapping::of(&file);
    assert!(mapping.bytes()[..50_000] == [7; 50_000][..], "touched, so mapped");
    let reads = mounted.counts().get(Kind::Read);
    match drop_range(mounted.mount.pusher(), node, 0..100_000) {
        // A fault maps what is around it as well (fault_around_bytes).
        Dropped::Kept { kept_bytes, .. } => assert!(kept_bytes >= 13 * 4096, "{kept_bytes}"),
        dropped => panic!("{dropped:?} while mapped"),
    }
    assert_eq!(mounted.mount.pusher().held_bytes(), 25 * 4096, "it counts as long as it may be there");
    assert!(mapping.bytes()[..50_000] == [7; 50_000][..]);
    assert_eq!(mounted.counts().get(Kind::Read), reads, "what is mapped needs no READ");
    drop(mapping);
    // What was mapped is let go of in batches of the CPU that unmapped it.
    until("the unmapped pages to be dropped", || {
        matches!(drop_range(mounted.mount.pusher(), node, 0..100_000), Dropped::Gone { .. })
    });
    assert_eq!(mounted.mount.pusher().held_bytes(), 0);
}

#[test]
fn of_a_replaced_version_nothing_is_dropped_and_its_budget_returns_when_it_is_forgotten() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let old = source.add_file("dir/file", vec![1; 100_000]);
    let mounted = mounted(source);
    walk(mounted.root());
    let pusher = mounted.mount.pusher();
    let file = File::open(mounted.path("dir/file")).unwrap();
    assert_eq!(push(pusher, old, 0, vec![1; 100_000].into()), Pushed::Stored { bytes: 100_000 });

    let replaced = mounted.source.replace("dir/file", vec![2; 60_000]);
    mounted.mount.notifier().entry_changed(replaced.parent, b"file").unwrap();
    assert_eq!(push(pusher, replaced.new, 0, vec![2; 60_000].into()), Pushed::Unknown, "nobody looked it up");
    assert!(fs::read(mounted.path("dir/file")).unwrap() == vec![2; 60_000]);
    assert_eq!(push(pusher, replaced.new, 0, vec![2; 60_000].into()), Pushed::Stored { bytes: 60_000 });

    // The old version's reader goes on with what was pushed: there is no other source of it.
    assert_eq!(drop_range(pusher, old, 0..100_000), Dropped::Replaced);
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == [1; 100_000]);
    assert_eq!(pusher.held_bytes(), (25 + 15) * 4096);
    drop(file);
    until("FORGET", || pusher.held_bytes() == 15 * 4096);
    assert_eq!(push(pusher, old, 0, vec![1; 100_000].into()), Pushed::Unknown, "its inode is gone");
    assert!(fs::read(mounted.path("dir/file")).unwrap() == vec![2; 60_000]);
}

#[test]
fn bytes_of_a_version_that_the_number_no_longer_means_are_not_stored() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let node = source.add_file("file", vec![1; 50_000]);
    let mounted = mounted(source);
    walk(mounted.root());
    let (tell, told) = channel();
    mounted.mount.pusher().push(Push {
        ino: node,
        offset: 0,
        bytes: vec![9; 50_000].into(),
        is_current: Box::new(|| false),
        done: Box::new(move |pushed| tell.send(pushed).unwrap()),
    });
    assert_eq!(told.recv().unwrap(), Pushed::Outdated);
    assert_eq!(mounted.mount.pusher().held_bytes(), 0);
    assert!(fs::read(mounted.path("file")).unwrap() == vec![1; 50_000]);
}

#[test]
fn without_a_descriptor_pages_are_dropped_by_notification() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let source = MemorySource::new();
    let node = source.add_file("dir/file", vec![7; 100_000]);
    source.hide_paths();
    let mounted = mounted(source);
    walk(mounted.root());
    let pusher = mounted.mount.pusher();
    assert_eq!(push(pusher, node, 0, vec![7; 100_000].into()), Pushed::Stored { bytes: 100_000 });
    assert_eq!(drop_range(pusher, node, 0..50_000), Dropped::Gone { bytes: 12 * 4096 });
    assert_eq!(resident_bytes(&mounted.path("dir/file")), 13 * 4096);
    assert_eq!(figure(&mounted, "fuse_drop_by_notification"), 1);
    assert!(fs::read(mounted.path("dir/file")).unwrap() == vec![7; 100_000]);
}

#[test]
fn a_pusher_outlives_its_mount_harmlessly() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let node = source.add_file("file", vec![1; 50_000]);
    let mounted = mounted(source);
    walk(mounted.root());
    let pusher = mounted.mount.pusher().clone();
    mounted.mount.unmount().unwrap();
    assert_eq!(push(&pusher, node, 0, vec![1; 50_000].into()), Pushed::Ended);
    assert_eq!(drop_range(&pusher, node, 0..50_000), Dropped::Ended);
    assert_eq!(pusher.held_bytes(), 0);
}

#[test]
fn files_are_pushed_in_any_order_by_many_threads_without_a_wrong_byte() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let set = DataSet::new(120, 200_000, 8);
    let mounted = mounted(set.source());
    walk(mounted.root());
    let each = |seed| {
        let mut order: Vec<_> = set.files.iter().collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        for (path, bytes) in order {
            let pushed = push(mounted.mount.pusher(), ino(&mounted, path), 0, bytes.clone().into());
            assert!(matches!(pushed, Pushed::Stored { .. }), "{pushed:?}");
            assert!(fs::read(mounted.path(path)).unwrap() == *bytes, "{path}");
        }
    };
    let reads = undisturbed(|| {
        let before = mounted.counts().get(Kind::Read);
        std::thread::scope(|scope| (0..4).for_each(|seed| drop(scope.spawn(move || each(seed)))));
        mounted.counts().get(Kind::Read) - before
    });
    assert_eq!(reads, 0);
}
