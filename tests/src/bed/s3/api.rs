//! The S3 operations: objects from our index, everything about buckets from s3s-fs.
//!
//! Ours because s3s-fs 0.14 ignores `If-Match` on GET, hashes a file to find its ETag, lists none, and
//! reads bodies in 4 KiB pieces.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::bucket::{Bucket, Entry, etag};

/// Bytes of a body that are read and sent at a time.
const PIECE_BYTES: u64 = 256 << 10;

/// What `encoding-type=url` leaves as it is: S3 encodes a key as a query would, slashes kept.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Every bucket under a root directory.
#[derive(Debug)]
pub struct Buckets {
    root: PathBuf,
    open: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl Buckets {
    /// The buckets that are directories of `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root, open: Mutex::default() }
    }

    /// The bucket `name`, walked when it is first asked for.
    pub fn bucket(&self, name: &str) -> io::Result<Arc<Bucket>> {
        let mut open = self.open.lock().expect("no panic while it is held");
        if let Some(bucket) = open.get(name) {
            return Ok(bucket.clone());
        }
        let bucket = Arc::new(Bucket::open(self.root.join(name))?);
        open.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }

    /// Adds a bucket called `synthetic` of `files` keys without bytes.
    pub fn add_synthetic(&self, files: u64) {
        let bucket = Arc::new(Bucket::synthetic(files));
        self.open.lock().expect("no panic while it is held").insert("synthetic".to_owned(), bucket);
    }

    /// Walks all open buckets again.
    pub fn rescan(&self) -> io::Result<()> {
        let open = self.open.lock().expect("no panic while it is held");
        open.values().try_for_each(|bucket| bucket.rescan())
    }
}

/// The S3 server's answers.
pub struct Api {
    buckets: Arc<Buckets>,
    files: FileSystem,
}

impl Api {
    /// Answers for `buckets`.
    pub fn new(buckets: Arc<Buckets>) -> anyhow::Result<Self> {
        let files = FileSystem::new(&buckets.root).map_err(|error| anyhow::anyhow!("s3s-fs: {error:?}"))?;
        Ok(Self { buckets, files })
    }

    fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        self.buckets.bucket(name).map_err(|error| s3_error!(error, NoSuchBucket))
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let entry = self.bucket(&input.bucket)?.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let file = File::open(&entry.path).map_err(|error| s3_error!(error, NoSuchKey))?;
        // The version is that of the descriptor: a replacement from here on does not touch these bytes.
        let metadata = file.metadata().map_err(|error| s3_error!(error, InternalError))?;
        let version = ETag::Strong(etag(&metadata));
        check_conditions(&version, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let size_bytes = metadata.len();
        let range = match input.range {
            Some(range) => range.check(size_bytes)?,
            None => 0..size_bytes,
        };
        let content_range =
            input.range.map(|_| format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1));
        let modified = metadata.modified().map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some((range.end - range.start) as i64),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(modified.into()),
            e_tag: Some(version),
            body: Some(body(file, range)?),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let entry = self.bucket(&input.bucket)?.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let version = ETag::Strong(entry.etag);
        check_conditions(&version, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(entry.size_bytes as i64),
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(entry.modified.into()),
            e_tag: Some(version),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let mut bytes = BytesMut::new();
        let mut body = input.body.ok_or_else(|| s3_error!(IncompleteBody))?;
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
        }
        let entry = bucket.put(&input.key, &bytes).map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(entry.etag)), ..Default::default() }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let bucket = self.bucket(&request.input.bucket)?;
        bucket.delete(&request.input.key).map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let page = Page::collect(&*self.bucket(&input.bucket)?, &input);
        let url = input.encoding_type.as_ref().is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        let name = |key: String| if url { utf8_percent_encode(&key, KEY).to_string() } else { key };
        let objects = page.objects.into_iter().map(|(key, entry)| object(name(key), entry));
        let prefixes = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(name(prefix)) });
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(objects.collect()),
            common_prefixes: Some(prefixes.collect()),
            key_count: Some(page.count as i32),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            continuation_token: input.continuation_token,
            start_after: input.start_after.map(name),
            delimiter: input.delimiter.map(name),
            prefix: input.prefix.map(name),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..Default::default()
        }))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.files.list_buckets(request).await
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.files.get_bucket_location(request).await
    }
}

fn check_conditions(
    version: &ETag,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let names = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.strong_cmp(version));
    if if_match.is_some_and(|condition| !names(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(names) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// The bytes `range` of `file`. Reads block this thread for as long as a page cache hit takes: the
/// server's files were just written, and a hop to another thread costs more.
fn body(file: File, range: std::ops::Range<u64>) -> S3Result<StreamingBlob> {
    if range.end - range.start <= PIECE_BYTES {
        let bytes = piece(&file, &range).map_err(|error| s3_error!(error, InternalError))?;
        return Ok(Body::from(bytes).into());
    }
    let pieces = stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok::<_, io::Error>(None);
        }
        let bytes = piece(&file, &range)?;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok(Some((bytes, (file, rest))))
    });
    Ok(StreamingBlob::wrap(pieces))
}

/// The first [`PIECE_BYTES`] of `range`, or all of it.
fn piece(file: &File, range: &std::ops::Range<u64>) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed((range.end - range.start).min(PIECE_BYTES) as usize);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.freeze())
}

fn object(key: String, entry: Entry) -> Object {
    Object {
        key: Some(key),
        size: Some(entry.size_bytes as i64),
        e_tag: Some(ETag::Strong(entry.etag)),
        last_modified: Some(entry.modified.into()),
        ..Default::default()
    }
}

/// One page of a listing.
#[derive(Default)]
struct Page {
    objects: Vec<(String, Entry)>,
    prefixes: Vec<String>,
    /// Objects and prefixes: what `max-keys` limits.
    count: usize,
    /// Where the next page starts, if there is more.
    next: Option<String>,
}

impl Page {
    fn collect(bucket: &Bucket, input: &ListObjectsV2Input) -> Self {
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let limit = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
        let mut after = input
            .continuation_token
            .as_deref()
            .max(input.start_after.as_deref())
            .unwrap_or_default()
            .to_owned();
        let mut page = Self::default();
        while page.count < limit {
            // A whole page at once without a delimiter; else up to the first prefix, which is then skipped.
            let found = bucket.page(prefix, &after, limit - page.count);
            if found.is_empty() {
                return page;
            }
            for (key, entry) in found {
                let cut = delimiter
                    .and_then(|delimiter| Some(key[prefix.len()..].find(delimiter)? + delimiter.len()));
                page.count += 1;
                if let Some(cut) = cut {
                    let common = key[..prefix.len() + cut].to_owned();
                    // Above every key that starts with `common`: no character sorts behind this one.
                    after = format!("{common}{}", char::MAX);
                    page.prefixes.push(common);
                    break;
                }
                after.clone_from(&key);
                page.objects.push((key, entry));
            }
        }
        if limit > 0 && !bucket.page(prefix, &after, 1).is_empty() {
            page.next = Some(after);
        }
        page
    }
}
