//! Residents: the extents that the store has: the index and the live counts of segments, in step.
//!
//! All changes of the index go through here. Counts are raised before an extent enters and lowered
//! after it left, by the one caller that took it out, so a segment with a count of zero has nothing in
//! the index.

use std::sync::{Arc, OnceLock};

use super::layout::extent_bytes;
use super::segments::{Pin, Segments};
use crate::index::{ExtentAddr, Index, SegmentId};
use crate::object::ExtentKey;

/// Extents of all volumes.
pub struct Residents {
    index: Index,
    /// By volume number. One that was lost may come while others are in use.
    volumes: Box<[OnceLock<Arc<Segments>>]>,
}

impl Residents {
    /// No extents on `volumes`, with room in the index for `extents`.
    pub fn new(volumes: impl IntoIterator<Item = (u8, Arc<Segments>)>, extents: usize) -> Arc<Self> {
        let by_number: Box<[OnceLock<_>]> = (0..=u8::MAX).map(|_| OnceLock::new()).collect();
        for (number, segments) in volumes {
            by_number[usize::from(number)].set(segments).expect("volumes have numbers of their own");
        }
        Arc::new(Self { index: Index::with_capacity(extents), volumes: by_number })
    }

    /// The segments of volume `number`, which is known from now on; none if it is known with other than `count`.
    pub fn volume(&self, number: u8, count: u32) -> Option<Arc<Segments>> {
        let segments = self.volumes[usize::from(number)].get_or_init(|| Segments::new(count));
        (segments.count() == count).then(|| segments.clone())
    }

    /// The index, to look at.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where the extent is.
    pub fn get(&self, key: &ExtentKey) -> Option<ExtentAddr> {
        self.index.get(key)
    }

    /// A pin on the segment that `addr` is in, if it is still in that incarnation.
    pub fn pin(&self, addr: &ExtentAddr) -> Option<Pin> {
        self.segments(addr).pin(addr.segment.number(), addr.generation.0)
    }

    /// The extent is at `addr` now, and nowhere else.
    pub fn insert(&self, key: ExtentKey, addr: ExtentAddr) {
        self.segments(&addr).add(addr.segment.number(), extent_bytes(addr.len));
        if let Some(old) = self.index.insert(key, addr) {
            self.release(&old);
        }
    }

    /// The extent was found at `addr` by recovery: it is there unless a later one of the same volume is
    /// known. Returns the earlier of two of them.
    pub fn insert_found(&self, key: ExtentKey, addr: ExtentAddr) -> Option<ExtentAddr> {
        let age = |addr: &ExtentAddr| (addr.generation, addr.offset);
        let known = self.index.get(&key).filter(|known| known.segment.volume() == addr.segment.volume());
        if known.is_some_and(|known| age(&known) > age(&addr)) {
            return Some(addr);
        }
        self.insert(key, addr);
        known.filter(|known| *known != addr)
    }

    /// Moves the extent to `to` if it is still at `from`: whether it was.
    pub fn relocate(&self, key: &ExtentKey, from: ExtentAddr, to: ExtentAddr) -> bool {
        self.segments(&to).add(to.segment.number(), extent_bytes(to.len));
        let moved = self.index.swap_if(key, from, to);
        self.release(if moved { &from } else { &to });
        moved
    }

    /// Forgets the extent: whether it was there.
    pub fn forget(&self, key: &ExtentKey) -> bool {
        let old = self.index.remove(key);
        old.iter().for_each(|addr| self.release(addr));
        old.is_some()
    }

    /// Forgets the extent if it is at `addr`: whether it was.
    pub fn forget_if(&self, key: &ExtentKey, addr: ExtentAddr) -> bool {
        let removed = self.index.remove_if(key, addr);
        if removed {
            self.release(&addr);
        }
        removed
    }

    /// Forgets everything in `segment`, to which nothing is being added; how many extents that were.
    pub fn forget_segment(&self, segment: SegmentId) -> usize {
        self.retain(&mut |_, addr| addr.segment != segment)
    }

    /// Forgets what `keep` says no to, unless it moves meanwhile; how many extents that were.
    pub fn retain(&self, keep: &mut dyn FnMut(&ExtentKey, ExtentAddr) -> bool) -> usize {
        let mut forgotten = 0;
        self.index.for_each(&mut |key, addr| {
            forgotten += usize::from(!keep(key, addr) && self.forget_if(key, addr));
        });
        forgotten
    }

    fn release(&self, addr: &ExtentAddr) {
        self.segments(addr).release(addr.segment.number(), extent_bytes(addr.len));
    }

    fn segments(&self, addr: &ExtentAddr) -> &Arc<Segments> {
        self.volumes[usize::from(addr.segment.volume())]
            .get()
            .expect("only extents of known volumes are inserted")
    }
}
