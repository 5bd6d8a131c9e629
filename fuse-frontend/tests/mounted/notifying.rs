//! Telling the kernel what changed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::notifier::Notified;
use fuse_frontend::source::Ino;

use crate::{Asked, Mounted, cannot_mount, drop_pages, errors_are_handed_on, page_cache_lock, until, walk};

#[test]
fn a_replaced_name_shows_the_new_version_and_an_open_file_never_mixes() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    for serve in [ServeMode::NoOpen, ServeMode::Open] {
        let source = MemorySource::new();
        // Larger than any readahead, so that the end is not in the page cache.
        let old = source.add_file("dir/file", vec![1; 8 << 20]);
        let mounted = Mounted::new(source, serve);
        let path = mounted.path("dir/file");
        let file = File::open(&path).unwrap();
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 0).unwrap();

        let replaced = mounted.source.replace("dir/file", vec![2; 5000]);
        assert_eq!(fs::metadata(&path).unwrap().ino(), old.0, "the kernel still believes its cache");
        let notifier = mounted.mount.notifier();
        assert_eq!(notifier.entry_changed(replaced.parent, b"file").unwrap(), Notified::Done);
        assert_eq!(fs::metadata(&path).unwrap().ino(), replaced.new.0);
        assert!(fs::read(&path).unwrap() == vec![2; 5000]);

        file.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(page, [1; 4096], "what was cached of the old version is still the old version");
        let error = file.read_exact_at(&mut page, 7 << 20).unwrap_err();
        let expected = if errors_are_handed_on() { libc::ESTALE } else { libc::EIO };
        assert_eq!(error.raw_os_error(), Some(expected));
        assert_eq!(file.metadata().unwrap().len(), 8 << 20);

        // The last user of the old version gone, the kernel gives its number back. FORGET comes when it comes.
        assert!(mounted.source.lookups(old) > 0);
        drop(file);
        until("FORGET", || mounted.source.lookups(old) == 0);
        assert!(mounted.source.lookups(replaced.new) > 0);
    }
}

#[test]
fn a_notification_that_waits_for_a_read_holds_up_no_other_reader() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let slow = source.add_file("slow", vec![1; 50_000]);
    source.add_file("quick", vec![2; 50_000]);
    let mounted = Mounted::with(source, |options| options.threads = Some(1));
    let held = mounted.hold_reads(move |ino| ino == slow);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(mounted.path("slow")).unwrap());
        until("the slow read", || !held.lock().is_empty());
        // Waits in the kernel for the folios of that read: on a serving thread this would be the end.
        let notified = scope.spawn(|| mounted.mount.notifier().node_changed(slow).unwrap());
        for _ in 0..20 {
            assert!(fs::read(mounted.path("quick")).unwrap() == vec![2; 50_000]);
            drop_pages(&File::open(mounted.path("quick")).unwrap());
        }
        assert!(!notified.is_finished());
        mounted.source.on_read(|_, _, _, ticket| Some(ticket));
        held.lock().drain(..).for_each(|ticket| ticket.data(&[1; 50_000]));
        assert!(reader.join().unwrap() == vec![1; 50_000]);
        assert_eq!(notified.join().unwrap(), Notified::Done);
    });
}

#[test]
fn a_new_and_a_removed_name_change_a_listing_that_the_kernel_has_cached() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let source = MemorySource::new();
    source.add_file("dir/a", "");
    source.add_file("dir/b", "");
    let mounted = Mounted::new(source, ServeMode::NoOpen);
    let names = || {
        let entries = fs::read_dir(mounted.path("dir")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["a", "b"]);
    let before = Asked::so_far(mounted.counts());
    assert_eq!(names(), ["a", "b"]);
    assert_eq!(Asked::since(mounted.counts(), before).listings, 0, "the second listing is the kernel's");

    mounted.source.add_file("dir/c", "");
    let dir = Ino(fs::metadata(mounted.path("dir")).unwrap().ino());
    let notifier = mounted.mount.notifier();
    assert_eq!(
        notifier.entry_changed(dir, b"c").unwrap(),
        Notified::Unknown,
        "the kernel knows no such name"
    );
    assert_eq!(names(), ["a", "b", "c"]);

    mounted.source.remove("dir/a");
    assert_eq!(notifier.entry_changed(dir, b"a").unwrap(), Notified::Done);
    assert_eq!(names(), ["b", "c"]);
    assert!(fs::metadata(mounted.path("dir/a")).is_err());
}

#[test]
fn stored_bytes_are_read_without_a_request() {
    if cannot_mount() {
        return;
    }
    let _alone = page_cache_lock();
    let source = MemorySource::new();
    let bytes: Vec<u8> = (0..110_123u32).map(|n| (n / 3) as u8).collect();
    let ino = source.add_file("file", bytes.clone());
    let mounted = Mounted::new(source, ServeMode::NoOpen);
    let notifier = mounted.mount.notifier();
    assert_eq!(notifier.store(ino, 0, &bytes).unwrap(), Notified::Unknown, "not looked up yet");
    walk(mounted.root());
    assert_eq!(notifier.store(ino, 0, &bytes).unwrap(), Notified::Done);
    let before = Asked::so_far(mounted.counts());
    assert!(fs::read(mounted.path("file")).unwrap() == bytes);
    assert_eq!(Asked::since(mounted.counts(), before).reads, 0);

    assert_eq!(notifier.node_changed(ino).unwrap(), Notified::Done);
    assert!(fs::read(mounted.path("file")).unwrap() == bytes);
    assert!(Asked::since(mounted.counts(), before).reads > 0, "the pages were dropped");
}

#[test]
fn a_notifier_outlives_its_mount_harmlessly() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let ino = source.add_file("file", "bytes");
    let mounted = Mounted::new(source, ServeMode::Auto);
    let notifier = mounted.mount.notifier();
    mounted.mount.unmount().unwrap();
    assert_eq!(notifier.node_changed(ino).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}
