//! A seeded mix of every way to read, against what the probes counted for each file.
//!
//! Tier A is exact to the byte, but for io_uring's reads of what is not cached, which it sees tried and done.
//! Tier B counts the pages that an access spans, the last one up to the file's end:
//! - Of cached files exactly those, but for a page more of a splice that begins within a page.
//! - Of files that are not cached at most those: where a read runs from cached pages into pages that are still being
//!   read, `filemap_get_pages` hands out the cached ones without its tracepoint (Linux 6.18, its `err` label).
//! - O_DIRECT is not seen.
//! - io_uring may try what is cached first, and have a worker do the whole again.
//!
//! In both tiers a page fault counts the window of up to 16 pages that it maps, each page once in a walk through a mapping.
//!
//! Every open and mapping of the mix is told once and in order, where something attaches that sees it.

use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use cache_daemon::probe::{Heat, Tier};
use memmap2::Mmap;
use nix::fcntl::SpliceFFlags;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::openings::{Done, Seen};
use crate::{Mounted, PAGE, Sample, drop_pages, events, grown, is_disturbed, missed};

/// A way to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Read,
    Pread,
    Readv,
    Sendfile,
    Splice,
    Mmap,
    Uring,
    Direct,
}

const WAYS: [Way; 8] =
    [Way::Read, Way::Pread, Way::Readv, Way::Sendfile, Way::Splice, Way::Mmap, Way::Uring, Way::Direct];

/// What a way to read must have been counted as.
struct Truth {
    /// At least these bytes, and at most `more` more.
    bytes: u64,
    more: u64,
    reads: std::ops::RangeInclusive<u32>,
    faults: std::ops::RangeInclusive<u32>,
}

/// Bytes of `first..end` as this tier counts them.
fn counted(tier: Tier, size: u64, first: u64, end: u64) -> u64 {
    if first >= size {
        return 0;
    }
    match tier {
        Tier::A => end.min(size) - first,
        _ => end.next_multiple_of(PAGE).min(size) - first / PAGE * PAGE,
    }
}

fn perform(
    way: Way,
    tier: Tier,
    cached: bool,
    sample: &Sample,
    (first, len): (u64, u64),
    done: &mut Done,
) -> Truth {
    let file = done.open(sample);
    let one =
        |bytes| Truth { bytes, more: 0, reads: u32::from(bytes > 0)..=u32::from(bytes > 0), faults: 0..=0 };
    let bytes = counted(tier, sample.size, first, first + len);
    match way {
        Way::Read => {
            let mut file = file;
            file.seek(SeekFrom::Start(first)).unwrap();
            let _ = file.read(&mut vec![0; len as usize]).unwrap();
            one(bytes)
        }
        Way::Pread => {
            let _ = file.read_at(&mut vec![0; len as usize], first).unwrap();
            one(bytes)
        }
        Way::Readv => {
            let (mut head, mut tail) = (vec![0; len as usize / 3], vec![0; (len - len / 3) as usize]);
            let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
            nix::sys::uio::preadv(&file, &mut parts, first as i64).unwrap();
            one(bytes)
        }
        Way::Sendfile => {
            let sink = OpenOptions::new().write(true).open("/dev/null").unwrap();
            let mut at = first as i64;
            let sent =
                nix::sys::sendfile::sendfile(&sink, &file, Some(&mut at), len as usize).unwrap() as u64;
            assert_eq!(sent, (first + len).min(sample.size).saturating_sub(first));
            // Once for each 16 pages of the pipe between.
            Truth {
                bytes,
                more: 0,
                reads: u32::from(bytes > 0)..=(bytes / (8 * PAGE) + 1) as u32,
                faults: 0..=0,
            }
        }
        Way::Splice => {
            let calls = splice(&file, first, len);
            // A call that starts within a page asks for one page more than the pipe has room for; the next starts there.
            Truth { bytes, more: PAGE, reads: u32::from(bytes > 0)..=calls, faults: 0..=0 }
        }
        Way::Mmap => mapped(&done.map(&file, sample), sample),
        Way::Uring => {
            // On a thread of its own: the ring's end interrupts a sendfile of its thread, which then reads twice.
            let read = || uring_read(&file, first, len as u32).is_ok();
            let allowed = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
            let truth = one(if allowed { bytes } else { 0 });
            if tier != Tier::A && cached {
                return truth;
            }
            // What is not cached is tried by the caller, which may not wait, and done by a worker: both pass the hook, in
            // tier B as far as there are pages.
            Truth { more: truth.bytes, reads: *truth.reads.start()..=2 * truth.reads.end(), ..truth }
        }
        Way::Direct => {
            let direct = done.open_with(sample, libc::O_DIRECT);
            let (first, len) = (first / PAGE * PAGE, len.next_multiple_of(PAGE));
            let mut buffer = vec![0; (len + PAGE) as usize];
            let aligned = buffer.as_ptr().align_offset(PAGE as usize);
            let _ = direct.read_at(&mut buffer[aligned..aligned + len as usize], first).unwrap();
            one(if tier == Tier::A { counted(tier, sample.size, first, first + len) } else { 0 })
        }
    }
}

/// Splices through a pipe, emptying it each time; the number of calls.
fn splice(file: &File, first: u64, len: u64) -> u32 {
    let (out, into) = nix::unistd::pipe().unwrap();
    let mut sink = File::from(out);
    let (mut at, mut left, mut calls) = (first as i64, len as usize, 0);
    while left > 0 {
        let moved =
            nix::fcntl::splice(file, Some(&mut at), &into, None, left, SpliceFFlags::empty()).unwrap();
        if moved == 0 {
            break;
        }
        calls += 1;
        left -= moved;
        sink.read_exact(&mut vec![0; moved]).unwrap();
    }
    calls
}

/// Reads once through io_uring.
fn uring_read(file: &File, first: u64, len: u32) -> std::io::Result<i32> {
    let mut buffer = vec![0; len as usize];
    let mut ring = io_uring::IoUring::new(4)?;
    let read = io_uring::opcode::Read::new(io_uring::types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), len);
    // SAFETY: buffer and file outlive the only operation, which is waited for.
    unsafe { ring.submission().push(&read.offset(first).build()).unwrap() };
    ring.submit_and_wait(1)?;
    Ok(ring.completion().next().unwrap().result())
}

/// Touches each page of the whole file in order.
fn mapped(map: &Mmap, sample: &Sample) -> Truth {
    let sum: u64 = map.iter().step_by(PAGE as usize).map(|byte| u64::from(*byte)).sum();
    std::hint::black_box(sum);
    let pages = sample.size.div_ceil(PAGE) as u32;
    Truth { bytes: sample.size, more: 0, reads: 0..=0, faults: pages.div_ceil(16)..=pages }
}

fn check(tier: Tier, cached: bool, heat: Heat, truth: &Truth, what: &str) {
    let exact = cached || tier == Tier::A || truth.bytes <= PAGE;
    let least = if exact { truth.bytes } else { 1 };
    let bytes = least..=truth.bytes + truth.more;
    assert!(bytes.contains(&heat.bytes), "bytes {bytes:?}: {what}: {heat:?}");
    assert!(truth.reads.contains(&heat.reads), "reads {:?}: {what}: {heat:?}", truth.reads);
    assert!(truth.faults.contains(&heat.faults), "faults {:?}: {what}: {heat:?}", truth.faults);
}

/// Reads of a seeded mix.
const STEPS: u32 = 600;

fn mix(cached: bool, seed: u64) {
    let sizes = [1, 100, 4095, 4096, 4097, 20_000, 65_536, 70_001, 300_000, 1 << 20, 3_000_001];
    let Some(mounted) = Mounted::new(&sizes) else { return };
    let Some(probes) = mounted.watch() else { return };
    let tier = probes.report().tier;
    let mut random = StdRng::seed_from_u64(seed);
    mounted.samples.iter().for_each(|sample| drop(std::fs::read(&sample.path).unwrap()));
    let residents = probes.report().attached.iter().any(|program| program.starts_with("page_added"));
    let whole = |sample: &Sample| sample.size.next_multiple_of(PAGE);
    let (mut disturbed, mut done) = (0, Done::default());
    let seen = Seen::from_now_on(&probes);
    for step in 0..STEPS {
        let sample = mounted.samples.choose(&mut random).unwrap();
        let way = *WAYS.choose(&mut random).unwrap();
        let first = random.random_range(0..sample.size + 100);
        let len = random.random_range(1..=sample.size + 5000);
        if !cached {
            drop_pages(&done.open(sample));
        }
        // Another file between, so that a fault in a window that was mapped a moment ago is a new one.
        let other = mounted.samples.iter().find(|other| other.ino != sample.ino).unwrap();
        done.read(other);
        let (before, missed_before) = (probes.heat(sample.ino), missed(&probes));
        let truth = perform(way, tier, cached, sample, (first, len), &mut done);
        // Somebody may make the kernel drop pages, of the whole machine: then this is no cached file any more.
        let dropped = cached && residents && probes.heat(sample.ino).resident_bytes < whole(sample);
        if dropped {
            done.read(sample);
        }
        if dropped || missed(&probes) != missed_before {
            disturbed += 1;
            continue;
        }
        let what = format!(
            "seed {seed} step {step}: {way:?} {first}+{len} of {} bytes, cached {cached}",
            sample.size
        );
        check(tier, cached, grown(probes.heat(sample.ino), before), &truth, &what);
    }
    eprintln!("{disturbed} of {STEPS} steps not judged: the kernel left out a run, or dropped pages");
    done.check(seen, &events(&probes), missed(&probes));
    // A machine on which others drop all pages every second disturbs a quarter.
    assert!(disturbed < STEPS / 2);
}

#[test]
fn every_way_to_read_cached_files_is_counted_as_it_was_done() {
    mix(true, 1);
    mix(true, 2);
}

#[test]
fn every_way_to_read_files_that_are_not_cached_is_counted_as_it_was_done() {
    mix(false, 3);
}

#[test]
fn a_file_read_in_pieces_counts_each_piece_and_one_reading() {
    let Some(mounted) = Mounted::new(&[100_000]) else { return };
    let Some(probes) = mounted.watch() else { return };
    let sample = &mounted.samples[0];
    for piece in [1000, 4096, 5000, 65_536] {
        let file = File::open(&sample.path).unwrap();
        let before = probes.heat(sample.ino);
        for first in (0..sample.size).step_by(piece) {
            let _ = file.read_at(&mut vec![0; piece], first).unwrap();
        }
        if is_disturbed(&probes) {
            return;
        }
        let heat = grown(probes.heat(sample.ino), before);
        assert_eq!(u64::from(heat.reads), sample.size.div_ceil(piece as u64), "pieces of {piece}");
        assert_eq!(heat.begins, 1, "pieces of {piece}");
    }
}
