//! Requests of the mount to the daemon: how long they take, seen by the kernel, and who waits for them. From 6.10 on.
//!
//! From the moment that a request is queued for the daemon to the one at which its answer is there: the daemon's own time
//! (`fuse_read_latency`) and what it takes to wake it, and nothing of what wakes the reader then.
//! <https://elixir.bootlin.com/linux/v6.18/source/fs/fuse/dev.c>

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use ebpf_common::{Series, SettingsFlags};

use crate::latency;
use crate::maps;
use crate::settings::is_set;
use crate::structs::FuseRequest;
use crate::thread::Thread;
use crate::touch::add_u64;

/// `FUSE_READ`, include/uapi/linux/fuse.h.
const READ: u32 = 15;

/// `struct fuse_out_header`, which is before the data.
const OUT_HEADER_BYTES: u32 = 16;

#[btf_tracepoint(function = "fuse_request_send")]
pub fn asked(ctx: BtfTracePointContext) -> i32 {
    let request = FuseRequest(ctx.arg(0));
    if request.is_ours() {
        let id = request.unique();
        if let Some(trip) = maps::fuse_trip(id) {
            latency::begin(trip, id);
        }
        // The first read of a thread asks before it touches pages: its wait needs a place to be kept.
        let thread = Thread::current();
        if is_set(SettingsFlags::INITIAL_PIDS) && request.opcode() == READ && thread.tid == request.asker() {
            let _ = thread.reader();
        }
    }
    0
}

#[btf_tracepoint(function = "fuse_request_end")]
pub fn answered(ctx: BtfTracePointContext) -> i32 {
    let request = FuseRequest(ctx.arg(0));
    if request.is_ours() {
        let id = request.unique();
        if let Some(trip) = maps::fuse_trip(id)
            && let Some(ns) = latency::end(trip, id)
        {
            let is_read = request.opcode() == READ;
            latency::record(if is_read { Series::FUSE_READ } else { Series::FUSE_OTHER }, ns);
            if is_set(SettingsFlags::INITIAL_PIDS) {
                let bytes = if is_read { request.out_len().saturating_sub(OUT_HEADER_BYTES) } else { 0 };
                charge(request.asker(), ns, u64::from(bytes));
            }
        }
    }
    0
}

/// Adds a request to the sums of the thread that made it, if that has a place.
#[inline(always)]
fn charge(tid: u32, ns: u64, bytes: u64) {
    let Some(reader) = maps::reader(tid) else { return };
    // SAFETY: a value of an array lives as long as the map; these three are only added to, atomically.
    unsafe {
        if (*reader).tid == tid {
            add_u64(&raw mut (*reader).waited_ns, ns);
            add_u64(&raw mut (*reader).asked_bytes, bytes);
            add_u64(&raw mut (*reader).requests, 1);
        }
    }
}
