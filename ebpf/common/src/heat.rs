//! Heat: what was read of one inode.

/// Ticks in one unit of [`Heat::touched`], as a power of two: 2^32 units are two years at 1 000 ticks a second.
pub const TOUCHED_SHIFT: u32 = 4;

/// Counts of one inode since the probes were attached, 32 bytes: two in a cache line, 305 MiB for 10 000 000 inodes.
///
/// `reads` and `faults` wrap after 2^32; differences of two moments stay right.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Bytes asked for that exist. Tier B and page faults count whole pages, the last one up to the file's end.
    pub bytes: u64,
    /// When it was last touched: ticks of [`crate::Clock`], 2^[`TOUCHED_SHIFT`] a unit, their lower half. 0: never.
    pub touched: u32,
    /// Pages in the page cache, of those that were added since.
    pub resident_pages: u32,
    /// Read accesses: one for each read system call, for each 64 KiB of a sendfile or splice.
    pub reads: u32,
    /// Page faults of mappings; a fault maps a window of up to 16 pages.
    pub faults: u32,
    /// Readings begun, over all readers.
    pub begins: u32,
    /// [`crate::Control::epoch`] when a reading last began.
    pub epoch: u32,
}

const _: () = assert!(size_of::<Heat>() == 32);
