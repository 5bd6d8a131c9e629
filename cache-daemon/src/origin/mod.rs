//! The object store that a data set comes from: read a range of a version, list everything, look at one.
//!
//! An [`Origin`] is opened from a URL. It gives three answers about a read and no fourth: exactly the
//! bytes asked for of exactly the version asked for; "another version" or "gone"; or a failure, after the
//! last attempt that fits the deadline. Everything between (timeouts, throttling, broken connections, short
//! bodies) is repeated inside.
//!
//! - `location` takes URLs apart; `connect` finds the store: `s3` with `aws_profile` and `oss`, or
//!   object_store's own clients, or a local `directory`. `environment` is the variables they read.
//! - `store` makes one attempt. `limit` admits requests, `retry` repeats them, `failure` says why one
//!   failed, `course` what a GET's time went into, `wire` is the HTTP client. [`faulty`] is a store for tests that misbehaves.
//! - `list` delivers keys, `etag` compares versions.
//!
//! Invariants
//! - Every GET asks for a version (`If-Match`) where the origin has ETags that can be asked for, and the
//!   reply's ETag is compared in any case. Bytes of two versions are never mixed.
//! - A GET returns `range` in full or fails.
//! - At most `requests_in_flight_max` requests are in flight, listings included.

mod aws_profile;
mod connect;
mod course;
mod directory;
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
mod store;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::time::Instant;

pub(crate) use aws_profile::AwsProfile;
pub use course::{Course, Delay};
pub use error::{FetchError, OriginError};
pub use failure::Cause;
pub use list::Listing;
pub(crate) use list::xml;

use crate::object::{Etag, ObjectKey};
use crate::stats::origin::OriginFigures;
use environment::Environment;
use failure::Failure;
use limit::Limit;
use location::Location;
use retry::{GivenUp, Retry};
use store::{Backend, Store};

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
    /// Its version. Made of `modified` and `size_bytes` if the listing has no ETags.
    pub etag: Etag,
}

impl Listed {
    /// Whether this is version `etag` of the object. Not the same as equal ETags: some servers have
    /// them in the replies to HEAD but not in their listings.
    pub fn is_version(&self, etag: &Etag) -> bool {
        etag::is_version(etag, Some(self.etag.as_str()), self.modified, self.size_bytes)
    }
}

/// The object store of one data set. Cheap to clone.
#[derive(Clone)]
pub struct Origin(Arc<Inner>);

struct Inner {
    url: String,
    store: Store,
    retry: Retry,
    /// For [`Origin::check`]: whoever mistyped an endpoint is waiting for the error.
    brief_retry: Retry,
    limit: Limit,
    figures: Arc<OriginFigures>,
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
        let backend = connect::connect(&location, options, &Environment::of_process())?;
        let store = Store { backend, prefix: location.prefix.clone() };
        Ok(Self::new(location.canonical(), store, &options.limits, figures))
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
        let store = Store { backend: Backend::over(store), prefix };
        Self::new(url, store, &limits, figures)
    }

    fn new(url: String, store: Store, limits: &OriginLimits, figures: Arc<OriginFigures>) -> Self {
        let retry = Retry::new(limits, figures.clone());
        let brief = OriginLimits { attempts_max: limits.attempts_max.min(3), ..limits.clone() };
        let brief_retry = Retry::new(&brief, figures.clone());
        let limit = Limit::new(limits.requests_in_flight_max, limits.request_timeout, figures.clone());
        Self(Arc::new(Inner { url, store, retry, brief_retry, limit, figures }))
    }

    /// The canonical URL, without a slash at its end. Does not name the endpoint.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Whether the origin is there and lets us list it; one request, or three if it fails.
    ///
    /// # Errors
    /// What is wrong and what to do about it, in one line.
    pub async fn check(&self) -> Result<(), OriginError> {
        match &self.0.store.backend {
            Backend::S3(bucket) => list::s3::Lister::new(&self.0, bucket).check().await,
            // Looked at when it was opened.
            Backend::Directory(_) => Ok(()),
            Backend::Other { listing, .. } => list::other::check(&self.0, listing.as_ref()).await,
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
        self.get_along(key, etag, range, source, &Course::begin()).await
    }

    /// The same; what its time goes into is noted in `course`.
    ///
    /// # Errors
    /// As there.
    pub async fn get_along(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        source: RequestSource,
        course: &Course,
    ) -> Result<Bytes, FetchError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let origin = &*self.0;
        origin.check_key(key)?;
        let attempt = || async {
            course.asked();
            // Polled for the first time when its turn has come.
            let once = async {
                course.sent();
                origin.get_once(key, etag, &range, course).await
            };
            let answer = origin.limit.run(RequestKind::Get, source, once).await;
            answer.inspect_err(|failure| course.failed(failure.cause))
        };
        let answer = origin.retry.run(attempt).await;
        course.ended();
        let bytes = answer.map_err(|given_up| origin.fetch_error(given_up))?;
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
        origin.check_key(key).map_err(unreachable)?;
        let attempt =
            || origin.limit.run(RequestKind::Head, RequestSource::Demand, origin.store.head(key.as_str()));
        match origin.retry.run(attempt).await {
            Ok(listed) => Ok(Some(listed)),
            Err(GivenUp { failure: Failure { cause: Cause::Gone, .. }, .. }) => Ok(None),
            Err(given_up) => Err(unreachable(origin.fetch_error(given_up))),
        }
    }
}

impl Inner {
    fn check_key(&self, key: &ObjectKey) -> Result<(), FetchError> {
        let refused = |failure: Failure| FetchError::Failed { attempts: 0, cause: failure.message };
        self.store.check_key(key.as_str()).map_err(refused)
    }

    async fn get_once(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: &Range<u64>,
        course: &Course,
    ) -> Result<Bytes, Failure> {
        let sent = Instant::now();
        let bytes = self.store.read(key.as_str(), etag, range, course).await?;
        self.figures.get_latency.record(sent.elapsed());
        Ok(bytes)
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
