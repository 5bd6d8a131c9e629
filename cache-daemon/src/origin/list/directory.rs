//! A walk of a local directory.
//!
//! Symbolic links are followed, as they are when files are read; a link back to a directory above it
//! is passed over. Sockets, pipes and devices are passed over. Names that are not UTF-8 are counted and
//! left out: keys are text.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{PAGE_KEYS, Pages, Stopped};
use crate::origin::error::OriginError;
use crate::origin::{Inner, Listed, RequestKind, directory};

/// Lists `root`.
pub async fn list(origin: &Arc<Inner>, root: &Path, pages: &Pages) -> Result<(), Stopped> {
    origin.figures.count_sent(RequestKind::List);
    let mut walk = Walk {
        origin: origin.clone(),
        root: root.to_owned(),
        pages: pages.clone(),
        page: Vec::with_capacity(PAGE_KEYS),
        above: Vec::new(),
    };
    let url = origin.url.clone();
    let walked = tokio::task::spawn_blocking(move || {
        walk.directory("")?;
        Ok(walk.pages.send_blocking(walk.page)?)
    });
    walked.await.unwrap_or_else(|panic| {
        Err(OriginError::Unreachable { url, cause: format!("the walk broke off: {panic}") }.into())
    })
}

struct Walk {
    origin: Arc<Inner>,
    root: PathBuf,
    pages: Pages,
    page: Vec<Listed>,
    /// Device and inode of the directories that we are in.
    above: Vec<(u64, u64)>,
}

impl Walk {
    /// Lists the directory with relative key `key`: empty, or ending with `/`.
    fn directory(&mut self, key: &str) -> Result<(), Stopped> {
        let path = self.root.join(key);
        let identity = match std::fs::metadata(&path) {
            Ok(metadata) => (metadata.dev(), metadata.ino()),
            Err(error) => return self.failed(key, &error),
        };
        if self.above.contains(&identity) {
            return Ok(());
        }
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => return self.failed(key, &error),
        };
        self.above.push(identity);
        let mut below = Vec::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.failed(key, &error),
            };
            let Ok(name) = entry.file_name().into_string() else {
                self.origin.figures.keys_not_utf8.increment();
                continue;
            };
            // Follows links; a dangling one, or a file removed since, is not there.
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            let key = format!("{key}{name}");
            if metadata.is_dir() {
                below.push(format!("{key}/"));
            } else if metadata.is_file() {
                self.deliver(key, &metadata)?;
            }
        }
        for key in below {
            self.directory(&key)?;
        }
        self.above.pop();
        Ok(())
    }

    fn deliver(&mut self, key: String, metadata: &Metadata) -> Result<(), Stopped> {
        self.page.push(directory::listed(key, metadata));
        if self.page.len() == PAGE_KEYS {
            let page = std::mem::replace(&mut self.page, Vec::with_capacity(PAGE_KEYS));
            self.pages.send_blocking(page)?;
        }
        Ok(())
    }

    /// A directory removed during the walk is empty; any other error ends the listing, which would not
    /// be complete.
    fn failed(&self, key: &str, error: &std::io::Error) -> Result<(), Stopped> {
        if error.kind() == std::io::ErrorKind::NotFound && !key.is_empty() {
            return Ok(());
        }
        let url = self.origin.url.clone();
        Err(OriginError::Unreachable {
            url,
            cause: format!("cannot list {}: {error}", self.root.join(key).display()),
        }
        .into())
    }
}
