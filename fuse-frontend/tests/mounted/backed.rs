//! A mount whose files have local files: the source's own bytes are others, so that a copy would show.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse_frontend::figures::{Kind, RowValue};
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::MountOptions;
use fuse_frontend::source::Ino;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::{Mounted, cannot_mount};

/// Bytes that are in no local file: what the source answers a READ with.
pub(crate) const COPIED: u8 = 0xC0;

/// A directory on the file system of the build, which is neither in memory nor stacked where one builds.
pub(crate) fn backing_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `len` bytes that are not [`COPIED`].
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.iter_mut().filter(|byte| **byte == COPIED).for_each(|byte| *byte = 1);
    bytes
}

/// A mounted source, and a directory in which the file of each node has its number as name.
pub(crate) struct Backed {
    pub(crate) mounted: Mounted,
    pub(crate) files: Vec<(String, Ino, Vec<u8>)>,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

impl Backed {
    /// Files of these sizes, all of them whole; None, with the reason printed, where nothing can be passed through.
    pub(crate) fn new(sizes: &[usize]) -> Option<Self> {
        Self::with(sizes, |_| {})
    }

    pub(crate) fn with(sizes: &[usize], change: impl FnOnce(&mut MountOptions)) -> Option<Self> {
        Self::within(backing_dir(), sizes, change)
    }

    pub(crate) fn within(
        dir: tempfile::TempDir,
        sizes: &[usize],
        change: impl FnOnce(&mut MountOptions),
    ) -> Option<Self> {
        if cannot_mount() {
            return None;
        }
        let (source, files) = source_of(sizes, dir.path());
        let dir = Arc::new(dir);
        let hook = dir.clone();
        source.on_backing(move |ino| File::open(hook.path().join(ino.0.to_string())).ok());
        let mounted = Mounted::with(source, |options| {
            options.serve = ServeMode::Open;
            change(options);
        });
        if let Err(reason) = &mounted.mount.report().passthrough {
            eprintln!("SKIPPED: no passthrough here: {reason}");
            return None;
        }
        Some(Self { mounted, files, dir })
    }

    pub(crate) fn path(&self, n: usize) -> PathBuf {
        self.mounted.path(&self.files[n].0)
    }

    pub(crate) fn open(&self, n: usize) -> File {
        File::open(self.path(n)).unwrap()
    }

    pub(crate) fn ino(&self, n: usize) -> Ino {
        self.files[n].1
    }

    pub(crate) fn bytes(&self, n: usize) -> &[u8] {
        &self.files[n].2
    }

    pub(crate) fn backing(&self, n: usize) -> PathBuf {
        self.dir.path().join(self.ino(n).0.to_string())
    }

    pub(crate) fn reads(&self) -> u64 {
        self.mounted.counts().get(Kind::Read)
    }

    /// The figure `name` of the mount's passthrough.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        figure(&self.mounted.mount, name)
    }

    /// Reads file `n` from a fresh descriptor, and says whether the bytes are the local file's; panics if
    /// they are neither its nor the source's.
    pub(crate) fn is_passed(&self, n: usize) -> bool {
        let read = fs::read(self.path(n)).unwrap();
        if read == self.bytes(n) {
            return true;
        }
        assert!(read == vec![COPIED; self.bytes(n).len()], "neither the file's nor the source's bytes");
        false
    }
}

pub(crate) fn figure(mount: &fuse_frontend::session::Mount, name: &str) -> u64 {
    let rows = mount.passthrough().snapshot();
    match rows.iter().find(|row| row.name == name).map(|row| row.value) {
        Some(RowValue::Count(value)) => value,
        other => panic!("{name}: {other:?}"),
    }
}

/// A source of files `f0`, `f1`, ... with their local files in `dir`.
pub(crate) fn source_of(sizes: &[usize], dir: &Path) -> (MemorySource, Vec<(String, Ino, Vec<u8>)>) {
    let source = MemorySource::new();
    let files = sizes.iter().enumerate().map(|(n, &size)| {
        let name = format!("f{n}");
        let ino = source.add_file(&name, vec![COPIED; size]);
        let bytes = bytes(size, n as u64);
        fs::write(dir.join(ino.0.to_string()), &bytes).unwrap();
        (name, ino, bytes)
    });
    let files = files.collect();
    (source, files)
}
