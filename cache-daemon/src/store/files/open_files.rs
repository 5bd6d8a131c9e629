//! Open files of a reader: bounded, the least recently used one is closed for another.
//!
//! Each reader has its own, because engines know files by slots of their own. A file that is gone is closed
//! as soon as nothing is in flight on it, and its space with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::file::BackingFile;
use super::shelf::Shelf;
use crate::io::{Engine, FileSlot};

/// Below the places that a ring registers files in (1024), and far below any limit of descriptors.
const OPEN_MAX: usize = 128;

/// See the head of the module.
#[derive(Default)]
pub struct OpenFiles {
    /// By the address of the file: an object can have a file that is gone and a new one.
    entries: HashMap<usize, Entry>,
    turn: u64,
}

struct Entry {
    slot: FileSlot,
    in_flight: usize,
    used: u64,
    /// Keeps its space counted.
    file: Arc<BackingFile>,
}

impl OpenFiles {
    /// The slot of `file`, for one more operation.
    pub fn begin(
        &mut self,
        engine: &mut dyn Engine,
        shelf: &Shelf,
        file: &Arc<BackingFile>,
    ) -> io::Result<FileSlot> {
        self.turn += 1;
        let id = id(file);
        if !self.entries.contains_key(&id) {
            if self.entries.len() >= OPEN_MAX {
                self.close_oldest(engine);
            }
            let slot = engine.register(shelf.open_to_read(file.path())?)?;
            self.entries.insert(id, Entry { slot, in_flight: 0, used: 0, file: file.clone() });
        }
        let entry = self.entries.get_mut(&id).expect("it was there or was inserted above");
        entry.in_flight += 1;
        entry.used = self.turn;
        Ok(entry.slot)
    }

    /// An operation on `file` is over.
    pub fn end(&mut self, file: &Arc<BackingFile>) {
        self.entries.get_mut(&id(file)).expect("it stays open while something is in flight").in_flight -= 1;
    }

    /// Closes files that are gone.
    pub fn close_gone(&mut self, engine: &mut dyn Engine) {
        self.entries.retain(|_, entry| {
            let done = entry.file.is_gone() && entry.in_flight == 0;
            if done {
                engine.forget(entry.slot);
            }
            !done
        });
    }

    fn close_oldest(&mut self, engine: &mut dyn Engine) {
        let idle = self.entries.iter().filter(|(_, entry)| entry.in_flight == 0);
        let oldest = idle.min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
        if let Some(entry) = oldest.and_then(|id| self.entries.remove(&id)) {
            engine.forget(entry.slot);
        }
    }
}

fn id(file: &Arc<BackingFile>) -> usize {
    Arc::as_ptr(file).addr()
}
