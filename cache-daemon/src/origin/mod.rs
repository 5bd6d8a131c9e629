//! The object store that a data set comes from: read a range of a version, list everything, look at one.
//!
//! An [`Origin`] is opened from a URL. It gives three answers about a read and no fourth: exactly the
//! bytes asked for of exactly the version asked for; "another version" or "gone"; or a failure, after the
//! last attempt that fits the deadline. Everything between (timeouts, throttling, broken connections, short
//! bodies) is repeated inside.
//!
//! - `location` takes URLs apart; `connect` finds the store: `s3` with `aws_profile` and `oss`, or
//!   object_store's own clients. `environment` is the variables they read.
//! - `limit` admits requests, `retry` repeats them, `failure` says why one failed, `wire` is the HTTP
//!   client. [`faulty`] is a store for tests that misbehaves.
//! - `list` delivers keys, `etag` compares versions.
//!
//! Invariants
//! - Every GET asks for a version (`If-Match`) where the origin has ETags that can be asked for, and the
//!   reply's ETag is compared in any case. Bytes of two versions are never mixed.
//! - A GET returns `range` in full or fails.
//! - At most `requests_in_flight_max` requests are in flight, listings included.

mod aws_profile;
mod connect;
mod environment;
mod error;
mod etag;
mod failure;
pub mod faulty;
mod limit;
mod list;
mod location;
mod oss;
mod retry;
mod s3;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::time::Instant;

pub use error::{FetchError, OriginError};
pub use failure::Cause;
pub use list::Listing;

use crate::object::{Etag, ObjectKey};
use crate::stats::origin::OriginFigures;
use environment::Environment;
use failure::{Failure, Notes};
use limit::Limit;
use location::Location;
use retry::{GivenUp, Retry};

/// How an origin is reached. What is not given comes from the environment and the AWS files.
#[derive(Clone, Debug, Default)]
pub struct OriginOptions {
    /// URL of an S3-compatible server (or of a GCS or Azure emulator).
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// The bucket in the path (`true`) or in the host name. Without it: in the path for endpoints that
    /// are not Amazon's or Alibaba's.
    pub path_style: Option<bool>,
    /// Accept an `http://` endpoint on another machine.
    pub allow_http: bool,
    /// Do not sign requests: for public buckets.
    pub anonymous: bool,
    /// Profile of `~/.aws`; named here, it beats the keys in the environment.
    pub profile: Option<String>,
    /// What requests may cost.
    pub limits: OriginLimits,
}

/// What requests to an origin may cost.
#[derive(Clone, Debug)]
pub struct OriginLimits {
    /// Requests in flight at once; readahead gets three quarters of them.
    pub requests_in_flight_max: usize,
    /// Time for one attempt, from sending to the last byte.
    pub request_timeout: Duration,
    /// Time for one read with all its attempts, pauses and waiting.
    pub deadline: Duration,
    /// Attempts for one read.
    pub attempts_max: u32,
    /// The pause after the first failure, before jitter; later ones are longer.
    pub first_pause: Duration,
    /// Seed of the jitter of pauses; without it, from the system.
    pub jitter_seed: Option<u64>,
}

impl Default for OriginLimits {
    fn default() -> Self {
        Self {
            requests_in_flight_max: 64,
            // Three attempts that stall fit the deadline, and 1 MiB arrives at 70 KiB/s.
            request_timeout: Duration::from_secs(15),
            deadline: Duration::from_secs(60),
            attempts_max: 12,
            // A few round trips within a region.
            first_pause: Duration::from_millis(100),
            jitter_seed: None,
        }
    }
}

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestSource {
    /// A reader.
    Demand,
    /// Nobody yet.
    Readahead,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Bytes of an object.
    Get,
    /// Keys.
    List,
    /// One object's attributes.
    Head,
}

/// One object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key relative to the prefix, otherwise exactly as the origin spells it.
    pub key: String,
    /// Its length.
    pub size_bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
    /// Its version.
    pub etag: Etag,
}

/// The object store of one data set. Cheap to clone.
#[derive(Clone)]
pub struct Origin(Arc<Inner>);

struct Inner {
    url: String,
    prefix: String,
    store: Store,
    retry: Retry,
    limit: Limit,
    figures: Arc<OriginFigures>,
}

/// What is behind an origin; they differ in how they are listed.
enum Store {
    S3(Box<s3::S3>),
    Directory { store: LocalFileSystem, root: PathBuf },
    Other { reads: Arc<dyn ObjectStore>, listing: Arc<dyn ObjectStore> },
}

impl Store {
    fn over(store: Arc<dyn ObjectStore>) -> Self {
        Store::Other { reads: store.clone(), listing: store }
    }

    fn reads(&self) -> &dyn ObjectStore {
        match self {
            Store::S3(bucket) => &bucket.store,
            Store::Directory { store, .. } => store,
            Store::Other { reads, .. } => reads,
        }
    }
}

impl Origin {
    /// Opens the origin at `url`. Sends nothing: see [`Origin::check`].
    ///
    /// # Errors
    /// A URL that means nothing, options or credentials that do not fit it, a missing local directory.
    pub fn open(
        url: &str,
        options: &OriginOptions,
        figures: Arc<OriginFigures>,
    ) -> Result<Self, OriginError> {
        let location = Location::parse(url)?;
        let store = connect::connect(&location, options, &Environment::of_process())?;
        Ok(Self::new(location.canonical(), location.prefix, store, &options.limits, figures))
    }

    /// An origin over `store`, for tests. The prefix of keys is that of `url`; a URL that means nothing
    /// is taken as a name without a prefix.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        url: &str,
        limits: OriginLimits,
        figures: Arc<OriginFigures>,
    ) -> Self {
        let (url, prefix) = match Location::parse(url) {
            Ok(location) => (location.canonical(), location.prefix),
            Err(_) => (url.trim_end_matches('/').to_owned(), String::new()),
        };
        Self::new(url, prefix, Store::over(store), &limits, figures)
    }

    fn new(
        url: String,
        prefix: String,
        store: Store,
        limits: &OriginLimits,
        figures: Arc<OriginFigures>,
    ) -> Self {
        let retry = Retry::new(limits, figures.clone());
        let limit = Limit::new(limits.requests_in_flight_max, limits.request_timeout, figures.clone());
        Self(Arc::new(Inner { url, prefix, store, retry, limit, figures }))
    }

    /// The canonical URL, without a slash at its end. Does not name the endpoint.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Whether the origin is there and lets us list it; one request.
    ///
    /// # Errors
    /// What is wrong and what to do about it, in one line.
    pub async fn check(&self) -> Result<(), OriginError> {
        match &self.0.store {
            Store::S3(bucket) => list::s3::Lister::new(&self.0, bucket).check().await,
            // Looked at when it was opened.
            Store::Directory { .. } => Ok(()),
            Store::Other { listing, .. } => list::other::check(&self.0, listing.as_ref()).await,
        }
    }

    /// Reads `range` of version `etag` of the object with relative key `key`: all of it, or an error.
    ///
    /// # Errors
    /// [`FetchError::Failed`] comes without a request for a key that cannot be asked for.
    pub async fn get(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        source: RequestSource,
    ) -> Result<Bytes, FetchError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let origin = &*self.0;
        let path = origin.path(key.as_str())?;
        let attempt =
            || origin.limit.run(RequestKind::Get, source, origin.get_once(&path, etag, &range, source));
        let bytes = origin.retry.run(attempt).await.map_err(|given_up| origin.fetch_error(given_up))?;
        origin.figures.bytes.add(bytes.len() as u64);
        Ok(bytes)
    }

    /// Lists all objects on the current tokio runtime: pages in no order, each key once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn list(&self) -> Listing {
        list::start(self.0.clone())
    }

    /// The object with relative key `key` as it is now; none if there is none.
    ///
    /// # Errors
    /// No answer within the deadline, or a key that cannot be asked for.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Listed>, OriginError> {
        let origin = &*self.0;
        let unreachable = |error: FetchError| OriginError::Unreachable {
            url: origin.url.clone(),
            cause: format!("{key}: {error}"),
        };
        let path = origin.path(key.as_str()).map_err(unreachable)?;
        let attempt = || origin.limit.run(RequestKind::Head, RequestSource::Demand, origin.head_once(&path));
        match origin.retry.run(attempt).await {
            Ok(listed) => Ok(listed),
            Err(GivenUp { failure: Failure { cause: Cause::Gone, .. }, .. }) => Ok(None),
            Err(given_up) => Err(unreachable(origin.fetch_error(given_up))),
        }
    }
}

impl Inner {
    /// Where `key` is in the store.
    fn path(&self, key: &str) -> Result<Path, FetchError> {
        let whole = format!("{}{key}", self.prefix);
        match Path::parse(&whole) {
            // `parse` drops slashes at both ends, which would ask for another object.
            Ok(path) if path.as_ref() == whole => Ok(path),
            _ => Err(FetchError::Failed {
                attempts: 0,
                cause: format!("object_store cannot ask for the key `{}`", whole.escape_debug()),
            }),
        }
    }

    async fn get_once(
        &self,
        path: &Path,
        etag: &Etag,
        range: &Range<u64>,
        source: RequestSource,
    ) -> Result<Bytes, Failure> {
        if source == RequestSource::Readahead {
            self.figures.gets_readahead.increment();
        }
        let sent = Instant::now();
        let notes = Notes::default();
        let mut options = GetOptions::new().with_if_match(etag::if_match(etag));
        options.range = Some(GetRange::Bounded(range.clone()));
        options.extensions.insert(notes.clone());
        let failed = |error: object_store::Error| Failure::of_store(&error, &notes);
        let reply = self.store.reads().get_opts(path, options).await.map_err(failed)?;
        let meta = &reply.meta;
        let replied = etag::of_version(meta.e_tag.as_deref(), meta.last_modified.into(), meta.size);
        if !etag::same(replied.as_str(), etag.as_str()) {
            return Err(Failure::new(Cause::Replaced, format!("the reply is of version {replied}")));
        }
        let bytes = reply.bytes().await.map_err(failed)?;
        let wanted = range.end - range.start;
        if bytes.len() as u64 != wanted {
            let message = format!("{} bytes of {wanted} arrived", bytes.len());
            return Err(Failure::new(Cause::ShortBody, message));
        }
        self.figures.get_latency.record(sent.elapsed());
        Ok(bytes)
    }

    async fn head_once(&self, path: &Path) -> Result<Option<Listed>, Failure> {
        let notes = Notes::default();
        let mut options = GetOptions::new().with_head(true);
        options.extensions.insert(notes.clone());
        match self.store.reads().get_opts(path, options).await {
            Ok(reply) => Ok(list::other::listed(&self.prefix, reply.meta)),
            Err(error) => Err(Failure::of_store(&error, &notes)),
        }
    }

    fn fetch_error(&self, given_up: GivenUp) -> FetchError {
        let GivenUp { attempts, failure } = given_up;
        match failure.cause {
            Cause::Replaced => FetchError::Replaced,
            Cause::Gone => FetchError::Gone,
            _ => {
                self.figures.failed_reads.increment();
                FetchError::Failed { attempts, cause: failure.message }
            }
        }
    }

    fn credentials_advice(&self) -> &'static str {
        match self.url.split_once("://").map(|(scheme, _)| scheme) {
            Some("gs") => "set GOOGLE_APPLICATION_CREDENTIALS, or give --anonymous for a public bucket",
            Some("az") => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give --anonymous",
            _ => "see the documentation of this origin",
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.0.url).finish()
    }
}
