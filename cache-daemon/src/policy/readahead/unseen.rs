//! The order in which an unseen set is fetched: every file once, neighbours far apart.
//!
//! The place of the next file is the golden section of the set further, so that requests spread over all
//! prefixes from the first one on: object stores serve consecutive names from one partition (OSS: 2 000 requests a
//! second of them instead of 10 000).

use crate::access::{Job, Span};

/// A walk through the files of one job's set.
#[derive(Clone, Debug)]
pub struct UnseenSet {
    group: u32,
    part: u32,
    files: u32,
    stride: u32,
    /// Files that were passed.
    passed: u32,
}

impl UnseenSet {
    /// The walk for `job`, at its beginning.
    pub fn new(job: &Job) -> Self {
        Self { group: job.group(), part: job.part(), files: 0, stride: 0, passed: 0 }
    }

    /// Whether it is `job`'s.
    pub fn is_of(&self, job: &Job) -> bool {
        (self.group, self.part) == (job.group(), job.part())
    }

    /// Begins anew if the set has another size by now.
    pub fn adapt(&mut self, span: &Span) {
        if span.files() != self.files {
            (self.files, self.stride, self.passed) = (span.files(), stride(span.files()), 0);
        }
    }

    /// From the first file again.
    pub fn begin_anew(&mut self) {
        self.passed = 0;
    }

    /// The place in the set of the next file.
    pub fn next(&mut self) -> Option<u32> {
        if self.passed == self.files {
            return None;
        }
        let at = u64::from(self.passed) * u64::from(self.stride) % u64::from(self.files);
        self.passed += 1;
        Some(at as u32)
    }

    /// The last file again: it could not be taken.
    pub fn step_back(&mut self) {
        self.passed -= 1;
    }
}

/// The numbers below `count`, each once, neighbours far apart.
pub fn spread(count: u32) -> impl Iterator<Item = u32> {
    let stride = u64::from(stride(count));
    (0..u64::from(count)).map(move |passed| (passed * stride % u64::from(count)) as u32)
}

/// About the golden section of `files`, without a divisor in common with it: so that the walk meets all.
fn stride(files: u32) -> u32 {
    let golden = (f64::from(files) * 0.618_033_988_749_894_9) as u32;
    (golden.max(1)..).find(|&stride| gcd(stride, files) <= 1).unwrap_or(1)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(files: u32) -> Vec<u32> {
        let mut set = UnseenSet { group: 0, part: 0, files, stride: stride(files), passed: 0 };
        std::iter::from_fn(|| set.next()).collect()
    }

    proptest! {
        #[test]
        fn every_file_comes_once(files in 0_u32..5_000) {
            let mut met = walk(files);
            met.sort_unstable();
            prop_assert_eq!(met, (0..files).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_hundred_of_a_million_lie_in_a_hundred_places() {
        let mut first: Vec<u32> = walk(1_000_000)[..100].to_vec();
        first.sort_unstable();
        let nearest = first.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(nearest > Some(3_000), "{nearest:?}");
    }
}
