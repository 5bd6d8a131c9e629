//! How many threads should read /dev/fuse? Files a second of shuffled epochs with a dropped page cache, by number of
//! serving threads; the rounds are interleaved, because the machine drifts.
//!
//! `cargo run --release -p fuse-frontend --example serving_threads`

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::memory::MemorySource;
use fuse_frontend::session::{Mount, MountOptions};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const FILES: usize = 4000;
const MEAN_BYTES: usize = 110 * 1024;
const READERS: usize = 8;
const ROUNDS: usize = 21;
const THREADS: [usize; 6] = [1, 2, 4, 8, 16, 32];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = Arc::new(MemorySource::new());
    let mut random = StdRng::seed_from_u64(1);
    for n in 0..FILES {
        let size = random.random_range(MEAN_BYTES / 4..MEAN_BYTES * 7 / 4);
        source.add_file(&format!("class-{:02}/{n:05}", n % 20), vec![n as u8; size]);
    }
    let mut rates = vec![Vec::new(); THREADS.len()];
    for round in 0..ROUNDS {
        for (threads, rates) in THREADS.iter().zip(&mut rates) {
            let dir = tempfile::tempdir()?;
            let options =
                MountOptions { threads: Some(*threads), ..MountOptions::new(dir.path(), "memory:") };
            let mount = Mount::start(options, source.clone())?;
            // Primes names and attributes; a fresh mount has no pages.
            let files: Vec<_> = std::fs::read_dir(dir.path())?
                .flat_map(|class| std::fs::read_dir(class.expect("a directory").path()).expect("a directory"))
                .map(|file| file.expect("a file").path())
                .collect();
            rates.push(epoch(files, round as u64));
            mount.unmount()?;
        }
    }
    println!("threads  files/s: median of {ROUNDS} (least, most), {READERS} readers");
    for (threads, mut rates) in THREADS.iter().zip(rates) {
        rates.sort_unstable();
        println!("{threads:7}  {} ({}, {})", rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1]);
    }
    Ok(())
}

fn epoch(mut files: Vec<std::path::PathBuf>, seed: u64) -> u64 {
    files.shuffle(&mut StdRng::seed_from_u64(seed));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for share in files.chunks(files.len().div_ceil(READERS)) {
            scope.spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                for path in share {
                    let mut file = File::open(path).expect("listed");
                    while file.read(&mut buffer).expect("readable") > 0 {}
                }
            });
        }
    });
    (FILES as f64 / begin.elapsed().as_secs_f64()) as u64
}
