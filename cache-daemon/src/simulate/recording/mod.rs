//! Recorded traces: who read what when, in a file.
//!
//! Written while it happens (`cachectl trace --record`), so a crash loses the last block at most. Integers are
//! little-endian, varints as in protobuf (7 bits a byte, the lowest first, at most 10 bytes).
//!
//! | | | |
//! |---|---|---|
//! | head | 8 bytes | `ECTRACE` and a byte of 0 |
//! | | u32 | version, 1 |
//! | block | u32 | length of the payload, 1 to [`BLOCK_BYTES_MAX`] |
//! | | u32 | CRC-32C of the payload |
//! | | payload | whole records |
//!
//! A record is a use: varints
//! 1. microseconds since the record before it, and since any time for the first;
//! 2. the reader, a number below 2^32 that tells processes apart;
//! 3. the object: its number. Objects are numbered from 0 as they first appear, so the number of the next new one
//!    says that it is new; only then there follow
//! 4. its size,
//! 5. the number of bytes at the start of its path that are those of the path of the new object before it,
//! 6. the number of the other bytes, and these bytes.
//!
//! Some 7 bytes a use, and once its path an object. A file that ends within a block was cut off there: what is before
//! is good. Anything else that is wrong is damage.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use self::read::{Reader, Recorded};
pub use self::write::Recorder;
use super::{Trace, TraceError, Use, next_uses};
use crate::policy::eviction::{ObjectNo, Pattern};

const MAGIC: [u8; 8] = *b"ECTRACE\0";
const VERSION: u32 = 1;
/// A block is written when it has this many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// No payload is longer: a block, and a record with a path of [`PATH_BYTES_MAX`].
pub const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Longer paths than Linux has.
const PATH_BYTES_MAX: usize = 4096;

/// A recorded trace, read once to know what is in it.
pub struct Recording {
    path: PathBuf,
    sizes: Vec<u64>,
    uses: u64,
    data_set_bytes: u64,
    readers: u32,
    cut_off: bool,
    next_uses: OnceLock<Vec<u32>>,
}

impl Recording {
    /// Reads the file once.
    ///
    /// # Errors
    /// If it cannot be read or is no trace.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let mut reader = Reader::new(BufReader::new(File::open(path)?))?;
        let mut recording = Self {
            path: path.to_owned(),
            sizes: Vec::new(),
            uses: 0,
            data_set_bytes: 0,
            readers: 0,
            cut_off: false,
            next_uses: OnceLock::new(),
        };
        let mut readers = std::collections::HashSet::new();
        while let Some(recorded) = reader.next_use()? {
            recording.uses += 1;
            readers.insert(recorded.reader);
            if let Some((size_bytes, _)) = recorded.new {
                recording.sizes.push(size_bytes);
                recording.data_set_bytes = recording.data_set_bytes.saturating_add(size_bytes);
            }
        }
        recording.readers = u32::try_from(readers.len()).unwrap_or(u32::MAX);
        recording.cut_off = reader.was_cut_off();
        Ok(recording)
    }

    /// Processes that read.
    pub fn readers(&self) -> u32 {
        self.readers
    }

    /// Whether the file ends within a block.
    pub fn was_cut_off(&self) -> bool {
        self.cut_off
    }
}

impl Trace for Recording {
    fn objects(&self) -> u32 {
        self.sizes.len() as u32
    }

    fn uses(&self) -> u64 {
        self.uses
    }

    fn data_set_bytes(&self) -> u64 {
        self.data_set_bytes
    }

    fn epochs(&self) -> u32 {
        1
    }

    fn is_exactly_once(&self) -> bool {
        false
    }

    fn replay(&self, future: bool, f: &mut dyn FnMut(&Use) -> bool) -> Result<(), TraceError> {
        if future && self.next_uses.get().is_none() {
            let found = next_uses(self)?;
            // Another thread may have been faster with the same.
            let _ = self.next_uses.set(found);
        }
        let next_uses = self.next_uses.get().filter(|_| future);
        let mut reader = Reader::new(BufReader::new(File::open(&self.path)?))?;
        let mut position = 0;
        while let Some(recorded) = reader.next_use()? {
            let size = self.sizes.get(recorded.object as usize);
            let size_bytes = *size.ok_or(TraceError::Damaged("the file has changed while it was read"))?;
            let next_use = match next_uses.map(|next| next.get(position as usize)) {
                None => 0,
                Some(None | Some(&u32::MAX)) => u64::MAX,
                Some(Some(&next)) => next.into(),
            };
            let used = Use {
                position,
                epoch: 0,
                object: ObjectNo(recorded.object),
                size_bytes,
                pattern: Pattern::General,
                next_use,
                at_ms: Some(recorded.at_us / 1000),
            };
            if !f(&used) {
                break;
            }
            position += 1;
        }
        Ok(())
    }
}
