//! Faults: how often a simulated device does what real ones do on bad days.

use std::ops::Range;

/// Rates are probabilities for each operation, 0 to 1; the default device is perfect and ordered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// An operation takes 1 to 1 + this many virtual ticks, so completions overtake each other.
    pub latency_ticks_max: u64,
    /// A read or write does only a beginning, in whole sectors.
    pub short: f64,
    /// An operation does nothing and says EINTR.
    pub interrupted: f64,
    /// A read fails with EIO.
    pub read_error: f64,
    /// A write fails with EIO, after perhaps some of its sectors have landed.
    pub write_error: f64,
    /// Reads and writes that touch these bytes fail with EIO.
    pub bad_ranges: Vec<Range<u64>>,
    /// A write fails with ENOSPC.
    pub no_space: f64,
    /// An operation never completes, until [`super::SimDevice::release_stalled`] or a power cut.
    pub stall: f64,
    /// A write reports success but only some of its sectors landed.
    pub torn_write: f64,
    /// A write reports success but landed somewhere else, at another multiple of 4 KiB.
    pub misdirected_write: f64,
    /// A read finds one of its bits flipped on the media, for good.
    pub rot: f64,
    /// A sync fails with EIO, once; what it covered is lost (a later sync succeeds without it).
    pub sync_error: f64,
}

impl Faults {
    /// Everything that honest hardware does at `rate`: nothing here makes a device return wrong bytes
    /// or lose what it has called durable.
    pub fn honest(rate: f64) -> Self {
        Self {
            latency_ticks_max: 8,
            short: rate,
            interrupted: rate,
            read_error: rate,
            write_error: rate,
            no_space: rate,
            sync_error: rate,
            ..Self::default()
        }
    }

    /// [`Faults::honest`] and the lies: silently torn and misdirected writes, and bit rot.
    pub fn lying(rate: f64) -> Self {
        Self { torn_write: rate, misdirected_write: rate, rot: rate, ..Self::honest(rate) }
    }

    pub(super) fn touches_bad(&self, at: u64, len: usize) -> bool {
        let end = at + len as u64;
        self.bad_ranges.iter().any(|bad| bad.start < end && at < bad.end)
    }
}

/// How often each fault happened, so that a test can tell that it met what it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of Faults")]
pub struct Injected {
    pub short: u64,
    pub interrupted: u64,
    pub read_errors: u64,
    pub write_errors: u64,
    pub no_space: u64,
    pub stalls: u64,
    pub torn_writes: u64,
    pub misdirected_writes: u64,
    pub rotten_bits: u64,
    pub sync_errors: u64,
}
