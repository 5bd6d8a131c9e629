//! Epochs as they end: what each of them cost and why, for the log and for `cachectl stats --epoch`.
//!
//! Counts are of the whole mount between two ends, which are noticed some readings late: jobs that read side by side are
//! in each other's figures. Only workers are told apart by their job, where processes are seen.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fuse_frontend::source::Ino;

use super::advice::{Facts, advise};
use crate::access::EpochSummary;
use crate::cache::{Cache, Slow};
use crate::control::Readers;
use crate::policy::readahead::{Counts, Purpose};
use crate::probe::ReaderRow;
use crate::stats::origin::OriginFigures;
use crate::stats::planner::{EpochState, SlowFile, WorkerState};

/// Epochs that are remembered.
const EPOCHS_MAX: usize = 16;

/// Epochs of fewer files are not worth a line.
const FILES_MIN: u32 = 200;

/// Workers that are shown, those that waited longest; all are counted.
const WORKERS_MAX: usize = 64;

/// A process that does less than this part of what the busiest does is no worker: it looks at a file or two.
const WORKER_SHARE: u64 = 4;

/// The last epochs, and the counts when the last one ended.
pub(super) struct Epochs {
    cache: Arc<Cache>,
    origin: Arc<OriginFigures>,
    /// Requests in flight ahead of readers, at most.
    depth_max: u32,
    readers: Box<dyn Fn() -> Readers + Send>,
    at_end: Totals,
    rows_at_end: HashMap<u32, ReaderRow>,
    /// An order was followed since then.
    was_ordered: bool,
    ended: VecDeque<EpochState>,
}

/// Counts since the daemon began.
#[derive(Clone, Copy, Default)]
struct Totals {
    origin_bytes: u64,
    origin_read_bytes: u64,
    store_bytes: u64,
    waited_us: u64,
    stored_bytes: u64,
    gets: u64,
    throttled: u64,
    fill_us: u64,
    turn_wait_us: u64,
    /// Times that the store had no room.
    refused: u64,
    ahead: Counts,
}

/// What the planner knows of the moment at which an epoch's end is noticed.
pub(super) struct Noticed<'a> {
    /// The directory of its set.
    pub set: String,
    /// What was fetched ahead so far.
    pub ahead: Counts,
    /// Requests in flight that fill the link.
    pub depth: u32,
    /// The job of a process.
    pub job: &'a mut dyn FnMut(u32) -> u32,
}

impl Epochs {
    /// None yet. `readers` are asked when one ends; `depth_max` requests are in flight ahead of them at most.
    pub fn new(
        cache: Arc<Cache>,
        origin: Arc<OriginFigures>,
        depth_max: u32,
        readers: impl Fn() -> Readers + Send + 'static,
    ) -> Self {
        let mut epochs = Self {
            cache,
            origin,
            depth_max,
            readers: Box::new(readers),
            at_end: Totals::default(),
            rows_at_end: HashMap::new(),
            was_ordered: false,
            ended: VecDeque::new(),
        };
        epochs.at_end = epochs.totals(Counts::default());
        epochs
    }

    fn totals(&self, ahead: Counts) -> Totals {
        let figures = self.cache.figures();
        Totals {
            origin_bytes: figures.fill_bytes.get(),
            origin_read_bytes: figures.origin_read_bytes.get(),
            store_bytes: figures.store_hit_bytes.get(),
            waited_us: figures.origin_wait_us.get(),
            stored_bytes: self.cache.store().usage().live_bytes,
            gets: self.origin.gets.get(),
            throttled: self.origin.throttled.get(),
            fill_us: self.cache.fill_us(),
            turn_wait_us: figures.turn_wait_us.get(),
            refused: figures.not_admitted.get() + figures.evicted.get(),
            ahead,
        }
    }

    /// Readers follow an order now, or none.
    pub fn follows(&mut self, order: Option<Purpose>) {
        self.was_ordered |= order.is_some();
    }

    /// One has ended; whether it was worth remembering.
    pub fn ended(&mut self, summary: &EpochSummary, noticed: Noticed<'_>) -> bool {
        if summary.files < FILES_MIN {
            return false;
        }
        let (now, before) = (self.totals(noticed.ahead), self.at_end);
        self.at_end = now;
        let seconds = summary.ns as f64 / 1e9;
        let waited_s = (now.waited_us - before.waited_us) as f64 / 1e6;
        let read = self.read_since(summary.group, noticed.job);
        let waited_share = share(waited_s, seconds * read.workers.max(1) as f64).unwrap_or(0.0);
        let origin_bytes = now.origin_bytes - before.origin_bytes;
        // What was stored when it began had not to come from the origin.
        let bound_bytes = summary.bytes.saturating_sub(before.stored_bytes);
        let ahead_files = now.ahead.fetched - before.ahead.fetched;
        let used_files = now.ahead.used - before.ahead.used;
        let facts = Facts {
            waited_share,
            depth: noticed.depth,
            depth_max: self.depth_max,
            is_ordered: std::mem::take(&mut self.was_ordered),
            ..facts(&now, &before, summary, seconds)
        };
        let (help, why) = advise(&facts);
        let epoch = EpochState {
            epoch: u64::from(summary.epoch),
            set: noticed.set,
            files: u64::from(summary.files),
            of_files: u64::from(summary.of_files),
            bytes: summary.bytes,
            seconds,
            is_exactly_once: summary.is_exactly_once,
            origin_bytes,
            bound_bytes,
            over_bound: share(origin_bytes as f64, bound_bytes as f64),
            page_cache_bytes: read.page_cache_bytes,
            store_bytes: now.store_bytes - before.store_bytes,
            origin_read_bytes: now.origin_read_bytes - before.origin_read_bytes,
            waited_s,
            waited_share,
            workers: read.workers,
            per_worker: read.per_worker,
            ahead_files,
            used_files,
            wasted_files: now.ahead.wasted - before.ahead.wasted,
            // What the epoch before had fetched may be used in this one.
            ahead_accuracy: share(used_files as f64, ahead_files.max(used_files) as f64),
            slowest: self.cache.slowest().take().iter().map(|slow| self.slow_file(slow)).collect(),
            advice: format!("{help}: {why}"),
        };
        log(&epoch);
        self.ended.push_back(epoch);
        if self.ended.len() > EPOCHS_MAX {
            self.ended.pop_front();
        }
        true
    }

    fn slow_file(&self, slow: &Slow) -> SlowFile {
        let Slow { ino, waited, why } = *slow;
        let path = self.cache.catalog().path(ino).map_or_else(|| unnamed(ino), |path| text(&path));
        SlowFile { path, waited_s: waited.as_secs_f64(), why: why.to_string() }
    }

    /// What processes have read since the last epoch ended; as workers those of `group`, or all where groups are not known.
    fn read_since(&mut self, group: u32, job: &mut dyn FnMut(u32) -> u32) -> Read {
        let Readers { tier, readers, .. } = (self.readers)();
        let spans: Vec<ReaderRow> =
            readers.iter().map(|row| since(row, self.rows_at_end.get(&row.tgid))).collect();
        self.rows_at_end = readers.into_iter().map(|row| (row.tgid, row)).collect();
        let sum = |of: fn(&ReaderRow) -> u64| spans.iter().map(of).sum::<u64>();
        let cached = sum(|row| row.bytes).saturating_sub(sum(|row| row.asked_bytes));
        let its = spans.into_iter().filter(|row| group == 0 || job(row.tgid) == group);
        Read { page_cache_bytes: (tier != "C").then_some(cached), ..workers(its.collect()) }
    }

    /// The last ones, the oldest first.
    pub fn last(&self) -> Vec<EpochState> {
        self.ended.iter().cloned().collect()
    }
}

/// What the readers did in an epoch.
#[derive(Debug, Default)]
struct Read {
    page_cache_bytes: Option<u64>,
    workers: u64,
    per_worker: Vec<WorkerState>,
}

/// Those of `rows` that are workers.
fn workers(rows: Vec<ReaderRow>) -> Read {
    // Files where the probes see them, else requests.
    let work = |row: &ReaderRow| if row.files > 0 { row.files } else { row.requests };
    let most = rows.iter().map(work).max().unwrap_or(0);
    let is_worker = |row: &ReaderRow| work(row) > 0 && work(row) >= most / WORKER_SHARE;
    let mut rows: Vec<ReaderRow> = rows.into_iter().filter(is_worker).collect();
    rows.sort_unstable_by_key(|row| (std::cmp::Reverse(row.waited_us), row.tgid));
    let state = |row: &ReaderRow| WorkerState {
        pid: row.tgid,
        command: row.command.clone(),
        files: row.files,
        bytes: row.bytes,
        waited_s: row.waited_us as f64 / 1e6,
    };
    let per_worker = rows.iter().take(WORKERS_MAX).map(state).collect();
    Read { page_cache_bytes: None, workers: rows.len() as u64, per_worker }
}

/// What a process did since it was like `before`.
fn since(now: &ReaderRow, before: Option<&ReaderRow>) -> ReaderRow {
    let since = |of: fn(&ReaderRow) -> u64| of(now).saturating_sub(before.map_or(0, of));
    ReaderRow {
        files: since(|row| row.files),
        bytes: since(|row| row.bytes),
        asked_bytes: since(|row| row.asked_bytes),
        requests: since(|row| row.requests),
        waited_us: since(|row| row.waited_us),
        ..now.clone()
    }
}

/// What counts say of an epoch; the rest is not known here.
fn facts(now: &Totals, before: &Totals, summary: &EpochSummary, seconds: f64) -> Facts {
    let since = |of: fn(&Totals) -> u64| (of(now) - of(before)) as f64;
    let (fill_us, turn_us) = (since(|totals| totals.fill_us), since(|totals| totals.turn_wait_us));
    // Nothing of a first epoch was fetched before, unless the store had a part of the set when it began.
    let is_first = summary.epoch == 1 && before.stored_bytes == 0;
    let fetched = share(since(|totals| totals.origin_bytes), summary.bytes as f64).unwrap_or(0.0);
    Facts {
        throttled_share: share(since(|totals| totals.throttled), since(|totals| totals.gets)).unwrap_or(0.0),
        turn_share: share(turn_us, fill_us).unwrap_or(0.0),
        in_flight: share((fill_us - turn_us).max(0.0) / 1e6, seconds).unwrap_or(0.0),
        is_full: now.refused > before.refused,
        refetched_share: if is_first { 0.0 } else { fetched.min(1.0) },
        ..Facts::default()
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn unnamed(ino: Ino) -> String {
    format!("inode {}", ino.0)
}

fn log(epoch: &EpochState) {
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let percent = |share: f64| tenth(share * 100.0);
    let slowest = epoch.slowest.first().map(ToString::to_string);
    tracing::info!(
        epoch = epoch.epoch,
        set = %epoch.set,
        files = epoch.files,
        of_files = epoch.of_files,
        bytes = epoch.bytes,
        seconds = tenth(epoch.seconds),
        exactly_once = epoch.is_exactly_once,
        page_cache_bytes = epoch.page_cache_bytes,
        store_bytes = epoch.store_bytes,
        origin_bytes = epoch.origin_bytes,
        bound_bytes = epoch.bound_bytes,
        waited_s = tenth(epoch.waited_s),
        waited_percent = percent(epoch.waited_share),
        workers = epoch.workers,
        ahead = epoch.ahead_files,
        used_percent = epoch.ahead_accuracy.map(percent),
        wasted = epoch.wasted_files,
        slowest,
        helps = %epoch.advice,
        "an epoch has ended"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tgid: u32, files: u64, waited_us: u64) -> ReaderRow {
        ReaderRow { tgid, files, waited_us, command: "pt_data".into(), ..ReaderRow::default() }
    }

    #[test]
    fn workers_are_the_processes_that_read_much_and_the_longest_waiting_come_first() {
        let rows = vec![row(1, 3, 900), row(2, 100, 10), row(3, 90, 20), row(4, 0, 0)];
        let read = workers(rows);
        assert_eq!(read.workers, 2);
        assert_eq!(read.per_worker.iter().map(|worker| worker.pid).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(workers(vec![row(9, 0, 0)]).workers, 0, "nobody read");
        let many = workers((0..200).map(|tgid| row(tgid, 10, 0)).collect());
        assert_eq!((many.workers, many.per_worker.len()), (200, WORKERS_MAX));
    }

    #[test]
    fn a_process_counts_from_the_end_of_the_epoch_before() {
        let (before, now) = (row(7, 100, 5), row(7, 130, 8));
        assert_eq!(since(&now, Some(&before)), row(7, 30, 3));
        assert_eq!(since(&now, None), now);
        // Its number was given to another process.
        assert_eq!(since(&before, Some(&now)), row(7, 0, 0));
    }

    #[test]
    fn requests_in_flight_follow_from_their_time_and_the_epochs() {
        let summary = EpochSummary {
            group: 0,
            part: 0,
            epoch: 2,
            files: 1_000,
            of_files: 1_000,
            bytes: 1_000,
            ns: 1,
            is_exactly_once: true,
        };
        let now = Totals {
            origin_bytes: 500,
            gets: 100,
            throttled: 10,
            fill_us: 40_000_000,
            turn_wait_us: 10_000_000,
            refused: 1,
            ..Totals::default()
        };
        let facts = facts(&now, &Totals::default(), &summary, 10.0);
        assert_eq!((facts.in_flight, facts.turn_share, facts.throttled_share), (3.0, 0.25, 0.1));
        assert_eq!((facts.is_full, facts.refetched_share), (true, 0.5));
        let first = super::facts(&now, &Totals::default(), &EpochSummary { epoch: 1, ..summary }, 10.0);
        assert_eq!(first.refetched_share, 0.0, "it had to be fetched once");
    }
}
