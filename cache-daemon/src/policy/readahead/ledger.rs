//! The ledger: what became of the objects that were fetched ahead.

use super::{Outcome, Prefetch};
use crate::access::{FileNo, FileTable, Job, Marks};

/// What was fetched ahead, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Commands that fetched something.
    pub fetched: u64,
    /// Bytes of them.
    pub fetched_bytes: u64,
    /// Commands for what was there already.
    pub needless: u64,
    /// Commands that failed.
    pub failed: u64,
    /// Objects fetched ahead that were then read.
    pub used: u64,
    /// Bytes of them.
    pub used_bytes: u64,
    /// Objects fetched ahead of an epoch that ended without reading them.
    pub wasted: u64,
    /// Bytes of them.
    pub wasted_bytes: u64,
    /// Objects fetched ahead that are still to be read.
    pub unread: u64,
}

/// Counts, and which objects are still to be read.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: Counts,
    unread: Marks,
}

impl Ledger {
    /// `command` is done. `was_read`: a job has read the file in this epoch.
    pub fn done(&mut self, command: &Prefetch, outcome: Outcome, was_read: bool) {
        let counts = &mut self.counts;
        match outcome {
            Outcome::Needless => counts.needless += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Fetched => {
                counts.fetched += 1;
                counts.fetched_bytes += command.bytes;
                if was_read {
                    counts.used += 1;
                    counts.used_bytes += command.bytes;
                } else {
                    self.unread.insert(command.file);
                }
            }
        }
    }

    /// `file` was touched.
    pub fn touched(&mut self, table: &FileTable, file: FileNo) {
        if self.unread.remove(file) {
            self.counts.used += 1;
            self.counts.used_bytes += table.rank(file).map_or(0, |rank| table.size_bytes(rank));
        }
    }

    /// `job` has begun another epoch.
    pub fn ended(&mut self, table: &FileTable, job: &Job) {
        let its = |file: &FileNo| {
            let rank = table.rank(*file);
            rank.is_some_and(|rank| job.span().contains(rank)) && !job.has_read(*file)
        };
        let wasted: Vec<FileNo> = self.unread.iter().filter(its).collect();
        for file in wasted {
            self.unread.remove(file);
            self.counts.wasted += 1;
            self.counts.wasted_bytes += table.rank(file).map_or(0, |rank| table.size_bytes(rank));
        }
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        Counts { unread: u64::from(self.unread.len()), ..self.counts }
    }
}
