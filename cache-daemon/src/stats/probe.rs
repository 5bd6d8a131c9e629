//! The probes' figures. They are counted in the kernel and copied here when somebody asks.

use crate::figures;

figures! {
    /// What the probes saw since they were attached.
    pub struct ProbeFigures("probe") {
        reads: Gauge, "reads", "Read accesses to files of the mount, cached ones too, as far as the tier sees them.";
        read_bytes: Gauge, "bytes", "Bytes of those and of page faults; tier B counts whole pages.";
        faults: Gauge, "faults", "Page faults of mappings of the mount's files.";
        readings: Gauge, "files", "Readings of files that were begun.";
        events: Gauge, "events", "Beginnings and ends of readings, and opens and mappings while somebody traces, that were put into the ring.";
        events_dropped: Gauge, "events", "Beginnings and ends that the ring had no room for: their accesses are counted all the same.";
        openings_dropped: Gauge, "events", "Opens and mappings that the half of the ring that is theirs had no room for: `cachectl trace` lacks their lines, and nothing else does.";
        inodes_beyond: Gauge, "accesses", "Accesses to objects found after the start that the heat array has no room for: not counted elsewhere.";
        runs_missed: Gauge, "runs", "Runs of a probe that the kernel left out because another task was in the middle of one on that CPU: reads among them are not counted, of this mount or others.";
        resident_bytes: Gauge, "bytes", "Pages of the mount's files in the page cache, of those that came since the probes were attached.";
        disk_read_latency: Summary, "us", "Reads of the store's disks, from the driver's start to the end; everybody's, not only the store's.";
        disk_write_latency: Summary, "us", "Writes to the store's disks, likewise.";
        disk_in_flight: Gauge, "operations", "Reads and writes that the store's disks have now.";
        disk_in_flight_max: Gauge, "operations", "The most that they had at a time.";
        fuse_read_latency: Summary, "us", "READs of the mount as the kernel sees them: from the request to its answer, the daemon's waking included.";
        fuse_other_latency: Summary, "us", "Other requests of the mount, likewise.";
        map_bytes: Gauge, "bytes", "Memory of the probes' maps in the kernel.";
    }
}
