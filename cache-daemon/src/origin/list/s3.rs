//! ListObjectsV2, flat and in parallel.
//!
//! One flat listing of the prefix, never one LIST per directory. The first page is asked for alone; if
//! more follow, up to [`PROBES_MAX`] requests with a delimiter learn the names of the directories, which
//! become split points, and the parts (`split.rs`) are listed at the same time. Where directories are
//! few, large, or more than a page names, [`FLAT_PAGES`] more pages are listed and the split points guessed (`guess.rs`). So a
//! listing of n keys costs about n/1000 requests, one more for each part, and a dozen at most to split.
//!
//! Keys are asked for url-encoded, because XML cannot carry control characters. Some servers
//! (s3s-fs 0.14) repeat `EncodingType: url` without encoding anything; see [`Lister::spelling`].

use std::borrow::Cow;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::OnceCell;

use super::guess;
use super::progress::Progress;
use super::split::{self, KeyRange, PARTS_MAX};
use super::xml::{self, Page};
use super::{PAGE_KEYS, Pages, Stopped};
use crate::origin::error::OriginError;
use crate::origin::failure::{Cause, Failure};
use crate::origin::retry::{GivenUp, Retry};
use crate::origin::s3::S3;
use crate::origin::{Inner, Listed, RequestKind, RequestSource, etag};

/// Requests with a delimiter, at most: one for the prefix, the others for its only directories
/// (`train/`, `val/`), whose children then split better.
const PROBES_MAX: usize = 4;

/// Pages of a prefix without directories that are listed one after the other before it is split.
const FLAT_PAGES: usize = 4;

/// What SigV4 leaves unencoded.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Lists one bucket's prefix.
pub struct Lister<'a> {
    origin: &'a Inner,
    bucket: &'a S3,
    retry: &'a Retry,
    spelling: OnceCell<Spelling>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Encoded,
    Plain,
}

/// The ends of a page.
struct Reached {
    first: String,
    last: String,
}

impl Reached {
    fn is_within(&self, directory: &str) -> bool {
        self.first.starts_with(directory) && self.last.starts_with(directory)
    }
}

impl Page {
    fn reached(&self) -> Option<Reached> {
        let (first, last) = (self.entries.first()?.key.clone(), self.entries.last()?.key.clone());
        Some(Reached { first, last })
    }
}

/// What the requests with a delimiter found.
struct Directories {
    /// Whole keys ending with `/`, in no order.
    names: Vec<String>,
    /// There are more.
    is_cut: bool,
}

/// One request's parameters.
#[derive(Clone, Copy, Default)]
struct Query<'a> {
    prefix: &'a str,
    start_after: &'a str,
    token: Option<&'a str>,
    by_directory: bool,
    max_keys: Option<usize>,
}

impl Query<'_> {
    fn text(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, QUERY).to_string();
        // In the order of their names, which signatures sort them by.
        let mut query = String::new();
        if let Some(token) = self.token {
            query += &format!("continuation-token={}&", encoded(token));
        }
        if self.by_directory {
            query += "delimiter=%2F&";
        }
        query += "encoding-type=url&list-type=2";
        if let Some(max_keys) = self.max_keys {
            query += &format!("&max-keys={max_keys}");
        }
        query += &format!("&prefix={}", encoded(self.prefix));
        if !self.start_after.is_empty() && self.token.is_none() {
            query += &format!("&start-after={}", encoded(self.start_after));
        }
        query
    }
}

impl<'a> Lister<'a> {
    /// A lister of `origin`, whose bucket is `bucket`.
    pub fn new(origin: &'a Inner, bucket: &'a S3) -> Self {
        Self { origin, bucket, retry: &origin.retry, spelling: OnceCell::new() }
    }

    /// Asks for one key: whether the bucket is there and lets us list it.
    pub async fn check(&self) -> Result<(), OriginError> {
        let query = Query { prefix: &self.origin.store.prefix, max_keys: Some(1), ..Query::default() };
        let brief = Self { retry: &self.origin.brief_retry, ..Self::new(self.origin, self.bucket) };
        brief.page(query).await.map(drop)
    }

    /// Lists everything under the prefix.
    pub async fn list(&self, pages: &Pages) -> Result<(), Stopped> {
        let first = self.page(Query { prefix: &self.origin.store.prefix, ..Query::default() }).await?;
        let last = first.entries.last().map(|entry| entry.key.clone());
        let in_order = first.entries.is_sorted_by(|a, b| a.key < b.key);
        let (token, truncated) = (first.next_token.clone(), first.truncated);
        pages.send(self.listed(first)).await?;
        match last {
            _ if !truncated => Ok(()),
            Some(last) if in_order => self.list_parts(&last, pages).await,
            // A server with an order of its own: ranges would mean nothing to it.
            _ => self.list_on(token.ok_or_else(|| self.no_token())?, pages).await,
        }
    }

    async fn list_on(&self, mut token: String, pages: &Pages) -> Result<(), Stopped> {
        loop {
            let query = Query { prefix: &self.origin.store.prefix, token: Some(&token), ..Query::default() };
            let mut page = self.page(query).await?;
            let next = page.next_token.take();
            let truncated = page.truncated;
            pages.send(self.listed(page)).await?;
            if !truncated {
                return Ok(());
            }
            token = next.ok_or_else(|| self.no_token())?;
        }
    }

    async fn list_parts(&self, after: &str, pages: &Pages) -> Result<(), Stopped> {
        let Directories { names, is_cut } = self.directories().await?;
        let passed = names.iter().filter(|point| point.as_str() <= after).count();
        match split::parts(names.len(), passed) {
            parts if parts > 1 && !is_cut => self.list_split(after, names, passed, pages).await,
            _ => self.list_flat(after, names, pages).await,
        }
    }

    /// Directories are few, large, or more than one page names: on for some pages, then split at guessed
    /// points as well.
    async fn list_flat(&self, after: &str, mut points: Vec<String>, pages: &Pages) -> Result<(), Stopped> {
        let rest = KeyRange { after: after.to_owned(), last: None };
        let unknown = Progress::begin(Vec::new(), &self.origin.figures);
        let Some(reached) = self.list_range(rest, FLAT_PAGES, &unknown, pages).await? else { return Ok(()) };
        let holder =
            points.iter().filter(|directory| reached.is_within(directory)).max_by_key(|name| name.len());
        let within = holder.unwrap_or(&self.origin.store.prefix);
        if let Some(top) = self.farthest(&reached, within).await? {
            points.extend(guess::points(&reached.last, top));
        }
        let in_last_page = |point: &&String| **point > reached.first && **point <= reached.last;
        let passed = points.iter().filter(in_last_page).count();
        self.list_split(&reached.last, points, passed, pages).await
    }

    async fn list_split(
        &self,
        after: &str,
        points: Vec<String>,
        passed: usize,
        pages: &Pages,
    ) -> Result<(), Stopped> {
        let parts = split::parts(points.len(), passed);
        let points = split::points_after(after, points);
        let ranges = split::ranges(after, &points, parts);
        tracing::debug!(url = self.origin.url, parts = ranges.len(), "listing in parallel");
        let progress = Progress::begin(points, &self.origin.figures);
        stream::iter(ranges.into_iter().map(Ok))
            .try_for_each_concurrent(PARTS_MAX, async |range| {
                self.list_range(range, usize::MAX, &progress, pages).await.map(drop)
            })
            .await
    }

    /// The largest guess that keys below `prefix` follow: a binary search with a request for one key a step.
    async fn farthest(&self, reached: &Reached, prefix: &str) -> Result<Option<guess::Step>, OriginError> {
        let Reached { first, last } = reached;
        let steps = guess::after(first, last, prefix.len());
        let (mut low, mut high) = (0, steps.len());
        while low < high {
            let middle = (low + high) / 2;
            let start_after = &steps[middle].key(last);
            let query = Query { prefix, start_after, max_keys: Some(1), ..Query::default() };
            match self.page(query).await?.entries.is_empty() {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        Ok(low.checked_sub(1).map(|at| steps[at]))
    }

    /// Directories below the prefix; if they are few, with the directories below those. Where a page does
    /// not name all of a directory's, none of them: points at its beginning would split nothing but that.
    async fn directories(&self) -> Result<Directories, OriginError> {
        let mut found = self.directories_below(self.origin.store.prefix.clone()).await?;
        if found.names.is_empty() || found.names.len() >= PROBES_MAX {
            return Ok(found);
        }
        let probes = stream::iter(found.names.clone()).map(|directory| self.directories_below(directory));
        let children: Vec<Directories> = probes.buffered(PROBES_MAX).try_collect().await?;
        for Directories { names, is_cut } in children {
            found.names.extend(names);
            found.is_cut |= is_cut;
        }
        Ok(found)
    }

    async fn directories_below(&self, prefix: String) -> Result<Directories, OriginError> {
        let query = Query { prefix: &prefix, by_directory: true, ..Query::default() };
        let page = self.page(query).await?;
        Ok(match page.truncated && page.prefixes.len() >= PROBES_MAX {
            true => Directories { names: Vec::new(), is_cut: true },
            false => Directories { names: page.prefixes, is_cut: page.truncated },
        })
    }

    /// Lists `range`, at most `pages_max` pages of it; says where it stopped if it is not done.
    async fn list_range(
        &self,
        range: KeyRange,
        pages_max: usize,
        progress: &Progress<'_>,
        pages: &Pages,
    ) -> Result<Option<Reached>, Stopped> {
        let mut part = progress.part(&range);
        let mut after = range.after.clone();
        let mut token: Option<String> = None;
        for page_number in 1.. {
            let query = Query {
                prefix: &self.origin.store.prefix,
                start_after: &after,
                token: token.as_deref(),
                ..Query::default()
            };
            let mut page = self.page(query).await?;
            if token.is_none() && page.entries.first().is_some_and(|first| first.key <= after) {
                return Err(self.unreachable("it ignores start-after, which listings rely on").into());
            }
            let is_past = |key: &str| range.last.as_deref().is_some_and(|last| key > last);
            let reached = page.reached();
            let ended = reached.as_ref().is_some_and(|reached| {
                is_past(&reached.last) || range.last.as_deref() == Some(reached.last.as_str())
            });
            let done = ended || !page.truncated;
            page.entries.retain(|entry| !is_past(&entry.key));
            token = page.next_token.take();
            pages.send(self.listed(page)).await?;
            match reached {
                _ if done => {
                    part.done(&range);
                    return Ok(None);
                }
                Some(reached) if page_number == pages_max => return Ok(Some(reached)),
                Some(reached) if reached.last > after => {
                    part.reached(&reached.last);
                    after = reached.last;
                }
                _ if token.is_some() => {}
                _ => return Err(self.no_token().into()),
            }
        }
        Ok(None)
    }

    /// One page with its keys and prefixes decoded.
    async fn page(&self, query: Query<'_>) -> Result<Page, OriginError> {
        let mut page = self.page_as_sent(query).await?;
        if page.url_encoded && self.spelling(&page).await? == Spelling::Encoded {
            for entry in &mut page.entries {
                entry.key = self.decoded(&entry.key)?;
            }
            for prefix in &mut page.prefixes {
                *prefix = self.decoded(prefix)?;
            }
        }
        if page.entries.iter().any(|entry| !entry.key.starts_with(query.prefix)) {
            return Err(self.unreachable("it lists keys that do not begin with the prefix asked for"));
        }
        Ok(page)
    }

    async fn page_as_sent(&self, query: Query<'_>) -> Result<Page, OriginError> {
        let text = query.text();
        let ask = async || {
            let body = self.bucket.get(&text).await?;
            xml::page(&body).map_err(|error| Failure::new(cause_of_malformed(&body), error))
        };
        let limit = &self.origin.limit;
        let attempt = || limit.run(RequestKind::List, RequestSource::Demand, ask());
        self.retry.run(attempt).await.map_err(|given_up| explain(&self.origin.url, given_up))
    }

    /// Whether a page that claims to be url-encoded is.
    ///
    /// Most pages answer it themselves: a raw space or `%` proves that it is not, and without `%` and
    /// `+` both readings are the same. Otherwise ask, once: list the doubtful text as a prefix. A server
    /// that does not encode has a key that is spelt so and returns it in the same spelling; one that does
    /// can never return it, because it would spell its `%` as `%25` and its `+` as `%2B`.
    async fn spelling(&self, page: &Page) -> Result<Spelling, OriginError> {
        if let Some(known) = self.spelling.get() {
            return Ok(*known);
        }
        let texts = || page.entries.iter().map(|entry| &entry.key).chain(&page.prefixes);
        if texts().any(|text| !could_be_encoded(text)) {
            return Ok(*self.spelling.get_or_init(async || Spelling::Plain).await);
        }
        let Some(doubtful) = texts().find(|text| text.contains(['%', '+'])) else {
            return Ok(Spelling::Encoded);
        };
        let ask = async || {
            let query = Query { prefix: doubtful, max_keys: Some(1), ..Query::default() };
            let answer = self.page_as_sent(query).await?;
            let is_plain =
                answer.entries.first().is_some_and(|entry| entry.key.starts_with(doubtful.as_str()));
            Ok(if is_plain { Spelling::Plain } else { Spelling::Encoded })
        };
        self.spelling.get_or_try_init(ask).await.copied()
    }

    fn decoded(&self, text: &str) -> Result<String, OriginError> {
        // Like a form: a space is `+`.
        let spaced =
            if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
        let decoded = percent_decode_str(&spaced).decode_utf8();
        decoded.map(Cow::into_owned).map_err(|_| self.unreachable("it lists a key that is not UTF-8"))
    }

    fn listed(&self, page: Page) -> Vec<Listed> {
        debug_assert!(page.entries.len() <= PAGE_KEYS, "servers give at most 1000 keys");
        let skip = self.origin.store.prefix.len();
        let listed = |entry: xml::Entry| {
            let modified = entry.modified.unwrap_or(SystemTime::UNIX_EPOCH);
            let etag = etag::of_version(entry.etag.as_deref(), modified, entry.size_bytes);
            Listed { key: entry.key[skip..].to_owned(), size_bytes: entry.size_bytes, modified, etag }
        };
        page.entries.into_iter().filter(|entry| entry.key.len() > skip).map(listed).collect()
    }

    fn no_token(&self) -> OriginError {
        self.unreachable("its listing goes on, but it does not say how")
    }

    fn unreachable(&self, cause: &str) -> OriginError {
        OriginError::Unreachable { url: self.origin.url.clone(), cause: cause.to_owned() }
    }
}

/// A page that was cut short is worth another attempt; what never was one, a web site's say, is not.
fn cause_of_malformed(body: &[u8]) -> Cause {
    let start = &body[..body.len().min(1024)];
    match String::from_utf8_lossy(start).contains("<ListBucketResult") {
        true => Cause::ShortBody,
        false => Cause::Refused,
    }
}

/// Whether `text` can come from an encoder: printable ASCII without a space, each `%` before two digits.
fn could_be_encoded(text: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(at, &byte)| match byte {
        b'%' => hex(bytes.get(at + 1)) && hex(bytes.get(at + 2)),
        _ => byte.is_ascii_graphic(),
    })
}

/// What a bucket's refusal means to the user.
fn explain(url: &str, given_up: GivenUp) -> OriginError {
    use crate::origin::s3::{NO_CREDENTIALS, WRONG_REGION};
    let GivenUp { attempts, failure: Failure { cause, message, code, .. } } = given_up;
    let code = code.unwrap_or_default();
    let url = url.to_owned();
    if let Some(region) = code.strip_prefix(WRONG_REGION) {
        return OriginError::Region { url, region: region.to_owned() };
    }
    match (&*code, cause) {
        (NO_CREDENTIALS, _) => OriginError::NoCredentials {
            url,
            advice: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give --anonymous for a public bucket",
            cause: message,
        },
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken", _)
        | (_, Cause::Denied) => OriginError::Denied { url, cause: message },
        (_, Cause::Gone) => {
            OriginError::Missing { url, what: "the bucket".to_owned(), hint: ", --endpoint and --region" }
        }
        _ => OriginError::Unreachable { url, cause: format!("{message} (after {attempts} attempt(s))") },
    }
}
