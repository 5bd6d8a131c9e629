//! Failures: why one attempt failed, and whether another may succeed.
//!
//! object_store says little about errors that it has no case for: status and headers are only in the
//! text. So each request carries [`Notes`], which our HTTP layer (`wire.rs`) fills in on the way back.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use parking_lot::Mutex;

use super::error::one_line;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No complete answer in time.
    Timeout,
    /// We ask too fast: 429, or 503, which is how S3 says SlowDown.
    Throttled,
    /// Another 5xx.
    ServerError,
    /// No connection, or it broke before the reply's headers.
    Connection,
    /// The body ended early.
    ShortBody,
    /// Another version of the object is there.
    Replaced,
    /// Nothing is there.
    Gone,
    /// Our credentials are refused, or missing.
    Denied,
    /// Anything else that would be answered the same way again.
    Refused,
}

impl Cause {
    /// Whether the same request may succeed later.
    pub fn is_transient(self) -> bool {
        use Cause::*;
        match self {
            Timeout | Throttled | ServerError | Connection | ShortBody => true,
            Replaced | Gone | Denied | Refused => false,
        }
    }

    /// What a reply with HTTP status `status`, not 2xx, means.
    pub fn of_status(status: u16) -> Self {
        match status {
            429 | 503 => Cause::Throttled,
            500.. => Cause::ServerError,
            408 => Cause::Timeout,
            404 | 410 => Cause::Gone,
            // 416: the range is past the end, so the object is not the one that was listed.
            412 | 416 => Cause::Replaced,
            401 | 403 => Cause::Denied,
            _ => Cause::Refused,
        }
    }
}

/// One failed attempt.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// In words, one line.
    pub message: String,
    /// The origin's own code for it (`NoSuchBucket`), where it was read.
    pub code: Option<String>,
    /// How long the origin asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure because of `cause`, in the words of `message`.
    pub fn new(cause: Cause, message: impl AsRef<str>) -> Self {
        Self { cause, message: one_line(message.as_ref()), code: None, retry_after: None }
    }

    /// What object_store's `error` means for a request that carried `notes`.
    pub fn of_store(error: &StoreError, notes: &Notes) -> Self {
        let note = *notes.0.lock();
        let cause = match error {
            StoreError::NotFound { .. } => Cause::Gone,
            StoreError::Precondition { .. } => Cause::Replaced,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Cause::Denied,
            StoreError::Generic { .. } => of_generic(error, note.status),
            _ => Cause::Refused,
        };
        let mut failure = Self::new(cause, error.to_string());
        failure.retry_after = note.retry_after;
        failure
    }

    /// What the HTTP layer's `error` means; `reading` if the reply's headers had arrived.
    pub fn of_http(error: &HttpError, reading: bool) -> Self {
        Self::new(of_transport(error.kind(), reading), chain(error))
    }
}

/// What happened to one request, written by the HTTP layer.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Note>>);

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    status: Option<u16>,
    retry_after: Option<Duration>,
}

impl Notes {
    /// Notes a reply with `status`, and how long it asks us to wait.
    pub fn write(&self, status: u16, retry_after: Option<Duration>) {
        *self.0.lock() = Note { status: Some(status), retry_after };
    }
}

fn of_generic(error: &StoreError, status: Option<u16>) -> Cause {
    // S3 sends 400 RequestTimeout when it grew tired of waiting for us.
    if status == Some(400) && error.to_string().contains("RequestTimeout") {
        return Cause::Timeout;
    }
    match status {
        Some(status) if !(200..300).contains(&status) => Cause::of_status(status),
        replied => match source::<HttpError>(error) {
            Some(http) => of_transport(http.kind(), replied.is_some()),
            // Complete reply, but not what was asked for: a server that ignores Range, say.
            None if replied.is_some() => Cause::Refused,
            // Nothing was sent or heard: a store of tests, whose errors stand for a server's, or
            // credentials that could not be fetched.
            None => Cause::ServerError,
        },
    }
}

fn of_transport(kind: HttpErrorKind, reading: bool) -> Cause {
    match kind {
        HttpErrorKind::Timeout => Cause::Timeout,
        _ if reading => Cause::ShortBody,
        _ => Cause::Connection,
    }
}

fn source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// `error` and its sources: reqwest keeps the part that tells ("Connection refused") at the end.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}
