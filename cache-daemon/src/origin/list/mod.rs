//! Listings: every key of the data set, once, in pages.
//!
//! Three listers, because object_store's own fails a whole listing on the first key that its `Path`
//! refuses (an empty part, `.`, `..`, a control character: `Path::parse` in `client/s3.rs`):
//! - [`s3`]: our own ListObjectsV2, for everything that speaks S3; in parallel by key ranges.
//! - [`directory`]: our own walk of a local directory.
//! - [`other`]: object_store's, for gs, az, http and the stores of tests. One key that it refuses
//!   fails the listing, with an error that names the key.
//!
//! A page holds at most [`PAGE_KEYS`] keys. Pages come in no order. Which keys can be shown is the
//! catalog's business: they are delivered as the origin spells them. Only the marker of the prefix
//! itself (a key equal to the prefix) is left out, for its relative key would be empty.
//!
//! Invariant: a listing that ends without an error is complete. Whoever removes what is not listed
//! relies on it, so every way out of a lister that is not completion sends an error.

pub mod directory;
mod guess;
pub mod other;
mod progress;
pub mod s3;
pub mod split;
pub mod xml;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::OriginError;
use super::store::Backend;
use super::{Inner, Listed};

/// Keys in a page: what S3 gives at most.
pub const PAGE_KEYS: usize = 1000;

/// Pages that may wait for the catalog: enough for the parallel lister to never wait for it.
const PAGES_WAITING_MAX: usize = 32;

/// A listing under way: pages until `None`; an error is the last thing that comes.
pub type Listing = mpsc::Receiver<Result<Vec<Listed>, OriginError>>;

/// Where a lister sends its pages.
#[derive(Clone)]
pub struct Pages {
    sender: mpsc::Sender<Result<Vec<Listed>, OriginError>>,
    origin: Arc<Inner>,
}

/// The catalog does not want more pages.
#[derive(Debug)]
pub struct Unwanted;

impl Pages {
    /// Hands over a page.
    pub async fn send(&self, page: Vec<Listed>) -> Result<(), Unwanted> {
        self.count(&page);
        self.sender.send(Ok(page)).await.map_err(|_| Unwanted)
    }

    /// Hands over a page from a thread that may block.
    pub fn send_blocking(&self, page: Vec<Listed>) -> Result<(), Unwanted> {
        self.count(&page);
        self.sender.blocking_send(Ok(page)).map_err(|_| Unwanted)
    }

    fn count(&self, page: &[Listed]) {
        self.origin.figures.keys_listed.add(page.len() as u64);
    }
}

/// Why a lister stopped early.
pub enum Stopped {
    /// The origin failed.
    Failed(OriginError),
    /// Nobody listens.
    Unwanted,
}

impl From<Unwanted> for Stopped {
    fn from(_: Unwanted) -> Self {
        Stopped::Unwanted
    }
}

impl From<OriginError> for Stopped {
    fn from(error: OriginError) -> Self {
        Stopped::Failed(error)
    }
}

/// Starts to list `origin` on the current runtime.
pub fn start(origin: Arc<Inner>) -> Listing {
    let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
    let pages = Pages { sender: sender.clone(), origin: origin.clone() };
    tokio::spawn(async move {
        let url = origin.url.clone();
        // A task of its own: a lister that panics must not look like one that is done.
        let outcome = tokio::spawn(async move { list(&origin, &pages).await }).await;
        let error = match outcome {
            Ok(Ok(()) | Err(Stopped::Unwanted)) => return,
            Ok(Err(Stopped::Failed(error))) => error,
            Err(panic) => OriginError::Unreachable { url, cause: format!("the listing broke off: {panic}") },
        };
        // Nobody listening is fine.
        let _ = sender.send(Err(error)).await;
    });
    receiver
}

async fn list(origin: &Arc<Inner>, pages: &Pages) -> Result<(), Stopped> {
    match &origin.store.backend {
        Backend::S3(bucket) => s3::Lister::new(origin, bucket).list(pages).await,
        Backend::Directory(directory) => directory::list(origin, &directory.root, pages).await,
        Backend::Other { listing, .. } => other::list(origin, listing.as_ref(), pages).await,
    }
}
