//! One access to a file of the mount: is it new, does it begin or end a reading, and what is counted.
//!
//! A *reading* is one thread going through one file. It begins where the thread touches the file's first byte, a file
//! it was not in, or any file after a pause; it ends where it reaches the last byte. A thread that leaves a file before
//! its end and comes back within the pause goes on with it.
//!
//! The page cache's tracepoint fires several times for one read (once for each batch of 31 folios), and a page fault may
//! be tried again: [`Access::goes_on`] and [`Access::mapped_bytes`] tell these from new accesses.

use core::arch::asm;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use ebpf_common::{Event, EventFlags, Heat, Reader, SettingsFlags, TOUCHED_SHIFT};

use crate::maps;
use crate::settings::{is_set, setting};
use crate::structs::Inode;
use crate::thread::{Thread, ticks};

pub(crate) const PAGE_BYTES: u64 = 4096;

/// What a hook saw.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `rw_verify_area`: exact bytes, once an access.
    Call,
    /// Pages taken from the page cache for a read.
    Pages,
    /// Pages mapped by a fault.
    Fault,
}

/// Bytes `first..end` of a file; `end` may lie beyond the file's.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub(crate) kind: Kind,
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl Access {
    /// Of the pages `first..=last`.
    #[inline(always)]
    pub(crate) fn of_pages(kind: Kind, first: u64, last: u64) -> Self {
        Self { kind, first: first * PAGE_BYTES, end: (last + 1) * PAGE_BYTES }
    }

    /// Whether it is a further part of the access that `reader` is in. `asked_end`: its end before it was clipped.
    ///
    /// Pages: the batches of one read, and the parts of a sendfile, follow each other in one system call; two reads of one
    /// range differ in their call. (The kernel does not count io_uring's reads as calls: one that overlaps the thread's
    /// last and begins after it is taken for a part of it.)
    /// Calls: a splice asks for all that is left and gets what the pipe has room for, again and again: such parts have one
    /// end. So two reads of which the second is the end of the first count once.
    #[inline(always)]
    fn goes_on(self, asked_end: u64, reader: &Reader, call: u64) -> bool {
        if reader.state & Reader::FAULT != 0 || self.first >= reader.end {
            return false;
        }
        let same_call = reader.call == call;
        // The same again in one system call: a worker of io_uring that tries until it need not wait, or a sendfile that a
        // signal interrupted.
        let same_range = self.first == reader.first && asked_end == reader.asked_end;
        if is_set(SettingsFlags::SYSCR) && same_call && same_range {
            return true;
        }
        match self.kind {
            Kind::Pages => same_call && self.first > reader.first,
            Kind::Call if self.first > reader.first && asked_end == reader.asked_end => true,
            Kind::Call => is_set(SettingsFlags::VERIFIED_TWICE) && same_call && self.first >= reader.first,
            Kind::Fault => false,
        }
    }

    /// Bytes of it that the thread's last fault mapped.
    ///
    /// All: the same fault, tried again after its page was read, or one for a page of its window that was not in the cache
    /// then. Windows are aligned to addresses, so the first of a mapping overlaps the second.
    #[inline(always)]
    fn mapped_bytes(self, reader: &Reader) -> u64 {
        if reader.state & Reader::FAULT == 0 {
            return 0;
        }
        self.end.min(reader.end).saturating_sub(self.first.max(reader.first))
    }
}

/// What of an access is not counted yet.
struct Uncounted {
    bytes: u64,
    /// It is an access of its own.
    is_new: bool,
    /// One past the last byte that is counted then.
    end: u64,
}

impl Uncounted {
    /// `asked_end`: where the access was to end before it was clipped. `None`: all of it is counted.
    #[inline(always)]
    fn of(access: Access, asked_end: u64, reader: &Reader, same_file: bool, call: u64) -> Option<Self> {
        let bytes = access.end - access.first;
        if !same_file {
            return Some(Self { bytes, is_new: true, end: access.end });
        }
        if access.kind == Kind::Fault {
            let mapped_bytes = access.mapped_bytes(reader);
            // Where nothing of a window is cached, the kernel first reads one page of it, and then tries again.
            let widens = mapped_bytes != 0 && mapped_bytes == reader.end - reader.first;
            let uncounted = Self { bytes: bytes - mapped_bytes, is_new: !widens, end: access.end };
            return (mapped_bytes != bytes).then_some(uncounted);
        }
        if access.goes_on(asked_end, reader, call) {
            let end = access.end.max(reader.end);
            let is_new = access.kind == Kind::Pages && asked_end != reader.asked_end;
            return Some(Self { bytes: end - reader.end, is_new, end });
        }
        Some(Self { bytes, is_new: true, end: access.end })
    }
}

/// Counts `access` to `inode`, which is ours.
#[inline(always)]
pub(crate) fn touched(inode: Inode, mut access: Access) {
    let size = inode.size_bytes();
    let asked_end = access.end;
    access.end = asked_end.min(size);
    if access.first >= access.end {
        return;
    }
    let ino = inode.number();
    let Some(heat) = maps::heat(ino) else { return maps::count(|losses| losses.beyond += 1) };
    let thread = Thread::current();
    let Some(reader) = thread.reader() else { return };
    let same_file = reader.ino == ino;
    let Some(uncounted) = Uncounted::of(access, asked_end, reader, same_file, thread.call) else { return };

    let now = ticks();
    let begins = uncounted.is_new && begins(reader, same_file, ino, access, now);
    if !same_file && reader.state & Reader::ENDED == 0 {
        maps::leave(reader.tid, reader.ino, reader.touched_ticks);
    }
    let has_ended = same_file && !begins && reader.state & Reader::ENDED != 0;
    let ends = access.end == size && !has_ended;
    let is_fault = access.kind == Kind::Fault;

    reader.state =
        if has_ended || ends { Reader::ENDED } else { 0 } | if is_fault { Reader::FAULT } else { 0 };
    reader.ino = ino;
    reader.touched_ticks = now;
    reader.first = access.first;
    reader.end = uncounted.end;
    reader.asked_end = asked_end;
    reader.call = thread.call;
    reader.bytes += uncounted.bytes;
    // SAFETY: a value of an array lives as long as the map; other CPUs only add to it atomically.
    let heat = unsafe { &mut *heat };
    add_u64(&raw mut heat.bytes, uncounted.bytes);
    heat.touched = touched_of(now);
    if uncounted.is_new && is_fault {
        reader.faults += 1;
        add_u32(&raw mut heat.faults, 1);
    } else if uncounted.is_new {
        reader.reads += 1;
        add_u32(&raw mut heat.reads, 1);
    }
    if begins || ends {
        let flag = |on, bit| if on { bit } else { 0 };
        let flags =
            flag(begins, EventFlags::BEGIN) | flag(ends, EventFlags::END) | flag(is_fault, EventFlags::FAULT);
        note(reader, heat, access, flags);
    }
}

/// Whether a new access begins a reading.
#[inline(always)]
fn begins(reader: &Reader, same_file: bool, ino: u64, access: Access, now: u64) -> bool {
    if same_file {
        if now.wrapping_sub(reader.touched_ticks) > setting!(pause_ticks) {
            return true;
        }
        // In pages, a file read in small pieces touches its first page again and again: that is one reading.
        return access.first == 0 && (access.kind == Kind::Call || reader.end > PAGE_BYTES);
    }
    if access.first == 0 {
        return true;
    }
    match maps::left_ticks(reader.tid, ino) {
        Some(left) => now.wrapping_sub(left) > setting!(pause_ticks),
        None => true,
    }
}

/// Counts and reports the beginning or end of a reading.
#[inline(always)]
fn note(reader: &mut Reader, heat: &mut Heat, access: Access, flags: u32) {
    if flags & EventFlags::BEGIN != 0 {
        reader.begins += 1;
        add_u32(&raw mut heat.begins, 1);
        heat.epoch = maps::epoch();
    }
    // SAFETY: a helper without preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    maps::tie(reader.touched_ticks, at_ns);
    maps::report(Event {
        at_ns,
        ino: reader.ino,
        first: access.first,
        end: access.end,
        tgid: reader.tgid,
        tid: reader.tid,
        flags,
        padding: 0,
    });
}

/// `ticks` as [`Heat::touched`]; 0 is never.
#[inline(always)]
fn touched_of(ticks: u64) -> u32 {
    let touched = (ticks >> TOUCHED_SHIFT) as u32;
    if touched == 0 { 1 } else { touched }
}

/// Adds atomically. BPF has the instruction from the first; its fetching sibling, which `fetch_add` asks for, is newer
/// than some kernels, and rustc offers no atomics on this target.
#[inline(always)]
pub(crate) fn add_u64(sum: *mut u64, n: u64) {
    // SAFETY: the caller's pointer into a map's value, aligned.
    unsafe { asm!("lock *(u64 *)({sum} + 0) += {n}", sum = in(reg) sum, n = in(reg) n) }
}

/// As [`add_u64`].
#[inline(always)]
pub(crate) fn add_u32(sum: *mut u32, n: u64) {
    // SAFETY: the caller's pointer into a map's value, aligned.
    unsafe { asm!("lock *(u32 *)({sum} + 0) += {n}", sum = in(reg) sum, n = in(reg) n) }
}
