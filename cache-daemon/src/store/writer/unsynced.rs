//! Unsynced: the segments whose bytes no sync has covered yet: those that are lost if one fails.
//!
//! A sync covers what completed before it was submitted. So each segment is *dirty* when a write to it
//! completed after the last sync began, and stays known until it is sealed and clean.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::batch::Written;

#[derive(Debug, Default)]
pub(super) struct Unsynced {
    segments: BTreeMap<u32, Tail>,
    dirty_bytes: u64,
    dirty_since: Option<Instant>,
    is_syncing: bool,
}

#[derive(Debug)]
struct Tail {
    generation: u32,
    writes: u32,
    dirty: bool,
    syncing: bool,
    sealed: bool,
}

impl Unsynced {
    /// A write to a segment begins.
    pub(super) fn begin_write(&mut self, written: &Written) {
        let tail = self.segments.entry(written.segment).or_insert_with(|| Tail {
            generation: written.generation,
            writes: 0,
            dirty: false,
            syncing: false,
            sealed: false,
        });
        assert_eq!(tail.generation, written.generation, "one incarnation of a segment at a time");
        tail.writes += 1;
    }

    /// A write succeeded: whether its segment is still to be believed.
    pub(super) fn end_write(&mut self, written: &Written, now: Instant) -> bool {
        let tail =
            self.segments.get_mut(&written.segment).filter(|tail| tail.generation == written.generation);
        let Some(tail) = tail else { return false };
        tail.writes -= 1;
        tail.dirty = true;
        self.dirty_bytes += u64::from(written.bytes);
        self.dirty_since.get_or_insert(now);
        true
    }

    /// No more writes to `segment` will begin: whether it must be kept here until it is synced.
    pub(super) fn seal(&mut self, segment: u32) -> bool {
        let Some(tail) = self.segments.get_mut(&segment) else { return false };
        tail.sealed = true;
        if tail.is_clean() {
            self.segments.remove(&segment);
            return false;
        }
        true
    }

    /// Takes `segment` out: whether it was there in that incarnation.
    pub(super) fn remove(&mut self, segment: u32, generation: u32) -> bool {
        let known = self.segments.get(&segment).is_some_and(|tail| tail.generation == generation);
        known && self.segments.remove(&segment).is_some()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.segments.values().any(|tail| tail.dirty)
    }

    pub(super) fn is_writing(&self) -> bool {
        self.segments.values().any(|tail| tail.writes > 0)
    }

    pub(super) fn is_syncing(&self) -> bool {
        self.is_syncing
    }

    /// When a sync is due for the age of what is dirty.
    pub(super) fn due_at(&self, interval: Duration) -> Option<Instant> {
        self.dirty_since.filter(|_| !self.is_syncing).map(|since| since + interval)
    }

    pub(super) fn is_due(&self, now: Instant, interval: Duration, bytes: u64) -> bool {
        self.dirty_bytes >= bytes || self.due_at(interval).is_some_and(|at| at <= now)
    }

    /// The segments that a sync covers which begins now.
    pub(super) fn begin_sync(&mut self) -> Vec<u32> {
        self.is_syncing = true;
        self.dirty_bytes = 0;
        self.dirty_since = None;
        let dirty = self.segments.iter_mut().filter(|(_, tail)| tail.dirty);
        dirty
            .map(|(segment, tail)| {
                tail.dirty = false;
                tail.syncing = true;
                *segment
            })
            .collect()
    }

    /// The sync of `segments` succeeded. Returns those that are sealed and clean now.
    pub(super) fn end_sync(&mut self, segments: &[u32]) -> Vec<u32> {
        self.leave_sync(segments);
        let clean = self.segments.iter().filter(|(_, tail)| tail.sealed && tail.is_clean());
        let clean: Vec<u32> = clean.map(|(segment, _)| *segment).collect();
        clean.iter().for_each(|segment| _ = self.segments.remove(segment));
        clean
    }

    /// The sync of `segments` is over. Returns those that have not been dropped meanwhile.
    pub(super) fn leave_sync(&mut self, segments: &[u32]) -> Vec<u32> {
        self.is_syncing = false;
        let mut left = Vec::new();
        for segment in segments {
            // One that was dropped and begun anew meanwhile has not been part of the sync.
            if let Some(tail) = self.segments.get_mut(segment).filter(|tail| tail.syncing) {
                tail.syncing = false;
                left.push(*segment);
            }
        }
        left
    }
}

impl Tail {
    fn is_clean(&self) -> bool {
        self.writes == 0 && !self.dirty && !self.syncing
    }
}
