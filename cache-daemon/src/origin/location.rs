//! Where a data set is: the user's URL, taken apart and brought to one spelling.
//!
//! `s3://bucket/prefix` and its like are not URLs in the RFC's sense: nothing in them is
//! percent-decoded, as in the tools that users know (`aws s3 ls s3://b/a%20b` means the key `a%20b`).
//! Only http and https URLs are decoded.
//!
//! The canonical URL is part of every object's fingerprint: two spellings of one place share what is
//! cached. It does not name the endpoint, so a server that moves keeps its cache; ETags tell versions apart.

use std::path::{Path as FilePath, PathBuf};

use object_store::path::Path;
use percent_encoding::percent_decode_str;

use super::error::OriginError;

/// The kinds of origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3 and servers that speak its protocol.
    S3,
    /// Alibaba OSS through its S3-compatible endpoint.
    Oss,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A WebDAV server without TLS.
    Http,
    /// A WebDAV server.
    Https,
    /// A local directory.
    File,
    /// Nothing behind it: for tests.
    Memory,
}

impl Scheme {
    const NAMES: [(&'static str, Scheme); 13] = [
        ("s3", Scheme::S3),
        ("s3a", Scheme::S3),
        ("oss", Scheme::Oss),
        ("gs", Scheme::Gs),
        ("gcs", Scheme::Gs),
        ("az", Scheme::Az),
        ("azure", Scheme::Az),
        ("abfs", Scheme::Az),
        ("abfss", Scheme::Az),
        ("http", Scheme::Http),
        ("https", Scheme::Https),
        ("file", Scheme::File),
        ("memory", Scheme::Memory),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, scheme)| scheme)
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, scheme)| scheme == self).map_or("", |&(name, _)| name)
    }
}

/// A data set's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What kind of origin.
    pub scheme: Scheme,
    /// Bucket, container, host with port, or absolute directory.
    pub root: String,
    /// The part of the keys that is not shown: empty, or ends with `/`.
    pub prefix: String,
}

impl Location {
    /// Takes `url` apart. A path without a scheme is a local directory.
    ///
    /// # Errors
    /// An unknown scheme, no bucket, or a prefix that object_store cannot ask for.
    pub fn parse(url: &str) -> Result<Self, OriginError> {
        let Some((scheme, rest)) = url.split_once("://") else { return Self::directory(url, url) };
        let known = Scheme::named(scheme)
            .ok_or_else(|| OriginError::Scheme { url: url.to_owned(), scheme: scheme.to_owned() })?;
        if known == Scheme::File {
            return Self::directory(url, rest);
        }
        let (root, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_root(url, known, root)?;
        let prefix = match known {
            Scheme::Http | Scheme::Https => {
                let decoded = percent_decode_str(prefix).decode_utf8();
                decoded.map_err(|_| bad(url, "its path is not UTF-8"))?.into_owned()
            }
            _ => prefix.to_owned(),
        };
        let root = root.to_owned();
        Ok(Self { scheme: known, root, prefix: checked_prefix(url, &prefix)? })
    }

    fn directory(url: &str, path: &str) -> Result<Self, OriginError> {
        let is_path = path.starts_with(['/', '.', '~']) || FilePath::new(path).exists();
        if !is_path {
            let advice = if url.contains("://") {
                "a file URL needs an absolute path: file:///data/train"
            } else {
                "neither a URL (s3://bucket/prefix) nor an existing directory"
            };
            return Err(bad(url, advice));
        }
        // A directory that does not exist keeps its spelling here; `Origin::check` reports it.
        let absolute = FilePath::new(path).canonicalize().or_else(|_| std::path::absolute(path));
        let absolute: PathBuf = absolute.map_err(|error| bad(url, &error.to_string()))?;
        let root = absolute.to_str().ok_or_else(|| bad(url, "its path is not UTF-8"))?;
        Ok(Self { scheme: Scheme::File, root: root.to_owned(), prefix: String::new() })
    }

    /// The one spelling of this place, without a slash at its end.
    pub fn canonical(&self) -> String {
        let url = format!("{}://{}/{}", self.scheme.name(), self.root, self.prefix);
        url.trim_end_matches('/').to_owned()
    }
}

fn check_root(url: &str, scheme: Scheme, root: &str) -> Result<(), OriginError> {
    let name = match scheme {
        Scheme::Memory => return Ok(()),
        Scheme::Http | Scheme::Https => "host",
        Scheme::Az => "container",
        _ => "bucket",
    };
    if root.is_empty() {
        return Err(bad(url, &format!("it names no {name}: write {}://{name}/prefix", scheme.name())));
    }
    if root.ends_with("--x-s3") {
        return Err(bad(url, "directory buckets (S3 Express One Zone) are not supported"));
    }
    if root.contains(['?', '#', ' ', '\\']) || (name == "bucket" && root.contains([':', '@'])) {
        return Err(bad(url, &format!("`{root}` is not the name of a {name}")));
    }
    Ok(())
}

fn checked_prefix(url: &str, prefix: &str) -> Result<String, OriginError> {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Ok(String::new());
    }
    match Path::parse(prefix) {
        Ok(path) if path.as_ref() == prefix => Ok(format!("{prefix}/")),
        _ => {
            Err(bad(url, "its prefix has empty, `.` or `..` parts, or control characters: name one without"))
        }
    }
}

fn bad(url: &str, why: &str) -> OriginError {
    OriginError::Url { url: url.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(url: &str) -> String {
        Location::parse(url).unwrap().canonical()
    }

    #[test]
    fn spellings_of_one_place_have_one_canonical_url() {
        for url in ["s3://b/train", "s3://b/train/", "s3a://b/train//", "S3://b/train"] {
            assert_eq!(canonical(url), "s3://b/train");
        }
        assert_eq!(canonical("s3://b"), canonical("s3://b/"));
        assert_eq!(canonical("abfss://c@a.dfs.core.windows.net/x"), "az://c@a.dfs.core.windows.net/x");
        assert_eq!(Location::parse("s3://b/a%20b").unwrap().prefix, "a%20b/");
        assert_eq!(Location::parse("http://h:80/a%20b").unwrap().prefix, "a b/");
        assert_eq!(canonical("/usr/../usr/"), "file:///usr");
        assert_eq!(canonical("file:///usr"), "file:///usr");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_advice() {
        for (url, says) in [
            ("ftp://h/x", "unknown scheme `ftp`"),
            ("s3://", "names no bucket"),
            ("s3:///x", "names no bucket"),
            ("az:///x", "names no container"),
            ("s3://b/a//b", "prefix"),
            ("s3://b/../x", "prefix"),
            ("s3://b--use1-az4--x-s3/x", "directory buckets"),
            ("no-such-thing", "neither a URL"),
            ("file://host-not-path", "absolute path"),
        ] {
            let error = Location::parse(url).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{url}: {error}");
        }
    }

    proptest! {
        #[test]
        fn canonical_urls_are_their_own_canonical_urls(
            scheme in "(s3a?|oss|gs|az|memory|https?)", root in "[a-z0-9.-]{1,20}", parts in prop::collection::vec("[a-z %0-9é]{1,8}", 0..4),
        ) {
            let url = format!("{scheme}://{root}/{}", parts.join("/"));
            if let Ok(location) = Location::parse(&url) {
                if scheme.starts_with("http") {
                    return Ok(()); // decoding is not idempotent: %2525
                }
                prop_assert_eq!(&Location::parse(&location.canonical()).unwrap(), &location);
                prop_assert!(location.prefix.is_empty() || location.prefix.ends_with('/'));
            }
        }
    }
}
