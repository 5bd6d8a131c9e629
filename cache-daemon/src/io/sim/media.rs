//! Media: what a simulated device holds: durable sectors under a volatile write cache.
//!
//! A write is visible at once and durable only after a sync that was submitted after the write had
//! completed, the least that a device promises. Until then a power cut may keep all of it, none, or any
//! of its sectors, whatever becomes of earlier and later writes: reordering and tearing in one rule.
//!
//! Pages are shared between copies until written to, so a snapshot at every write is affordable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rand::Rng;

/// The unit that lands whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

const PAGE_BYTES: usize = 4096;

/// Content by page; a page that was never written is zeros.
#[derive(Clone, Debug, Default)]
struct Pages(BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>);

impl Pages {
    fn read(&self, at: u64, into: &mut [u8]) {
        each_page(at, into.len(), |page, within, part| match self.0.get(&page) {
            Some(bytes) => into[part.clone()].copy_from_slice(&bytes[within..within + part.len()]),
            None => into[part].fill(0),
        });
    }

    fn write(&mut self, at: u64, from: &[u8]) {
        each_page(at, from.len(), |page, within, part| {
            let bytes = self.0.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(bytes)[within..within + part.len()].copy_from_slice(&from[part]);
        });
    }
}

/// Cuts `len` bytes from `at` at page boundaries: (page, offset in it, range in the caller's slice).
fn each_page(at: u64, len: usize, mut part: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let position = at + done as u64;
        let within = (position % PAGE_BYTES as u64) as usize;
        let bytes = (PAGE_BYTES - within).min(len - done);
        part(position / PAGE_BYTES as u64, within, done..done + bytes);
        done += bytes;
    }
}

/// Names a write until it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WriteId(u64);

/// A moment in the order of completions: a sync covers what completed before it was submitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Moment(u64);

#[derive(Clone, Debug)]
struct Unsynced {
    id: WriteId,
    at: u64,
    data: Arc<[u8]>,
    completed: Option<Moment>,
}

/// The sectors of one device.
#[derive(Clone, Debug)]
pub(super) struct Media {
    size_bytes: u64,
    durable: Pages,
    visible: Pages,
    /// In the order in which they started.
    unsynced: Vec<Unsynced>,
    writes: u64,
    completions: u64,
}

impl Media {
    pub(super) fn new(size_bytes: u64) -> Self {
        let (durable, visible) = Default::default();
        Self { size_bytes, durable, visible, unsynced: Vec::new(), writes: 0, completions: 0 }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        self.visible.read(at, into);
    }

    /// Starts a write of `data`, all of which is in the cache from now on.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> WriteId {
        self.visible.write(at, data);
        let id = WriteId(self.writes);
        self.writes += 1;
        self.unsynced.push(Unsynced { id, at, data: data.into(), completed: None });
        id
    }

    /// The caller was told that `write` is over.
    pub(super) fn complete(&mut self, write: WriteId) {
        self.completions += 1;
        if let Some(unsynced) = self.unsynced.iter_mut().find(|unsynced| unsynced.id == write) {
            unsynced.completed = Some(Moment(self.completions));
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.completions)
    }

    /// Makes durable what of `part` had completed at `submitted`.
    pub(super) fn sync(&mut self, submitted: Moment, part: &Range<u64>) {
        for write in self.take_dirty(submitted, part) {
            self.durable.write(write.at, &write.data);
        }
    }

    /// A sync that failed: what it covered is forgotten to be dirty and will never become durable. Of the
    /// cache some is gone and some still shows it, like Linux's pages after a failed writeback.
    pub(super) fn fail_sync(&mut self, submitted: Moment, part: &Range<u64>, rng: &mut impl Rng) {
        for write in self.take_dirty(submitted, part) {
            if rng.random_bool(0.5) {
                let mut before = vec![0; write.data.len()];
                self.durable.read(write.at, &mut before);
                self.visible.write(write.at, &before);
            }
        }
    }

    fn take_dirty(&mut self, submitted: Moment, part: &Range<u64>) -> Vec<Unsynced> {
        let covered = |write: &Unsynced| {
            part.contains(&write.at) && write.completed.is_some_and(|completed| completed <= submitted)
        };
        let (dirty, kept) = std::mem::take(&mut self.unsynced).into_iter().partition(covered);
        self.unsynced = kept;
        dirty
    }

    /// Makes `part`, which consists of whole pages, zeros for good.
    pub(super) fn discard(&mut self, part: &Range<u64>) {
        let numbers = part.start / PAGE_BYTES as u64..part.end.div_ceil(PAGE_BYTES as u64);
        for pages in [&mut self.durable, &mut self.visible] {
            let there: Vec<u64> = pages.0.range(numbers.clone()).map(|(number, _)| *number).collect();
            there.iter().for_each(|number| _ = pages.0.remove(number));
        }
        self.unsynced.retain(|write| !part.contains(&write.at));
    }

    /// Loses power: each unsynced write lands whole, not at all, or in some of its sectors.
    pub(super) fn power_cut(&mut self, rng: &mut impl Rng) {
        for write in std::mem::take(&mut self.unsynced) {
            match rng.random_range(0..3) {
                0 => self.durable.write(write.at, &write.data),
                1 => {}
                _ => self.land_torn(&write, rng),
            }
        }
        self.visible = self.durable.clone();
    }

    fn land_torn(&mut self, write: &Unsynced, rng: &mut impl Rng) {
        for sector in torn_sectors(write.data.len(), rng) {
            self.durable.write(write.at + sector.start as u64, &write.data[sector]);
        }
    }

    /// Flips one random bit of the `len` bytes from `at`, for good.
    pub(super) fn rot(&mut self, at: u64, len: usize, rng: &mut impl Rng) {
        let at = at + rng.random_range(0..len as u64);
        let bit = 1 << rng.random_range(0..8);
        for pages in [&mut self.durable, &mut self.visible] {
            let mut byte = [0];
            pages.read(at, &mut byte);
            pages.write(at, &[byte[0] ^ bit]);
        }
    }

    /// A random page that was ever written, if there is one: where rot can be noticed.
    pub(super) fn written_page(&self, rng: &mut impl Rng) -> Option<(u64, usize)> {
        let pages = &self.visible.0;
        let nth = (!pages.is_empty()).then(|| rng.random_range(0..pages.len()))?;
        pages.keys().nth(nth).map(|page| (page * PAGE_BYTES as u64, PAGE_BYTES))
    }
}

/// The sectors of a torn write of `len` bytes that land: a beginning of it, or any of them.
pub(super) fn torn_sectors(len: usize, rng: &mut impl Rng) -> Vec<std::ops::Range<usize>> {
    let sectors = len.div_ceil(SECTOR_BYTES);
    let prefix = rng.random_bool(0.5).then(|| rng.random_range(0..sectors));
    (0..sectors)
        .filter(|sector| match prefix {
            Some(landed) => *sector < landed,
            None => rng.random_bool(0.5),
        })
        .map(|sector| sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(len))
        .collect()
}
