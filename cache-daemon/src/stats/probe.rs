//! The probes' figures. They are counted in the kernel and copied here when somebody asks.

use crate::figures;

figures! {
    /// What the probes saw since they were attached.
    pub struct ProbeFigures("probe") {
        reads: Gauge, "reads", "Read accesses to files of the mount, cached ones too, as far as the tier sees them.";
        read_bytes: Gauge, "bytes", "Bytes of those and of page faults; tier B counts whole pages.";
        faults: Gauge, "faults", "Page faults of mappings of the mount's files.";
        readings: Gauge, "files", "Readings of files that were begun.";
        events: Gauge, "events", "Beginnings and ends of readings that were put into the ring.";
        events_dropped: Gauge, "events", "Beginnings and ends that the ring had no room for: their accesses are counted all the same.";
        inodes_beyond: Gauge, "accesses", "Accesses to objects found after the start that the heat array has no room for: not counted elsewhere.";
        runs_missed: Gauge, "runs", "Runs of a probe that the kernel left out because another task was in the middle of one on that CPU: reads among them are not counted, of this mount or others.";
        map_bytes: Gauge, "bytes", "Memory of the probes' maps in the kernel.";
    }
}
