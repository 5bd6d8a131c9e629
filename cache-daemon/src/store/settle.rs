//! Settling: what becomes of each segment after its content is known: free, sealed, appended to, or given up.

use std::collections::BTreeSet;

use super::allocator::Allocator;
use super::error::StoreError;
use super::medium::Medium;
use super::recovery::Walked;
use super::superblock::{GENERATIONS_AHEAD, Superblock};
use super::volume::Volume;

/// A volume whose segments are settled.
pub(super) struct Settled {
    pub(super) allocator: Allocator,
    /// The segment that is appended to, and from where.
    pub(super) tail: Option<(u32, u32)>,
    /// Segments given up although something was in them.
    pub(super) given_up: u32,
    /// Those that have no blocks: beyond the limit, or lent to backing files.
    pub(super) withheld: Vec<u32>,
}

/// Decides what becomes of each segment: free, sealed, appended to, or given up.
pub(super) fn settle(
    medium: &Medium,
    superblock: &Superblock,
    volume: &Volume,
    allowed: u32,
    walked: &[Walked],
) -> Result<Settled, StoreError> {
    let segments = &volume.segments;
    let count = superblock.layout.segments;
    let mut by_content: Vec<u32> = (0..count).collect();
    // Those with the least in them go first: empty ones, if there are enough.
    by_content.sort_by_key(|segment| segments.live_bytes(*segment));
    let withheld: BTreeSet<u32> =
        by_content.into_iter().take(count.saturating_sub(allowed) as usize).collect();
    let given_up = withheld.iter().filter(|segment| !segments.is_dead(**segment)).count() as u32;
    if given_up > 0 {
        // One pass over the index, however many there are.
        volume.residents.retain(&mut |_, addr| {
            addr.segment.volume() != volume.number || !withheld.contains(&addr.segment.number())
        });
    }
    withheld.iter().for_each(|segment| segments.retire(*segment));
    // Also if there are holes of an earlier, lower limit.
    let has_holes = medium.used_bytes(&superblock.layout)? < superblock.layout.volume_bytes();
    if !withheld.is_empty() || has_holes {
        medium.reserve(&superblock.layout, &|segment| withheld.contains(&segment))?;
    }
    let kept = (0..count).filter(|segment| !withheld.contains(segment));
    let settled = sort_segments(volume, superblock, kept, walked);
    Ok(Settled { given_up, withheld: withheld.into_iter().collect(), ..settled })
}

/// The allocator for the segments `kept`, and where appending goes on.
pub(super) fn sort_segments(
    volume: &Volume,
    superblock: &Superblock,
    kept: impl Iterator<Item = u32>,
    walked: &[Walked],
) -> Settled {
    let segments = &volume.segments;
    let (mut free, mut live) = (Vec::new(), BTreeSet::new());
    for segment in kept {
        if segments.is_dead(segment) {
            segments.retire(segment);
            free.push(segment);
        } else {
            live.insert(segment);
        }
    }
    // The segment that was begun last goes on, or every restart would leave a part of one unused.
    let tail = walked
        .iter()
        .filter(|walked| live.contains(&walked.segment) && walked.end < volume.layout.segment_bytes)
        .max_by_key(|walked| walked.generation)
        .map(|walked| (walked.segment, walked.end));
    if let Some((segment, _)) = tail {
        live.remove(&segment);
    }
    segments.take_emptied();
    let newest = walked.iter().map(|walked| walked.generation).max().unwrap_or(0);
    let unused =
        superblock.generation_ceiling.saturating_sub(GENERATIONS_AHEAD).max(newest.saturating_add(1));
    Settled { allocator: Allocator::new(free, live, unused), tail, given_up: 0, withheld: Vec::new() }
}
