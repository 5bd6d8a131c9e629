//! What was pushed and dropped, and what was refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Dropped, Pushed};
use crate::figures::{Row, RowValue};

/// Counts of one mount.
#[derive(Debug, Default)]
pub(super) struct PushFigures {
    pushes: AtomicU64,
    pushed_bytes: AtomicU64,
    unknown: AtomicU64,
    over_budget: AtomicU64,
    busy: AtomicU64,
    outdated: AtomicU64,
    failed: AtomicU64,
    drops: AtomicU64,
    dropped_bytes: AtomicU64,
    kept_bytes: AtomicU64,
    drops_by_notification: AtomicU64,
    drops_refused: AtomicU64,
}

impl PushFigures {
    pub fn pushed(&self, pushed: Pushed) {
        match pushed {
            Pushed::Stored { bytes } => {
                add(&self.pushes, 1);
                add(&self.pushed_bytes, bytes);
            }
            Pushed::Unknown => add(&self.unknown, 1),
            Pushed::OverBudget => add(&self.over_budget, 1),
            Pushed::Busy => add(&self.busy, 1),
            Pushed::Outdated => add(&self.outdated, 1),
            Pushed::Failed => add(&self.failed, 1),
            Pushed::Nothing | Pushed::Ended => {}
        }
    }

    pub fn dropped(&self, dropped: Dropped) {
        match dropped {
            Dropped::Gone { bytes } => {
                add(&self.drops, 1);
                add(&self.dropped_bytes, bytes);
            }
            Dropped::Kept { bytes, kept_bytes } => {
                add(&self.drops, 1);
                add(&self.dropped_bytes, bytes);
                add(&self.kept_bytes, kept_bytes);
            }
            Dropped::Replaced | Dropped::Busy | Dropped::Failed => add(&self.drops_refused, 1),
            Dropped::Ended => {}
        }
    }

    pub fn notified(&self) {
        add(&self.drops_by_notification, 1);
    }

    pub fn rows(&self, budget_bytes: u64, held_bytes: u64) -> Vec<Row> {
        let row = |name, unit, meaning, value| Row { name, unit, meaning, value: RowValue::Count(value) };
        let count = |name, unit, meaning, value: &AtomicU64| row(name, unit, meaning, value.load(Relaxed));
        vec![
            row("fuse_push_budget_bytes", "bytes", "the most that pushed pages may take", budget_bytes),
            row(
                "fuse_push_held_bytes",
                "bytes",
                "pushed pages that were neither dropped nor forgotten",
                held_bytes,
            ),
            count(
                "fuse_push_stored",
                "ranges",
                "ranges put into the page cache ahead of a reader",
                &self.pushes,
            ),
            count("fuse_push_stored_bytes", "bytes", "bytes of these", &self.pushed_bytes),
            count(
                "fuse_push_unknown",
                "ranges",
                "ranges of files that the kernel did not know",
                &self.unknown,
            ),
            count(
                "fuse_push_over_budget",
                "ranges",
                "ranges refused because the budget was full",
                &self.over_budget,
            ),
            count("fuse_push_busy", "ranges", "ranges refused because too many waited", &self.busy),
            count(
                "fuse_push_outdated",
                "ranges",
                "ranges of versions that were replaced meanwhile",
                &self.outdated,
            ),
            count("fuse_push_failed", "ranges", "ranges that the kernel refused", &self.failed),
            count("fuse_drop_done", "ranges", "ranges dropped from the page cache", &self.drops),
            count("fuse_drop_bytes", "bytes", "bytes of these that left", &self.dropped_bytes),
            count(
                "fuse_drop_kept_bytes",
                "bytes",
                "bytes that stayed because they are mapped or in use",
                &self.kept_bytes,
            ),
            count(
                "fuse_drop_by_notification",
                "ranges",
                "ranges dropped without a descriptor, and the attributes with them",
                &self.drops_by_notification,
            ),
            count(
                "fuse_drop_refused",
                "ranges",
                "ranges not dropped: replaced meanwhile, too many waited, or the kernel refused",
                &self.drops_refused,
            ),
        ]
    }
}

fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_among_all_rows_of_a_mount() {
        let mut names: Vec<_> = PushFigures::default().rows(0, 0).iter().map(|row| row.name).collect();
        names.extend(crate::figures::RequestCounts::default().snapshot().iter().map(|row| row.name));
        names.extend(crate::transport::passthrough::figures_at_start().iter().map(|row| row.name));
        let rows = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows);
    }
}
