//! The cache as the frontend's port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuse_frontend::errno::Errno;
use fuse_frontend::source::{Attributes, Backing, Capacity, Entry, FileSource, Ino, Walk, Xattr};
use fuse_frontend::ticket::ReadTicket;

use super::lending::{Lending, Overdue};
use super::{Cache, Deed};
use crate::catalog::NoDirectory;

/// A cache and how long the kernel may believe what it says.
pub struct MountedCache {
    cache: Arc<Cache>,
    lending: Lending,
    ttl: Duration,
}

impl MountedCache {
    /// Serves `cache`; names and attributes are good for `ttl`.
    pub fn new(cache: Arc<Cache>, ttl: Duration) -> Self {
        Self { cache, lending: Lending::default(), ttl }
    }

    /// Files that the kernel reads by itself and that are to be taken back from it.
    pub fn overdue(&self) -> Vec<Overdue> {
        self.lending.overdue()
    }

    /// The kernel let go of a file of `ino` at our word, without telling.
    pub fn returned(&self, ino: Ino) {
        self.lending.returned(ino);
    }
}

impl FileSource for MountedCache {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        self.cache.catalog().lookup_counted(dir, name).map_err(no_directory)?.ok_or(Errno::NOENT)
    }

    fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        self.cache.catalog().attributes(ino).ok_or(Errno::STALE)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.cache.catalog().forget(ino, lookups);
    }

    fn entries(
        &self,
        dir: Ino,
        from: u64,
        count_lookups: bool,
        take: &mut dyn FnMut(Entry<'_>) -> Walk,
    ) -> Result<(), Errno> {
        let catalog = self.cache.catalog();
        let mut counting = |entry: Entry<'_>| {
            let ino = entry.attributes.ino;
            let walk = take(entry);
            if count_lookups && walk == Walk::Continue {
                catalog.looked_up(ino, 1);
            }
            walk
        };
        catalog.entries(dir, from, &mut counting).map_err(no_directory)
    }

    fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        self.cache.catalog().parent(dir).ok_or(Errno::STALE)
    }

    fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        self.cache.catalog().path(ino)
    }

    fn read(&self, ino: Ino, offset: u64, len: u32, ticket: ReadTicket) {
        self.cache.read(ino, offset, len, ticket);
    }

    fn backing(&self, ino: Ino) -> Option<Backing> {
        let object = self.cache.catalog().object(ino)?;
        self.lending.lend(self.cache.store(), ino, &object)
    }

    fn opened(&self, ino: Ino, asker: Option<u32>, passed_through: bool) {
        self.cache.journal().note(ino, 0, 0, Deed::Opened { by: asker, passed_through });
    }

    fn released(&self, ino: Ino) {
        self.lending.returned(ino);
    }

    fn xattr(&self, ino: Ino, xattr: Xattr) -> Result<Bytes, Errno> {
        let object = self.cache.catalog().object(ino).ok_or(Errno::NODATA)?;
        Ok(Bytes::from(match xattr {
            Xattr::Etag => object.etag.to_string(),
            Xattr::Origin => format!("{}/{}", self.cache.origin.url(), object.key),
        }))
    }

    fn capacity(&self) -> Capacity {
        let catalog = self.cache.catalog();
        Capacity { total_bytes: catalog.bytes(), files: catalog.files() }
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }
}

fn no_directory(why: NoDirectory) -> Errno {
    match why {
        NoDirectory::File => Errno::NOTDIR,
        NoDirectory::Stale => Errno::STALE,
    }
}
