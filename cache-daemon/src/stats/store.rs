//! Figures of the store.

use super::Description;

crate::figures! {
    /// What the store did, and what it holds.
    pub struct StoreFigures("store") {
        reads: Counter, "reads", "Reads of extents asked for.";
        hits: Counter, "reads", "Reads answered with bytes from the store.";
        hit_bytes: Counter, "bytes", "Bytes of data in those answers.";
        misses_absent: Counter, "reads", "Reads of extents that the store does not have.";
        misses_corrupt: Counter, "reads", "Reads that found damage; the extent was forgotten.";
        misses_failed: Counter, "reads", "Reads that the device failed or did not answer in time.";
        misses_busy: Counter, "reads", "Reads refused because the queue of their volume was full.";
        checksum_failures: Counter, "records", "Records or data blocks whose checksum, identity or generation was wrong.";
        read_latency: Latency, "us", "From the request to the answer of reads that hit.";

        appended_extents: Counter, "extents", "Extents written and indexed.";
        appended_bytes: Counter, "bytes", "Bytes of data in them.";
        rejected_full: Counter, "extents", "Appends refused because no segment was free.";
        rejected_busy: Counter, "extents", "Appends refused because the queue of their volume was full or a segment was being emptied.";
        rejected_failed: Counter, "extents", "Appends that the device failed or did not finish in time.";
        rejected_out: Counter, "extents", "Appends refused because every volume was out of use or closed.";
        forgotten_extents: Counter, "extents", "Extents forgotten by command.";
        poisoned_segments: Counter, "segments", "Segments dropped because a write or a sync failed.";
        out_of_space: Counter, "errors", "Writes that failed with ENOSPC though the space was reserved.";
        scrubbed_bytes: Counter, "bytes", "Bytes of data that scrubs have read and found whole.";
        given_up_bytes: Counter, "bytes", "Bytes forgotten because no segment was left to copy them to.";
        relocated_bytes: Counter, "bytes", "Bytes copied to free segments that were mostly dead.";

        files: Gauge, "files", "Backing files: objects of --file-from bytes and more.";
        files_created: Counter, "files", "Backing files made.";
        files_completed: Counter, "files", "Backing files whose last missing chunk was written.";
        promoted_objects: Counter, "objects", "Objects that were stored as extents and were given a file.";
        recovered_files: Counter, "files", "Backing files found when the store was opened.";
        revoked_files: Counter, "files", "Backing files removed because damage was found in them.";
        poisoned_files: Counter, "files", "Backing files removed because a sync of them failed.";
        unsynced_file_bytes: Gauge, "bytes", "Bytes in backing files that no sync has covered yet.";
        lent_segments: Gauge, "segments", "Segments that have given up their space to backing files.";

        device_reads: Counter, "operations", "Reads of devices.";
        device_read_bytes: Counter, "bytes", "Bytes read from devices.";
        device_writes: Counter, "operations", "Writes to devices.";
        device_write_bytes: Counter, "bytes", "Bytes written to devices, headers and padding included: over appended bytes this is the write amplification.";
        device_syncs: Counter, "operations", "Syncs of devices.";
        device_errors: Counter, "errors", "Operations that a device failed or did not answer in time.";
        device_read_latency: Latency, "us", "Device reads.";
        device_write_latency: Latency, "us", "Device writes.";
        device_sync_latency: Latency, "us", "Device syncs.";
        reads_in_flight: Gauge, "operations", "Device reads in flight.";
        writes_in_flight: Gauge, "operations", "Device writes in flight.";
        reads_queued: Gauge, "reads", "Reads that wait for a reader thread.";
        appends_queued: Gauge, "extents", "Appends that wait for a writer thread.";

        segments_free: Gauge, "segments", "Segments that nothing is in.";
        segments_sealed: Gauge, "segments", "Segments that are full, of extents that are wanted at least in part.";
        volumes_out: Gauge, "volumes", "Volumes out of use because their error budget is spent.";
        lost_places: Gauge, "places", "Places that could not be opened; they are tried again.";
        volume_outages: Counter, "events", "Times that a volume went out of use.";
        segments_reclaimed: Counter, "segments", "Dead segments that were used again.";
        checkpoints: Counter, "checkpoints", "Checkpoints of the index written.";
        checkpoint_failures: Counter, "checkpoints", "Checkpoints that could not be written or did not fit their allowance.";
        recovery_latency: Latency, "us", "Opening of the store: superblocks, checkpoint and headers.";
        recovered_extents: Counter, "extents", "Extents found when the store was opened.";
    }
}

/// Occupancy, which is measured when it is asked for: used, live, extents, index, segments.
pub const USAGE: [Description; 5] = [
    Description {
        name: "store_used_bytes",
        unit: "bytes",
        meaning: "What volumes and checkpoints take on disk, in blocks.",
    },
    Description {
        name: "store_live_bytes",
        unit: "bytes",
        meaning: "Bytes on disk of extents that can be read.",
    },
    Description { name: "store_extents", unit: "extents", meaning: "Extents that can be read." },
    Description { name: "store_index_bytes", unit: "bytes", meaning: "Memory of the index." },
    Description { name: "store_segments", unit: "segments", meaning: "Segments of all volumes." },
];
