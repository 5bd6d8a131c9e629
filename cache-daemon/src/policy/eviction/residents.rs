//! What is in: sizes by object number, bytes, pins.

use std::collections::HashMap;

use super::{ObjectNo, slot};

/// A size of four bytes that stands for one that does not fit.
const LARGE: u32 = u32::MAX;

/// What is in. A size takes 4 bytes an object number; the few objects of 4 GiB and more are kept beside.
#[derive(Debug)]
pub struct Residents {
    capacity_bytes: u64,
    used_bytes: u64,
    count: u64,
    /// 0 is not in.
    sizes: Vec<u32>,
    large: HashMap<ObjectNo, u64>,
    pins: HashMap<ObjectNo, u32>,
}

impl Residents {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            used_bytes: 0,
            count: 0,
            sizes: Vec::new(),
            large: HashMap::new(),
            pins: HashMap::new(),
        }
    }

    /// What fits.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// What is in, empty objects counted as a byte.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// What still fits.
    pub fn room_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    /// How many objects are in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it is in.
    pub fn contains(&self, object: ObjectNo) -> bool {
        self.sizes.get(object.index()).is_some_and(|&size| size != 0)
    }

    /// Its size, if it is in.
    pub fn size_bytes(&self, object: ObjectNo) -> Option<u64> {
        match *self.sizes.get(object.index())? {
            0 => None,
            LARGE => self.large.get(&object).copied(),
            size => Some(size.into()),
        }
    }

    /// Whether it must not go.
    pub fn is_pinned(&self, object: ObjectNo) -> bool {
        !self.pins.is_empty() && self.pins.contains_key(&object)
    }

    /// Numbers that were in so far are within these.
    pub fn objects(&self) -> std::ops::Range<u32> {
        0..self.sizes.len() as u32
    }

    pub(super) fn set_capacity(&mut self, capacity_bytes: u64) {
        self.capacity_bytes = capacity_bytes;
    }

    pub(super) fn insert(&mut self, object: ObjectNo, size_bytes: u64) {
        assert!(object.0 < u32::MAX, "the last number is nobody's");
        let size_bytes = size_bytes.max(1);
        let code = u32::try_from(size_bytes).unwrap_or(LARGE);
        if code == LARGE {
            self.large.insert(object, size_bytes);
        }
        let size = slot(&mut self.sizes, object.index(), 0);
        assert_eq!(*size, 0, "{object:?} is in already");
        *size = code;
        self.used_bytes += size_bytes;
        self.count += 1;
    }

    pub(super) fn remove(&mut self, object: ObjectNo) -> u64 {
        let size_bytes = self.size_bytes(object).expect("only what is in is removed");
        if self.sizes[object.index()] == LARGE {
            self.large.remove(&object);
        }
        self.sizes[object.index()] = 0;
        self.pins.remove(&object);
        self.used_bytes -= size_bytes;
        self.count -= 1;
        size_bytes
    }

    pub(super) fn pin(&mut self, object: ObjectNo) -> bool {
        let is_in = self.contains(object);
        if is_in {
            *self.pins.entry(object).or_default() += 1;
        }
        is_in
    }

    pub(super) fn unpin(&mut self, object: ObjectNo) {
        if let Some(pins) = self.pins.get_mut(&object) {
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&object);
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.sizes.capacity() * size_of::<u32>()
    }
}
