//! Epochs as they end: what each of them cost, for the log and for `cachectl stats --epoch`.
//!
//! Counts are of the whole mount between two ends, which are noticed some readings late: jobs that read side by side are
//! in each other's figures.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::access::EpochSummary;
use crate::cache::Cache;
use crate::policy::readahead::Counts;
use crate::stats::planner::EpochState;

/// Epochs that are remembered.
const EPOCHS_MAX: usize = 16;

/// Epochs of fewer files are not worth a line.
const FILES_MIN: u32 = 200;

/// The last epochs, and the counts when the last one ended.
pub(super) struct Epochs {
    cache: Arc<Cache>,
    at_end: Totals,
    ended: VecDeque<EpochState>,
}

/// Counts since the daemon began.
#[derive(Clone, Copy, Default)]
struct Totals {
    origin_bytes: u64,
    store_bytes: u64,
    waited_us: u64,
    stored_bytes: u64,
    ahead: Counts,
}

impl Epochs {
    /// None yet.
    pub fn new(cache: Arc<Cache>) -> Self {
        let mut epochs = Self { cache, at_end: Totals::default(), ended: VecDeque::new() };
        epochs.at_end = epochs.totals(Counts::default());
        epochs
    }

    fn totals(&self, ahead: Counts) -> Totals {
        let figures = self.cache.figures();
        Totals {
            origin_bytes: figures.fill_bytes.get(),
            store_bytes: figures.store_hit_bytes.get(),
            waited_us: figures.origin_wait_us.get(),
            stored_bytes: self.cache.store().usage().live_bytes,
            ahead,
        }
    }

    /// One has ended, in the directory `set`; whether it was worth remembering.
    pub fn ended(&mut self, summary: &EpochSummary, set: String, ahead: Counts) -> bool {
        if summary.files < FILES_MIN {
            return false;
        }
        let (now, before) = (self.totals(ahead), self.at_end);
        self.at_end = now;
        let epoch = EpochState {
            epoch: u64::from(summary.epoch),
            set,
            files: u64::from(summary.files),
            of_files: u64::from(summary.of_files),
            bytes: summary.bytes,
            seconds: summary.ns as f64 / 1e9,
            is_exactly_once: summary.is_exactly_once,
            origin_bytes: now.origin_bytes - before.origin_bytes,
            // What was stored when it began had not to come from the origin.
            bound_bytes: summary.bytes.saturating_sub(before.stored_bytes),
            store_bytes: now.store_bytes - before.store_bytes,
            waited_s: (now.waited_us - before.waited_us) as f64 / 1e6,
            ahead_files: now.ahead.fetched - before.ahead.fetched,
            used_files: now.ahead.used - before.ahead.used,
            wasted_files: now.ahead.wasted - before.ahead.wasted,
        };
        log(&epoch);
        self.ended.push_back(epoch);
        if self.ended.len() > EPOCHS_MAX {
            self.ended.pop_front();
        }
        true
    }

    /// The last ones, the oldest first.
    pub fn last(&self) -> Vec<EpochState> {
        self.ended.iter().cloned().collect()
    }
}

fn log(epoch: &EpochState) {
    tracing::info!(
        epoch = epoch.epoch,
        set = %epoch.set,
        files = epoch.files,
        of_files = epoch.of_files,
        bytes = epoch.bytes,
        seconds = (epoch.seconds * 10.0).round() / 10.0,
        exactly_once = epoch.is_exactly_once,
        origin_bytes = epoch.origin_bytes,
        bound_bytes = epoch.bound_bytes,
        waited_s = (epoch.waited_s * 10.0).round() / 10.0,
        ahead = epoch.ahead_files,
        wasted = epoch.wasted_files,
        "an epoch has ended"
    );
}
