//! What the origin can fail with: at start, and for one read.
//!
//! An [`OriginError`] is read by a user who has just typed a command: one line that says what is wrong
//! and what to do. A [`FetchError`] is read by the cache, which acts on its three cases.

use thiserror::Error;

/// Why an origin cannot be used or listed.
#[derive(Debug, Error)]
pub enum OriginError {
    /// A URL scheme that we do not serve.
    #[error(
        "{url}: unknown scheme `{scheme}`: use s3://, oss://, gs://, az://, https://, http://, file:// or a directory"
    )]
    Scheme {
        /// The URL as given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// A URL that names no bucket, or a prefix that cannot be asked for.
    #[error("{url}: {why}")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong and what to write instead.
        why: String,
    },
    /// Options or settings that do not fit the origin.
    #[error("{0}")]
    Settings(String),
    /// A profile of the AWS configuration that is not there or that we cannot use.
    #[error("AWS profile `{profile}`: {why}")]
    Profile {
        /// Its name.
        profile: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// No credentials were found.
    #[error("{url}: no credentials: {advice} ({cause})")]
    NoCredentials {
        /// The origin.
        url: String,
        /// Where they are looked for.
        advice: &'static str,
        /// What the last place said.
        cause: String,
    },
    /// The origin refuses our credentials, or they do not permit what we ask.
    #[error("{url}: access denied: check the credentials and that they allow listing and reading ({cause})")]
    Denied {
        /// The origin.
        url: String,
        /// What the origin said.
        cause: String,
    },
    /// No such bucket, container or directory.
    #[error("{url}: {what} does not exist: check its spelling{hint}")]
    Missing {
        /// The origin.
        url: String,
        /// What is missing.
        what: String,
        /// What else to check.
        hint: &'static str,
    },
    /// The bucket is in another region.
    #[error("{url}: the bucket is in region {region}: give --region {region} or set AWS_REGION={region}")]
    Region {
        /// The origin.
        url: String,
        /// The bucket's region.
        region: String,
    },
    /// The system has no certificates of authorities, so https cannot be trusted.
    #[error(
        "no CA certificates found, which https needs: install the package ca-certificates \
         (or name a bundle with SSL_CERT_FILE), or use an http:// endpoint"
    )]
    NoCertificates,
    /// The origin cannot be reached, or does not answer properly.
    #[error("{url}: {cause}")]
    Unreachable {
        /// The origin.
        url: String,
        /// The last failure, with the number of attempts.
        cause: String,
    },
}

/// Why a read of an object failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FetchError {
    /// The object is now another version (412, or another ETag in the reply).
    #[error("the object was replaced at the origin")]
    Replaced,
    /// The object is not there any more (404).
    #[error("the object is gone from the origin")]
    Gone,
    /// No answer within the deadline, or one that trying again would not change.
    #[error("failed after {attempts} attempt(s): {cause}")]
    Failed {
        /// Requests that were sent; 0 if the key cannot be asked for at all.
        attempts: u32,
        /// The last failure, for the log.
        cause: String,
    },
}

/// `text` on one line of at most 300 bytes: errors quote what servers send, HTML pages included.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let mut line = words.join(" ");
    if line.len() > 300 {
        let end = (0..=297).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(end);
        line.push_str("...");
    }
    line
}
