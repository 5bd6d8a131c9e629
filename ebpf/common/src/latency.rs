//! Latencies: histograms that the probes fill, in the buckets in which the daemon keeps its own.

/// Buckets of a histogram: 16 in each power of two, one a microsecond below 32, up to 2^36 us.
pub const LATENCY_BUCKETS: usize = 528;

/// Places for what is on its way, of each kind; a power of two.
pub const TRIPS: u32 = 8192;

/// What is timed: the index of a [`Latencies`].
pub struct Series;

impl Series {
    /// Reads of the store's disks.
    pub const DISK_READ: u32 = 0;
    /// Writes to the store's disks.
    pub const DISK_WRITE: u32 = 1;
    /// READs of the mount.
    pub const FUSE_READ: u32 = 2;
    /// Other requests of the mount.
    pub const FUSE_OTHER: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
}

/// One histogram, of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// Operations that took as long as the bucket says.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// The longest, us.
    pub max_us: u64,
    /// Of all of them, us.
    pub sum_us: u64,
}

/// Something on its way. A later one whose hash is the same takes its place: then the earlier is not timed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trip {
    /// What. 0: the place is free.
    pub id: u64,
    /// When it began, monotonic clock, ns.
    pub began_ns: u64,
}

/// Requests that the store's disks have.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Now.
    pub now: u64,
    /// The most so far.
    pub max: u64,
}

/// The bucket of `us`; what is beyond the last counts there.
#[inline(always)]
pub const fn bucket(us: u64) -> usize {
    let us = if us < 1 << 36 { us } else { (1 << 36) - 1 };
    if us < 32 {
        return us as usize;
    }
    // The highest bit, by halves: BPF has no instruction for it.
    let (mut rest, mut power) = (us, 0);
    let mut half = 32;
    while half > 0 {
        if rest >> half != 0 {
            rest >>= half;
            power += half;
        }
        half /= 2;
    }
    ((power - 4) * 16 + (us >> (power - 4))) as usize
}

const _: () = assert!(bucket(31) == 31 && bucket(32) == 32 && bucket(u64::MAX) == LATENCY_BUCKETS - 1);
const _: () = assert!(size_of::<Latencies>() == 8 * (LATENCY_BUCKETS + 2) && size_of::<Trip>() == 16);
const _: () = assert!(TRIPS.is_power_of_two());
