//! One bucket: a sorted index of keys over a directory of files.
//!
//! s3s-fs walks the whole directory for every page of a listing, lists no ETags, and folds `a//b` into
//! `a/b`. Here a bucket is walked once, a page is a range of a B-tree, and a key that no file can have
//! is stored under a name made of its bytes in hexadecimal (`.odd/6131.key`).
//!
//! Invariants
//! - An ETag is made of what fstat(2) says of the file whose bytes are sent: it changes with the bytes,
//!   because objects are replaced by rename(2), and it is the same after a restart.
//! - The index changes only after the file has.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// The directory of keys that no file can have.
const ODD: &str = ".odd";

/// Being written: never listed.
const UNFINISHED: &str = ".unfinished-";

/// What a listing tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
    /// Its version, without quotes.
    pub etag: String,
    /// When it was written.
    pub modified: SystemTime,
}

impl Entry {
    fn of(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            size_bytes: metadata.len(),
            etag: etag(metadata),
            modified: metadata.modified().expect("Linux file systems have it"),
        }
    }
}

/// The version that a file's bytes are.
pub fn etag(metadata: &Metadata) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [metadata.ino(), metadata.mtime() as u64, metadata.mtime_nsec() as u64, metadata.len()] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// A bucket.
#[derive(Debug)]
pub struct Bucket {
    root: PathBuf,
    index: RwLock<BTreeMap<String, Entry>>,
    writes: AtomicU64,
}

impl Bucket {
    /// The bucket in the directory `root`, walked.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        let index = RwLock::new(walk(&root)?);
        Ok(Self { root, index, writes: AtomicU64::new(0) })
    }

    /// A bucket of `files` keys that has no bytes: for listings that no disk should have to hold.
    pub fn synthetic(files: u64) -> Self {
        let entry = |number: u64| Entry {
            path: PathBuf::new(),
            size_bytes: 110 << 10,
            etag: format!("{number:032x}"),
            modified: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
        };
        // ImageNet's proportions: 1 000 files in a class.
        let key = |number: u64| format!("train/n{:08}/n{:08}_{number:07}.JPEG", number / 1000, number / 1000);
        let index = RwLock::new((0..files).map(|number| (key(number), entry(number))).collect());
        Self { root: PathBuf::new(), index, writes: AtomicU64::new(0) }
    }

    /// Walks the directory again, for files that were changed behind the server's back.
    pub fn rescan(&self) -> io::Result<()> {
        let fresh = walk(&self.root)?;
        *self.index.write().expect("no panic while it is held") = fresh;
        Ok(())
    }

    /// The object named `key`.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.index.read().expect("no panic while it is held").get(key).cloned()
    }

    /// At most `limit` objects with keys above `after` that start with `prefix`, in the order of their bytes.
    pub fn page(&self, prefix: &str, after: &str, limit: usize) -> Vec<(String, Entry)> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let index = self.index.read().expect("no panic while it is held");
        let keys = index.range::<str, _>((from, Bound::Unbounded));
        keys.take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect()
    }

    /// Writes the object `key`, or a new version of it.
    pub fn put(&self, key: &str, bytes: &[u8]) -> io::Result<Entry> {
        let path = self.path_for(key);
        let unfinished = self.root.join(format!("{UNFINISHED}{}", self.writes.fetch_add(1, Relaxed)));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        let entry = Entry::of(path, &file.metadata()?);
        fs::rename(&unfinished, &entry.path)?;
        self.index.write().expect("no panic while it is held").insert(key.to_owned(), entry.clone());
        Ok(entry)
    }

    /// Removes the object `key`, if it is there.
    pub fn delete(&self, key: &str) -> io::Result<()> {
        let removed = self.index.write().expect("no panic while it is held").remove(key);
        removed.map_or(Ok(()), |entry| fs::remove_file(entry.path))
    }

    /// Where `key` is or will be: its own path where a file can have it, else one under [`ODD`].
    fn path_for(&self, key: &str) -> PathBuf {
        if let Some(entry) = self.get(key) {
            return entry.path;
        }
        let plain = self.root.join(key);
        let taken = plain.is_dir() || plain.ancestors().skip(1).any(Path::is_file);
        if is_plain(key) && !taken { plain } else { self.root.join(odd_path(key)) }
    }
}

/// Whether a file can have `key` as its path.
fn is_plain(key: &str) -> bool {
    !key.starts_with(ODD)
        && !key.starts_with(UNFINISHED)
        && key.len() < 2048
        && key
            .split('/')
            .all(|part| !["", ".", ".."].contains(&part) && part.len() < 256 && !part.contains('\0'))
}

/// The path under which an odd key is stored: `.odd/` and its bytes, in parts that are no longer than a name may be.
fn odd_path(key: &str) -> PathBuf {
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let parts =
        hex.as_bytes().chunks(200).map(|part| std::str::from_utf8(part).expect("hexadecimal is ASCII"));
    Path::new(ODD).join(parts.collect::<Vec<_>>().join("/") + ".key")
}

/// The key stored at `path`, relative to the bucket; none if it is not ours to show.
fn key_of(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let Some(odd) = text.strip_prefix(ODD) else {
        return (!text.starts_with(UNFINISHED)).then(|| text.to_owned());
    };
    let hex = odd.strip_suffix(".key")?.replace('/', "");
    let bytes =
        hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<_>>>()?).ok()
}

fn walk(root: &Path) -> io::Result<BTreeMap<String, Entry>> {
    let mut index = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(path);
            } else if let Some(key) = key_of(path.strip_prefix(root).expect("the walk starts there")) {
                index.insert(key, Entry::of(path, &metadata));
            }
        }
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_no_file_can_have_survive_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let long = "n".repeat(300);
        let keys = ["a", "a/b", "a//b", "b/./c", "b/../c", "c/", "/d", &long, "e/f", "e"];
        let bucket = Bucket::open(root.path().to_path_buf()).unwrap();
        for key in keys {
            bucket.put(key, key.as_bytes()).unwrap();
        }
        let reopened = Bucket::open(root.path().to_path_buf()).unwrap();
        for bucket in [bucket, reopened] {
            for key in keys {
                assert_eq!(fs::read(bucket.get(key).expect(key).path).unwrap(), key.as_bytes());
            }
            let listed: Vec<_> = bucket.page("", "", 100).into_iter().map(|(key, _)| key).collect();
            let mut sorted = keys.to_vec();
            sorted.sort_unstable();
            assert_eq!(listed, sorted);
        }
    }

    #[test]
    fn an_etag_changes_with_the_bytes_and_only_then() {
        let root = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(root.path().to_path_buf()).unwrap();
        let first = bucket.put("k", b"one").unwrap();
        assert_eq!(bucket.get("k"), Some(first.clone()));
        bucket.rescan().unwrap();
        assert_eq!(bucket.get("k"), Some(first.clone()));
        assert_ne!(bucket.put("k", b"two").unwrap().etag, first.etag);
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let root = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(root.path().to_path_buf()).unwrap();
        for number in 0..25 {
            bucket.put(&format!("p/{number:03}"), b"").unwrap();
        }
        bucket.put("o", b"").unwrap();
        bucket.put("q", b"").unwrap();
        let mut after = String::new();
        let mut seen = Vec::new();
        loop {
            let page = bucket.page("p/", &after, 10);
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            seen.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(seen, (0..25).map(|number| format!("p/{number:03}")).collect::<Vec<_>>());
    }
}
