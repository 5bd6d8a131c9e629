//! Files that the kernel reads itself: right bytes by every way of reading, and no READ.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use fuse_frontend::figures::Kind;
use fuse_frontend::negotiate::{Mode, ServeMode};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::backed::Backed;
use crate::{Asked, Mounted, cannot_mount, drop_pages, page_cache_lock, until};

const SIZES: [usize; 5] = [1, 4096, 100_001, (3 << 20) + 17, 700_000];

#[test]
fn read_pread_and_sendfile_give_the_files_bytes_without_a_request() {
    let Some(backed) = Backed::new(&SIZES) else { return };
    let mut random = StdRng::seed_from_u64(7);
    for n in 0..SIZES.len() {
        let bytes = backed.bytes(n);
        assert!(backed.is_passed(n));
        let file = backed.open(n);
        for _ in 0..100 {
            let offset = random.random_range(0..bytes.len());
            let len = random.random_range(1..=(bytes.len() - offset).min(200_000));
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, offset as u64).unwrap();
            assert!(part == bytes[offset..offset + len]);
        }
        assert_eq!(file.read_at(&mut [0; 16], bytes.len() as u64).unwrap(), 0, "the end is the end");
        drop_pages(&file);
        let mut copy = tempfile::tempfile().unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            sent += nix::sys::sendfile::sendfile(&copy, &file, None, bytes.len() - sent).unwrap();
        }
        let mut read = Vec::new();
        copy.seek(SeekFrom::Start(0)).unwrap();
        copy.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }
    assert_eq!(backed.reads(), 0);
    assert_eq!(backed.figure("fuse_opened_passthrough"), 2 * SIZES.len() as u64);
    assert_eq!((backed.figure("fuse_opened_copy"), backed.figure("fuse_backing_ids")), (0, 5));
    assert_eq!(backed.figure("fuse_backing_registered"), 5, "once an inode, not once an open");
}

#[test]
fn a_mapping_has_the_files_bytes_and_outlives_its_descriptor() {
    let Some(backed) = Backed::new(&SIZES) else { return };
    for n in 0..SIZES.len() {
        let bytes = backed.bytes(n);
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            let file = backed.open(n);
            let length = NonZeroUsize::new(bytes.len()).unwrap();
            // SAFETY: a fresh mapping at an address of the kernel's choice; the file's size never changes.
            let map = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, &file, 0) }.unwrap();
            drop(file);
            // SAFETY: the mapping is `length` bytes long and lives until munmap below.
            let mapped = unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<u8>(), bytes.len()) };
            assert!(mapped == bytes);
            // SAFETY: mapped above; the slice is not used any more.
            unsafe { munmap(map, bytes.len()) }.unwrap();
        }
    }
    assert_eq!(backed.reads(), 0);
}

#[test]
fn a_warm_epoch_costs_an_open_and_a_release_a_file_and_nothing_else() {
    let Some(backed) = Backed::new(&[100_000; 20]) else { return };
    let _alone = page_cache_lock();
    (0..20).for_each(|n| assert!(backed.is_passed(n)));
    until("the last RELEASE", || backed.mounted.counts().get(Kind::Release) == 20);
    let before = Asked::so_far(backed.mounted.counts());
    (0..20).for_each(|n| assert!(backed.is_passed(n)));
    until("the last RELEASE", || backed.mounted.counts().get(Kind::Release) == 40);
    let warm = Asked::since(backed.mounted.counts(), before);
    assert_eq!(warm, Asked { opens: 20, releases: 20, ..Asked::NOTHING });
}

/// A buffer that O_DIRECT takes: aligned to a page.
#[repr(align(4096))]
struct Aligned([u8; 64 * 1024]);

#[test]
fn o_direct_and_io_uring_read_the_files_bytes() {
    let Some(backed) = Backed::new(&[1 << 20]) else { return };
    let bytes = backed.bytes(0);
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(backed.path(0)).unwrap();
    let mut buffer = Box::new(Aligned([0; 64 * 1024]));
    for offset in (0..bytes.len()).step_by(buffer.0.len()) {
        direct.read_exact_at(&mut buffer.0, offset as u64).unwrap();
        assert!(buffer.0[..] == bytes[offset..offset + buffer.0.len()]);
    }
    let mut ring = match io_uring::IoUring::new(4) {
        Ok(ring) => ring,
        Err(error) => return eprintln!("SKIPPED: no io_uring here: {error}"),
    };
    for file in [&direct, &backed.open(0)] {
        for offset in (0..bytes.len()).step_by(buffer.0.len()) {
            buffer.0.fill(0);
            let fd = io_uring::types::Fd(file.as_raw_fd());
            let read = io_uring::opcode::Read::new(fd, buffer.0.as_mut_ptr(), buffer.0.len() as u32);
            let entry = read.offset(offset as u64).build();
            // SAFETY: buffer and file outlive the operation, which is waited for below.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), buffer.0.len() as i32);
            assert!(buffer.0[..] == bytes[offset..offset + buffer.0.len()]);
        }
    }
    assert_eq!(backed.reads(), 0);
}

#[test]
fn a_large_file_is_right_in_order_and_out_of_order() {
    const CHUNK: usize = 1 << 20;
    let Some(backed) = Backed::new(&[64 * CHUNK]) else { return };
    let bytes = backed.bytes(0);
    let mut order: Vec<_> = (0..64).collect();
    for _ in 0..2 {
        let file = backed.open(0);
        let mut chunk = vec![0; CHUNK];
        for &at in &order {
            file.read_exact_at(&mut chunk, (at * CHUNK) as u64).unwrap();
            assert!(chunk == bytes[at * CHUNK..(at + 1) * CHUNK]);
        }
        order.shuffle(&mut StdRng::seed_from_u64(3));
        drop_pages(&file);
    }
    assert_eq!(backed.reads(), 0);
}

#[test]
fn a_file_that_becomes_whole_while_it_is_open_is_passed_through_at_the_next_first_open() {
    let Some(backed) = Backed::new(&[50_000]) else { return };
    let hidden = backed.dir.path().join("hidden");
    fs::rename(backed.backing(0), &hidden).unwrap();
    let early = backed.open(0);
    fs::rename(&hidden, backed.backing(0)).unwrap();
    assert!(!backed.is_passed(0), "one mode at a time");
    let mut page = [0; 4096];
    early.read_exact_at(&mut page, 0).unwrap();
    drop(early);
    // RELEASE is sent after close(2) has returned.
    until("the first open after the last RELEASE", || backed.is_passed(0));
    assert!(backed.is_passed(0));
    assert!(backed.figure("fuse_opened_copy") >= 2);
}

#[test]
fn twenty_workers_that_open_a_shard_at_once_share_one_id() {
    let Some(backed) = Backed::new(&[200_000]) else { return };
    let start = std::sync::Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                start.wait();
                assert!(backed.is_passed(0));
            });
        }
    });
    assert_eq!(backed.figure("fuse_opened_passthrough"), 20);
    assert_eq!(backed.figure("fuse_backing_ids"), 1);
    until("surplus ids to close", || backed.mounted.source.lent_in_all() == 1);
    assert_eq!(backed.figure("fuse_backing_registered") - backed.figure("fuse_backing_closed"), 1);
}

#[test]
fn ten_thousand_opens_leak_neither_descriptors_nor_ids() {
    let Some(backed) = Backed::new(&[4096; 10]) else { return };
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    (0..10).for_each(|n| drop(backed.open(n)));
    let before = descriptors();
    for round in 0..10_000 {
        let file = backed.open(round % 10);
        if round % 100 == 0 {
            let mut bytes = vec![0; 4096];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == backed.bytes(round % 10));
        }
    }
    // Other tests of this process come and go with a few; a leak of ours would be 10 000.
    assert!(descriptors() < before + 1000, "{} descriptors, {before} before", descriptors());
    assert_eq!(backed.figure("fuse_backing_registered"), 10);
    assert_eq!(backed.figure("fuse_opened_passthrough"), 10_010);
    assert_eq!(backed.mounted.source.lent_in_all(), 10, "one file lent for each id");
}

#[test]
fn ids_stay_within_their_bound_and_a_file_beyond_it_is_copied() {
    let Some(backed) = Backed::with(&[5000; 20], |options| options.backing_ids_max = 3) else { return };
    let mut passed = 0;
    for n in 0..100 {
        passed += usize::from(backed.is_passed(n * 7 % 20));
        assert!(backed.figure("fuse_backing_ids") <= 3);
    }
    // Ids are in use until their RELEASEs have come, which is soon.
    assert!(passed > 50, "{passed} of 100");
    until("three idle ids", || backed.mounted.source.lent_in_all() == 3);
    let (registered, closed) =
        (backed.figure("fuse_backing_registered"), backed.figure("fuse_backing_closed"));
    assert_eq!(registered - closed, 3);

    let held: Vec<File> = (0..3).map(|n| backed.open(n)).collect();
    assert!(!backed.is_passed(3), "every id is in use");
    assert!(backed.figure("fuse_opened_full") > 0);
    drop(held);
    until("an id to spare", || backed.is_passed(3));
}

#[test]
fn auto_opens_files_if_most_bytes_are_in_large_ones_and_says_why() {
    if cannot_mount() {
        return;
    }
    for (large_share, mode) in [(0.9, Mode::Open), (0.1, Mode::NoOpen)] {
        let mounted = Mounted::with(fuse_frontend::memory::MemorySource::new(), |options| {
            (options.serve, options.large_share) = (ServeMode::Auto, large_share);
        });
        let report = mounted.mount.report();
        match &report.passthrough {
            Err(reason) if mode == Mode::Open => eprintln!("SKIPPED: no passthrough here: {reason}"),
            _ => assert_eq!(report.mode, mode, "{}", report.mode_reason),
        }
        assert_eq!(report.passthrough.is_ok(), report.mode == Mode::Open);
    }
}

#[test]
fn turned_off_means_copies() {
    if cannot_mount() {
        return;
    }
    assert!(Backed::with(&[10], |options| options.passthrough = false).is_none(), "the report says so");
}
