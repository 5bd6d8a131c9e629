//! Sets: which files are read together in epochs, from what is recognised of the jobs that read them.
//!
//! A *part* of the data set (`train` beside `val`, see [`crate::access`]) is a set as soon as somebody reads of it,
//! before it is known how: a set is never replaced from within, and what is kept in vain for a minute costs less than
//! what is given up in vain. It stops being one when its jobs draw with replacement or read the same few files again
//! and again, and a job that walks through it once in listing order makes it none.
//!
//! What nobody has read in this run of the daemon is a set together, and gives way to those that are read.

use super::eviction::{Pattern, SetNo};
use crate::access::Workload;

/// The set of all that nobody reads.
const UNREAD: SetNo = SetNo(0);

/// A job, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The part that it reads.
    pub part: u32,
    /// How.
    pub workload: Workload,
    /// Counted from 1.
    pub epoch: u32,
}

/// What each part is, for now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sets {
    /// In the order in which they were first read: that gives a set its number.
    parts: Vec<(u32, Pattern)>,
}

impl Sets {
    /// Takes in what jobs do; whether that changes anything.
    pub fn look(&mut self, readings: &[Reading]) -> bool {
        let before = self.parts.clone();
        for reading in readings {
            if !self.parts.iter().any(|(part, _)| *part == reading.part) {
                let set = self.next_set();
                self.parts.push((reading.part, Pattern::Epoch(set)));
            }
        }
        for (number, (part, pattern)) in self.parts.iter_mut().enumerate() {
            let of_part = readings.iter().filter(|reading| reading.part == *part);
            // Epochs decide, whatever else reads the same files; then samplers; a walk decides where nobody else does.
            let votes = of_part.filter_map(|reading| vote(reading, set_of(number)));
            *pattern = votes.max_by_key(weight).unwrap_or(*pattern);
        }
        before != self.parts
    }

    /// What files of a part are part of.
    pub fn pattern(&self, part: u32) -> Pattern {
        let found = self.parts.iter().find(|(known, _)| *known == part);
        found.map_or(Pattern::Epoch(UNREAD), |(_, pattern)| *pattern)
    }

    /// The number of a part as a set, whatever it is now.
    pub fn set(&self, part: u32) -> SetNo {
        self.parts.iter().position(|(known, _)| *known == part).map_or(UNREAD, set_of)
    }

    fn next_set(&self) -> SetNo {
        set_of(self.parts.len())
    }
}

/// Parts beyond the last number share it.
fn set_of(place: usize) -> SetNo {
    SetNo((place + 1).min(SetNo::COUNT - 1) as u8)
}

fn vote(reading: &Reading, set: SetNo) -> Option<Pattern> {
    match reading.workload {
        Workload::Unclear => None,
        Workload::Epochs => Some(Pattern::Epoch(set)),
        // Who comes again in the same order trains without shuffling.
        Workload::InOrder if reading.epoch > 1 => Some(Pattern::Epoch(set)),
        Workload::InOrder => Some(Pattern::Scan),
        Workload::Sampled | Workload::Hot => Some(Pattern::General),
    }
}

fn weight(pattern: &Pattern) -> u8 {
    match pattern {
        Pattern::Scan => 0,
        Pattern::General => 1,
        Pattern::Epoch(_) | Pattern::Due(..) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(part: u32, workload: Workload, epoch: u32) -> Reading {
        Reading { part, workload, epoch }
    }

    #[test]
    fn a_part_is_a_set_until_its_jobs_prove_otherwise() {
        let mut sets = Sets::default();
        assert_eq!(sets.pattern(7), Pattern::Epoch(SetNo(0)));
        assert!(sets.look(&[reading(7, Workload::Unclear, 1)]));
        assert_eq!(sets.pattern(7), Pattern::Epoch(SetNo(1)));
        assert!(!sets.look(&[reading(7, Workload::Epochs, 1)]), "nothing is new");
        assert!(sets.look(&[reading(7, Workload::Sampled, 1), reading(9, Workload::Epochs, 1)]));
        assert_eq!((sets.pattern(7), sets.pattern(9)), (Pattern::General, Pattern::Epoch(SetNo(2))));
        // A job that ended says nothing any more.
        assert!(!sets.look(&[]));
        assert_eq!((sets.pattern(7), sets.set(7), sets.set(8)), (Pattern::General, SetNo(1), UNREAD));
    }

    #[test]
    fn a_walk_beside_epochs_changes_nothing_and_alone_it_is_a_scan() {
        let mut sets = Sets::default();
        sets.look(&[reading(7, Workload::InOrder, 1), reading(7, Workload::Epochs, 3)]);
        assert_eq!(sets.pattern(7), Pattern::Epoch(SetNo(1)));
        sets.look(&[reading(7, Workload::InOrder, 1)]);
        assert_eq!(sets.pattern(7), Pattern::Scan);
        // Training without shuffling.
        sets.look(&[reading(7, Workload::InOrder, 2)]);
        assert_eq!(sets.pattern(7), Pattern::Epoch(SetNo(1)));
    }

    #[test]
    fn more_parts_than_numbers_share_the_last_one() {
        let mut sets = Sets::default();
        let readings: Vec<_> = (0..100).map(|part| reading(part, Workload::Epochs, 1)).collect();
        sets.look(&readings);
        assert_eq!(sets.pattern(99), Pattern::Epoch(SetNo(SetNo::COUNT as u8 - 1)));
        assert_eq!(sets.pattern(3), Pattern::Epoch(SetNo(4)));
    }
}
