//! What an object is: a key, one version of it (its ETag), a size, and the fingerprint of all three.
//!
//! Cached bytes belong to a version. A new ETag is a new object with another fingerprint, so nothing
//! is ever invalidated: what is old is only forgotten.

use std::fmt;
use std::sync::Arc;

/// Bytes of object data in one extent, and the alignment of extents in an object: 1 MiB, the largest
/// read that FUSE sends (`FUSE_MAX_MAX_PAGES` = 256 pages, Linux `fs/fuse/fuse_i.h`).
pub const CHUNK_BYTES: u64 = 1 << 20;

/// The key of an object in its bucket, as the origin spells it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<str>);

/// The origin's name for one version of an object, opaque, quotes included if the origin sends them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Etag(Arc<str>);

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// Wraps `text` as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text as the origin spells it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}
text_newtype!(ObjectKey);
text_newtype!(Etag);

/// The identity of one version of an object: 128 bits of BLAKE3 over origin, key, ETag and size.
///
/// Stands for (key, ETag) wherever the text is too long: in the index, in the header of an extent.
/// Two versions sharing one would take 2^64 objects by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of `key` at version `etag`, `size_bytes` long, in the data set `origin` (its URL).
    pub fn of(origin: &str, key: &str, etag: &str, size_bytes: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in [origin, key, etag] {
            // The length goes first, so that no two triples give the same stream of bytes.
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&size_bytes.to_le_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One version of an object: all that a fill needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key at the origin.
    pub key: ObjectKey,
    /// Its version.
    pub etag: Etag,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Identity of the three above.
    pub fingerprint: Fingerprint,
}

impl Object {
    /// The number of chunks of [`CHUNK_BYTES`] that hold the object; the last may be short.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(CHUNK_BYTES)).expect("catalogued sizes are below 2^52")
    }

    /// Bytes of data in chunk `chunk`: 0 past the end of the object.
    pub fn chunk_bytes(&self, chunk: u32) -> u32 {
        let start = u64::from(chunk) * CHUNK_BYTES;
        self.size_bytes.saturating_sub(start).min(CHUNK_BYTES) as u32
    }
}

/// Names one chunk of one version: the key of the index and of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExtentKey {
    /// The version that the bytes belong to.
    pub object: Fingerprint,
    /// Position in the object, in units of [`CHUNK_BYTES`].
    pub chunk: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_apart_what_concatenation_would_not() {
        let a = Fingerprint::of("s3://b", "ab", "c", 1);
        assert_ne!(a, Fingerprint::of("s3://b", "a", "bc", 1));
        assert_ne!(a, Fingerprint::of("s3://b", "ab", "c", 2));
        assert_eq!(a, Fingerprint::of("s3://b", "ab", "c", 1));
    }

    #[test]
    fn the_last_chunk_is_short() {
        let object = Object {
            key: ObjectKey::new("k"),
            etag: Etag::new("e"),
            size_bytes: 2 * CHUNK_BYTES + 5,
            fingerprint: Fingerprint([0; 16]),
        };
        assert_eq!(object.chunks(), 3);
        assert_eq!([0, 1, 2, 3].map(|chunk| object.chunk_bytes(chunk)), [1 << 20, 1 << 20, 5, 0]);
    }
}
