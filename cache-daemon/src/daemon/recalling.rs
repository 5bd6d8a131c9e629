//! Recalling: the orders of earlier epochs, kept in the cache directory over restarts.
//!
//! Files are noted by their catalog numbers, which unchanged objects keep. A catalog that was made anew may number
//! them otherwise, so of each order a few paths are noted too, and one of which most do not fit is dropped.
//! What is damaged is dropped as a whole: an order that is gone costs the prefetches of one epoch.
//!
//! The file, little-endian: magic, version, count; of each order part, run, number of files, the files, and
//! [`SAMPLES`] checksums of paths; at the end the CRC-32C of all before it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuse_frontend::source::Ino;

use crate::access::{EpochSummary, FileNo, History, Kept, Recall, Touch};
use crate::catalog::Catalog;
use crate::checksum::crc32c;
use crate::policy::readahead::{Order, Purpose};

/// The orders in the cache directory.
const FILE_NAME: &str = "recalled";

const MAGIC: &[u8; 8] = b"EPOCHORD";
const VERSION: u32 = 1;

/// Paths of an order that are noted.
const SAMPLES: usize = 16;

/// Orders take this share of `--cache-size` at most, and so many bytes.
const SHARE: u64 = 512;
const BYTES_MAX: u64 = 64 << 20;

/// How often they are written at most.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// The orders of earlier epochs.
pub(super) struct Recalling {
    recall: Recall,
    path: PathBuf,
    is_dirty: bool,
    wrote: Option<Instant>,
}

impl Recalling {
    /// Those in `cache_dir`, of files of `catalog`. `cache_bytes`: the cache's limit.
    pub fn open(cache_dir: &Path, cache_bytes: u64, catalog: &Catalog) -> Self {
        let path = cache_dir.join(FILE_NAME);
        let bytes_max = (cache_bytes / SHARE).min(BYTES_MAX) as usize;
        let kept = match fs::read(&path) {
            Ok(bytes) => decode(&bytes, &|file| path_crc(catalog, file)).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "the orders of earlier epochs are damaged: not used");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self { recall: Recall::new(bytes_max, kept), path, is_dirty: false, wrote: None }
    }

    /// A file was touched.
    pub fn touched(&mut self, history: &History, touch: &Touch) {
        if touch.begins
            && let Some(rank) = history.table().rank(touch.file)
        {
            let who = (touch.group, history.table().part_of(rank));
            self.recall.reading(who, touch.file, touch.at_ns, history.table().len());
        }
    }

    /// An epoch has ended.
    pub fn ended(&mut self, history: &History, summary: &EpochSummary) {
        self.recall.ended(history, summary);
    }

    /// Orders that are being read again, found since it was last asked.
    pub fn take_recalled(&mut self) -> Vec<Order> {
        let orders = self.recall.take_recalled().into_iter().map(|recalled| {
            tracing::info!(
                files = recalled.files.len(),
                at = recalled.at,
                by = recalled.group,
                "an order is read that was read before"
            );
            let order = Order::new(Purpose::Recalled, recalled.files.iter().copied());
            let name = format!("recalled by {} in {}", recalled.group, recalled.part);
            let mut order = order.recalled(recalled.at).named(&name);
            recalled.read.iter().for_each(|&file| order.reading(file, 0));
            order
        });
        orders.collect()
    }

    /// Keeps what jobs that have stopped have read, and writes what is new.
    pub fn settle(&mut self, history: &History, catalog: &Catalog, now_ns: u64) {
        self.recall.settle(history, now_ns, false);
        self.is_dirty |= self.recall.take_news();
        if self.is_dirty && self.wrote.is_none_or(|wrote| wrote.elapsed() >= WRITE_EVERY) {
            self.write(catalog);
        }
    }

    /// Keeps what was read, and writes it.
    pub fn close(&mut self, history: &History, catalog: &Catalog) {
        self.recall.settle(history, 0, true);
        if self.recall.take_news() || self.is_dirty {
            self.write(catalog);
        }
    }

    /// Orders that are kept, and the bytes of memory of all.
    pub fn kept(&self) -> (usize, usize) {
        (self.recall.kept().len(), self.recall.memory_bytes())
    }

    fn write(&mut self, catalog: &Catalog) {
        (self.is_dirty, self.wrote) = (false, Some(Instant::now()));
        let bytes = encode(self.recall.kept(), &|file| path_crc(catalog, file));
        let beside = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&beside, &self.path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&beside);
            tracing::warn!(%error, path = %self.path.display(), "the orders of epochs are not kept over a restart");
        }
    }
}

fn path_crc(catalog: &Catalog, file: FileNo) -> u32 {
    catalog.path(Ino(u64::from(file.0))).map_or(0, |path| crc32c(&path))
}

/// The files of an order whose paths are noted.
fn samples(files: &[FileNo]) -> impl Iterator<Item = FileNo> + '_ {
    (0..SAMPLES).map(|at| files[at * files.len() / SAMPLES])
}

fn encode(kept: &[Kept], path_crc: &dyn Fn(FileNo) -> u32) -> Vec<u8> {
    let mut words = vec![VERSION, kept.len() as u32];
    for order in kept {
        words.extend([order.part, order.run, order.files.len() as u32]);
        words.extend(order.files.iter().map(|file| file.0));
        words.extend(samples(&order.files).map(path_crc));
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(crc32c(&bytes).to_le_bytes());
    bytes
}

/// The orders in `bytes`, but those whose paths are others now; `None` if they are not what was written.
fn decode(bytes: &[u8], path_crc: &dyn Fn(FileNo) -> u32) -> Option<Vec<Kept>> {
    let (signed, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c(signed) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = signed.strip_prefix(MAGIC)?;
    let mut word = || -> Option<u32> {
        let (word, behind) = rest.split_first_chunk::<4>()?;
        rest = behind;
        Some(u32::from_le_bytes(*word))
    };
    if word()? != VERSION {
        return None;
    }
    let mut kept = Vec::new();
    for _ in 0..word()? {
        let (part, run, len) = (word()?, word()?, word()?);
        let files: Option<Vec<FileNo>> = (0..len).map(|_| word().map(FileNo)).collect();
        let files = files.filter(|files| !files.is_empty())?;
        let mut fitting = 0;
        for file in samples(&files) {
            fitting += usize::from(word()? == path_crc(file));
        }
        if fitting * 4 >= SAMPLES * 3 {
            kept.push(Kept { part, run, files: files.into() });
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn orders() -> impl Strategy<Value = Vec<Kept>> {
        let files = proptest::collection::vec(any::<u32>().prop_map(FileNo), 1..300);
        let order = (any::<u32>(), any::<u32>(), files);
        let order = order.prop_map(|(part, run, files)| Kept { part, run, files: files.into() });
        proptest::collection::vec(order, 0..5)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_numbered_otherwise_is_dropped(kept in orders()) {
            let bytes = encode(&kept, &|file| file.0 ^ 7);
            prop_assert_eq!(decode(&bytes, &|file| file.0 ^ 7), Some(kept));
            prop_assert_eq!(decode(&bytes, &|file| file.0 ^ 8), Some(Vec::new()));
        }

        #[test]
        fn what_is_damaged_is_dropped_as_a_whole(kept in orders(), at: prop::sample::Index, flip in 1..=255_u8, cut: prop::sample::Index) {
            let mut bytes = encode(&kept, &|file| file.0);
            prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())], &|file| file.0), None);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes, &|file| file.0), None);
        }

        /// Signed as if it were whole.
        #[test]
        fn any_words_are_orders_or_nothing(words in proptest::collection::vec(0_u32..20, 0..100)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend([VERSION].into_iter().chain(words).flat_map(u32::to_le_bytes));
            bytes.extend(crc32c(&bytes).to_le_bytes());
            let _ = decode(&bytes, &|file| file.0);
        }
    }
}
