//! Key ranges: how a listing is cut so that its parts can be listed at the same time.
//!
//! Pages of one listing can only be asked for one after the other, but a listing may start after any
//! key. Split points are guesses (the prefixes of directories): a bad guess makes a part large or empty,
//! never wrong, because the ranges cover all keys whatever the points are.

/// Parts listed at the same time, at most.
pub const PARTS_MAX: usize = 16;

/// The keys `k` with `after < k <= last`, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Excluded.
    pub after: String,
    /// Included; without it, all that follow.
    pub last: Option<String>,
}

/// How many parts to list, when the first page of `page_keys` keys reached past `passed` of `points`.
///
/// Each part costs up to one request more than its share of the keys, so a part should be two pages or
/// more. The number of pages is estimated from the share of points that one page passed.
pub fn parts(points: usize, passed: usize) -> usize {
    // No point passed: the first directory alone is larger than a page.
    let pages = points / passed.max(1);
    (pages / 2).clamp(1, PARTS_MAX)
}

/// Of `points`, those after `after`: ascending, each once.
pub fn points_after(after: &str, mut points: Vec<String>) -> Vec<String> {
    points.retain(|point| point.as_str() > after);
    points.sort_unstable();
    points.dedup();
    points
}

/// Cuts the keys after `after` into at most `parts` ranges, at some of `points`, which ascend from there.
pub fn ranges(after: &str, points: &[String], parts: usize) -> Vec<KeyRange> {
    let cuts = points.len().min(parts.max(1) - 1);
    let mut start = after.to_owned();
    let mut ranges = Vec::with_capacity(cuts + 1);
    for cut in 1..=cuts {
        // Evenly spaced; the last stretch of points lies in the last range.
        let point = points[cut * points.len() / (cuts + 1)].clone();
        if point > start {
            let after = std::mem::replace(&mut start, point.clone());
            ranges.push(KeyRange { after, last: Some(point) });
        }
    }
    ranges.push(KeyRange { after: start, last: None });
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl KeyRange {
        fn contains(&self, key: &str) -> bool {
            key > self.after.as_str() && self.last.as_deref().is_none_or(|last| key <= last)
        }
    }

    #[test]
    fn twenty_pages_of_a_thousand_directories_are_worth_ten_parts() {
        assert_eq!(parts(1000, 50), 10);
        assert_eq!(parts(1000, 900), 1);
        assert_eq!(parts(100_000, 1), PARTS_MAX);
        assert_eq!(parts(0, 0), 1);
    }

    proptest! {
        #[test]
        fn every_later_key_is_in_exactly_one_range(
            after in "[a-c/]{0,4}", points in prop::collection::vec("[a-c/]{0,4}", 0..30),
            keys in prop::collection::vec("[a-d/]{0,5}", 0..50), parts in 0_usize..20,
        ) {
            let ranges = ranges(&after, &points_after(&after, points.clone()), parts);
            prop_assert!(ranges.len() <= parts.max(1));
            for key in keys.iter().chain(&points) {
                let holders = ranges.iter().filter(|range| range.contains(key)).count();
                prop_assert_eq!(holders, usize::from(key.as_str() > after.as_str()), "{}", key);
            }
        }
    }
}
