//! What a set has in the cache: lists by what objects are worth, latest use at the front.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Objective;
use crate::policy::eviction::links::{Links, List};
use crate::policy::eviction::{ObjectNo, Residents};

/// Sizes within a quarter of a power of two count as one size: replacing among them would gain little.
const STEPS_PER_OCTAVE_LOG2: u32 = 2;

/// What an object is worth: its size, and the told epoch in which it is read next.
type Worth = (u64, u32);

pub(super) struct Set {
    objective: Objective,
    /// By size where requests count, else by the epochs in which objects are due: who is in a later list goes first.
    /// There are a few, none of them empty.
    lists: BTreeMap<u32, List>,
    bytes: u64,
}

impl Set {
    pub fn new(objective: Objective) -> Self {
        Self { objective, lists: BTreeMap::new(), bytes: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn list_of(&self, (size_bytes, due): Worth) -> u32 {
        match self.objective {
            Objective::Bytes => due,
            Objective::Requests => size_class(size_bytes),
        }
    }

    pub fn link(&mut self, links: &mut Links, object: ObjectNo, worth: Worth) {
        self.lists.entry(self.list_of(worth)).or_default().push_front(links, object);
        self.bytes += worth.0;
    }

    pub fn unlink(&mut self, links: &mut Links, object: ObjectNo, worth: Worth) {
        let key = self.list_of(worth);
        let list = self.lists.get_mut(&key).expect("what is unlinked is in the list of its worth");
        list.remove(links, object);
        if list.is_empty() {
            self.lists.remove(&key);
        }
        self.bytes -= worth.0;
    }

    /// The one used last, of those worth least, that is not pinned. It stays linked.
    pub fn latest(&self, links: &mut Links, residents: &Residents) -> Option<ObjectNo> {
        self.latest_beyond(Bound::Unbounded, links, residents)
    }

    /// The same, among those that are worth less than `worth`.
    pub fn worth_less_than(
        &self,
        worth: Worth,
        links: &mut Links,
        residents: &Residents,
    ) -> Option<ObjectNo> {
        self.latest_beyond(Bound::Excluded(self.list_of(worth)), links, residents)
    }

    fn latest_beyond(&self, least: Bound<u32>, links: &mut Links, residents: &Residents) -> Option<ObjectNo> {
        for list in self.lists.range((least, Bound::Unbounded)).rev().map(|(_, list)| list) {
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
fn size_class(size_bytes: u64) -> u32 {
    let size_bytes = size_bytes.max(1) << STEPS_PER_OCTAVE_LOG2.min(size_bytes.max(1).leading_zeros());
    let octave = size_bytes.ilog2();
    let step = (size_bytes >> (octave - STEPS_PER_OCTAVE_LOG2)) & ((1 << STEPS_PER_OCTAVE_LOG2) - 1);
    (octave << STEPS_PER_OCTAVE_LOG2) + step as u32
}
