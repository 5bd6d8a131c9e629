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
use crate::catalog::{Builder, Change};

/// Objects that are gone are seldom alone: the listing that they cause waits for the others.
const GONE_LISTING: Duration = Duration::from_secs(2);

/// Tells the kernel what it must no longer believe. May block; never called on a thread that answers reads.
pub trait Announce: Send + Sync + 'static {
    /// A name leads elsewhere, or attributes changed.
    fn changed(&self, change: &Change);
}

/// Keeps a catalog true to its origin while it is mounted.
pub struct Revalidation {
    cache: Arc<Cache>,
    announce: Arc<dyn Announce>,
    /// Time between listings; `None`: none are made by themselves.
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
        let now = tokio::time::Instant::now();
        let mut next = if at_once { Some(now) } else { self.every.map(|every| now + every) };
        loop {
            let due = tokio::time::sleep_until(next.unwrap_or(now));
            tokio::select! {
                ino = outdated.recv() => match ino {
                    Some(ino) => {
                        if self.one(ino).await == Outcome::Gone {
                            let soon = tokio::time::Instant::now() + GONE_LISTING;
                            next = next.map(|next| next.min(soon));
                        }
                    }
                    None => return,
                },
                () = due, if next.is_some() => {
                    self.all().await;
                    next = self.every.map(|every| tokio::time::Instant::now() + every);
                }
            }
        }
    }

    /// Looks at the object of `ino` alone.
    async fn one(&self, ino: Ino) -> Outcome {
        let catalog = self.cache.catalog();
        let Some(object) = catalog.object(ino) else { return Outcome::Seen };
        match self.cache.origin.head(&object.key).await {
            // Still there: the origin answered another request with something stale, or its listing has no ETags.
            Ok(Some(listed)) if listed.is_version(&object.etag) => Outcome::Seen,
            Ok(Some(listed)) => {
                let replaced = catalog.replace(ino, &listed).map(Change::Replaced);
                self.tell(replaced.into_iter().collect()).await;
                Outcome::Seen
            }
            Ok(None) => Outcome::Gone,
            Err(error) => {
                tracing::warn!(key = %object.key, %error, "cannot look for its new version");
                Outcome::Seen
            }
        }
    }

    /// Lists the whole data set.
    async fn all(&self) {
        let catalog = self.cache.catalog();
        let mut builder = Builder::new(self.cache.origin.url());
        let mut pages = self.cache.origin.list();
        while let Some(page) = pages.recv().await {
            match page {
                Ok(page) => page.into_iter().for_each(|listed| builder.add(listed)),
                Err(error) => {
                    return tracing::warn!(%error, "the data set could not be listed: names stay as they were");
                }
            }
        }
        let applying = catalog.clone();
        // A second or so of sorting for a million files: not on a thread that answers readers.
        match tokio::task::spawn_blocking(move || applying.apply(builder)).await {
            Ok((changes, _)) => self.tell(changes).await,
            Err(error) => tracing::error!(%error, "a new listing could not be applied"),
        }
    }

    async fn tell(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        tracing::info!(changes = changes.len(), "the data set changed at the origin");
        let announce = self.announce.clone();
        let told = tokio::task::spawn_blocking(move || {
            changes.iter().for_each(|change| announce.changed(change));
        });
        if told.await.is_err() {
            tracing::error!("telling the kernel of changed names failed");
        }
    }
}

/// What became of a node whose version the origin no longer has.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// Its name leads to what is there now, or will be looked at again.
    Seen,
    /// The object is gone: only a listing tells what is left of its directories.
    Gone,
}
