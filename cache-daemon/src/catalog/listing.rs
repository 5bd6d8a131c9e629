//! A listing on its way into a catalog: what the origin said, compact, and then in the tree's order.
//!
//! A million keys pass through here, so nothing is made for each: keys and ETags go into two arenas, and
//! sorting moves 4-byte places. Origins list in the order of bytes, which is nearly the tree's order, and
//! a merge sort finds such runs.

use std::cmp::Ordering;
use std::sync::Arc;

use super::base::ListingDigest;
use super::key::{HiddenCounts, HiddenReason, SIZE_BYTES_END, check_names};
use super::time::to_ns;
use super::version::{StoredVersion, Version};
pub use crate::origin::Listed as Item;

/// Takes a listing, in any order, for a catalog to be made of or changed by.
pub struct Builder {
    pub(super) origin_url: Arc<str>,
    keys: Vec<u8>,
    etags: Vec<u8>,
    items: Vec<Listed>,
    hidden: HiddenCounts,
}

#[derive(Clone, Copy)]
struct Listed {
    size_bytes: u64,
    modified_ns: i64,
    key_start: u32,
    key_bytes: u32,
    version: StoredVersion,
}

/// An object, or a marker if its key ends in a slash or is empty.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub key: &'a [u8],
    pub size_bytes: u64,
    pub modified_ns: i64,
    pub version: Version<'a>,
}

impl Builder {
    /// An empty listing of the prefix at `origin_url`, which is part of every object's fingerprint.
    pub fn new(origin_url: &str) -> Self {
        Self {
            origin_url: origin_url.into(),
            keys: Vec::new(),
            etags: Vec::new(),
            items: Vec::new(),
            hidden: HiddenCounts::default(),
        }
    }

    /// Takes one object, or counts it as hidden.
    pub fn add(&mut self, item: Item) {
        if let Err(reason) = self.try_add(&item) {
            self.hidden.add(reason);
        }
    }

    fn try_add(&mut self, item: &Item) -> Result<(), HiddenReason> {
        check_names(&item.key)?;
        if item.size_bytes >= SIZE_BYTES_END {
            return Err(HiddenReason::ObjectTooLarge);
        }
        // Every name of a node is part of a key, so that what fits here fits the arena of names too.
        let key_start = u32::try_from(self.keys.len()).map_err(|_| HiddenReason::CatalogFull)?;
        let key_bytes = u32::try_from(item.key.len()).map_err(|_| HiddenReason::CatalogFull)?;
        let key_end = key_start.checked_add(key_bytes).ok_or(HiddenReason::CatalogFull)?;
        // The empty key takes no bytes of the arena, but only one of them stays.
        if self.items.len() == u32::MAX as usize || key_end == u32::MAX {
            return Err(HiddenReason::CatalogFull);
        }
        let version = StoredVersion::store(Version::of(item.etag.as_str()), &mut self.etags)
            .ok_or(HiddenReason::CatalogFull)?;
        self.keys.extend_from_slice(item.key.as_bytes());
        let modified_ns = to_ns(item.modified);
        self.items.push(Listed { size_bytes: item.size_bytes, modified_ns, key_start, key_bytes, version });
        Ok(())
    }

    /// Keys taken so far, for a progress line.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Puts the listing in order and hides what stands in the way of something else.
    pub(super) fn sorted(mut self) -> Listing {
        let mut order: Vec<u32> = (0..self.items.len()).map(|place| place as u32).collect();
        order.sort_by(|&a, &b| tree_order(self.key(a), self.key(b)));
        let mut shown: Vec<u32> = Vec::with_capacity(order.len());
        for place in order {
            match shown.last_mut() {
                Some(last) if self.key(*last) == self.key(place) => {
                    self.hidden.add(HiddenReason::ListedTwice);
                    if self.items[place as usize].modified_ns >= self.items[*last as usize].modified_ns {
                        *last = place;
                    }
                }
                Some(last) if is_below(self.key(place), self.key(*last)) => {
                    // What is listed twice as well was counted when it was dropped.
                    self.hidden.add(HiddenReason::BesideDirectory);
                    *last = place;
                }
                _ => shown.push(place),
            }
        }
        for &place in &shown {
            let item = self.items[place as usize];
            if item.size_bytes > 0 && is_marker(self.key(place)) {
                self.hidden.add(HiddenReason::MarkerContent);
            }
        }
        Listing { listed: self, order: shown }
    }

    fn key(&self, place: u32) -> &[u8] {
        let item = &self.items[place as usize];
        &self.keys[item.key_start as usize..][..item.key_bytes as usize]
    }
}

/// A listing in the tree's order: each directory's keys together, siblings sorted by name, no key twice,
/// none both file and directory.
pub(super) struct Listing {
    listed: Builder,
    order: Vec<u32>,
}

impl Listing {
    pub fn hidden(&self) -> HiddenCounts {
        self.listed.hidden
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Bytes of all keys: no arena of their names is larger.
    pub fn key_bytes(&self) -> usize {
        self.listed.keys.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Shown<'_>> {
        self.order.iter().map(|&place| {
            let item = &self.listed.items[place as usize];
            Shown {
                key: self.listed.key(place),
                size_bytes: item.size_bytes,
                modified_ns: item.modified_ns,
                version: item.version.read(&self.listed.etags).expect("stored with this arena"),
            }
        })
    }

    /// Of all that is shown: the same for two listings exactly if a catalog of them is the same.
    pub fn digest(&self) -> ListingDigest {
        let mut hasher = blake3::Hasher::new();
        // BLAKE3 is several times faster on long inputs than on many short ones.
        let mut batch = Vec::with_capacity(DIGEST_BATCH_BYTES + 4096);
        for shown in self.iter() {
            shown.write_to(&mut batch);
            if batch.len() >= DIGEST_BATCH_BYTES {
                hasher.update(&batch);
                batch.clear();
            }
        }
        hasher.update(&batch);
        let mut digest = ListingDigest::default();
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }
}

const DIGEST_BATCH_BYTES: usize = 64 << 10;

impl Shown<'_> {
    /// Writes all of it so that no two listings give the same stream of bytes.
    fn write_to(&self, out: &mut Vec<u8>) {
        let mut text = |text: &[u8]| {
            out.extend_from_slice(&(text.len() as u64).to_le_bytes());
            out.extend_from_slice(text);
        };
        text(self.key);
        match self.version {
            Version::Text(etag) => {
                text(etag.as_bytes());
                out.push(0);
            }
            Version::Md5 { digest, parts, quoted, upper_case } => {
                text(&digest);
                out.push(1 | u8::from(quoted) << 1 | u8::from(upper_case) << 2);
                out.extend_from_slice(&parts.unwrap_or(0).to_le_bytes());
            }
        }
        out.extend_from_slice(&self.size_bytes.to_le_bytes());
        out.extend_from_slice(&self.modified_ns.to_le_bytes());
    }
}

/// Whether `key` is of a directory: a marker.
pub(super) fn is_marker(key: &[u8]) -> bool {
    key.is_empty() || key.ends_with(b"/")
}

/// Whether `key` lies in the directory `directory`, or is its marker. Nothing is below a marker here: its
/// directory is not in the way of anything.
fn is_below(key: &[u8], directory: &[u8]) -> bool {
    !is_marker(directory) && key.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

/// The order of a walk with sorted siblings: that of bytes, but with the slash before all others. (No key
/// here has a NUL, so that 0 is free for it.)
fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    match (a.get(same), b.get(same)) {
        (Some(&a), Some(&b)) => rank(a).cmp(&rank(b)),
        _ => a.len().cmp(&b.len()),
    }
}
