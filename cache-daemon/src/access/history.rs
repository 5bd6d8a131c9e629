//! History: all jobs that read.
//!
//! Readers that descend from one process are one job, in each part of the data set. Where processes are not known
//! (no probes), all readers of a part are.

use std::sync::Arc;

use super::job::EVIDENCE_FILES;
use super::{EpochSummary, FileTable, Job, Rank, Touch};

/// A job that has not read for so long has stopped, or pauses.
pub const IDLE_AFTER_NS: u64 = 30_000_000_000;

/// Jobs that are remembered; of those that have read little, the one that read last longest ago gives way.
const JOBS_MAX: usize = 16;

/// What is read, by job.
#[derive(Debug, Default)]
pub struct History {
    table: Arc<FileTable>,
    jobs: Vec<Job>,
    /// Where the job of the last touch lies: most often it is the next one's too.
    last: usize,
    ended: Vec<EpochSummary>,
    unknown: u64,
}

impl History {
    /// A history of readings of `table`.
    pub fn new(table: Arc<FileTable>) -> Self {
        Self { table, ..Self::default() }
    }

    /// The files.
    pub fn table(&self) -> &Arc<FileTable> {
        &self.table
    }

    /// The data set has changed: files keep their numbers and lie elsewhere.
    pub fn refile(&mut self, table: Arc<FileTable>) {
        self.jobs.iter_mut().for_each(|job| job.refiled(&table));
        (self.table, self.unknown) = (table, 0);
    }

    /// Takes a touch. One of a file that is not in the table is only counted.
    pub fn touch(&mut self, touch: &Touch) {
        let Some(rank) = self.table.rank(touch.file) else {
            self.unknown += 1;
            return;
        };
        let job = self.job_at(rank, touch);
        let table = self.table.clone();
        self.ended.extend(self.jobs[job].touch(&table, rank, touch));
    }

    fn job_at(&mut self, rank: Rank, touch: &Touch) -> usize {
        let part = self.table.part_of(rank);
        let is_it = |job: &Job| job.group() == touch.group && job.part() == part;
        if !self.jobs.get(self.last).is_some_and(is_it) {
            self.last = self.jobs.iter().position(is_it).unwrap_or_else(|| self.begin(part, touch));
        }
        self.last
    }

    fn begin(&mut self, part: u32, touch: &Touch) -> usize {
        if self.jobs.len() == JOBS_MAX {
            // A loop of `cat` is a job a file: it must not push out one that pauses between two epochs.
            let worth = |job: &Job| (job.epoch() > 1 || job.files_read() >= EVIDENCE_FILES, job.last_ns());
            let oldest = self.jobs.iter().enumerate().min_by_key(|(_, job)| worth(job));
            self.jobs.swap_remove(oldest.map_or(0, |(place, _)| place));
        }
        self.jobs.push(Job::new(touch.group, part, touch.at_ns));
        self.jobs.len() - 1
    }

    /// The jobs, in no order.
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The job of `group` in `part`, if it is remembered.
    pub fn job(&self, group: u32, part: u32) -> Option<&Job> {
        self.jobs.iter().find(|job| (job.group(), job.part()) == (group, part))
    }

    /// The job that read last, of those that have read the most of late: what to show a user.
    pub fn main_job(&self, now_ns: u64) -> Option<&Job> {
        self.jobs.iter().max_by_key(|job| {
            let is_active = now_ns.saturating_sub(job.last_ns()) < IDLE_AFTER_NS;
            (is_active, if is_active { u64::from(job.files_read()) } else { job.last_ns() })
        })
    }

    /// Epochs that have ended since it was last asked.
    pub fn take_ended(&mut self) -> Vec<EpochSummary> {
        std::mem::take(&mut self.ended)
    }

    /// Touches of files that the table does not have.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.jobs.iter().map(Job::memory_bytes).sum::<usize>()
    }
}
