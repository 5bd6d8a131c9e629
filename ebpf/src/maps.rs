//! The maps. The daemon sets the sizes of `HEAT` and `EVENTS` at the load.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, RingBuf};
use ebpf_common::{
    Clock, Control, Event, Heat, InFlight, Latencies, Losses, READERS, Reader, ReaderTotals, ReadingKey,
    Residents, Series, TRIPS, Trip,
};

use crate::settings::setting;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static CLOCK: Array<Clock> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// By inode number: the mount's numbers are dense.
#[map]
static HEAT: Array<Heat> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// By thread id modulo its size: an array lookup is inlined, a hash lookup costs 20 ns and more.
#[map]
static READING: Array<Reader> = Array::with_max_entries(READERS, BPF_F_MMAPABLE);

/// By process: sums of threads that lost their place.
#[map]
static RETIRED: LruHashMap<u32, ReaderTotals> = LruHashMap::with_max_entries(4096, 0);

/// Last touch of readings left before their end, in ticks: a thread that comes back within the pause goes on.
#[map]
static UNFINISHED: LruHashMap<ReadingKey, u64> = LruHashMap::with_max_entries(16384, 0);

#[map]
static LOSSES: PerCpuArray<Losses> = PerCpuArray::with_max_entries(1, 0);

#[map]
static RESIDENTS: PerCpuArray<Residents> = PerCpuArray::with_max_entries(1, 0);

#[map]
static LATENCIES: PerCpuArray<Latencies> = PerCpuArray::with_max_entries(Series::COUNT, 0);

#[map]
static DISK_TRIPS: Array<Trip> = Array::with_max_entries(TRIPS, 0);

#[map]
static FUSE_TRIPS: Array<Trip> = Array::with_max_entries(TRIPS, 0);

#[map]
static IN_FLIGHT: Array<InFlight> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// No wake-up: it would cost the reader an interrupt for each record. The daemon looks by itself, several times a second.
const BPF_RB_NO_WAKEUP: u64 = 1;

/// Asks for the bytes that wait in the ring (include/uapi/linux/bpf.h).
const BPF_RB_AVAIL_DATA: u64 = 0;

#[inline(always)]
pub(crate) fn heat(ino: u64) -> Option<*mut Heat> {
    // A number beyond 2^32 would otherwise be taken for a small one.
    if ino > u64::from(u32::MAX) {
        return None;
    }
    HEAT.get_ptr_mut(ino as u32)
}

#[inline(always)]
pub(crate) fn reader(tid: u32) -> Option<*mut Reader> {
    READING.get_ptr_mut(tid & (READERS - 1))
}

#[inline(always)]
pub(crate) fn epoch() -> u32 {
    // SAFETY: the value lives as long as the map; the daemon writes the aligned word in one store.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).epoch })
}

/// Notes one moment on both clocks, the first time.
#[inline(always)]
pub(crate) fn tie(ticks: u64, ns: u64) {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a value of the map. Two CPUs may both be first: their moments are the same to the tick.
        let clock = unsafe { &mut *clock };
        if clock.ns == 0 {
            (clock.ticks, clock.ns) = (ticks, ns);
        }
    }
}

/// Adds to what is kept of `tgid`'s threads that lost their place.
#[inline(always)]
pub(crate) fn retire(tgid: u32, gone: &ReaderTotals) {
    if let Some(sum) = RETIRED.get_ptr_mut(tgid) {
        // SAFETY: a value of the map, alive until this program ends. Two CPUs may lose an addition: it is rare, and statistics.
        let sum = unsafe { &mut *sum };
        sum.bytes += gone.bytes;
        sum.reads += gone.reads;
        sum.faults += gone.faults;
        sum.begins += gone.begins;
        sum.touched_ticks = gone.touched_ticks;
        sum.cgroup = gone.cgroup;
        sum.comm = gone.comm;
        sum.waited_ns += gone.waited_ns;
        sum.asked_bytes += gone.asked_bytes;
        sum.requests += gone.requests;
    } else {
        // Fails only without memory: then these sums are lost.
        let _ = RETIRED.insert(tgid, gone, 0);
    }
}

/// Remembers that `tid` left `ino` before its end.
#[inline(always)]
pub(crate) fn leave(tid: u32, ino: u64, touched_ticks: u64) {
    // Fails only without memory: then coming back counts as a beginning.
    let _ = UNFINISHED.insert(ReadingKey { ino, tid, padding: 0 }, touched_ticks, 0);
}

/// When `tid` left `ino` before its end, if it did.
#[inline(always)]
pub(crate) fn left_ticks(tid: u32, ino: u64) -> Option<u64> {
    let key = ReadingKey { ino, tid, padding: 0 };
    // SAFETY: read at once; a value that is replaced meanwhile is as good.
    UNFINISHED.get_ptr(key).map(|left| unsafe { *left })
}

/// The place of what is on its way to a disk or to the daemon.
#[inline(always)]
pub(crate) fn disk_trip(id: u64) -> Option<&'static mut Trip> {
    // SAFETY: a value of an array lives as long as the map. One request at a time has a place, but for collisions, which
    // garble times and nothing else.
    DISK_TRIPS.get_ptr_mut(place(id)).map(|trip| unsafe { &mut *trip })
}

/// As [`disk_trip`].
#[inline(always)]
pub(crate) fn fuse_trip(id: u64) -> Option<&'static mut Trip> {
    // SAFETY: as above.
    FUSE_TRIPS.get_ptr_mut(place(id)).map(|trip| unsafe { &mut *trip })
}

/// The upper bits of a product with 2^64 divided by the golden ratio, which spreads numbers that are close.
#[inline(always)]
fn place(id: u64) -> u32 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TRIPS.trailing_zeros())) as u32
}

#[inline(always)]
pub(crate) fn latencies(series: u32) -> Option<*mut Latencies> {
    LATENCIES.get_ptr_mut(series)
}

#[inline(always)]
pub(crate) fn in_flight() -> Option<*mut InFlight> {
    IN_FLIGHT.get_ptr_mut(0)
}

#[inline(always)]
pub(crate) fn count_pages(change: impl FnOnce(&mut Residents)) {
    if let Some(residents) = RESIDENTS.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and a program is not interrupted by another of ours.
        change(unsafe { &mut *residents });
    }
}

/// Puts a beginning or an end into the ring, or counts that it had no room.
#[inline(always)]
pub(crate) fn report(event: Event) {
    let kept = put(event);
    count(|losses| if kept { losses.events += 1 } else { losses.dropped += 1 });
}

/// The same with an opening, which may fill its share of the ring only.
#[inline(always)]
pub(crate) fn report_opening(event: Event) {
    let kept = EVENTS.query(BPF_RB_AVAIL_DATA) < u64::from(setting!(openings_bytes)) && put(event);
    count(|losses| if kept { losses.events += 1 } else { losses.openings_dropped += 1 });
}

#[inline(always)]
fn put(event: Event) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return false };
    entry.write(event);
    entry.submit(BPF_RB_NO_WAKEUP);
    true
}

#[inline(always)]
pub(crate) fn count(change: impl FnOnce(&mut Losses)) {
    if let Some(losses) = LOSSES.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and a program is not interrupted by another of ours.
        change(unsafe { &mut *losses });
    }
}
