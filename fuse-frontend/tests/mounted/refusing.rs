//! What a reader is refused, and what it gets when the source fails.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;

use fuse_frontend::errno::Errno;
use fuse_frontend::figures::Kind;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;

use crate::{Mounted, cannot_mount, is_root};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn every_change_is_refused_as_read_only() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("dir/file", "bytes");
    let mounted = Mounted::new(source, ServeMode::Auto);
    let file = mounted.path("dir/file");
    let fresh = mounted.path("dir/fresh");
    let refused = Some(libc::EROFS);
    assert_eq!(errno(File::create(&fresh)), refused);
    assert_eq!(errno(OpenOptions::new().write(true).open(&file)), refused);
    assert_eq!(errno(OpenOptions::new().append(true).open(&file)), refused);
    assert_eq!(errno(fs::remove_file(&file)), refused);
    assert_eq!(errno(fs::rename(&file, &fresh)), refused);
    assert_eq!(errno(fs::hard_link(&file, &fresh)), refused);
    assert_eq!(errno(std::os::unix::fs::symlink(&file, &fresh)), refused);
    assert_eq!(errno(fs::create_dir(&fresh)), refused);
    assert_eq!(errno(fs::remove_dir(mounted.path("dir"))), refused);
    assert_eq!(errno(fs::set_permissions(&file, Permissions::from_mode(0o644))), refused);
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
    // The kernel refuses a read-only mount's changes itself.
    assert_eq!(mounted.counts().get(Kind::Refused), 0);
}

#[test]
fn a_mount_that_somebody_remounted_read_write_still_refuses_every_change() {
    if cannot_mount() || !is_root() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("dir/file", "bytes");
    let mounted = Mounted::new(source, ServeMode::Auto);
    let none = None::<&str>;
    nix::mount::mount(none, mounted.root(), none, nix::mount::MsFlags::MS_REMOUNT, none).unwrap();
    let file = mounted.path("dir/file");
    let fresh = mounted.path("dir/fresh");
    let refused = Some(libc::EROFS);
    assert_eq!(errno(File::create(&fresh)), refused);
    assert_eq!(errno(fs::remove_file(&file)), refused);
    assert_eq!(errno(fs::rename(&file, &fresh)), refused);
    assert_eq!(errno(fs::hard_link(&file, &fresh)), refused);
    assert_eq!(errno(std::os::unix::fs::symlink(&file, &fresh)), refused);
    assert_eq!(errno(fs::create_dir(&fresh)), refused);
    assert_eq!(errno(fs::remove_dir(mounted.path("dir"))), refused);
    assert_eq!(errno(fs::set_permissions(&file, Permissions::from_mode(0o644))), refused);
    // Without OPEN the first to refuse may be the truncation, or the write.
    let write = OpenOptions::new().write(true).open(&file).and_then(|mut file| file.write_all(b"other"));
    assert_eq!(errno(write), refused);
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
    assert!(mounted.counts().get(Kind::Refused) >= 9);
}

#[test]
fn a_missing_name_is_enoent_and_a_file_is_no_directory() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("file", "bytes");
    let mounted = Mounted::new(source, ServeMode::Auto);
    assert_eq!(errno(fs::metadata(mounted.path("nothing"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::metadata(mounted.path("file/below"))), Some(libc::ENOTDIR));
    assert_eq!(mounted.counts().errors(Errno::NOENT), 1);
}

#[test]
fn an_error_of_the_source_reaches_the_reader_and_nothing_is_cached() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let bad = source.add_file("bad", vec![1; 100_000]);
    let mounted = Mounted::new(source, ServeMode::Auto);
    mounted.source.on_read(move |ino, _, _, ticket| match ino == bad {
        true => {
            ticket.error(Errno::IO);
            None
        }
        false => Some(ticket),
    });
    assert_eq!(errno(fs::read(mounted.path("bad"))), Some(libc::EIO));
    mounted.source.on_read(|_, _, _, ticket| Some(ticket));
    assert!(fs::read(mounted.path("bad")).unwrap() == vec![1; 100_000]);
}

#[test]
fn an_answer_of_a_wrong_length_is_an_error_and_the_file_keeps_its_size() {
    if cannot_mount() {
        return;
    }
    for wrong_by in [-4096i64, -1, 1, 4096] {
        let source = MemorySource::new();
        source.add_file("file", vec![1; 100_000]);
        let mounted = Mounted::new(source, ServeMode::Auto);
        mounted.source.on_read(move |_, offset, len, ticket| {
            let right = i64::from(len).min(100_000 - offset as i64);
            ticket.data(&vec![9; (right + wrong_by).max(0) as usize]);
            None
        });
        assert_eq!(errno(fs::read(mounted.path("file"))), Some(libc::EIO), "wrong by {wrong_by}");
        assert!(mounted.counts().wrong_lengths() > 0);
        assert_eq!(fs::metadata(mounted.path("file")).unwrap().len(), 100_000);
        mounted.source.on_read(|_, _, _, ticket| Some(ticket));
        assert!(fs::read(mounted.path("file")).unwrap() == vec![1; 100_000], "wrong by {wrong_by}");
    }
}

#[test]
fn a_ticket_dropped_unanswered_is_an_error_and_the_mount_lives_on() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    source.add_file("file", "bytes");
    // One thread: if the panic of a debug build ended it, the second read would hang.
    let mounted = Mounted::with(source, |options| options.threads = Some(1));
    mounted.source.on_read(|_, _, _, ticket| {
        drop(ticket);
        None
    });
    let mut byte = [0];
    let mut file = File::open(mounted.path("file")).unwrap();
    assert_eq!(errno(file.read(&mut byte)), Some(libc::EIO));
    assert_eq!(mounted.counts().panics() > 0, cfg!(debug_assertions));
    mounted.source.on_read(|_, _, _, ticket| Some(ticket));
    assert_eq!(fs::read(mounted.path("file")).unwrap(), b"bytes");
}
