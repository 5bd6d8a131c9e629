//! The planner's figures, and what it says about itself.

use serde::{Deserialize, Serialize};

use crate::figures;

figures! {
    /// What was recognised, and what became of what was fetched ahead.
    pub struct PlannerFigures("planner") {
        touches: Counter, "accesses", "Beginnings and ends of readings that the planner was told of.";
        touches_lost: Gauge, "accesses", "Readings that the planner was not told of because it was too slow.";
        jobs: Gauge, "jobs", "Jobs that read in the last half minute: groups of readers of a part of the data set.";
        epochs: Counter, "epochs", "Epochs of 200 files and more that have ended.";
        coverage_percent: Gauge, "percent", "Files of its set that the main job has read in this epoch.";
        confidence_percent: Gauge, "percent", "How sure the planner is of what the main job does.";
        depth: Gauge, "requests", "Requests in flight that fill the link, as measured: fetches ahead and readers' own together.";
        prefetch_in_flight: Gauge, "requests", "Fetches ahead in flight now.";
        prefetch_waiting: Gauge, "objects", "Objects that are to be fetched ahead and wait for their turn.";
        prefetched: Counter, "objects", "Objects fetched ahead of their reader.";
        prefetched_bytes: Counter, "bytes", "Bytes of them.";
        prefetch_needless: Counter, "objects", "Objects that were to be fetched ahead and turned out to be there.";
        prefetch_failed: Counter, "objects", "Objects that could not be fetched ahead.";
        prefetch_used: Counter, "objects", "Objects fetched ahead and then read.";
        prefetch_used_bytes: Counter, "bytes", "Bytes of them.";
        prefetch_wasted: Counter, "objects", "Objects fetched ahead for an epoch that ended without reading them.";
        prefetch_wasted_bytes: Counter, "bytes", "Bytes of them.";
        prefetch_unread: Gauge, "objects", "Objects fetched ahead that are still to be read.";
        pushed: Counter, "files", "Files put into the page cache ahead of their readers, of an order that they follow.";
        push_used: Counter, "files", "Of these, files that were then read.";
        push_failed: Counter, "files", "Files that could not be put there, or not whole.";
        push_late: Counter, "files", "Files that were to be put there, and that their readers asked for first.";
        push_dropped: Counter, "files", "Files that were read and taken out to make room.";
        push_reclaimed: Counter, "files", "Files that the kernel had taken out again when they were to be read next; they were pushed once more.";
        orders_told: Counter, "orders", "Orders that training scripts or cachectl told.";
        orders_kept: Gauge, "orders", "Orders of earlier epochs that are remembered.";
        orders_recalled: Counter, "orders", "Times that readers were found to read in the order of an earlier epoch.";
        orders_wrong: Gauge, "orders", "Orders dropped because readers did not follow them.";
        allowance_bytes: Gauge, "bytes", "Bytes that --prefetch-hourly still allows; 0 without a limit.";
        history_bytes: Gauge, "bytes", "Memory of the history of readings.";
    }
}

/// What the planner sees and does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannerState {
    /// `--prefetch`.
    pub mode: String,
    /// What it does, and if nothing, why.
    pub activity: String,
    /// Where readings are seen: `probes`, or `requests` that reach the daemon.
    pub source: String,
    /// What the main job does: `shuffled epochs`, `in listing order`, and so on.
    pub workload: String,
    /// The directory of its set, from the mountpoint; empty for the whole mount.
    pub set: String,
    /// Files of its set.
    pub set_files: u64,
    /// The epoch that it is in, from 1; 0 if nobody has read yet.
    pub epoch: u64,
    /// The order that readers follow: `told`, `recalled` from an earlier epoch, or empty.
    pub order: String,
    /// The last epochs that have ended, the oldest first.
    pub epochs: Vec<EpochState>,
}

/// An epoch that has ended, and what the mount did meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochState {
    /// Its number in its job, from 1.
    pub epoch: u64,
    /// The directory of its set, from the mountpoint.
    pub set: String,
    /// Files read.
    pub files: u64,
    /// Files of the set.
    pub of_files: u64,
    /// Bytes of the files read.
    pub bytes: u64,
    /// From its first reading to its last.
    pub seconds: f64,
    /// No file came twice.
    pub is_exactly_once: bool,
    /// Bytes fetched from the origin.
    pub origin_bytes: u64,
    /// Bytes that had to come from there: those of the files read, less what was stored when the epoch began.
    pub bound_bytes: u64,
    /// `origin_bytes` over `bound_bytes`; none where nothing had to come.
    pub over_bound: Option<f64>,
    /// Bytes that readers read without asking the daemon, from the page cache or from files that the kernel reads by itself;
    /// none where the probes do not see them (tier C).
    pub page_cache_bytes: Option<u64>,
    /// Bytes answered from the store, pushes included.
    pub store_bytes: u64,
    /// Bytes answered to readers who waited for the origin.
    pub origin_read_bytes: u64,
    /// Time that readers waited for the origin, together.
    pub waited_s: f64,
    /// Of the time of all workers, `seconds` each; of `seconds` where workers are not known.
    pub waited_share: f64,
    /// Processes that read; 0 where they are not known.
    pub workers: u64,
    /// Those of them that waited longest, 64 at most.
    pub per_worker: Vec<WorkerState>,
    /// Objects fetched ahead.
    pub ahead_files: u64,
    /// Objects fetched ahead and read.
    pub used_files: u64,
    /// Objects fetched ahead and not read.
    pub wasted_files: u64,
    /// Of what was fetched ahead, how much was read; none if nothing was.
    pub ahead_accuracy: Option<f64>,
    /// The ten files that readers waited for longest.
    pub slowest: Vec<SlowFile>,
    /// What would have helped most, and why: the rule is in docs/epoch-model.md.
    pub advice: String,
}

/// A process that read in an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerState {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Files that it began to read, as far as the probes see.
    pub files: u64,
    /// Bytes that it read, likewise.
    pub bytes: u64,
    /// Time of its requests to the daemon, whatever answered them. Of those that overlap each counts.
    pub waited_s: f64,
}

/// A file that a reader waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowFile {
    /// From the mountpoint.
    pub path: String,
    /// The longest that a reader waited for a part of it.
    pub waited_s: f64,
    /// What it waited for most.
    pub why: String,
}

impl std::fmt::Display for SlowFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:.3} s ({})", self.path, self.waited_s, self.why)
    }
}
