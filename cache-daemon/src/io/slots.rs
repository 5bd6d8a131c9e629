//! Slots: the files that an engine knows, each with the number of operations in flight on it.

use super::FileSlot;

/// Files by [`FileSlot`]; a freed slot is used again, lowest first.
#[derive(Debug)]
pub(super) struct Slots<F> {
    entries: Vec<Option<Entry<F>>>,
}

#[derive(Debug)]
struct Entry<F> {
    file: F,
    in_flight: usize,
}

impl<F> Slots<F> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new() }
    }

    pub(super) fn insert(&mut self, file: F) -> FileSlot {
        let entry = Some(Entry { file, in_flight: 0 });
        let index = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        match self.entries.get_mut(index) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        FileSlot(u32::try_from(index).expect("the process's limit of open files is below 2^32"))
    }

    /// Takes a file out. Panics if it is not there or something is in flight on it.
    pub(super) fn remove(&mut self, slot: FileSlot) -> F {
        assert_eq!(self.entry(slot).in_flight, 0, "a file was forgotten with operations in flight");
        self.entries[slot.0 as usize].take().expect("it was there one line ago").file
    }

    /// The file in `slot`, for one more operation. Panics if it is not there.
    pub(super) fn begin(&mut self, slot: FileSlot) -> &mut F {
        let entry = self.entry(slot);
        entry.in_flight += 1;
        &mut entry.file
    }

    /// The file in `slot`. Panics if it is not there.
    pub(super) fn get(&self, slot: FileSlot) -> &F {
        let entry = self.entries.get(slot.0 as usize).and_then(Option::as_ref);
        &entry.expect("only registered files are used").file
    }

    /// One operation on `slot` is over.
    pub(super) fn end(&mut self, slot: FileSlot) {
        self.entry(slot).in_flight -= 1;
    }

    fn entry(&mut self, slot: FileSlot) -> &mut Entry<F> {
        self.entries
            .get_mut(slot.0 as usize)
            .and_then(Option::as_mut)
            .expect("only registered files are used")
    }
}
