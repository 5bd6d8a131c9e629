//! What a push and a drop cost, and what a pushed file is worth to its reader: beside READs of a source in memory, and beside the
//! local file system. Medians of interleaved rounds, because the machine drifts.
//!
//! `cargo run --release -p fuse-frontend --example push_costs`

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use bytes::Bytes;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::push::{Dropped, Push, Pushed};
use fuse_frontend::session::{Mount, MountOptions};
use fuse_frontend::source::Ino;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const FILES: usize = 2000;
const MEAN_BYTES: usize = 110 * 1024;
const READERS: usize = 4;
const ROUNDS: usize = 9;

/// Files on their way to the pusher at once.
const WINDOW: usize = 64;

struct Bench {
    mount: Mount,
    source: Arc<MemorySource>,
    files: Vec<(Ino, Bytes)>,
    ours: Vec<PathBuf>,
    local: Vec<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mountpoint, local) = (tempfile::tempdir()?, tempfile::tempdir_in(".")?);
    let bench = Bench::new(mountpoint.path(), local.path())?;
    // By descriptor in each round, and at the end by notification, for which names are hidden.
    let mut rows: Vec<(&str, Vec<f64>)> = [
        "push, us a file",
        "drop by descriptor, us a file",
        "pushed, thousand files/s",
        "READ, thousand files/s",
        "local, thousand files/s",
        "drop by notification, us a file",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    for round in 0..ROUNDS as u64 {
        rows[4].1.push(epoch(&bench.local, round));
        rows[0].1.push(bench.push());
        rows[2].1.push(epoch(&bench.ours, round));
        rows[1].1.push(bench.drop());
        rows[3].1.push(epoch(&bench.ours, round));
        bench.drop();
    }
    bench.source.hide_paths();
    for _ in 0..ROUNDS {
        bench.push();
        rows[5].1.push(bench.drop());
        bench.ours.iter().for_each(|path| drop(fs::metadata(path)));
    }
    println!(
        "{FILES} files of {} KiB mean, {READERS} readers; median of {ROUNDS} (least, most)",
        MEAN_BYTES / 1024
    );
    for (name, mut values) in rows {
        values.sort_by(f64::total_cmp);
        println!("{name:34} {:7.1} ({:.1}, {:.1})", values[ROUNDS / 2], values[0], values[ROUNDS - 1]);
    }
    bench.mount.unmount()?;
    Ok(())
}

impl Bench {
    fn new(mountpoint: &Path, local: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let source = Arc::new(MemorySource::new());
        let mut random = StdRng::seed_from_u64(1);
        let (mut files, mut ours, mut locals) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..FILES {
            let size = random.random_range(MEAN_BYTES / 4..MEAN_BYTES * 7 / 4);
            let bytes = Bytes::from(vec![n as u8; size]);
            let name = format!("{n:05}");
            files.push((source.add_file(&name, bytes.clone()), bytes.clone()));
            fs::write(local.join(&name), &bytes)?;
            ours.push(mountpoint.join(&name));
            locals.push(local.join(&name));
        }
        let options = MountOptions { serve: ServeMode::NoOpen, ..MountOptions::new(mountpoint, "memory:") };
        let mount = Mount::start(options, source.clone())?;
        ours.iter().for_each(|path| drop(fs::metadata(path)));
        Ok(Self { mount, source, files, ours, local: locals })
    }

    /// Pushes every file; microseconds a file.
    fn push(&self) -> f64 {
        let (tell, told) = channel();
        self.each(&told, |&(ino, ref bytes)| {
            let tell = tell.clone();
            self.mount.pusher().push(Push {
                ino,
                offset: 0,
                bytes: bytes.clone(),
                is_current: Box::new(|| true),
                done: Box::new(move |pushed| {
                    assert!(matches!(pushed, Pushed::Stored { .. }), "{pushed:?}");
                    tell.send(()).expect("the bench waits");
                }),
            });
        })
    }

    /// Drops every file; microseconds a file.
    fn drop(&self) -> f64 {
        let (tell, told) = channel();
        self.each(&told, |&(ino, _)| {
            let tell = tell.clone();
            self.mount.pusher().drop_pages(ino, 0..u64::MAX, move |dropped| {
                assert!(matches!(dropped, Dropped::Gone { .. }), "{dropped:?}");
                tell.send(()).expect("the bench waits");
            });
        })
    }

    fn each(&self, told: &Receiver<()>, begin: impl Fn(&(Ino, Bytes))) -> f64 {
        let began = Instant::now();
        for (n, file) in self.files.iter().enumerate() {
            begin(file);
            if n >= WINDOW {
                told.recv().expect("each is answered");
            }
        }
        (0..WINDOW).for_each(|_| told.recv().expect("each is answered"));
        began.elapsed().as_secs_f64() * 1e6 / FILES as f64
    }
}

/// Reads every file once, in a random order; thousands a second.
fn epoch(files: &[PathBuf], seed: u64) -> f64 {
    let mut order: Vec<_> = files.iter().collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for share in order.chunks(order.len().div_ceil(READERS)) {
            scope.spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                for path in share {
                    let mut file = File::open(path).expect("listed");
                    while file.read(&mut buffer).expect("readable") > 0 {}
                }
            });
        }
    });
    FILES as f64 / began.elapsed().as_secs_f64() / 1e3
}
