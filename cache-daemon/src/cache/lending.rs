//! Lending: complete files of the store that the kernel reads by itself.
//!
//! Each file that is lent is held here, without a descriptor, until the frontend says that the kernel let go of it; so long
//! its space counts. What the store forgot or found damaged meanwhile is to be taken back: [`Lending::overdue`].

use std::collections::HashMap;

use fuse_frontend::source::{Backing, Ino};
use parking_lot::Mutex;

use crate::object::Object;
use crate::store::{LentFile, Store};

/// A lent file that the store does not stand by any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overdue {
    /// The node that it was lent for.
    pub ino: Ino,
    /// Its bytes are wrong; else they are right and only no longer kept.
    pub is_damaged: bool,
}

/// The files that are lent, by node; several of one node where opens raced.
#[derive(Default)]
pub(super) struct Lending(Mutex<HashMap<Ino, Vec<LentFile>>>);

impl Lending {
    /// The complete file of `object`, lent for `ino`; none if the store has none.
    pub fn lend(&self, store: &Store, ino: Ino, object: &Object) -> Option<Backing> {
        let complete = store.complete_file(&object.fingerprint)?;
        let len = complete.len_bytes();
        let (file, lent) = complete.lend();
        self.0.lock().entry(ino).or_default().push(lent);
        Some(Backing { file, len })
    }

    /// The kernel let go of one file of `ino`.
    pub fn returned(&self, ino: Ino) {
        let mut lent = self.0.lock();
        let file = lent.get_mut(&ino).and_then(Vec::pop);
        if lent.get(&ino).is_some_and(Vec::is_empty) {
            lent.remove(&ino);
        }
        drop(lent);
        // Closing it may free its blocks: not under the lock.
        drop(file);
    }

    /// What is to be taken back from the kernel.
    pub fn overdue(&self) -> Vec<Overdue> {
        let lent = self.0.lock();
        let overdue = lent.iter().filter_map(|(&ino, files)| {
            let gone = files.iter().find(|file| file.is_revoked())?;
            Some(Overdue { ino, is_damaged: gone.is_damaged() })
        });
        overdue.collect()
    }
}
