//! Spans: which files a job's set has, judged from those that it has read.
//!
//! The lowest directory above all readings, less what the readings would have met by now if it belonged to the set:
//! a directory for which eight readings or more were to be expected and none came is left out. Where far fewer
//! directories were met than chance would have it (a job that reads ten classes of a thousand), only those that were
//! met count, and others join when they are.

use std::collections::HashMap;
use std::ops::Range;

use super::{FileTable, Rank};

/// Readings to be expected of a directory before none of them means that it is left out: once in 3 000 by chance.
const EXPECTED: f64 = 8.0;

/// Less than this share of the directories that chance would have met: the set is only those.
const MET_SHARE: f64 = 0.7;

/// Files of a set: ranges of ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    ranges: Vec<Range<u32>>,
    /// Files before each range.
    before: Vec<u32>,
    files: u32,
    /// Place of the lowest directory over it.
    directory: Option<u32>,
    /// Whether all of the directory is in it.
    is_whole: bool,
}

/// What a job has read of a part, by directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Met {
    files: HashMap<u32, u32>,
    total: u32,
    ranks: Option<Range<u32>>,
}

impl Met {
    /// A file at `rank` was read for the first time.
    pub fn add(&mut self, table: &FileTable, rank: Rank) {
        *self.files.entry(table.directory(rank)).or_default() += 1;
        self.total += 1;
        let ranks = self.ranks.get_or_insert(rank.0..rank.0 + 1);
        *ranks = ranks.start.min(rank.0)..ranks.end.max(rank.0 + 1);
    }

    /// The set that these readings are of, within `part`.
    pub fn span(&self, table: &FileTable, part: u32) -> Span {
        let Some(ranks) = &self.ranks else { return Span::default() };
        let lowest = table.lowest_over(ranks);
        let below = table.below(lowest);
        let candidates: Vec<u32> = (0..table.directories())
            .filter(|&place| table.part_of_directory(place) == part && table.direct(place) > 0)
            .filter(|&place| {
                let range = table.below(place);
                below.start <= range.start && range.end <= below.end
            })
            .collect();
        let all: f64 = candidates.iter().map(|&place| f64::from(table.direct(place))).sum();
        let share = |place: u32| f64::from(table.direct(place)) / all;
        let read = f64::from(self.total);
        let expected: f64 = candidates.iter().map(|&place| 1.0 - (1.0 - share(place)).powf(read)).sum();
        let only_met = (self.files.len() as f64) < MET_SHARE * expected;
        let is_in =
            |place: u32| self.files.contains_key(&place) || !only_met && read * share(place) < EXPECTED;
        let mut kept = vec![false; table.directories() as usize];
        candidates.iter().for_each(|&place| kept[place as usize] = is_in(place));
        let mut span = Span { directory: Some(lowest), ..Span::default() };
        for rank in below.clone() {
            if kept[table.directory(Rank(rank)) as usize] {
                span.push(rank);
            }
        }
        span.is_whole = span.files == below.end - below.start;
        span
    }
}

impl Span {
    /// All files of `table`, in one range.
    pub fn whole(table: &FileTable) -> Self {
        let mut span = Self { is_whole: true, ..Self::default() };
        if !table.is_empty() {
            span.directory = Some(table.lowest_over(&(0..table.len())));
            span.ranges = std::iter::once(0..table.len()).collect();
            (span.before, span.files) = (vec![0], table.len());
        }
        span
    }

    fn push(&mut self, rank: u32) {
        match self.ranges.last_mut() {
            Some(last) if last.end == rank => last.end += 1,
            _ => {
                self.ranges.push(rank..rank + 1);
                self.before.push(self.files);
            }
        }
        self.files += 1;
    }

    /// How many files it has.
    pub fn files(&self) -> u32 {
        self.files
    }

    /// The rank of its file number `index`, counted from 0 in listing order.
    ///
    /// # Panics
    /// If it has not so many.
    pub fn rank(&self, index: u32) -> Rank {
        let range = self.before.partition_point(|&before| before <= index) - 1;
        let rank = self.ranges[range].start + (index - self.before[range]);
        assert!(rank < self.ranges[range].end, "{index} of {}", self.files);
        Rank(rank)
    }

    /// Whether the file at `rank` is in it.
    pub fn contains(&self, rank: Rank) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= rank.0);
        after > 0 && rank.0 < self.ranges[after - 1].end
    }

    /// The catalog's number of the lowest directory over it, and whether all of that is in it.
    pub fn directory(&self, table: &FileTable) -> Option<(u32, bool)> {
        Some((table.directory_number(self.directory?), self.is_whole))
    }
}
