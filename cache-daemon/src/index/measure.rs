//! How long a lookup takes: the case `index lookup` of `cargo xtask bench store`.
//!
//! Throughput over independent keys in random order: what many reads in flight see. Keys are made on
//! the fly from a counter, so that reading them from an array does not compete for memory with what is
//! measured; making one costs about a nanosecond, and is part of the figure. Times are those that the
//! thread ran: on a busy machine the others' are not in them.

use std::hint::black_box;

use super::{ExtentAddr, Generation, Index, SegmentId};
use crate::object::{ExtentKey, Fingerprint};

/// What [`measure_lookups`] measured.
#[derive(Clone, Copy, Debug)]
pub struct Lookups {
    /// Mean time of a lookup that hits, in nanoseconds.
    pub hit_ns: f64,
    /// Mean time of a lookup that misses, in nanoseconds.
    pub miss_ns: f64,
    /// Mean time of an insert into a table of the right size, in nanoseconds.
    pub insert_ns: f64,
    /// Memory of the index, in bytes.
    pub memory_bytes: usize,
}

/// Fills an index with `extents`, then looks up `lookups` of them and as many that are not there.
///
/// # Panics
/// If the index forgets one of them, or finds another.
pub fn measure_lookups(extents: usize, lookups: usize) -> Lookups {
    let (count, lookups) = (extents.max(1) as u64, lookups.max(1) as u64);
    let index = Index::with_capacity(extents);
    let insert_ns = mean_ns(count, |n| {
        index.insert(key(n), addr(n));
    });
    let mut hits = 0;
    let hit_ns = mean_ns(lookups, |n| hits += u64::from(index.get(&key(pick(n, count))).is_some()));
    assert_eq!(hits, lookups, "every extent was inserted");
    let mut false_hits = 0;
    let miss_ns = mean_ns(lookups, |n| false_hits += u64::from(index.get(&key(count + n)).is_some()));
    assert_eq!(false_hits, 0, "these were never inserted");
    Lookups { hit_ns, miss_ns, insert_ns, memory_bytes: index.memory_bytes() }
}

fn mean_ns(times: u64, mut once: impl FnMut(u64)) -> f64 {
    let start_ns = busy_ns();
    (0..times).for_each(|n| once(black_box(n)));
    (busy_ns() - start_ns) as f64 / times as f64
}

/// What this thread has run so far: getrusage(2) tells it only to the last tick.
fn busy_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec, which the call writes.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0, "a thread may read its own clock");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Any of `0..count`, in an order without pattern.
fn pick(n: u64, count: u64) -> u64 {
    ((u128::from(scrambled(!n)) * u128::from(count)) >> 64) as u64
}

/// The key of extent `n`: 128 bits as uniform as a fingerprint's.
fn key(n: u64) -> ExtentKey {
    let low = scrambled(n);
    let fingerprint = u128::from(low) | u128::from(low.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ n) << 64;
    ExtentKey { object: Fingerprint(fingerprint.to_le_bytes()), chunk: 0 }
}

fn addr(n: u64) -> ExtentAddr {
    let segment = SegmentId((n / 512) as u32);
    ExtentAddr { segment, generation: Generation(1), offset: (n % 512) as u32 * 131_072, len: 112_640 }
}

/// SplitMix64's output function.
fn scrambled(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_measurement_measures_hits_and_misses() {
        let measured = super::measure_lookups(10_000, 20_000);
        assert!(measured.hit_ns > 0.0 && measured.miss_ns > 0.0);
        assert!(measured.memory_bytes >= 10_000 * 43);
    }
}
