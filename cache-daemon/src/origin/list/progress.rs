//! How far a parallel listing is, so that whoever waits can be told how long.
//!
//! No origin says how many keys it has, but split points are spread over them: the share of points that
//! the parts have passed is about the share of keys that are listed. Parts run side by side, so each
//! counts the points of its own range.

use super::split::KeyRange;
use crate::stats::origin::OriginFigures;

/// Split points of a listing, and the count of those that were passed.
pub struct Progress<'a> {
    /// Ascending.
    points: Vec<String>,
    figures: &'a OriginFigures,
}

/// One part's way through its range.
pub struct PartProgress<'a> {
    progress: &'a Progress<'a>,
    /// Points up to here were counted.
    at: usize,
}

impl<'a> Progress<'a> {
    /// Begins to count `points`, which ascend, in `figures`.
    pub fn begin(points: Vec<String>, figures: &'a OriginFigures) -> Self {
        figures.listing_points_passed.set(0);
        figures.listing_points.set(points.len() as u64);
        Self { points, figures }
    }

    /// The part that lists `range`.
    pub fn part(&self, range: &KeyRange) -> PartProgress<'_> {
        PartProgress { progress: self, at: self.index(&range.after) }
    }

    /// How many points are not after `key`.
    fn index(&self, key: &str) -> usize {
        self.points.partition_point(|point| point.as_str() <= key)
    }
}

impl PartProgress<'_> {
    /// All keys up to `key` are listed.
    pub fn reached(&mut self, key: &str) {
        self.advance(self.progress.index(key));
    }

    /// The whole of `range` is listed.
    pub fn done(&mut self, range: &KeyRange) {
        let all = self.progress.points.len();
        self.advance(range.last.as_deref().map_or(all, |last| self.progress.index(last)));
    }

    fn advance(&mut self, to: usize) {
        // A page may reach past the end of the part's range: the next part counts those.
        self.progress.figures.listing_points_passed.add(to.saturating_sub(self.at) as u64);
        self.at = self.at.max(to);
    }
}
