//! What a set has in the cache: lists by size, latest use at the front.

use super::Objective;
use crate::policy::eviction::links::{Links, List};
use crate::policy::eviction::{ObjectNo, Residents};

/// Sizes within a quarter of a power of two count as one size: replacing among them would gain little.
const STEPS_PER_OCTAVE_LOG2: u32 = 2;

pub(super) struct Set {
    objective: Objective,
    /// Where bytes count, all sizes are one size.
    lists: Vec<List>,
    bytes: u64,
}

impl Set {
    pub fn new(objective: Objective) -> Self {
        Self { objective, lists: Vec::new(), bytes: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn list_of(&self, size_bytes: u64) -> usize {
        match self.objective {
            Objective::Bytes => 0,
            Objective::Requests => size_class(size_bytes),
        }
    }

    pub fn link(&mut self, links: &mut Links, object: ObjectNo, size_bytes: u64) {
        let list = self.list_of(size_bytes);
        if list >= self.lists.len() {
            self.lists.resize(list + 1, List::default());
        }
        self.lists[list].push_front(links, object);
        self.bytes += size_bytes;
    }

    pub fn unlink(&mut self, links: &mut Links, object: ObjectNo, size_bytes: u64) {
        let list = self.list_of(size_bytes);
        self.lists[list].remove(links, object);
        self.bytes -= size_bytes;
        // So that the last list is the one of the largest.
        while self.lists.last().is_some_and(List::is_empty) {
            self.lists.pop();
        }
    }

    pub fn used(&mut self, links: &mut Links, object: ObjectNo, size_bytes: u64) {
        let list = self.list_of(size_bytes);
        self.lists[list].move_to_front(links, object);
    }

    /// The one used last, of the largest, that is not pinned. It stays linked.
    pub fn latest(&self, links: &mut Links, residents: &Residents) -> Option<ObjectNo> {
        self.latest_from(0, links, residents)
    }

    /// The same, among those that are larger than `size_bytes`; none where only bytes count.
    pub fn larger_than(&self, size_bytes: u64, links: &mut Links, residents: &Residents) -> Option<ObjectNo> {
        self.latest_from(self.list_of(size_bytes) + 1, links, residents)
    }

    fn latest_from(&self, least: usize, links: &mut Links, residents: &Residents) -> Option<ObjectNo> {
        for list in self.lists.get(least..)?.iter().rev() {
            let mut next = list.front();
            while let Some(object) = next {
                if !residents.is_pinned(object) {
                    return Some(object);
                }
                next = list.behind(links, object);
            }
        }
        None
    }
}

/// A number that grows with the size, by 4 for each doubling.
fn size_class(size_bytes: u64) -> usize {
    let size_bytes = size_bytes.max(1) << STEPS_PER_OCTAVE_LOG2.min(size_bytes.max(1).leading_zeros());
    let octave = size_bytes.ilog2();
    let step = (size_bytes >> (octave - STEPS_PER_OCTAVE_LOG2)) & ((1 << STEPS_PER_OCTAVE_LOG2) - 1);
    ((octave << STEPS_PER_OCTAVE_LOG2) as usize) + step as usize
}
