//! What passthrough costs and gives: opens a second by copy and passed through, registrations, and the kernel's memory
//! for an id that nobody uses. The rounds are interleaved, because the machine drifts.
//!
//! `cargo run --release -p fuse-frontend --example passthrough_costs -- DIR`, as root, with DIR on ext4 or XFS.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::{Mount, MountOptions};
use fuse_frontend::source::Ino;
use fuse_frontend::transport::passthrough::Revoke;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const FILES: usize = 2000;
const FILE_BYTES: usize = 110 * 1024;
const READERS: usize = 4;
const ROUNDS: usize = 9;
const MANY: usize = 15_000;
const SHARD_BYTES: usize = 256 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let base = PathBuf::from(std::env::args().nth(1).ok_or("which directory?")?);
    let dir = tempfile::tempdir_in(base)?;
    ids(dir.path())?;
    small_files(dir.path())?;
    shard(dir.path())
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
        let mut rates = vec![Vec::new(); 4];
        for seed in 0..=ROUNDS as u64 {
            let cached = epoch(copied.1.path(), in_mount, read, seed);
            if read {
                drop_pages(copied.1.path())?;
            }
            let round = [
                epoch(&dir, in_dir, read, seed),
                epoch(passed.1.path(), in_mount, read, seed),
                cached,
                epoch(copied.1.path(), in_mount, read, seed),
            ];
            if seed > 0 {
                round.into_iter().zip(&mut rates).for_each(|(rate, rates)| rates.push(rate / 1000.0));
            }
        }
        let [native, passed, cached, copied] = [0, 1, 2, 3].map(|way| median(rates[way].clone()));
        println!("  {}", if read { "open, read, close" } else { "open, close" });
        println!(
            "    native {native:.1}, passthrough {passed:.1}, FUSE pages cached {cached:.1}, copy {copied:.1}"
        );
    }
    Ok(())
}

fn drop_pages(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&File::open(entry?.path())?, 0, 0, advice)?;
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
                    nix::fcntl::posix_fadvise(
                        &file,
                        0,
                        0,
                        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
                    )?;
                }
            }
        }
        let [native, passed, copied] = [0, 1, 2].map(|way| median(rates[way].clone()));
        println!(
            "  {what}: native {native:.2}, passthrough {passed:.2}, copy (FUSE pages dropped) {copied:.2}"
        );
    }
    Ok(())
}

/// The kernel's own memory for idle ids: what closing them frees, of the kinds of objects that an id consists of. Files'
/// inodes and names, which it pins, stay cached afterwards. The mount's own inodes are held, so that the kernel does
/// not forget them and the ids with them.
fn ids(dir: &Path) -> Result<()> {
    let dir = dir.join("many");
    fs::create_dir(&dir)?;
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit)?;
    nix::sys::resource::setrlimit(limit, hard, hard)?;
    let (mount, mountpoint) = mounted(&dir, MANY, 1, true)?;
    let path = |n: usize| mountpoint.path().join(format!("f{n}"));
    let held: std::io::Result<Vec<File>> =
        (0..MANY).map(|n| File::options().read(true).custom_flags(nix::libc::O_PATH).open(path(n))).collect();
    let held = held?;
    let open_all = || -> Result<f64> {
        let begin = Instant::now();
        for n in 0..MANY {
            File::open(path(n))?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / MANY as f64)
    };
    println!("{MANY} files, opened and closed one after the other, us each:");
    println!("  first {:.1}, again {:.1}, again {:.1}", open_all()?, open_all()?, open_all()?);
    let used = slabs()?;
    let begin = Instant::now();
    for n in 0..MANY {
        mount.revoke(Ino(n as u64 + 2), Revoke::Gone);
    }
    println!(
        "  BACKING_CLOSE and our table: {:.2} us each",
        begin.elapsed().as_secs_f64() * 1e6 / MANY as f64
    );
    let left = slabs()?;
    let freed: i64 = used.iter().zip(&left).map(|(used, left)| used - left).sum();
    println!("  kernel memory of an idle id, without inode and name: {} bytes", freed / MANY as i64);
    drop(held);
    registrations(&dir)
}

/// The call itself, on the descriptor of the only mount that this process has left.
fn registrations(dir: &Path) -> Result<()> {
    let device = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|fd| {
            fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|name| name == Path::new("/dev/fuse"))
        })
        .ok_or("no descriptor of /dev/fuse")?;
    // SAFETY: it is the mount's, which the caller keeps until we are done.
    let device = unsafe { std::os::fd::BorrowedFd::borrow_raw(device) };
    let files: std::io::Result<Vec<File>> =
        (0..1000).map(|n| File::open(dir.join((n + 2).to_string()))).collect();
    let files = files?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for file in &files {
            fuser::BackingId::create_raw(device, file)?;
        }
        times.push(begin.elapsed().as_secs_f64() * 1e6 / files.len() as f64);
    }
    println!("  BACKING_OPEN: {:.2} us each", median(times));
    Ok(())
}

/// Bytes in use of the caches that an id's objects are in: file, credentials (`pid` where the kernel merged the two), backing,
/// security data, id table.
fn slabs() -> Result<Vec<i64>> {
    const CACHES: [&str; 7] =
        ["filp", "cred_jar", "cred", "pid", "lsm_file_cache", "kmalloc-64", "radix_tree_node"];
    // Frees wait for readers of RCU, and files for their task.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let text = fs::read_to_string("/proc/slabinfo")?;
    let caches = text.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        let known = CACHES.contains(&words.next()?);
        let (active, _, size) = (words.next()?, words.next()?, words.next()?);
        known.then_some(active.parse::<i64>().ok()? * size.parse::<i64>().ok()?)
    });
    Ok(caches.collect())
}
