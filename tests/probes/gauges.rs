//! What is measured beside reads: resident pages, the store's disks, round trips of requests.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use cache_daemon::probe::{Probes, disks_under};
use fuse_frontend::figures::Kind;
use fuse_frontend::source::Ino;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::{Mounted, PAGE, Sample, drop_pages, missed};

/// Whether the program is attached; if not, that is printed.
fn has(probes: &Probes, program: &str) -> bool {
    let found = probes.report().attached.iter().any(|attached| attached.starts_with(program));
    if !found {
        eprintln!("SKIP: {program} is not attached here");
    }
    found
}

/// Bytes of the file's pages in the page cache, by the kernel's own account.
fn resident_bytes(sample: &Sample) -> u64 {
    let file = File::open(&sample.path).unwrap();
    // SAFETY: nobody changes the file: the mount is read-only and its source constant.
    let map = unsafe { memmap2::MmapOptions::new().map(&file).unwrap() };
    let mut pages = vec![0_u8; map.len().div_ceil(PAGE as usize)];
    // SAFETY: the mapping lives, and there is a byte for each of its pages.
    let done = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
    assert_eq!(done, 0, "mincore: {}", std::io::Error::last_os_error());
    pages.iter().map(|page| u64::from(page & 1) * PAGE).sum()
}

/// Reads or drops some part of some file, a thousand times.
fn stir(mounted: &Mounted, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..1000 {
        let sample = mounted.samples.choose(&mut random).unwrap();
        let file = File::open(&sample.path).unwrap();
        let first = random.random_range(0..sample.size);
        let len = random.random_range(1..=sample.size);
        if random.random_bool(0.5) {
            let _ = file.read_at(&mut vec![0; len as usize], first).unwrap();
        } else {
            let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&file, first as i64, len as i64, advice).unwrap();
        }
    }
}

/// Whether `holds` does, at some moment of the next ten seconds: whoever else is on this machine may make the kernel drop
/// pages between two looks.
fn soon(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn what_is_resident_is_what_the_kernel_says() {
    let sizes = [1, 4096, 4097, 100_000, 300_001, 1 << 20, 5 << 20];
    let Some(mounted) = Mounted::new(&sizes) else { return };
    let Some(probes) = mounted.watch() else { return };
    if !has(&probes, "page_added") {
        return;
    }
    let counted = |sample: &Sample| probes.heat(sample.ino).resident_bytes;
    for round in 0..5 {
        thread::scope(|scope| {
            for seed in 0..4 {
                let mounted = &mounted;
                scope.spawn(move || stir(mounted, round * 4 + seed));
            }
        });
        for sample in &mounted.samples {
            let right = soon(|| missed(&probes) > 0 || counted(sample) == resident_bytes(sample));
            assert!(right, "{sample:?}: {} counted, {} resident", counted(sample), resident_bytes(sample));
        }
        // The root and its directories have numbers too.
        let inodes = (0..100).map(Ino);
        let sum = || inodes.clone().map(|ino| probes.heat(ino).resident_bytes).sum::<u64>();
        let right = soon(|| probes.figures().resident_bytes.get() == sum());
        assert!(right, "{} in all, {} by file", probes.figures().resident_bytes.get(), sum());
    }
    mounted.samples.iter().for_each(|sample| drop_pages(&File::open(&sample.path).unwrap()));
    assert!(soon(|| missed(&probes) > 0 || mounted.samples.iter().all(|sample| counted(sample) == 0)));
}

#[test]
fn pages_from_before_the_probes_are_not_counted_when_they_go() {
    let Some(mounted) = Mounted::new(&[100_000, 50_000]) else { return };
    fs::read(&mounted.samples[0].path).unwrap();
    let Some(probes) = mounted.watch() else { return };
    if !has(&probes, "page_added") {
        return;
    }
    fs::read(&mounted.samples[1].path).unwrap();
    drop_pages(&File::open(&mounted.samples[0].path).unwrap());
    assert_eq!(probes.heat(mounted.samples[0].ino).resident_bytes, 0);
    assert_eq!(probes.heat(mounted.samples[1].ino).resident_bytes, 13 * PAGE);
    assert_eq!(probes.figures().resident_bytes.get(), 13 * PAGE);
}

/// Reads `times` blocks past the page cache; `None`, printed, where the file system cannot.
fn read_directly(path: &std::path::Path, times: u64) -> Option<()> {
    let mut options = OpenOptions::new();
    let Ok(file) = options.read(true).custom_flags(libc::O_DIRECT).open(path) else {
        eprintln!("SKIP: no O_DIRECT on the temporary directory");
        return None;
    };
    let mut buffer = vec![0; 2 * PAGE as usize];
    let aligned = buffer.as_ptr().align_offset(PAGE as usize);
    for n in 0..times {
        // Far apart, so that no two become one request.
        let buffer = &mut buffer[aligned..aligned + PAGE as usize];
        file.read_exact_at(buffer, n * 7919 % 64 * 16 * PAGE).unwrap();
    }
    Some(())
}

/// Reads and writes in flight by the kernel's own account.
fn in_flight_of(disks: &[u64]) -> u64 {
    let of = |disk: &u64| {
        let (major, minor) = (nix::sys::stat::major(*disk), nix::sys::stat::minor(*disk));
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/inflight")).unwrap();
        text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).sum::<u64>()
    };
    disks.iter().map(of).sum()
}

#[test]
fn the_reads_of_the_stores_disks_are_timed_and_those_of_other_disks_are_not() {
    let Some(mounted) = Mounted::new(&[100]) else { return };
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), vec![1; 64 * 16 * PAGE as usize]).unwrap();
    disk.as_file().sync_all().unwrap();
    let disks = disks_under(disk.path());
    if disks.is_empty() {
        return eprintln!("SKIP: the temporary directory is on no disk");
    }
    let Some(probes) = mounted.watch_with(|options| options.disks = disks.clone()) else { return };
    let other = nix::sys::stat::makedev(7, 255);
    let Some(of_other) = mounted.watch_with(|options| options.disks = vec![other]) else { return };
    if !has(&probes, "request_issued") || read_directly(disk.path(), 500).is_none() {
        return;
    }
    let figures = probes.figures();
    let reads = figures.disk_read_latency.get();
    // Others may use the disk too. A run is left out where an interrupt ends one request in the middle of ending another.
    let missed = missed(&probes);
    assert!(reads.count + missed >= 500, "{reads:?}, {missed} runs left out");
    assert!(reads.p50_us <= reads.p99_us && reads.p50_us <= reads.max_us.next_power_of_two(), "{reads:?}");
    assert!(figures.disk_in_flight_max.get() >= 1);
    assert_eq!(of_other.figures().disk_read_latency.get().count, 0);
    // Nothing that ended stays in flight. The kernel counts what waits for the driver too.
    let in_flight = || probes.figures().disk_in_flight.get();
    assert!(soon(|| in_flight() <= in_flight_of(&disks)), "{} and {}", in_flight(), in_flight_of(&disks));
}

#[test]
fn each_request_is_timed_and_counted_for_the_thread_that_waited_for_it() {
    let sizes: Vec<u64> = (1..100).map(|n| n * 3001).collect();
    let (Some(mounted), Some(other)) = (Mounted::new(&sizes), Mounted::new(&[50_000])) else { return };
    let Some(probes) = mounted.watch() else { return };
    if !has(&probes, "answered") {
        return;
    }
    let reads_before = mounted.mount.counts().get(Kind::Read);
    let began = Instant::now();
    // A process of its own, which asks for everything by itself.
    let mut cat = std::process::Command::new("cat");
    let paths = mounted.samples.iter().chain(&other.samples).map(|sample| &sample.path);
    let mut child = cat.args(paths).stdout(std::process::Stdio::null()).spawn().unwrap();
    child.wait().unwrap();
    let elapsed = began.elapsed();
    let figures = probes.figures();
    let reads = mounted.mount.counts().get(Kind::Read) - reads_before;
    assert_eq!(figures.fuse_read_latency.get().count, reads, "each READ of this mount, none of the other");
    assert!(figures.fuse_other_latency.get().count > 0, "names were looked up");
    let rows = probes.readers();
    let row = rows.iter().find(|row| row.tgid == child.id()).unwrap();
    let bytes: u64 = sizes.iter().sum();
    assert_eq!(row.asked_bytes, bytes, "nothing was cached: {row:?}");
    assert!(row.requests >= reads && row.waited_us > 0, "{row:?}");
    // One thread, which reads ahead of itself: a few of its requests overlap.
    assert!(row.waited_us < 8 * elapsed.as_micros() as u64, "{row:?} in {elapsed:?}");

    // From the page cache: nothing is asked.
    let mut again = std::process::Command::new("cat");
    let paths = mounted.samples.iter().map(|sample| &sample.path);
    let mut child = again.args(paths).stdout(std::process::Stdio::null()).spawn().unwrap();
    child.wait().unwrap();
    let rows = probes.readers();
    let row = rows.iter().find(|row| row.tgid == child.id()).unwrap();
    assert_eq!((row.asked_bytes, row.files), (0, 99), "{row:?}");
}
