//! Bytes and requests of ordinary reading.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use fuse_frontend::errno::Errno;
use fuse_frontend::figures::Kind;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::{Mode, ServeMode};
use fuse_frontend::source::Ino;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::{Asked, DataSet, Mounted, cannot_mount, drop_pages, page_cache_lock, walk};

/// One epoch: every file once, in a fresh order, by several threads; open, fstat, read to the end, close, compare.
fn epoch(mounted: &Mounted, data: &DataSet, seed: u64) {
    let mut order: Vec<_> = data.files.iter().collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    std::thread::scope(|scope| {
        for share in order.chunks(order.len().div_ceil(4)) {
            scope.spawn(move || {
                for (path, bytes) in share {
                    let mut file = File::open(mounted.path(path)).unwrap();
                    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64, "{path}");
                    let mut read = Vec::with_capacity(bytes.len() + 1);
                    file.read_to_end(&mut read).unwrap();
                    assert!(read == *bytes, "wrong bytes in {path}");
                }
            });
        }
    });
}

fn drop_all_pages(mounted: &Mounted, data: &DataSet) {
    for (path, _) in &data.files {
        drop_pages(&File::open(mounted.path(path)).unwrap());
    }
}

#[test]
fn shuffled_epochs_give_every_byte_in_either_mode() {
    if cannot_mount() {
        return;
    }
    let data = DataSet::new(300, 300_000, 1);
    for (serve, mode) in [(ServeMode::Auto, Mode::NoOpen), (ServeMode::Open, Mode::Open)] {
        let mounted = Mounted::new(data.source(), serve);
        assert_eq!(mounted.mount.report().mode, mode, "{}", mounted.mount.report().mode_reason);
        for seed in 0..3 {
            epoch(&mounted, &data, seed);
            drop_all_pages(&mounted, &data);
        }
        assert_eq!(mounted.counts().errors(Errno::IO), 0);
    }
}

#[test]
fn after_one_walk_a_warm_epoch_sends_nothing_and_a_cold_one_only_reads() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    // At most 200 KiB: one readahead window of 1 MiB takes a whole file.
    let data = DataSet::new(400, 200 * 1024, 2);
    let mounted = Mounted::new(data.source(), ServeMode::NoOpen);
    let files = data.files.len() as u64;

    assert_eq!(walk(mounted.root()), data.files.len());
    let before = Asked::so_far(mounted.counts());
    epoch(&mounted, &data, 10);
    let first = Asked::since(mounted.counts(), before);
    // Threads that open before the first ENOSYS came back ask as well; so do the first closes.
    assert!((1..=4).contains(&first.opens) && first.flushes <= 4, "{first:?}");
    assert_eq!((first.lookups, first.getattrs, first.releases), (0, 0, 0), "{first:?}");

    let before = Asked::so_far(mounted.counts());
    epoch(&mounted, &data, 11);
    walk(mounted.root());
    assert_eq!(Asked::since(mounted.counts(), before), Asked::NOTHING);

    drop_all_pages(&mounted, &data);
    let before = Asked::so_far(mounted.counts());
    epoch(&mounted, &data, 12);
    let cold = Asked::since(mounted.counts(), before);
    assert_eq!(Asked { reads: 0, ..cold }, Asked::NOTHING);
    match &mounted.mount.report().read_ahead_kb {
        Ok(_) => assert_eq!(cold.reads, files),
        Err(reason) => {
            eprintln!("one READ a file not asserted: {reason}");
            // 128 KiB a window: files above it take two, and a file's start may take another.
            assert!(cold.reads >= files && cold.reads <= files * 5 / 2, "{} READs", cold.reads);
        }
    }
}

#[test]
fn open_mode_opens_and_releases_but_keeps_what_is_cached() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let data = DataSet::new(50, 100_000, 3);
    let mounted = Mounted::new(data.source(), ServeMode::Open);
    walk(mounted.root());
    epoch(&mounted, &data, 1);
    let before = Asked::so_far(mounted.counts());
    epoch(&mounted, &data, 2);
    let warm = Asked::since(mounted.counts(), before);
    // A RELEASE is sent after close(2) returned, so the last of them may not have come yet.
    assert_eq!(Asked { releases: 0, ..warm }, Asked { opens: 50, ..Asked::NOTHING });
}

#[test]
fn mmap_and_sendfile_give_the_same_bytes() {
    if cannot_mount() {
        return;
    }
    let data = DataSet::new(8, 700_000, 4);
    let mounted = Mounted::new(data.source(), ServeMode::Auto);
    for (path, bytes) in &data.files {
        let file = File::open(mounted.path(path)).unwrap();
        let length = NonZeroUsize::new(bytes.len()).unwrap();
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file's size never changes.
        let map =
            unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        // SAFETY: the mapping is `length` bytes long and lives until munmap below.
        let mapped = unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<u8>(), bytes.len()) };
        assert!(mapped == bytes.as_slice(), "wrong bytes mapped from {path}");
        // SAFETY: mapped above; the slice is not used any more.
        unsafe { munmap(map, bytes.len()) }.unwrap();

        drop_pages(&file);
        let mut copy = tempfile::tempfile().unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            let n = nix::sys::sendfile::sendfile(&copy, &file, None, bytes.len() - sent).unwrap();
            assert!(n > 0, "sendfile ended early in {path}");
            sent += n;
        }
        let mut read = Vec::new();
        copy.seek(SeekFrom::Start(0)).unwrap();
        copy.read_to_end(&mut read).unwrap();
        assert!(read == *bytes, "wrong bytes sent from {path}");
    }
}

#[test]
fn ten_thousand_names_are_each_listed_once_and_counted_once() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let inos: Vec<Ino> = (0..10_000)
        .map(|n| source.add_file(&format!("many/name-{n:05}-{}", "x".repeat(n % 200)), ""))
        .collect();
    let mounted = Mounted::new(source, ServeMode::Auto);
    for _ in 0..2 {
        let mut seen = BTreeMap::new();
        for entry in fs::read_dir(mounted.path("many")).unwrap() {
            *seen.entry(entry.unwrap().file_name()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 10_000);
        assert!(seen.values().all(|&times| times == 1));
    }
    assert!(inos.iter().all(|&ino| mounted.source.lookups(ino) >= 1));
    assert_eq!(mounted.counts().get(Kind::Lookup), 1, "only `many` itself");
}

#[test]
fn attributes_come_from_the_options_and_the_source() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("dir/file", vec![7; 5000]);
    let mounted = Mounted::with(source, |options| {
        (options.uid, options.gid) = (1234, 2345);
        (options.file_mode, options.dir_mode) = (0o440, 0o550);
    });
    let file = fs::metadata(mounted.path("dir/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode()), (1234, 2345, libc::S_IFREG | 0o440));
    assert_eq!((file.len(), file.blocks(), file.mtime()), (5000, 10, 1_700_000_000));
    assert_eq!(fs::metadata(mounted.path("dir")).unwrap().mode(), libc::S_IFDIR | 0o550);
    assert_eq!(file.dev(), mounted.mount.report().device);
    let capacity = nix::sys::statfs::statfs(mounted.root()).unwrap();
    assert_eq!((capacity.blocks(), capacity.blocks_free(), capacity.files()), (2, 0, 1));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(mounted.root().to_str().unwrap())).unwrap();
    assert!(line.contains(" fuse.epochcache memory:///test,with\\040a\\040comma ro,"), "{line}");
    assert!(line.contains("ro,nosuid,nodev") && line.contains("default_permissions"), "{line}");
}

#[test]
fn extended_attributes_name_version_and_origin() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let ino = source.add_file("file", "bytes");
    let mounted = Mounted::new(source, ServeMode::Auto);
    let path = mounted.path("file");
    assert_eq!(xattr(&path, "user.etag"), Ok(format!("\"version-{}\"", ino.0)));
    assert_eq!(xattr(&path, "user.origin"), Ok(format!("memory:///{}", ino.0)));
    assert_eq!(xattr(&path, "user.other"), Err(libc::ENODATA));
    assert_eq!(xattr(mounted.root(), "user.etag"), Err(libc::ENODATA));
    let mut names = [0u8; 64];
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a NUL-terminated path and a buffer of the length given.
    let length = unsafe { libc::listxattr(c_path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    assert_eq!(&names[..length as usize], b"user.etag\0user.origin\0");
}

fn xattr(path: &Path, name: &str) -> Result<String, i32> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    let mut value = [0u8; 256];
    // SAFETY: NUL-terminated strings and a buffer of the length given.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match usize::try_from(length) {
        Ok(length) => Ok(String::from_utf8_lossy(&value[..length]).into_owned()),
        Err(_) => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

#[test]
fn the_control_directory_is_found_by_name_and_never_listed() {
    if cannot_mount() {
        return;
    }
    let control = tempfile::tempdir().unwrap();
    fs::write(control.path().join("order"), "a\n").unwrap();
    let source = MemorySource::new();
    source.add_file("file", "");
    source.add_file(".epochcache/an-object-of-that-name", "");
    let target = control.path().to_owned();
    let mounted = Mounted::with(source, |options| options.control_dir = Some(target));
    for _ in 0..2 {
        assert_eq!(fs::read_link(mounted.path(".epochcache")).unwrap(), control.path());
        assert_eq!(fs::read_to_string(mounted.path(".epochcache/order")).unwrap(), "a\n");
        let names: Vec<_> =
            fs::read_dir(mounted.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
    }
    // A data set's own object of that name is seen where there is no control directory.
    let source = MemorySource::new();
    source.add_file(".epochcache/an-object-of-that-name", "");
    let mounted = Mounted::new(source, ServeMode::Auto);
    assert!(fs::metadata(mounted.path(".epochcache")).unwrap().is_dir());
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 1);
}

#[test]
fn random_ranges_of_a_large_file_are_right() {
    if cannot_mount() {
        return;
    }
    let data = DataSet { files: vec![("large".into(), (0..9_000_001u32).map(|n| (n / 7) as u8).collect())] };
    let mounted = Mounted::new(data.source(), ServeMode::Auto);
    let file = File::open(mounted.path("large")).unwrap();
    let bytes = &data.files[0].1;
    let mut at = 1;
    for step in 0..200usize {
        at = (at * 7919 + step) % bytes.len();
        let mut read = vec![0; 1 + (step * 6151) % 300_000];
        let n = file.read_at(&mut read, at as u64).unwrap();
        assert_eq!(n, read.len().min(bytes.len() - at));
        assert!(read[..n] == bytes[at..at + n], "wrong bytes at {at}");
    }
}

#[test]
fn reads_ask_for_a_mebibyte_and_never_for_more() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("large", vec![5; 16 << 20]);
    let mounted = Mounted::new(source, ServeMode::Auto);
    let longest = Arc::new(AtomicU32::new(0));
    let seen = longest.clone();
    mounted.source.on_read(move |_, _, len, ticket| {
        seen.fetch_max(len, Relaxed);
        Some(ticket)
    });
    let mut file = File::open(mounted.path("large")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).unwrap() > 0 {}
    let report = mounted.mount.report();
    let longest = longest.load(Relaxed);
    match &report.read_ahead_kb {
        Ok(_) => assert_eq!(longest, report.max_read_bytes),
        Err(reason) => {
            eprintln!("the kernel's window stayed: {reason}");
            assert!(longest <= report.max_read_bytes);
        }
    }
}

#[test]
fn a_read_says_which_thread_waits_for_it() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("a", vec![1; 5000]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asking = asked.clone();
    source.on_read(move |_, _, _, ticket| {
        asking.lock().push(ticket.asker());
        Some(ticket)
    });
    let mounted = Mounted::new(source, ServeMode::Auto);
    let read = || {
        fs::read(mounted.path("a")).unwrap();
        nix::unistd::gettid().as_raw() as u32
    };
    let reader = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
    let asked = asked.lock();
    assert!(!asked.is_empty() && asked.iter().all(|tid| *tid == Some(reader)), "{reader}: {asked:?}");
}
