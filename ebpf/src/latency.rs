//! Timing: when something began, how long it took, and the histograms of that.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use ebpf_common::{LATENCY_BUCKETS, Latencies, Trip, bucket};

use crate::maps;

/// What became of a place when something began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It was free.
    New,
    /// It had the same already: sent again.
    Again,
    /// It had another, which is not timed any more.
    Instead,
}

/// `id` is on its way from now on.
#[inline(always)]
pub(crate) fn begin(trip: &mut Trip, id: u64) -> Begun {
    let before = trip.id;
    trip.id = id;
    // SAFETY: a helper without preconditions.
    trip.began_ns = unsafe { bpf_ktime_get_ns() };
    match before {
        0 => Begun::New,
        same if same == id => Begun::Again,
        _ => Begun::Instead,
    }
}

/// How long `id` was on its way, ns; `None` if it was not seen to begin, or lost its place.
#[inline(always)]
pub(crate) fn end(trip: &mut Trip, id: u64) -> Option<u64> {
    if trip.id != id {
        return None;
    }
    trip.id = 0;
    // SAFETY: a helper without preconditions.
    Some(unsafe { bpf_ktime_get_ns() }.saturating_sub(trip.began_ns))
}

/// Counts one that took `ns`. Not inlined: four programs use it.
#[inline(never)]
pub(crate) fn record(series: u32, ns: u64) {
    let Some(latencies) = maps::latencies(series) else { return };
    let (us, index) = (ns / 1000, bucket(ns / 1000));
    if index >= LATENCY_BUCKETS {
        return;
    }
    // SAFETY: a value of a per-CPU array: this CPU's own while the program runs. `index` is within the buckets.
    unsafe {
        let count = (&raw mut (*latencies).buckets).cast::<u64>().add(index);
        count.write(count.read() + 1);
        (*latencies).sum_us += us;
        if us > (*latencies).max_us {
            (*latencies).max_us = us;
        }
    }
}

const _: () = assert!(size_of::<Latencies>() < 32 << 10, "a value of a per-CPU array has at most 32 KiB");
