//! A local directory as an origin.
//!
//! Read by ourselves rather than by object_store's `LocalFileSystem`, which refuses names that end with
//! `#12`, has no path for control characters, and does not look again after it has read.
//!
//! A version is inode, modification time and size. It is compared before and after the bytes are read,
//! so a file that is rewritten in place meanwhile counts as replaced. The granularity of the file
//! system's clock (4 ms with HZ=250, before Linux 6.13) is what remains.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use super::failure::{Cause, Failure};
use super::{Listed, etag};
use crate::object::Etag;

/// A directory and everything below it.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Absolute.
    pub root: PathBuf,
}

impl Directory {
    /// Reads `range` of version `etag` of file `key`.
    pub async fn read(&self, key: &str, etag: &Etag, range: Range<u64>) -> Result<Bytes, Failure> {
        let path = self.path(key)?;
        let asked = etag.clone();
        blocking(move || read(&path, &asked, &range)).await
    }

    /// File `key` as it is now.
    pub async fn head(&self, key: &str) -> Result<Listed, Failure> {
        let path = self.path(key)?;
        let key = key.to_owned();
        blocking(move || Ok(listed(key, &regular(std::fs::metadata(&path))?))).await
    }

    /// Where `key` is. Keys come from our own walk, but nothing above the root is ever opened.
    pub fn path(&self, key: &str) -> Result<PathBuf, Failure> {
        let names_file = key.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
        match names_file {
            true => Ok(self.root.join(key)),
            false => Err(Failure::new(Cause::Refused, format!("`{}` names no file", key.escape_debug()))),
        }
    }
}

/// The file with `metadata` as a listing shows it.
pub fn listed(key: String, metadata: &Metadata) -> Listed {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Listed { key, size_bytes: metadata.len(), modified, etag: version(metadata) }
}

fn version(metadata: &Metadata) -> Etag {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    Etag::new(format!("\"{:x}-{seconds:x}.{nanos:x}-{:x}\"", metadata.ino(), metadata.len()))
}

fn read(path: &Path, asked: &Etag, range: &Range<u64>) -> Result<Bytes, Failure> {
    let file = File::open(path).map_err(|error| failure(&error))?;
    same_version(&file, asked)?;
    let length = usize::try_from(range.end - range.start).expect("ranges are of extents, 1 MiB or so");
    let mut bytes = vec![0; length];
    let outcome = file.read_exact_at(&mut bytes, range.start);
    // Looked at first: a file cut short is another version, not a short body.
    same_version(&file, asked)?;
    outcome.map_err(|error| failure(&error))?;
    Ok(bytes.into())
}

fn same_version(file: &File, asked: &Etag) -> Result<(), Failure> {
    let found = version(&regular(file.metadata())?);
    match etag::same(found.as_str(), asked.as_str()) {
        true => Ok(()),
        false => Err(Failure::new(Cause::Replaced, format!("the file is of version {found}"))),
    }
}

fn regular(metadata: io::Result<Metadata>) -> Result<Metadata, Failure> {
    match metadata.map_err(|error| failure(&error))? {
        metadata if metadata.is_file() => Ok(metadata),
        _ => Err(Failure::new(Cause::Gone, "not a regular file any more")),
    }
}

fn failure(error: &io::Error) -> Failure {
    let cause = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Cause::Gone,
        ErrorKind::PermissionDenied => Cause::Denied,
        ErrorKind::UnexpectedEof => Cause::ShortBody,
        // EIO of a disk or of a network file system: may pass.
        _ => Cause::ServerError,
    };
    Failure::new(cause, error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Failure::new(Cause::Refused, format!("the read broke off: {panic}"))))
}
