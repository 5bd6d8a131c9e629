//! An object store that misbehaves: for tests of everything above the origin.
//!
//! Wraps another store and spoils a share of its GETs, in the ways that origins spoil them: errors,
//! stalls, bodies cut short, and a reply of another version than the one asked for. Which are spoiled
//! follows from the seed and the order of the requests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What goes wrong, and how often: shares of all GETs, tried in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Answered with an error, as a server's 500.
    pub fail: f64,
    /// Answered only after `stall_for`.
    pub stall: f64,
    /// How long a stall lasts.
    pub stall_for: Duration,
    /// The body ends early, without an error.
    pub truncate: f64,
    /// The reply carries another ETag.
    pub change_etag: f64,
}

/// A store whose GETs fail now and then.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<Faults>,
    dice: Mutex<StdRng>,
    gets: AtomicU64,
    spoiled: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fail,
    Stall,
    Truncate,
    ChangeEtag,
}

impl Faulty {
    /// Spoils GETs of `inner` as `faults` says; `seed` decides which.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults, seed: u64) -> Self {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        Self { inner, faults: Mutex::new(faults), dice, gets: AtomicU64::new(0), spoiled: AtomicU64::new(0) }
    }

    /// Goes on with other faults.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// GETs so far, HEADs not included.
    pub fn gets(&self) -> u64 {
        self.gets.load(Relaxed)
    }

    /// Of them, those that were spoiled.
    pub fn spoiled(&self) -> u64 {
        self.spoiled.load(Relaxed)
    }

    fn draw(&self) -> Option<Fault> {
        let faults = self.faults.lock().clone();
        let mut drawn: f64 = self.dice.lock().random();
        let shares = [
            (faults.fail, Fault::Fail),
            (faults.stall, Fault::Stall),
            (faults.truncate, Fault::Truncate),
            (faults.change_etag, Fault::ChangeEtag),
        ];
        for (share, fault) in shares {
            if drawn < share {
                self.spoiled.fetch_add(1, Relaxed);
                return Some(fault);
            }
            drawn -= share;
        }
        None
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        self.gets.fetch_add(1, Relaxed);
        match self.draw() {
            None => self.inner.get_opts(location, options).await,
            Some(Fault::Fail) => {
                Err(Error::Generic { store: "Faulty", source: "injected failure".to_owned().into() })
            }
            Some(Fault::Stall) => {
                let stall_for = self.faults.lock().stall_for;
                tokio::time::sleep(stall_for).await;
                self.inner.get_opts(location, options).await
            }
            Some(Fault::Truncate) => truncated(self.inner.get_opts(location, options).await?).await,
            Some(Fault::ChangeEtag) => {
                let mut result = self.inner.get_opts(location, options).await?;
                result.meta.e_tag = Some("\"changed-by-a-fault\"".to_owned());
                Ok(result)
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// `result` with the second half of its body missing.
async fn truncated(result: GetResult) -> Result<GetResult> {
    let GetResult { meta, range, attributes, extensions, payload } = result;
    let whole = GetResult {
        meta: meta.clone(),
        range: range.clone(),
        attributes: attributes.clone(),
        extensions: extensions.clone(),
        payload,
    };
    let body: Vec<Bytes> = whole.into_stream().try_collect().await?;
    let body = body.concat();
    let half = Bytes::copy_from_slice(&body[..body.len() / 2]);
    let payload = GetResultPayload::Stream(stream::iter([Ok(half)]).boxed());
    Ok(GetResult { meta, range, attributes, extensions, payload })
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}
