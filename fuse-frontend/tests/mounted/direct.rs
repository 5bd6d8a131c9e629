//! Direct I/O: no page is kept, whatever was asked for besides.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use fuse_frontend::figures::Kind;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::{Mode, ServeMode};
use fuse_frontend::push::Pushed;

use crate::backed::{Backed, COPIED};
use crate::{Mounted, cannot_mount, pushing, walk};

#[test]
fn each_read_with_direct_io_is_a_request_and_nothing_is_pushed() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let bytes: Vec<u8> = (0..200_123u32).map(|n| (n / 7) as u8).collect();
    let node = source.add_file("file", bytes.clone());
    let mounted = Mounted::with(source, |options| {
        (options.direct_io, options.serve) = (true, ServeMode::NoOpen);
    });
    let report = mounted.mount.report();
    assert_eq!(report.mode, Mode::Open, "no-open mode has no answer that could say it");
    assert!(report.mode_reason.contains("direct I/O"), "{}", report.mode_reason);
    walk(mounted.root());
    assert_eq!(pushing::push(mounted.mount.pusher(), node, 0, bytes.clone().into()), Pushed::OverBudget);

    let file = File::open(mounted.path("file")).unwrap();
    for round in 1..=3 {
        let mut part = vec![0; 4096];
        file.read_exact_at(&mut part, 8192).unwrap();
        assert!(part == bytes[8192..8192 + 4096]);
        assert_eq!(mounted.counts().get(Kind::Read), round);
    }
    assert!(fs::read(mounted.path("file")).unwrap() == bytes);
    assert_eq!(file.read_at(&mut [0; 10], 200_123).unwrap(), 0);
}

#[test]
fn with_direct_io_no_file_is_passed_through() {
    // The source's own bytes are others than the local file's.
    let Some(backed) = Backed::new(&[10_000]) else { return };
    let files = backed.files.clone();
    drop(backed);
    let source = MemorySource::new();
    source.add_file(&files[0].0, vec![COPIED; 10_000]);
    source.on_backing(|_| panic!("nobody asks for a local file"));
    let mounted = Mounted::with(source, |options| (options.direct_io, options.passthrough) = (true, true));
    assert!(mounted.mount.report().passthrough.is_err());
    assert!(fs::read(mounted.path(&files[0].0)).unwrap() == vec![COPIED; 10_000]);
}
