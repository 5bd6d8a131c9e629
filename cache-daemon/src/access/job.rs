//! Jobs: what one group of readers reads of one part of the data set, and which epoch it is in.
//!
//! In an epoch every file is read once, so a file that comes *again* belongs to the next epoch. One such reading
//! means nothing (a file was opened twice); an epoch has ended when most of the last 64 readings came again, or,
//! for a job that was killed and begins anew, a quarter of them after an epoch in which hardly any did. A sampler with
//! replacement looks different: there the share grows slowly from the beginning, and the epoch is not exactly-once.
//!
//! At a boundary, workers that run ahead of each other mix the last readings of one epoch with the first of the next. What
//! the ended epoch had not read is still its own for a while (*stragglers*), if it was nearly complete.
//!
//! A file read again among the last 64 is one reading: programs open a file to look at its header and open it again.

use super::sense::Sense;
use super::span::{Met, Span};
use super::{FileNo, FileTable, Marks, Rank, Touch};

/// Distinct files, in no listing order, before a job is taken for a shuffled epoch: `head` must not fetch a bucket.
pub const EVIDENCE_FILES: u32 = 200;

/// Readings that are looked at for the end of an epoch, and among which a file counts once.
const WINDOW: u32 = 64;

/// Readings in an epoch before it can be called a sampler with replacement.
const SAMPLED_MIN: u32 = 400;

/// More than this share of readings that come again, apart from an epoch's end: not exactly-once.
const AGAIN_SHARE: f64 = 1.0 / 32.0;

/// Readings that came again and are remembered one by one, to be forgotten if no epoch ends there.
const AGAIN_MAX: usize = 1 << 16;

/// What a job seems to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Too little was read to tell.
    Unclear,
    /// Files in the order of the listing: `find`, `cp -r`, a checksum run, training without shuffling.
    InOrder,
    /// Every file of a set once an epoch, shuffled.
    Epochs,
    /// Files at random, some of them again before others come at all: with replacement, or weighted.
    Sampled,
    /// A few files again and again.
    Hot,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unclear => "unclear",
            Self::InOrder => "in listing order",
            Self::Epochs => "shuffled epochs",
            Self::Sampled => "sampled with replacement",
            Self::Hot => "few files again and again",
        })
    }
}

/// An epoch that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSummary {
    /// The job's group.
    pub group: u32,
    /// The number of the part's directory.
    pub part: u32,
    /// Counted from 1 in this job.
    pub epoch: u32,
    /// Distinct files read.
    pub files: u32,
    /// Files of the set as far as it is known.
    pub of_files: u32,
    /// Bytes of the files read.
    pub bytes: u64,
    /// From its first reading to its last.
    pub ns: u64,
    /// No file came twice.
    pub is_exactly_once: bool,
}

/// What a group of readers reads of a part.
#[derive(Clone, Debug)]
pub struct Job {
    group: u32,
    part: u32,
    epoch: u32,
    /// Read in this epoch.
    seen: Marks,
    /// Read again: the next epoch's, if one begins.
    again: Marks,
    again_list: Vec<FileNo>,
    /// Read in the epoch before.
    before: Marks,
    met: Met,
    span: Span,
    /// Distinct files at which the span is judged anew.
    span_due: u32,
    bytes: u64,
    readings: u32,
    came_again: u32,
    /// One bit a reading, the newest lowest: whether it came again.
    window: u64,
    recent: [u32; WINDOW as usize],
    recent_at: usize,
    sense: Sense,
    takes_stragglers: bool,
    is_proven: bool,
    /// The epoch before was not exactly-once.
    was_sampled: bool,
    began_ns: u64,
    new_ns: u64,
    last_ns: u64,
    pace: Pace,
}

impl Job {
    pub(super) fn new(group: u32, part: u32, now_ns: u64) -> Self {
        Self {
            group,
            part,
            epoch: 1,
            seen: Marks::default(),
            again: Marks::default(),
            again_list: Vec::new(),
            before: Marks::default(),
            met: Met::default(),
            span: Span::default(),
            span_due: 1,
            bytes: 0,
            readings: 0,
            came_again: 0,
            window: 0,
            recent: [u32::MAX; WINDOW as usize],
            recent_at: 0,
            sense: Sense::default(),
            takes_stragglers: false,
            is_proven: false,
            was_sampled: false,
            began_ns: now_ns,
            new_ns: now_ns,
            last_ns: now_ns,
            pace: Pace::default(),
        }
    }

    /// Takes a touch of the file at `rank`; the epoch that ended before it, if one did.
    pub(super) fn touch(&mut self, table: &FileTable, rank: Rank, touch: &Touch) -> Option<EpochSummary> {
        self.last_ns = self.last_ns.max(touch.at_ns);
        let file = touch.file;
        if !touch.begins || self.recent.contains(&file.0) {
            return None;
        }
        self.recent[self.recent_at] = file.0;
        self.recent_at = (self.recent_at + 1) % WINDOW as usize;
        self.pace.count(touch.at_ns);
        self.sense.reading(rank, table.len());
        if self.is_straggler(file) {
            self.before.insert(file);
            return None;
        }
        self.readings += 1;
        let is_new = self.seen.insert(file);
        self.window = self.window << 1 | u64::from(!is_new);
        if is_new {
            self.first_reading(table, rank, touch);
            return None;
        }
        self.came_again += 1;
        if self.again.insert(file) && self.again_list.len() < AGAIN_MAX {
            self.again_list.push(file);
        }
        self.has_ended().then(|| self.next_epoch(table))
    }

    fn first_reading(&mut self, table: &FileTable, rank: Rank, touch: &Touch) {
        self.bytes += table.size_bytes(rank);
        self.new_ns = touch.at_ns;
        if !self.before.contains(touch.file) {
            self.met.add(table, rank);
        }
        if self.seen.len() >= self.span_due {
            self.judge_span(table);
        }
        if self.window == 0 && self.readings > WINDOW {
            // What came again long ago was no new epoch.
            for file in self.again_list.drain(..) {
                self.again.remove(file);
            }
        }
    }

    fn judge_span(&mut self, table: &FileTable) {
        self.span = self.met.span(table, self.part);
        self.span_due = (self.seen.len() + 32).max(self.seen.len() * 5 / 4);
    }

    fn is_straggler(&self, file: FileNo) -> bool {
        self.takes_stragglers
            && self.seen.len() < self.before.len() / 8
            && !self.seen.contains(file)
            && !self.before.contains(file)
    }

    fn window_len(&self) -> u32 {
        (self.seen.len() / 2).clamp(8, WINDOW)
    }

    /// Of the last readings, those that came again; and the share of the others that did.
    fn again(&self) -> (u32, f64) {
        let len = self.window_len();
        let lately = (self.window & (u64::MAX >> (64 - len))).count_ones();
        let others = self.readings.saturating_sub(len).max(1);
        (lately, f64::from(self.came_again.saturating_sub(lately)) / f64::from(others))
    }

    fn has_ended(&self) -> bool {
        let (lately, _) = self.again();
        let len = self.window_len();
        self.readings > len
            && (lately * 8 >= len * 7 || lately * 4 >= len && self.hardly_any_came_again_before())
    }

    /// Whether, before the last readings, far fewer came again than of as many draws with replacement would have: each
    /// draw meets one of those before it, the last [`WINDOW`] apart, which count once; the last readings are another.
    fn hardly_any_came_again_before(&self) -> bool {
        let (lately, share) = self.again();
        let met = f64::from(self.seen.len().saturating_sub(2 * WINDOW));
        let drawn_again = met * met / (2.0 * f64::from(self.set_files().max(1)));
        let before = f64::from(self.came_again.saturating_sub(lately));
        // Of 24 expected, 3 or fewer: once in 25 million (Poisson).
        !self.was_sampled && share < 1.0 / 64.0 && drawn_again > 24.0 && before <= drawn_again / 8.0
    }

    fn next_epoch(&mut self, table: &FileTable) -> EpochSummary {
        self.judge_span(table);
        let summary = EpochSummary {
            group: self.group,
            part: self.part,
            epoch: self.epoch,
            files: self.seen.len(),
            of_files: self.set_files(),
            bytes: self.bytes,
            ns: self.new_ns.saturating_sub(self.began_ns),
            is_exactly_once: self.again().1 < AGAIN_SHARE,
        };
        self.takes_stragglers = summary.is_exactly_once && summary.files >= summary.of_files / 10 * 8;
        self.is_proven = summary.is_exactly_once && summary.files >= EVIDENCE_FILES && !self.is_in_order();
        self.epoch += 1;
        self.was_sampled = !summary.is_exactly_once;
        if self.was_sampled {
            // What came again came so all along: nothing says that it belongs to something new.
            self.again.clear();
        }
        self.before = std::mem::replace(&mut self.seen, std::mem::take(&mut self.again));
        self.again_list.clear();
        self.bytes =
            self.seen.iter().filter_map(|file| table.rank(file)).map(|rank| table.size_bytes(rank)).sum();
        self.readings = self.seen.len();
        (self.came_again, self.window) = (0, 0);
        (self.began_ns, self.new_ns) = (self.new_ns, self.last_ns);
        self.span_due = self.span_due.max(self.before.len());
        summary
    }

    /// The files lie elsewhere now.
    pub(super) fn refiled(&mut self, table: &FileTable) {
        self.met = Met::default();
        let known = self.seen.iter().chain(self.before.iter().filter(|&file| !self.seen.contains(file)));
        for rank in known.filter_map(|file| table.rank(file)) {
            self.met.add(table, rank);
        }
        self.sense = Sense::default();
        self.judge_span(table);
    }

    /// The group of readers.
    pub fn group(&self) -> u32 {
        self.group
    }

    /// The number of the part's directory.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// The epoch that it is in, from 1.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When it last read, monotonic, ns.
    pub fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Whether `file` was read in this epoch.
    pub fn has_read(&self, file: FileNo) -> bool {
        self.seen.contains(file)
    }

    /// Distinct files read in this epoch.
    pub fn files_read(&self) -> u32 {
        self.seen.len()
    }

    /// The files of its set, as far as can be judged.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Whether this epoch will read `file`, which is in the span: it has not yet, and did in the epoch before unless
    /// that read nearly all of the span (then what it left out was left out by chance).
    pub fn will_read(&self, file: FileNo) -> bool {
        let all_but_few = self.before.len() >= self.span.files() - self.span.files() / 10;
        !self.seen.contains(file) && (all_but_few || self.before.is_empty() || self.before.contains(file))
    }

    /// How many files its set has.
    pub fn set_files(&self) -> u32 {
        let all_but_few = self.before.len() >= self.span.files() - self.span.files() / 10;
        match self.before.is_empty() || all_but_few {
            true => self.span.files(),
            false => self.before.len().max(self.seen.len()),
        }
    }

    /// The share of the set that this epoch has read, 0 to 1.
    pub fn coverage(&self) -> f64 {
        f64::from(self.seen.len()) / f64::from(self.set_files().max(self.seen.len()).max(1))
    }

    fn is_in_order(&self) -> bool {
        self.sense.share_in_order().is_some_and(|share| share > 0.6)
    }

    /// What it seems to do.
    pub fn workload(&self) -> Workload {
        let (_, again) = self.again();
        let in_order = self.sense.share_in_order();
        match in_order {
            Some(share) if share > 0.6 => Workload::InOrder,
            _ if self.readings >= SAMPLED_MIN && again > AGAIN_SHARE => Workload::Sampled,
            _ if self.is_proven => Workload::Epochs,
            _ if self.was_sampled && self.readings < SAMPLED_MIN => Workload::Sampled,
            Some(share) if self.seen.len() >= EVIDENCE_FILES && share < 0.3 => Workload::Epochs,
            _ if self.seen.len() < EVIDENCE_FILES / 2 && self.readings > 4 * self.seen.len() => Workload::Hot,
            _ if self.epoch > 3 && self.seen.len() < EVIDENCE_FILES => Workload::Hot,
            _ => Workload::Unclear,
        }
    }

    /// How sure that is, 0 to 1: it grows with what was read and shrinks with what speaks against it.
    pub fn confidence(&self) -> f64 {
        let read = 1.0 - (-f64::from(self.seen.len()) / f64::from(EVIDENCE_FILES)).exp();
        let in_order = self.sense.share_in_order().unwrap_or(0.5);
        let again = (self.again().1 / AGAIN_SHARE).min(1.0);
        match self.workload() {
            Workload::Unclear => 0.0,
            Workload::InOrder => in_order,
            Workload::Epochs if self.is_proven => (0.9 + 0.1 * read) * (1.0 - 0.5 * again),
            Workload::Epochs => read * (1.0 - in_order) * (1.0 - 0.5 * again),
            Workload::Sampled if self.was_sampled => read * again.max(0.5),
            Workload::Sampled => read * again,
            Workload::Hot => 0.5 + 0.5 * read,
        }
    }

    /// Files begun a second, over the last seconds.
    pub fn files_per_s(&self, now_ns: u64) -> f64 {
        self.pace.per_s(now_ns)
    }

    /// Bytes of memory, the span's ranges not counted.
    pub fn memory_bytes(&self) -> usize {
        self.seen.memory_bytes()
            + self.again.memory_bytes()
            + self.before.memory_bytes()
            + self.again_list.capacity() * size_of::<FileNo>()
    }
}

/// Readings by the second: this one and the one before.
#[derive(Clone, Debug, Default)]
struct Pace {
    second: u64,
    now: u32,
    before: u32,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Pace {
    fn count(&mut self, at_ns: u64) {
        let second = at_ns / SECOND_NS;
        if second > self.second {
            self.before = if second == self.second + 1 { self.now } else { 0 };
            (self.second, self.now) = (second, 0);
        }
        self.now += 1;
    }

    fn per_s(&self, now_ns: u64) -> f64 {
        let since = now_ns.saturating_sub(self.second * SECOND_NS) as f64 / SECOND_NS as f64;
        if since > 2.0 { 0.0 } else { f64::from(self.now + self.before) / (1.0 + since) }
    }
}
