//! A volume as a file of a repository: only the pages of it that are not zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE_BYTES: usize = 4096;

/// What `path`, a volume, holds: its length, then each page that is not zero behind its offset. Numbers are
/// little-endian, of 8 bytes.
pub fn pack(path: &Path) -> io::Result<Vec<u8>> {
    let volume = std::fs::read(path)?;
    let mut packed = (volume.len() as u64).to_le_bytes().to_vec();
    for (number, page) in (0_u64..).zip(volume.chunks(PAGE_BYTES)) {
        if page.iter().any(|byte| *byte != 0) {
            packed.extend_from_slice(&(number * PAGE_BYTES as u64).to_le_bytes());
            packed.extend_from_slice(page);
        }
    }
    Ok(packed)
}

/// Makes the volume of `packed` at `path`.
pub fn unpack(packed: &[u8], path: &Path) -> io::Result<()> {
    let volume = File::create(path)?;
    let (length, pages) = packed.split_first_chunk().expect("it begins with the length");
    volume.set_len(u64::from_le_bytes(*length))?;
    for page in pages.chunks(8 + PAGE_BYTES) {
        let (offset, page) = page.split_first_chunk().expect("each page is behind its offset");
        volume.write_all_at(page, u64::from_le_bytes(*offset))?;
    }
    Ok(())
}
