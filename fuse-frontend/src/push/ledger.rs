//! Which pages were pushed, by node: what the budget is counted by.
//!
//! The kernel tells nobody which pages it holds, so this is kept by what we did: a page counts from before it is stored
//! until it was dropped or its node forgotten. What the kernel reclaims by itself counts on until a sweep
//! (`push.rs`) finds it gone: the count errs upwards, the page cache holds at most so much. One exception: FORGET of a lookup
//! that lost a race is taken for FORGET of the inode, though its pages stay; it is rare, and costs that file's pages.
//!
//! Pure: no descriptor, no lock.
//!
//! Invariants
//! - The ranges of a node are sorted, not empty, and neither overlap nor touch.
//! - `pages` is the sum over all ranges, and at most `pages_max`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::source::Ino;

/// Numbers of pages in a file.
pub(super) type Pages = Range<u64>;

/// The pages of a mount that were pushed.
#[derive(Debug)]
pub(super) struct Ledger {
    nodes: BTreeMap<Ino, Vec<Pages>>,
    pages: u64,
    pages_max: u64,
}

impl Ledger {
    pub fn new(pages_max: u64) -> Self {
        Self { nodes: BTreeMap::new(), pages: 0, pages_max }
    }

    /// Pages that count.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Nodes that have such pages.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Counts `wanted` of `ino`; returns those that did not count yet, or None, changing nothing, if there is no room.
    pub fn add(&mut self, ino: Ino, wanted: &Pages) -> Option<Vec<Pages>> {
        let held = self.nodes.get(&ino).map_or(&[][..], Vec::as_slice);
        let new = without(wanted, held);
        let pages = count(&new);
        if pages > self.pages_max - self.pages {
            return None;
        }
        if pages > 0 {
            self.pages += pages;
            insert(self.nodes.entry(ino).or_default(), wanted.clone());
        }
        Some(new)
    }

    /// Counts `gone` of `ino` no more.
    pub fn remove(&mut self, ino: Ino, gone: &Pages) {
        let Some(held) = self.nodes.get_mut(&ino) else { return };
        let before = count(held);
        *held = held.iter().flat_map(|range| without(range, std::slice::from_ref(gone))).collect();
        self.pages -= before - count(held);
        if held.is_empty() {
            self.nodes.remove(&ino);
        }
    }

    /// Counts nothing of `ino` any more.
    pub fn forget(&mut self, ino: Ino) {
        self.pages -= self.nodes.remove(&ino).map_or(0, |held| count(&held));
    }

    /// The first node above `after` that has pages, with them.
    pub fn next(&self, after: Ino) -> Option<(Ino, Vec<Pages>)> {
        let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.nodes.range(above).next().map(|(&ino, held)| (ino, held.clone()))
    }

    #[cfg(test)]
    fn self_check(&self) {
        assert_eq!(self.pages, self.nodes.values().map(|held| count(held)).sum::<u64>());
        assert!(self.pages <= self.pages_max);
        for held in self.nodes.values() {
            assert!(!held.is_empty() && held.iter().all(|range| range.start < range.end), "{held:?}");
            assert!(held.windows(2).all(|pair| pair[0].end < pair[1].start), "{held:?}");
        }
    }
}

fn count(ranges: &[Pages]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// What of `range` is in none of `held`, which is sorted.
fn without(range: &Pages, held: &[Pages]) -> Vec<Pages> {
    let mut rest = Vec::new();
    let mut at = range.start;
    for taken in held.iter().filter(|taken| taken.end > range.start && taken.start < range.end) {
        if at < taken.start {
            rest.push(at..taken.start);
        }
        at = taken.end;
    }
    if at < range.end {
        rest.push(at..range.end);
    }
    rest
}

/// Adds `range` to `held`, with what it overlaps or touches made one.
fn insert(held: &mut Vec<Pages>, range: Pages) {
    let first = held.partition_point(|other| other.end < range.start);
    let last = held.partition_point(|other| other.start <= range.end);
    let merged =
        held[first..last].iter().fold(range, |all, other| all.start.min(other.start)..all.end.max(other.end));
    held.splice(first..last, [merged]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64, Pages),
        Remove(u64, Pages),
        Forget(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let pages = || (0u64..40, 1u64..12).prop_map(|(start, len)| start..start + len);
        let step = prop_oneof![
            4 => (1u64..4, pages()).prop_map(|(ino, pages)| Step::Add(ino, pages)),
            2 => (1u64..4, pages()).prop_map(|(ino, pages)| Step::Remove(ino, pages)),
            1 => (1u64..4).prop_map(Step::Forget),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn it_counts_what_a_set_of_pages_counts_and_never_more_than_its_bound(steps in steps()) {
            const PAGES_MAX: u64 = 50;
            let mut ledger = Ledger::new(PAGES_MAX);
            let mut oracle = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Add(ino, pages) => {
                        let new: Vec<_> =
                            pages.clone().map(|page| (ino, page)).filter(|page| !oracle.contains(page)).collect();
                        let fits = oracle.len() + new.len() <= PAGES_MAX as usize;
                        let added = ledger.add(Ino(ino), &pages);
                        prop_assert_eq!(added.is_some(), fits);
                        if let Some(added) = added {
                            let added: Vec<_> = added.into_iter().flatten().map(|page| (ino, page)).collect();
                            prop_assert_eq!(&added, &new);
                            oracle.extend(new);
                        }
                    }
                    Step::Remove(ino, pages) => {
                        ledger.remove(Ino(ino), &pages);
                        oracle.retain(|(node, page)| *node != ino || !pages.contains(page));
                    }
                    Step::Forget(ino) => {
                        ledger.forget(Ino(ino));
                        oracle.retain(|(node, _)| *node != ino);
                    }
                }
                prop_assert_eq!(ledger.pages(), oracle.len() as u64);
                ledger.self_check();
            }
            let mut walked = Vec::new();
            let mut at = Ino(0);
            while let Some((ino, held)) = ledger.next(at) {
                walked.extend(held.into_iter().flatten().map(|page| (ino.0, page)));
                at = ino;
            }
            prop_assert_eq!(walked, oracle.into_iter().collect::<Vec<_>>());
        }
    }
}
