//! Usage: what the store holds and takes, for `cachectl stats`.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::health::State;
use super::{Shared, Store, checkpoint};

/// What a store holds and takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The limit on everything of ours on disk, in bytes.
    pub limit_bytes: u64,
    /// Bytes that volumes and checkpoints take on disk, measured in blocks.
    pub used_bytes: u64,
    /// Bytes on disk of extents that are in the index.
    pub live_bytes: u64,
    /// How many those are.
    pub extents: u64,
    /// Bytes of memory of the index.
    pub index_bytes: u64,
    /// The volumes.
    pub volumes: Vec<VolumeUsage>,
}

/// What a volume holds and takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUsage {
    /// Where it is.
    pub place: String,
    /// Its number in the store.
    pub number: u8,
    /// Whether it is in use.
    pub state: State,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Its segments.
    pub segments: u32,
    /// Those that nothing is in.
    pub free_segments: u32,
    /// Bytes on disk of extents that are in the index.
    pub live_bytes: u64,
    /// How many those are.
    pub extents: u64,
    /// Bytes that it takes on disk, backing files included.
    pub used_bytes: u64,
    /// Backing files.
    pub files: u64,
    /// Bytes that they take, those included that are deleted and still open somewhere.
    pub file_bytes: u64,
}

impl Store {
    /// Bytes of data that extents can still take, about: those that wait to be written are not taken off.
    pub fn room_bytes(&self) -> u64 {
        let volumes = self.shared.volumes.iter().filter(|handle| handle.volume.is_in());
        volumes
            .map(|handle| handle.room_bytes().saturating_sub(handle.volume.queued_bytes.load(Relaxed)))
            .sum()
    }
}

pub(super) fn measure(shared: &Shared) -> Usage {
    let volumes: Vec<VolumeUsage> = shared
        .volumes
        .iter()
        .map(|handle| {
            let volume = &handle.volume;
            let files = shared.files.usage(volume.number);
            // A device that cannot be asked takes what it took.
            let segments = handle.medium.used_bytes(&volume.layout).unwrap_or(volume.layout.volume_bytes());
            VolumeUsage {
                place: volume.name.clone(),
                number: volume.number,
                state: volume.state(),
                segment_bytes: volume.layout.segment_bytes,
                segments: volume.layout.segments,
                free_segments: volume.free_segments.load(Relaxed) as u32,
                live_bytes: volume.segments.live_bytes_total() + files.data_bytes,
                extents: volume.segments.live_extents_total() + files.chunks,
                used_bytes: segments + files.charged_bytes,
                files: files.files,
                file_bytes: files.charged_bytes,
            }
        })
        .collect();
    let total = |of: fn(&VolumeUsage) -> u64| volumes.iter().map(of).sum::<u64>();
    Usage {
        limit_bytes: shared.limit_bytes,
        used_bytes: total(|volume| volume.used_bytes) + checkpoint::used_bytes(&shared.state_dir),
        live_bytes: total(|volume| volume.live_bytes),
        extents: total(|volume| volume.extents),
        index_bytes: shared.residents.index().memory_bytes() as u64,
        volumes,
    }
}
