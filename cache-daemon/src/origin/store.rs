//! What is behind an origin, and one attempt at reading it.
//!
//! The three kinds differ in how they are listed (`list`) and in which keys they can be asked for:
//! object_store's `Path` has no place for empty parts, `.`, `..` and control characters, a local
//! directory takes whatever its walk found.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};

use super::directory::Directory;
use super::failure::{Cause, Failure, Notes};
use super::s3::S3;
use super::{Course, Listed, etag};
use crate::object::Etag;

/// A store and the part of its keys that is not shown.
pub struct Store {
    /// Where the objects are.
    pub backend: Backend,
    /// Empty, or ends with `/`; always empty for a directory.
    pub prefix: String,
}

/// Where objects are.
pub enum Backend {
    /// A bucket that speaks S3.
    S3(Box<S3>),
    /// A local directory.
    Directory(Directory),
    /// Anything else that object_store knows.
    Other {
        /// Without retries of its own.
        reads: Arc<dyn ObjectStore>,
        /// With them, for its listing.
        listing: Arc<dyn ObjectStore>,
    },
}

impl Backend {
    /// One store for everything.
    pub fn over(store: Arc<dyn ObjectStore>) -> Self {
        Backend::Other { reads: store.clone(), listing: store }
    }
}

impl Store {
    /// Whether `key` can be asked for at all.
    pub fn check_key(&self, key: &str) -> Result<(), Failure> {
        match &self.backend {
            Backend::Directory(directory) => directory.path(key).map(drop),
            _ => self.path(key).map(drop),
        }
    }

    /// Reads `range` of version `etag` of `key`: all of it, or the failure. Notes in `course` when the reply begins.
    pub async fn read(
        &self,
        key: &str,
        etag: &Etag,
        range: &Range<u64>,
        course: &Course,
    ) -> Result<Bytes, Failure> {
        let bytes = match &self.backend {
            Backend::S3(bucket) => get(&bucket.store, &self.path(key)?, etag, range, course).await?,
            Backend::Directory(directory) => directory.read(key, etag, range.clone()).await?,
            Backend::Other { reads, .. } => {
                get(reads.as_ref(), &self.path(key)?, etag, range, course).await?
            }
        };
        let wanted = range.end - range.start;
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Failure::new(Cause::ShortBody, format!("{} bytes of {wanted} arrived", bytes.len())))
    }

    /// `key` as it is now.
    pub async fn head(&self, key: &str) -> Result<Listed, Failure> {
        match &self.backend {
            Backend::S3(bucket) => head(&bucket.store, &self.path(key)?, key).await,
            Backend::Directory(directory) => directory.head(key).await,
            Backend::Other { reads, .. } => head(reads.as_ref(), &self.path(key)?, key).await,
        }
    }

    /// `key` as object_store's path.
    fn path(&self, key: &str) -> Result<Path, Failure> {
        let whole = format!("{}{key}", self.prefix);
        match Path::parse(&whole) {
            // `parse` drops slashes at both ends, which would ask for another object.
            Ok(path) if path.as_ref() == whole => Ok(path),
            _ => {
                let message = format!("object_store cannot ask for the key `{}`", whole.escape_debug());
                Err(Failure::new(Cause::Refused, message))
            }
        }
    }
}

async fn get(
    store: &dyn ObjectStore,
    path: &Path,
    etag: &Etag,
    range: &Range<u64>,
    course: &Course,
) -> Result<Bytes, Failure> {
    let notes = Notes::default();
    let mut options = GetOptions::new().with_if_match(etag::if_match(etag));
    options.range = Some(GetRange::Bounded(range.clone()));
    options.extensions.insert(notes.clone());
    let failed = |error: object_store::Error| Failure::of_store(&error, &notes);
    let reply = store.get_opts(path, options).await.map_err(failed)?;
    course.replied();
    let meta = &reply.meta;
    if !etag::is_version(etag, meta.e_tag.as_deref(), meta.last_modified.into(), meta.size) {
        let replied = meta.e_tag.as_deref().unwrap_or("without an ETag");
        return Err(Failure::new(Cause::Replaced, format!("the reply is of version {replied}")));
    }
    reply.bytes().await.map_err(failed)
}

async fn head(store: &dyn ObjectStore, path: &Path, key: &str) -> Result<Listed, Failure> {
    let notes = Notes::default();
    let mut options = GetOptions::new().with_head(true);
    options.extensions.insert(notes.clone());
    match store.get_opts(path, options).await {
        Ok(reply) => Ok(super::list::other::listed(key.to_owned(), reply.meta)),
        Err(error) => Err(Failure::of_store(&error, &notes)),
    }
}
