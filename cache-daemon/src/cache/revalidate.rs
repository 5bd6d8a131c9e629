//! Revalidation: what changed at the origin, told to the catalog and then to the kernel.
//!
//! Two things start it: a fetch that found its version gone (that node alone, at once), and the interval
//! that the user set (the whole listing). Notifications wait for folios that an unanswered READ has
//! locked (Linux `fs/fuse/inode.c`, `fuse_reverse_inval_inode`), so they run on a thread that no reply
//! depends on: `tokio`'s blocking pool, which serves nothing else of ours.

use std::sync::Arc;
use std::time::Duration;

use fuse_frontend::source::Ino;
use tokio::sync::mpsc;

use super::Cache;
use crate::catalog::{Builder, Change, Item};
use crate::origin::Listed;

/// Tells the kernel what it must no longer believe. May block; never called on a thread that answers reads.
pub trait Announce: Send + Sync + 'static {
    /// `name` in `parent` names another node, or none.
    fn entry_changed(&self, parent: Ino, name: &[u8]);
}

/// Keeps a catalog true to its origin while it is mounted.
pub struct Revalidation {
    cache: Arc<Cache>,
    announce: Arc<dyn Announce>,
    /// Time between listings; `None`: the data set is immutable.
    every: Option<Duration>,
}

impl Revalidation {
    /// Revalidates the catalog of `cache` `every` so often.
    pub fn new(cache: Arc<Cache>, announce: Arc<dyn Announce>, every: Option<Duration>) -> Self {
        Self { cache, announce, every }
    }

    /// Runs until the cache's end of `outdated` is gone. With `at_once`, begins with a listing: the
    /// catalog came from a snapshot.
    pub async fn run(self, mut outdated: mpsc::Receiver<Ino>, at_once: bool) {
        let first = if at_once { Duration::ZERO } else { self.every.unwrap_or_default() };
        let mut next = tokio::time::Instant::now() + first;
        loop {
            let due = tokio::time::sleep_until(next);
            tokio::select! {
                ino = outdated.recv() => match ino {
                    Some(ino) => self.one(ino).await,
                    None => return,
                },
                () = due, if self.every.is_some() => {
                    self.all().await;
                    next = tokio::time::Instant::now() + self.every.unwrap_or_default();
                }
            }
        }
    }

    /// Looks at the object of `ino` alone.
    async fn one(&self, ino: Ino) {
        let catalog = self.cache.catalog();
        let Some(object) = catalog.object(ino) else { return };
        match self.cache.origin.head(&object.key).await {
            Ok(Some(listed)) => self.tell(catalog.update(item(listed)).into_iter().collect()).await,
            Ok(None) => self.tell(catalog.remove(&object.key).into_iter().collect()).await,
            Err(error) => tracing::warn!(key = %object.key, %error, "cannot look for its new version"),
        }
    }

    /// Lists the whole data set.
    async fn all(&self) {
        let catalog = self.cache.catalog();
        let mut builder = Builder::new(self.cache.origin.url());
        let mut pages = self.cache.origin.list();
        while let Some(page) = pages.recv().await {
            match page {
                Ok(page) => page.into_iter().for_each(|listed| builder.add(item(listed))),
                Err(error) => return tracing::warn!(%error, "the data set could not be listed: names stay as they were"),
            }
        }
        self.tell(catalog.apply(builder)).await;
    }

    async fn tell(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        tracing::info!(changes = changes.len(), "the data set changed at the origin");
        let announce = self.announce.clone();
        let told = tokio::task::spawn_blocking(move || {
            for change in &changes {
                announce.entry_changed(change.parent, &change.name);
            }
        });
        if told.await.is_err() {
            tracing::error!("telling the kernel of changed names failed");
        }
    }
}

fn item(listed: Listed) -> Item {
    Item { key: listed.key, size_bytes: listed.size_bytes, modified: listed.modified, etag: listed.etag }
}
