//! The ceiling of generations, and how it is raised without waiting: copy, sync, other copy, sync.
//!
//! The new ceiling holds as soon as one copy of the superblock is durable. An error gives the raise up;
//! the next attempt writes the same copy first, which is the one that did not hold.

use super::super::superblock::{GENERATIONS_AHEAD, Superblock};

/// The durable superblock, and the one that is to replace it.
#[derive(Debug)]
pub(super) struct Ceiling {
    durable: Superblock,
    raising: Option<(Superblock, Step)>,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A copy is written: the first or the second of two.
    Write { second: bool },
    /// That copy is synced.
    Sync { second: bool },
}

impl Ceiling {
    pub(super) fn new(durable: Superblock) -> Self {
        Self { durable, raising: None }
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.durable
    }

    /// Whether `generation` may be given to a segment.
    pub(super) fn allows(&self, generation: u32) -> bool {
        generation < self.durable.generation_ceiling
    }

    /// Begins a raise if it is time for one: half of the generations are used up. What to do first.
    pub(super) fn begin(&mut self, next_generation: u32) -> Option<Step> {
        let left = self.durable.generation_ceiling.saturating_sub(next_generation);
        if self.raising.is_some() || left > GENERATIONS_AHEAD / 2 {
            return None;
        }
        let raised = self.durable.raised(next_generation.saturating_add(GENERATIONS_AHEAD))?;
        let first = Step::Write { second: false };
        self.raising = Some((raised, first));
        Some(first)
    }

    /// The superblock to write, and to which copy, for a step that writes.
    pub(super) fn write(&self, second: bool) -> (&Superblock, usize) {
        let (superblock, _) = self.raising.as_ref().expect("a raise is under way");
        let first_copy = superblock.first_copy();
        (superblock, if second { 1 - first_copy } else { first_copy })
    }

    /// `step` ended. What to do next, if it succeeded and there is more.
    pub(super) fn ended(&mut self, step: Step, succeeded: bool) -> Option<Step> {
        let (superblock, current) = self.raising.as_mut().filter(|(_, current)| *current == step)?;
        let next = match step {
            _ if !succeeded => None,
            Step::Write { second } => Some(Step::Sync { second }),
            Step::Sync { second: false } => {
                self.durable = *superblock;
                Some(Step::Write { second: true })
            }
            Step::Sync { second: true } => None,
        };
        match next {
            Some(next) => *current = next,
            None => self.raising = None,
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::Layout;
    use crate::store::record::StoreUuid;

    #[test]
    fn a_raise_that_fails_leaves_the_ceiling_and_risks_the_same_copy_again() {
        let layout = Layout { segment_bytes: 8192, segments: 2 };
        let superblock =
            Superblock { store: StoreUuid([1; 16]), volume: 1, layout, generation_ceiling: 300, sequence: 4 };
        let mut ceiling = Ceiling::new(superblock);
        assert_eq!(ceiling.begin(100), None, "200 are left");
        let first = Step::Write { second: false };
        assert_eq!(ceiling.begin(200), Some(first));
        assert_eq!((ceiling.write(false).1, ceiling.begin(250)), (1, None), "one raise at a time");
        assert_eq!(ceiling.ended(first, false), None);
        assert!(ceiling.allows(299) && !ceiling.allows(300));

        assert_eq!(ceiling.begin(250), Some(first));
        assert_eq!(ceiling.write(false).1, 1);
        let sync = ceiling.ended(first, true).unwrap();
        assert!(!ceiling.allows(300), "not before it is durable");
        let second = ceiling.ended(sync, true).unwrap();
        assert!(ceiling.allows(250 + GENERATIONS_AHEAD - 1));
        assert_eq!((second, ceiling.write(true).1), (Step::Write { second: true }, 0));
        assert_eq!(ceiling.ended(second, false), None);
        assert_eq!(ceiling.begin(250 + GENERATIONS_AHEAD), Some(first));
        assert_eq!(ceiling.write(false).1, 0, "the copy that failed goes first");
    }
}
