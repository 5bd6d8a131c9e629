//! Why a store cannot be opened: each one line that says what to do.

use std::io;

use super::medium::Place;
use crate::io::claim::ClaimError;

/// Why a store cannot be opened or used. After opening there are no errors, only misses.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused something.
    #[error("{place}: cannot {what}: {source}")]
    Io {
        /// Which place or file.
        place: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be had: in use, missing, read-only.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// It was written by a newer program.
    #[error(
        "{place} was written by a newer version of epochcache (format {found}): upgrade, or give --format to discard it"
    )]
    Newer {
        /// Which place.
        place: String,
        /// The format's version.
        found: u16,
    },
    /// The limit leaves no room for two segments.
    #[error("the cache size is too small: {needed} bytes are needed at least, {limit} are given")]
    TooSmall {
        /// The limit in bytes.
        limit: u64,
        /// The smallest that works.
        needed: u64,
    },
    /// There is less free space than the limit asks for.
    #[error(
        "{place}: {needed} bytes are needed and {available} are free: make room, or give a smaller cache size"
    )]
    NoSpace {
        /// Which places.
        place: String,
        /// Bytes that are needed in addition.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The place is in memory.
    #[error("{place} is on tmpfs, which is memory: give a directory on a disk")]
    Tmpfs {
        /// Which place.
        place: String,
    },
    /// The place is in use for something else.
    #[error("{place}: {found}: give another place, or --format to overwrite it")]
    Foreign {
        /// Which place.
        place: String,
        /// What is there.
        found: String,
    },
    /// It was lost, and is not what it was before.
    #[error("{place}: {found}")]
    Changed {
        /// Which place.
        place: String,
        /// What is there now.
        found: &'static str,
    },
    /// The configuration cannot be.
    #[error("{0}")]
    Config(String),
}

impl StoreError {
    pub(super) fn io(place: &Place, what: &'static str, source: io::Error) -> Self {
        Self::Io { place: place.to_string(), what, source }
    }
}
