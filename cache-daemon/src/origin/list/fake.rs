//! A server for tests that speaks as much of S3 as we use: ListObjectsV2 and GET with a range.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::checksum;
use crate::origin::{Origin, OriginLimits, OriginOptions};
use crate::stats::origin::OriginFigures;

/// How a server spells keys when it is asked for `encoding-type=url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As asked.
    Url,
    /// Says that it encodes, and does not (s3s-fs 0.14).
    Pretended,
    /// Does not know the parameter.
    Unknown,
}

/// How the server behaves.
pub struct Behaviour {
    pub encoding: Encoding,
    pub page_keys: usize,
    pub namespace: bool,
    /// Every so many requests, a 503; 0 for never.
    pub refuse_every: usize,
    /// Seconds that refusals ask to wait.
    pub retry_after: u32,
    /// Every so many requests, half of the body and a closed connection; 0 for never.
    pub cut_every: usize,
    /// What requests are answered with instead, after `refuse_from` proper answers.
    pub refuse_all: Option<(u16, &'static str)>,
    pub refuse_from: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            encoding: Encoding::Url,
            page_keys: 1000,
            namespace: true,
            refuse_every: 0,
            retry_after: 0,
            cut_every: 0,
            refuse_all: None,
            refuse_from: 0,
        }
    }
}

/// A running server, with what it was asked.
pub struct Fake {
    pub endpoint: String,
    objects: BTreeMap<String, Vec<u8>>,
    behaviour: Behaviour,
    requests: AtomicUsize,
    pub lists: Mutex<Vec<String>>,
    pub if_match: Mutex<Vec<Option<String>>>,
}

impl Fake {
    /// Serves `keys`, each with its own name as its bytes, from a bucket called `bucket`.
    pub async fn serve(keys: impl IntoIterator<Item = String>, behaviour: Behaviour) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            objects: keys.into_iter().map(|key| (key.clone(), key.into_bytes())).collect(),
            behaviour,
            requests: AtomicUsize::new(0),
            lists: Mutex::default(),
            if_match: Mutex::default(),
        });
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { while server.answer_on(&mut stream).await.is_some() {} });
            }
        });
        fake
    }

    /// An origin at `url` on this server, without signatures.
    pub fn origin(&self, url: &str) -> (Origin, Arc<OriginFigures>) {
        let options = OriginOptions {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            anonymous: true,
            limits: OriginLimits {
                first_pause: std::time::Duration::from_millis(1),
                jitter_seed: Some(1),
                ..OriginLimits::default()
            },
            ..OriginOptions::default()
        };
        let figures = Arc::new(OriginFigures::default());
        (Origin::open(url, &options, figures.clone()).unwrap(), figures)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// LIST requests so far: all, and those with a delimiter.
    pub fn lists(&self) -> (usize, usize) {
        let lists = self.lists.lock();
        (lists.len(), lists.iter().filter(|query| query.contains("delimiter=")).count())
    }

    async fn answer_on(&self, stream: &mut TcpStream) -> Option<()> {
        let (head, headers) = read_head(stream).await?;
        let target = head.split(' ').nth(1)?.to_owned();
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        let every = |n: usize| n != 0 && number.is_multiple_of(n);
        let refuse = format!("Retry-After: {}\r\n", self.behaviour.retry_after);
        let (status, extra, body) = match self.behaviour.refuse_all {
            Some((status, code)) if number > self.behaviour.refuse_from => (status, refuse, error(code)),
            _ if every(self.behaviour.refuse_every) => (503, refuse, error("SlowDown")),
            _ => self.answer(&target, &headers),
        };
        let mut reply =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{extra}\r\n", body.len()).into_bytes();
        let cut = every(self.behaviour.cut_every);
        reply.extend_from_slice(if cut { &body[..body.len() / 2] } else { &body });
        stream.write_all(&reply).await.ok()?;
        (!cut).then_some(())
    }

    fn answer(&self, target: &str, headers: &BTreeMap<String, String>) -> (u16, String, Vec<u8>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if query.contains("list-type=2") {
            self.lists.lock().push(query.to_owned());
            return (200, String::new(), self.list(query).into_bytes());
        }
        self.if_match.lock().push(headers.get("if-match").cloned());
        let key = decoded(path.trim_start_matches("/bucket/"));
        let Some(bytes) = self.objects.get(&key) else { return (404, String::new(), error("NoSuchKey")) };
        let etag = etag(&key);
        if headers.get("if-match").is_some_and(|asked| *asked != etag) {
            return (412, String::new(), error("PreconditionFailed"));
        }
        let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (first, last): (usize, usize) =
            range.map_or((0, bytes.len() - 1), |(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        let date = "Last-Modified: Thu, 01 Jan 1970 00:00:02 GMT\r\n";
        let range = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
        (206, format!("ETag: {etag}\r\n{date}{range}"), bytes[first..=last].to_vec())
    }

    fn list(&self, query: &str) -> String {
        let parameters: BTreeMap<&str, String> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k, decoded(v))).collect();
        let get = |name: &str| parameters.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (get("prefix"), get("delimiter"));
        let after =
            if get("continuation-token").is_empty() { get("start-after") } else { get("continuation-token") };
        let page_keys = get("max-keys").parse().unwrap_or(usize::MAX).min(self.behaviour.page_keys);
        // What the page shows: keys, and each directory once in place of its keys.
        let mut shown: Vec<(String, bool)> = Vec::new();
        let from = after.max(prefix).to_owned();
        for key in self.objects.range(from..).map(|(key, _)| key) {
            // What follows is past the prefix, or on pages that come later.
            if !key.starts_with(prefix) || shown.len() > page_keys {
                break;
            }
            let item = match key[prefix.len()..].split_once(delimiter) {
                Some((name, _)) if !delimiter.is_empty() => (format!("{prefix}{name}{delimiter}"), true),
                _ => (key.clone(), false),
            };
            if item.0.as_str() > after && shown.last() != Some(&item) {
                shown.push(item);
            }
        }
        let truncated = shown.len() > page_keys;
        shown.truncate(page_keys);
        let asked = !get("encoding-type").is_empty() && self.behaviour.encoding != Encoding::Unknown;
        let spelt = |text: &str| match self.behaviour.encoding {
            Encoding::Url if asked => encoded(text),
            _ => text.replace('&', "&amp;").replace('<', "&lt;"),
        };
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult");
        xml += if self.behaviour.namespace {
            " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
        } else {
            ">"
        };
        xml += &format!("<IsTruncated>{truncated}</IsTruncated>");
        if asked {
            xml += "<EncodingType>url</EncodingType>";
        }
        if let (true, Some((last, _))) = (truncated, shown.last()) {
            xml += &format!("<NextContinuationToken>{}</NextContinuationToken>", last.replace('&', "&amp;"));
        }
        for (text, is_prefix) in &shown {
            xml += &match is_prefix {
                true => format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", spelt(text)),
                false => format!(
                    "<Contents><Key>{}</Key><LastModified>1970-01-01T00:00:02.000Z</LastModified>\
                     <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                    spelt(text),
                    etag(text).trim_matches('"'),
                    self.objects[text].len()
                ),
            };
        }
        xml + "</ListBucketResult>"
    }
}

fn etag(key: &str) -> String {
    format!("\"{:08x}\"", checksum::crc32c(key.as_bytes()))
}

fn error(code: &str) -> Vec<u8> {
    format!("<Error><Code>{code}</Code><Message>as told</Message></Error>").into_bytes()
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

/// As Amazon does: like a form, but slashes stay.
fn encoded(text: &str) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'*');
    utf8_percent_encode(text, KEPT).to_string().replace("%20", "+")
}

async fn read_head(stream: &mut TcpStream) -> Option<(String, BTreeMap<String, String>)> {
    // Requests have no body, and clients wait for the reply: nothing is lost with the buffer.
    let mut lines = BufReader::new(stream).lines();
    let head = lines.next_line().await.ok()??;
    let mut headers = BTreeMap::new();
    loop {
        let line = lines.next_line().await.ok()??;
        match line.split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => return Some((head, headers)),
        };
    }
}
