//! object_store's own listing, for origins that we have no lister for.
//!
//! One key that its `Path` refuses fails the listing; the error names it. Requests are counted as one,
//! because the crate pages on its own, and it retries on its own too: the store used here is a second
//! client whose retries are on.

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::{PAGE_KEYS, Pages, Stopped};
use crate::origin::error::OriginError;
use crate::origin::failure::{Cause, Failure, Notes};
use crate::origin::{Inner, Listed, RequestKind, etag};

/// Lists `store` below the origin's prefix.
pub async fn list(origin: &Inner, store: &dyn ObjectStore, pages: &Pages) -> Result<(), Stopped> {
    origin.figures.count_sent(RequestKind::List);
    let mut chunks = store.list(prefix(origin).as_ref()).try_chunks(PAGE_KEYS);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|failed| explain(origin, &failed.1))?;
        pages.send(chunk.into_iter().filter_map(|meta| relative(origin, meta)).collect()).await?;
    }
    Ok(())
}

/// Whether `store` can be listed at all.
pub async fn check(origin: &Inner, store: &dyn ObjectStore) -> Result<(), OriginError> {
    origin.figures.count_sent(RequestKind::List);
    match store.list(prefix(origin).as_ref()).next().await {
        Some(Err(error)) => Err(explain(origin, &error)),
        _ => Ok(()),
    }
}

/// The object with `meta` as a listing shows it, by the relative key `key`.
pub fn listed(key: String, meta: ObjectMeta) -> Listed {
    let modified = meta.last_modified.into();
    let etag = etag::of_version(meta.e_tag.as_deref(), modified, meta.size);
    Listed { key, size_bytes: meta.size, modified, etag }
}

/// None for the marker of the prefix itself.
fn relative(origin: &Inner, meta: ObjectMeta) -> Option<Listed> {
    let key = meta.location.as_ref().strip_prefix(&origin.store.prefix)?.to_owned();
    (!key.is_empty()).then(|| listed(key, meta))
}

fn prefix(origin: &Inner) -> Option<Path> {
    Path::parse(&origin.store.prefix).ok().filter(|path| !path.is_root())
}

fn explain(origin: &Inner, error: &object_store::Error) -> OriginError {
    let url = origin.url.clone();
    if let object_store::Error::InvalidPath { source } = error {
        let cause = format!("a key that cannot be expressed ends the listing: {source}");
        return OriginError::Unreachable { url, cause };
    }
    let failure = Failure::of_store(error, &Notes::default());
    let message = failure.message;
    match failure.cause {
        Cause::Denied => OriginError::Denied { url, cause: message },
        Cause::Gone => {
            OriginError::Missing { url, what: "the bucket, container or path".to_owned(), hint: "" }
        }
        _ if message.contains("169.254.169.254") || message.contains("metadata.google") => {
            OriginError::NoCredentials { url, advice: origin.credentials_advice(), cause: message }
        }
        _ if url.starts_with("http") && knows_no_webdav(&message) => {
            let cause = format!("the server does not list: http origins need WebDAV (PROPFIND): {message}");
            OriginError::Unreachable { url, cause }
        }
        _ => OriginError::Unreachable { url, cause: message },
    }
}

/// Whether the server refused the method, or took it for something else, rather than being out of reach.
fn knows_no_webdav(message: &str) -> bool {
    let statuses = ["400", "403", "405", "501"];
    statuses.iter().any(|status| message.contains(&format!("non-2xx status code: {status}")))
}
