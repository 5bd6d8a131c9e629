//! What passthrough costs and gives: opens a second by copy and passed through, registrations, and the kernel's memory
//! for an id that nobody uses. The rounds are interleaved, because the machine drifts.
//!
//! `cargo run --release -p fuse-frontend --example passthrough_costs -- DIR`, as root, with DIR on ext4 or XFS.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::{Mount, MountOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const FILES: usize = 2000;
const FILE_BYTES: usize = 110 * 1024;
const READERS: usize = 4;
const ROUNDS: usize = 9;
const MANY: usize = 50_000;
const SHARD_BYTES: usize = 256 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let base = PathBuf::from(std::env::args().nth(1).ok_or("which directory?")?);
    let dir = tempfile::tempdir_in(base)?;
    small_files(dir.path())?;
    shard(dir.path())?;
    ids(dir.path())
}

/// A mount of files of `bytes` bytes, each with a local file in `dir`.
fn mounted(dir: &Path, count: usize, bytes: usize, passthrough: bool) -> Result<(Mount, tempfile::TempDir)> {
    let source = MemorySource::new();
    let content = bytes::Bytes::from(vec![7; bytes]);
    for n in 0..count {
        let ino = source.add_file(&format!("f{n}"), content.clone());
        let path = dir.join(ino.0.to_string());
        if fs::metadata(&path).map_or(0, |found| found.len()) != bytes as u64 {
            fs::write(path, &content)?;
        }
    }
    let dir = dir.to_owned();
    source.on_backing(move |ino| File::open(dir.join(ino.0.to_string())).ok());
    let mountpoint = tempfile::tempdir()?;
    let mut options = MountOptions::new(mountpoint.path(), "memory:");
    (options.serve, options.passthrough) = (ServeMode::Open, passthrough);
    let mount = Mount::start(options, Arc::new(source))?;
    // Primes names and attributes.
    for entry in fs::read_dir(mountpoint.path())? {
        entry?.metadata()?;
    }
    Ok((mount, mountpoint))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn epoch(root: &Path, names: impl Fn(usize) -> String + Sync, read: bool, seed: u64) -> f64 {
    let mut order: Vec<usize> = (0..FILES).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let (names, begin) = (&names, Instant::now());
    std::thread::scope(|scope| {
        for share in order.chunks(FILES.div_ceil(READERS)) {
            scope.spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                for &n in share {
                    let mut file = File::open(root.join(names(n))).expect("listed");
                    while read && file.read(&mut buffer).expect("readable") > 0 {}
                }
            });
        }
    });
    FILES as f64 / begin.elapsed().as_secs_f64()
}

fn small_files(dir: &Path) -> Result<()> {
    let dir = dir.join("small");
    fs::create_dir(&dir)?;
    let passed = mounted(&dir, FILES, FILE_BYTES, true)?;
    let copied = mounted(&dir, FILES, FILE_BYTES, false)?;
    // Node numbers begin after the root's.
    let (in_mount, in_dir) = (|n: usize| format!("f{n}"), |n: usize| (n + 2).to_string());
    println!("{FILES} files of 110 KiB, warm, {READERS} readers, thousands a second, median of {ROUNDS}");
    for read in [false, true] {
        let mut rates = vec![Vec::new(); 3];
        for seed in 0..=ROUNDS as u64 {
            let round = [
                epoch(&dir, in_dir, read, seed),
                epoch(passed.1.path(), in_mount, read, seed),
                epoch(copied.1.path(), in_mount, read, seed),
            ];
            if seed > 0 {
                round.into_iter().zip(&mut rates).for_each(|(rate, rates)| rates.push(rate / 1000.0));
            }
        }
        let [native, passed, copied] = [0, 1, 2].map(|way| median(rates[way].clone()));
        let what = if read { "open, read, close" } else { "open, close" };
        println!("  {what}: native {native:.1}, passthrough {passed:.1}, copy {copied:.1}");
    }
    Ok(())
}

fn shard(dir: &Path) -> Result<()> {
    let dir = dir.join("shard");
    fs::create_dir(&dir)?;
    let passed = mounted(&dir, 1, SHARD_BYTES, true)?;
    let copied = mounted(&dir, 1, SHARD_BYTES, false)?;
    println!("a file of 256 MiB, warm, one reader, GiB a second, median of {ROUNDS}");
    for (what, chunk, stride) in [("sequential 1 MiB", 1 << 20, 1), ("scattered 128 KiB", 128 << 10, 1021)] {
        let paths = [dir.join("2"), passed.1.path().join("f0"), copied.1.path().join("f0")];
        let mut rates = vec![Vec::new(); 3];
        for round in 0..=ROUNDS {
            for (path, rates) in paths.iter().zip(&mut rates) {
                let (file, mut buffer) = (File::open(path)?, vec![0; chunk]);
                let (chunks, begin) = (SHARD_BYTES / chunk, Instant::now());
                for n in 0..chunks {
                    file.read_exact_at(&mut buffer, (n * stride % chunks * chunk) as u64)?;
                }
                let rate = SHARD_BYTES as f64 / f64::from(1 << 30) / begin.elapsed().as_secs_f64();
                if round > 0 {
                    rates.push(rate);
                }
                if path == &paths[2] {
                    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
                }
            }
        }
        let [native, passed, copied] = [0, 1, 2].map(|way| median(rates[way].clone()));
        println!("  {what}: native {native:.2}, passthrough {passed:.2}, copy (FUSE pages dropped) {copied:.2}");
    }
    Ok(())
}

/// Bytes of slab in use that the kernel counts, by cache.
fn slabs() -> Result<Vec<(String, i64)>> {
    let text = fs::read_to_string("/proc/slabinfo")?;
    let caches = text.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let (active, _, size) = (words.next()?, words.next()?, words.next()?);
        Some((name, active.parse::<i64>().ok()? * size.parse::<i64>().ok()?))
    });
    Ok(caches.collect())
}

/// The memory of idle ids, by registering many files and then letting their inodes go.
fn ids(dir: &Path) -> Result<()> {
    let dir = dir.join("many");
    fs::create_dir(&dir)?;
    let (mount, mountpoint) = mounted(&dir, MANY, 1, true)?;
    let settle = || -> Result<Vec<(String, i64)>> {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        slabs()
    };
    let open_all = |upto: usize| -> Result<f64> {
        let begin = Instant::now();
        for n in 0..upto {
            File::open(mountpoint.path().join(format!("f{n}")))?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / upto as f64)
    };
    // Held open by nobody, but by a descriptor of the directory each node stays known.
    let (first, again) = (open_all(MANY)?, open_all(MANY)?);
    let figure = |name: &str| {
        let rows = mount.passthrough().snapshot();
        rows.iter().find(|row| row.name == name).map(|row| row.value)
    };
    println!("{MANY} files: first open and close {first:.1} us each, again {again:.1} us");
    println!("  registered: {:?}", figure("fuse_backing_ids"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let with = slabs()?;
    for n in 0..MANY {
        let ino = fuse_frontend::source::Ino(n as u64 + 2);
        mount.revoke(ino, fuse_frontend::transport::passthrough::Revoke::Gone);
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let closed = slabs()?;
    println!("  registered: {:?}", figure("fuse_backing_ids"));
    let report = |what: &str, before: &[(String, i64)], after: &[(String, i64)]| {
        let mut all = 0;
        for (name, bytes) in before {
            let now = after.iter().find(|(other, _)| other == name).map_or(0, |found| found.1);
            let each = (bytes - now) as f64 / MANY as f64;
            all += bytes - now;
            if each.abs() >= 8.0 {
                println!("    {name}: {each:.0} bytes an id");
            }
        }
        println!("  {what}: {:.0} bytes an id", all as f64 / MANY as f64);
    };
    report("freed by closing the ids", &with, &closed);
    let dropped = settle()?;
    report("freed by dropping inodes and names afterwards (FUSE's and ext4's)", &closed, &dropped);
    Ok(())
}
