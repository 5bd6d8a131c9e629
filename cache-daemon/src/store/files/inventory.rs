//! The inventory: the backing files of all volumes by object.
//!
//! A lock for all of them: a read holds it for one lookup, and there are thousands of files here where
//! the index has millions of extents.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};

use parking_lot::RwLock;

use super::file::BackingFile;
use crate::object::Fingerprint;

/// See the head of the module.
#[derive(Debug, Default)]
pub struct Inventory {
    files: RwLock<HashMap<Fingerprint, Arc<BackingFile>>>,
    /// There may be complete files that were not verified.
    unverified: AtomicBool,
}

impl Inventory {
    /// The file of `object`.
    pub fn get(&self, object: &Fingerprint) -> Option<Arc<BackingFile>> {
        self.files.read().get(object).cloned()
    }

    /// Whether `object` has a file, and on which volume.
    pub fn volume_of(&self, object: &Fingerprint) -> Option<u8> {
        self.files.read().get(object).map(|file| file.identity().volume)
    }

    /// The length of a chunk, if it is in a file.
    pub fn contains(&self, object: &Fingerprint, chunk: u32) -> Option<u32> {
        self.files.read().get(object)?.contains(chunk)
    }

    /// `file` counts from now on, unless there is one of the same object: whether there was none.
    pub fn insert(&self, file: Arc<BackingFile>) -> bool {
        match self.files.write().entry(file.identity().object) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(file);
                true
            }
        }
    }

    /// Takes `file` out: whether this was the call that did.
    pub fn remove(&self, file: &BackingFile) -> bool {
        if !file.set_gone() {
            return false;
        }
        let removed = self.files.write().remove(&file.identity().object);
        assert!(removed.is_some_and(|removed| std::ptr::eq(&raw const *removed, file)));
        true
    }

    /// All files, as they are now.
    pub fn all(&self) -> Vec<Arc<BackingFile>> {
        self.files.read().values().cloned().collect()
    }

    /// The objects that have one.
    pub fn objects(&self) -> Vec<Fingerprint> {
        self.files.read().keys().copied().collect()
    }

    /// A complete file has chunks that were not verified.
    pub fn ask_to_verify(&self) {
        self.unverified.store(true, Release);
    }

    /// Whether somebody asked for that since the last call.
    pub fn take_unverified(&self) -> bool {
        self.unverified.swap(false, AcqRel)
    }
}
