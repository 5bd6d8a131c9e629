//! A table: a run of buckets searched from a key's home onwards.
//!
//! Linear probing over buckets of six, without tombstones: each bucket counts what was put beyond
//! it, so deleting leaves nothing behind and a search for what is not there ends early.
//!
//! Writers hold the shard's lock; [`find`] needs nothing.
//!
//! An extent that is replaced while its bucket is full moves to another bucket. The new one is
//! published first, then `moved` is called, then the old one is cleared: a reader that passed the
//! new place too early and the old one too late must see what `moved` did (see `shard.rs`).

use super::addr::ExtentAddr;
use super::bucket::{Bucket, Hit, Key, Word};

/// The extent of `key` and its bucket.
#[inline(always)]
pub(super) fn find<W: Word>(buckets: &[Bucket<W>], key: &Key) -> Option<(usize, Hit)> {
    let mut at = key.home(buckets.len());
    for _ in 0..buckets.len() {
        let (hit, more) = buckets[at].find(key);
        if let Some(hit) = hit {
            return Some((at, hit));
        }
        if !more {
            return None;
        }
        at = after(at, buckets.len());
    }
    None
}

/// Puts `key` at `addr` in the place of `old`, what [`find`] said of it. At least one slot is dead.
pub(super) fn put<W: Word>(
    buckets: &[Bucket<W>],
    key: &Key,
    addr: ExtentAddr,
    old: Option<(usize, Hit)>,
    moved: impl FnOnce(),
) {
    let (at, slot) = nearest_spare(buckets, key);
    if let Some((old_at, hit)) = old.filter(|(old_at, _)| *old_at == at) {
        return buckets[old_at].publish(slot, key, addr, Some(hit.slot));
    }
    path(key, at, buckets.len()).for_each(|passed| buckets[passed].pass());
    buckets[at].publish(slot, key, addr, None);
    if let Some(old) = old {
        moved();
        take(buckets, key, old);
    }
}

/// Removes what [`find`] found for `key`.
pub(super) fn take<W: Word>(buckets: &[Bucket<W>], key: &Key, (at, hit): (usize, Hit)) {
    buckets[at].clear(hit.slot);
    path(key, at, buckets.len()).for_each(|passed| buckets[passed].unpass());
}

/// The buckets from the home of `key` up to, not including, `end`.
pub(super) fn path(key: &Key, end: usize, buckets: usize) -> impl Iterator<Item = usize> {
    let mut at = key.home(buckets);
    std::iter::from_fn(move || {
        let here = at;
        at = after(at, buckets);
        (here != end).then_some(here)
    })
    .fuse()
}

fn nearest_spare<W: Word>(buckets: &[Bucket<W>], key: &Key) -> (usize, usize) {
    let mut at = key.home(buckets.len());
    loop {
        if let Some(slot) = buckets[at].spare() {
            return (at, slot);
        }
        at = after(at, buckets.len());
    }
}

#[inline(always)]
fn after(at: usize, buckets: usize) -> usize {
    if at + 1 == buckets { 0 } else { at + 1 }
}
