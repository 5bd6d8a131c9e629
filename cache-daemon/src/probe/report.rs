//! What probes are asked to be, and what came of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The object that `cargo xtask ebpf` builds from `ebpf/`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/object/probes.o"));

/// Which mount to watch, and with how much memory.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// `st_dev` of the mount's files, as stat(2) shows it.
    pub device: u64,
    /// Inode numbers in use now: the catalog's length.
    pub inodes: u64,
    /// Size of the ring buffer, a power of two and of pages; 18 700 events in 1 MiB, half of them opens and mappings at most.
    pub ring_bytes: u32,
    /// A thread's pause in a file after which it begins a new reading of it.
    pub pause: Duration,
    /// The disks that the store is on, as [`super::disks_under`] finds them; [`ebpf_common::DISKS`] of them are watched.
    pub disks: Vec<u64>,
    /// Counts what is in the page cache: it costs something for each page of the host that comes or goes.
    pub residents: bool,
    /// Who opens a file is to be seen: in no-open mode nobody else tells.
    pub opens: bool,
    /// The best tier to try: A; B to see pages only; C for no probes.
    pub best: Tier,
    /// The compiled programs; the embedded ones unless a test brings others.
    pub object: &'static [u8],
}

impl ProbeOptions {
    /// For the mount with this `st_dev` and this many inodes.
    pub fn new(device: u64, inodes: u64) -> Self {
        Self {
            device,
            inodes,
            ring_bytes: 1 << 20,
            pause: Duration::from_secs(30),
            disks: Vec::new(),
            residents: true,
            opens: true,
            best: Tier::A,
            object: OBJECT,
        }
    }

    /// Entries of the heat array. It cannot grow, so there is room for objects that are found later: a quarter, and
    /// 65 536 at least (2 MiB).
    pub(super) fn heat_entries(&self) -> u32 {
        let entries = self.inodes.saturating_add((self.inodes / 4).max(65_536)).saturating_add(1);
        u32::try_from(entries).unwrap_or(u32::MAX)
    }
}

/// How much is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// Every read of the VFS, to the byte.
    A,
    /// What reads and faults take from the page cache, in pages.
    B,
    /// Nothing: only requests that reach the daemon are known.
    C,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        })
    }
}

/// How the probes came out, for `stats`, `doctor` and a person.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The tier.
    pub tier: Tier,
    /// Why this one.
    pub why: String,
    /// Programs that are attached, as `name (hook)`, and those that are only while somebody traces, which say so.
    pub attached: Vec<String>,
    /// Programs that were tried and could not be attached. Where another does its work nothing is missing: `tier` says.
    pub left_out: Vec<LeftOut>,
    /// The requests of each reader and its waits are known: [`super::ReaderRow::waited_us`].
    pub sees_waits: bool,
    /// How much of each file is in the page cache is known: [`Heat::resident_bytes`].
    pub sees_residents: bool,
    /// Opens are seen, while [`super::Probes::watch_openings`] says so.
    pub sees_opens: bool,
    /// Mappings are seen, likewise.
    pub sees_maps: bool,
    /// Memory of the maps in the kernel, charged to the daemon's memory cgroup.
    pub map_bytes: u64,
}

impl ProbeReport {
    /// Tier C.
    pub(super) fn nothing(why: impl Into<String>) -> Self {
        Self {
            tier: Tier::C,
            why: why.into(),
            attached: Vec::new(),
            left_out: Vec::new(),
            sees_waits: false,
            sees_residents: false,
            sees_opens: false,
            sees_maps: false,
            map_bytes: 0,
        }
    }
}

/// What was read of one inode since the probes were attached. Counts of accesses wrap after 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Bytes asked for that exist. Tier B and page faults count whole pages, the last one up to the file's end.
    pub bytes: u64,
    /// Read accesses: one for each read system call, for each 64 KiB of a sendfile or splice.
    pub reads: u32,
    /// Page faults of mappings; a fault maps a window of up to 16 pages.
    pub faults: u32,
    /// Readings begun, over all readers.
    pub begins: u32,
    /// What [`super::Probes::set_epoch`] had set when a reading last began.
    pub epoch: u32,
    /// When it was last touched: monotonic clock, ns, to 16 ticks of the kernel (16 to 160 ms). 0: never.
    pub touched_ns: u64,
    /// Bytes of its pages that are in the page cache, whole pages. Large folios of kernels before 5.17 count as one page.
    pub resident_bytes: u64,
}

/// A program that is not attached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// `name (hook)`.
    pub program: String,
    /// What the kernel said.
    pub why: String,
}

/// What a program cost so far, where the kernel measured it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    /// The program.
    pub program: String,
    /// How often it ran, for other mounts and file systems too.
    pub runs: u64,
    /// Time in all of them.
    pub time: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heat_array_has_room_for_objects_that_come_later() {
        let entries = |inodes| ProbeOptions::new(0, inodes).heat_entries();
        assert_eq!(entries(0), 65_537);
        assert_eq!(entries(10_000_000), 12_500_001);
        assert_eq!(entries(u64::MAX), u32::MAX);
    }
}
