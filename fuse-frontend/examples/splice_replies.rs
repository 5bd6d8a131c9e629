//! Would it pay to answer large READs by splice(2), from a backing file through a pipe into /dev/fuse? One loop of our own
//! on its own clones of the descriptor answers the same READs in five ways; the rounds are interleaved, because the machine
//! drifts. What came of it: docs/decisions/0017-splice.md.
//!
//! - `direct`: O_DIRECT into a buffer, writev(2), as the daemon does it: the device's transfer, and one copy.
//! - `copy`: pread(2) into a buffer, writev(2): the bytes are copied twice.
//! - `mapped`: writev(2) from a mapping of the file: once.
//! - `splice`: splice(2) file to pipe, splice(2) pipe to device: once, in the kernel.
//! - `move`: the same with SPLICE_F_MOVE: the kernel may take the file's pages for its own, so that nothing is copied and
//!   the file is not cached twice.
//!
//! fuser cannot do this: a reply has to be written to the clone that its request was read from (each has its own list of
//! requests that wait for an answer, `fuse_request_find` in fs/fuse/dev.c), and fuser keeps its clones to itself.
//!
//! `cargo run --release -p fuse-frontend --example splice_replies -- DIR`, as root, with DIR on ext4 or XFS and 512 MiB of
//! memory to spare.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, PosixFadviseAdvice, SpliceFFlags, fcntl, posix_fadvise, splice};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const FILE_BYTES: usize = 256 << 20;
const READS_MAX: usize = 2048;
const ROUNDS: usize = 7;
const SERVERS: usize = 2;
/// The last is what fits in a pipe beside the header, which takes a slot of its own: a READ of 1 MiB does not.
const SIZES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1020 << 10];
const WAYS: [&str; 5] = ["direct", "copy", "mapped", "splice", "move"];

/// Node numbers: the root, and its only file.
const FILE_INO: u64 = 2;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let base = PathBuf::from(std::env::args().nth(1).ok_or("which directory?")?);
    let dir = tempfile::tempdir_in(base)?;
    let backing = dir.path().join("backing");
    write_backing(&backing)?;
    let (way, mapping) = (Arc::new(AtomicUsize::new(0)), map(&backing)?);
    let mountpoint = tempfile::tempdir()?;
    let served = Served::start(mountpoint.path(), &backing, mapping, way.clone())?;
    for cold in [false, true] {
        let pages = if cold { "pages dropped before each round" } else { "in the page cache" };
        println!(
            "backing file: {pages}; {ROUNDS} rounds, {SERVERS} serving threads; us of CPU a READ, readers' and ours"
        );
        println!("| readers | READ of |{}", WAYS.map(|way| format!(" {way} MiB/s | us |")).concat());
        for readers in [1, 4] {
            for size in SIZES.into_iter().filter(|size| !cold || *size >= 128 << 10) {
                let mut rounds = vec![Vec::new(); WAYS.len()];
                for seed in 0..=ROUNDS {
                    for (number, results) in rounds.iter_mut().enumerate() {
                        way.store(number, Relaxed);
                        prepare(&backing, mapping, cold)?;
                        let result = round(mountpoint.path(), readers, size, seed)?;
                        if seed > 0 {
                            results.push(result);
                        }
                    }
                }
                print_row(readers, size, &rounds);
            }
        }
    }
    drop(served);
    Ok(())
}

/// Moving takes pages out of the backing file's cache.
fn prepare(backing: &Path, mapping: &'static [u8], cold: bool) -> Result<()> {
    if cold {
        // Pages that are mapped stay.
        let at = std::ptr::NonNull::from(mapping).cast();
        // SAFETY: of a shared mapping of a file nothing is lost: its pages are mapped again when they are touched.
        unsafe { madvise(at, mapping.len(), MmapAdvise::MADV_DONTNEED)? };
        posix_fadvise(File::open(backing)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    } else {
        fs::read(backing)?;
    }
    Ok(())
}

fn print_row(readers: usize, size: usize, rounds: &[Vec<(f64, f64)>]) {
    let direct = &rounds[0];
    let cells = rounds.iter().map(|results| {
        let rate = median(results.iter().map(|(rate, _)| *rate).collect());
        let cpu = median(results.iter().map(|(_, cpu)| *cpu).collect());
        let ratio = median(results.iter().zip(direct).map(|(way, direct)| way.0 / direct.0).collect());
        format!(" {rate:.0} (x{ratio:.2}) | {cpu:.1} |")
    });
    println!("| {readers} | {} KiB |{}", size >> 10, cells.collect::<String>());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn map(backing: &Path) -> Result<&'static [u8]> {
    let length = FILE_BYTES.try_into()?;
    // SAFETY: nobody truncates the file, and the mapping is never taken away.
    Ok(unsafe {
        let at = mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, File::open(backing)?, 0)?;
        std::slice::from_raw_parts(at.as_ptr().cast::<u8>(), FILE_BYTES)
    })
}

/// Each page begins with its number.
fn write_backing(path: &Path) -> io::Result<()> {
    let mut bytes = vec![7_u8; FILE_BYTES];
    for (number, page) in bytes.chunks_mut(4096).enumerate() {
        page[..8].copy_from_slice(&(number as u64).to_ne_bytes());
    }
    fs::write(path, bytes)?;
    // Dirty pages cannot be moved.
    File::open(path)?.sync_all()
}

/// Scattered reads of `size` bytes of a file without cached pages: MiB/s, and us of CPU a read.
fn round(mountpoint: &Path, readers: usize, size: usize, seed: usize) -> Result<(f64, f64)> {
    let path = mountpoint.join("file");
    posix_fadvise(File::open(&path)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let reads = (FILE_BYTES / size).min(READS_MAX);
    let (began, cpu) = (Instant::now(), cpu_us()?);
    std::thread::scope(|scope| {
        let each: Vec<_> = (0..readers)
            .map(|reader| {
                let path = &path;
                scope.spawn(move || read_share(path, size, (seed + reader..reads + seed).step_by(readers)))
            })
            .collect();
        each.into_iter().try_for_each(|thread| thread.join().expect("a reader does not panic"))
    })?;
    let mib = (reads * size) as f64 / f64::from(1 << 20);
    Ok((mib / began.elapsed().as_secs_f64(), (cpu_us()? - cpu) / reads as f64))
}

fn read_share(path: &Path, size: usize, numbers: impl Iterator<Item = usize>) -> io::Result<()> {
    let file = File::open(path)?;
    // One READ for each read, of its length.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    let (mut buffer, places) = (vec![0; size], FILE_BYTES / size);
    for number in numbers {
        let at = number * 1021 % places * size;
        file.read_exact_at(&mut buffer, at as u64)?;
        for (n, page) in buffer.chunks(4096).enumerate() {
            assert_eq!(page[..8], ((at / 4096 + n) as u64).to_ne_bytes(), "a wrong page");
        }
    }
    Ok(())
}

fn cpu_us() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64)
}

/// A mount with its serving threads; dropped, it is unmounted, which ends them.
struct Served {
    mountpoint: PathBuf,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(
        mountpoint: &Path,
        backing: &Path,
        mapping: &'static [u8],
        way: Arc<AtomicUsize>,
    ) -> Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("splice"), mountpoint, Some("fuse.splice"), flags, Some(options.as_str()))?;
        let mut served = Self { mountpoint: mountpoint.into(), threads: Vec::new() };
        let first = Server::new(device, backing, mapping, way.clone())?;
        // The first request is INIT; clones are of a connection that is initialized.
        let mut request = vec![0; REQUEST_BYTES];
        first.answer_next(&mut request)?;
        for _ in 1..SERVERS {
            served.spawn(Server::new(clone_of(&first.device)?, backing, mapping, way.clone())?);
        }
        served.spawn(first);
        // Else READs end at 128 KiB.
        let device = fs::metadata(mountpoint)?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), "1024")?;
        Ok(served)
    }

    fn spawn(&mut self, server: Server) {
        self.threads.push(std::thread::spawn(move || {
            let mut request = vec![0; REQUEST_BYTES];
            while server.answer_next(&mut request).is_ok() {}
        }));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        umount2(&self.mountpoint, MntFlags::MNT_DETACH).expect("it is ours and mounted");
        self.threads.drain(..).for_each(|thread| thread.join().expect("a server does not panic"));
    }
}

mod ioctl {
    #![allow(missing_docs)]
    // FUSE_DEV_IOC_CLONE.
    nix::ioctl_read!(clone_device, 229, 0, u32);
}

fn clone_of(device: &File) -> Result<File> {
    let clone = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mut source = u32::try_from(device.as_raw_fd())?;
    // SAFETY: FUSE_DEV_IOC_CLONE reads one u32, which outlives the call.
    unsafe { ioctl::clone_device(clone.as_raw_fd(), &mut source)? };
    Ok(clone)
}

/// More than the longest request: nothing is written.
const REQUEST_BYTES: usize = 128 << 10;

/// The most that may be had without CAP_SYS_RESOURCE (`fs.pipe-max-size`): 256 slots of a page each.
const PIPE_BYTES: i32 = 1 << 20;

/// What one thread needs.
struct Server {
    device: File,
    backing: File,
    /// The same past the page cache.
    direct: File,
    mapping: &'static [u8],
    pipe: (OwnedFd, OwnedFd),
    buffer: std::cell::RefCell<Vec<u8>>,
    way: Arc<AtomicUsize>,
}

impl Server {
    fn new(device: File, backing: &Path, mapping: &'static [u8], way: Arc<AtomicUsize>) -> Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(backing)?;
        let backing = File::open(backing)?;
        let pipe = nix::unistd::pipe()?;
        fcntl(&pipe.0, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
        Ok(Self { device, backing, direct, mapping, pipe, buffer: vec![0; (1 << 20) + 4096].into(), way })
    }

    /// Takes a request and answers it; fails when the mount is gone.
    fn answer_next(&self, request: &mut [u8]) -> std::result::Result<(), Errno> {
        let length = loop {
            match nix::unistd::read(&self.device, request) {
                Ok(length) => break length,
                Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        };
        let (header, body) = request[..length].split_at(40);
        let (opcode, unique) = (u32_at(header, 4), u64_at(header, 8));
        match opcode {
            1 if body == b"file\0" => self.send(unique, 0, &entry()),
            1 => self.send(unique, -libc::ENOENT, &[]),
            3 => self.send(unique, 0, &[&[255; 4][..], &[0; 12], &attributes(u64_at(header, 16))].concat()),
            15 => self.read(unique, u64_at(body, 8) as usize, u32_at(body, 16) as usize),
            26 => self.send(unique, 0, &init()),
            // FORGET, INTERRUPT and BATCH_FORGET are not answered.
            2 | 36 | 42 => Ok(()),
            _ => self.send(unique, -libc::ENOSYS, &[]),
        }
    }

    fn read(&self, unique: u64, at: usize, len: usize) -> std::result::Result<(), Errno> {
        let len = len.min(FILE_BYTES - at);
        match self.way.load(Relaxed) {
            way @ (0 | 1) => {
                let file = if way == 0 { &self.direct } else { &self.backing };
                let buffer = &mut self.buffer.borrow_mut()[..];
                // Sizes and places are whole pages; O_DIRECT wants that of the buffer too.
                let aligned = buffer.as_ptr().align_offset(4096);
                let buffer = &mut buffer[aligned..aligned + len];
                file.read_exact_at(buffer, at as u64).map_err(|_| Errno::EIO)?;
                self.send(unique, 0, buffer)
            }
            2 => self.send(unique, 0, &self.mapping[at..at + len]),
            3 => self.send_spliced(unique, at, len, SpliceFFlags::empty()),
            _ => self.send_spliced(unique, at, len, SpliceFFlags::SPLICE_F_MOVE),
        }
    }

    fn send(&self, unique: u64, error: i32, body: &[u8]) -> std::result::Result<(), Errno> {
        let header = out_header(unique, error, body.len());
        nix::sys::uio::writev(&self.device, &[IoSlice::new(&header), IoSlice::new(body)]).map(|_| ())
    }

    fn send_spliced(
        &self,
        unique: u64,
        at: usize,
        len: usize,
        flags: SpliceFFlags,
    ) -> std::result::Result<(), Errno> {
        nix::unistd::write(&self.pipe.1, &out_header(unique, 0, len))?;
        let (mut offset, mut left) = (at as libc::loff_t, len);
        while left > 0 {
            left -= splice(&self.backing, Some(&mut offset), &self.pipe.1, None, left, flags)?;
        }
        splice(self.pipe.0.as_fd(), None, &self.device, None, 16 + len, flags).map(|_| ())
    }
}

fn out_header(unique: u64, error: i32, body_bytes: usize) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(16 + body_bytes as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// `struct fuse_init_out`: protocol 7.31, ASYNC_READ, NO_OPEN_SUPPORT, MAX_PAGES, READs of 1 MiB.
fn init() -> Vec<u8> {
    let words: [u32; 16] =
        [7, 31, 1 << 20, 1 | 1 << 17 | 1 << 22, 64 | 48 << 16, 4096, 1, 256, 0, 0, 0, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_entry_out`: valid for ever.
fn entry() -> Vec<u8> {
    let valid = u64::from(u32::MAX).to_ne_bytes();
    let parts = [&FILE_INO.to_ne_bytes()[..], &[0; 8], &valid, &valid, &[0; 8], &attributes(FILE_INO)];
    parts.concat()
}

/// `struct fuse_attr`.
fn attributes(ino: u64) -> Vec<u8> {
    let (size, mode) = if ino == FILE_INO { (FILE_BYTES as u64, 0o100_444) } else { (0, 0o40_555) };
    let words: [u64; 6] = [ino, size, size / 512, 0, 0, 0];
    let halves: [u32; 10] = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    let words = words.iter().flat_map(|word| word.to_ne_bytes());
    words.chain(halves.iter().flat_map(|half| half.to_ne_bytes())).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
