//! What the kernel asked of this mount: requests by kind, errors by errno, how long reads took.
//!
//! The promise of the no-open mode is that requests are *absent* (docs/architecture.md), so these counts
//! are what its tests assert. They are atomics of this crate because the daemon, which shows them, cannot be
//! a dependency: it takes [`RequestCounts::snapshot`] and prints the rows. Names are stable.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::AtomicHistogram;

use crate::askers::Askers;
use crate::errno::Errno;

/// A kind of request; `Refused` is every request that would change the data set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the meanings are in KINDS
pub enum Kind {
    Lookup,
    Forget,
    Getattr,
    Readlink,
    Open,
    Read,
    Flush,
    Release,
    Opendir,
    Readdir,
    Readdirplus,
    Releasedir,
    Statfs,
    Getxattr,
    Listxattr,
    Refused,
}

/// Name and meaning of each kind, in the order of the enum.
const KINDS: [(Kind, &str, &str); 16] = [
    (Kind::Lookup, "fuse_lookup", "names looked up because the kernel did not know them"),
    (Kind::Forget, "fuse_forget", "nodes that the kernel dropped"),
    (Kind::Getattr, "fuse_getattr", "attributes asked for because the kernel's had expired"),
    (Kind::Readlink, "fuse_readlink", "reads of the control directory's symlink"),
    (Kind::Open, "fuse_open", "files opened; one a mount in no-open mode"),
    (Kind::Read, "fuse_read", "reads of file ranges that were not in the page cache"),
    (Kind::Flush, "fuse_flush", "closes announced; one a mount, then the kernel stops asking"),
    (Kind::Release, "fuse_release", "last closes of opened files; none in no-open mode"),
    (Kind::Opendir, "fuse_opendir", "directories opened; one a mount in no-open mode"),
    (Kind::Readdir, "fuse_readdir", "pieces of directories listed without attributes"),
    (Kind::Readdirplus, "fuse_readdirplus", "pieces of directories listed with attributes"),
    (Kind::Releasedir, "fuse_releasedir", "last closes of directories; none in no-open mode"),
    (Kind::Statfs, "fuse_statfs", "questions for the data set's size"),
    (Kind::Getxattr, "fuse_getxattr", "extended attributes asked for"),
    (Kind::Listxattr, "fuse_listxattr", "lists of extended attributes asked for"),
    (Kind::Refused, "fuse_refused", "attempts to change the read-only data set"),
];

/// The errors that have a row of their own; any other goes to the last row.
const ERRORS: [(i32, &str); 10] = [
    (libc::ENOENT, "fuse_error_enoent"),
    (libc::ENOTDIR, "fuse_error_enotdir"),
    (libc::EISDIR, "fuse_error_eisdir"),
    (libc::EIO, "fuse_error_eio"),
    (libc::ESTALE, "fuse_error_estale"),
    (libc::ENODATA, "fuse_error_enodata"),
    (libc::EROFS, "fuse_error_erofs"),
    (libc::ERANGE, "fuse_error_erange"),
    (libc::ENOSYS, "fuse_error_enosys"),
    (0, "fuse_error_other"),
];

/// Longest latency that the histogram tells apart: 2^36 us, 19 hours.
const LATENCY_POWER_MAX: u8 = 36;

/// One figure, ready to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Stable name.
    pub name: &'static str,
    /// `requests`, `errors`, `bytes`, `us`, ...
    pub unit: &'static str,
    /// One line for a reader who does not know the code.
    pub meaning: &'static str,
    /// The figure.
    pub value: RowValue,
}

/// The value of a [`Row`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowValue {
    /// A count or a level.
    Count(u64),
    /// A summary of latencies.
    Latency(LatencySummary),
}

/// Latencies in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LatencySummary {
    /// Operations counted.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest, exact.
    pub max_us: u64,
}

/// Counts of one mount; every method may be called from any thread.
#[derive(Debug)]
pub struct RequestCounts {
    kinds: [AtomicU64; KINDS.len()],
    errors: [AtomicU64; ERRORS.len()],
    read_bytes: AtomicU64,
    reads_answered: AtomicU64,
    wrong_lengths: AtomicU64,
    panics: AtomicU64,
    read_latency: AtomicHistogram,
    read_us_max: AtomicU64,
    askers: Askers,
}

impl Default for RequestCounts {
    fn default() -> Self {
        Self {
            kinds: Default::default(),
            errors: Default::default(),
            read_bytes: AtomicU64::new(0),
            reads_answered: AtomicU64::new(0),
            wrong_lengths: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            // 2^4 buckets in each power of two: values at most 1/16 off, 4.5 KiB.
            read_latency: AtomicHistogram::new(4, LATENCY_POWER_MAX)
                .expect("4 < 36 <= 64 is what it asks for"),
            read_us_max: AtomicU64::new(0),
            askers: Askers::default(),
        }
    }
}

impl RequestCounts {
    /// Requests of `kind` so far.
    pub fn get(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize].load(Relaxed)
    }

    /// Errors with `errno` so far, of those that have a row of their own.
    pub fn errors(&self, errno: Errno) -> u64 {
        self.errors[error_index(errno.0)].load(Relaxed)
    }

    /// Who asked for reads.
    pub fn askers(&self) -> &Askers {
        &self.askers
    }

    /// Reads that the source answered with another length than asked: `EIO` was sent instead.
    pub fn wrong_lengths(&self) -> u64 {
        self.wrong_lengths.load(Relaxed)
    }

    /// Requests in which the source panicked: `EIO` was sent.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    pub(crate) fn asked(&self, kind: Kind) {
        self.asked_n(kind, 1);
    }

    pub(crate) fn asked_n(&self, kind: Kind, n: u64) {
        self.kinds[kind as usize].fetch_add(n, Relaxed);
    }

    pub(crate) fn failed(&self, errno: Errno) {
        self.errors[error_index(errno.0)].fetch_add(1, Relaxed);
    }

    pub(crate) fn wrong_length(&self) {
        self.wrong_lengths.fetch_add(1, Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    pub(crate) fn read_answered(&self, bytes: usize, elapsed: Duration) {
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
        self.reads_answered.fetch_add(1, Relaxed);
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).min((1 << LATENCY_POWER_MAX) - 1);
        self.read_us_max.fetch_max(us, Relaxed);
        // Fails only for values out of range, which the line above rules out.
        let _ = self.read_latency.increment(us);
    }

    /// Every figure, in a stable order.
    pub fn snapshot(&self) -> Vec<Row> {
        let count = |name, unit, meaning, value| Row { name, unit, meaning, value: RowValue::Count(value) };
        let mut rows: Vec<Row> = KINDS
            .iter()
            .map(|&(kind, name, meaning)| count(name, "requests", meaning, self.get(kind)))
            .collect();
        rows.extend(ERRORS.iter().zip(&self.errors).map(|(&(_, name), errors)| {
            count(name, "errors", "requests answered with this errno", errors.load(Relaxed))
        }));
        let answered = self.reads_answered.load(Relaxed);
        let in_flight = self.get(Kind::Read).saturating_sub(answered);
        rows.extend([
            count("fuse_reads_in_flight", "requests", "reads that wait for their answer", in_flight),
            count("fuse_read_bytes", "bytes", "bytes sent to the kernel", self.read_bytes.load(Relaxed)),
            count(
                "fuse_wrong_lengths",
                "errors",
                "answers of a wrong length, replaced by EIO",
                self.wrong_lengths(),
            ),
            count(
                "fuse_panics",
                "errors",
                "requests that ended in a panic, answered with EIO",
                self.panics(),
            ),
            Row {
                name: "fuse_read_latency",
                unit: "us",
                meaning: "from a read's arrival to its answer",
                value: RowValue::Latency(self.read_latency()),
            },
        ]);
        rows
    }

    fn read_latency(&self) -> LatencySummary {
        let buckets = self.read_latency.load();
        let count = buckets.iter().map(|bucket| bucket.count()).sum();
        let at = |share: f64| {
            let wanted = ((count as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let reached = buckets.iter().find(|bucket| {
                seen += bucket.count();
                seen >= wanted
            });
            reached.map_or(0, |bucket| bucket.end())
        };
        LatencySummary {
            count,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: self.read_us_max.load(Relaxed),
        }
    }
}

fn error_index(errno: i32) -> usize {
    ERRORS.iter().position(|&(known, _)| known == errno).unwrap_or(ERRORS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_kinds_is_in_the_order_of_the_enum_and_names_are_unique() {
        for (index, (kind, _, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        let rows = RequestCounts::default().snapshot();
        let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len());
    }

    #[test]
    fn a_read_is_in_flight_until_it_is_answered() {
        let counts = RequestCounts::default();
        let in_flight =
            || counts.snapshot().iter().find(|row| row.name == "fuse_reads_in_flight").map(|row| row.value);
        counts.asked(Kind::Read);
        assert_eq!(in_flight(), Some(RowValue::Count(1)));
        counts.read_answered(10, Duration::from_micros(300));
        assert_eq!(in_flight(), Some(RowValue::Count(0)));
        let latency = counts.read_latency();
        assert_eq!((latency.count, latency.max_us), (1, 300));
        assert!((300..=320).contains(&latency.p99_us), "{latency:?}");
    }

    #[test]
    fn an_unknown_errno_is_counted_as_other() {
        let counts = RequestCounts::default();
        counts.failed(Errno(libc::EXDEV));
        counts.failed(Errno::STALE);
        assert_eq!(counts.errors(Errno(libc::EXDEV)), 1);
        assert_eq!(counts.errors(Errno::STALE), 1);
        assert_eq!(counts.errors(Errno::IO), 0);
    }
}
