//! The store's disks: how long their reads and writes take, and how many they have at a time.
//!
//! From the driver's start of a request to its end: what waits in a scheduler before is not in it. A request is known by
//! its disk, hardware queue and tag, which are its own until it ends. Of stacked disks (LVM, RAID) the lowest are watched.
//! <https://elixir.bootlin.com/linux/v6.18/source/block/blk-mq.c>

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use ebpf_common::{InFlight, Series, SettingsFlags};

use crate::latency::{self, Begun};
use crate::maps;
use crate::settings::{is_set, setting};
use crate::structs::DiskRequest;
use crate::touch::add_u64;

const WRITE: u32 = 1;

#[btf_tracepoint(function = "block_rq_issue")]
pub fn request_issued(ctx: BtfTracePointContext) -> i32 {
    let request = if is_set(SettingsFlags::REQUEST_SECOND) { ctx.arg(1) } else { ctx.arg(0) };
    issued(DiskRequest(request));
    0
}

#[btf_tracepoint(function = "block_rq_complete")]
pub fn request_completed(ctx: BtfTracePointContext) -> i32 {
    if is_set(SettingsFlags::REQUEST_SECOND) {
        completed(DiskRequest(ctx.arg(1)), ctx.arg(3));
    } else {
        completed(DiskRequest(ctx.arg(0)), ctx.arg(2));
    }
    0
}

/// The driver had no room for it: it will be issued again, perhaps under another tag.
#[btf_tracepoint(function = "block_rq_requeue")]
pub fn request_requeued(ctx: BtfTracePointContext) -> i32 {
    let request = if is_set(SettingsFlags::REQUEST_SECOND) { ctx.arg(1) } else { ctx.arg(0) };
    let _ = ended(DiskRequest(request));
    0
}

#[inline(always)]
fn issued(request: DiskRequest) {
    let disk = request.disk();
    if !is_watched(disk) || request.operation() > WRITE {
        return;
    }
    let id = id(disk, request);
    if let Some(trip) = maps::disk_trip(id)
        && latency::begin(trip, id) == Begun::New
        && let Some(in_flight) = maps::in_flight()
    {
        count_up(in_flight);
    }
}

#[inline(always)]
fn completed(request: DiskRequest, done_bytes: u32) {
    // In parts where a driver does so: the last one ends it.
    if done_bytes >= request.len()
        && let Some(ns) = ended(request)
    {
        let series = if request.operation() == WRITE { Series::DISK_WRITE } else { Series::DISK_READ };
        latency::record(series, ns);
    }
}

/// It is not on its way any more; how long it was, ns, if it is to be timed.
#[inline(always)]
fn ended(request: DiskRequest) -> Option<u64> {
    let disk = request.disk();
    if !is_watched(disk) || request.operation() > WRITE {
        return None;
    }
    let id = id(disk, request);
    let ns = latency::end(maps::disk_trip(id)?, id)?;
    if let Some(in_flight) = maps::in_flight() {
        // SAFETY: a value of an array lives as long as the map; everybody adds to it atomically.
        add_u64(unsafe { &raw mut (*in_flight).now }, u64::MAX);
    }
    Some(ns)
}

/// One more is on its way. A most that two CPUs see at once may be kept one too low.
#[inline(always)]
fn count_up(in_flight: *mut InFlight) {
    // SAFETY: a value of an array lives as long as the map; `now` is only added to, atomically.
    unsafe {
        add_u64(&raw mut (*in_flight).now, 1);
        let now = (&raw mut (*in_flight).now).read_volatile();
        if now > (*in_flight).max {
            (*in_flight).max = now;
        }
    }
}

/// Never 0: no disk's number is.
#[inline(always)]
fn id(disk: u32, request: DiskRequest) -> u64 {
    u64::from(disk) << 32 | u64::from(request.place())
}

#[inline(always)]
fn is_watched(disk: u32) -> bool {
    disk == setting!(disks[0])
        || disk == setting!(disks[1])
        || disk == setting!(disks[2])
        || disk == setting!(disks[3])
        || disk == setting!(disks[4])
        || disk == setting!(disks[5])
        || disk == setting!(disks[6])
        || disk == setting!(disks[7])
}
