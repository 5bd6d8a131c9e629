//! The XML of ListObjectsV2: results and errors.
//!
//! Read as events rather than into serde structs: element names are compared without their namespace
//! (Amazon has one, Alibaba none), and characters that XML 1.0 forbids, which keys may contain and
//! servers send as they are or as `&#1;`, pass through.

use std::time::SystemTime;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// One page, its texts as the server spells them (see [`Page::url_encoded`]).
#[derive(Debug, Default)]
pub struct Page {
    /// The objects.
    pub entries: Vec<Entry>,
    /// The common prefixes, if a delimiter was asked for.
    pub prefixes: Vec<String>,
    /// More keys follow.
    pub truncated: bool,
    /// The token to ask for them with.
    pub next_token: Option<String>,
    /// The server says that it encoded keys and prefixes like a form. Not all that say so do it.
    pub url_encoded: bool,
}

/// One object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its whole key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was written.
    pub modified: Option<SystemTime>,
    /// Its ETag.
    pub etag: Option<String>,
}

/// What an error reply says; empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// `NoSuchBucket`.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The bucket's region, in errors about regions.
    pub region: Option<String>,
}

/// Reads a page.
///
/// # Errors
/// Not a ListBucketResult: in words.
pub fn page(body: &[u8]) -> Result<Page, String> {
    let mut page = Page::default();
    let mut entry = Entry::default();
    let mut is_result = false;
    walk(body, |step| {
        match step {
            Step::Enter(["ListBucketResult"]) => is_result = true,
            Step::Leave(["ListBucketResult", "Contents"], _) => page.entries.push(std::mem::take(&mut entry)),
            Step::Leave(["ListBucketResult", "Contents", field], text) => set(&mut entry, field, text)?,
            Step::Leave(["ListBucketResult", "CommonPrefixes", "Prefix"], text) => page.prefixes.push(text),
            Step::Leave(["ListBucketResult", "IsTruncated"], text) => page.truncated = text.trim() == "true",
            Step::Leave(["ListBucketResult", "EncodingType"], text) => {
                page.url_encoded = text.trim() == "url"
            }
            Step::Leave(["ListBucketResult", "NextContinuationToken"], text) => page.next_token = Some(text),
            _ => {}
        }
        Ok(())
    })?;
    if is_result {
        Ok(page)
    } else {
        Err("the reply is no ListBucketResult: is this an S3 endpoint?".to_owned())
    }
}

fn set(entry: &mut Entry, field: &str, text: String) -> Result<(), String> {
    match field {
        "Key" => entry.key = text,
        "Size" => entry.size_bytes = text.trim().parse().map_err(|_| format!("a size of `{text}`"))?,
        "ETag" => entry.etag = Some(text),
        "LastModified" => entry.modified = humantime::parse_rfc3339(text.trim()).ok(),
        _ => {}
    }
    Ok(())
}

/// Reads an error reply as far as it can be read.
pub fn error(body: &[u8]) -> Told {
    let mut told = Told::default();
    // Not XML (a proxy's page): what was read until then stands.
    let _ = walk(body, |step| {
        match step {
            Step::Leave(["Error", "Code"], text) => told.code = text,
            Step::Leave(["Error", "Message"], text) => told.message = text,
            Step::Leave(["Error", "Region"], text) => told.region = Some(text),
            _ => {}
        }
        Ok(())
    });
    told
}

enum Step<'a> {
    Enter(&'a [&'a str]),
    Leave(&'a [&'a str], String),
}

/// Calls `step` at the start and at the end of each element, with the names from the root down and, at
/// the end, with the text since the last tag.
fn walk(body: &[u8], mut step: impl FnMut(Step<'_>) -> Result<(), String>) -> Result<(), String> {
    let mut reader = Reader::from_reader(body);
    let mut names: Vec<&'static str> = Vec::new();
    let mut text = String::new();
    loop {
        match reader.read_event().map_err(|error| format!("malformed XML: {error}"))? {
            Event::Start(tag) => {
                names.push(known(tag.local_name().as_ref()));
                text.clear();
                step(Step::Enter(&names))?;
            }
            Event::End(_) => {
                step(Step::Leave(&names, std::mem::take(&mut text)))?;
                names.pop();
            }
            Event::Empty(tag) => {
                names.push(known(tag.local_name().as_ref()));
                step(Step::Leave(&names, String::new()))?;
                names.pop();
            }
            Event::Text(part) => text.push_str(&part.decode().map_err(not_utf8)?),
            Event::CData(part) => text.push_str(&part.decode().map_err(not_utf8)?),
            Event::GeneralRef(reference) => text.push(character(&reference)?),
            Event::Eof if names.is_empty() => return Ok(()),
            Event::Eof => return Err("the reply ends within an element".to_owned()),
            _ => {}
        }
    }
}

/// The names that we look at, without allocating one for each of a page's 6 000 elements.
fn known(name: &[u8]) -> &'static str {
    const NAMES: [&str; 15] = [
        "Contents",
        "Key",
        "LastModified",
        "ETag",
        "Size",
        "CommonPrefixes",
        "Prefix",
        "ListBucketResult",
        "IsTruncated",
        "EncodingType",
        "NextContinuationToken",
        "Error",
        "Code",
        "Message",
        "Region",
    ];
    NAMES.iter().find(|known| known.as_bytes() == name).copied().unwrap_or("(unknown)")
}

fn character(reference: &BytesRef<'_>) -> Result<char, String> {
    let unknown = || format!("unknown reference &{};", String::from_utf8_lossy(reference));
    if let Some(character) = reference.resolve_char_ref().map_err(|_| unknown())? {
        return Ok(character);
    }
    match &**reference {
        b"amp" => Ok('&'),
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"quot" => Ok('"'),
        b"apos" => Ok('\''),
        _ => Err(unknown()),
    }
}

fn not_utf8(_: quick_xml::encoding::EncodingError) -> String {
    "the reply is not UTF-8".to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONTENTS: &str = "<IsTruncated>true</IsTruncated><Contents><Key>a&amp;b \u{1}&#x2;</Key>\
        <LastModified>1970-01-01T00:00:02.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>3</Size>\
        <Owner><ID>Key</ID></Owner></Contents><CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>\
        <NextContinuationToken>t=</NextContinuationToken><Prefix/>";

    #[test]
    fn pages_are_read_with_a_namespace_and_without() {
        let namespace = " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
        for attributes in ["", namespace] {
            let body = format!(
                "<?xml version=\"1.0\"?>\n<ListBucketResult{attributes}>{CONTENTS}</ListBucketResult>"
            );
            let page = page(body.as_bytes()).unwrap();
            let expected = Entry {
                key: "a&b \u{1}\u{2}".into(),
                size_bytes: 3,
                modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)),
                etag: Some("\"e\"".into()),
            };
            assert_eq!(page.entries, [expected]);
            assert_eq!((page.prefixes, page.truncated), (vec!["p/".to_owned()], true));
            assert_eq!(page.next_token.as_deref(), Some("t="));
        }
    }

    #[test]
    fn what_is_no_page_is_an_error_not_an_empty_page() {
        let cut = format!("<ListBucketResult>{CONTENTS}");
        for body in ["<html><body>login</body></html>", "", "{}", &cut] {
            assert!(page(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn errors_tell_their_code_and_region() {
        let body = b"<Error><Code>PermanentRedirect</Code><Message>m</Message><Region>r</Region></Error>";
        let expected =
            Told { code: "PermanentRedirect".into(), message: "m".into(), region: Some("r".into()) };
        assert_eq!(error(body), expected);
        assert_eq!(error(b"<html><p>busy"), Told::default());
    }
}
