//! Real mounts over a source in memory: what the kernel sees, sends, and does not send.
//!
//! Each test that counts requests or drops pages holds a file lock, because drop_caches and memory pressure of another
//! test, in whatever process, would show as requests. Without /dev/fuse every test skips and says so.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod backed;
mod direct;
mod kernel_rule;
mod lifecycle;
mod notifying;
mod passing;
mod passing_ends;
mod passing_faults;
mod pushing;
mod pushing_races;
mod reading;
mod refusing;
mod stalling;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuse_frontend::figures::{Kind, RequestCounts};
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::{Mount, MountOptions};
use fuse_frontend::source::Ino;
use fuse_frontend::ticket::ReadTicket;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Printed and true if this machine cannot mount.
pub(crate) fn cannot_mount() -> bool {
    let missing = !Path::new("/dev/fuse").exists();
    if missing {
        eprintln!("SKIPPED: /dev/fuse is missing");
    }
    missing
}

/// Whether a reader through the page cache gets the error that its READ was answered with. 7.3 makes EIO of each, 6.18 of none;
/// those between were not seen.
pub(crate) fn errors_are_handed_on() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) <= (Some(6), Some(18))
}

/// Whether this process may do what needs root; says so if not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// One mount of a source in memory, in a directory of its own.
pub(crate) struct Mounted {
    // Dropped in this order: the mount before its directory.
    pub(crate) mount: Mount,
    pub(crate) source: Arc<MemorySource>,
    dir: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(source: MemorySource, serve: ServeMode) -> Self {
        Self::with(source, |options| options.serve = serve)
    }

    pub(crate) fn with(source: MemorySource, change: impl FnOnce(&mut MountOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(source);
        let mut options = MountOptions::new(dir.path(), "memory:///test,with a comma");
        change(&mut options);
        let mount = Mount::start(options, source.clone()).unwrap();
        Self { mount, source, dir }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Reads of the files that `which` names are not answered: their tickets gather in what is returned.
    pub(crate) fn hold_reads(
        &self,
        which: impl Fn(Ino) -> bool + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<ReadTicket>>> {
        let held = Arc::new(Mutex::new(Vec::new()));
        let holding = held.clone();
        self.source.on_read(move |ino, _, _, ticket| {
            if !which(ino) {
                return Some(ticket);
            }
            holding.lock().push(ticket);
            None
        });
        held
    }

    pub(crate) fn counts(&self) -> &RequestCounts {
        self.mount.counts()
    }
}

/// Requests of the kinds that cost an application time, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) lookups: u64,
    pub(crate) opens: u64,
    pub(crate) getattrs: u64,
    pub(crate) releases: u64,
    pub(crate) flushes: u64,
    pub(crate) opendirs: u64,
    pub(crate) listings: u64,
    pub(crate) reads: u64,
}

impl Asked {
    pub(crate) const NOTHING: Self = Self {
        lookups: 0,
        opens: 0,
        getattrs: 0,
        releases: 0,
        flushes: 0,
        opendirs: 0,
        listings: 0,
        reads: 0,
    };

    pub(crate) fn so_far(counts: &RequestCounts) -> Self {
        Self {
            lookups: counts.get(Kind::Lookup),
            opens: counts.get(Kind::Open),
            getattrs: counts.get(Kind::Getattr),
            releases: counts.get(Kind::Release),
            flushes: counts.get(Kind::Flush),
            opendirs: counts.get(Kind::Opendir),
            listings: counts.get(Kind::Readdir) + counts.get(Kind::Readdirplus),
            reads: counts.get(Kind::Read),
        }
    }

    pub(crate) fn since(counts: &RequestCounts, before: Self) -> Self {
        let now = Self::so_far(counts);
        Self {
            lookups: now.lookups - before.lookups,
            opens: now.opens - before.opens,
            getattrs: now.getattrs - before.getattrs,
            releases: now.releases - before.releases,
            flushes: now.flushes - before.flushes,
            opendirs: now.opendirs - before.opendirs,
            listings: now.listings - before.listings,
            reads: now.reads - before.reads,
        }
    }
}

/// A data set of `count` files of 1 byte to `size_max` bytes in class directories, each with its bytes.
pub(crate) struct DataSet {
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl DataSet {
    pub(crate) fn new(count: usize, size_max: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let files = (0..count).map(|n| {
            let mut bytes = vec![0; random.random_range(1..=size_max)];
            random.fill_bytes(&mut bytes);
            (format!("train/class-{:02}/{n:05}.bin", n % 13), bytes)
        });
        Self { files: files.collect() }
    }

    pub(crate) fn source(&self) -> MemorySource {
        let source = MemorySource::new();
        for (path, bytes) in &self.files {
            source.add_file(path, bytes.clone());
        }
        source
    }
}

/// Lists everything below `dir`, with attributes, as `os.walk` and a stat do; the number of files.
pub(crate) fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.metadata().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

/// Drops the pages of an open file, and nothing else.
pub(crate) fn drop_pages(file: &File) {
    nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// Held by whoever counts requests or drops pages.
pub(crate) fn page_cache_lock() -> nix::fcntl::Flock<File> {
    let path = std::env::temp_dir().join("epochcache-page-cache.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

/// Waits for something that another thread does.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen in 30 s");
}
